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
TABLE_ROW_WISE = ShardingType.TABLE_ROW_WISE.value
GRID_SHARD = ShardingType.GRID_SHARD.value
DATA_PARALLEL = ShardingType.DATA_PARALLEL.value


@dataclass(frozen=True)
class Choice:
    """One plan to try: tables kept on every rank, tables cut by rows, how fine the others are cut.

    A packed table is cut into the fewest pieces that are none above ``largest`` times the mean load
    of a rank; ``shifted`` then moves columns between ranks. The pieces of an ``on_machine`` table
    go to machines in place of ranks: the ranks of a machine share a piece by rows. The ``cached``
    tables are outside the devices, with a ``cache`` of their rows there.
    """

    everywhere: frozenset[str] = frozenset()
    by_row: frozenset[str] = frozenset()
    on_machine: frozenset[str] = frozenset()
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
        choice, at_least = self.choice, dict.fromkeys(self.prices.tables, 1)
        by_row = set(choice.by_row - choice.on_machine)
        while True:
            ranks = self._fixed(by_row)
            packed = [
                t
                for t in self.prices.tables
                if t not in choice.everywhere | by_row | choice.on_machine
            ]
            limit = self._limit(packed, ranks)
            machines, ranks = self._pack_machines(limit, ranks)
            cuts = {t: self._cut(t, limit, at_least[t]) for t in packed}
            pieces = [self._piece(t, columns) for t in packed for columns in cuts[t]]
            found = pack(pieces, ranks, self.task.readers)
            if not isinstance(found, NoRoom):
                columns = _by_place(pieces, found)
                if choice.shifted:
                    columns = shift_columns(columns, self.task.units, ranks, self.prices)
                return self._placements(by_row, machines, columns)
            table = found.piece.table
            if len(cuts[table]) < self.task.most_pieces(table):
                at_least[table] = min(2 * len(cuts[table]), self.task.most_pieces(table))
            elif self._row_share(table).memory < found.piece.memory:
                by_row.add(table)
            else:  # vectors of a step fill the device, and each rank would have them all by rows
                short = found.piece.memory - found.free
                raise shortage(self.prices, self.capacity, table, short, found.rank)

    def _fixed(self, by_row: set[str]) -> Ranks:
        """What each rank carries of the tables that are on all of them."""
        everywhere = self.choice.everywhere
        fixed = [self.everywhere(t) for t in sorted(everywhere)]
        fixed += [self._row_share(t) for t in sorted(by_row)]
        ms, memory = sum(p.ms for p in fixed), sum(p.memory for p in fixed)
        if memory > self.capacity:
            largest = max(by_row | everywhere, key=self._row_memory)
            raise shortage(self.prices, self.capacity, largest, memory - self.capacity)
        return Ranks.alike(self.world_size, ms, memory, self.capacity)

    def _limit(self, packed: list[str], ranks: Ranks) -> float:
        """Milliseconds that no piece should take, by the mean load of a rank."""
        dims = {t: self.prices.tables[t].dim for t in self.choice.on_machine}
        shared = sum(self._machine_piece(t, dim).ms for t, dim in sorted(dims.items()))
        total = sum(self.whole(t).ms for t in packed) + self.prices.topology.local_size * shared
        mean = float(ranks.ms_W.mean()) + total / self.world_size
        return self.choice.largest * mean if mean else math.inf

    def _pack_machines(self, limit: float, ranks: Ranks) -> tuple[Columns, Ranks]:
        """Columns of the ``on_machine`` tables by machine, and what the ranks carry with them."""
        if not self.choice.on_machine:
            return {}, ranks
        local, pieces = self.prices.topology.local_size, []
        for t in sorted(self.choice.on_machine):
            most = min(self.task.most_pieces(t), self.world_size // local)
            counts = (self._widths(t, count) for count in range(1, most + 1))
            fine = (w for w in counts if self._machine_piece(t, w[0]).ms <= limit)
            widths = next(fine, None) or self._widths(t, most)
            pieces += [self._machine_piece(t, columns) for columns in widths]
        machines = Ranks(ranks.ms_W[::local], ranks.memory_W[::local], ranks.capacity)
        found = pack(pieces, machines, self.task.readers)
        if isinstance(found, NoRoom):
            short = found.piece.memory - found.free
            raise shortage(self.prices, self.capacity, found.piece.table, short, found.rank * local)
        ms, memory = machines.ms_W.copy(), machines.memory_W.copy()
        for piece, machine in zip(pieces, found, strict=True):
            ms[machine] += piece.ms
            memory[machine] += piece.memory
        loads = Ranks(np.repeat(ms, local), np.repeat(memory, local), ranks.capacity)
        return _by_place(pieces, found), loads

    def _placements(
        self, by_row: set[str], machines: Columns, columns: Columns
    ) -> tuple[Placement, ...]:
        """One shard per (table, rank); columns are all alike, so any numbering will do."""
        placements = []
        grid = any(len(by_machine) > 1 for by_machine in machines.values())
        for t in self.task.policy.tables:
            if t.name in self.choice.everywhere:
                placements.append(self._placement(t.name, DATA_PARALLEL, ()))
                continue
            if t.name in by_row:
                kind, spans = ROW_WISE, [(0, self.world_size, 0, t.dim)]
            elif t.name in machines:  # one kind for all of them: each kind has its own exchanges
                kind, local = (
                    GRID_SHARD if grid else TABLE_ROW_WISE,
                    self.prices.topology.local_size,
                )
                spans = [(m * local, local, *c) for m, c in _spans(machines[t.name])]
            else:
                spans = [(rank, 1, *c) for rank, c in _spans(columns[t.name])]
                kind = COLUMN_WISE if len(spans) > 1 else TABLE_WISE
            shards = (s for span in spans for s in _by_rows(t.num_rows, *span))
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

    def _machine_piece(self, table: str, columns: int) -> Piece:
        rows = -(-self.prices.tables[table].num_rows // self.prices.topology.local_size)
        price = self.prices.price(table, GRID_SHARD, rows, columns)
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


def _by_place(pieces: list[Piece], places: list[int]) -> Columns:
    """Columns of every table by the rank or the machine of its pieces."""
    columns: Columns = {}
    for piece, place in zip(pieces, places, strict=True):
        mine = columns.setdefault(piece.table, {})
        mine[place] = mine.get(place, 0) + piece.columns
    return columns


def _spans(columns: dict[int, int]) -> list[tuple[int, tuple[int, int]]]:
    """The first column and the width of what each place has, in the order of places."""
    spans, start = [], 0
    for place, width in sorted(columns.items()):
        spans.append((place, (start, width)))
        start += width
    return spans


def _by_rows(num_rows: int, first: int, ranks: int, column: int, columns: int) -> list[Shard]:
    """Columns of a table in equal blocks of rows on so many ranks from ``first`` on."""
    block = -(-num_rows // ranks)
    starts = [min(block * i, num_rows) for i in range(ranks)]
    return [
        Shard(first + i, start, column, min(block, num_rows - start), columns)
        for i, start in enumerate(starts)
    ]
