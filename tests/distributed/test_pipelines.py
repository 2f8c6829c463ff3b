"""A model that a pipeline has trained still gives what an unsharded one does.

On GPUs ``TrainPipelineSparseDist`` wraps the modules in front of the tables. TorchRec 1.6 and 1.7
leave the wrappers of nested modules behind, and these answer for any batch with the rows of the
last one that was prepared ahead. One model over one H100 gave the vectors of wrong rows that way.
The pipeline runs on a CPU too, so both ways of detaching are tested here; where there is a GPU, it
is tested as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torchrec.distributed.train_pipeline import train_pipelines

from distributed.sharded import MODEL, Trained, all_kinds_of, plan, policy_of, train
from distributed.test_parity import assert_same, settings
from seo_rec.batch import Batch
from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.model import build_model
from seo_rec.policy import Policy
from seo_rec.train import Ranks, distribute, make_optimizers
from seo_rec.train.steps import PipelinedSteps, PlainSteps

TOLERANCE = {"cpu": 1e-6, "cuda": 1e-5}  # against the CPU; a GPU adds in another order
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def detach_of_torchrec_1_7(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrappers stay where they are, and what they wrap hangs at the top of the model."""
    installed = train_pipelines._pipeline_detach_model

    def detach(model: Any, pipelined_postprocs: Any, **others: Any) -> None:
        installed(model=model, pipelined_postprocs=pipelined_postprocs, **others)
        for wrapper in pipelined_postprocs:
            parent, _, name = wrapper.fqn.rpartition(".")
            assert parent, "only nested modules were left behind"
            setattr(model.module.get_submodule(parent), name, wrapper)
            setattr(model.module, wrapper.fqn, wrapper.postproc_module)

    monkeypatch.setattr(train_pipelines, "_pipeline_detach_model", detach)


@pytest.fixture(params=["installed", "1.7"])
def _detach(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "1.7":
        detach_of_torchrec_1_7(monkeypatch)


@pytest.fixture
def _pipelined(monkeypatch: pytest.MonkeyPatch) -> None:
    """``fit`` trains sharded models by the pipeline of GPUs."""

    def make(model: Any, optimizers: Any, ranks: Ranks, alone: bool, clip_norm: float) -> Any:
        steps = PlainSteps if ranks.world_size == 1 else PipelinedSteps
        return steps(model, optimizers, ranks, *[True] * (ranks.world_size > 1))

    monkeypatch.setattr("seo_rec.train.loop.make_steps", make)


@contextmanager
def group_of_one(device: str) -> Iterator[Ranks]:
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield Ranks(device=torch.device(device, 0) if device == "cuda" else torch.device(device))
    finally:
        dist.destroy_process_group()


def batches(data: DataSet) -> list[Batch]:
    return list(Stream(data, "train", batch_size=100, shuffle=True))


# ---- one rank, any device -----------------------------------------------------------------------


@pytest.mark.usefixtures("_detach")
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", [policy_of, all_kinds_of])
def test_a_sharded_model_gives_the_vectors_of_a_whole_one(
    tiny_data: DataSet, device: str, overlap: bool, make: Any
) -> None:
    """Before, within and after training steps, of batches that were no part of them, too.

    With widths of multiples of four, FBGEMM's for GPUs; the unsharded model is on the CPU.
    """
    policy: Policy = make(tiny_data)
    if device == "cuda" and any(t.dim % 4 for t in policy.tables):
        pytest.skip("FBGEMM reads rows on GPUs in fours")
    found = batches(tiny_data)
    models = [build_model(policy, tiny_data.num_numeric, MODEL, 3) for _ in range(2)]
    whole = models[0]
    whole_steps = PlainSteps(whole, make_optimizers(whole, "adagrad", 0.02, 2e-3), Ranks())
    with group_of_one(device) as here:
        sharded = distribute(
            models[1], plan(policy, "mixed", 1), here, row_optimizer="adagrad", row_lr=0.02
        )
        modules = modules_of(sharded)
        optimizers = make_optimizers(sharded, "adagrad", 0.02, 2e-3)
        steps = PipelinedSteps(sharded, optimizers, here, overlap)
        assert_same_outputs(sharded, whole, found, here)
        for epoch in (found[:3], found[3:5]):
            expected = [float(s.loss) for s in whole_steps(epoch)]
            got = [float(s.loss) for s in steps(epoch)]
            assert got == pytest.approx(expected, abs=TOLERANCE[device])
            assert_same_outputs(sharded, whole, found, here)
            assert modules_of(sharded) == modules


def modules_of(model: Any) -> list[tuple[str, int]]:
    return [(name, id(module)) for name, module in model.named_modules()]


@torch.no_grad()
def assert_same_outputs(sharded: Any, whole: Any, found: list[Batch], here: Ranks) -> None:
    for batch in found:
        _, expected_B = whole(batch)
        _, got_B = sharded(batch.to(here.device))
        torch.testing.assert_close(
            got_B.cpu(), expected_B, atol=TOLERANCE[here.device.type], rtol=0
        )


@pytest.mark.parametrize("device", DEVICES)
def test_a_pipeline_that_fails_leaves_the_model_as_it_was(tiny_data: DataSet, device: str) -> None:
    """A batch without a column, or a source that raises: the error is that one, the model whole."""
    policy = policy_of(tiny_data)
    good = batches(tiny_data)[0]
    lacking = Batch(good.dense_BN, good.sparse.split([6, 1])[0], good.labels_B)

    def broken() -> Iterator[Batch]:
        yield good
        raise OSError("the disk is gone")

    with group_of_one(device) as here:
        whole = build_model(policy, tiny_data.num_numeric, MODEL, 3)
        sharded = distribute(
            build_model(policy, tiny_data.num_numeric, MODEL, 3),
            plan(policy, "mixed", 1),
            here,
            row_optimizer="adagrad",
            row_lr=0.02,
        )
        modules = modules_of(sharded)
        steps = PipelinedSteps(sharded, {}, here, True)
        for source, error in (([lacking], KeyError), (broken(), OSError)):
            with pytest.raises(error):
                list(steps(source))
            assert modules_of(sharded) == modules
            assert_same_outputs(sharded, whole, [good], here)
        (step,) = steps([good])
        expected = float(whole(good)[0].detach())
        assert float(step.loss) == pytest.approx(expected, abs=TOLERANCE[device])


# ---- several ranks ------------------------------------------------------------------------------


@pytest.mark.usefixtures("_detach", "_pipelined")
@pytest.mark.parametrize("kind", ["mixed", pytest.param("row_wise", marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [policy_of, all_kinds_of])
def test_a_pipelined_training_is_that_of_one_process(
    tiny_data: DataSet, tmp_path: Path, kind: str, make: Any
) -> None:
    """Evaluations between the epochs included, from which the best weights are taken."""
    policy, wanted = make(tiny_data), settings("adagrad")
    expected: Trained = train(tiny_data, wanted, "", 1, tmp_path / "one", policy=policy)
    assert_same(train(tiny_data, wanted, kind, 2, tmp_path / "two", policy=policy), expected)
