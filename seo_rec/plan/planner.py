"""A policy and a topology become a plan: where every table goes, and in how many pieces.

The policy says how often each table is read; TorchRec's estimators say what a read costs
(:mod:`seo_rec.plan.cost`); this module decides. Letters: W ranks, R rows, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torchrec.distributed.types import ShardingType

from seo_rec.plan.cost import LANES, RESERVED, ROW_OPTIMIZERS, Price, Prices
from seo_rec.plan.estimate import default_placements, estimate
from seo_rec.plan.partition import NoRoom, Piece, Ranks, pack
from seo_rec.plan.placement import Placement, PlanError, Shard, check_placements
from seo_rec.plan.plan_file import Estimate, Plan
from seo_rec.plan.shift import Columns, shift_columns
from seo_rec.plan.shortage import flat_shortage, shortage
from seo_rec.plan.topology import Topology
from seo_rec.policy import Policy
from seo_rec.schema import Schema

TABLE_WISE = ShardingType.TABLE_WISE.value
COLUMN_WISE = ShardingType.COLUMN_WISE.value
ROW_WISE = ShardingType.ROW_WISE.value
DATA_PARALLEL = ShardingType.DATA_PARALLEL.value

BALANCED = 1.05  # an imbalance that is not worth another cut
HARDLY_LONGER = 1.05  # a balanced plan may take so much longer than the shortest one
# Cuts and copies must bring the step below this part of a whole table's. The estimates of the
# measured runs on CPU err by about a third, and there a cut that promised less brought nothing.
CLEARLY_SHORTER = {"cpu": 2 / 3, "cuda": HARDLY_LONGER}
TINY = 0.005  # of a device's memory: a larger table is never kept on every rank
HEAVIEST = (1, 2, 4, 8)  # so many of the most read tables are tried on every rank, or by rows
FEW_RANKS = 64  # up to so many, columns are shifted from every start
LARGEST_PIECE = (math.inf, 2.0, 1.0, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1)  # times the mean load
DEFAULT_UP_TO = 32  # ranks; TorchRec's planner takes minutes for more
MAX_BATCH = 2**24


@dataclass(frozen=True)
class _Choice:
    """One plan to try: tables kept on every rank, tables cut by rows, how fine the others are cut.

    A packed table is cut into the fewest pieces that are none above ``largest`` times the mean load
    of a rank; ``shifted`` then moves columns between ranks.
    """

    everywhere: frozenset[str] = frozenset()
    by_row: frozenset[str] = frozenset()
    largest: float = math.inf
    shifted: bool = False


@dataclass(frozen=True)
class _Tried:
    """A choice that fits, and what came out."""

    choice: _Choice
    placements: tuple[Placement, ...]
    estimate: Estimate

    @property
    def rank(self) -> tuple[float, int]:
        """Less is better: the step, then the number of shards."""
        return self.estimate.step_ms, sum(len(p.shards) for p in self.placements)


def plan_policy(
    policy: Policy,
    topology: Topology,
    *,
    batch_size: int = 8192,
    row_optimizer: str = "adam",
    rates: Mapping[str, float] | None = None,
    row_l2: float = 0.0,
    default: bool | None = None,
    copyable: bool = True,
) -> Plan:
    """Place every table of ``policy`` so that the step is short and every device can hold its part.

    Tables are packed whole, longest first. Wide tables are cut in columns, ever finer, as long as
    that shortens the step, at multiples of 4. A table that no device can hold goes to all of them
    by rows; on CUDA a heavily read one may, too. A tiny table may stay on every rank. Equal
    arguments give equal plans.

    Args:
        policy: tables and lookups.
        topology: devices.
        batch_size: rows of one rank's batch.
        row_optimizer: adam, adagrad, rowwise_adagrad (never cut in columns: its state is one
            number per row *of a shard*), sgd or lazy_adam.
        rates: mean ids per bag by column (:func:`rates_of`); 1 for all if None.
        row_l2: weight decay of the tables, which then have dense gradients.
        copyable: whether a table may stay on every rank, where its gradient is dense; never under
            lazy_adam.
        default: whether to compare with TorchRec's own plan; None: up to 32 ranks.

    Raises:
        PlanError: an argument is out of range, or the tables or flat arrays do not fit.
    """
    if row_optimizer not in ROW_OPTIMIZERS:
        raise PlanError(
            f"row optimizer {row_optimizer!r}; allowed: {', '.join(sorted(ROW_OPTIMIZERS))}"
        )
    if not 1 <= batch_size <= MAX_BATCH:
        raise PlanError(f"batch {batch_size}; allowed: 1 to {MAX_BATCH} rows of one rank")
    prices = Prices(policy, topology, batch_size, row_optimizer, rates, row_l2)
    usable = int(topology.memory_bytes * (1 - RESERVED))
    if prices.flat_bytes() >= usable:
        raise flat_shortage(prices, usable)
    search = _Search(policy, prices, usable - prices.flat_bytes(), copyable)
    alone = topology.world_size == 1 or not policy.tables
    placements = search.alone() if alone else search.best()
    check_placements(policy, placements, topology.world_size)
    wanted = topology.world_size <= DEFAULT_UP_TO if default is None else default
    wanted = wanted and bool(policy.tables)
    notes = list(search.notes())
    other: Estimate | None = None
    if wanted:
        found = default_placements(policy, topology, batch_size, row_optimizer)
        if isinstance(found, str):
            notes.append(found)
        else:
            other = estimate(found, prices)
            if max(r.memory_bytes for r in other.ranks) > search.capacity:
                notes.append("TorchRec's plan does not fit: it leaves no 15 % of a device free")
    else:
        notes.append(f"TorchRec's plan was not asked for (by default: up to {DEFAULT_UP_TO} ranks)")
    return Plan(
        topology=topology.name,
        device=topology.device,
        world_size=topology.world_size,
        local_size=topology.local_size,
        batch_size=batch_size,
        row_optimizer=row_optimizer,
        placements=placements,
        estimate=estimate(placements, prices),
        default=other,
        notes=tuple(notes),
    )


def rates_of(schema: Schema) -> dict[str, float]:
    """Mean ids per bag of every categorical column of a prepared data set."""
    return {c.name: c.lookups_per_row for c in schema.features}


class _Search:
    """The plans that are tried for one policy, and the best of them."""

    def __init__(self, policy: Policy, prices: Prices, capacity: int, copyable: bool) -> None:
        self.policy = policy
        self.prices = prices
        self.world_size = prices.topology.world_size
        self.capacity = capacity
        self.cuttable = prices.row_optimizer != "rowwise_adagrad"
        self.copyable = copyable and prices.row_optimizer != "lazy_adam"
        self.readers = _readers(policy)
        self.chunk = math.gcd(*(t.dim for t in policy.tables))
        self.units = {t.name: LANES if self._most_pieces(t.name) > 1 else 0 for t in policy.tables}

    def notes(self) -> Iterator[str]:
        if flat := self.prices.flat_bytes():
            yield f"flat arrays are on every rank and take {flat:,} bytes there, not shown"
        if self.world_size > 1 and not self.cuttable:
            yield (
                "rowwise_adagrad: no table is cut in columns, because its state is one number per "
                "row of a shard and a cut would change the training"
            )

        odd = [t.name for t in self.policy.tables if t.dim % LANES]
        if self.prices.topology.device == "cuda" and self.world_size > 1 and odd:
            yield (
                f"{len(odd)} table(s), {odd[0]!r} among them, are no multiple of {LANES} floats "
                "wide and cannot be trained sharded on GPUs, where FBGEMM reads rows in fours"
            )

    def alone(self) -> tuple[Placement, ...]:
        """Everything on the only device, unless it is too small."""
        needs = {t.name: self._whole(t.name).memory for t in self.policy.tables}
        if needs and sum(needs.values()) > self.capacity:
            short = sum(needs.values()) - self.capacity
            raise shortage(self.prices, self.capacity, max(needs, key=needs.__getitem__), short, 0)
        return tuple(
            Placement(t.name, TABLE_WISE, (Shard(0, 0, 0, t.num_rows, t.dim),))
            for t in self.policy.tables
        )

    def best(self) -> tuple[Placement, ...]:
        """The shortest step of the plans tried; of equal ones, the one with fewest shards.

        A balanced plan is taken in its place if its step is hardly longer: the estimates are not
        that good, and an even load is also one that memory and the network bear best. Whole
        tables are taken unless something else is clearly shorter than they are.
        """
        tried = [self.attempt(_Choice())]  # with the error, if nothing fits
        if self.cuttable:
            for largest in LARGEST_PIECE:
                tried += self._if_it_fits(_Choice(largest=largest))
            few = self.world_size <= FEW_RANKS
            for start in [t.choice for t in tried[1:]] if few else [_chosen(tried).choice]:
                tried += self._if_it_fits(replace(start, shifted=True))
        for choice in self._other_kinds(_chosen(tried)):
            tried += self._if_it_fits(choice)
        found, whole = _chosen(tried), tried[0]
        enough = CLEARLY_SHORTER[self.prices.topology.device] * whole.estimate.step_ms
        return (found if found.estimate.step_ms <= enough else whole).placements

    def _other_kinds(self, found: _Tried) -> Iterator[_Choice]:
        """``found``, and its uncut form, with the heaviest tables on every rank or by rows."""
        starts = dict.fromkeys((found.choice, _Choice()))
        heaviest = sorted(self.prices.tables, key=lambda t: (-self._whole(t).ms, t))
        copied = [t for t in heaviest if self.copyable and self._is_small(t)]
        by_row = [t for t in heaviest if self.prices.tables[t].num_rows >= 1000 * self.world_size]
        if self.prices.topology.device != "cuda" or found.estimate.imbalance <= BALANCED:
            by_row = []
        for start in starts:
            sets = [frozenset(copied[:count]) for count in HEAVIEST]
            for everywhere in dict.fromkeys((self._tiny(), *sets)):
                if everywhere:
                    yield replace(start, everywhere=everywhere)
            for count in HEAVIEST:
                if by_row[:count]:
                    yield replace(start, by_row=frozenset(by_row[:count]))

    def attempt(self, choice: _Choice) -> _Tried:
        """Raises: PlanError if the choice does not fit."""
        placements = self.place(choice)
        return _Tried(choice, placements, estimate(placements, self.prices))

    def _if_it_fits(self, choice: _Choice) -> list[_Tried]:
        try:
            return [self.attempt(choice)]
        except PlanError:
            return []

    def place(self, choice: _Choice) -> tuple[Placement, ...]:
        """Pack what the choice leaves; what finds no room is cut finer, then put in rows.

        Raises:
            PlanError: a table has no room even by rows.
        """
        by_row, at_least = set(choice.by_row), dict.fromkeys(self.prices.tables, 1)
        while True:
            fixed = [self._everywhere(t) for t in sorted(choice.everywhere)]
            fixed += [self._row_share(t) for t in sorted(by_row)]
            ranks = Ranks(
                self.world_size,
                sum(p.ms for p in fixed),
                sum(p.memory for p in fixed),
                self.capacity,
            )
            packed = [t for t in self.prices.tables if t not in choice.everywhere | by_row]
            limit = choice.largest * (
                ranks.ms + sum(self._whole(t).ms for t in packed) / self.world_size
            )
            cuts = {t: self._cut(t, limit, at_least[t]) for t in packed}
            pieces = [self._piece(t, columns) for t in packed for columns in cuts[t]]
            if ranks.memory > ranks.capacity:
                short = ranks.memory - self.capacity
                largest = max(by_row | choice.everywhere, key=self._row_memory)
                raise shortage(self.prices, self.capacity, largest, short)
            found = pack(pieces, ranks, self.readers)
            if not isinstance(found, NoRoom):
                columns: Columns = {t: {} for t in packed}
                for piece, rank in zip(pieces, found, strict=True):
                    mine = columns[piece.table]
                    mine[rank] = mine.get(rank, 0) + piece.columns
                if choice.shifted:
                    columns = shift_columns(columns, self.units, ranks, self.prices)
                return self._placements(choice.everywhere, by_row, columns)
            table = found.piece.table
            if len(cuts[table]) < self._most_pieces(table):
                at_least[table] = min(2 * len(cuts[table]), self._most_pieces(table))
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
        for t in self.policy.tables:
            if t.name in everywhere:
                placements.append(Placement(t.name, DATA_PARALLEL))
            elif t.name in by_row:
                placements.append(Placement(t.name, ROW_WISE, self._rows(t.num_rows, t.dim)))
            else:
                shards, start = [], 0
                for rank, width in sorted(columns[t.name].items()):
                    shards.append(Shard(rank, 0, start, t.num_rows, width))
                    start += width
                kind = COLUMN_WISE if len(shards) > 1 else TABLE_WISE
                placements.append(Placement(t.name, kind, tuple(shards)))
        return tuple(placements)

    def _rows(self, num_rows: int, dim: int) -> tuple[Shard, ...]:
        block = -(-num_rows // self.world_size)
        starts = [min(block * rank, num_rows) for rank in range(self.world_size)]
        return tuple(
            Shard(rank, start, 0, min(block, num_rows - start), dim)
            for rank, start in enumerate(starts)
        )

    def _cut(self, table: str, limit: float, at_least: int) -> list[int]:
        """Widths of the fewest pieces of which none takes longer than ``limit`` milliseconds."""
        most = self._most_pieces(table)
        rows = self.prices.tables[table].num_rows
        for count in range(at_least, most + 1):
            widths = self._widths(table, count)
            if self.prices.price(table, COLUMN_WISE, rows, widths[0]).ms <= limit:
                return widths
        return self._widths(table, most)

    def _most_pieces(self, table: str) -> int:
        dim = self.prices.tables[table].dim
        return min(dim // LANES, self.world_size) if self.cuttable and dim % LANES == 0 else 1

    def _widths(self, table: str, count: int) -> list[int]:
        """``count`` widths, the widest first, in whole chunks if there are enough of them."""
        dim = self.prices.tables[table].dim
        if count == 1:
            return [dim]
        unit = self.chunk if self.chunk % LANES == 0 and dim // self.chunk >= count else LANES
        units, more = divmod(dim // unit, count)
        return [unit * (units + (i < more)) for i in range(count)]

    def _piece(self, table: str, columns: int) -> Piece:
        rows = self.prices.tables[table].num_rows
        price = self.prices.price(table, COLUMN_WISE, rows, columns)
        return Piece(table, columns, price.ms, price.memory)

    def _whole(self, table: str) -> Price:
        t = self.prices.tables[table]
        return self.prices.price(table, TABLE_WISE, t.num_rows, t.dim)

    def _row_share(self, table: str) -> Price:
        t = self.prices.tables[table]
        return self.prices.price(table, ROW_WISE, -(-t.num_rows // self.world_size), t.dim)

    def _row_memory(self, table: str) -> tuple[int, str]:
        return self._row_share(table).memory, table

    def _everywhere(self, table: str) -> Price:
        t = self.prices.tables[table]
        return self.prices.price(table, DATA_PARALLEL, t.num_rows, t.dim)

    def _is_small(self, table: str) -> bool:
        return self._everywhere(table).memory <= TINY * self.capacity

    def _tiny(self) -> frozenset[str]:
        """Tables that cost each rank less when all keep a copy than as a share of one exchange."""
        room = 10 * TINY * self.capacity if self.copyable else 0.0
        found = set()
        for table in sorted(self.prices.tables):
            copy = self._everywhere(table)
            share = self._whole(table).ms / self.world_size
            if self._is_small(table) and copy.memory <= room and copy.ms <= share:
                found.add(table)
                room -= copy.memory
        return frozenset(found)


def _chosen(tried: list[_Tried]) -> _Tried:
    shortest = min(tried, key=lambda t: t.rank)
    enough = HARDLY_LONGER * shortest.estimate.step_ms
    balanced = [
        t for t in tried if t.estimate.imbalance <= BALANCED and t.estimate.step_ms <= enough
    ]
    return min(balanced, key=lambda t: t.rank, default=shortest)


def _readers(policy: Policy) -> dict[str, npt.NDArray[np.float32]]:
    """Which features read a table: a vector of ones and zeros."""
    found = {t.name: np.zeros(len(policy.features), dtype=np.float32) for t in policy.tables}
    for i, f in enumerate(policy.features):
        for k in f.all_lookups:
            if k.address != "blocks":
                found[k.table][i] = 1
    return found
