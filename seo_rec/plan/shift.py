"""Move columns between ranks, a few at a time, as long as that relieves the fullest rank.

Packing knows only whole pieces, and two pieces of a table on one rank cost less than the sum of
both (they read the same ids). Here a merged shard has one price. Letters: W ranks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torchrec.distributed.types import ShardingType

from seo_rec.plan.cost import Price, Prices
from seo_rec.plan.partition import GOOD_ENOUGH, Ranks

Columns = dict[str, dict[int, int]]  # table -> rank -> columns of it there
EMPTIEST = 16  # ranks that may get a first shard of a table, besides those that have one
MOST_STEPS = 400
_NOTHING = Price((0.0,), 0)


def shift_columns(
    columns: Columns, units: Mapping[str, int], ranks: Ranks, prices: Prices
) -> Columns:
    """Columns of every table by rank, shifted so that the fullest rank has less to do.

    Each step takes some columns of one table from the fullest rank to another one: the table, the
    number and the rank after which the higher of the two loads is lowest.

    Args:
        columns: a start; not changed.
        units: columns move in multiples of this, by table; 0: a table moves only as a whole.
        ranks: what each rank carries besides.
        prices: of any number of columns of a table.
    """
    state = _State({t: dict(by_rank) for t, by_rank in columns.items()}, units, ranks, prices)
    for _ in range(MOST_STEPS):
        if state.ms.max() <= state.ms.mean() * (1 + GOOD_ENOUGH) or not state.step():
            break
    return state.columns


class _State:
    """Columns by table and rank, and the loads that they make."""

    def __init__(
        self, columns: Columns, units: Mapping[str, int], ranks: Ranks, prices: Prices
    ) -> None:
        self.columns, self.units, self.prices = columns, units, prices
        self.capacity = ranks.capacity
        self.ms, self.memory = ranks.ms_W.copy(), ranks.memory_W.copy()
        for table, by_rank in columns.items():
            for rank, width in by_rank.items():
                self._add(rank, self._price(table, width), 1)

    def _price(self, table: str, width: int) -> Price:
        if not width:
            return _NOTHING
        rows = self.prices.tables[table].num_rows
        return self.prices.price(table, ShardingType.COLUMN_WISE.value, rows, width)

    def _add(self, rank: int, price: Price, sign: int) -> None:
        self.ms[rank] += sign * price.ms
        self.memory[rank] += sign * price.memory

    def step(self) -> bool:
        """Make the best shift; False if none lowers the load of the fullest rank."""
        fullest = int(self.ms.argmax())
        best, chosen = float(self.ms[fullest]) * (1 - 1e-9), None
        emptiest = [int(r) for r in np.argsort(self.ms, kind="stable")[:EMPTIEST]]
        for table in sorted(t for t, by_rank in self.columns.items() if fullest in by_rank):
            others = dict.fromkeys([*emptiest, *sorted(self.columns[table])])
            for rank in others:
                for count in self._counts(table, fullest) if rank != fullest else ():
                    after = self._after(table, fullest, rank, count)
                    if after < best:
                        best, chosen = after, (table, rank, count)
        if chosen is None:
            return False
        table, rank, count = chosen
        by_rank = self.columns[table]
        for at, change in ((fullest, -count), (rank, count)):
            before = by_rank.pop(at, 0)
            self._add(at, self._price(table, before), -1)
            self._add(at, self._price(table, before + change), 1)
            if before + change:
                by_rank[at] = before + change
        return True

    def _counts(self, table: str, rank: int) -> list[int]:
        width, unit = self.columns[table][rank], self.units[table]
        return [*range(unit, width, unit), width] if unit else [width]

    def _after(self, table: str, fullest: int, rank: int, count: int) -> float:
        """The higher load of the two ranks after the shift; infinite if it has no room."""
        by_rank = self.columns[table]
        there = by_rank.get(rank, 0)
        more, old = self._price(table, there + count), self._price(table, there)
        if self.memory[rank] + more.memory - old.memory > self.capacity:
            return float("inf")
        left = self._price(table, by_rank[fullest] - count).ms
        here = self.ms[fullest] - self._price(table, by_rank[fullest]).ms + left
        return float(max(here, self.ms[rank] + more.ms - old.ms))
