"""Planning: a policy and a topology become a placement of every table's shards."""

from __future__ import annotations

from seo_rec.plan.cost import LANES, updates_rows
from seo_rec.plan.placement import (
    EMBEDDING_PATH,
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
    "EMBEDDING_PATH",
    "LANES",
    "PRESETS",
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
