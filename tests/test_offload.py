"""Tables beyond the devices: what they take, what they cost, and who refuses them."""

from __future__ import annotations

import json
import math
import random
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import Topology as TorchRecTopology
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import CacheParams
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from benchmarks.ranks.scaling import applier_policy, separate_policy
from seo_rec.embed.tables import table_configs, table_key
from seo_rec.plan import (
    CACHEABLE,
    Placement,
    Plan,
    PlanError,
    Shard,
    check_placements,
    plan_policy,
    read_topology,
    sharding_plan,
)
from seo_rec.plan import offload as offload_module
from seo_rec.plan.cost import RESERVED, ROW_OPTIMIZERS, Prices
from seo_rec.plan.offload import Cache, Popularity, lacks_key_value
from seo_rec.policy import Feature, Lookup, Policy, Table
from seo_rec.train.distributed import kernels, torchrec_kernels
from seo_rec.train.optimizers import FUSED
from seo_rec.train.state import drop_caches

UVM = "fused_uvm_caching"
GPUS = read_topology("8xH100-80GB")
BATCH = 64


def small(rows: int = 10_000, dim: int = 16, features: int = 3) -> Policy:
    read = (Feature(f"f{i}", (Lookup("a", seed=i),)) for i in range(features))
    return Policy((Table("a", rows, dim),), tuple(read))


# ---- memory -----------------------------------------------------------------------------------


def by_torchrec(policy: Policy, optimizer: str, load: float) -> dict[str, tuple[int, int]]:
    """Bytes on and off the device of a shard, by kind, as TorchRec's own enumerator counts them."""
    collection = EmbeddingBagCollection(tables=table_configs(policy), device=torch.device("meta"))
    for weight in collection.parameters():
        weight._optimizer_classes = [ROW_OPTIMIZERS[optimizer]]
    limits = ParameterConstraints(
        sharding_types=["table_wise", "row_wise"],
        compute_kernels=[UVM],
        cache_params=CacheParams(load_factor=load),
        pooling_factors=[1.0] * len(policy.features),
    )
    machine = TorchRecTopology(world_size=8, local_world_size=8, compute_device="cuda")
    found = EmbeddingEnumerator(
        machine, batch_size=BATCH, constraints={table_key(t.name): limits for t in policy.tables}
    ).enumerate(collection, [EmbeddingBagCollectionSharder()])
    assert {o.compute_kernel for o in found} == {UVM}
    return {o.sharding_type: (o.shards[0].storage.hbm, o.shards[0].storage.ddr) for o in found}


@pytest.mark.parametrize("optimizer", CACHEABLE)
@pytest.mark.parametrize("load", [0.01, 0.2, 1.0])
def test_memory_is_what_torchrec_counts(optimizer, load):
    """But for row-wise Adagrad's state: FBGEMM keeps all of it on the device."""
    policy = small()
    prices = Prices(policy, GPUS, BATCH, optimizer, None).with_cache({"a": Cache(UVM, load)})
    for kind, (device, host) in by_torchrec(policy, optimizer, load).items():
        rows = 10_000 if kind == "table_wise" else 10_000 // 8
        price = prices.price("a", kind, rows, 16)
        uncached = 4 * rows * (1 - load) if optimizer == "rowwise_adagrad" else 0
        assert price.memory == device + math.ceil(uncached)
        assert price.host == host


def test_memory_by_hand():
    """A cache of weights and their state, 4 bytes a row and 16 a cached row to find it."""
    prices = Prices(small(features=1), GPUS, BATCH, "adagrad", None)
    price = prices.with_cache({"a": Cache(UVM, 0.2)}).price("a", "table_wise", 10_000, 16)
    ids_and_vectors = 8 * BATCH * (8 + 4 * 16)
    assert price.memory == 2 * 0.2 * 4 * 10_000 * 16 + 10_000 * (4 + 0.2 * 16) + ids_and_vectors
    assert price.host == 2 * 4 * 10_000 * 16


def test_the_caches_are_for_what_fbgemm_fuses():
    assert set(CACHEABLE) == set(FUSED)


# ---- hit rates --------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [0.6, 1.05])
def test_hit_rate_of_a_simulated_cache(exponent):
    """Independent reads through a cache that gives up the id that was read longest ago."""
    counts = np.round(1e6 / np.arange(1, 1001) ** exponent)
    popularity = Popularity.of([(counts, 1.0)], rows=1000)
    held, hits, draws = OrderedDict[int, None](), 0, 60_000
    drawn = random.Random(0).choices(range(1000), counts.tolist(), k=draws + 5000)
    for i, key in enumerate(drawn):
        hits += i >= 5000 and key in held
        held[key] = None
        held.move_to_end(key)
        if len(held) > 100:
            held.popitem(last=False)
    assert popularity.hit_rate(0.1) == pytest.approx(hits / draws, abs=0.01)


def test_hit_rates_at_the_ends():
    even = Popularity.even(1000)
    assert [even.hit_rate(x) for x in (0.1, 0.5, 1.0)] == pytest.approx([0.1, 0.5, 1.0])
    skewed = Popularity.of([(np.array([1, 1, 98]), 1.0)], rows=3)
    rates = [skewed.hit_rate(x) for x in (0.1, 0.34, 0.7, 1.0)]
    assert rates == sorted(rates) and rates[1] > 0.9 and rates[-1] == 1.0
    assert Popularity.of([(np.array([5, 5]), 1.0)], rows=100).hit_rate(0.02) == 1.0  # two ids only
    shared = Popularity.of([(np.ones(1000), 1.0)], rows=10)  # a hundred ids in each row
    assert shared.hit_rate(0.3) == pytest.approx(0.3)
    assert shared.distinct(1e9) == 10


def test_readers_count_by_their_rates():
    """A column of 3 ids per bag has three quarters of the reads."""
    popularity = Popularity.of([(np.ones(2), 3.0), (np.ones(4), 1.0)], rows=100)
    assert sorted(popularity.shares_P) == pytest.approx([0.25 / 4, 0.75 / 2])
    assert popularity.ids_P @ popularity.shares_P == pytest.approx(1)


# ---- time -------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", CACHEABLE)
def test_time_on_the_bus_by_hand(optimizer):
    """Missing rows come and go; the state of single weights comes and goes for every row."""
    prices = Prices(small(), GPUS, BATCH, optimizer, None)
    cached = prices.with_cache({"a": Cache(UVM, 0.2)})
    reads, rows = 3 * 8 * BATCH, 10_000
    distinct = rows * (1 - (1 - 1 / rows) ** reads)
    missing = min(distinct, 0.8 * reads)
    for kind, height, width in (("table_wise", rows, 16), ("column_wise", rows, 4)):
        row_ms = 1e3 * 4 * width / GPUS.host_bandwidth
        states = 2 * distinct if optimizer == "adagrad" else 0
        without, within = (p.price("a", kind, height, width).phases for p in (prices, cached))
        more = [a - b for a, b in zip(within, without, strict=True)]
        assert more == pytest.approx(
            [0, missing * row_ms, 0, 0, (missing + states) * row_ms], rel=1e-4
        )
    by_row = [p.price("a", "row_wise", rows // 8, 16).phases[1] for p in (prices, cached)]
    assert by_row[1] - by_row[0] == pytest.approx(missing / 8 * 64e3 / GPUS.host_bandwidth, 1e-4)


def test_known_counts_make_the_step_shorter():
    """Skewed ids are found in the cache more often than evenly read ones."""
    policy, tight = small(rows=10**6), replace(GPUS, memory_bytes=5 * 10**6)
    skewed = np.round(1e9 / np.arange(1, 10**6 + 1) ** 1.2)
    steps = {}
    for name, counts in (("even", None), ("skewed", lambda column: skewed)):
        plan = plan_policy(
            policy,
            tight,
            batch_size=BATCH,
            row_optimizer="sgd",
            counts=counts,
            cache_load_factor=0.05,
            default=False,
        )
        assert {p.cache_load_factor for p in plan.placements} == {0.05}
        steps[name] = plan.step_ms
        known = "by the id counts of the data" if counts else "as if rows were read evenly"
        assert any(known in note for note in plan.notes)
    assert steps["skewed"] < steps["even"]


# ---- plans ------------------------------------------------------------------------------------


def held(plan: Plan) -> int:
    return sum(s.rows * s.columns for p in plan.placements for s in p.shards)


@pytest.mark.parametrize(
    "make, optimizer", [(separate_policy, "rowwise_adagrad"), (applier_policy, "adagrad")]
)
def test_1e11_floats_on_8_gpus(make, optimizer):
    """Where the devices alone are too small: every row once, within both memories, and said."""
    policy, gpus = make(10**11), read_topology("8xA100-40GB")
    arguments = {"row_optimizer": optimizer, "default": False}
    with pytest.raises(PlanError, match="is short by"):
        plan_policy(policy, gpus, compute_kernels=["fused"], **arguments)
    plan = plan_policy(policy, gpus, **arguments)
    check_placements(policy, plan.placements, 8)
    assert held(plan) == sum(t.num_rows * t.dim for t in policy.tables)
    assert max(r.memory_bytes for r in plan.estimate.ranks) <= (1 - RESERVED) * gpus.memory_bytes
    host = sum(r.host_memory_bytes for r in plan.estimate.ranks)
    outside = [p for p in plan.placements if p.compute_kernel == UVM]
    floats = sum(s.rows * s.columns for p in outside for s in p.shards)
    states = {"adagrad": 1, "rowwise_adagrad": 1 / 64}[optimizer]
    assert host == pytest.approx(4 * floats * (1 + states), rel=1e-6)
    assert 0 < host <= (1 - RESERVED) * 8 * gpus.host_memory_bytes
    assert any("in main memory, because the devices cannot hold" in note for note in plan.notes)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_what_fits_stays_in_the_devices():
    plan = plan_policy(small(), GPUS, batch_size=BATCH, row_optimizer="sgd", default=False)
    assert {p.compute_kernel for p in plan.placements} <= {"fused", "dense"}
    assert all(r.host_memory_bytes == 0 for r in plan.estimate.ranks)


@pytest.mark.parametrize(
    "topology, optimizer, l2",
    [
        (replace(GPUS, memory_bytes=10**7, host_memory_bytes=0), "adagrad", 0.0),
        (replace(GPUS, memory_bytes=10**7), "adam", 0.0),
        (replace(GPUS, memory_bytes=10**7), "lazy_adam", 0.0),
        (replace(GPUS, memory_bytes=10**7), "adagrad", 0.1),
        (replace(GPUS, memory_bytes=10**7, local_size=1), "adagrad", 0.0),
        (replace(read_topology("8xcpu"), memory_bytes=10**7), "adagrad", 0.0),
    ],
)
def test_where_nothing_may_be_outside_it_does_not_fit(topology, optimizer, l2):
    with pytest.raises(PlanError, match="is short by"):
        plan_policy(
            small(rows=10**6), topology, batch_size=BATCH, row_optimizer=optimizer, row_l2=l2
        )


def test_main_memory_is_limited_too():
    tight = replace(GPUS, memory_bytes=10**8, host_memory_bytes=10**7)
    with pytest.raises(PlanError, match="bytes of main memory on a machine of 8xH100") as caught:
        plan_policy(small(rows=10**8), tight, batch_size=BATCH, row_optimizer="adagrad")
    assert str(caught.value).count("; ") == 2


@pytest.mark.parametrize(
    "names, load, message",
    [
        (["fused", "uvm"], None, r"compute kernels \['uvm'\]; allowed: fused, fused_uvm_caching"),
        (["dense"], None, "dense follows from the optimizer"),
        ([UVM], None, "fused must be among them"),
        (["fused", UVM], 0.0, "cache load factor 0.0; allowed: above 0, at most 1"),
        (["fused", UVM], 1.5, "cache load factor 1.5"),
        (["fused"], 0.2, "without a kernel that has a cache"),
    ],
)
def test_bad_kernels(names, load, message):
    with pytest.raises(PlanError, match=message):
        plan_policy(small(), GPUS, compute_kernels=names, cache_load_factor=load)


def test_key_value_needs_an_fbgemm_that_has_it(monkeypatch):
    """A build for CPUs has no RocksDB; where it is there, tables go to SSD as the last resort."""
    if lacks_key_value():
        with pytest.raises(PlanError, match=r"on SSD, and the installed FBGEMM cannot: .*RocksDB"):
            plan_policy(small(), GPUS, compute_kernels=["fused", "key_value"])
    monkeypatch.setattr(offload_module, "lacks_key_value", lambda: None)
    tight = replace(GPUS, memory_bytes=10**8, host_memory_bytes=10**7)
    plan = plan_policy(
        small(rows=10**8),
        tight,
        batch_size=BATCH,
        row_optimizer="sgd",
        compute_kernels=["fused", UVM, "key_value"],
        default=False,
    )
    assert {p.compute_kernel for p in plan.placements} == {"key_value"}
    assert any("(1,600,000,000 floats) are on SSD, because" in note for note in plan.notes)


def test_placements_with_wrong_caches_are_refused():
    whole = (Shard(0, 0, 0, 10_000, 16),)
    for placement, message in (
        (Placement("a", "table_wise", whole, "quant"), "compute_kernel 'quant'; allowed: fused"),
        (Placement("a", "table_wise", whole, UVM), "cache_load_factor None"),
        (Placement("a", "table_wise", whole, UVM, 1.1), "cache_load_factor 1.1"),
        (Placement("a", "table_wise", whole, "fused", 0.2), "which has no cache"),
        (Placement("a", "data_parallel", (), UVM, 0.2), "a data_parallel table cannot be"),
    ):
        with pytest.raises(PlanError, match=message):
            check_placements(small(), (placement,), 8)


# ---- training ---------------------------------------------------------------------------------

CACHED = (Placement("a", "table_wise", (Shard(0, 0, 0, 10_000, 16),), UVM, 0.25),)


def test_training_keeps_the_kernel_of_the_plan():
    for optimizer in CACHEABLE:
        assert kernels(CACHED, optimizer, 0.0, device="cuda") == {"a": UVM}
    assert torchrec_kernels({"a": UVM, "b": "sparse"}) == {"a": UVM, "b": "dense"}


@pytest.mark.parametrize(
    "arguments, more, message",
    [
        (("sgd", 0.0), {"device": "cpu"}, "this run is on cpu"),
        (("adam", 0.0), {"device": "cuda"}, "this run has --optimizer adam$"),
        (("sgd", 0.1), {"device": "cuda"}, "--optimizer sgd, an L2 penalty$"),
        (("sgd", 0.0), {"device": "cuda", "l2_by_rows": True}, "an L2 penalty$"),
        (("sgd", 0.0), {"device": "cuda", "mean": True}, "--optimizer sgd, a running mean$"),
    ],
)
def test_training_says_what_a_cache_does_not_allow(arguments, more, message):
    with pytest.raises(PlanError, match=message):
        kernels(CACHED, *arguments, **more)


def test_training_does_not_know_ssd_yet():
    stored = (replace(CACHED[0], compute_kernel="key_value"),)
    with pytest.raises(PlanError, match="planned and not yet trained"):
        kernels(stored, "sgd", 0.0, device="cuda")


@pytest.fixture
def two_ranks_that_are_not_there() -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


def test_torchrec_builds_what_the_plan_says(two_ranks_that_are_not_there, monkeypatch):
    """The kernel and the load factor reach the group of tables that FBGEMM gets; nothing is run."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    policy = small()
    model = nn.Module()
    model.ebc = EmbeddingBagCollection(tables=table_configs(policy), device=torch.device("meta"))
    plan = sharding_plan(CACHED, {"a": UVM}, "cpu", 2, "ebc")
    parameter = plan.plan["ebc"][table_key("a")]
    assert (parameter.compute_kernel, parameter.cache_params.load_factor) == (UVM, 0.25)
    sharded = DistributedModelParallel(
        model, device=torch.device("meta"), plan=plan, sharders=[EmbeddingBagCollectionSharder()]
    )
    groups = [
        kernel.config
        for lookup in sharded._dmp_wrapped_module.ebc._lookups
        for kernel in lookup._emb_modules
    ]
    tables = [t.compute_kernel for g in groups for t in g.embedding_tables]
    assert tables == [EmbeddingComputeKernel.FUSED_UVM_CACHING]
    assert [g.fused_params["cache_load_factor"] for g in groups] == [0.25]
    forgotten = []
    for lookup in sharded._dmp_wrapped_module.ebc._lookups:
        inner = lookup._emb_modules[0].emb_module
        monkeypatch.setattr(inner, "reset_cache_states", lambda: forgotten.append(1), raising=False)
    drop_caches(sharded)
    assert forgotten == [1]
