"""CAFE: the sketch beside its definition in plain Python, and the policy of its last state."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import laws
from cases import SCHEMAS, batches, counts
from seo_rec.data.dataset import DataSet
from seo_rec.methods.cafe import CafeSettings, HotSketch, cafe
from seo_rec.methods.origin import lookup_seed
from seo_rec.policy import Allowance, PolicyError
from seo_rec.policy.addresses import lookup_rows
from seo_rec.search.id_batches import id_batches
from seo_rec.search.registry import find
from seo_rec.train import FitSettings, Training
from spec import reference_hash

OF = SCHEMAS["three"]


class SlowSketch:
    """Space-saving: a list of [feature, id, score] for every bucket, one id at a time."""

    def __init__(self, buckets: int, slots: int) -> None:
        self.slots: list[list[list[Any]]] = [
            [[-1, 0, 0.0] for _ in range(slots)] for _ in range(buckets)
        ]

    def insert(self, feature: int, i: int, added: float, bucket: int) -> None:
        held = [s for s in self.slots[bucket] if s[:2] == [feature, i]]
        slot = held[0] if held else min(self.slots[bucket], key=lambda s: s[2])
        slot[:2] = [feature, i]
        slot[2] += added

    def all(self) -> list[list[list[Any]]]:
        return self.slots


def stream(seed: int, ids: int = 900) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, ids), rng.zipf(1.4, ids) % 60, rng.integers(1, 5, ids).astype(float)


@pytest.mark.parametrize("buckets, slots", [(1, 4), (7, 4), (7, 1), (40, 2)])
def test_the_sketch_is_space_saving(buckets: int, slots: int) -> None:
    """The same slots after several calls, whatever ids of one bucket come in one call."""
    mine, slow = HotSketch(buckets, slots), SlowSketch(buckets, slots)
    for seed in range(3):
        feature, ids, added = stream(seed)
        bucket = (ids * 7 + feature) % buckets
        mine.insert(feature, ids, added, bucket)
        for one in zip(
            feature.tolist(), ids.tolist(), added.tolist(), bucket.tolist(), strict=True
        ):
            slow.insert(*one)
        mine.scores *= 0.5
        for slot in (s for b in slow.all() for s in b):
            slot[2] *= 0.5
        found = np.stack([mine.features, mine.ids, mine.scores], axis=2)
        np.testing.assert_array_equal(found, np.array(slow.all(), float))


def test_scores_are_bounded_by_what_was_added() -> None:
    """An id with more than a slot's share of its bucket is held; no score is below its sum."""
    W, S = 9, 4
    sketch, added_to, by_bucket = HotSketch(W, S), Counter[tuple[int, int]](), Counter[int]()
    feature, ids, added = stream(5, 4_000)
    bucket = (ids + 3 * feature) % W
    sketch.insert(feature, ids, added, bucket)
    for f, i, a, b in zip(feature.tolist(), ids.tolist(), added, bucket.tolist(), strict=True):
        added_to[f, i] += a
        by_bucket[b] += a
    held = {
        (f, i): (score, b)
        for b in range(W)
        for f, i, score in zip(
            sketch.features[b].tolist(), sketch.ids[b].tolist(), sketch.scores[b], strict=True
        )
    }
    for (f, i), total in added_to.items():
        b = (i + 3 * f) % W
        if total > by_bucket[b] / S:
            assert (f, i) in held
        if (f, i) in held:
            assert total <= held[f, i][0] <= total + by_bucket[b] / S
    assert sum(score for score, _ in held.values()) == sum(added_to.values())
    hot = list(zip(*(a.tolist() for a in sketch.hottest(10)), strict=True))
    assert hot == sorted(held, key=lambda k: (-held[k][0], *k))[:10]


def test_the_policy_is_the_last_state() -> None:
    """By the definition: counts of every batch, decay after every third, the largest scores."""
    read, row = batches(OF, 10), 16
    policy = cafe(
        OF, counts(OF), read, CafeSettings(num_bytes=2_000, dim=4, interval=3, decay=0.5), seed=8
    )
    unknown = [f.lookups[0].unknown_rows for f in policy.features]
    hot = (2_000 - sum(unknown) * row) // (row + 8)
    slow = SlowSketch(hot, 4)
    for number, batch in enumerate(read, 1):
        for f, c in enumerate(OF.features):
            seed = lookup_seed(8, c.name, "sketch")
            for i, n in sorted(Counter(batch[c.name].tolist()).items()):
                slow.insert(f, i, n, reference_hash(i, seed, hot))
        if number % 3 == 0:
            for slot in (s for b in slow.all() for s in b):
                slot[2] *= 0.5
    held = [s for b in slow.all() for s in b if s[0] >= 0]
    held.sort(key=lambda s: (-s[2], s[0], s[1]))
    wanted = {(OF.features[f].name, i) for f, i, _ in held[:hot]}
    kept = {(n, i) for n, ids in policy.vocabularies.items() for i in ids.tolist()}
    assert kept == wanted and len(kept) == hot
    assert 0 <= 2_000 - policy.num_bytes < row + 8


def test_other_ids_share_hashed_rows() -> None:
    policy = cafe(
        OF, counts(OF), batches(OF), CafeSettings(num_bytes=3_000, precision="int8", dim=4), seed=1
    )
    hashed = [f.lookups[0].unknown_rows for f in policy.features]
    assert 0.8 * 0.3 * 3_000 <= laws.bytes_of_a_row(4, "int8") * sum(hashed) <= 0.3 * 3_000
    item = policy.features[1]
    rows = lookup_rows(policy, item, item.lookups[0], counts(OF)["item"][0])
    kept = np.isin(counts(OF)["item"][0], policy.vocabularies["item"])
    assert (rows[kept] >= hashed[1]).all() and (rows[~kept] < hashed[1]).all()
    assert len(set(rows[~kept].tolist())) > hashed[1] / 2


def test_what_hot_ids_leave_goes_to_the_shared_rows() -> None:
    """One batch of few ids: the sketch holds them all, and the budget is filled all the same."""
    few = [{c.name: counts(OF)[c.name][0][:5] for c in OF.features}]
    policy = cafe(OF, counts(OF), few, CafeSettings(num_bytes=4_000, dim=4))
    assert [len(ids) for ids in policy.vocabularies.values()] == [5, 5, 5]
    assert 0 <= 4_000 - policy.num_bytes < 16


def test_the_smallest_budget_is_named() -> None:
    with pytest.raises(PolicyError, match="feasible budget is 12"):
        cafe(OF, counts(OF), [], CafeSettings(11, dim=4))
    assert cafe(OF, counts(OF), batches(OF), CafeSettings(12, dim=4)).num_params == 12


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"slots": 0}, "slots is 0; allowed: 1 or more"),
        ({"interval": 0}, "interval is 0; allowed: 1 or more"),
        ({"dim": 0}, "dim is 0; allowed: 1 or more"),
        ({"decay": 1.1}, r"decay is 1.1; allowed: above 0 to 1"),
        ({"tail_share": 1.0}, r"tail_share is 1.0; allowed: 0 to below 1"),
    ],
)
def test_settings_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CafeSettings(**changes)


def test_the_method_reads_the_stream_of_a_training(tiny_data: DataSet) -> None:
    training = Training(fit=FitSettings(batch_size=100, seed=5))
    budget, method = Allowance(4_000, "bytes"), find("cafe")
    settings = method.settings_at(budget, 4, training, {"decay": 0.5})
    known = {c.name: tiny_data.counts(c.name) for c in tiny_data.schema.features}
    read = list(id_batches(tiny_data, 5))
    wanted = cafe(
        tiny_data.schema, known, read, CafeSettings(**budget.to_json(), dim=4, decay=0.5), seed=5
    )
    assert method.decide(tiny_data, settings, training).policy == wanted
