"""Laws of the published methods, and of how a budget becomes rows."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import laws
from cases import METHODS, SCHEMAS, vocabularies
from seo_rec import methods
from seo_rec.policy import PolicyError, split_rows

schemas = pytest.mark.parametrize("schema", SCHEMAS)
all_methods = pytest.mark.parametrize("method", METHODS)
exact_methods = pytest.mark.parametrize("method", [n for n, m in METHODS.items() if m.exact])
seeded_methods = pytest.mark.parametrize("method", [n for n, m in METHODS.items() if m.seeded])


@all_methods
@schemas
def test_every_column_is_served_or_dropped(method, schema):
    laws.serves_every_column(METHODS[method], SCHEMAS[schema])


@exact_methods
@schemas
@pytest.mark.parametrize("params", [400, 401, 407, 1_000, 10_007, 9_999_991])
def test_the_budget_is_filled(method, schema, params):
    laws.fills_the_budget(METHODS[method], SCHEMAS[schema], params)


@exact_methods
@schemas
def test_the_smallest_budget_is_named(method, schema):
    laws.names_the_smallest_budget(METHODS[method], SCHEMAS[schema])


@all_methods
@schemas
def test_methods_are_deterministic(method, schema, tmp_path):
    laws.is_deterministic(METHODS[method], SCHEMAS[schema], tmp_path)


@seeded_methods
@schemas
def test_seeds_follow_the_seed(method, schema):
    laws.seeds_follow_the_seed(METHODS[method], SCHEMAS[schema])


@schemas
def test_separate_is_even(schema):
    rows = [t.num_rows for t in methods.separate(SCHEMAS[schema], 10_007, 8).tables]
    assert max(rows) - min(rows) <= 1


def test_separate_follows_the_cardinality():
    tables = methods.separate(SCHEMAS["three"], 8 * 464, 8, rows="cardinality").tables
    assert [t.num_rows for t in tables] == [40, 400, 24]
    with pytest.raises(PolicyError, match=r"rows='odd'; allowed: even, cardinality"):
        methods.separate(SCHEMAS["three"], 1000, 8, rows="odd")


def test_multi_size_divides_the_width():
    policy = methods.multi_size(SCHEMAS["three"], 800, 8, lookups=4)
    assert [(t.num_rows, t.dim) for t in policy.tables] == [(100, 2)] * 4
    assert policy.widths == (8, 8, 8)
    with pytest.raises(PolicyError, match="dim 8 is not a multiple of lookups 3"):
        methods.multi_size(SCHEMAS["three"], 800, 8, lookups=3)
    with pytest.raises(PolicyError, match="multiple of lookups 0"):
        methods.multi_size(SCHEMAS["three"], 800, 8, lookups=0)


@schemas
def test_collisionless_has_a_row_per_id_and_one_more(schema):
    of = SCHEMAS[schema]
    policy = methods.collisionless(of, 8, vocabularies(of))
    assert [t.num_rows for t in policy.tables] == [of.vocab_size(c.name) + 1 for c in of.features]
    assert all(k.address == "id" for f in policy.features for k in f.lookups)


def test_lookup_seeds():
    """63 bits, and a fixed function: these numbers must never change, saved policies hold them."""
    assert methods.lookup_seed(0, "C1", 0) == 3084233289169470033
    seeds = {methods.lookup_seed(s, f"C{i}", j) for s in range(9) for i in range(9) for j in (0, 1)}
    assert len(seeds) == 162
    assert all(0 <= s < 2**63 for s in seeds)
    assert max(s.bit_length() for s in seeds) == 63


def test_provenance_says_how_to_make_it_again():
    policy = methods.separate(SCHEMAS["three"], 1000, 8, seed=5)
    arguments = {"params": 1000, "dim": 8, "rows": "even", "seed": 5}
    assert policy.provenance["arguments"] == arguments
    assert policy.provenance["data_fingerprint"] == SCHEMAS["three"].fingerprint
    again = methods.separate(SCHEMAS["three"], **policy.provenance["arguments"])
    assert again == policy


# ---- split_rows ----------------------------------------------------------------------------

tables = st.lists(
    st.tuples(
        st.integers(1, 64) | st.sampled_from([1, 8, 16]),
        st.integers(0, 10**7) | st.floats(0.001, 1e6),
    ),
    min_size=1,
    max_size=30,
).filter(lambda rows: any(w for _, w in rows))


@given(tables, st.integers(0, 2**40) | st.integers(0, 3000))
@example([(1, 1000), (1, 1000), *[(1, 1)] * 100], 48)  # floors of one row overdraw the budget
@example([(1, 10**7), (64, 0), (64, 0)], 0)
@example([(8, 1 / 3), (8, 2 / 3), (1, 1e-3)], 2**40 - 17)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_rows_of_any_budget(of, above):
    dims, weights = [d for d, _ in of], [w for _, w in of]
    budget = sum(dims) + above
    rows = split_rows(budget, dims, weights)
    laws.splits_fairly(budget, dims, weights, rows)


def test_tables_of_equal_weight_get_equal_rows_when_small_ones_overdraw():
    """1000 tables whose share is half a row take a row each; the two large ones pay alike."""
    rows = split_rows(1500, [1] * 1002, [1000.0] * 2 + [1.0] * 1000)
    assert rows == [250, 250] + [1] * 1000


def test_a_table_of_no_weight_gets_one_row():
    assert split_rows(100, [1, 1, 1], [1, 1, 0]) == [50, 49, 1]


def test_rows_refuse_what_cannot_be_split():
    with pytest.raises(PolicyError, match="smallest feasible budget is 24"):
        split_rows(23, [8, 16], [1, 1])
    for weights in ([0, 0], [-1, 2]):
        with pytest.raises(PolicyError, match="allowed: 0 or more, and one above 0"):
            split_rows(100, [8, 16], weights)
