"""A search over several processes finds what it finds in one, with the same batches.

Sums over two processes have another order, so floats agree within ``TOLERANCE`` and no closer;
policies are equal as long as no decision hangs on less than that. Dropout is off: every process
draws masks of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from at_length import at_length
from seo_rec import recipes, search
from seo_rec.batch import Batch
from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.model import ModelSettings
from seo_rec.policy import Policy
from seo_rec.search.autodim import NormOverRanks
from seo_rec.search.found import Found, embedding_bytes, table_bytes
from seo_rec.train import FitSettings, Ranks, Training, loop, ranks, ready
from seo_rec.train.replicas import (
    APART_BYTES,
    Place,
    SharedDraws,
    average_gradients,
    place_of,
    rows_of_all,
    summed,
)
from spawn import RankError, run_ranks

TOLERANCE = 1e-5
SMALL = ModelSettings(hidden=(8,), init_scale=0.1)
# 970 rows in batches of 180: the last one of an epoch has 70, 110 held-out rows are not a batch.
FIT = FitSettings(epochs=2, batch_size=180, row_lr=0.02, dense_lr=0.02)
WIDTHS = {"max_dim": 8}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dimgrow": ("dimgrow", {**WIDTHS, "adapt_dim": 4, "gate_lr": 0.1, "t_up": 0.52}),
    "dimgrow train": (
        "dimgrow",
        {**WIDTHS, "adapt_dim": 4, "gate_lr": 0.1, "t_up": 0.52, "gate_split": "train"},
    ),
    "dimgrow budget": (
        "dimgrow",
        {**WIDTHS, "adapt_dim": 4, "gate_lr": 0.1, "params": 900, "gates_of": "best"},
    ),
    "optembed": (
        "optembed",
        {**WIDTHS, "alpha": 0.2, "threshold_lr": 0.3, "generations": 3, "weights": "trained"},
    ),
    "optembed budget": (
        "optembed",
        {**WIDTHS, "params": 900, "pruned": "shared", "generations": 2, "address": "hash"},
    ),
    "optembed rows": (
        "optembed",
        {**WIDTHS, "variant": "rows", "alpha": 0.2, "threshold_lr": 0.3},
    ),
    "autodim": ("autodim", {**WIDTHS, "logit_lr": 0.1}),
    "autodim every": ("autodim", {**WIDTHS, "every": 2, "params": 900}),
    "sseds": ("sseds", {**WIDTHS, "params": 900}),
    "sseds train": ("sseds", {**WIDTHS, "split": "train", "batches": 3, "min_dim": 0}),
}
QUICK = ("dimgrow", "optembed", "autodim", "sseds")


@dataclass
class Outcome:
    """What a search found, and the weights that its own model ended with."""

    policy: Policy
    val_auc: float
    record: dict[str, Any]
    weights: dict[str, torch.Tensor]
    peak_bytes: int


def outcome(found: Found) -> Outcome:
    assert found.val_auc is not None
    return Outcome(
        found.policy, found.val_auc, dict(found.record), dict(found.weights), found.peak_bytes
    )


def run(case: str, data: DataSet, out: Path | None = None, fit: FitSettings = FIT) -> Outcome:
    name, settings = CASES[case]
    method = search.find(name)
    return outcome(method.decide(data, method.settings(**settings), Training(SMALL, fit), out))


def assert_close(got: Any, expected: Any) -> None:
    """Equal, floats within the tolerance."""
    if isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for key in expected:
            assert_close(got[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=0)
    elif isinstance(expected, float):
        assert got == pytest.approx(expected, abs=TOLERANCE)
    else:
        assert got == expected


def cases(quick: tuple[str, ...]) -> list[Any]:
    slow = pytest.mark.slow
    return [pytest.param(c, marks=() if c in quick else slow) for c in CASES]


@pytest.mark.parametrize("case", cases(QUICK))
def test_two_processes_find_what_one_finds(tiny_data: DataSet, tmp_path: Path, case: str) -> None:
    one = run(case, tiny_data, tmp_path / "one")
    two, other = run_ranks(run, 2, case, tiny_data, tmp_path / "two", timeout=200)
    for found in (two, other):
        assert found.policy == one.policy
        assert_close(found.val_auc, one.val_auc)
        assert_close(found.record, one.record)
        assert_close(found.weights, one.weights)
    assert two.peak_bytes == other.peak_bytes > 0


@pytest.mark.parametrize("case", ["dimgrow", "optembed"])
@pytest.mark.slow
def test_three_processes(tiny_data: DataSet, tmp_path: Path, case: str) -> None:
    """Shares of the last batch are not of one size: 23, 23 and 24 of 70 rows."""
    one = run(case, tiny_data, tmp_path / "one")
    for found in run_ranks(run, 3, case, tiny_data, tmp_path / "three", timeout=200):
        assert found.policy == one.policy
        assert_close(found.record, one.record)


class _Stopped(RuntimeError):
    pass


@pytest.mark.parametrize("case", at_length(["dimgrow", "optembed", "autodim"], ["dimgrow"]))
def test_an_interrupted_search_goes_on_in_two_processes(
    tiny_data: DataSet, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit: checkpoints hold the draws that the processes share, too."""
    fit = replace(FIT, checkpoint_every=4)
    expected = run_ranks(run, 2, case, tiny_data, tmp_path / "whole", fit, timeout=200)
    account = loop._Fit._account

    def stopping(self: Any, steps: Any) -> bool:
        if self.state.step == 7:
            raise _Stopped
        return account(self, steps)

    monkeypatch.setattr(loop._Fit, "_account", stopping)
    with pytest.raises(RankError, match="_Stopped"):
        run_ranks(run, 2, case, tiny_data, tmp_path / "parts", fit, timeout=200)
    monkeypatch.undo()
    found = run_ranks(run, 2, case, tiny_data, tmp_path / "parts", fit, timeout=200)
    for got, wanted in zip(found, expected, strict=True):
        assert (got.policy, got.val_auc, got.record) == (
            wanted.policy,
            wanted.val_auc,
            wanted.record,
        )


def test_the_command_runs_in_two_processes(tiny_data: DataSet, tmp_path: Path) -> None:
    """The first process writes, and both read the same policy."""

    def on_rank() -> Policy:
        method = search.find("optembed")
        settings = method.settings(**CASES["optembed"][1])
        out, training = tmp_path / "out", Training(SMALL, replace(FIT, epochs=1))
        return recipes.search("optembed", tiny_data, out, settings, training).policy

    first, second = run_ranks(on_rank, 2, timeout=200)
    assert first == second == Policy.load(tmp_path / "out" / "policy.json")
    assert (tmp_path / "out" / "work" / "evolution.json").exists()


def test_a_batch_that_cannot_be_shared_is_refused(tiny_data: DataSet) -> None:
    with pytest.raises(RankError, match=r"batch_size is 181, .*allowed: multiples of 2"):
        run_ranks(lambda: run("optembed", tiny_data, fit=replace(FIT, batch_size=181)), 2)


# ---- what the searches are made of --------------------------------------------------------------


def shares(data: DataSet, here: Ranks) -> Iterator[tuple[Batch, Place]]:
    stream = Stream(data, "train", batch_size=90, rank=here.rank, world_size=here.world_size)
    for batch in ready(stream, here):
        yield batch, place_of(batch, here)


@pytest.mark.parametrize("world", [2, 3])
def test_rows_have_the_places_of_one_process(tiny_data: DataSet, world: int) -> None:
    whole = Stream(tiny_data, "train", batch_size=90 * world)

    def on_rank() -> list[torch.Tensor]:
        here = ranks()
        found = []
        for (batch, place), all_rows in zip(shares(tiny_data, here), whole, strict=True):
            assert place.total == len(all_rows.labels_B)
            own = all_rows.dense_BN[place.first : place.stop]
            assert torch.equal(batch.dense_BN[: place.rows], own)
            found.append(rows_of_all(batch.dense_BN, place, here))
        return found

    for found in run_ranks(on_rank, world):
        for got, expected in zip(found, whole, strict=True):
            assert torch.equal(got, expected.dense_BN)


def test_gradients_become_their_mean() -> None:
    sizes = [(3, 2), (), (APART_BYTES // 4 + 1,), (5,), (2, APART_BYTES)]

    def on_rank() -> list[Any]:
        made = [nn.Parameter(torch.zeros(s)) for s in sizes]
        generator = torch.Generator().manual_seed(ranks().rank)
        for i, p in enumerate(made):
            p.grad = None if i == 3 else torch.randn(p.shape, generator=generator)
        made[4].grad = torch.randn(APART_BYTES, 2, generator=generator).T  # not contiguous
        own = [None if p.grad is None else p.grad.clone() for p in made]
        average_gradients(made, ranks())
        return [own, [p.grad for p in made]]

    (first, mean), (second, other) = run_ranks(on_rank, 2)
    for one, two, got, again in zip(first, second, mean, other, strict=True):
        if one is None:
            assert got is None and again is None
        else:
            assert torch.equal(got, again)
            torch.testing.assert_close(got, (one + two) / 2)


def test_normalisation_over_ranks_is_that_of_all_rows() -> None:
    """Outputs, gradients and running moments, with padding that does not count."""
    x_BE = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 3
    weight_BE = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    norm = nn.BatchNorm1d(5, affine=False).double()
    x_BE.requires_grad_()
    expected = norm(x_BE)
    (expected * weight_BE).sum().backward()

    def on_rank() -> tuple[torch.Tensor, ...]:
        here = ranks()
        own = slice(0, 3) if here.rank == 0 else slice(3, 7)
        padding = 4 - (own.stop - own.start)
        mine = nn.functional.pad(x_BE[own].detach(), (0, 0, 0, padding), value=9.0)
        mine.requires_grad_()
        of_ranks = NormOverRanks(5).double()
        of_ranks.place = Place(own.start, own.stop, 7)
        found = of_ranks(mine)[: own.stop - own.start]
        (found * weight_BE[own]).sum().backward()
        assert mine.grad is not None
        of_ranks.eval()
        later = of_ranks(x_BE.detach())
        return found.detach(), mine.grad[: own.stop - own.start], later

    (y, g, later), (z, h, same) = run_ranks(on_rank, 2)
    torch.testing.assert_close(torch.cat([y, z]), expected.detach())
    torch.testing.assert_close(torch.cat([g, h]), x_BE.grad)
    assert torch.equal(later, same)
    torch.testing.assert_close(later, norm.eval()(x_BE).detach())


def test_sums_have_the_gradient_of_sums() -> None:
    def on_rank() -> torch.Tensor:
        here = ranks()
        x = torch.tensor([1.0 + here.rank, 2.0], requires_grad=True)
        total = summed(x, here)
        (total.square().sum() * (1 + here.rank)).backward()
        assert x.grad is not None
        return x.grad

    for gradient in run_ranks(on_rank, 2):  # d/dx of (1 + 2) * (x0 + x1)^2
        assert torch.equal(gradient, torch.tensor([3 * 2 * 3.0, 3 * 2 * 4.0]))


def test_ranks_draw_what_one_process_draws() -> None:
    """One process: torch's own generator, as ``fit`` seeds it."""
    torch.manual_seed(5)
    alone = SharedDraws(5, Ranks())
    expected = [alone.integers(1, 9, (3, 4)), alone.uniform_like(torch.zeros(6))]
    assert alone.tensors() == {}

    def on_rank() -> list[torch.Tensor]:
        torch.manual_seed(100 + ranks().rank)
        draws = SharedDraws(5, ranks())
        first = draws.integers(1, 9, (3, 4))
        later = SharedDraws(0, ranks())
        later.load(draws.tensors())
        return [first, later.uniform_like(torch.zeros(6))]

    for found in run_ranks(on_rank, 2):
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "sgd"])
def test_bytes_of_tables_are_those_of_their_parts(tiny_data: DataSet, optimizer: str) -> None:
    """Of one process: the tables, Adam's gradients, and the optimizer's state of them."""
    from seo_rec.methods import separate
    from seo_rec.model import build_model
    from seo_rec.train import fit, make_optimizers

    policy = separate(tiny_data.schema, 800, 8)
    model = build_model(policy, tiny_data.num_numeric, SMALL, 0)
    optimizers = make_optimizers(model, optimizer, 0.01, 0.01)
    stream = Stream(tiny_data, "train", batch_size=100)
    fit(model, stream, Stream(tiny_data, "val", batch_size=64), optimizers, replace(FIT, epochs=1))
    rows = [optimizers["rows"]]
    expected = embedding_bytes(model.embedding.ebc.parameters(), rows)
    assert (
        table_bytes(model, optimizers)
        == expected
        >= 4 * policy.num_params * {"adam": 4, "adagrad": 2}.get(optimizer, 1)
    )
