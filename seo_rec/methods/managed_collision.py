"""Managed collision (TorchRec's ZCH): an online map from ids to rows, which evicts.

A map of a feature sees the training rows batch after batch. It keeps as many ids as it has rows, by
the rule of TorchRec's ``MCHManagedCollisionModule``, and its last state is the policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seo_rec.methods.origin import lookup_seed, settings_provenance
from seo_rec.policy import (
    Allowance,
    Feature,
    Ids,
    Lookup,
    Policy,
    PolicyError,
    Table,
    split_rows,
)
from seo_rec.policy.allowance import BudgetSettings
from seo_rec.policy.budget import level
from seo_rec.schema import Schema

EVICTIONS = ("distance-lfu", "lfu")

Batches = Iterable[Mapping[str, Ids]]  # the ids of every feature, batch after batch
Counts = Mapping[str, tuple[Ids, Ids]]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ManagedCollisionSettings(BudgetSettings):
    """Settings of managed-collision: how ids compete for rows while training rows stream by.

    Args:
        dim: Width of a row, in floats.
        evict: Ids of the smallest count go (lfu), or of the smallest count over age (distance-lfu).
        decay: Power of the age in distance-lfu.
        interval: Batches from one choice of the ids that stay to the next.
        tail_share: Share of the budget for hashed rows of ids without a row; 0: one row a feature.
    """

    dim: int = 16
    evict: str = "distance-lfu"
    decay: float = 1.0
    interval: int = 10
    tail_share: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evict not in EVICTIONS:
            raise ValueError(f"evict is {self.evict!r}; allowed: {', '.join(EVICTIONS)}")
        for name in ("dim", "interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 1 or more")
        if not 0 < self.decay < np.inf:
            raise ValueError(f"decay is {self.decay}; allowed: above 0")
        if self.evict == "lfu" and self.decay != ManagedCollisionSettings.decay:
            raise ValueError(
                f"decay {self.decay} would be ignored; allowed with evict=distance-lfu"
            )
        if not 0 <= self.tail_share < 1:
            raise ValueError(f"tail_share is {self.tail_share}; allowed: 0 to below 1")


class CollisionMap:
    """The ids of one feature that have a row, and what decides which of them stay.

    ``score = count`` (lfu), or ``count / (now - last + 1)^decay`` (distance-lfu) with the number
    ``last`` of the batch in which the id came last. At every choice the ``size`` ids of the largest
    score stay, among those with a row and those seen since the last choice. An id with a row wins
    a tie against a new one; among ids with a row the smaller id wins, among new ones the one that
    was seen more often, and then the smaller id. An id that is evicted loses its count.

    Args:
        size: The most ids that have a row.
        evict: ``lfu`` or ``distance-lfu``.
        decay: Power of the age.
    """

    def __init__(self, size: int, evict: str = "distance-lfu", decay: float = 1.0) -> None:
        self.size, self.evict, self.decay = size, evict, decay
        self.ids: Ids = np.zeros(0, np.int64)  # ascending, as their counts and last batches
        self.counts: Ints = np.zeros(0, np.int64)
        self.last: Ints = np.zeros(0, np.int64)

    def choose(self, seen: Sequence[Ids], now: int) -> None:
        """Let the ids of the batches since the last choice compete with those that have a row.

        Args:
            seen: The ids of each of these batches, in their order.
            now: The number of the last of them.
        """
        batch_V = np.repeat(np.arange(now - len(seen) + 1, now + 1), [len(ids) for ids in seen])
        ids, inverse, counts = np.unique(
            np.concatenate(seen), return_inverse=True, return_counts=True
        )
        last = np.zeros(len(ids), np.int64)
        np.maximum.at(last, inverse, batch_V)
        place = np.searchsorted(self.ids, ids)
        known = np.zeros(len(ids), bool)
        inside = place < len(self.ids)
        known[inside] = self.ids[place[inside]] == ids[inside]
        self.counts[place[known]] += counts[known]
        self.last[place[known]] = last[known]
        new = np.flatnonzero(~known)
        new = new[np.argsort(-counts[new], kind="stable")]
        ids = np.concatenate([self.ids, ids[new]])
        counts = np.concatenate([self.counts, counts[new]])
        last = np.concatenate([self.last, last[new]])
        stay = np.argsort(-self._scores(counts, last, now), kind="stable")[: self.size]
        stay = stay[np.argsort(ids[stay])]
        self.ids, self.counts, self.last = ids[stay], counts[stay], last[stay]

    def _scores(self, counts: Ints, last: Ints, now: int) -> Ints | npt.NDArray[np.float32]:
        if self.evict == "lfu":
            return counts
        age = (now - last + 1).astype(np.float32)  # float32 as in TorchRec, so that ties are equal
        found: npt.NDArray[np.float32] = counts.astype(np.float32) / age ** np.float32(self.decay)
        return found


def managed_collision(
    schema: Schema,
    counts: Counts,
    batches: Batches,
    settings: ManagedCollisionSettings,
    *,
    seed: int = 0,
) -> Policy:
    """``x_f = T_f[u_f + i]`` for the i-th id that the map of feature f holds after all batches.

    All other ids of the feature share its first u_f rows, by hash where there are several. Every
    map has equally many rows, but no more than its feature has training ids; rows that are left
    over go to the first features. See :class:`CollisionMap` for the ids that stay. Batches after
    the last full interval take part in a last choice.

    Args:
        schema: The data set.
        counts: Training ids of every feature, ascending, and how often each occurs.
        batches: The ids of every feature, batch after batch, in the order of the training.
        settings: The budget, the width of a row, and which ids stay.
        seed: Salt of the hash functions.

    Returns:
        The policy. It leaves less than a row with its id of the budget, unless all ids have a row.

    Raises:
        PolicyError: The budget has no room for a shared row of every feature; the message ends
            with the smallest one.
    """
    s, allowance, dim = settings, settings.allowance, settings.dim
    names = [c.name for c in schema.features]
    known = [len(counts[n][0]) for n in names]
    unknown = shared_rows(known, allowance, dim, int(s.tail_share * allowance.amount))
    rest = allowance.amount - sum(unknown) * allowance.row(dim)
    sizes = level(known, rest // (allowance.row(dim) + allowance.ids(1)))
    maps = {n: CollisionMap(size, s.evict, s.decay) for n, size in zip(names, sizes, strict=True)}
    waiting: list[Mapping[str, Ids]] = []
    now = 0
    for now, batch in enumerate(batches, 1):
        waiting.append(batch)
        if len(waiting) == s.interval:
            _choose(maps, waiting, now)
            waiting = []
    if waiting:
        _choose(maps, waiting, now)
    origin = settings_provenance(schema, "managed-collision", s, seed)
    kept = {n: m.ids for n, m in maps.items()}
    return allowance.typed(rows_by_id(kept, unknown, [dim] * len(names), seed, origin))


def _choose(
    maps: Mapping[str, CollisionMap], batches: Sequence[Mapping[str, Ids]], now: int
) -> None:
    for name, of_feature in maps.items():
        of_feature.choose([batch[name] for batch in batches], now)


def rows_by_id(
    kept: Mapping[str, Ids],
    unknown: Sequence[int],
    dims: Sequence[int],
    seed: int,
    origin: Mapping[str, object],
) -> Policy:
    """A table for every feature: shared rows for unknown ids, then a row for every id it keeps.

    Args:
        kept: Ids with a row of their own, ascending, by feature.
        unknown: Rows of every feature that all other ids share by hash, 1 or more.
        dims: Width of the rows of every feature.
        seed: Salt of the hash functions.
        origin: The provenance.
    """
    tables, features = [], []
    for (name, ids), u, dim in zip(kept.items(), unknown, dims, strict=True):
        tables.append(Table(name, u + len(ids), dim))
        salt = lookup_seed(seed, name, 0) if u > 1 else 0
        features.append(Feature(name, (Lookup(name, "id", salt, unknown_rows=u),)))
    return Policy(tuple(tables), tuple(features), (), dict(kept), origin)


def shared_rows(known: Sequence[int], allowance: Allowance, dim: int, room: int) -> list[int]:
    """Rows of every feature for ids without one: they fill the room in proportion to the ids.

    Every feature has one at least, and no more than it has training ids.

    Args:
        known: Training ids of every feature.
        allowance: The budget of the whole policy.
        dim: Width of a row.
        room: Floats or bytes of these rows together.

    Raises:
        PolicyError: The budget is below one row of every feature.
    """
    cost, F = allowance.row(dim), len(known)
    if F * cost > allowance.amount:
        raise PolicyError(
            f"a budget of {allowance} is too small for the shared rows of {F} features; the "
            f"smallest feasible budget is {F * cost}"
        )
    if room < F * cost:
        return [1] * F
    most = [max(1, n) for n in known]
    rows = split_rows(room, [cost] * F, [float(n) for n in most])
    return [min(r, n) for r, n in zip(rows, most, strict=True)]
