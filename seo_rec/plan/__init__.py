"""Planning: a policy and a topology become a placement of every table's shards.

In: a policy, how many ids a row reads, and the machines (:mod:`~seo_rec.plan.topology`). Out: a
:class:`Plan`, the file ``plan.json``, with a TorchRec ``ShardingPlan`` in it. Begin with
:func:`plan_policy`: :mod:`~seo_rec.plan.attempt` carries out one choice of how to cut tables,
:mod:`~seo_rec.plan.estimate` and :mod:`~seo_rec.plan.cost` say how long a step then takes, and the
cheapest choice that fits the memory stays.
"""

from __future__ import annotations

from seo_rec.plan.cost import LANES, updates_rows
from seo_rec.plan.offload import CACHEABLE, DEFAULT_KERNELS
from seo_rec.plan.placement import (
    CACHED,
    EMBEDDING_PATH,
    FUSED,
    KEY_VALUE,
    UVM_CACHING,
    Placement,
    PlanError,
    Shard,
    check_placements,
    sharding_plan,
)
from seo_rec.plan.plan_file import Estimate, Plan, RankLoad
from seo_rec.plan.planner import plan_policy, rates_of
from seo_rec.plan.topology import PRESETS, Topology, read_topology

__all__ = [
    "CACHEABLE",
    "CACHED",
    "DEFAULT_KERNELS",
    "EMBEDDING_PATH",
    "FUSED",
    "KEY_VALUE",
    "LANES",
    "PRESETS",
    "UVM_CACHING",
    "Estimate",
    "Placement",
    "Plan",
    "PlanError",
    "RankLoad",
    "Shard",
    "Topology",
    "check_placements",
    "plan_policy",
    "rates_of",
    "read_topology",
    "sharding_plan",
    "updates_rows",
]
