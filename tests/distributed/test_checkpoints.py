"""Checkpoints of sharded runs: any number of ranks and any plan goes on from them, exactly."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score

from at_length import at_length
from distributed.interrupted import (
    build,
    joined,
    on_ranks,
    pieces,
    run,
    settings,
    share,
    stop,
    train,
)
from distributed.sharded import Trained
from patience import PATIENCE
from seo_rec import recipes
from seo_rec.data.dataset import DataSet
from seo_rec.export import export_run
from seo_rec.model import ModelSettings
from seo_rec.serve import Predictor
from seo_rec.serve.predict import predict_split
from seo_rec.train import Checkpoints, FitSettings, Training, checkpoint, load_tensors, loop, ranks
from seo_rec.train.state import State, copied, local_tensors, optimizer_state, weights_of
from seo_rec.train.steps import make_steps
from spawn import run_ranks, told

TOLERANCE = 1e-6
STOPPED_AT = 7


class Runs:
    """Undisturbed runs and stopped ones, each made once."""

    def __init__(self, data: DataSet, folder: Path) -> None:
        self.data, self.folder = data, folder
        self.made: dict[tuple[str, str, int], Trained] = {}

    def undisturbed(self, optimizer: str, kind: str, world: int) -> Trained:
        key = (optimizer, kind, world)
        if key not in self.made:
            out = self.folder / f"whole-{optimizer}-{kind}-{world}"
            self.made[key] = train(self.data, settings(optimizer), kind, world, out)
        return self.made[key]

    def resumed(
        self, optimizer: str, before: tuple[str, int], after: tuple[str, int], out: Path
    ) -> Trained:
        """Stopped within an epoch under one plan, gone on under another."""
        shutil.copytree(self.stopped(optimizer, before), out)
        assert Checkpoints(out / "checkpoints").steps() == [STOPPED_AT]
        return train(self.data, settings(optimizer), *after, out)

    def stopped(self, optimizer: str, plan: tuple[str, int]) -> Path:
        """The folder of a run that was stopped within an epoch; read-only."""
        out = self.folder / f"stopped-{optimizer}-{plan[0]}-{plan[1]}"
        if not out.exists():
            stop(self.data, settings(optimizer), *plan, out, STOPPED_AT)
        return out


@pytest.fixture(scope="module")
def runs(tiny_data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tiny_data, tmp_path_factory.mktemp("runs"))


def assert_equal(found: Trained, expected: Trained) -> None:
    """To the bit: every loss, the weights, the metrics."""
    assert len(found.losses) == 12
    assert found.losses == expected.losses
    assert found.val == expected.val
    assert found.weights.keys() == expected.weights.keys()
    for name, weight in expected.weights.items():
        assert torch.equal(found.weights[name], weight), name


def assert_close(found: Trained, expected: Trained) -> None:
    assert len(found.losses) == len(expected.losses) == 12
    assert found.losses == pytest.approx(expected.losses, abs=TOLERANCE)
    assert found.weights.keys() == expected.weights.keys()
    for name, weight in expected.weights.items():
        torch.testing.assert_close(found.weights[name], weight, atol=TOLERANCE, rtol=0)
    for key in ("auc", "log_loss", "num_rows"):
        assert found.val[key] == pytest.approx(expected.val[key], abs=TOLERANCE)


# ---- the same number of ranks ---------------------------------------------------------------


@pytest.mark.parametrize("optimizer", at_length(["adam", "adagrad"], ["adam"]))
def test_the_same_ranks_and_plan_go_on_to_the_bit(
    runs: Runs, tmp_path: Path, optimizer: str
) -> None:
    found = runs.resumed(optimizer, ("mixed", 2), ("mixed", 2), tmp_path / "run")
    assert_equal(found, runs.undisturbed(optimizer, "mixed", 2))


def test_another_plan_of_whole_tables_goes_on_to_the_bit(runs: Runs, tmp_path: Path) -> None:
    """Whichever rank holds a table, it adds up the same gradients in the same order."""
    found = runs.resumed("adagrad", ("table_wise", 2), ("one_rank", 2), tmp_path / "run")
    assert_equal(found, runs.undisturbed("adagrad", "table_wise", 2))


@pytest.mark.parametrize("optimizer, kind", [("adam", "row_wise"), ("adagrad", "data_parallel")])
def test_another_plan_that_adds_in_another_order_goes_on(
    runs: Runs, tmp_path: Path, optimizer: str, kind: str
) -> None:
    found = runs.resumed(optimizer, ("mixed", 2), (kind, 2), tmp_path / "run")
    assert_close(found, runs.undisturbed(optimizer, "mixed", 2))


def test_ranks_without_any_shard_and_several_resumes(
    tiny_data: DataSet, runs: Runs, tmp_path: Path
) -> None:
    """Rank 0 holds no table; what it knows of the optimizer must not overwrite what others do."""
    for step in (4, 10):  # the second stop is in the second epoch
        stop(tiny_data, settings("adam"), "one_rank", 2, tmp_path, step)
    found = train(tiny_data, settings("adam"), "one_rank", 2, tmp_path)
    assert_equal(found, runs.undisturbed("adam", "one_rank", 2))
    saved = Checkpoints(tmp_path / "checkpoints").latest()
    assert saved
    steps = {n: torch.zeros(()) for n, (size, _) in saved.sizes.items() if n.endswith(".step")}
    load_tensors(saved, dict(steps))
    assert {float(t) for t in steps.values()} == {12.0}


# ---- another number of ranks ------------------------------------------------------------------


TWO_TO_ONE = (("mixed", 2), ("", 1))
TWO_TO_FOUR = (("mixed", 2), ("mixed", 4))
FOUR_TO_TWO = (("mixed", 4), ("row_wise", 2))
ONE_TO_TWO = (("", 1), ("mixed", 2))


@pytest.mark.parametrize(
    "optimizer, before, after",
    at_length(
        [
            ("adam", *FOUR_TO_TWO),
            ("adam", *ONE_TO_TWO),
            ("adagrad", *TWO_TO_FOUR),
            ("adagrad", *ONE_TO_TWO),
            ("sgd", *TWO_TO_ONE),
        ],
        [("adam", *FOUR_TO_TWO), ("adagrad", *ONE_TO_TWO)],
    ),
)
def test_another_number_of_ranks_goes_on(
    runs: Runs, tmp_path: Path, optimizer: str, before: tuple[str, int], after: tuple[str, int]
) -> None:
    """Fused Adagrad and SGD of shards are torch's own where one process holds it all.

    That all state of two ranks arrives in one process is tested to the bit below.
    """
    found = runs.resumed(optimizer, before, after, tmp_path / "run")
    assert_close(found, runs.undisturbed(optimizer, "", 1))


@pytest.mark.parametrize("before, after", [(("row_wise", 2), ("", 1)), (("", 1), ("row_wise", 2))])
def test_rowwise_adagrad_fused_and_not(
    runs: Runs, tmp_path: Path, before: tuple[str, int], after: tuple[str, int]
) -> None:
    """One number per row: a vector to FBGEMM, a column to the optimizer of one process."""
    found = runs.resumed("rowwise_adagrad", before, after, tmp_path / "run")
    assert_close(found, runs.undisturbed("rowwise_adagrad", "", 1))


@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "rowwise_adagrad"])
def test_all_state_arrives_to_the_bit(runs: Runs, tmp_path: Path, optimizer: str) -> None:
    """However the tables are cut: a small loss of state would hide below a tolerance of losses."""
    kind = "row_wise" if optimizer == "rowwise_adagrad" else "mixed"
    stopped = runs.stopped(optimizer, (kind, 2))
    one = state_after_resume(runs.data, optimizer, "", 1, stopped, tmp_path / "one")
    assert sum(n.endswith((".exp_avg", ".sum")) and bool(one[n].any()) for n in one) >= 4
    for cut, world in (("one_rank", 2), (kind, 4)):
        found = state_after_resume(runs.data, optimizer, cut, world, stopped, tmp_path / cut)
        # Adagrad needs no count of steps, and the mean of a whole table is right at every step
        counts = (".step", ".at")
        assert {n for n in found.keys() ^ one.keys() if not n.endswith(counts)} == set()
        for name in found.keys() & one.keys():
            assert torch.equal(found[name], one[name]), name


def state_after_resume(
    data: DataSet, optimizer: str, kind: str, world: int, stopped: Path, out: Path
) -> dict[str, torch.Tensor]:
    """Whole weights, their means and optimizer state, before the next step."""
    shutil.copytree(stopped, out)

    def on_rank() -> Any:
        wanted = settings(optimizer)
        model, optimizers = build(data, wanted, kind)
        streams = share(data, "train", wanted.batch_size, True), share(data, "val", 48)
        stopping = threading.Event()
        gone_on = loop._Fit(
            model,
            *streams,
            optimizers,
            wanted,
            out=out,
            after_step=None,
            title="test",
            stop=stopping,
        )
        gone_on.resume(None)
        means = {f"mean of {n}": t for n, t in gone_on.mean.state.items()}
        return pieces({**weights_of(model), **means, **optimizer_state(model, optimizers)})

    return joined(on_ranks(on_rank, world))


# ---- writing while the training goes on ---------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_background_saving_writes_the_state_of_the_asking(
    tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """Steps are trained while the disk is stuck, and leave what is written alone."""

    def on_rank() -> tuple[bool, list[str], list[str]]:
        here, disk = ranks(), threading.Event()
        write = checkpoint.dcp.save
        model, optimizers = build(tiny_data, settings(optimizer), "mixed")
        steps = make_steps(model, optimizers, here, alone=True)(share(tiny_data, "train", 120))

        def state() -> State:
            return {**weights_of(model), **optimizer_state(model, optimizers)}

        def stuck(*arguments: Any, **more: Any) -> Any:
            assert disk.wait(PATIENCE)
            return write(*arguments, **more)

        checkpoint.dcp.save = stuck
        kept = Checkpoints(tmp_path, ranks=here, background=True)
        next(steps), next(steps)
        asked = copied(state())
        kept.save(2, state(), {})
        next(steps), next(steps)
        still_writing = kept.steps() == []
        disk.set()
        kept.wait()
        read = copied(asked)
        for tensor in local_tensors(read):
            tensor.fill_(-1)
        load_tensors(kept.open(2), read, here)
        return still_writing, differing(read, asked), differing(read, state())

    for still_writing, from_asked, from_now in run_ranks(on_rank, 2):
        assert still_writing
        assert from_asked == []
        # every table of this rank has moved on, and so have the layers above
        assert {"embedding.ebc.embedding_bags.a.weight", "backbone.layers.0.weight"} & set(from_now)
        assert len(from_now) > len(from_asked) + 4


def differing(a: State, b: State) -> list[str]:
    return [
        name
        for name in a
        if any(
            not torch.equal(x, y)
            for x, y in zip(local_tensors({"": a[name]}), local_tensors({"": b[name]}), strict=True)
        )
    ]


# ---- a rank that cannot write or read -----------------------------------------------------------


@pytest.mark.parametrize(
    "what, victim", at_length([("checkpoints", 1), ("best", 0)], [("checkpoints", 1)])
)
def test_a_full_disk_of_one_rank_ends_all(
    tiny_data: DataSet, tmp_path: Path, what: str, victim: int
) -> None:
    """Soon, with the message that names it; the checkpoint before it remains, and goes on."""
    wanted = settings(checkpoint_every=3, max_steps=9 if what == "best" else 12)

    def on_rank() -> tuple[str, str, float]:
        write = checkpoint.dcp.save

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        def failing(*arguments: Any, storage_writer: Any, **more: Any) -> Any:
            number = 9 if what == "best" else 6
            broken = str(storage_writer.path).endswith(f"{what}/.step-{number:09d}.part")
            if broken and ranks().rank == victim:
                storage_writer.fs.create_stream = full
            return write(*arguments, storage_writer=storage_writer, **more)

        checkpoint.dcp.save = failing
        return told(lambda: run(tiny_data, wanted, "mixed", tmp_path))

    for kind, text, seconds in run_ranks(on_rank, 2):
        assert kind == "CheckpointError"
        assert f"{what}/step-" in text
        assert f"cannot be written (rank {victim}: no space is left on the disk); make" in text
        assert "make room" in text
        assert seconds < PATIENCE / 2
    assert Checkpoints(tmp_path / "checkpoints").steps() == ([3, 6] if what == "best" else [3])
    whole = train(tiny_data, wanted, "mixed", 2, tmp_path / "whole")
    assert_same_end(train(tiny_data, wanted, "mixed", 2, tmp_path), whole)


def assert_same_end(found: Trained, expected: Trained) -> None:
    assert (found.losses, found.val) == (expected.losses, expected.val)
    assert all(torch.equal(found.weights[n], w) for n, w in expected.weights.items())


def test_rank_0_alone_cannot_finish_the_checkpoint(tiny_data: DataSet, tmp_path: Path) -> None:
    """All have written their part; what only the first rank does fails everywhere too."""

    def on_rank() -> tuple[str, str, float]:
        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        kept = Checkpoints(tmp_path, ranks=ranks(), background=True)
        kept.save(1, {"w": torch.ones(3)}, {})
        kept.wait()
        checkpoint.write_json = full
        kept.save(2, {"w": torch.ones(3)}, {})
        return told(kept.wait)

    for kind, text, seconds in run_ranks(on_rank, 2):
        assert kind == "CheckpointError" and seconds < PATIENCE / 2
        assert "step-000000002: cannot be written (rank 0: no space is left on the disk)" in text
    assert Checkpoints(tmp_path).steps() == [1]


@pytest.mark.parametrize(
    "name", [".metadata", "index.json", "__0_0.distcp", "__1_0.distcp", "state.json"]
)
def test_damage_is_told_on_every_rank(runs: Runs, tmp_path: Path, name: str) -> None:
    """Each rank reads only some of the files for their checksums."""
    out = tmp_path / "damaged"
    shutil.copytree(runs.stopped("adam", ("mixed", 2)), out)
    path = out / f"checkpoints/step-{STOPPED_AT:09d}" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)

    def on_rank() -> tuple[str, str, float]:
        return told(lambda: run(runs.data, settings("adam"), "mixed", out))

    for kind, text, seconds in run_ranks(on_rank, 2):
        assert kind == "CheckpointError" and seconds < PATIENCE / 2
        assert f"{path.parent}: cannot be read (wrong checksum of {name})" in text
        assert "remove this folder" in text


def test_a_checkpoint_of_another_model_is_told_on_every_rank(runs: Runs, tmp_path: Path) -> None:
    def on_rank() -> tuple[str, str, float]:
        here = ranks()
        kept = Checkpoints(tmp_path, ranks=here)
        kept.save(1, {f"w{here.rank}": torch.ones(3), "both": torch.ones(2)}, {})
        wanted: State = {"both": torch.zeros(2)}
        if here.rank == 1:
            wanted["w2"] = torch.zeros(3)
        return told(lambda: load_tensors(kept.open(1), wanted, here))

    for kind, text, seconds in run_ranks(on_rank, 2):
        assert kind == "CheckpointError" and seconds < PATIENCE / 2
        assert "step-000000001: cannot be loaded" in text and "w2" in text


# ---- a run of several processes, read by one ----------------------------------------------------


def test_one_process_evaluates_and_exports_a_sharded_run(
    tiny_data: DataSet, tmp_path: Path
) -> None:
    policy = recipes.method_policy("multi-size", tiny_data, 1600)
    wanted = Training(
        ModelSettings(hidden=(8,)),
        FitSettings(epochs=2, batch_size=200, row_lr=0.02, row_optimizer="adagrad"),
    )
    out = tmp_path / "run"

    def on_rank() -> Any:
        done = recipes.train(tiny_data, policy, out, wanted)
        return asdict(done), asdict(recipes.evaluate_served(out, tiny_data, "test").metrics)

    answers = run_ranks(on_rank, 2)
    result = json.loads((out / "result.json").read_text())
    for split in ("val", "test"):
        found = asdict(recipes.evaluate_served(out, tiny_data, split).metrics)
        assert found["auc"] == result[f"{split}_auc"]
        assert found["log_loss"] == pytest.approx(result[f"{split}_logloss"], abs=1e-7)
        if split == "test":
            for _, by_ranks in answers:
                assert by_ranks == pytest.approx(found, abs=1e-7)
    export_run(out, tmp_path / "package", data=tiny_data.path, formats=())
    predictor = Predictor.load(tmp_path / "package", "numpy")
    predict_split(predictor, tiny_data.path, "test", tmp_path / "scores.parquet")
    scores = pq.read_table(tmp_path / "scores.parquet")["score"].to_numpy()
    of_package = roc_auc_score(tiny_data.labels("test"), scores)
    assert of_package == pytest.approx(result["test_auc"], abs=TOLERANCE)
    alone = recipes.train(tiny_data, policy, tmp_path / "alone", wanted)
    assert alone.test_auc == pytest.approx(result["test_auc"], abs=TOLERANCE)
    assert alone.test_logloss == pytest.approx(result["test_logloss"], abs=TOLERANCE)
    for answer, _ in answers:
        clocks = {"seconds", "seconds_per_epoch", "environment"}
        said = {k: v for k, v in answer.items() if k in result and k not in clocks}
        assert said == {k: v for k, v in result.items() if k not in clocks}
        assert {k for k in answer if k not in result} == {
            k for k in answer if k in ("task", "labels") or k.endswith(("_mse", "_mae", "_r2"))
        }
    assert {p.name for p in (out / "best").rglob("*.distcp")} == {"__0_0.distcp", "__1_0.distcp"}
