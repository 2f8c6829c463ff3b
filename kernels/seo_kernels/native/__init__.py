"""The CPU kernels in C: found, checked and called; ``None`` where they were not built.

``setup.py`` compiles ``native.c`` when the package is installed, if there is a C compiler. It is
plain C without Python's headers, so that a compiler is all it takes, and it is loaded by ctypes.

Letters: B bags of one feature, F features, V ids, K lookups or blocks, E floats of a row, N floats.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from ctypes import Array
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from seo_kernels.row_bag.layout import Reads, RowLayout, RowTable, RowUpdate

ABI = 6  # of native.c; a library of another number is older or newer than this file
GRAIN = 2**16  # floats that are worth a thread of their own
STEP_GRAIN = 2**18  # floats of whole gradients that are, most of them zero
REMAP_GRAIN = 2**19  # row numbers that are, which cost little more than writing them
FLOATS = (torch.float32, torch.float16, torch.bfloat16)  # the types of rows, by their number in C
TILE_FLOATS = 2**16  # of the output; a tile stays in the second-level cache

_i64 = ctypes.c_int64
_pointer = ctypes.c_void_p


class _Lookup(ctypes.Structure):
    """``Lookup`` of native.c."""

    _fields_ = (
        ("parts", _pointer),
        ("ends", _pointer),
        ("num_parts", _i64),
        ("ids", _pointer),
        ("offsets", _pointer),
        ("id_weights", _pointer),
        ("num_bags", _i64),
        ("num_blocks", _i64),
        ("blocks", _pointer),
        ("scales", _pointer),
        ("row_floats", _i64),
        ("tile", _i64),
    )


class _Table(ctypes.Structure):
    """``Table`` of rows.c."""

    _fields_ = (
        *((name, _pointer) for name in ("weight", "first", "second", "updates", "reads")),
        *((name, _pointer) for name in ("mean", "mean_at")),
        ("rows", _i64),
        ("dim", _i64),
        ("type", _i64),
        ("key", ctypes.c_uint64),
        ("first_row", _i64),
        ("first_column", _i64),
    )


class _Reads(ctypes.Structure):
    """``Reads`` of rows.c."""

    _fields_ = (
        ("tables", ctypes.POINTER(_Table)),
        ("num_tables", _i64),
        *((name, _pointer) for name in ("table_of", "columns", "rows", "offsets", "id_weights")),
        *((name, _i64) for name in ("num_lookups", "num_bags", "row_floats")),
    )


class _Update(ctypes.Structure):
    """``Update`` of rows.c."""

    _fields_ = (
        ("optimizer", _i64),
        ("l2_on", _i64),
        *((name, ctypes.c_double) for name in ("lr", "l2", "eps", "beta1", "beta2")),
        ("corrections", _pointer),
        ("num_corrections", _i64),
        ("decay", ctypes.c_double),
        ("settled", _i64),
        ("step", _i64),
    )


@cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    folder = Path(__file__).parent
    found = [p for suffix in EXTENSION_SUFFIXES for p in folder.glob(f"library{suffix}")]
    if not found:
        return None, (
            "the package was installed where its C code could not be compiled; "
            "install a C compiler, then install the package again"
        )
    try:
        library = ctypes.CDLL(str(found[0]))
        abi = int(library.seo_kernels_abi())
    except (OSError, AttributeError) as error:
        return None, f"{found[0].name} does not load: {error}; install the package again"
    if abi != ABI:
        return None, f"{found[0].name} has ABI {abi}, this is {ABI}; install the package again"
    library.seo_remap.argtypes = [_pointer, _i64, *[_pointer] * 7, _i64]
    lookup = ctypes.POINTER(_Lookup)
    library.seo_blocks_check.argtypes = [lookup, _i64, _i64]
    library.seo_blocks_check.restype = _i64
    library.seo_blocks_forward.argtypes = [lookup, _pointer, _i64]
    library.seo_blocks_backward.argtypes = [lookup, _pointer, _pointer, _i64]
    library.seo_blocks_scales.argtypes = [lookup, *[_pointer] * 4, _i64]
    rows, update = ctypes.POINTER(_Reads), ctypes.POINTER(_Update)
    library.seo_rows_check.argtypes = [rows, _i64]
    library.seo_rows_read.argtypes = [rows, _pointer, _i64, _i64]
    library.seo_rows_group.argtypes = [rows, _i64, *[_pointer] * 3]
    library.seo_rows_update.argtypes = [rows, update, *[_pointer] * 3, *[_i64] * 3]
    library.seo_rows_add.argtypes = [rows, _pointer, _i64]
    tables = ctypes.POINTER(_Table)
    library.seo_rows_step.argtypes = [tables, _i64, ctypes.POINTER(_pointer), update, _i64]
    library.seo_rows_swap_mean.argtypes = [ctypes.POINTER(_Table), update, _i64, _i64]
    for name in ("check", "group", "update"):
        getattr(library, f"seo_rows_{name}").restype = _i64
    for name in (
        *("remap", "blocks_forward", "blocks_backward", "blocks_scales"),
        *("rows_read", "rows_add", "rows_step", "rows_swap_mean"),
    ):
        getattr(library, f"seo_{name}").restype = None
    return library, None


def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None; :func:`missing` says why."""
    return _load()[0]


def missing() -> str | None:
    """Why the CPU runs the references instead of the C kernels; None if it does not."""
    return _load()[1]


_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


# OpenMP's threads are not there in a forked process, and it would wait for them for ever.
os.register_at_fork(after_in_child=_after_fork)


def _threads(work: int, grain: int) -> int:
    """Threads wait for each other, so small work gets one, and so does a forked process."""
    return 1 if _forked else max(1, min(torch.get_num_threads(), work // grain))


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def remap(
    ids_V: Tensor,
    starts: Sequence[int],
    features: Sequence[int],
    seeds_K: Tensor,
    rows_K: Tensor,
    shifts_K: Tensor | None,
) -> Tensor:
    """See :func:`seo_kernels.remap`."""
    c = library()
    assert c is not None
    K = len(features)
    first = [starts[f] for f in features]
    num = [starts[f + 1] - starts[f] for f in features]
    to = [0]
    for n in num:
        to.append(to[-1] + n)
    rows_W = torch.empty(to[K], dtype=torch.int64)
    array = _i64 * K
    spans = [array(*first), array(*num), array(*to[:K])]
    numbers = [None if t is None else t.contiguous() for t in (seeds_K, rows_K, shifts_K)]
    ids_V = ids_V.contiguous()
    addresses = [_address(t) for t in numbers]
    threads = _threads(to[K], REMAP_GRAIN)
    c.seo_remap(ids_V.data_ptr(), K, *spans, *addresses, rows_W.data_ptr(), threads)
    return rows_W


class BlockLookup:
    """One call's arguments for the C kernels of ``block_bag``; holds what their pointers name.

    Args:
        parts: tensors whose floats are numbered one after the other; a block reads from one.

    Raises:
        ValueError: an offset or a block would read outside of ``ids_V`` or of its part.
    """

    def __init__(
        self,
        parts: Sequence[Tensor],
        scales_K: Tensor | None,
        ids_V: Tensor,
        offsets: Tensor,
        table: Tensor,
        num_features: int,
        width: int,
        weights_V: Tensor | None,
    ) -> None:
        self.held = [
            None if t is None else t.detach().contiguous()
            for t in (ids_V, offsets, weights_V, table, scales_K, *parts)
        ]
        ids, bounds, weights, blocks, scales, *at = map(_address, self.held)
        ends = list(accumulate(part.numel() for part in parts))
        self.parts, self.ends = (_pointer * len(at))(*at), (_i64 * len(ends))(*ends)
        self.num_bags = (offsets.numel() - 1) // num_features
        self.num_blocks, self.width = table.shape[1], width
        self.num_ids, self.size = ids_V.numel(), ends[-1]
        self.tile = max(16, min(512, TILE_FLOATS // max(1, width)))
        self.arguments = ctypes.byref(
            _Lookup(
                ctypes.addressof(self.parts),
                ctypes.addressof(self.ends),
                len(ends),
                ids,
                bounds,
                weights,
                self.num_bags,
                self.num_blocks,
                blocks,
                scales,
                width,
                self.tile,
            )
        )
        # About as many floats are read as there are in x_BE, if bags hold one id.
        floats = width * max(self.num_bags, self.num_ids // num_features)
        self.threads = _threads(floats, GRAIN)
        c = library()
        assert c is not None
        self.c = c
        bad = self.c.seo_blocks_check(self.arguments, num_features, self.num_ids)
        if bad == -1:
            raise ValueError(
                f"offsets must rise from 0 to at most {self.num_ids}, the number of ids"
            )
        if bad:
            raise ValueError(
                f"block {bad - 1} reads outside of the {self.size} floats, or from two of their "
                f"{len(ends)} parts, or of a feature not in [0, {num_features}), or writes outside "
                f"of the {width} columns"
            )

    def forward(self) -> Tensor:
        x_BE = torch.empty(self.num_bags, self.width)
        self.c.seo_blocks_forward(self.arguments, x_BE.data_ptr(), self.threads)
        return x_BE

    def backward(self, grad_BE: Tensor) -> Tensor:
        """Gradient of the floats."""
        grad_N = torch.zeros(self.size)
        g = grad_BE.data_ptr()
        self.c.seo_blocks_backward(self.arguments, g, grad_N.data_ptr(), self.threads)
        return grad_N

    def backward_scales(
        self, grad_BE: Tensor, x_BE: Tensor | None, weights: bool
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the scales and, if asked for, of the weights of the ids.

        ``x_BE``, what the forward gave, saves looking it up again.
        """
        tiles = -(-self.num_bags // self.tile)
        parts = torch.empty(tiles, self.num_blocks, dtype=torch.float64)
        grad_V = torch.zeros(self.num_ids if weights else 0)
        self.c.seo_blocks_scales(
            self.arguments,
            grad_BE.data_ptr(),
            _address(x_BE),
            parts.data_ptr(),
            grad_V.data_ptr() if weights else None,
            self.threads,
        )
        return parts.sum(0).to(torch.float32), grad_V


# ---- rows ----------------------------------------------------------------------------------


def _tables_of(tables: Sequence[RowTable]) -> Array[_Table]:
    made = (_Table * len(tables))()
    for entry, table in zip(made, tables, strict=True):
        for name in ("weight", "first", "second", "updates", "reads", "mean", "mean_at"):
            setattr(entry, name, _address(getattr(table, name)))
        entry.rows, entry.dim = table.weight.shape
        entry.type, entry.key = FLOATS.index(table.weight.dtype), table.key
        entry.first_row, entry.first_column = table.first_row, table.first_column
    return made


def _reads_of(tables: Array[_Table], layout: RowLayout, reads: Reads) -> tuple[_Reads, list[Any]]:
    """The arguments of a call, checked, and the tensors that their pointers name."""
    held = [
        None if t is None else t.detach().contiguous()
        for t in (reads.rows_V, reads.offsets, reads.weights_V)
    ]
    made = _Reads(
        tables,
        len(tables),
        _address(layout.table_of_K),
        _address(layout.columns_K),
        *map(_address, held),
        layout.num_lookups,
        reads.num_bags,
        layout.width,
    )
    c = library()
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


def _weights_of(tables: Sequence[Tensor]) -> Array[_Table]:
    made = (_Table * len(tables))()
    for entry, table in zip(made, tables, strict=True):
        entry.weight, (entry.rows, entry.dim) = _address(table), table.shape
        entry.type = FLOATS.index(table.dtype)
    return made


def read_rows(tables: Sequence[Tensor], layout: RowLayout, reads: Reads) -> Tensor:
    """See :func:`seo_kernels.row_bag.read_rows`."""
    c = library()
    assert c is not None
    made, held = _reads_of(_weights_of(tables), layout, reads)
    x_BE = torch.empty(reads.num_bags, layout.width)
    tile = max(16, min(512, TILE_FLOATS // max(1, layout.width)))
    threads = _threads(max(x_BE.numel(), held[0].numel()), GRAIN)
    c.seo_rows_read(ctypes.byref(made), x_BE.data_ptr(), tile, threads)
    return x_BE


@cache
def _corrections(beta1: float, beta2: float) -> Tensor:
    """``1 - beta^n`` of both betas from n = 0 to where float32 cannot tell them from 1."""
    n = torch.arange(2**15, dtype=torch.float64)
    return torch.stack([1 - beta1**n, 1 - beta2**n], dim=1).float().contiguous()


def _update_of(update: RowUpdate) -> _Update:
    corrections = _corrections(*update.betas)
    return _Update(
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
    c = library()
    assert c is not None
    made, held = _reads_of(_tables_of(tables), layout, reads)
    grad_BE, V = grad_BE.contiguous(), reads.rows_V.numel()
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
    threads = _threads(max(held[0].numel(), grad_BE.numel()), GRAIN)
    if c.seo_rows_update(*arguments, pointers[2], num_rows, V, threads):
        raise MemoryError(f"no memory to sort the {V} reads of a batch; take smaller batches")


def add_rows(tables: Sequence[Tensor], layout: RowLayout, reads: Reads, grad_BE: Tensor) -> None:
    """See :func:`seo_kernels.row_bag.add_rows`."""
    c = library()
    assert c is not None
    made, held = _reads_of(_weights_of(tables), layout, reads)
    grad_BE = grad_BE.contiguous()
    threads = _threads(max(held[0].numel(), grad_BE.numel()), GRAIN)
    c.seo_rows_add(ctypes.byref(made), grad_BE.data_ptr(), threads)


def step_rows(tables: Sequence[RowTable], gradients: Sequence[Tensor], update: RowUpdate) -> None:
    """See :func:`seo_kernels.row_bag.step_rows`."""
    c = library()
    assert c is not None
    how = _update_of(update)
    pointers = (_pointer * len(tables))(*(g.data_ptr() for g in gradients))
    threads = _threads(sum(g.numel() for g in gradients), STEP_GRAIN)
    c.seo_rows_step(_tables_of(tables), len(tables), pointers, ctypes.byref(how), threads)


def swap_means(table: RowTable, update: RowUpdate, back: bool) -> None:
    """See :func:`seo_kernels.row_bag.swap_means`."""
    c = library()
    assert c is not None
    how = _update_of(update)
    threads = _threads(table.weight.numel(), GRAIN)
    c.seo_rows_swap_mean(_tables_of([table]), ctypes.byref(how), int(back), threads)
