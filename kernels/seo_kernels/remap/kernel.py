"""``remap`` in Triton: one program per lookup and run of ids.

Letters: K lookups, V ids, W row numbers.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl

from seo_kernels.remap import reference

LOW_32 = tl.constexpr(reference.LOW_32)
FIRST_FACTOR = tl.constexpr(reference.FIRST_FACTOR)
SECOND_FACTOR = tl.constexpr(reference.SECOND_FACTOR)
BLOCK = 1024
VECTOR = 2  # int64 numbers of the largest load of one thread


@triton.jit
def hash_rows(ids, seeds, counts):
    """The hash of :mod:`seo_kernels.remap.reference` on int64; ``>>`` repeats the sign bit."""
    x = ids ^ seeds
    x = (x ^ (x >> 33)) * FIRST_FACTOR
    x = (x ^ (x >> 29)) * SECOND_FACTOR
    x = x ^ (x >> 32)
    return ((x & LOW_32) * counts) >> 32


@triton.jit
def _remap(
    ids_ptr,
    spans_ptr,
    seeds_ptr,
    rows_ptr,
    shifts_ptr,
    out_ptr,
    K,
    HAS_SHIFTS: tl.constexpr,
    BLOCK: tl.constexpr,
    UNIT: tl.constexpr,
):
    k = tl.program_id(1)
    first = tl.multiple_of(tl.load(spans_ptr + k), UNIT)
    num = tl.multiple_of(tl.load(spans_ptr + K + k), UNIT)
    to = tl.multiple_of(tl.load(spans_ptr + 2 * K + k), UNIT)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < num
    ids = tl.load(ids_ptr + first + at, mask=mask, other=0)
    rows = hash_rows(ids, tl.load(seeds_ptr + k), tl.load(rows_ptr + k))
    if HAS_SHIFTS:
        rows += tl.load(shifts_ptr + k)
    tl.store(out_ptr + to + at, rows, mask=mask)


@lru_cache(maxsize=16)
def spans(
    starts: tuple[int, ...], features: tuple[int, ...], device: torch.device
) -> tuple[torch.Tensor, int, int, int]:
    """(3, K) first id, number of ids and place in the output of every lookup; W; the longest; how
    many ids may be moved at a time (all numbers of the table are multiples of it).

    Batches with one id per bag have equal ``starts`` and reuse what the first one copied.
    """
    sizes = [starts[f + 1] - starts[f] for f in features]
    to = [0]
    for size in sizes:
        to.append(to[-1] + size)
    firsts = [starts[f] for f in features]
    table = torch.tensor([firsts, sizes, to[:-1]], dtype=torch.int64)
    unit = math.gcd(VECTOR, *firsts, *sizes)
    return table.to(device), to[-1], max(sizes, default=0), unit


def remap(
    ids_V: torch.Tensor,
    starts: Sequence[int],
    features: Sequence[int],
    seeds_K: torch.Tensor,
    rows_K: torch.Tensor,
    shifts_K: torch.Tensor | None,
) -> torch.Tensor:
    """See :func:`seo_kernels.remap`."""
    table, total, longest, unit = spans(tuple(starts), tuple(features), ids_V.device)
    rows_W = torch.empty(total, dtype=torch.int64, device=ids_V.device)
    if total:
        grid = (triton.cdiv(longest, BLOCK), len(features))
        _remap[grid](
            ids_V,
            table,
            seeds_K,
            rows_K,
            rows_K if shifts_K is None else shifts_K,
            rows_W,
            len(features),
            HAS_SHIFTS=shifts_K is not None,
            BLOCK=BLOCK,
            UNIT=unit,
        )
    return rows_W
