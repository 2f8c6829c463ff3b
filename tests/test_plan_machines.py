"""Tables on machines: the ranks of one machine share the rows of a table, or of its columns."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import replace

import pytest

from at_length import at_length
from benchmarks.ranks import planner as benchmark
from benchmarks.ranks.scaling import GLOBAL_BATCH, GPU, applier_policy, simulate, unified_policy
from cases import BUILDABLE
from seo_rec.plan import Placement, Plan, Shard, Topology, plan_policy, read_topology
from seo_rec.plan import planner as planner_module
from seo_rec.plan.cost import PHASES, Prices
from seo_rec.plan.estimate import estimate
from seo_rec.policy import Policy

MACHINE_KINDS = ("table_row_wise", "grid_shard")
POLICIES = {
    **BUILDABLE,
    "movielens": benchmark.movielens_policy(),
    "criteo": benchmark.criteo_policy(),
    "skewed": benchmark.skewed_policy(),
    "applier": applier_policy(10**9),
    "unified": unified_policy(10**9),
}


def made(policy: Policy, topology: Topology) -> Plan:
    batch = GLOBAL_BATCH // topology.world_size
    return plan_policy(policy, topology, batch_size=batch, row_optimizer="adagrad", default=False)


def without_machines(monkeypatch: pytest.MonkeyPatch, policy: Policy, topology: Topology) -> Plan:
    with monkeypatch.context() as patch:
        patch.setattr(planner_module._Search, "_better_on_machines", lambda _, found, base: found)
        return made(policy, topology)


def overlap(a: Shard, b: Shard) -> bool:
    rows = a.row < b.row + b.rows and b.row < a.row + a.rows
    return rows and a.column < b.column + b.columns and b.column < a.column + a.columns


def check_shards(policy: Policy, plan: Plan) -> None:
    """Every number of a table is in one shard; machines hold equal blocks of rows, in order."""
    for placement in plan.placements:
        table = policy.table(placement.table)
        shards = [s for s in placement.shards if s.rows]
        if not placement.shards:
            continue
        assert sum(s.rows * s.columns for s in shards) == table.num_rows * table.dim
        assert not any(overlap(a, b) for a, b in itertools.combinations(shards, 2))
        if placement.kind not in MACHINE_KINDS:
            continue
        local = plan.local_size
        assert len({s.rank for s in placement.shards}) == len(placement.shards)
        for first in range(0, len(placement.shards), local):
            block = placement.shards[first : first + local]
            assert len({s.rank // local for s in block}) == len({s.column for s in block}) == 1
            assert [s.rank % local for s in block] == list(range(local))
            assert {s.rows for s in block[:-1]} == {-(-table.num_rows // local)}


def recount(policy: Policy, plan: Plan) -> list[float]:
    """Rows that each rank reads per sample, counted from the lookups and the shards alone."""
    reads: dict[str, int] = defaultdict(int)
    for f in policy.features:
        for k in f.all_lookups:
            reads[k.table] += k.address != "blocks"
    found = [0.0] * plan.world_size
    for p in plan.placements:
        for s in p.shards:
            part = s.rows / policy.table(p.table).num_rows
            found[s.rank] += reads[p.table] * part
        if not p.shards:
            found = [x + reads[p.table] / plan.world_size for x in found]
    return found


@pytest.mark.parametrize("nodes", at_length([1, 4], [4]))
@pytest.mark.parametrize("name", POLICIES)
def test_machines_are_never_worse(monkeypatch, name, nodes):
    """The load as even as without them, the step at most 5 % longer, one machine as before."""
    policy, topology = POLICIES[name], read_topology(GPU, nodes)
    plan, before = made(policy, topology), without_machines(monkeypatch, policy, topology)
    check_shards(policy, plan)
    assert plan.imbalance <= before.imbalance
    assert plan.step_ms <= 1.05 * before.step_ms
    loads = [r.lookups_per_sample for r in plan.estimate.ranks]
    assert loads == pytest.approx(recount(policy, plan), rel=1e-3, abs=1e-3)
    for rank, load in enumerate(plan.estimate.ranks):
        held = [s for p in plan.placements for s in p.shards if s.rank == rank]
        assert load.memory_bytes >= 8 * sum(s.rows * s.columns for s in held)  # weights and states
    if nodes == 1:
        assert plan == before
        assert not {p.kind for p in plan.placements} & set(MACHINE_KINDS)


@pytest.mark.parametrize(
    "way, nodes, least_before, most, step",
    [
        ("applier", 8, 1.3, 1.05, 4.7),
        ("applier", 32, 5.2, 1.05, 2.7),
        ("unified", 8, 4.0, 1.05, 5.2),
    ],
)
def test_hot_tables_of_the_scaling_page(monkeypatch, way, nodes, least_before, most, step):
    policy, topology = POLICIES[way], read_topology(GPU, nodes)
    assert without_machines(monkeypatch, policy, topology).imbalance >= least_before
    line = simulate(way, 10**9, nodes)
    assert line["imbalance"] <= most and line["step_ms"] <= step
    assert set(line["kinds"]) & set(MACHINE_KINDS)


@pytest.mark.parametrize("nodes", [8, 128])
def test_chunks_that_are_dealt_in_turn_load_all_gpus_alike(nodes):
    """Their tables are read equally often, so that nothing is left to cut or to share."""
    chosen, dealt = (simulate(way, 10**9, nodes) for way in ("applier", "dealt"))
    assert dealt["imbalance"] == pytest.approx(1.0, abs=1e-6)
    assert chosen["imbalance"] > 1.04
    assert chosen["imbalance"] <= 1.05 * chosen["least_imbalance"]  # which cuts in fours allow
    assert dealt["step_ms"] < 0.9 * chosen["step_ms"]


def test_row_wise_adagrad_is_shared_by_rows_only():
    """Its state is one number per row of a shard: machines share whole tables, no columns."""
    plan = plan_policy(
        POLICIES["applier"],
        read_topology(GPU, 4),
        batch_size=2048,
        row_optimizer="rowwise_adagrad",
        default=False,
    )
    kinds = {p.kind for p in plan.placements}
    assert "table_row_wise" in kinds and not kinds & {"grid_shard", "column_wise"}
    check_shards(POLICIES["applier"], plan)


@pytest.mark.parametrize("topology", [read_topology("8xcpu", 4), read_topology("1xH100-80GB", 4)])
def test_where_machines_bring_nothing(topology):
    kinds = {p.kind for p in made(POLICIES["unified"], topology).placements}
    assert not kinds & set(MACHINE_KINDS)


# ---- prices -----------------------------------------------------------------------------------


def test_ids_of_a_cut_by_rows_go_to_one_rank_each():
    """TorchRec sends all ids to every shard of rows in its estimate; here each gets its part."""
    policy, topology = POLICIES["unified"], read_topology(GPU, 4)
    prices = Prices(policy, topology, 64, "adagrad", None)
    table = policy.tables[0]
    whole = prices.price(table.name, "table_wise", table.num_rows, table.dim).phases[0]
    for kind, ranks in (("row_wise", 32), ("table_row_wise", 8), ("grid_shard", 8)):
        rows = -(-table.num_rows // ranks)
        price = prices.price(table.name, kind, rows, table.dim)
        assert price.phases[0] == pytest.approx(whole / ranks)
        assert prices.lookups_per_sample(table.name, kind) == len(policy.features) / ranks


def test_machines_exchange_twice_on_the_way_back():
    """Vectors are added within the machine and sent between machines; gradients likewise."""
    policy = POLICIES["unified"]
    table = policy.tables[0]
    block = -(-table.num_rows // 2)
    shards = tuple(
        Shard(r, r * block, 0, min(block, table.num_rows - r * block), table.dim) for r in range(2)
    )
    for kind in MACHINE_KINDS:
        placements = (Placement(table.name, kind, shards),)
        free, dear = (
            estimate(placements, Prices(policy, machines(ms), 64, "sgd", None)) for ms in (0.0, 1.0)
        )
        more = [dear.phases_ms[p] - free.phases_ms[p] for p in PHASES]
        assert more == pytest.approx([2, 0, 2, 2, 0])


def machines(exchange_ms: float) -> Topology:
    return replace(read_topology("2xH100-80GB", 2), exchange_ms=exchange_ms)
