"""Managed collision: the ids that have a row are the ones that TorchRec's modules keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torchrec.modules.mc_modules import (
    DistanceLFU_EvictionPolicy,
    LFU_EvictionPolicy,
    MCHEvictionPolicy,
    MCHManagedCollisionModule,
)
from torchrec.sparse.jagged_tensor import JaggedTensor

import laws
from cases import SCHEMAS, batches, counts
from seo_rec import methods
from seo_rec.data.dataset import DataSet
from seo_rec.methods.managed_collision import (
    CollisionMap,
    ManagedCollisionSettings,
    level,
    managed_collision,
)
from seo_rec.policy import Allowance, PolicyError
from seo_rec.policy.addresses import lookup_rows
from seo_rec.search.id_batches import id_batches
from seo_rec.search.registry import find
from seo_rec.train import FitSettings, Training, train_stream

OF = SCHEMAS["three"]
POLICIES: dict[str, tuple[Callable[[], MCHEvictionPolicy], dict[str, Any]]] = {
    "lfu": (LFU_EvictionPolicy, {"evict": "lfu"}),
    "distance": (lambda: DistanceLFU_EvictionPolicy(1.0), {}),
    "distance-0.3": (lambda: DistanceLFU_EvictionPolicy(0.3), {"decay": 0.3}),
    "distance-2": (lambda: DistanceLFU_EvictionPolicy(2.0), {"decay": 2.0}),
}


def drifting(seed: int, number: int = 60, rows: int = 200) -> list[np.ndarray]:
    """Batches of ids, few often and many rarely; the often ones change slowly."""
    rng = np.random.default_rng(seed)
    found = []
    for step in range(number):
        ids = rng.zipf(1.3, rows) % 700
        found.append((ids + step // 7 * 3) % 700 + 2**40 * (ids % 2))
    return found


def torchrec_module(size: int, interval: int, policy: MCHEvictionPolicy) -> Any:
    """TorchRec keeps the last of its slots for ids that have none."""
    return MCHManagedCollisionModule(
        zch_size=size + 1,
        device=torch.device("cpu"),
        eviction_policy=policy,
        eviction_interval=interval,
        input_hash_size=2**62,
    )


def jagged(ids: np.ndarray) -> JaggedTensor:
    return JaggedTensor(torch.from_numpy(ids), lengths=torch.ones(len(ids), dtype=torch.int32))


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("size, interval", [(50, 1), (50, 4), (333, 5), (9, 3)])
def test_the_ids_that_stay_are_torchrecs(name: str, size: int, interval: int) -> None:
    """After every choice, on one stream: the same ids, counts and last batches."""
    make, changes = POLICIES[name]
    module = torchrec_module(size, interval, make())
    mine = CollisionMap(size, changes.get("evict", "distance-lfu"), changes.get("decay", 1.0))
    waiting: list[np.ndarray] = []
    evicted = 0
    for now, ids in enumerate(drifting(size), 1):
        module.profile({"f": jagged(ids)})
        waiting.append(ids)
        if len(waiting) < interval:
            continue
        before = set(mine.ids.tolist())
        mine.choose(waiting, now)
        waiting = []
        evicted += len(before - set(mine.ids.tolist()))
        theirs = module._mch_sorted_raw_ids.numpy()
        held = theirs < np.iinfo(np.int64).max
        assert mine.ids.tolist() == theirs[held].tolist()
        assert mine.counts.tolist() == module._mch_counts.numpy()[held].tolist()
        if name != "lfu":
            last = module._mch_last_access_iter.numpy()[held]
            assert mine.last.tolist() == last.tolist()
    assert evicted > 0


@pytest.mark.parametrize("name", POLICIES)
def test_the_policy_gives_rows_as_torchrecs_module_gives_slots(name: str) -> None:
    """Two ids of a feature read one row if and only if they have one slot."""
    make, changes = POLICIES[name]
    stream = batches(OF, number=12)
    row, ids = 16, 8
    budget = 3 * row + 75 * (row + ids)  # 25 rows for each feature, or all ids of a small one
    policy = managed_collision(
        OF,
        counts(OF),
        stream,
        ManagedCollisionSettings(num_bytes=budget, dim=4, interval=3, **changes),
    )
    assert [t.num_rows for t in policy.tables] == [27, 26, 25]  # one more for the first
    for f, table in zip(policy.features, policy.tables, strict=True):
        module = torchrec_module(table.num_rows - 1, 3, make())
        for batch in stream:
            module.profile({f.name: jagged(batch[f.name])})
        known = counts(OF)[f.name][0]
        rows = lookup_rows(policy, f, f.lookups[0], known)
        slots = module.remap({f.name: jagged(known)})[f.name].values().numpy()
        pairs = set(zip(rows.tolist(), slots.tolist(), strict=True))
        assert len(pairs) == len(set(rows.tolist())) == len(set(slots.tolist()))
        assert (rows[slots == table.num_rows - 1] == 0).all()


def test_batches_after_the_last_interval_take_part_in_a_last_choice() -> None:
    stream = batches(OF, number=10)
    policy = managed_collision(
        OF, counts(OF), stream, ManagedCollisionSettings(400, dim=4, interval=4)
    )
    changed = 0
    for f, table in zip(policy.features, policy.tables, strict=True):
        held = CollisionMap(table.num_rows - 1)
        for start in (0, 4, 8):
            before = held.ids.tolist()
            part = stream[start : start + 4]
            held.choose([batch[f.name] for batch in part], start + len(part))
        assert policy.vocabularies[f.name].tolist() == held.ids.tolist()
        changed += held.ids.tolist() != before
    assert changed  # else this test says nothing


@pytest.mark.parametrize("unit, precision", [("bytes", "int8"), ("parameters", "float32")])
@pytest.mark.parametrize("tail_share", [0.0, 0.3])
def test_the_budget_is_filled(unit: str, precision: str, tail_share: float) -> None:
    """Never above it, and less than a row with its id below it."""
    stream = batches(OF, number=200)  # in which nearly all ids occur
    row = laws.bytes_of_a_row(4, precision) if unit == "bytes" else 4
    for amount in range(300, 1_500, 97):
        allowance = Allowance(amount, unit, precision)
        policy = managed_collision(
            OF,
            counts(OF),
            stream,
            ManagedCollisionSettings(**allowance.to_json(), dim=4, tail_share=tail_share),
        )
        assert 0 <= amount - allowance.of(policy) < row + 8
        hashed = sum(f.lookups[0].unknown_rows for f in policy.features)
        assert hashed == 3 if not tail_share else hashed > 3


def test_the_smallest_budget_is_named() -> None:
    with pytest.raises(PolicyError, match="feasible budget is 12"):
        managed_collision(OF, counts(OF), [], ManagedCollisionSettings(11, dim=4))
    policy = managed_collision(OF, counts(OF), batches(OF), ManagedCollisionSettings(12, dim=4))
    assert policy.num_params == 12 and not any(map(len, policy.vocabularies.values()))


def test_with_room_for_all_ids_it_is_collisionless() -> None:
    stream = [{n: ids for n, (ids, _) in counts(OF).items()}]
    known = stream[0]
    made = managed_collision(OF, counts(OF), stream, ManagedCollisionSettings(10**6, dim=4))
    assert made == methods.collisionless(OF, 4, known)


def test_rows_are_dealt_evenly_up_to_the_ids() -> None:
    assert level([3, 100, 10], 50) == [3, 37, 10]
    assert level([30, 100, 10], 50) == [20, 20, 10]
    assert level([5, 5, 5], 8) == [3, 3, 2]
    assert level([2, 0, 3], 99) == [2, 0, 3]
    assert level([], 5) == []


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"evict": "lru"}, "evict is 'lru'; allowed: distance-lfu, lfu"),
        ({"interval": 0}, "interval is 0; allowed: 1 or more"),
        ({"dim": 0}, "dim is 0; allowed: 1 or more"),
        ({"decay": 0.0}, r"decay is 0.0; allowed: above 0"),
        ({"evict": "lfu", "decay": 2.0}, r"decay 2.0 would be ignored; allowed with evict=dist"),
        ({"tail_share": 1.0}, r"tail_share is 1.0; allowed: 0 to below 1"),
    ],
)
def test_settings_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ManagedCollisionSettings(**changes)


def test_the_stream_is_the_first_epoch_of_a_training(tiny_data: DataSet) -> None:
    """The training rows in the order of the seed, whatever the batches of a training are."""
    stream = train_stream(tiny_data, FitSettings(batch_size=100, seed=5))
    names = [c.name for c in tiny_data.schema.features]
    wanted = [{n: b.sparse[n].values().numpy() for n in names} for b in stream]
    for mine, theirs in zip(id_batches(tiny_data, 5, 100), wanted, strict=True):
        assert all(np.array_equal(mine[n], theirs[n]) for n in names)
    other = next(iter(id_batches(tiny_data, 6, 100)))
    assert any(not np.array_equal(other[n], wanted[0][n]) for n in names)


def test_the_method_reads_it(tiny_data: DataSet) -> None:
    budget, method = Allowance(4_000, "bytes"), find("managed-collision")
    known = {c.name: tiny_data.counts(c.name) for c in tiny_data.schema.features}
    read = list(id_batches(tiny_data, 5))
    wanted = managed_collision(
        tiny_data.schema,
        known,
        read,
        ManagedCollisionSettings(**budget.to_json(), dim=4, evict="lfu"),
        seed=5,
    )
    for batch_size in (100, 2048):
        training = Training(fit=FitSettings(batch_size=batch_size, seed=5))
        settings = method.settings_at(budget, 4, training, {"evict": "lfu"})
        assert method.decide(tiny_data, settings, training).policy == wanted
