"""What placements cost, rank by rank, whether we made them or TorchRec's own planner did.

Letters: W ranks.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.constants import UVM_CACHING_RATIO
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError
from torchrec.distributed.types import ParameterSharding, ShardingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from seo_rec.embed.tables import table_configs, table_key
from seo_rec.plan.cost import PHASES, ROW_OPTIMIZERS, Prices, torchrec_topology
from seo_rec.plan.offload import Cache
from seo_rec.plan.placement import CACHED, UVM_CACHING, Placement, Shard
from seo_rec.plan.plan_file import Estimate, RankLoad
from seo_rec.plan.topology import Topology
from seo_rec.policy import Policy

_DATA_PARALLEL = ShardingType.DATA_PARALLEL.value
_UVM, _NO_CACHE = EmbeddingComputeKernel.FUSED_UVM.value, 1e-9
DIGITS = 9  # of a number in the file: more than the estimate is worth, few enough to be stable


def estimate(placements: tuple[Placement, ...], prices: Prices) -> Estimate:
    """Add up the prices of all shards on their ranks; see :class:`Estimate`."""
    size = prices.topology.world_size
    prices = prices.with_cache(
        {
            p.table: Cache(p.compute_kernel, p.cache_load_factor)
            for p in placements
            if p.cache_load_factor is not None
        }
    )
    phases_W5 = np.zeros((size, len(PHASES)))
    memory, tables, lookups = np.zeros(size), np.zeros(size, dtype=np.int64), np.zeros(size)
    host = np.zeros(size)
    for p in placements:
        table = prices.tables[p.table]
        whole = Shard(0, 0, 0, table.num_rows, table.dim)
        used = set()
        for s in p.shards or (whole,):
            if not s.rows:
                continue
            at: int | slice = s.rank if p.shards else slice(None)
            price = prices.price(p.table, p.kind, s.rows, s.columns)
            phases_W5[at] += price.phases
            memory[at] += price.memory
            host[at] += price.host
            lookups[at] += prices.lookups_per_sample(p.table, p.kind)
            tables[at] += 0 if s.rank in used else 1
            used.add(s.rank)
    ms = phases_W5.sum(axis=1)
    slowest = phases_W5.max(axis=0)
    if placements:
        slowest += prices.exchanges_ms(p.kind for p in placements)
    return Estimate(
        ranks=tuple(
            RankLoad(int(t), int(m), _short(k), _short(x), int(h))
            for t, m, k, x, h in zip(tables, memory, lookups, ms, host, strict=True)
        ),
        imbalance=_short(ms.max() / ms.mean()) if ms.mean() else 1.0,
        step_ms=_short(slowest.sum()),
        phases_ms={name: _short(x) for name, x in zip(PHASES, slowest, strict=True)},
    )


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def default_placements(
    policy: Policy,
    topology: Topology,
    batch_size: int,
    row_optimizer: str,
    reads: Mapping[str, list[float]] | None = None,
) -> tuple[Placement, ...] | str:
    """What TorchRec's planner does with the policy's tables, or why it has no plan.

    It is used as it comes: its proposers, partitioner, constants and storage reservation, with the
    same topology and batch, and told nothing about how often a table is read (the default), or
    told ``reads``, the mean ids of every lookup by table, as its pooling factors.
    """
    ebc = EmbeddingBagCollection(tables=table_configs(policy), device=torch.device("meta"))
    for weight in ebc.parameters():
        weight._optimizer_classes = [ROW_OPTIMIZERS[row_optimizer]]  # type: ignore[attr-defined]
    try:
        with _quiet():
            planner = EmbeddingShardingPlanner(
                topology=torchrec_topology(topology),
                batch_size=batch_size,
                constraints=None if reads is None else _constraints(reads),
                stats=[],
                debug=False,
            )
            found = planner.plan(ebc, [EmbeddingBagCollectionSharder()]).plan[""]
    except (PlannerError, RuntimeError, ValueError) as error:
        return f"TorchRec's planner finds none: {str(error).strip().splitlines()[0]}"
    placements = []
    for t in policy.tables:
        sharding = found[table_key(t.name)]
        shards = () if sharding.sharding_spec is None else sharding.sharding_spec.shards
        placements.append(
            Placement(
                t.name,
                sharding.sharding_type,
                tuple(
                    Shard(s.placement.rank(), *s.shard_offsets, *s.shard_sizes)
                    for s in (() if sharding.sharding_type == _DATA_PARALLEL else shards)
                ),
                *_kernel(sharding),
            )
        )
    return tuple(placements)


def _kernel(sharding: ParameterSharding) -> tuple[str, float | None]:
    """The kernel of a table by TorchRec's plan, and its cache, as a placement has them."""
    if sharding.compute_kernel == _UVM:  # every row that is read crosses the bus
        return UVM_CACHING, _NO_CACHE
    if sharding.compute_kernel not in CACHED:
        return sharding.compute_kernel, None
    cache = sharding.cache_params
    load = UVM_CACHING_RATIO if cache is None or not cache.load_factor else cache.load_factor
    return sharding.compute_kernel, load


@contextmanager
def _quiet() -> Iterator[None]:
    """TorchRec's planner logs what it tries, and warns of every table that it keeps on all ranks.

    That warning goes to the root logger, which would also get a handler if it had none.
    """

    def other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Sharding spec not found")

    root, notices = logging.getLogger(), logging.getLogger("torchrec.distributed.planner")
    level, handler = notices.level, logging.NullHandler()
    notices.setLevel(logging.CRITICAL)
    root.addFilter(other)
    root.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of its own storage reservation
            yield
    finally:
        root.removeHandler(handler)
        root.removeFilter(other)
        notices.setLevel(level)


def _constraints(reads: Mapping[str, list[float]]) -> dict[str, ParameterConstraints]:
    return {table_key(t): ParameterConstraints(pooling_factors=list(r)) for t, r in reads.items()}
