"""Laws of apply and of the choice before it, the paper's worked example, and its Theorem 1."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import laws
from cases import BAGS, POLICIES, SCHEMAS, searched
from seo_rec import apply, methods
from seo_rec.data.dataset import open_data
from seo_rec.embed.remap import hash_rows
from seo_rec.policy import Budget, Feature, Lookup, Policy, PolicyError, Table
from seo_rec.search import seo
from seo_rec.search.run_off import plain

strategies = pytest.mark.parametrize("strategy", apply.STRATEGIES)
schemas = pytest.mark.parametrize("schema", SCHEMAS)


def chunks(*counts: int) -> Policy:
    """Feature i reads ``counts[i]`` of four tables, not in the order in which they are dealt."""
    lookups = [
        tuple(Lookup(f"T{(2 * f + 1 - j) % 4}", seed=10 * f + j) for j in range(n))
        for f, n in enumerate(counts)
    ]
    read = sorted({k.table for of in lookups for k in of})
    features = tuple(Feature(f"F{f}", of) for f, of in enumerate(lookups))
    return Policy(tuple(Table(name, 10, 2) for name in read), features)


def slots(policy: Policy) -> list[list[str]]:
    return [[k.table for k in f.lookups] for f in policy.features]


@strategies
@schemas
@pytest.mark.parametrize("params", [400, 401, 407, 10_007])
def test_applying_keeps_the_choice_and_the_budget(strategy, schema, params):
    before = searched(SCHEMAS[schema], 0)
    after = apply.STRATEGIES[strategy](before, params)
    laws.keeps_what_was_chosen(before, after)
    assert 0 <= params - after.num_params < 2
    laws.applying_twice_changes_nothing(before, strategy, params)
    assert after.provenance["of"] == dict(before.provenance)


@schemas
def test_exact_keeps_the_slots(schema):
    before = searched(SCHEMAS[schema], 0)
    after = apply.exact(before, 10_007)
    assert after.features == before.features
    assert [t.name for t in after.tables] == [t.name for t in before.tables]
    assert [t.dim for t in after.tables] == [t.dim for t in before.tables]
    rows = [t.num_rows for t in after.tables]
    assert max(rows) - min(rows) <= 1


@schemas
def test_round_robin_balances(schema):
    laws.balances_slots(apply.round_robin(searched(SCHEMAS[schema], 0), 10_007))


def test_round_robin_of_the_paper():
    """Section 3.2: with M = 4 slots, 2 chunks take T1, T2 and the next 3 take T3, T4, T1."""
    applied = apply.round_robin(chunks(2, 3), 800)
    assert slots(applied) == [["chunk0", "chunk1"], ["chunk2", "chunk3", "chunk0"]]
    assert {t.num_rows for t in applied.tables} == {100}


def test_round_robin_deals_on_after_the_last_slot():
    applied = apply.round_robin(chunks(1, 3, 2), 600, slots=3)
    assert slots(applied) == [["chunk0"], ["chunk1", "chunk2", "chunk0"], ["chunk1", "chunk2"]]


def test_round_robin_makes_no_slot_that_nobody_reads():
    assert len(apply.round_robin(chunks(2, 1), 600, slots=7).tables) == 3


def test_round_robin_refuses_what_it_cannot_deal():
    with pytest.raises(PolicyError, match=r"2 slots, but a feature needs 3"):
        apply.round_robin(chunks(2, 3), 800, slots=2)
    widths = Policy(
        (Table("a", 3, 2), Table("b", 3, 4)), (Feature("f", (Lookup("a"), Lookup("b"))),)
    )
    with pytest.raises(PolicyError, match=r"one width, the policy has tables of \[2, 4\]"):
        apply.round_robin(widths, 800)


@strategies
def test_a_budget_below_one_row_of_every_table(strategy):
    with pytest.raises(PolicyError, match="smallest feasible budget is 8"):
        apply.STRATEGIES[strategy](chunks(2, 3), 7)
    assert apply.STRATEGIES[strategy](chunks(2, 3), 8).num_params == 8


# ---- select --------------------------------------------------------------------------------


def space() -> Policy:
    return seo.search_space(SCHEMAS["three"], seo.SeoSettings(dim=8, chunk_dim=2, search_dim=8))


def test_select_takes_the_largest():
    alpha = torch.tensor([[0.9, 0.1, 0.5, 0.0], [0.2, 0.8, 0.3, 0.4], [0.6, 0.7, 0.05, 0.01]])
    assert slots(seo.select(space(), alpha, 5)) == [
        ["chunk0", "chunk2"],
        ["chunk1"],
        ["chunk0", "chunk1"],
    ]


def test_select_keeps_the_lookups_it_takes():
    chosen = seo.select(space(), torch.rand(3, 4), 7, 1)
    for f in chosen.features:
        (before,) = (b for b in space().features if b.name == f.name)
        assert set(f.lookups) <= set(before.lookups)
    assert chosen.num_lookups == 7


def test_select_breaks_ties_by_index():
    assert slots(seo.select(space(), torch.zeros(3, 4), 5)) == [
        ["chunk0", "chunk1", "chunk2", "chunk3"],
        ["chunk0"],
    ]
    assert slots(seo.select(space(), torch.zeros(3, 4), 5, min_chunks=1)) == [
        ["chunk0", "chunk1", "chunk2"],
        ["chunk0"],
        ["chunk0"],
    ]


def test_select_names_what_it_drops_and_forgets_unread_chunks():
    alpha = torch.tensor([[0.1, 0.9, 0.1, 0.1], [0.1] * 4, [0.1, 0.8, 0.1, 0.1]])
    chosen = seo.select(space(), alpha, 2)
    assert chosen.dropped == ("item",)
    assert [f.name for f in chosen.features] == ["user", "hour"]
    assert [t.name for t in chosen.tables] == ["chunk1"]


def test_select_gives_every_feature_its_least():
    alpha = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.1, 0.4, 0.3, 0.2], [0.01, 0.0, 0.03, 0.02]])
    assert slots(seo.select(space(), alpha, 7, min_chunks=2)) == [
        ["chunk0", "chunk1", "chunk2"],
        ["chunk1", "chunk2"],
        ["chunk2", "chunk3"],
    ]


@pytest.mark.parametrize("total, least", [(0, 0), (-1, 0), (13, 0), (5, 2), (13, 4)])
def test_select_refuses_a_total_out_of_range(total, least):
    with pytest.raises(PolicyError, match=f"total_chunks {total}: .*allowed: .* to 12"):
        seo.select(space(), torch.rand(3, 4), total, least)


def test_selecting_everything_changes_nothing():
    assert seo.select(space(), torch.rand(3, 4), 12) == space()


@pytest.mark.parametrize("adjust", [False, True])
@schemas
def test_search_space(schema, adjust):
    """Every feature reads every chunk; with adjusted rows the search holds the budget too."""
    settings = seo.SeoSettings(
        budget_rows=101, dim=8, chunk_dim=2, search_dim=16, adjust_hash_buckets=adjust
    )
    found = seo.search_space(SCHEMAS[schema], settings, 3)
    assert found.dropped == ()
    assert slots(found) == [[f"chunk{i}" for i in range(8)]] * len(SCHEMAS[schema].features)
    assert found.num_params == (808 if adjust else 1616)
    seeds = [k.seed for f in found.features for k in f.lookups]
    assert len(set(seeds)) == len(seeds)


# ---- Theorem 1 -----------------------------------------------------------------------------


@pytest.mark.parametrize("lookups", [1, 2, 4, 8])
@schemas
def test_theorem_1_multi_size(schema, lookups):
    of, rows, dim = SCHEMAS[schema], 53, 8
    whole = methods.monolithic(of, rows * dim, dim, seed=4)
    cut = methods.multi_size(of, rows * dim, dim, lookups=lookups, shared=True, seed=4)
    for bags in ("single", "optional", "bags", "empty"):
        laws.monolithic_is_a_trivial_policy(whole, cut, BAGS[bags])


@pytest.mark.parametrize("strategy", ["exact", "round-robin"])
@schemas
def test_theorem_1_search_and_apply(schema, strategy):
    """The trivial policy is among those the search can choose and the applier can build."""
    of, rows, dim = SCHEMAS[schema], 53, 8
    settings = seo.SeoSettings(
        budget_rows=rows, dim=dim, chunk_dim=2, search_dim=dim, chunk_hashing="shared"
    )
    found = seo.search_space(of, settings, 4)
    total = settings.chosen(len(of.features))
    chosen = seo.select(found, torch.rand(len(of.features), 4), total, settings.min_chunks)
    trivial = apply.STRATEGIES[strategy](chosen, settings.params)
    assert trivial.num_params == settings.params
    laws.monolithic_is_a_trivial_policy(
        methods.monolithic(of, settings.params, dim, seed=4), trivial, BAGS["bags"]
    )


def test_theorem_1_needs_shared_hashing():
    """Chunks hashed on their own are no cut table: the law above can fail."""
    of = SCHEMAS["three"]
    with pytest.raises(AssertionError):
        laws.monolithic_is_a_trivial_policy(
            methods.monolithic(of, 424, 8), methods.multi_size(of, 424, 8), BAGS["bags"]
        )


def test_theorem_1_is_strict():
    """A heterogeneous policy of the same size tells apart two ids that every monolithic confuses.

    With chunks {0} for one feature and {0, 1} for the others, half of the width of the monolithic
    model is in use, so its tables have twice the rows. Two ids that share the one row of the
    monolithic model have equal embeddings, hence equal logits, whatever its weights.
    """
    of, rows, dim = SCHEMAS["three"], 53, 8
    whole = methods.monolithic(of, rows * dim, dim)
    settings = seo.SeoSettings(
        budget_rows=rows, dim=dim, chunk_dim=2, search_dim=dim, chunk_hashing="shared"
    )
    alpha = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]])
    policy = apply.exact(seo.select(seo.search_space(of, settings), alpha, 5), rows * dim)
    assert [len(f.lookups) for f in policy.features] == [1, 2, 2]
    assert policy.num_params == whole.num_params
    seed = whole.features[0].lookups[0].seed
    assert policy.features[0].lookups[0].seed == seed
    ids = torch.arange(1000)
    few, many = hash_rows(ids, seed, rows), hash_rows(ids, seed, policy.tables[0].num_rows)
    a, b = next(
        (a, b) for a in range(50) for b in range(a) if few[a] == few[b] and many[a] != many[b]
    )

    def of_user(user: int) -> laws.KeyedJaggedTensor:
        return laws.KeyedJaggedTensor(
            ["user", "item", "hour"], torch.tensor([user, 1, 2]), lengths=torch.ones(3).int()
        )

    module = laws.built(policy)
    assert not torch.equal(module(of_user(a)), module(of_user(b)))
    for seed in range(5):
        torch.manual_seed(seed)
        monolithic = laws.built(whole)
        assert torch.equal(monolithic(of_user(a)), monolithic(of_user(b)))


def test_exact_keeps_what_is_no_table():
    """Projections are counted first, and what is left becomes rows."""
    policy = POLICIES["project"]
    applied = apply.exact(policy, 1000)
    assert applied.features == policy.features
    assert 998 < applied.num_params <= 1000
    with pytest.raises(PolicyError, match=r"23 of this policy cannot shrink.* budget is 28"):
        apply.exact(policy, 27)


def test_exact_keeps_rows_that_ids_need():
    """Only hashed tables take the budget; a policy without any is what it is."""
    three = Table("by-id", 3, 4)
    of_ids = Feature("only", (Lookup("by-id", "id"),))
    ids = {"only": np.array([5, 9])}
    alone = Policy((three,), (of_ids,), vocabularies=ids)
    for params in (12, 100):
        assert apply.exact(alone, params) == alone
    with pytest.raises(PolicyError, match=r"12 of this policy cannot shrink.* budget is 12"):
        apply.exact(alone, 11)
    both = Policy(
        (three, Table("shared", 2, 2)),
        (replace(of_ids, lookups=(*of_ids.lookups, Lookup("shared", "hash"))),),
        vocabularies=ids,
    )
    applied = apply.exact(both, 101)
    assert [t.num_rows for t in applied.tables] == [3, (101 - 12) // 2]
    assert applied.features == both.features


@pytest.mark.parametrize(
    "name, message",
    [
        ("project", r"features \['user', 'item'\] have importance weights or a projection"),
        ("weighted-sum", r"features \['user', 'hour'\] have importance weights"),
        ("rows-and-blocks", r"features \['hour'\] have importance weights"),
    ],
)
def test_round_robin_refuses_what_it_would_lose(name, message):
    with pytest.raises(PolicyError, match=message):
        apply.round_robin(POLICIES[name], 1000)


@pytest.mark.parametrize("name", ["codes", "digits", "blocks"])
def test_round_robin_leaves_a_policy_without_hashed_tables_as_it_is(name):
    policy = POLICIES[name]
    for params in (policy.num_params, 1000):
        assert apply.round_robin(policy, params) == policy
    with pytest.raises(PolicyError, match=f"smallest feasible budget is {policy.num_params}"):
        apply.round_robin(policy, policy.num_params - 1)


def own(policy: Policy) -> list[Table]:
    return [t for t in policy.tables if not t.name.startswith("chunk")]


@strategies
@pytest.mark.parametrize("params", [20_000, 20_001, 30_007])
def test_a_policy_of_the_run_off_by_id_keeps_what_ids_need(strategy, params, tiny):
    """Tables with a row per id stay; the shared chunks beside them take the rest to a row."""
    shape = plain.Shape(params=20_000, dim=16, chunk_dim=4, widest=16, seed=0)
    data = open_data(tiny)
    alone = [c.policy for c in plain.by_id(data, shape)]
    assert alone, "no row per id fits, so this test says nothing"
    for policy in alone:
        applied = apply.STRATEGIES[strategy](policy, params)
        assert applied == policy and applied.num_params <= params
        with pytest.raises(PolicyError, match="cannot shrink"):
            apply.STRATEGIES[strategy](policy, policy.num_params - 1)
    (policy,) = [c.policy for c in plain.both(data, shape)]
    applied = apply.STRATEGIES[strategy](policy, params)
    laws.keeps_what_was_chosen(policy, applied)
    laws.applying_twice_changes_nothing(policy, strategy, params)
    assert own(applied) == own(policy) != []
    chunks = [t for t in applied.tables if t not in own(applied)]
    assert {t.dim for t in chunks} == {4} and 0 <= params - applied.num_params < 4
    assert max(t.num_rows for t in chunks) - min(t.num_rows for t in chunks) <= 1


def test_round_robin_deals_the_shared_chunks_beside_rows_by_id():
    """As in the paper's example, with a table by id that is read before, between and after."""
    dealt = chunks(2, 3)
    ids = Lookup("chunk1", "id")  # its name is taken, so no slot gets it
    mixed = Policy(
        (Table("chunk1", 3, 5), *(replace(t, name=f"s{t.name}") for t in dealt.tables)),
        tuple(
            replace(
                f,
                lookups=(
                    *(replace(k, table=f"s{k.table}") for k in f.lookups[:n]),
                    ids,
                    *(replace(k, table=f"s{k.table}") for k in f.lookups[n:]),
                ),
            )
            for f, n in zip(dealt.features, (0, 1), strict=True)
        ),
        vocabularies={f.name: np.array([5, 9]) for f in dealt.features},
    )
    applied = apply.round_robin(mixed, 815)
    assert slots(applied) == [
        ["chunk1", "chunk0", "chunk2"],
        ["chunk3", "chunk1", "chunk4", "chunk0"],
    ]
    assert {t.num_rows for t in applied.tables[1:]} == {100} and applied.num_params == 815


# ---- the budget ----------------------------------------------------------------------------


@strategies
def test_equal_policies_are_applied_to_one_budget(strategy):
    """Which the policy states itself: where it comes from makes no difference."""
    policy = replace(searched(SCHEMAS["three"], 0), budget=Budget(params=1601))
    bare = replace(policy, provenance={}, decision=None)
    assert bare == policy and policy.num_params > 1601
    both = [apply.STRATEGIES[strategy](p, apply.default_budget(p)) for p in (policy, bare)]
    assert both[0] == both[1]
    assert [p.budget for p in both] == [Budget(1601)] * 2
    assert 0 <= 1601 - both[0].num_params < 2


@pytest.mark.parametrize(
    "budget, wanted", [(None, 5), (Budget(9), 9), (Budget(9, 80), 9), (Budget(None, 80), 5)]
)
def test_the_default_budget_is_what_the_policy_was_made_for(budget, wanted):
    policy = Policy((Table("t", 5, 1),), (Feature("f", (Lookup("t"),)),), budget=budget)
    assert apply.default_budget(policy) == wanted


@strategies
def test_an_applied_policy_says_its_budget(strategy):
    """One of bytes is kept as long as it belongs to these floats."""
    policy = replace(chunks(2, 3), budget=Budget(800, 4000))
    assert apply.STRATEGIES[strategy](policy, 800).budget == Budget(800, 4000)
    assert apply.STRATEGIES[strategy](policy, 803).budget == Budget(803)
    assert apply.STRATEGIES[strategy](replace(policy, budget=None), 803).budget == Budget(803)
    decision = {"winner": "attention"}
    assert apply.STRATEGIES[strategy](replace(policy, decision=decision), 80).decision == decision


@strategies
def test_types_of_storage_and_columns_are_kept(strategy):
    policy = chunks(2, 3)
    of_bytes = replace(
        policy,
        tables=tuple(replace(t, dtype="int8") for t in policy.tables),
        features=(policy.features[0], replace(policy.features[1], columns=("a", "b"))),
    )
    applied = apply.STRATEGIES[strategy](of_bytes, 800)
    assert {t.dtype for t in applied.tables} == {"int8"}
    assert [f.columns for f in applied.features] == [("F0",), ("a", "b")]
    assert applied.num_params == 800 and applied.num_bytes == 400 * (2 + 4)


def test_round_robin_deals_chunks_of_one_type_only():
    policy = chunks(2, 3)
    mixed = replace(policy, tables=(replace(policy.tables[0], dtype="int8"), *policy.tables[1:]))
    with pytest.raises(PolicyError, match=r"one dtype, the policy has tables of \['float32', 'in"):
        apply.round_robin(mixed, 800)
    assert [t.dtype for t in apply.exact(mixed, 800).tables] == [t.dtype for t in mixed.tables]
