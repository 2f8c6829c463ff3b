"""A policy and a topology become a plan: where every table goes, and in how many pieces.

The policy says how often each table is read; TorchRec's estimators say what a read costs
(:mod:`seo_rec.plan.cost`); this module decides. Letters: W ranks, R rows, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from seo_rec.plan.attempt import Attempt, Choice, Task, Tried
from seo_rec.plan.cost import LANES, RESERVED, ROW_OPTIMIZERS, Prices
from seo_rec.plan.estimate import default_placements, estimate
from seo_rec.plan.offload import (
    CACHEABLE,
    DEFAULT_KERNELS,
    LOAD_FACTORS,
    Cache,
    Counts,
    check_kernels,
)
from seo_rec.plan.placement import CACHED, UVM_CACHING, Placement, PlanError, check_placements
from seo_rec.plan.plan_file import Estimate, Plan
from seo_rec.plan.shortage import flat_shortage, host_shortage
from seo_rec.plan.topology import Topology
from seo_rec.policy import Policy
from seo_rec.policy.dtypes import FLOAT_BYTES
from seo_rec.schema import Schema
from seo_rec.settings import STORAGES

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
    compute_kernels: Sequence[str] = DEFAULT_KERNELS,
    cache_load_factor: float | None = None,
    counts: Counts | None = None,
    storage: str = "float32",
) -> Plan:
    """Place every table of ``policy`` so that the step is short and every device can hold its part.

    Tables are packed whole, longest first. Wide tables are cut in columns, ever finer, as long as
    that shortens the step, at multiples of 4. A table that no device can hold goes to all of them
    by rows; on CUDA a heavily read one may, too. A tiny table may stay on every rank. What does not
    fit into several GPUs is kept in main memory, with a cache of its rows on the GPUs. Equal
    arguments give equal plans.

    Args:
        policy: tables and lookups.
        topology: devices.
        batch_size: rows of one rank's batch.
        row_optimizer: adam, adagrad, rowwise_adagrad (never cut in columns: its state is one
            number per row *of a shard*), sgd or lazy_adam.
        rates: mean ids per bag by column (:func:`rates_of`); 1 for all if None.
        row_l2: weight decay of the tables, which then have dense gradients.
        default: whether to compare with TorchRec's own plan; None: up to 32 ranks.
        copyable: whether a table may stay on every rank, where its gradient is dense; never under
            lazy_adam.
        compute_kernels: fused, and what may hold tables that do not fit: fused_uvm_caching (main
            memory), key_value (SSD).
        cache_load_factor: rows of a table that the GPU caches, as a part of all; None: the part
            with the shortest step.
        counts: how often each id of a column occurs, or None of a column where that is unknown;
            decides the hit rates of caches. Unknown ids are taken to be read evenly.
        storage: type of the tables while they are trained: float32, or float16 or bfloat16, whose
            tables are neither copied to every rank nor kept outside the devices.

    Raises:
        PlanError: an argument is out of range, or the tables or flat arrays do not fit.
    """
    if row_optimizer not in ROW_OPTIMIZERS:
        raise PlanError(
            f"row optimizer {row_optimizer!r}; allowed: {', '.join(sorted(ROW_OPTIMIZERS))}"
        )
    if not 1 <= batch_size <= MAX_BATCH:
        raise PlanError(f"batch {batch_size}; allowed: 1 to {MAX_BATCH} rows of one rank")
    kernels = check_kernels(compute_kernels, cache_load_factor)
    if storage not in STORAGES:
        raise PlanError(f"storage {storage!r}; allowed: {', '.join(STORAGES)}")
    if storage != "float32" and policy.arrays:
        raise PlanError(
            f"--storage {storage} with flat arrays, which are trained in float32; allowed: "
            "--storage float32, or a policy of tables"
        )
    prices = Prices(policy, topology, batch_size, row_optimizer, rates, row_l2, counts, storage)
    usable = int(topology.memory_bytes * (1 - RESERVED))
    if prices.flat_bytes() >= usable:
        raise flat_shortage(prices, usable)
    task = Task(policy, prices, usable - prices.flat_bytes())
    caches = _caches(prices, kernels, cache_load_factor)
    search = _Search(task, copyable and storage == "float32", caches)
    alone = topology.world_size == 1 or not policy.tables
    placements = Attempt(task, Choice()).alone() if alone else search.best()
    check_placements(policy, placements, topology.world_size)
    notes = [*search.notes(), *_notes_of_caches(placements, prices, counts)]
    if prices.saved:
        notes.append(f"weights of {storage} take {FLOAT_BYTES[storage]} bytes each, states 4")
    other = _default(task, default, notes)
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


def _default(task: Task, wanted: bool | None, notes: list[str]) -> Estimate | None:
    """What TorchRec's own plan costs, or None; then a note says why."""
    prices = task.prices
    wanted = task.world_size <= DEFAULT_UP_TO if wanted is None else wanted
    if not wanted or not task.policy.tables:
        notes.append(f"TorchRec's plan was not asked for (by default: up to {DEFAULT_UP_TO} ranks)")
        return None
    found = default_placements(
        task.policy, prices.topology, prices.batch_size, prices.row_optimizer
    )
    if isinstance(found, str):
        notes.append(found)
        return None
    other = estimate(found, prices)
    if max(r.memory_bytes for r in other.ranks) > task.capacity:
        notes.append("TorchRec's plan does not fit: it leaves no 15 % of a device free")
    return other


def _caches(prices: Prices, kernels: Sequence[str], load_factor: float | None) -> list[Cache]:
    """What may hold tables that do not fit, in the order of trying; empty where nothing may."""
    topology = prices.topology
    on_gpus = topology.device == "cuda" and topology.world_size > 1
    if not on_gpus or prices.row_optimizer not in CACHEABLE or prices.row_l2 or prices.saved:
        return []
    loads = LOAD_FACTORS if load_factor is None else (load_factor,)
    return [
        Cache(kernel, load)
        for kernel in CACHED
        if kernel in kernels and (kernel != UVM_CACHING or topology.host_memory_bytes)
        for load in loads
    ]


def _notes_of_caches(
    placements: tuple[Placement, ...], prices: Prices, counts: Counts | None
) -> Iterator[str]:
    """Which tables are outside the devices, why, and what that is expected to cost."""
    cached = {
        p.table: Cache(p.compute_kernel, p.cache_load_factor)
        for p in placements
        if p.cache_load_factor is not None
    }
    if not cached:
        return
    prices = prices.with_cache(cached)
    cache = next(iter(cached.values()))
    within = tuple(replace(p, compute_kernel="fused", cache_load_factor=None) for p in placements)
    more = estimate(placements, prices).step_ms - estimate(within, prices).step_ms
    floats = sum(prices.tables[t].num_rows * prices.tables[t].dim for t in cached)
    where = "in main memory" if cache.kernel == UVM_CACHING else "on SSD"
    yield (
        f"{cache.kernel}: {len(cached)} of {len(placements)} tables ({floats:,} floats) are "
        f"{where}, because the devices cannot hold all tables and states; the GPUs cache "
        f"{cache.load_factor:.4g} of their rows"
    )
    rates = [prices.hit_rate(t) for t in cached]
    known = "by the id counts of the data" if counts else "as if rows were read evenly (no counts)"
    yield (
        f"{cache.kernel}: a cache is expected to have {100 * min(rates):.1f} to "
        f"{100 * max(rates):.1f} % of the rows that are read, {known}; other rows cross the bus, "
        f"which makes the step {more:.4g} ms longer than memory that holds all would"
    )


def rates_of(schema: Schema) -> dict[str, float]:
    """Mean ids per bag of every categorical column of a prepared data set."""
    return {c.name: c.lookups_per_row for c in schema.features}


class _Search:
    """The plans that are tried for one policy, and the best of them."""

    def __init__(self, task: Task, copyable: bool, caches: list[Cache]) -> None:
        self.task, self.caches = task, caches
        self.policy, self.prices = task.policy, task.prices
        self.copyable = copyable and task.prices.row_optimizer != "lazy_adam"
        topology = task.prices.topology  # several GPUs in each of several machines
        self.machines = topology.device == "cuda" and topology.nodes > 1 < topology.local_size
        self.within = Attempt(task, Choice())  # prices of tables that are in the devices

    def notes(self) -> Iterator[str]:
        if flat := self.prices.flat_bytes():
            yield f"flat arrays are on every rank and take {flat:,} bytes there, not shown"
        if self.task.world_size > 1 and not self.task.cuttable:
            yield (
                "rowwise_adagrad: no table is cut in columns, because its state is one number per "
                "row of a shard and a cut would change the training"
            )

        odd = [t.name for t in self.policy.tables if t.dim % LANES]
        if self.prices.topology.device == "cuda" and self.task.world_size > 1 and odd:
            yield (
                f"{len(odd)} table(s), {odd[0]!r} among them, are no multiple of {LANES} floats "
                "wide and cannot be trained sharded on GPUs, where FBGEMM reads rows in fours"
            )

    def start(self) -> Tried:
        """Whole tables within the devices; if they do not fit, some of them outside.

        Raises:
            PlanError: nothing fits.
        """
        can_fit = self._least(frozenset(), None) <= self.task.world_size * self.task.capacity
        within = self._if_it_fits(Choice()) if can_fit or not self.caches else []
        if within:
            return within[0]
        found: list[Tried] = []
        for kernel in dict.fromkeys(c.kernel for c in self.caches):
            for cache in [c for c in self.caches if c.kernel == kernel]:
                found += self._few_outside(cache)
            if found:
                return _chosen(found)
        # to say why: not even all of them outside fit, or none may be outside
        if not self.caches:
            return self.attempt(Choice())
        return self.attempt(Choice(cached=frozenset(self.prices.tables), cache=self.caches[-1]))

    def _few_outside(self, cache: Cache) -> list[Tried]:
        """As few tables outside as fit, about; those with the fewest reads per row go first."""
        prices, coldest = self.prices, sorted(self.prices.tables)
        coldest.sort(key=lambda t: sum(prices.reads[t]) / prices.tables[t].num_rows)
        room = self.task.world_size * self.task.capacity
        counts = range(1, len(coldest) + 1)
        first = next((n for n in counts if self._least(coldest[:n], cache) <= room), None)
        count, more = first or len(coldest) + 1, 1
        while count <= len(coldest):
            cached = frozenset(coldest[:count])
            whole = Choice(cached=cached, cache=cache)
            shared = [replace(whole, on_machine=cached)] if self.machines else []
            fits = [t for choice in (whole, *shared) for t in self._if_it_fits(choice)]
            if fits := fits or self._if_it_fits(replace(whole, by_row=cached)):
                return fits
            last = count == len(coldest)
            count, more = count + 1 if last else min(count + more, len(coldest)), 2 * more
        return []

    def _least(self, cached: Iterable[str], cache: Cache | None) -> int:
        """Bytes that the devices need together, whatever the cuts."""
        prices = Attempt(self.task, Choice(cached=frozenset(cached), cache=cache))
        return sum(prices.whole(t).memory for t in self.prices.tables)

    def best(self) -> tuple[Placement, ...]:
        """The shortest step of the plans tried; of equal ones, the one with fewest shards.

        A balanced plan is taken in its place if its step is hardly longer: the estimates are not
        that good, and an even load is also one that memory and the network bear best. Whole
        tables are taken unless something else is clearly shorter than they are.
        """
        tried = [self.start()]
        base = tried[0].choice
        if self.task.cuttable:
            for largest in LARGEST_PIECE:
                tried += self._if_it_fits(replace(base, largest=largest))
            few = self.task.world_size <= FEW_RANKS
            for start in [t.choice for t in tried[1:]] if few else [_chosen(tried).choice]:
                tried += self._if_it_fits(replace(start, shifted=True))
        for choice in self._other_kinds(_chosen(tried), base):
            tried += self._if_it_fits(choice)
        found, whole = self._better_on_machines(_chosen(tried), base), tried[0]
        enough = CLEARLY_SHORTER[self.prices.topology.device] * whole.estimate.step_ms
        return (found if found.estimate.step_ms <= enough else whole).placements

    def _other_kinds(self, found: Tried, base: Choice) -> Iterator[Choice]:
        """``found``, and its uncut form, with the heaviest tables on every rank or by rows."""
        starts = dict.fromkeys((found.choice, base))
        heaviest = self._heaviest(base)
        copied = [t for t in heaviest if self.copyable and self._is_small(t)]
        enough = 1000 * self.task.world_size
        by_row = [t for t in heaviest if self.prices.tables[t].num_rows >= enough]
        if self.prices.topology.device != "cuda" or found.estimate.imbalance <= BALANCED:
            by_row = []
        for start in starts:
            sets = [frozenset(copied[:count]) for count in HEAVIEST]
            for everywhere in dict.fromkeys((self._tiny() - base.cached, *sets)):
                if everywhere:
                    yield replace(start, everywhere=everywhere)
            for count in HEAVIEST:
                if by_row[:count]:
                    yield replace(start, by_row=start.by_row | set(by_row[:count]))

    def _heaviest(self, base: Choice) -> list[str]:
        """The tables within the devices, the one with the longest time first."""
        within = set(self.prices.tables) - base.cached
        return sorted(within, key=lambda t: (-self.within.whole(t).ms, t))

    def _better_on_machines(self, found: Tried, base: Choice) -> Tried:
        """``found``, or tables on machines in place of ranks, if the load is as even and that pays.

        A rank that holds a much-read table alone sends its vectors to all others; the ranks of a
        machine, which hold it by rows, add them up over their faster links and send an equal share.
        """
        local = self.prices.topology.local_size
        if not self.machines or found.estimate.imbalance <= BALANCED:
            return found
        tables = [
            t
            for t in self._heaviest(base)
            if self.prices.tables[t].num_rows >= 1000 * local
            and self.prices.tables[t].dim % LANES == 0
        ]
        better = [found]
        counts = [n for n in (*HEAVIEST, 16, 32, 64) if n < len(tables)]
        for count in [*counts, len(tables)] if tables else []:
            chosen = frozenset(tables[:count])
            for largest in LARGEST_PIECE if self.task.cuttable else (math.inf,):
                choice = replace(base, on_machine=chosen, largest=largest)
                tried = self._if_it_fits(choice)
                better += [t for t in tried if t.estimate.imbalance <= found.estimate.imbalance]
        return _chosen(better)

    def attempt(self, choice: Choice) -> Tried:
        """Raises: PlanError if the choice does not fit into the devices or the main memory."""
        placements = Attempt(self.task, choice).place()
        found = estimate(placements, self.prices)
        topology = self.prices.topology
        if choice.cache and choice.cache.kernel == UVM_CACHING:
            share = int(topology.host_memory_bytes * (1 - RESERVED)) * topology.local_size
            ranks = [r.host_memory_bytes for r in found.ranks]
            machines = range(0, len(ranks), topology.local_size)
            fullest = max(sum(ranks[first : first + topology.local_size]) for first in machines)
            if fullest > share:
                raise host_shortage(self.prices, share, fullest)
        return Tried(choice, placements, found)

    def _if_it_fits(self, choice: Choice) -> list[Tried]:
        try:
            return [self.attempt(choice)]
        except PlanError:
            return []

    def _is_small(self, table: str) -> bool:
        return self.within.everywhere(table).memory <= TINY * self.task.capacity

    def _tiny(self) -> frozenset[str]:
        """Tables that cost each rank less when all keep a copy than as a share of one exchange."""
        room = 10 * TINY * self.task.capacity if self.copyable else 0.0
        found = set()
        for table in sorted(self.prices.tables):
            copy = self.within.everywhere(table)
            share = self.within.whole(table).ms / self.task.world_size
            if self._is_small(table) and copy.memory <= room and copy.ms <= share:
                found.add(table)
                room -= copy.memory
        return frozenset(found)


def _chosen(tried: list[Tried]) -> Tried:
    shortest = min(tried, key=lambda t: t.rank)
    enough = HARDLY_LONGER * shortest.estimate.step_ms
    balanced = [
        t for t in tried if t.estimate.imbalance <= BALANCED and t.estimate.step_ms <= enough
    ]
    return min(balanced, key=lambda t: t.rank, default=shortest)
