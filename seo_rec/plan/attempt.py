"""One choice of how to place the tables, carried out: which piece is where, or why none fits.

Letters: W ranks, R rows, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from torchrec.distributed.types import ShardingType

from seo_rec.plan.cost import LANES, Price, Prices, updates_rows
from seo_rec.plan.offload import Cache
from seo_rec.plan.partition import NoRoom, Piece, Ranks, pack
from seo_rec.plan.placement import DENSE, FUSED, Placement, Shard
from seo_rec.plan.plan_file import Estimate
from seo_rec.plan.shift import Columns, shift_columns
from seo_rec.plan.shortage import shortage
from seo_rec.policy import Policy

TABLE_WISE = ShardingType.TABLE_WISE.value
COLUMN_WISE = ShardingType.COLUMN_WISE.value
ROW_WISE = ShardingType.ROW_WISE.value
DATA_PARALLEL = ShardingType.DATA_PARALLEL.value


@dataclass(frozen=True)
class Choice:
    """One plan to try: tables kept on every rank, tables cut by rows, how fine the others are cut.

    A packed table is cut into the fewest pieces that are none above ``largest`` times the mean load
    of a rank; ``shifted`` then moves columns between ranks. The ``cached`` tables are outside the
    devices, with a ``cache`` of their rows there.
    """

    everywhere: frozenset[str] = frozenset()
    by_row: frozenset[str] = frozenset()
    largest: float = math.inf
    shifted: bool = False
    cached: frozenset[str] = frozenset()
    cache: Cache | None = None


@dataclass(frozen=True)
class Tried:
    """A choice that fits, and what came out."""

    choice: Choice
    placements: tuple[Placement, ...]
    estimate: Estimate

    @property
    def rank(self) -> tuple[float, int]:
        """Less is better: the step, then the number of shards."""
        return self.estimate.step_ms, sum(len(p.shards) for p in self.placements)


@dataclass(frozen=True)
class Task:
    """What all attempts have in common.

    Args:
        policy: tables and lookups.
        prices: of pieces, with every table within the devices.
        capacity: bytes of a device that tables may take.
    """

    policy: Policy
    prices: Prices
    capacity: int

    @property
    def world_size(self) -> int:
        return self.prices.topology.world_size

    @property
    def cuttable(self) -> bool:
        """Whether tables may be cut in columns; the state of row-wise Adagrad may not."""
        return self.prices.row_optimizer != "rowwise_adagrad"

    @cached_property
    def readers(self) -> dict[str, npt.NDArray[np.float32]]:
        """Which features read a table: a vector of ones and zeros."""
        features = self.policy.features
        found = {t.name: np.zeros(len(features), dtype=np.float32) for t in self.policy.tables}
        for i, f in enumerate(features):
            for k in f.all_lookups:
                if k.address != "blocks":
                    found[k.table][i] = 1
        return found

    @cached_property
    def chunk(self) -> int:
        return math.gcd(*(t.dim for t in self.policy.tables))

    @cached_property
    def units(self) -> dict[str, int]:
        return {t.name: LANES if self.most_pieces(t.name) > 1 else 0 for t in self.policy.tables}

    def most_pieces(self, table: str) -> int:
        dim = self.prices.tables[table].dim
        return min(dim // LANES, self.world_size) if self.cuttable and dim % LANES == 0 else 1


class Attempt:
    """A choice, being carried out.

    Args:
        task: what is placed, and where.
        choice: how.
    """

    def __init__(self, task: Task, choice: Choice) -> None:
        self.task, self.choice, self.capacity = task, choice, task.capacity
        self.world_size = task.world_size
        cached = {} if choice.cache is None else dict.fromkeys(choice.cached, choice.cache)
        self.prices = task.prices.with_cache(cached)

    def place(self) -> tuple[Placement, ...]:
        """Pack what the choice leaves; what finds no room is cut finer, then put in rows.

        Raises:
            PlanError: a table has no room even by rows.
        """
        choice = self.choice
        by_row, at_least = set(choice.by_row), dict.fromkeys(self.prices.tables, 1)
        while True:
            fixed = [self.everywhere(t) for t in sorted(choice.everywhere)]
            fixed += [self._row_share(t) for t in sorted(by_row)]
            ranks = Ranks.alike(
                self.world_size,
                sum(p.ms for p in fixed),
                sum(p.memory for p in fixed),
                self.capacity,
            )
            packed = [t for t in self.prices.tables if t not in choice.everywhere | by_row]
            whole = sum(self.whole(t).ms for t in packed) / self.world_size
            limit = choice.largest * (ranks.ms_W.mean() + whole)
            cuts = {t: self._cut(t, limit, at_least[t]) for t in packed}
            pieces = [self._piece(t, columns) for t in packed for columns in cuts[t]]
            if ranks.memory_W.max() > ranks.capacity:
                short = int(ranks.memory_W.max()) - self.capacity
                largest = max(by_row | choice.everywhere, key=self._row_memory)
                raise shortage(self.prices, self.capacity, largest, short)
            found = pack(pieces, ranks, self.task.readers)
            if not isinstance(found, NoRoom):
                columns: Columns = {t: {} for t in packed}
                for piece, rank in zip(pieces, found, strict=True):
                    mine = columns[piece.table]
                    mine[rank] = mine.get(rank, 0) + piece.columns
                if choice.shifted:
                    columns = shift_columns(columns, self.task.units, ranks, self.prices)
                return self._placements(choice.everywhere, by_row, columns)
            table = found.piece.table
            if len(cuts[table]) < self.task.most_pieces(table):
                at_least[table] = min(2 * len(cuts[table]), self.task.most_pieces(table))
            elif self._row_share(table).memory < found.piece.memory:
                by_row.add(table)
            else:  # vectors of a step fill the device, and each rank would have them all by rows
                short = found.piece.memory - found.free
                raise shortage(self.prices, self.capacity, table, short, found.rank)

    def _placements(
        self, everywhere: frozenset[str], by_row: set[str], columns: Columns
    ) -> tuple[Placement, ...]:
        """One shard per (table, rank); columns are all alike, so any numbering will do."""
        placements = []
        for t in self.task.policy.tables:
            if t.name in everywhere:
                placements.append(self._placement(t.name, DATA_PARALLEL, ()))
            elif t.name in by_row:
                placements.append(self._placement(t.name, ROW_WISE, self._rows(t.num_rows, t.dim)))
            else:
                shards, start = [], 0
                for rank, width in sorted(columns[t.name].items()):
                    shards.append(Shard(rank, 0, start, t.num_rows, width))
                    start += width
                kind = COLUMN_WISE if len(shards) > 1 else TABLE_WISE
                placements.append(self._placement(t.name, kind, tuple(shards)))
        return tuple(placements)

    def _placement(self, table: str, kind: str, shards: tuple[Shard, ...]) -> Placement:
        cache = self.prices.cached.get(table)
        if cache is not None:
            return Placement(table, kind, shards, cache.kernel, cache.load_factor)
        sparse = updates_rows(kind, self.prices.row_optimizer, self.prices.row_l2)
        return Placement(table, kind, shards, FUSED if sparse else DENSE)

    def alone(self) -> tuple[Placement, ...]:
        """Everything on the only device, unless it is too small."""
        tables = self.task.policy.tables
        needs = {t.name: self.whole(t.name).memory for t in tables}
        if needs and sum(needs.values()) > self.capacity:
            short = sum(needs.values()) - self.capacity
            raise shortage(self.prices, self.capacity, max(needs, key=needs.__getitem__), short, 0)
        return tuple(
            self._placement(t.name, TABLE_WISE, (Shard(0, 0, 0, t.num_rows, t.dim),))
            for t in tables
        )

    def _rows(self, num_rows: int, dim: int) -> tuple[Shard, ...]:
        block = -(-num_rows // self.world_size)
        starts = [min(block * rank, num_rows) for rank in range(self.world_size)]
        return tuple(
            Shard(rank, start, 0, min(block, num_rows - start), dim)
            for rank, start in enumerate(starts)
        )

    def _cut(self, table: str, limit: float, at_least: int) -> list[int]:
        """Widths of the fewest pieces of which none takes longer than ``limit`` milliseconds."""
        most = self.task.most_pieces(table)
        rows = self.prices.tables[table].num_rows
        for count in range(at_least, most + 1):
            widths = self._widths(table, count)
            if self.prices.price(table, COLUMN_WISE, rows, widths[0]).ms <= limit:
                return widths
        return self._widths(table, most)

    def _widths(self, table: str, count: int) -> list[int]:
        """``count`` widths, the widest first, in whole chunks if there are enough of them."""
        dim = self.prices.tables[table].dim
        if count == 1:
            return [dim]
        unit = (
            self.task.chunk
            if self.task.chunk % LANES == 0 and dim // self.task.chunk >= count
            else LANES
        )
        units, more = divmod(dim // unit, count)
        return [unit * (units + (i < more)) for i in range(count)]

    def _piece(self, table: str, columns: int) -> Piece:
        rows = self.prices.tables[table].num_rows
        price = self.prices.price(table, COLUMN_WISE, rows, columns)
        return Piece(table, columns, price.ms, price.memory)

    def whole(self, table: str) -> Price:
        t = self.prices.tables[table]
        return self.prices.price(table, TABLE_WISE, t.num_rows, t.dim)

    def _row_share(self, table: str) -> Price:
        t = self.prices.tables[table]
        return self.prices.price(table, ROW_WISE, -(-t.num_rows // self.world_size), t.dim)

    def _row_memory(self, table: str) -> tuple[int, str]:
        return self._row_share(table).memory, table

    def everywhere(self, table: str) -> Price:
        t = self.prices.tables[table]
        return self.prices.price(table, DATA_PARALLEL, t.num_rows, t.dim)
