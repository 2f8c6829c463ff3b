"""The reads and updates of rows in PyTorch: for other devices and types, and to test the C."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seo_kernels.row_bag.layout import (
    Reads,
    RowLayout,
    RowTable,
    RowUpdate,
    mean_share,
    share_left,
)
from seo_kernels.row_bag.rounding import HALVES, OF_MEAN, random_halves, round_randomly

SWAPPED_AT_ONCE = 2**22  # floats; a whole table would be held a second time


def read_rows(tables: Sequence[Tensor], layout: RowLayout, reads: Reads) -> Tensor:
    """See :func:`seo_kernels.row_bag.read_rows`."""
    parts = []
    for k, (table, rows, bags, weights) in enumerate(_by_lookup(layout, reads)):
        vectors = _rows(tables[table], rows)
        if weights is not None:
            vectors = vectors * weights[:, None].to(vectors.dtype)
        if reads.offsets is not None:
            zeros = vectors.new_zeros(reads.num_bags, layout.widths[k])
            vectors = zeros.index_add_(0, bags, vectors)
        parts.append(vectors)
    return torch.cat(parts, dim=1)


def weight_gradient(
    tables: Sequence[Tensor], layout: RowLayout, reads: Reads, gradient: Tensor
) -> Tensor:
    """See :func:`seo_kernels.row_bag.weight_gradient`."""
    parts = gradient.split(layout.widths, dim=1)
    products = [
        (_rows(tables[table], rows) * parts[k].index_select(0, bags)).sum(1)
        for k, (table, rows, bags, _) in enumerate(_by_lookup(layout, reads))
    ]
    return torch.cat(products)


def update_rows(
    tables: Sequence[RowTable],
    layout: RowLayout,
    reads: Sequence[Reads],
    gradients: Sequence[Tensor],
    update: RowUpdate,
) -> None:
    """See :func:`seo_kernels.row_bag.update_rows`."""
    rows_of: list[list[Tensor]] = [[] for _ in tables]
    vectors_of: list[list[Tensor]] = [[] for _ in tables]
    for batch, gradient in zip(reads, gradients, strict=True):
        parts = gradient.split(layout.widths, dim=1)
        for k, (table, rows, bags, weights) in enumerate(_by_lookup(layout, batch)):
            vectors = parts[k].index_select(0, bags)
            if weights is not None:
                vectors = vectors * weights[:, None].to(vectors.dtype)
            rows_of[table].append(rows)
            vectors_of[table].append(vectors)
    for state, its_rows, its_vectors in zip(tables, rows_of, vectors_of, strict=True):
        if its_rows:
            _update(state, torch.cat(its_rows), torch.cat(its_vectors), update)


def add_rows(tables: Sequence[Tensor], layout: RowLayout, reads: Reads, gradient: Tensor) -> None:
    """See :func:`seo_kernels.row_bag.add_rows`."""
    parts = gradient.split(layout.widths, dim=1)
    for k, (table, rows, bags, weights) in enumerate(_by_lookup(layout, reads)):
        vectors = parts[k].index_select(0, bags)
        if weights is not None:
            vectors = vectors * weights[:, None].to(vectors.dtype)
        tables[table].index_add_(0, rows, vectors)


def step_rows(tables: Sequence[RowTable], gradients: Sequence[Tensor], update: RowUpdate) -> None:
    """See :func:`seo_kernels.row_bag.step_rows`."""
    for table, gradient in zip(tables, gradients, strict=True):
        rows = (gradient != 0).any(1).nonzero().squeeze(1)
        _update(table, rows, gradient[rows], update)


def _by_lookup(layout: RowLayout, reads: Reads) -> list[tuple[int, Tensor, Tensor, Tensor | None]]:
    """Of every lookup: its table, and of its reads the rows, the bags (from 0) and the weights."""
    B, device = reads.num_bags, reads.rows_V.device
    if reads.offsets is None:
        ends = [B * k for k in range(layout.num_lookups + 1)]
        bags_V = torch.arange(B, device=device).repeat(layout.num_lookups)
    else:
        ends = reads.offsets[:: max(B, 1)].tolist() if B else [0] * (layout.num_lookups + 1)
        numbers = torch.arange(B, device=device).repeat(layout.num_lookups)
        bags_V = torch.repeat_interleave(numbers, reads.offsets.diff())
    return [
        (
            table,
            reads.rows_V[ends[k] : ends[k + 1]],
            bags_V[ends[k] : ends[k + 1]],
            None if reads.weights_V is None else reads.weights_V[ends[k] : ends[k + 1]],
        )
        for k, table in enumerate(layout.table_of)
    ]


def _rows(table: Tensor, rows: Tensor) -> Tensor:
    """Rows of a table; float32, if they have 16 bits."""
    vectors = table.index_select(0, rows)
    return vectors.float() if vectors.dtype in HALVES else vectors


def _update(table: RowTable, rows_V: Tensor, vectors_VD: Tensor, update: RowUpdate) -> None:
    rows, inverse, counts = torch.unique(rows_V, return_inverse=True, return_counts=True)
    if not len(rows):
        return
    weight = _rows(table.weight, rows)
    gradient = torch.zeros_like(weight).index_add_(0, inverse, vectors_VD.to(weight.dtype))
    if update.l2_on == "read":
        gradient += update.l2 * weight
    elif update.l2_on == "frequency":
        assert table.reads is not None
        seen = table.reads.index_select(0, rows) + counts[:, None].to(table.reads.dtype)
        table.reads.index_copy_(0, rows, seen)
        gradient += update.l2 / seen.to(weight.dtype) * weight
    mean = _mean_before(table, rows, weight, update) if table.mean is not None else None
    weight = _step(table, rows, weight, gradient, update)
    weight = _store(table, rows, weight, update)
    if mean is not None:
        assert table.mean is not None and table.mean_at is not None
        mean.lerp_(weight, mean_share(update.step, update.decay))
        table.mean.index_copy_(0, rows, _rounded(table, rows, mean, update, OF_MEAN))
        table.mean_at[rows] = update.step


def _store(table: RowTable, rows: Tensor, weight: Tensor, update: RowUpdate) -> Tensor:
    """Put new rows into the table; what it now holds of them, in float32 if it has 16 bits."""
    stored = _rounded(table, rows, weight, update)
    table.weight.index_copy_(0, rows, stored)
    return stored.float() if stored.dtype in HALVES else stored


def _rounded(
    table: RowTable, rows: Tensor, values: Tensor, update: RowUpdate, key: int = 0
) -> Tensor:
    """Values of rows in the type of the table, rounded right on average if it has 16 bits."""
    dtype = table.weight.dtype
    if dtype not in HALVES:
        return values
    place = table.first_row + rows, table.first_column, values.shape[1]
    return round_randomly(values, random_halves(table.key ^ key, update.step, *place), dtype)


def _step(
    table: RowTable, rows: Tensor, weight: Tensor, gradient: Tensor, update: RowUpdate
) -> Tensor:
    if update.optimizer == "sgd":
        return weight - update.lr * gradient
    assert table.first is not None
    first = table.first.index_select(0, rows)
    if update.optimizer in ("adagrad", "rowwise_adagrad"):
        square = gradient.square()
        first += square if update.optimizer == "adagrad" else square.mean(1, keepdim=True)
        table.first.index_copy_(0, rows, first)
        return weight - update.lr * gradient / (first.sqrt() + update.eps)
    assert table.second is not None and table.updates is not None
    beta1, beta2 = update.betas
    second, count = table.second.index_select(0, rows), table.updates.index_select(0, rows) + 1
    first.lerp_(gradient, 1 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    for state, value in ((table.first, first), (table.second, second), (table.updates, count)):
        state.index_copy_(0, rows, value)
    n = count.double()
    rate = (update.lr / (1 - beta1**n)).to(weight.dtype)
    root = (1 - beta2**n).sqrt().to(weight.dtype)
    return weight - rate * first / (second.sqrt() / root + update.eps)


def _mean_before(table: RowTable, rows: Tensor, weight: Tensor, update: RowUpdate) -> Tensor:
    """The means of rows up to the step before this one; their weights stood still since."""
    return _caught_up(table, rows, weight, update.step - 1, update.decay)


def _caught_up(table: RowTable, rows: Tensor, weight: Tensor, step: int, decay: float) -> Tensor:
    assert table.mean is not None and table.mean_at is not None
    mean, at = _rows(table.mean, rows), table.mean_at.index_select(0, rows)
    left = share_left(at.clamp(min=0), step, decay).to(weight.dtype)
    mean = torch.where(at < step, weight + left * (mean - weight), mean)
    return torch.where(at < 0, weight, mean)


def swap_means(table: RowTable, update: RowUpdate, back: bool) -> None:
    """See :func:`seo_kernels.row_bag.swap_means`."""
    assert table.mean is not None and table.mean_at is not None
    at_once = max(1, SWAPPED_AT_ONCE // table.weight.shape[1])
    for rows in (table.mean_at.view(-1) >= 0).nonzero().view(-1).split(at_once):
        weight, mean = table.weight.index_select(0, rows), table.mean.index_select(0, rows)
        if not back:
            weights = _rows(table.weight, rows)
            mean = _caught_up(table, rows, weights, update.step, update.decay)
            mean = _rounded(table, rows, mean, update, OF_MEAN)
            table.mean_at[rows] = update.step
        table.weight.index_copy_(0, rows, mean)
        table.mean.index_copy_(0, rows, weight)
