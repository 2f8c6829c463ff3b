"""Dense gradients of small tables: the lookup, its gradient, and row-wise Adagrad in one pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from seo_kernels import native
from seo_kernels.row_bag import (
    Reads,
    RowLayout,
    RowTable,
    RowUpdate,
    add_rows,
    step_rows,
    update_rows,
)
from seo_kernels.row_bag.layout import ROW_OPTIMIZERS
from seo_rec.embed.dense import DenseTables
from seo_rec.train.dense_rows import DenseRowWiseAdagrad

SIZES, TABLE_OF, B = [(5, 3), (7, 16), (4, 8)], [1, 0, 1, 2], 6
SGD = RowUpdate("sgd", 0.1, 1)
both = pytest.mark.parametrize("in_c", [False, True], ids=["reference", "C"])


def choose(in_c: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if in_c and native.missing():
        pytest.skip(f"no C kernels: {native.missing()}")
    if not in_c:
        monkeypatch.setattr(native, "missing", lambda: "not wanted")


def batch(seed: int, weighted: bool) -> tuple[Reads, torch.Tensor]:
    """Bags of 0 to 3 ids, rows read often among them."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 4, (len(TABLE_OF) * B,), generator=draw)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    rows = [
        torch.randint(0, SIZES[t][0], (int(lengths[k * B : (k + 1) * B].sum()),), generator=draw)
        for k, t in enumerate(TABLE_OF)
    ]
    weights = torch.rand(int(offsets[-1]), generator=draw) if weighted else None
    width = sum(SIZES[t][1] for t in TABLE_OF)
    return Reads(torch.cat(rows), offsets, weights, B), torch.randn(B, width, generator=draw)


def plain(floats: torch.Tensor, reads: Reads, weights: torch.Tensor | None) -> torch.Tensor:
    """The vectors by torch's own ``embedding_bag``, a lookup at a time."""
    parts = floats.split([rows * width for rows, width in SIZES])
    assert reads.offsets is not None
    found = []
    for k, t in enumerate(TABLE_OF):
        bounds = reads.offsets[k * B : (k + 1) * B + 1]
        span = slice(int(bounds[0]), int(bounds[-1]))
        found.append(
            torch.nn.functional.embedding_bag(
                reads.rows_V[span],
                parts[t].view(SIZES[t]),
                bounds[:-1] - bounds[0],
                mode="sum",
                per_sample_weights=None if weights is None else weights[span],
            )
        )
    return torch.cat(found, 1)


@both
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_lookups_and_gradients_are_those_of_torch(
    in_c: bool, weighted: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(in_c, monkeypatch)
    monkeypatch.setattr(native, "threads_for", lambda work, grain: threads)
    floats = torch.randn(sum(r * w for r, w in SIZES), generator=torch.Generator().manual_seed(9))
    for seed in range(3):
        reads, gradient = batch(seed, weighted)
        results = []
        for ours in (True, False):
            leaf = torch.nn.Parameter(floats.clone())
            weights = None if reads.weights_V is None else reads.weights_V.clone().requires_grad_()
            if ours:
                tables = DenseTables(leaf, SIZES, TABLE_OF)
                x_BE = tables.look_up(reads.rows_V, reads.offsets, weights, B)
            else:
                x_BE = plain(leaf, reads, weights)
            (x_BE * gradient).sum().backward()
            results.append((x_BE.detach(), leaf.grad, None if weights is None else weights.grad))
        for mine, theirs in zip(*results, strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                torch.testing.assert_close(mine, theirs)


@both
def test_a_row_outside_of_its_table_is_refused(in_c: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(in_c, monkeypatch)
    reads, gradient = batch(0, False)
    reads.rows_V[0] = 7
    with pytest.raises((ValueError, RuntimeError), match=r"row|index"):
        add_rows([torch.zeros(s) for s in SIZES], RowLayout(TABLE_OF, [3, 16, 8]), reads, gradient)


@both
def test_gradients_and_sums_of_another_shape_are_refused(
    in_c: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C would read and write beside them."""
    choose(in_c, monkeypatch)
    reads, gradient = batch(0, False)
    layout, tables = RowLayout(TABLE_OF, [3, 16, 8]), [torch.zeros(s) for s in SIZES]
    for wrong in (gradient[:-1], gradient[:, 1:], gradient.view(-1)):
        with pytest.raises(ValueError, match=r"gradient is of shape .* allowed: \(6, 43\)"):
            add_rows(tables, layout, reads, wrong)
        with pytest.raises(ValueError, match=r"gradient is of shape .* allowed: \(6, 43\)"):
            update_rows(list(map(RowTable, tables)), layout, [reads], [wrong], SGD)
    weight, sums = torch.zeros(4, 3), torch.zeros(4, 1)
    cases = [
        ("sgd", None, torch.zeros(3, 3), "allowed: the same shape"),
        ("adagrad", None, weight.clone(), "no sums; allowed: 12 sums"),
        ("adagrad", sums, weight.clone(), "allowed: 12 sums"),
        ("rowwise_adagrad", None, weight.clone(), "no sums; allowed: 4 sums"),
        ("rowwise_adagrad", weight.clone(), weight.clone(), "allowed: 4 sums"),
    ]
    for optimizer, first, of_table, told in cases:
        with pytest.raises(ValueError, match=told):
            step_rows([RowTable(weight, first)], [of_table], RowUpdate(optimizer, 0.1, 1))


@both
@pytest.mark.parametrize("width", [1, 3, 16])
@pytest.mark.parametrize("more", [{}, {"weight_decay": 0.3}, {"lr_decay": 0.5}])
def test_row_wise_adagrad_is_torchrecs(
    in_c: bool, width: int, more: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows without a gradient stay to the bit; the state is what a checkpoint of TorchRec has."""
    choose(in_c, monkeypatch)
    draw = torch.Generator().manual_seed(3)
    starts = [torch.randn(rows, width, generator=draw) for rows in (9, 40)]
    made: list[Any] = []
    for kind in (DenseRowWiseAdagrad, RowWiseAdagrad):
        parameters = [torch.nn.Parameter(w.clone()) for w in starts]
        made.append((parameters, kind(parameters, lr=0.1, eps=1e-8, **more)))
    for step in range(4):
        for number, start in enumerate(starts):
            gradient = torch.randn(start.shape, generator=draw)
            gradient[:: 2 + step] = 0.0
            gradient[5] = 0.0
            for parameters, _ in made:
                parameters[number].grad = gradient.clone()
        for _, optimizer in made:
            optimizer.step()
    (ours, mine), (theirs, other) = made
    for a, b, start in zip(ours, theirs, starts, strict=True):
        torch.testing.assert_close(a, b)
        assert torch.equal(a[5], start[5]) == ("weight_decay" not in more)
    state, expected = mine.state_dict()["state"], other.state_dict()["state"]
    torch.testing.assert_close(state, expected)


@both
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise_adagrad"])
def test_a_step_of_whole_gradients_is_that_of_the_rows_read(
    in_c: bool, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(in_c, monkeypatch)
    draw = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(2, 30, 8, generator=draw).unbind()
    gradient[::3] = 0.0
    sums = None if optimizer == "sgd" else torch.rand(30, 8, generator=draw)
    sums = sums[:, :1].contiguous() if optimizer == "rowwise_adagrad" and sums is not None else sums
    expected = weight.clone()
    found = RowTable(weight.clone(), None if sums is None else sums.clone())
    step_rows([found], [gradient], RowUpdate(optimizer, 0.1, 1, eps=1e-3))
    if sums is None:
        expected -= 0.1 * gradient
    else:
        square = gradient.square()
        sums += square if optimizer == "adagrad" else square.mean(1, keepdim=True)
        expected -= 0.1 * gradient / (sums.sqrt() + 1e-3)
        torch.testing.assert_close(found.first, sums)
    torch.testing.assert_close(found.weight, expected)


def test_updates_that_move_all_rows_are_refused() -> None:
    table, gradient = RowTable(torch.zeros(2, 1), torch.zeros(2, 1)), torch.zeros(2, 1)
    for update in (
        RowUpdate("lazy_adam", 0.1, 1),
        RowUpdate("sgd", 0.1, 1, l2=0.1, l2_on="read"),
    ):
        with pytest.raises(ValueError, match="allowed: sgd, adagrad and rowwise_adagrad"):
            step_rows([table], [gradient], update)
    assert "lazy_adam" in ROW_OPTIMIZERS
