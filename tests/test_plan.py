"""Laws of the planner: every table once, shards tile, memory holds, same inputs same bytes."""

from __future__ import annotations

import importlib
import itertools
import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import BUILDABLE
from seo_rec.plan import (
    EMBEDDING_PATH,
    PRESETS,
    Placement,
    Plan,
    PlanError,
    Shard,
    Topology,
    check_placements,
    plan_policy,
    rates_of,
    read_topology,
    sharding_plan,
)
from seo_rec.plan.cost import PHASES, RESERVED, ROW_OPTIMIZERS, Prices
from seo_rec.plan.estimate import default_placements, estimate
from seo_rec.plan.planner import CLEARLY_SHORTER
from seo_rec.policy import Array, Feature, Lookup, Policy, Table
from seo_rec.schema import Column, Schema
from seo_rec.train.distributed import check_widths, kernels
from topology_documents import document_of

GPUS = read_topology("8xH100-80GB")


def policy_of(readers: dict[str, int], dim: int = 16, rows: int = 1000) -> Policy:
    """Tables read by so many features each, of ``max(readers)`` features."""
    names = [f"f{i}" for i in range(max(readers.values()))]
    features = []
    for i, name in enumerate(names):
        lookups = tuple(Lookup(t, seed=i) for t, count in readers.items() if i < count)
        features.append(Feature(name, lookups))
    return Policy(tuple(Table(t, rows, dim) for t in readers), tuple(features))


def kinds(plan: Plan) -> dict[str, str]:
    return {p.table: p.kind for p in plan.placements}


@st.composite
def problems(draw: st.DrawFn) -> tuple[Policy, Topology, str]:
    """A small policy of any shape, a topology that may be too small for it, an optimizer."""
    dims = draw(st.lists(st.sampled_from([1, 4, 6, 8, 12, 16, 40, 128]), min_size=1, max_size=6))
    tables = tuple(
        Table(f"t{i}", draw(st.sampled_from([1, 7, 900, 10**6])), d) for i, d in enumerate(dims)
    )
    chosen = st.sets(st.sampled_from(tables), min_size=1)
    features = [
        Feature(f"f{i}", tuple(Lookup(t.name) for t in sorted(draw(chosen), key=lambda t: t.name)))
        for i in range(draw(st.integers(1, 8)))
    ]
    features.append(Feature("all", tuple(Lookup(t.name) for t in tables)))
    device = draw(st.sampled_from(["L4-24GB", "cpu"]))
    topology = read_topology(f"{draw(st.integers(1, 5))}x{device}", draw(st.integers(1, 3)))
    memory = draw(st.sampled_from([10**7, 10**8, 10**10]))
    optimizer = draw(st.sampled_from(["adam", "adagrad", "rowwise_adagrad", "sgd"]))
    return Policy(tables, tuple(features)), replace(topology, memory_bytes=memory), optimizer


@given(problems())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_laws(problem):
    policy, topology, optimizer = problem
    arguments = {"batch_size": 64, "row_optimizer": optimizer, "default": False}
    try:
        plan = plan_policy(policy, topology, **arguments)
    except PlanError as error:
        assert topology.memory_bytes < 10**10
        assert "is short by" in str(error) and str(error).count("; ") == 2
        return
    check_placements(policy, plan.placements, topology.world_size)
    assert [p.table for p in plan.placements] == [t.name for t in policy.tables]
    limit = topology.memory_bytes * (1 - RESERVED)
    assert max(r.memory_bytes for r in plan.estimate.ranks) <= limit
    assert plan_policy(policy, topology, **arguments) == plan
    by_column = [p for p in plan.placements if p.kind == "column_wise"]
    assert not (by_column and optimizer == "rowwise_adagrad")
    assert all(s.columns % 4 == 0 for p in by_column for s in p.shards)
    assert all(len({s.rank for s in p.shards}) == len(p.shards) for p in plan.placements)
    if topology.world_size == 1:
        assert set(kinds(plan).values()) == {"table_wise"}
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize("name", BUILDABLE)
@pytest.mark.parametrize("topology", ["1xcpu", "3xcpu", "8xA100-40GB"])
def test_every_policy_has_a_plan(name, topology):
    plan = plan_policy(BUILDABLE[name], read_topology(topology), batch_size=32, default=False)
    plan.check(BUILDABLE[name])
    whole = sum(k.address != "blocks" for f in BUILDABLE[name].features for k in f.all_lookups)
    total = sum(r.lookups_per_sample for r in plan.estimate.ranks)
    assert total >= whole * (1 - 1e-6)  # pieces in columns read the same rows once more
    fused = {t.name: "fused" for t in BUILDABLE[name].tables}
    sharding = sharding_plan(plan.placements, fused, plan.device, plan.local_size)
    assert len(sharding.plan[EMBEDDING_PATH]) == len(BUILDABLE[name].tables)


def test_widths_that_gpus_cannot_read_are_noted_and_refused():
    policy = Policy(
        (Table("a", 100, 8), Table("b", 100, 6)),
        (Feature("f", (Lookup("a", "hash", 1), Lookup("b", "hash", 2))),),
    )
    plans = {
        name: plan_policy(policy, read_topology(name), batch_size=32, default=False)
        for name in ("2xcpu", "1xA100-40GB", "8xA100-40GB")
    }
    noted = {name: [n for n in p.notes if "no multiple of 4" in n] for name, p in plans.items()}
    assert [len(noted[name]) for name in plans] == [0, 0, 1] and "'b'" in noted["8xA100-40GB"][0]
    placements = plans["8xA100-40GB"].placements
    check_widths(policy, placements, "cpu")
    check_widths(policy, [p for p in placements if p.table == "a"], "cuda")
    with pytest.raises(PlanError, match=r"the first one of table 'b' \(6\)"):
        check_widths(policy, placements, "cuda")


def test_one_device_is_not_sharded():
    policy = policy_of({"a": 3, "b": 1})
    plan = plan_policy(policy, read_topology("cpu"), batch_size=32, default=False)
    assert plan.placements == (
        Placement("a", "table_wise", (Shard(0, 0, 0, 1000, 16),), "dense"),
        Placement("b", "table_wise", (Shard(0, 0, 0, 1000, 16),), "dense"),
    )
    assert plan.estimate.phases_ms["output_dist"] == 0 and plan.imbalance == 1.0


# ---- what the policy knows and the plan uses --------------------------------------------------


def test_reads_are_balanced_and_torchrec_does_not_know_them():
    """Dealt in turn, both heavy tables would fall to one rank."""
    policy = policy_of({"a": 20, "b": 1, "c": 18, "d": 1}, rows=200_000)
    plan = plan_policy(policy, read_topology("2xcpu"), batch_size=4096, row_optimizer="adagrad")
    ranks = {p.table: p.shards[0].rank for p in plan.placements}
    assert ranks["a"] != ranks["c"]
    assert plan.default is not None
    assert plan.imbalance < 1.1 < 1.5 < plan.default.imbalance
    assert plan.step_ms < 0.7 * plan.default.step_ms


def test_rates_count_as_reads():
    policy = policy_of({"a": 1, "b": 4})
    rates = dict.fromkeys(["f1", "f2", "f3"], 0.5) | {"f0": 8.0}
    prices = Prices(policy, GPUS, 128, "sgd", rates)
    assert prices.reads == {"a": [8.0], "b": [8.0, 0.5, 0.5, 0.5]}
    assert prices.lookups_per_sample("b", "table_wise") == 9.5
    assert prices.lookups_per_sample("b", "row_wise") == 9.5 / 8
    alone = prices.price("a", "table_wise", 1000, 16).ms
    assert alone > Prices(policy, GPUS, 128, "sgd", None).price("a", "table_wise", 1000, 16).ms


def test_empty_bags_travel_too():
    """A pooled vector is sent whether or not its bag held an id."""
    full, empty = (
        Prices(policy_of({"a": 1}), GPUS, 4096, "sgd", {"f0": rate}).price("a", "table_wise", 9, 16)
        for rate in (1.0, 0.001)
    )
    assert math.isclose(full.phases[2], empty.phases[2], rel_tol=1e-3)
    assert empty.phases[0] < full.phases[0] and empty.memory == full.memory


def test_rates_of_a_schema():
    columns = (Column("x", "numeric"), Column("f0", "multivalent", 5, 2.5))
    schema = Schema("d", columns, "y", {"train": 1}, {"train": 0.5})
    assert rates_of(schema) == {"f0": 2.5}
    with pytest.raises(PlanError, match=r"no rates for columns \['f1'\]; the data has \['f0'\]"):
        plan_policy(policy_of({"a": 2}), GPUS, rates=rates_of(schema))
    for rate in (-1.0, math.nan, math.inf):
        with pytest.raises(PlanError, match="column 'f0' has rate"):
            plan_policy(policy_of({"a": 1}), GPUS, rates={"f0": rate})


def test_tables_of_one_feature_are_kept_apart():
    """a and c share their feature, b and d theirs; the loads are equal."""
    tables = tuple(Table(t, 10**6, 8) for t in "abcd")
    features = (
        Feature("f0", (Lookup("a"), Lookup("b"))),
        Feature("f1", (Lookup("c"), Lookup("d"))),
    )
    plan = plan_policy(
        Policy(tables, features), read_topology("2xcpu"), batch_size=64, default=False
    )
    rank = {p.table: p.shards[0].rank for p in plan.placements}
    assert rank["a"] != rank["b"] and rank["c"] != rank["d"]


# ---- kinds ------------------------------------------------------------------------------------


def test_equal_tables_go_to_ranks_in_the_order_of_the_policy():
    """An exchange gives vectors rank by rank, so nothing is left to put in order."""
    names = [f"f{i}" for i in range(10)]
    rows = [400_000 if i % 5 else 900_000 for i in range(10)]
    tables = tuple(Table(n, r, 16) for n, r in zip(names, rows, strict=True))
    features = tuple(Feature(n, (Lookup(n, seed=1),)) for n in names)
    plan = plan_policy(
        Policy(tables, features),
        read_topology("2xcpu"),
        row_optimizer="rowwise_adagrad",
        default=False,
    )
    at = {p.table: p.shards[0].rank for p in plan.placements}
    for alike in (names[0::5], [n for i, n in enumerate(names) if i % 5]):
        ranks = [at[n] for n in alike]
        assert ranks == sorted(ranks)
        assert set(ranks) == {0, 1}
    assert plan.imbalance < 1.01


def test_a_heavy_wide_table_is_cut_in_columns():
    policy = policy_of({"a": 40, "b": 2, "c": 2}, dim=256)
    plan = plan_policy(policy, GPUS, row_optimizer="adagrad", default=False)
    widths = [s.columns for p in plan.placements if p.table == "a" for s in p.shards]
    assert kinds(plan)["a"] == "column_wise" and len(widths) >= 6 and sum(widths) == 256
    kept = plan_policy(policy, GPUS, row_optimizer="rowwise_adagrad", default=False)
    assert "column_wise" not in kinds(kept).values()
    assert any("rowwise_adagrad: no table is cut in columns" in note for note in kept.notes)


def test_a_width_that_is_no_multiple_of_four_is_not_cut():
    plan = plan_policy(policy_of({"a": 40}, dim=254), GPUS, row_optimizer="sgd", default=False)
    assert kinds(plan)["a"] != "column_wise"


def test_a_table_larger_than_a_device_goes_by_rows():
    policy = policy_of({"a": 1, "b": 1}, dim=16, rows=2 * 10**9)
    plan = plan_policy(policy, GPUS, batch_size=256, row_optimizer="rowwise_adagrad", default=False)
    assert "row_wise" in kinds(plan).values()
    assert max(r.memory_bytes for r in plan.estimate.ranks) <= 0.85 * GPUS.memory_bytes


def test_a_tiny_table_stays_on_every_rank():
    policy = policy_of({"tiny": 40, "b": 8, "c": 8}, dim=64, rows=10)
    topology = replace(read_topology("4xH100-80GB"), exchange_ms=0.0)
    plan = plan_policy(policy, topology, row_optimizer="adagrad", default=False)
    assert kinds(plan)["tiny"] == "data_parallel"
    assert all(r.tables >= 1 for r in plan.estimate.ranks)
    adam = plan_policy(policy, topology, row_optimizer="adam", default=False)
    assert kinds(adam)["tiny"] == "data_parallel"  # dense gradients everywhere: the same training


def test_exchanges_cost_something_however_little_they_send():
    """Lengths and ids, vectors, gradients of every sharded kind; one all-reduce of copies."""
    policy = policy_of({"a": 1, "b": 1})
    whole = Placement("a", "table_wise", (Shard(0, 0, 0, 1000, 16),))
    rows = Placement("b", "row_wise", (Shard(0, 0, 0, 500, 16), Shard(1, 500, 0, 500, 16)))
    for other, counts in (
        (replace(whole, table="b"), (2, 0, 1, 1, 0)),
        (rows, (4, 0, 2, 2, 0)),
        (Placement("b", "data_parallel"), (2, 0, 1, 2, 0)),
    ):
        free, dear = (
            estimate(
                (whole, other),
                Prices(policy, replace(read_topology("2xcpu"), exchange_ms=ms), 64, "sgd", None),
            )
            for ms in (0.0, 10.0)
        )
        more = [dear.phases_ms[p] - free.phases_ms[p] for p in PHASES]
        assert more == pytest.approx([10 * n for n in counts])
        assert (dear.ranks, dear.imbalance) == (free.ranks, free.imbalance)
        assert dear.step_ms == pytest.approx(sum(dear.phases_ms.values()))


def test_on_cpu_a_cut_must_promise_much():
    """One table of two ranks: cut in columns, both read every id, and little time is won."""
    policy = policy_of({"a": 26}, rows=10**6)
    fused = {"batch_size": 2048, "row_optimizer": "adagrad", "default": False}
    plan = plan_policy(policy, read_topology("2xcpu"), **fused)
    assert kinds(plan) == {"a": "table_wise"} and plan.imbalance == 2
    wide = policy_of({"a": 26}, rows=10**6, dim=256)
    cut = plan_policy(wide, read_topology("4xcpu"), batch_size=2048, default=False)
    prices = Prices(wide, read_topology("4xcpu"), 2048, "adam", None)
    whole = estimate((Placement("a", "table_wise", (Shard(0, 0, 0, 10**6, 256),)),), prices)
    assert kinds(cut) == {"a": "column_wise"}
    assert cut.step_ms <= CLEARLY_SHORTER["cpu"] * whole.step_ms


# ---- memory -----------------------------------------------------------------------------------


def test_optimizer_state_and_dense_gradients_are_counted():
    """In table sizes: weights, states, and the gradient that the trainer does not fuse away."""
    states = {"sgd": 0, "rowwise_adagrad": 1 / 16, "adagrad": 1, "adam": 2}
    for device, (optimizer, its), l2 in itertools.product(
        ("2xcpu", "2xH100-80GB"), states.items(), (0.0, 0.1)
    ):
        parts = sizes_of({"a": 1}, device, optimizer, l2)
        dense = optimizer == "adam" or l2 > 0
        assert parts["table_wise"] == pytest.approx(1 + its + dense, abs=1e-3)
        assert parts["data_parallel"] == pytest.approx(3 + its, abs=1e-3)


def sizes_of(readers: dict[str, int], device: str, optimizer: str, l2: float) -> dict[str, float]:
    """Memory of a table by kind of sharding, in sizes of it."""
    prices = Prices(policy_of(readers, rows=10**6), read_topology(device), 1, optimizer, None, l2)
    return {
        kind: prices.price("a", kind, 10**6, 16).memory / (4 * 16 * 10**6)
        for kind in ("table_wise", "data_parallel")
    }


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
@pytest.mark.parametrize("optimizer, states", [("rowwise_adagrad", 0), ("adagrad", 4)])
def test_weights_of_16_bits_take_two_bytes_and_their_states_four(storage, optimizer, states):
    """Of TorchRec's own figures for float32 only the weights change."""
    policy, topology = BUILDABLE["multi-size-2"], read_topology("2xcpu")
    prices = [
        Prices(policy, topology, 64, optimizer, None, storage=s) for s in ("float32", storage)
    ]
    for table in policy.tables:
        wide, half = (p.price(table.name, "table_wise", table.num_rows, table.dim) for p in prices)
        assert wide.memory - half.memory == 2 * table.num_rows * table.dim
        assert wide.phases == half.phases
    floats = sum(t.num_rows * t.dim for t in policy.tables)
    assert prices[1].table_bytes(optimizer) == (2 + states) * floats


def test_tables_of_16_bits_that_fit_only_so_are_never_copied_or_outside_a_device():
    policy = Policy(
        (Table("large", 1_000_000, 16), Table("small", 4, 16)),
        (Feature("a", (Lookup("large"),)), Feature("b", (Lookup("small"),))),
    )
    memory = int(25e6 / (1 - RESERVED))
    topology = replace(read_topology("2xH100-80GB"), memory_bytes=memory)
    planned = {"batch_size": 16, "row_optimizer": "rowwise_adagrad", "default": False}
    with pytest.raises(PlanError, match="short by"):
        plan_policy(policy, topology, compute_kernels=["fused"], **planned)
    found = plan_policy(policy, topology, storage="bfloat16", **planned)
    assert {p.compute_kernel for p in found.placements} == {"fused"}
    assert "data_parallel" not in {p.kind for p in found.placements}
    assert "weights of bfloat16 take 2 bytes each, states 4" in found.notes
    arrays = next(p for p in BUILDABLE.values() if p.arrays)
    with pytest.raises(
        PlanError, match=r"--storage bfloat16 with flat arrays, .* --storage float32"
    ):
        plan_policy(arrays, topology, storage="bfloat16", **planned)


def test_planner_and_trainer_agree_on_dense_gradients():
    """Adam and L2 of all rows move every row; the other optimizers need no gradient of a table."""
    for optimizer, l2, dim in itertools.product(ROW_OPTIMIZERS, (0.0, 0.1), (8, 6)):
        policy = policy_of({"a": 1}, dim=dim, rows=10**6)
        prices = Prices(policy, GPUS, 1, optimizer, None, l2)
        size = 4 * dim * 10**6
        found = prices.price("a", "table_wise", 10**6, dim).memory / size
        lean = Prices(policy_of({"a": 1}, dim=8, rows=10**6), GPUS, 1, "sgd", None)
        assert lean.price("a", "table_wise", 10**6, 8).memory == pytest.approx(32e6, rel=1e-3)
        shard = Shard(0, 0, 0, 10**6, dim)
        kernel = kernels((Placement("a", "table_wise", (shard,)),), optimizer, l2)["a"]
        states = {"sgd": 0, "rowwise_adagrad": 1 / dim, "adagrad": 1}.get(optimizer, 2)
        assert found == pytest.approx(1 + states + (kernel == "dense"), abs=1e-3)


def test_one_device_has_gradients_and_all_tables_in_a_row_under_adam():
    """Tables with dense gradients are copied behind each other to be read, if there are several."""
    for optimizer, states in (("sgd", 0), ("adagrad", 1), ("lazy_adam", 2)):
        for tables in ({"a": 1}, {"a": 1, "b": 1}):
            size = sizes_of(tables, "cpu", optimizer, 0.0)["table_wise"]
            assert size == pytest.approx(1 + states, abs=1e-3)
    for optimizer, l2, states in (("sgd", 0.1, 0), ("adagrad", 0.1, 1), ("adam", 0.0, 2)):
        one = sizes_of({"a": 1}, "cpu", optimizer, l2)["table_wise"]
        two = sizes_of({"a": 1, "b": 1}, "cpu", optimizer, l2)["table_wise"]
        assert (one, two) == pytest.approx((2 + states, 3 + states), abs=1e-3)


def test_flat_arrays_must_fit_too():
    """They are on every device; the error is the same with tables and without."""
    feature = Feature("f0", (Lookup("m", "blocks", 1, block=2, width=4),))
    alone = Policy((), (feature,), arrays=(Array("m", 10**9),))
    tables = policy_of({"a": 2})
    mixed = replace(tables, features=(feature, *tables.features[1:]), arrays=alone.arrays)
    for policy, topology in itertools.product((alone, mixed), ("L4-24GB", "4xA100-40GB")):
        fits = replace(read_topology(topology), memory_bytes=24 * 10**9)
        plan_policy(policy, fits, row_optimizer="sgd", default=False).check(policy)
        with pytest.raises(PlanError) as caught:
            plan_policy(policy, replace(fits, memory_bytes=12 * 10**9), default=False)
        text = str(caught.value)
        assert text.startswith("flat array 'm' (1,000,000,000 floats) is short by ")
        assert text.count("; ") == 2 and "-" not in text.split("short by ")[1].split(" bytes")[0]


def test_buffers_are_counted():
    policy = policy_of({"a": 3})
    small, large = (
        Prices(policy, GPUS, batch, "sgd", None).price("a", "table_wise", 1000, 16).memory
        for batch in (1, 1001)
    )
    assert large - small == 1000 * 8 * 3 * (8 + 4 * 16)


def test_what_does_not_fit_says_what_would_help():
    policy = policy_of({"small": 1, "big": 2}, rows=2 * 10**9, dim=16)
    with pytest.raises(PlanError) as caught:
        plan_policy(policy, read_topology("2xA100-40GB"), batch_size=512)
    text = str(caught.value)
    assert "table 'big' is short by" in text or "table 'small' is short by" in text
    assert "bytes on device" in text and "devices of this kind in place of 2" in text
    assert "`seo-rec apply --params`" in text and "--row-optimizer" in text
    with pytest.raises(PlanError, match=r"a --batch below 8,192 rows"):
        plan_policy(policy_of({"a": 400}, dim=64), read_topology("8xL4-24GB", 128))
    with pytest.raises(PlanError, match="short by"):
        plan_policy(policy, read_topology("A100-40GB"))


def test_help_that_is_taken_helps():
    policy = policy_of({"a": 1, "b": 2}, rows=2 * 10**9, dim=16)
    with pytest.raises(PlanError) as caught:
        plan_policy(policy, read_topology("2xA100-40GB"), batch_size=512)
    count = int(str(caught.value).split("would help: ")[1].split(" devices")[0].replace(",", ""))
    topology = read_topology(f"{count + 1}xA100-40GB")
    plan_policy(policy, topology, batch_size=512, default=False).check(policy)


# ---- topologies and arguments -----------------------------------------------------------------


def test_topologies(tmp_path: Path):
    assert read_topology("8xH100-80GB", 4).world_size == 32
    assert read_topology("cpu").local_size == 1
    for name in PRESETS:
        topology = read_topology(f"2x{name}")
        path = tmp_path / "t.json"
        path.write_text(json.dumps(document_of(topology)))
        assert read_topology(str(path)) == topology
        assert read_topology(str(path), 3).world_size == 6


@pytest.mark.parametrize(
    "text, message",
    [
        ("8xH100", "topology '8xH100' is not known; allowed: NxNAME .*H100-80GB.*docs/plan-format"),
        ("", "is not known"),
        ("-1xcpu", "is not known"),
        ("0xcpu", "local_size 0; allowed: 1 to 65536"),
        ("99999xcpu", "local_size 99999"),
        ("missing.json", "no such topology file; presets: "),
    ],
)
def test_bad_topologies(text, message):
    with pytest.raises(PlanError, match=message):
        read_topology(text)


def test_bad_topology_files(tmp_path: Path):
    path, good = tmp_path / "t.json", document_of(GPUS)
    for change, message in (
        ({"memory_bytes": 0}, "memory_bytes 0; allowed: above 0"),
        ({"memory_bytes": "80 GB"}, "memory_bytes must be a int"),
        ({"local_size": True}, "local_size must be a int"),
        ({"device": "tpu"}, "device 'tpu'; allowed: cpu, cuda"),
        ({"version": 1}, "not a 'seo-rec-topology' file of version 3"),
        ({"version": 2}, "not a 'seo-rec-topology' file of version 3"),  # with keys of version 3
        ({"host_bandwidth": 0}, "host_memory_bytes without host_bandwidth"),
        ({"host_memory_bytes": -1}, "host_memory_bytes -1; allowed: 0 or more"),
        ({"pods": 2}, "a topology has exactly the keys"),
        ({"exchange_ms": -1.0}, "exchange_ms -1"),
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(PlanError, match=message):
            read_topology(str(path))
    old = {k: v for k, v in good.items() if k not in ("host_memory_bytes", "host_bandwidth")}
    path.write_text(json.dumps(old | {"version": 2}))
    assert read_topology(str(path)) == replace(GPUS, host_memory_bytes=0, host_bandwidth=0)
    path.write_text("[1")
    with pytest.raises(PlanError, match="not valid JSON"):
        read_topology(str(path))
    with pytest.raises(PlanError, match="nodes 0; allowed: 1"):
        read_topology("2xcpu", 0)


def test_bad_arguments():
    policy = policy_of({"a": 1})
    with pytest.raises(
        PlanError, match="row optimizer 'lamb'; allowed: adagrad, adam, lazy_adam, rowwise_a"
    ):
        plan_policy(policy, GPUS, row_optimizer="lamb")
    for batch in (0, -1, 2**25):
        with pytest.raises(PlanError, match=f"batch {batch}; allowed: 1 to"):
            plan_policy(policy, GPUS, batch_size=batch)


# ---- beside TorchRec's own --------------------------------------------------------------------


def test_the_default_plan_is_measured_by_the_same_prices():
    policy = policy_of({"a": 5, "b": 1}, dim=64)
    placements = default_placements(policy, GPUS, 8192, "sgd")
    assert not isinstance(placements, str)
    check_placements(policy, placements, 8)
    prices = Prices(policy, GPUS, 8192, "sgd", None)
    plan = plan_policy(policy, GPUS, row_optimizer="sgd")
    assert plan.default == estimate(placements, prices)
    assert plan.step_ms <= plan.default.step_ms


def test_the_default_planner_says_nothing(caplog, capfd):
    """It warns of every table that it keeps on all ranks, on the root logger."""
    policy = policy_of({"a": 1}, rows=4)
    with caplog.at_level(logging.WARNING):
        found = default_placements(policy, read_topology("2xH100-80GB"), 65_536, "sgd")
    assert not isinstance(found, str) and found[0].kind == "data_parallel"
    assert not caplog.records and "spec not found" not in capfd.readouterr().err


def test_without_a_default_plan_the_notes_say_why():
    policy = policy_of({"a": 1}, rows=2 * 10**9)
    plan = plan_policy(policy, read_topology("8xL4-24GB", 1), batch_size=64, row_optimizer="sgd")
    assert plan.default is not None or "TorchRec's planner finds none" in plan.notes[-1]
    plan = plan_policy(policy, read_topology("8xL4-24GB", 8), batch_size=64, row_optimizer="sgd")
    assert plan.default is None and "up to 32 ranks" in plan.notes[-1]


# ---- the benchmark's laws, small --------------------------------------------------------------


def test_policies_of_the_benchmark():
    benchmark = importlib.import_module("benchmarks.ranks.planner")
    line = benchmark.measure("movielens", benchmark.movielens_policy(), GPUS, 8192)
    assert line["imbalance"] <= 1.05 < line["torchrec_imbalance"]
    assert line["step_ms"] < line["torchrec_step_ms"]
    assert ("movielens", 8) in benchmark.LAWFUL
    skewed = benchmark.skewed_policy()
    assert sorted({len(f.lookups) for f in skewed.features})[-1] > 4
    large = benchmark.large_policy()
    assert (len(large.features), len(large.tables)) == (1000, 64)


@pytest.mark.slow
def test_laws_of_the_benchmark():
    """Balanced where TorchRec's plan is not, and 1,000 features on 1,024 devices in a minute."""
    benchmark = importlib.import_module("benchmarks.ranks.planner")
    found = {}
    for name, policy, topology, batch in benchmark.cases():
        at = name, topology.world_size
        if at in benchmark.LAWFUL or topology.world_size == 1024:
            found[at] = benchmark.measure(name, policy, topology, batch)
    assert found.pop(("large-1000", 1024))["seconds"] < benchmark.SECONDS
    assert found.keys() == benchmark.LAWFUL
    for line in found.values():
        assert line["imbalance"] <= benchmark.BALANCED < line["torchrec_imbalance"]
        assert line["step_ms"] < line["torchrec_step_ms"]


def test_a_cross_is_read_as_often_as_its_columns_combined():
    """Once for every combination of ids; several features may read one column."""
    policy = Policy(
        (Table("a", 100, 8), Table("b", 100, 8)),
        (
            Feature("ab", (Lookup("a"),), columns=("x", "y")),
            Feature("aba", (Lookup("b"), Lookup("a")), columns=("y", "z", "x")),
            Feature("x", (Lookup("b"),)),
        ),
    )
    rates = {"x": 2.0, "y": 0.5, "z": 3.0, "unread": math.nan}
    prices = Prices(policy, GPUS, 128, "sgd", rates)
    assert prices.reads == {"a": [1.0, 3.0], "b": [3.0, 2.0]}
    assert Prices(policy, GPUS, 128, "sgd", None).reads == {"a": [1.0, 1.0], "b": [1.0, 1.0]}
    with pytest.raises(PlanError, match=r"no rates for columns \['y', 'z'\]"):
        Prices(policy, GPUS, 128, "sgd", {"x": 1.0, "ab": 1.0})
