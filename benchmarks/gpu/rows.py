"""Reads and updates of the rows of a batch on the device against the reference on a CPU.

Letters: V rows of a table, D its width, B bags, T tables.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.gpu.lines import Lines, Run, check, forbidden
from seo_kernels.row_bag import (
    HALVES,
    ROW_OPTIMIZERS,
    Reads,
    RowLayout,
    RowTable,
    RowUpdate,
    read_rows,
    reference,
    update_rows,
)

V, D, B, T = 60, 16, 200, 2
STEPS, LR, LIMIT = 5, 0.05, 1e-5  # the limit is of the largest weight
# The share of numbers of 16 bits that a last bit of float32 may have rounded otherwise.
MOST_APART = 0.05
LAYOUT = RowLayout(list(range(T)), [D] * T)


def updates(run: Run) -> Lines:
    """Five steps of every optimizer, with L2 and a running mean, for every type of the tables."""
    for dtype in (torch.float32, *HALVES):
        for optimizer in ROW_OPTIMIZERS:
            name = f"rows {optimizer} {str(dtype).removeprefix('torch.')}"
            try:
                vectors, weights = apart(optimizer, dtype, run.device)
            except Exception as error:
                yield forbidden(name, f"{type(error).__name__}: {error}".splitlines()[0])
                continue
            yield check(f"{name}, vectors", vectors, LIMIT)
            yield check(name, weights, MOST_APART if dtype in HALVES else LIMIT)


def apart(
    optimizer: str, dtype: torch.dtype, device: torch.device, key: int | None = None
) -> tuple[float, float]:
    """How far the device is from the reference after the steps.

    Args:
        optimizer: Of :data:`seo_kernels.row_bag.ROW_OPTIMIZERS`.
        dtype: Of the tables.
        device: Whose result is compared.
        key: Of the random numbers on the device; None is the same as the reference's.

    Returns:
        The distance of the vectors that are read before the steps, in largest weights; and of the
        weights and means after them the distance, or for 16 bits the share of numbers that differ.
    """
    draw = torch.Generator().manual_seed(1)
    theirs = [make_table(optimizer, dtype, draw) for _ in range(T)]
    ours = [moved(t, device) for t in theirs]
    ours = ours if key is None else [replace(t, key=key) for t in ours]
    vectors = 0.0
    for step in range(1, STEPS + 1):
        rows = torch.randint(0, V, (T * B,), generator=draw)
        gradient_BE = torch.randn(B, T * D, generator=draw)
        reads, there = Reads(rows, None, None, B), Reads(rows.to(device), None, None, B)
        if step == 1:
            found = read_rows([t.weight for t in ours], LAYOUT, there).cpu()
            expected = reference.read_rows([t.weight for t in theirs], LAYOUT, reads)
            vectors = float((found - expected).abs().max() / expected.abs().max())
        update = RowUpdate(optimizer, LR, step, l2=0.1, l2_on="read", decay=0.9)
        reference.update_rows(theirs, LAYOUT, [reads], [gradient_BE], update)
        update_rows(ours, LAYOUT, [there], [gradient_BE.to(device)], update)
    both = list(zip(ours, theirs, strict=True))
    pairs = [(a.weight.cpu(), b.weight) for a, b in both]
    for a, b in both:
        assert a.mean is not None and b.mean is not None
        pairs.append((a.mean.cpu(), b.mean))
    if dtype in HALVES:
        return vectors, max(float((a != b).double().mean()) for a, b in pairs)
    return vectors, max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def make_table(optimizer: str, dtype: torch.dtype, draw: torch.Generator) -> RowTable:
    """A table on the CPU with all that the optimizer and a mean keep, at its start."""
    floats, counts = torch.zeros(V, D), torch.zeros(V, 1, dtype=torch.int32)
    first = {"sgd": None, "rowwise_adagrad": torch.zeros(V, 1)}.get(optimizer, floats.clone())
    adam = optimizer == "lazy_adam"
    return RowTable(
        torch.randn(V, D, generator=draw).to(dtype),
        first,
        floats.clone() if adam else None,
        counts.clone() if adam else None,
        mean=floats.to(dtype),
        mean_at=counts - 1,
        key=7,
    )


def moved(table: RowTable, device: torch.device) -> RowTable:
    """A copy of the table on another device."""

    def there(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(device, copy=True)

    return RowTable(
        table.weight.to(device, copy=True),
        there(table.first),
        there(table.second),
        there(table.updates),
        mean=there(table.mean),
        mean_at=there(table.mean_at),
        key=table.key,
    )
