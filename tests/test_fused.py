"""Updates within the backward pass in one process: FBGEMM's tables on a CPU in place of a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seo_kernels.row_bag import Reads, RowTable, RowUpdate, reference
from seo_rec.data.dataset import DataSet
from seo_rec.embed.fused import OPTIMIZERS, FusedTables
from seo_rec.model import ModelSettings, build_model
from seo_rec.policy import Feature, Lookup, Policy, Table
from seo_rec.recipes import method_policy
from seo_rec.settings import FitSettings, Training, settled
from seo_rec.train import (
    Checkpoints,
    Ranks,
    distributed,
    fit_policy,
    load_tensors,
    make_optimizers,
    sharding,
)
from seo_rec.train.fused_rows import FusedRows
from seo_rec.train.state import optimizer_state

CPU, GPU = torch.device("cpu"), torch.device("cuda")
EPS = 1e-8
SHAPES, TABLE_OF, B = ((7, 4), (50, 8), (3, 16)), (1, 0, 1, 2, 0), 13
SMALL = ModelSettings(hidden=(8,))
FIT = FitSettings(
    epochs=2, batch_size=100, row_lr=0.02, row_optimizer="rowwise_adagrad", average=0.0
)
every_optimizer = pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process on a CPU chooses as one on a GPU does."""
    monkeypatch.setattr(sharding, "FUSED_ON", ("cpu",))


def reads_of(kind: str, draw: torch.Generator) -> Reads:
    """One read in every bag, or none to three, with a factor each."""
    lengths = torch.ones(len(TABLE_OF) * B, dtype=torch.int64)
    if kind == "bags":
        lengths = torch.randint(0, 4, lengths.shape, generator=draw)
    of = [int(lengths[i * B : (i + 1) * B].sum()) for i in range(len(TABLE_OF))]
    rows = [
        torch.randint(0, SHAPES[t][0], (n,), generator=draw)
        for t, n in zip(TABLE_OF, of, strict=True)
    ]
    if kind == "one":
        return Reads(torch.cat(rows), None, None, B)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return Reads(torch.cat(rows), offsets, torch.rand(sum(of), generator=draw), B)


@every_optimizer
@pytest.mark.parametrize("kind", ["one", "bags"])
def test_tables_move_as_the_reference_in_float64(optimizer: str, kind: str) -> None:
    """Five steps at rates that differ, of tables that several lookups read in any order."""
    draw = torch.Generator().manual_seed(0)
    wide = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in SHAPES]
    ours = FusedTables([w.float() for w in wide], TABLE_OF, optimizer, eps=EPS, device=CPU)
    per_row = optimizer == "rowwise_adagrad"
    sums = [torch.zeros(w.shape[0], 1 if per_row else w.shape[1]).double() for w in wide]
    theirs = [
        RowTable(w, None if optimizer == "sgd" else s) for w, s in zip(wide, sums, strict=True)
    ]
    for step in range(1, 6):
        reads, lr = reads_of(kind, draw), 0.1 / step
        factors = None if reads.weights_V is None else reads.weights_V.double()
        exact = replace(reads, weights_V=factors)
        if reads.weights_V is not None:
            reads.weights_V.requires_grad_()
        ours.set_learning_rate(lr)
        x_BE = ours.read(reads, reads.weights_V)
        expected = reference.read_rows([t.weight for t in theirs], ours.layout, exact)
        torch.testing.assert_close(x_BE.detach().double(), expected, rtol=1e-5, atol=1e-6)
        gradient = torch.randn(x_BE.shape, generator=draw)
        x_BE.backward(gradient)
        if reads.weights_V is not None:
            of_factors = reference.weight_gradient(
                [t.weight for t in theirs], ours.layout, exact, gradient.double()
            )
            assert reads.weights_V.grad is not None
            torch.testing.assert_close(
                reads.weights_V.grad.double(), of_factors, rtol=1e-4, atol=1e-5
            )
        update = RowUpdate(optimizer, lr, step, eps=EPS)
        reference.update_rows(theirs, ours.layout, [exact], [gradient.double()], update)
    for mine, table in zip(ours.weights, theirs, strict=True):
        torch.testing.assert_close(mine.double(), table.weight, rtol=1e-5, atol=1e-5)
    assert len(ours.sums) == (0 if optimizer == "sgd" else len(SHAPES))
    for mine, expected in zip(ours.sums, sums, strict=False):
        assert mine.shape == expected.shape
        torch.testing.assert_close(mine.double(), expected, rtol=1e-5, atol=1e-6)


def test_only_a_backward_pass_to_the_tables_moves_them() -> None:
    """Not a read alone, nor the gradient of what a search scales the vectors by."""
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=draw) for shape in SHAPES]
    tables = FusedTables(weights, TABLE_OF, "adagrad", eps=EPS, device=CPU)
    reads, scales_E = reads_of("bags", draw), torch.ones(tables.layout.width, requires_grad=True)
    with torch.no_grad():
        assert not tables.read(reads, None).requires_grad
    (gradient,) = torch.autograd.grad((tables.read(reads, None) * scales_E).sum(), [scales_E])
    assert gradient.abs().sum() > 0
    assert all(torch.equal(a, b) for a, b in zip(tables.weights, weights, strict=True))
    (tables.read(reads, None) * scales_E).sum().backward()
    assert not any(torch.equal(a, b) for a, b in zip(tables.weights, weights, strict=True))


# ---- the choice ------------------------------------------------------------------------------


def test_one_process_on_a_gpu_fuses_what_several_would() -> None:
    """The same optimizers, with the same exceptions, as the shards of several processes."""
    policy = Policy((Table("t", 40, 8),), (Feature("f", (Lookup("t"),)),))
    changes: list[dict[str, Any]] = [
        {"row_optimizer": name} for name in ("adam", "lazy_adam", *OPTIMIZERS)
    ]
    changes += [{"average": 0.9}, {"row_l2": 0.1}, {"row_l2": 0.1, "l2_on": "read"}]
    changes += [{"storage": "bfloat16"}, {"row_optimizer": "auto"}]
    fused = []
    for change in changes:
        asked = settled(replace(FIT, **change), policy.num_params)
        alone = sharding.fuses_alone(policy, asked, GPU)
        placements = distributed.kernels(
            (placed("t", 40, 8),),
            asked.row_optimizer,
            asked.row_l2 if asked.l2_on == "all" else 0.0,
            device="cuda",
            mean=asked.average > 0,
            l2_by_rows=asked.row_l2 > 0 and asked.l2_on != "all",
            storage=asked.storage,
        )
        assert alone is (placements == {"t": "fused"}), change
        assert not sharding.fuses_alone(policy, asked, CPU)
        fused += [asked.row_optimizer] * alone
    assert fused == list(OPTIMIZERS)
    narrow = replace(policy, tables=(Table("t", 40, 6),))
    assert not sharding.fuses_alone(narrow, FIT, GPU), "FBGEMM reads rows in fours"
    assert set(OPTIMIZERS) == set(distributed.FUSED)


def placed(name: str, rows: int, columns: int) -> Any:
    from seo_rec.plan import Placement, Shard

    return Placement(name, "table_wise", (Shard(0, 0, 0, rows, columns),))


def test_tables_for_a_gpu_are_made_up_to_the_launch() -> None:
    """On the meta device: everything but memory and kernels."""
    weights = [torch.empty(shape, device="meta") for shape in SHAPES]
    for optimizer in OPTIMIZERS:
        tables = FusedTables(weights, TABLE_OF, optimizer, eps=EPS, device=torch.device("meta"))
        assert [tuple(w.shape) for w in tables.weights] == list(SHAPES)
        assert all(w.is_meta for w in (*tables.weights, *tables.sums))
        assert not tables.module.use_cpu


def test_optimizers_of_other_settings_are_refused(tiny_data: DataSet) -> None:
    policy = method_policy("multi-size", tiny_data, 1600)
    model = build_model(policy, tiny_data.num_numeric, SMALL, 0)
    model.embedding.update_in_backward("adagrad", EPS, CPU)
    for name, l2 in (("sgd", 0.0), ("adagrad", 0.1)):
        with pytest.raises(ValueError, match="adagrad without L2 updates within the backward pass"):
            make_optimizers(model, name, 0.1, 0.1, l2)
    rows = make_optimizers(model, "adagrad", 0.1, 0.1)["rows"]
    assert isinstance(rows, FusedRows)
    names = optimizer_state(model, {"rows": rows})
    assert set(names) == {
        f"embedding.ebc.embedding_bags.{key}.weight.sum" for key in model.embedding.table_keys
    }


# ---- a training ------------------------------------------------------------------------------


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@every_optimizer
def test_a_training_is_what_it_is_with_row_updates(
    tiny_data: DataSet, on_cpu: None, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rates that change from step to step."""
    policy = method_policy("multi-size", tiny_data, 1600)
    wanted = replace(FIT, row_optimizer=optimizer, warmup_steps=3, schedule="cosine")
    fused = fit_policy(tiny_data, policy, Training(SMALL, wanted))
    assert isinstance(fused.model.embedding.sparse, FusedTables)
    monkeypatch.setattr(sharding, "FUSED_ON", ())
    rows = fit_policy(tiny_data, policy, Training(SMALL, wanted))
    assert not isinstance(rows.model.embedding.sparse, FusedTables)
    assert fused.result.val.auc == pytest.approx(rows.result.val.auc, abs=1e-4)
    first = build_model(policy, tiny_data.num_numeric, SMALL, 0)
    expected, start = weights_of(rows.model), weights_of(first)
    for name, weight in weights_of(fused.model).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-5)
        if ".ebc." in name:
            assert not torch.equal(weight, start[name])


def steps_of(
    data: DataSet, out: Path, steps: int, monkeypatch: pytest.MonkeyPatch, fused: bool
) -> dict[str, torch.Tensor]:
    """The weights after so many steps in a run folder, which may hold some already."""
    monkeypatch.setattr(sharding, "FUSED_ON", ("cpu",) if fused else ())
    wanted = replace(FIT, row_optimizer="adagrad", max_steps=steps, checkpoint_every=2)
    policy = method_policy("multi-size", data, 1600)
    fit_policy(data, policy, Training(SMALL, wanted), out=out)
    saved = Checkpoints(out / "checkpoints").latest()
    assert saved is not None and saved.values["progress"]["step"] == steps
    found = {
        name: torch.zeros(size, dtype=dtype)
        for name, (size, dtype) in saved.sizes.items()
        if name.startswith(("model.", "optim"))
    }
    load_tensors(saved, found, Ranks())
    return found


def test_checkpoints_are_those_of_row_updates(
    tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bits after a resume; and each way goes on with what the other has written."""
    whole = steps_of(tiny_data, tmp_path / "whole", 8, monkeypatch, fused=True)
    found = {}
    for first in (True, False):
        for second in (True, False):
            out = tmp_path / f"{first}{second}"
            steps_of(tiny_data, out, 4, monkeypatch, fused=first)
            found[first, second] = steps_of(tiny_data, out, 8, monkeypatch, fused=second)
    for way, tensors in found.items():
        assert tensors.keys() == whole.keys(), way
        for name, expected in whole.items():
            if way == (True, True):
                assert torch.equal(tensors[name], expected), name
            else:
                torch.testing.assert_close(tensors[name], expected, rtol=1e-3, atol=1e-5)
    assert any(name.endswith(".weight.sum") for name in whole)
