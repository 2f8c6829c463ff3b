"""Planning: a policy and a topology become a placement of every table's shards."""

from __future__ import annotations

from seo_rec.plan.placement import (
    EMBEDDING_PATH,
    Placement,
    PlanError,
    Shard,
    check_placements,
    sharding_plan,
)

__all__ = [
    "EMBEDDING_PATH",
    "Placement",
    "PlanError",
    "Shard",
    "check_placements",
    "sharding_plan",
]
