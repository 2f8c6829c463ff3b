"""Rows of tables by the C kernels: pooled reads, and updates of the rows of a batch.

Letters: B bags of each lookup, V reads of all lookups, E floats of an output row.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import Array
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seo_kernels import native
from seo_kernels.native.structures import (
    ReadsArguments,
    TableArguments,
    UpdateArguments,
    address,
    pointer,
)

if TYPE_CHECKING:
    from seo_kernels.row_bag.layout import Reads, RowLayout, RowTable, RowUpdate

STEP_GRAIN = 2**18  # floats of whole gradients that are worth a thread, most of them zero


def _tables_of(tables: Sequence[RowTable]) -> Array[TableArguments]:
    made = (TableArguments * len(tables))()
    for entry, table in zip(made, tables, strict=True):
        for name in ("weight", "first", "second", "updates", "reads", "mean", "mean_at"):
            setattr(entry, name, address(getattr(table, name)))
        entry.rows, entry.dim = table.weight.shape
        entry.type, entry.key = native.FLOATS.index(table.weight.dtype), table.key
        entry.first_row, entry.first_column = table.first_row, table.first_column
    return made


def _reads_of(
    tables: Array[TableArguments], layout: RowLayout, reads: Reads
) -> tuple[ReadsArguments, list[Any]]:
    """The arguments of a call, checked, and the tensors that their pointers name."""
    held = [
        None if t is None else t.detach().contiguous()
        for t in (reads.rows_V, reads.offsets, reads.weights_V)
    ]
    made = ReadsArguments(
        tables,
        len(tables),
        address(layout.table_of_K),
        address(layout.columns_K),
        *map(address, held),
        layout.num_lookups,
        reads.num_bags,
        layout.width,
    )
    c = native.library()
    assert c is not None
    bad = c.seo_rows_check(ctypes.byref(made), reads.rows_V.numel())
    if bad == -1:
        raise ValueError(
            f"offsets must rise from 0 to {reads.rows_V.numel()}, the number of reads, or be left "
            f"out where each of the {layout.num_lookups} x {reads.num_bags} bags has one"
        )
    if bad:
        table = layout.table_of[bad - 1]
        raise ValueError(
            f"lookup {bad - 1} reads a row that is not in [0, {tables[table].rows}), the rows of "
            f"table {table}"
        )
    return made, held


def _in_rows(made: ReadsArguments, grad_BE: Tensor) -> Tensor:
    """The gradient, whose rows may be parts of longer ones: then the arguments say how long."""
    bags, width = grad_BE.shape
    if width and bags > 1 and grad_BE.stride(1) == 1 and grad_BE.stride(0) >= width:
        made.row_floats = grad_BE.stride(0)
        return grad_BE
    return grad_BE.contiguous()


def _weights_of(tables: Sequence[Tensor]) -> Array[TableArguments]:
    made = (TableArguments * len(tables))()
    for entry, table in zip(made, tables, strict=True):
        entry.weight, (entry.rows, entry.dim) = address(table), table.shape
        entry.type = native.FLOATS.index(table.dtype)
    return made


def read_rows(tables: Sequence[Tensor], layout: RowLayout, reads: Reads) -> Tensor:
    """See :func:`seo_kernels.row_bag.read_rows`."""
    c = native.library()
    assert c is not None
    made, held = _reads_of(_weights_of(tables), layout, reads)
    x_BE = torch.empty(reads.num_bags, layout.width)
    tile = max(16, min(512, native.TILE_FLOATS // max(1, layout.width)))
    threads = native.threads_for(max(x_BE.numel(), held[0].numel()), native.GRAIN)
    c.seo_rows_read(ctypes.byref(made), x_BE.data_ptr(), tile, threads)
    return x_BE


@cache
def _corrections(beta1: float, beta2: float) -> Tensor:
    """``1 - beta^n`` of both betas from n = 0 to where float32 cannot tell them from 1."""
    n = torch.arange(2**15, dtype=torch.float64)
    return torch.stack([1 - beta1**n, 1 - beta2**n], dim=1).float().contiguous()


def _update_of(update: RowUpdate) -> UpdateArguments:
    corrections = _corrections(*update.betas)
    return UpdateArguments(
        *update.codes,
        update.lr,
        update.l2,
        update.eps,
        *update.betas,
        corrections.data_ptr(),
        len(corrections),
        update.decay,
        update.settled,
        update.step,
    )


def update_rows(
    tables: Sequence[RowTable],
    layout: RowLayout,
    reads: Reads,
    grad_BE: Tensor,
    update: RowUpdate,
) -> None:
    """See :func:`seo_kernels.row_bag.update_rows`."""
    c = native.library()
    assert c is not None
    made, held = _reads_of(_tables_of(tables), layout, reads)
    grad_BE, V = _in_rows(made, grad_BE), reads.rows_V.numel()
    keys, other = torch.empty(2, max(V, 1), dtype=torch.int64).unbind()
    starts = torch.empty(V + 1, dtype=torch.int64)
    pointers = [keys.data_ptr(), other.data_ptr(), starts.data_ptr()]
    num_rows = c.seo_rows_group(ctypes.byref(made), V, *pointers)
    if num_rows < 0:
        rows = sum(len(t.weight) for t in tables)
        raise ValueError(
            f"{V} reads of {rows} rows in one batch: their numbers need more than 63 bits; take "
            "smaller batches"
        )
    how = _update_of(update)
    arguments = [ctypes.byref(made), ctypes.byref(how), grad_BE.data_ptr(), pointers[0]]
    threads = native.threads_for(max(held[0].numel(), grad_BE.numel()), native.GRAIN)
    if c.seo_rows_update(*arguments, pointers[2], num_rows, V, threads):
        raise MemoryError(f"no memory to sort the {V} reads of a batch; take smaller batches")


def add_rows(tables: Sequence[Tensor], layout: RowLayout, reads: Reads, grad_BE: Tensor) -> None:
    """See :func:`seo_kernels.row_bag.add_rows`."""
    c = native.library()
    assert c is not None
    made, held = _reads_of(_weights_of(tables), layout, reads)
    grad_BE = _in_rows(made, grad_BE)
    threads = native.threads_for(max(held[0].numel(), grad_BE.numel()), native.GRAIN)
    c.seo_rows_add(ctypes.byref(made), grad_BE.data_ptr(), threads)


def step_rows(tables: Sequence[RowTable], gradients: Sequence[Tensor], update: RowUpdate) -> None:
    """See :func:`seo_kernels.row_bag.step_rows`."""
    c = native.library()
    assert c is not None
    how = _update_of(update)
    pointers = (pointer * len(tables))(*(g.data_ptr() for g in gradients))
    threads = native.threads_for(sum(g.numel() for g in gradients), STEP_GRAIN)
    c.seo_rows_step(_tables_of(tables), len(tables), pointers, ctypes.byref(how), threads)


def swap_means(table: RowTable, update: RowUpdate, back: bool) -> None:
    """See :func:`seo_kernels.row_bag.swap_means`."""
    c = native.library()
    assert c is not None
    how = _update_of(update)
    threads = native.threads_for(table.weight.numel(), native.GRAIN)
    c.seo_rows_swap_mean(_tables_of([table]), ctypes.byref(how), int(back), threads)
