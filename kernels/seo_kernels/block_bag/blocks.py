"""Which floats an id reads: the table of blocks that every path of ``block_bag`` walks.

Letters: B bags of one feature, F features, V ids, K blocks, E floats of an output row, N floats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

FEATURE, SEED, COUNT, START, STRIDE, WIDTH, COLUMN = range(7)
MAX_COUNT = 2**31
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Blocks:
    """K blocks: what each of them reads for an id, and where in the output it writes.

    Block k reads, for an id of its feature, ``width`` floats from ``start + stride * row`` with
    ``row = hash_rows(id, seed, count)``. A chunk of a table has ``stride = width = dim`` and
    ``count = num_rows``; a block of a ROBE array has ``stride = 1``.

    Args:
        table: int64 (7, K) with the rows FEATURE, SEED, COUNT, START, STRIDE, WIDTH, COLUMN; a
            module keeps it as a buffer.
        num_features: F.
        width: E, the sum of the widths.
        block: the largest width.
        unit: a number of floats of which all starts, strides and widths are multiples, so that a
            GPU may move several at a time; 1 is right for all blocks.
    """

    table: Tensor
    num_features: int
    width: int
    block: int
    unit: int = 1

    def to(self, device: torch.device | str) -> Blocks:
        return replace(self, table=self.table.to(device))


def blocks(
    features: Sequence[int],
    seeds: Sequence[int],
    counts: Sequence[int],
    starts: Sequence[int],
    strides: Sequence[int],
    widths: Sequence[int],
    num_features: int,
) -> Blocks:
    """The blocks in the order in which they stand side by side in the output.

    Args:
        features: feature of each block, rising, so that the blocks of a feature are neighbours.
        seeds: in [0, 2^63).
        counts: rows or first floats to choose from, in [1, 2^31].
        starts, strides, widths: in floats; see :class:`Blocks`.
        num_features: F, features without a block included.

    Raises:
        ValueError: a number is out of range, named with its block.
    """
    columns = [0]
    for width in widths:
        columns.append(columns[-1] + width)
    for name, values, low, high in (
        ("feature", features, 0, num_features - 1),
        ("seed", seeds, 0, MAX_SEED),
        ("count", counts, 1, MAX_COUNT),
        ("start", starts, 0, MAX_SEED),
        ("stride", strides, 1, MAX_SEED),
        ("width", widths, 1, MAX_SEED),
    ):
        if len(values) != len(features):
            raise ValueError(f"{len(values)} values of {name} for {len(features)} blocks")
        for k, value in enumerate(values):
            if not low <= value <= high:
                raise ValueError(f"block {k}: {name} {value} is not in [{low}, {high}]")
    if list(features) != sorted(features):
        raise ValueError(f"features {list(features)} must rise: the blocks of one stand together")
    rows = [features, seeds, counts, starts, strides, widths, columns[:-1]]
    numbers = [list(row) for row in rows]
    table = torch.tensor(numbers, dtype=torch.int64, device="cpu").view(7, len(features))
    unit = math.gcd(*starts, *strides, *widths) or 1
    return Blocks(table, num_features, columns[-1], max(widths, default=0), unit)
