"""The CPU kernels in C: found, checked and called; ``None`` where they were not built.

``setup.py`` compiles ``native.c`` when the package is installed, if there is a C compiler. It is
plain C without Python's headers, so that a compiler is all it takes, and it is loaded by ctypes.

Letters: B bags of one feature, F features, V ids, K lookups or blocks, E floats of a row, N floats.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from seo_kernels.native.structures import (
    LookupArguments,
    ReadsArguments,
    TableArguments,
    UpdateArguments,
    address,
    i64,
    pointer,
)

ABI = 6  # of native.c; a library of another number is older or newer than this file
GRAIN = 2**16  # floats that are worth a thread of their own
TILE_FLOATS = 2**16  # of the output; a tile stays in the second-level cache
REMAP_GRAIN = 2**19  # row numbers that are, which cost little more than writing them
FLOATS = (torch.float32, torch.float16, torch.bfloat16)  # the types of rows, by their number in C


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
    library.seo_remap.argtypes = [pointer, i64, *[pointer] * 7, i64]
    lookup = ctypes.POINTER(LookupArguments)
    library.seo_blocks_check.argtypes = [lookup, i64, i64]
    library.seo_blocks_check.restype = i64
    library.seo_blocks_forward.argtypes = [lookup, pointer, i64]
    library.seo_blocks_backward.argtypes = [lookup, pointer, pointer, i64]
    library.seo_blocks_scales.argtypes = [lookup, *[pointer] * 4, i64]
    rows, update = ctypes.POINTER(ReadsArguments), ctypes.POINTER(UpdateArguments)
    library.seo_rows_check.argtypes = [rows, i64]
    library.seo_rows_read.argtypes = [rows, pointer, i64, i64]
    library.seo_rows_group.argtypes = [rows, i64, *[pointer] * 3]
    library.seo_rows_update.argtypes = [rows, update, *[pointer] * 3, *[i64] * 3]
    library.seo_rows_add.argtypes = [rows, pointer, i64]
    tables = ctypes.POINTER(TableArguments)
    library.seo_rows_step.argtypes = [tables, i64, ctypes.POINTER(pointer), update, i64]
    library.seo_rows_swap_mean.argtypes = [ctypes.POINTER(TableArguments), update, i64, i64]
    for name in ("check", "group", "update"):
        getattr(library, f"seo_rows_{name}").restype = i64
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


def threads_for(work: int, grain: int) -> int:
    """Threads wait for each other, so small work gets one, and so does a forked process."""
    return 1 if _forked else max(1, min(torch.get_num_threads(), work // grain))


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
    array = i64 * K
    spans = [array(*first), array(*num), array(*to[:K])]
    numbers = [None if t is None else t.contiguous() for t in (seeds_K, rows_K, shifts_K)]
    ids_V = ids_V.contiguous()
    addresses = [address(t) for t in numbers]
    threads = threads_for(to[K], REMAP_GRAIN)
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
        ids, bounds, weights, blocks, scales, *at = map(address, self.held)
        ends = list(accumulate(part.numel() for part in parts))
        self.parts, self.ends = (pointer * len(at))(*at), (i64 * len(ends))(*ends)
        self.num_bags = (offsets.numel() - 1) // num_features
        self.num_blocks, self.width = table.shape[1], width
        self.num_ids, self.size = ids_V.numel(), ends[-1]
        self.tile = max(16, min(512, TILE_FLOATS // max(1, width)))
        self.arguments = ctypes.byref(
            LookupArguments(
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
        self.threads = threads_for(floats, GRAIN)
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
            address(x_BE),
            parts.data_ptr(),
            grad_V.data_ptr() if weights else None,
            self.threads,
        )
        return parts.sum(0).to(torch.float32), grad_V
