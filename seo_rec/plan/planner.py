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

from seo_rec.plan.cost import ROW_OPTIMIZERS, Price, Prices
from seo_rec.plan.estimate import default_placements, estimate
from seo_rec.plan.partition import NoRoom, Piece, Ranks, pack
from seo_rec.plan.placement import Placement, PlanError, Shard, check_placements
from seo_rec.plan.plan_file import Estimate, Plan
from seo_rec.plan.shortage import shortage
from seo_rec.plan.topology import Topology
from seo_rec.policy import Policy
from seo_rec.schema import Schema

TABLE_WISE = ShardingType.TABLE_WISE.value
COLUMN_WISE = ShardingType.COLUMN_WISE.value
ROW_WISE = ShardingType.ROW_WISE.value
DATA_PARALLEL = ShardingType.DATA_PARALLEL.value

RESERVED = 0.15  # of a device, for dense layers, activations, buffers and fragmentation
BALANCED = 1.05  # an imbalance that is not worth another cut
LANES = 4  # columns of a shard are a multiple of this (FBGEMM's fused kernels)
TINY = 0.01  # of a device's memory: a larger table is never kept on every rank
LARGEST_PIECE = (math.inf, 2.0, 1.0, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1)  # times the mean load
MOST_CUTS = 200  # one by one, after those
MOST_TABLES = 4  # tried for each of them
DEFAULT_UP_TO = 32  # ranks; TorchRec's planner takes minutes for more
MAX_BATCH = 2**24


@dataclass(frozen=True)
class _Choice:
    """What is tried: tables kept on every rank, tables cut by rows, and how fine the others are.

    A packed table is cut into the fewest pieces that are none above ``largest`` times the mean load
    of a rank, and not into fewer than ``at_least`` says.
    """

    everywhere: frozenset[str] = frozenset()
    by_row: frozenset[str] = frozenset()
    largest: float = math.inf
    at_least: tuple[tuple[str, int], ...] = ()


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
    default: bool | None = None,
) -> Plan:
    """Place every table of ``policy`` so that the step is short and every device can hold its part.

    Tables are packed whole, longest first. Wide tables are cut in columns, ever finer, as long as
    that shortens the step: at the policy's chunk boundaries where there are some, else at
    multiples of 4. A table that no device can hold goes to all of them by rows; on CUDA a heavily
    read one may, too. A tiny table may stay on every rank. Equal arguments give equal plans.

    Args:
        policy: tables and lookups.
        topology: devices.
        batch_size: rows of one rank's batch.
        row_optimizer: adam, adagrad, rowwise_adagrad (never cut in columns: its state is one
            number per row *of a shard*) or sgd.
        rates: mean ids per bag by feature (:func:`rates_of`); 1 for all if None.
        default: whether to compare with TorchRec's own plan; None: up to 32 ranks.

    Raises:
        PlanError: an argument is out of range, or the tables do not fit.
    """
    if row_optimizer not in ROW_OPTIMIZERS:
        raise PlanError(
            f"row optimizer {row_optimizer!r}; allowed: {', '.join(sorted(ROW_OPTIMIZERS))}"
        )
    if not 1 <= batch_size <= MAX_BATCH:
        raise PlanError(f"batch {batch_size}; allowed: 1 to {MAX_BATCH} rows of one rank")
    prices = Prices(policy, topology, batch_size, row_optimizer, rates)
    search = _Search(policy, prices)
    placements = search.alone() if topology.world_size == 1 else search.best()
    check_placements(policy, placements, topology.world_size)
    wanted = topology.world_size <= DEFAULT_UP_TO if default is None else default
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
    """Mean ids per bag of every feature of a prepared data set."""
    return {c.name: c.lookups_per_row for c in schema.features}


class _Search:
    """The plans that are tried for one policy, and the best of them."""

    def __init__(self, policy: Policy, prices: Prices) -> None:
        self.policy = policy
        self.prices = prices
        self.world_size = prices.topology.world_size
        self.capacity = int(prices.topology.memory_bytes * (1 - RESERVED))
        self.cuttable = prices.row_optimizer != "rowwise_adagrad"
        self.readers = _readers(policy)
        self.chunk = math.gcd(*(t.dim for t in policy.tables))

    def notes(self) -> Iterator[str]:
        if self.world_size > 1 and not self.cuttable:
            yield (
                "rowwise_adagrad: no table is cut in columns, because its state is one number per "
                "row of a shard and a cut would change the training"
            )
        if self.world_size > 1 and not self._may_repeat():
            yield (
                "adam on cuda: no table is kept on every rank, because those are trained with "
                "dense gradients and Adam then moves rows that were not read, too"
            )

    def alone(self) -> tuple[Placement, ...]:
        """Everything on the only device, unless it is too small."""
        needs = {t.name: self._whole(t.name).memory for t in self.policy.tables}
        if sum(needs.values()) > self.capacity:
            short = sum(needs.values()) - self.capacity
            raise shortage(self.prices, self.capacity, max(needs, key=needs.__getitem__), short, 0)
        return tuple(
            Placement(t.name, TABLE_WISE, (Shard(0, 0, 0, t.num_rows, t.dim),))
            for t in self.policy.tables
        )

    def best(self) -> tuple[Placement, ...]:
        """The shortest step of the plans tried; of equal ones, the one with fewest shards."""
        choices = [_Choice()]
        if self.cuttable:
            choices = [_Choice(largest=largest) for largest in LARGEST_PIECE]
        if tiny := self._tiny():
            choices += [replace(c, everywhere=tiny) for c in choices]
        best = self.attempt(choices[0])  # with the error, if nothing fits
        for choice in choices[1:]:
            best = self._better(best, choice) or best
        best = self._cut_further(best)
        if self.prices.topology.device == "cuda":
            for table in self._heaviest(best.choice):
                if best.estimate.imbalance <= BALANCED:
                    break
                by_row = best.choice.by_row | {table}
                better = self._better(best, replace(best.choice, by_row=by_row))
                if better is None:
                    break
                best = better
        return best.placements

    def attempt(self, choice: _Choice) -> _Tried:
        """Raises: PlanError if the choice does not fit."""
        placements = self.place(choice)
        return _Tried(choice, placements, estimate(placements, self.prices))

    def _better(self, best: _Tried, choice: _Choice) -> _Tried | None:
        try:
            found = self.attempt(choice)
        except PlanError:
            return None
        return found if found.rank < best.rank else None

    def _cut_further(self, best: _Tried) -> _Tried:
        """One more cut at a time, of a table on the fullest rank, until balanced or none helps."""
        for _ in range(MOST_CUTS):
            if best.estimate.imbalance <= BALANCED:
                break
            ms = [r.ms for r in best.estimate.ranks]
            fullest = ms.index(max(ms))
            found = None
            for table, count in self._cut_here(best, fullest):
                at_least = {**dict(best.choice.at_least), table: count + 1}
                choice = replace(best.choice, at_least=tuple(sorted(at_least.items())))
                if found := self._better(best, choice):
                    break
            if found is None:
                break
            best = found
        return best

    def _cut_here(self, tried: _Tried, rank: int) -> list[tuple[str, int]]:
        """Tables with a shard on ``rank`` that can be cut further, the costliest first."""
        here: list[tuple[float, str, int]] = []
        for p in tried.placements:
            for s in p.shards if p.table not in tried.choice.by_row else ():
                if s.rank == rank and len(p.shards) < self._most_pieces(p.table):
                    ms = self.prices.price(p.table, COLUMN_WISE, s.rows, s.columns).ms
                    here.append((-ms, p.table, len(p.shards)))
        return [(table, count) for _, table, count in sorted(here)[:MOST_TABLES]]

    def place(self, choice: _Choice) -> tuple[Placement, ...]:
        """Pack what the choice leaves; what finds no room is cut finer, then put in rows.

        Raises:
            PlanError: a table has no room even by rows.
        """
        by_row = set(choice.by_row)
        at_least = {**dict.fromkeys(self.prices.tables, 1), **dict(choice.at_least)}
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
                raise shortage(self.prices, self.capacity, max(by_row, key=self._row_memory), short)
            found = pack(pieces, ranks, self.readers)
            if not isinstance(found, NoRoom):
                return self._placements(choice.everywhere, by_row, pieces, found)
            table = found.piece.table
            if len(cuts[table]) < self._most_pieces(table):
                at_least[table] = min(2 * len(cuts[table]), self._most_pieces(table))
            elif self._row_share(table).memory < found.piece.memory:
                by_row.add(table)
            else:  # vectors of a step fill the device, and each rank would have them all by rows
                short = found.piece.memory - found.free
                raise shortage(self.prices, self.capacity, table, short, found.rank)

    def _placements(
        self, everywhere: frozenset[str], by_row: set[str], pieces: list[Piece], where: list[int]
    ) -> tuple[Placement, ...]:
        """One shard per (table, rank); all columns of a table are alike, so they are renumbered."""
        columns: dict[str, dict[int, int]] = {}
        for piece, rank in zip(pieces, where, strict=True):
            mine = columns.setdefault(piece.table, {})
            mine[rank] = mine.get(rank, 0) + piece.columns
        cut = any(len(ranks) > 1 for ranks in columns.values())
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
                # TorchRec exchanges each kind by itself: a whole table is a cut into one piece.
                placements.append(
                    Placement(t.name, COLUMN_WISE if cut else TABLE_WISE, tuple(shards))
                )
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

    def _may_repeat(self) -> bool:
        topology = self.prices.topology
        return not (topology.device == "cuda" and self.prices.row_optimizer == "adam")

    def _tiny(self) -> frozenset[str]:
        """Tables that cost each rank less when all keep a copy than as a share of one exchange."""
        room = TINY * self.capacity
        found = set()
        for table in sorted(self.prices.tables) if self._may_repeat() else ():
            copy = self._everywhere(table)
            if copy.memory <= room and copy.ms <= self._whole(table).ms / self.world_size:
                found.add(table)
                room -= copy.memory
        return frozenset(found)

    def _heaviest(self, choice: _Choice) -> list[str]:
        left = [t for t in self.prices.tables if t not in choice.everywhere | choice.by_row]
        return sorted(left, key=lambda t: (-self._whole(t).ms, t))[:8]


def _readers(policy: Policy) -> dict[str, npt.NDArray[np.float32]]:
    """Which features read a table: a vector of ones and zeros."""
    found = {t.name: np.zeros(len(policy.features), dtype=np.float32) for t in policy.tables}
    for i, f in enumerate(policy.features):
        for k in f.lookups:
            found[k.table][i] = 1
    return found
