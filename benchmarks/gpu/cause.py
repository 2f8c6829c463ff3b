"""Why the vectors of a model are not those that are expected: what else they are.

A sharded model once gave wrong vectors on a GPU, by twice the range of the initial weights. Such a
number does not say where to look. The vectors do: vectors of another batch come from a pipeline
that holds an old one, vectors of another lookup from the order of keys, and vectors of the initial
weights from a copy that no update reaches.

Letters: B rows, E sum of widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor


def cause(
    found_BE: Tensor,
    expected_BE: Tensor,
    others: Mapping[str, Tensor],
    widths: Sequence[int],
    limit: float,
) -> str:
    """One line: how much of ``found_BE`` is wrong, and what it is in place of that.

    Args:
        found_BE: The vectors of the model.
        expected_BE: What they should be.
        others: By a name such as ``batch 3``, what they may be by mistake; of the same shape.
        widths: Of the lookups, in order; their sum is E.
        limit: Numbers that differ by more are wrong.
    """
    wrong_BE = ~((found_BE - expected_BE).abs() <= limit)  # NaN is wrong
    if not wrong_BE.any():
        return ""
    places = list(pairwise(accumulate(widths, initial=0)))
    bad = [k for k, (a, b) in enumerate(places) if wrong_BE[:, a:b].any()]
    rows = int(wrong_BE.any(1).sum())
    size = (
        f"{rows} of {len(found_BE)} rows, in {len(bad)} of {len(places)} lookups ({bad[0]} first)"
    )
    if not torch.isfinite(found_BE).all():
        return f"{size}; some are not finite"
    named = {**others, "zero": torch.zeros_like(expected_BE)}
    for name, other_BE in named.items():
        if _same(found_BE[wrong_BE], other_BE[wrong_BE], limit):
            return f"{size}; there they are {_of(name)}"
    taken = [_lookup_like(found_BE, expected_BE, places, k, limit) for k in bad]
    if None not in taken:
        pairs = ", ".join(f"{k} has {j}" for k, j in zip(bad, taken, strict=True))
        return f"{size}; there they are the vectors of other lookups: {pairs}"
    moved = _rows_like(found_BE, expected_BE, limit)
    if moved is not None:
        return f"{size}; there they are the vectors of other rows of the batch: row {moved}"
    return f"{size}; there they are none of: {', '.join(named)}, another lookup, another row"


def _of(name: str) -> str:
    return name if name == "zero" else f"the vectors of {name}"


def _same(found: Tensor, other: Tensor, limit: float) -> bool:
    return bool(((found - other).abs() <= limit).all())


def _lookup_like(
    found_BE: Tensor, expected_BE: Tensor, places: Sequence[tuple[int, int]], k: int, limit: float
) -> int | None:
    """The lookup whose expected vectors the vectors of lookup ``k`` are."""
    begin, end = places[k]
    for j, (a, b) in enumerate(places):
        if b - a == end - begin and _same(found_BE[:, begin:end], expected_BE[:, a:b], limit):
            return j
    return None


def _rows_like(found_BE: Tensor, expected_BE: Tensor, limit: float) -> str | None:
    """The first row that is in another's place, if every row is some row of the batch."""
    first = None
    for b, row_E in enumerate(found_BE):
        same_B = ((expected_BE - row_E).abs() <= limit).all(1)
        if not same_B.any():
            return None
        if not same_B[b] and first is None:
            first = f"{b} has {int(same_B.nonzero()[0])}"
    return first
