"""CAFE: a sketch of the training stream finds the hot ids, which have rows; others share by hash.

"CAFE: Towards Compact, Adaptive, and Fast Embedding for Large-scale Recommendation Models" (Zhang
et al., SIGMOD 2024). Letters: W buckets of the sketch, S slots of a bucket, N ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seo_rec.methods.managed_collision import Batches, Counts, rows_by_id, shared_rows
from seo_rec.methods.origin import lookup_seed, settings_provenance
from seo_rec.policy import Ids, Policy
from seo_rec.policy.addresses import hash_rows
from seo_rec.policy.allowance import BudgetSettings
from seo_rec.schema import Schema

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CafeSettings(BudgetSettings):
    """Settings of cafe: how a sketch finds the hot ids while training rows stream by.

    Args:
        dim: Width of a row, in floats.
        tail_share: Share of the budget for the hashed rows of ids that are not hot.
        slots: Ids that a bucket of the sketch holds.
        decay: Factor of all scores after every interval.
        interval: Batches from one decay to the next.
    """

    dim: int = 16
    tail_share: float = 0.3
    slots: int = 4
    decay: float = 0.98
    interval: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("dim", "slots", "interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 1 or more")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay is {self.decay}; allowed: above 0 to 1")
        if not 0 <= self.tail_share < 1:
            raise ValueError(f"tail_share is {self.tail_share}; allowed: 0 to below 1")


class HotSketch:
    """Space-saving in buckets: scores of the ids that were seen most, in fixed memory.

    An id belongs to one bucket by hash. If it is in a slot there, its score grows by what is added.
    Otherwise it takes the slot of the smallest score (the first of several) and adds to that score;
    an empty slot has the score 0. As long as nothing decays, an id with more than ``1 / S`` of all
    that was added to its bucket is held, and the score of an id that is held is between the sum
    that was added for it and this sum plus ``1 / S`` of all that was added to its bucket.

    Args:
        buckets: W.
        slots: S.
    """

    def __init__(self, buckets: int, slots: int) -> None:
        self.features: Ints = np.full((buckets, slots), -1, np.int64)
        self.ids: Ids = np.zeros((buckets, slots), np.int64)
        self.scores: Floats = np.zeros((buckets, slots))

    def insert(self, feature_N: Ints, ids_N: Ids, added_N: Floats, bucket_N: Ints) -> None:
        """Add to the scores of ids, one after the other.

        Args:
            feature_N: The number of the feature of each id, from 0.
            ids_N: The ids.
            added_N: What each adds, above 0.
            bucket_N: The bucket of each, in [0, W).
        """
        order = np.argsort(bucket_N, kind="stable")
        sorted_N = bucket_N[order]
        first = np.searchsorted(sorted_N, sorted_N)
        turn = np.arange(len(order)) - first  # ids of one bucket take turns
        by_turn = order[np.argsort(turn, kind="stable")]
        ends = np.cumsum(np.bincount(turn)) if len(turn) else turn
        start = 0
        for end in ends:
            self._insert_one_each(by_turn[start:end], feature_N, ids_N, added_N, bucket_N)
            start = end

    def _insert_one_each(
        self, at: Ints, feature_N: Ints, ids_N: Ids, added_N: Floats, bucket_N: Ints
    ) -> None:
        """The ids at some places, no two of which are of one bucket."""
        bucket, feature, ids = bucket_N[at], feature_N[at], ids_N[at]
        held = (self.ids[bucket] == ids[:, None]) & (self.features[bucket] == feature[:, None])
        slot = np.where(held.any(1), held.argmax(1), self.scores[bucket].argmin(1))
        self.features[bucket, slot], self.ids[bucket, slot] = feature, ids
        self.scores[bucket, slot] += added_N[at]

    def hottest(self, count: int) -> tuple[Ints, Ids]:
        """Features and ids of the largest scores, at most ``count``, the largest first.

        Ties go to the first feature, and then to the smaller id.
        """
        held = self.features >= 0
        feature, ids, scores = self.features[held], self.ids[held], self.scores[held]
        first = np.lexsort((ids, feature, -scores))[:count]
        return feature[first], ids[first]


def cafe(
    schema: Schema,
    counts: Counts,
    batches: Batches,
    settings: CafeSettings,
    *,
    seed: int = 0,
) -> Policy:
    """``x_f = T_f[u_f + i]`` for the i-th hot id of feature f, a hashed row of T_f for all others.

    One :class:`HotSketch` of all features sees every batch; an id adds how often it occurs there.
    H hot ids would fill what the shared rows leave of the budget; the sketch has H buckets. After
    the last batch the H ids of the largest scores are hot. Where the sketch holds fewer, what they
    leave of the budget goes to the shared rows.

    The paper adds the norm of the gradient of the id's row, and gives its count as the simpler
    score, which needs no model. It moves rows between the two kinds while it trains; the policy is
    the last state, and is trained from the start.

    Args:
        schema: The data set.
        counts: Training ids of every feature, ascending, and how often each occurs.
        batches: The ids of every feature, batch after batch, in the order of the training.
        settings: The budget, the width of a row, and how the sketch forgets.
        seed: Salt of the hash functions.

    Raises:
        PolicyError: The budget has no room for a shared row of every feature; the message ends
            with the smallest one.
    """
    s, allowance, dim = settings, settings.allowance, settings.dim
    names = [c.name for c in schema.features]
    known = [len(counts[n][0]) for n in names]
    row, of_id = allowance.row(dim), allowance.row(dim) + allowance.ids(1)
    unknown = shared_rows(known, allowance, dim, int(s.tail_share * allowance.amount))
    hot = min((allowance.amount - sum(unknown) * row) // of_id, sum(known))
    sketch = HotSketch(max(1, hot), s.slots)
    salts = [lookup_seed(seed, n, "sketch") for n in names]
    for number, batch in enumerate(batches, 1):
        found = [np.unique(batch[n], return_counts=True) for n in names]
        feature = np.repeat(np.arange(len(names)), [len(ids) for ids, _ in found])
        bucket = [hash_rows(i, k, max(1, hot)) for (i, _), k in zip(found, salts, strict=True)]
        ids = np.concatenate([i for i, _ in found])
        added = np.concatenate([n for _, n in found]).astype(np.float64)
        sketch.insert(feature, ids, added, np.concatenate(bucket))
        if number % s.interval == 0:
            sketch.scores *= s.decay
    feature, ids = sketch.hottest(hot)
    kept = {n: np.sort(ids[feature == f]) for f, n in enumerate(names)}
    if len(ids) < hot:
        unknown = shared_rows(known, allowance, dim, allowance.amount - len(ids) * of_id)
    origin = settings_provenance(schema, "cafe", s, seed)
    return allowance.typed(rows_by_id(kept, unknown, [dim] * len(names), seed, origin))
