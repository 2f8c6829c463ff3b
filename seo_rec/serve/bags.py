"""Ids on their way through a scorer, in NumPy.

Letters used in this package: B rows, N dense columns, V ids, K lookups, D a width, E sum of widths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seo_rec.schema import DataError

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Bags:
    """The ids of one column, or of one feature, in B rows.

    Args:
        ids: int64 (V,), row after row, each in [0, 2^63).
        lengths: int64 (B,), how many ids each row has; None if each has exactly one.
        weights: float32 (V,), a factor for the vector of each id; None for factors of 1.
    """

    ids: Ids
    lengths: Ids | None = None
    weights: Floats | None = None

    def counts(self) -> Ids:
        """int64 (B,): how many ids each row has."""
        return np.ones(len(self.ids), np.int64) if self.lengths is None else self.lengths

    def rows(self) -> Ids:
        """int64 (V,): the row that each id belongs to."""
        counts = self.counts()
        return np.repeat(np.arange(len(counts)), counts)


@dataclass(frozen=True)
class Inputs:
    """What a model reads of B rows.

    Args:
        dense_BN: float32 (B, N).
        columns: The bags of each column that the policy reads, by its name.
    """

    dense_BN: Floats
    columns: Mapping[str, Bags]

    def __len__(self) -> int:
        return len(self.dense_BN)

    def slice(self, start: int, stop: int) -> Inputs:
        """Rows ``start`` to ``stop`` - 1."""
        columns = {name: _slice(bags, start, stop) for name, bags in self.columns.items()}
        return Inputs(self.dense_BN[start:stop], columns)


def _slice(bags: Bags, start: int, stop: int) -> Bags:
    if bags.lengths is None:
        span, lengths = slice(start, stop), None
    else:
        first = int(bags.lengths[:start].sum())
        lengths = bags.lengths[start:stop]
        span = slice(first, first + int(lengths.sum()))
    return Bags(bags.ids[span], lengths, None if bags.weights is None else bags.weights[span])


class RowError(DataError):
    """A cell that cannot be read; it knows where.

    Args:
        row: Number of the row, from 0.
        column: Name of the column.
        value: What the cell holds.
        why: What is wrong.
        fix: What to do.
    """

    def __init__(self, row: int, column: str, value: str, why: str, fix: str) -> None:
        super().__init__(f"row {row}, column {column!r}: {why}, got {value!r}; {fix}")
        self.row, self.column, self.value, self.why, self.fix = row, column, value, why, fix

    def moved(self, rows: int) -> RowError:
        """The same of a row that is so many rows further on."""
        return RowError(self.row + rows, self.column, self.value, self.why, self.fix)
