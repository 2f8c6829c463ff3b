"""Laws of the way from ids to rows: the hash as it is written, and how well it spreads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import laws
from cases import BAGS, BUILDABLE, ROW_COUNTS, SEEDS, VOCABULARY, batch
from seo_rec import embed
from seo_rec.embed.remap import hash_rows
from seo_rec.policy import Feature, Lookup, Policy, Table

EDGES = [0, 1, 2**31, 2**32 - 1, 2**32, 2**62 - 2, 2**62 - 1, 2**62, 2**62 + 1, 2**63 - 1]
policies = pytest.mark.parametrize("policy", BUILDABLE)
ids = st.integers(0, 2**63 - 1) | st.sampled_from(EDGES)


@pytest.mark.parametrize("num_rows", ROW_COUNTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_hash_is_the_written_formula(seed, num_rows):
    laws.hashes_as_written(seed, num_rows, EDGES)


@given(st.lists(ids, min_size=1, max_size=20), ids, st.integers(1, 2**31 - 1))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_hash_is_the_written_formula_for_any_id_seed_and_table(values, seed, num_rows):
    laws.hashes_as_written(seed, num_rows, values)


def zipf() -> torch.Tensor:
    """The distinct ids of a long-tailed stream, gaps growing from 1 to millions."""
    return torch.from_numpy(np.unique((1.0005 ** np.arange(40_000)).astype(np.int64)))


ID_SETS = {
    "sequential": torch.arange(60_000),
    "zipf": zipf(),
    "even": torch.arange(60_000) * 2**20,
    "tokens": 2**62 + torch.arange(60_000),
}


@pytest.mark.parametrize("num_rows", ROW_COUNTS)
@pytest.mark.parametrize("ids", ID_SETS)
def test_hash_spreads_evenly(ids, num_rows):
    for seed in SEEDS:
        laws.spreads_evenly(ID_SETS[ids], seed, num_rows)


@pytest.mark.parametrize("ids", ID_SETS)
def test_seeds_are_independent(ids):
    for seed, other in itertools.combinations(SEEDS, 2):
        laws.collides_afresh(ID_SETS[ids][:5000], seed, other, 100)


def test_the_laws_of_the_hash_can_fail():
    """They reject a hash that drops a bit, and two seeds that are one."""
    with pytest.raises(AssertionError):
        laws.spreads_evenly(torch.arange(30_000).repeat_interleave(2), 0, 6000)
    with pytest.raises(AssertionError):
        laws.collides_afresh(torch.arange(5000), 7, 7, 100)


known = st.lists(ids, max_size=10, unique=True).map(sorted)


@given(known, st.lists(ids, max_size=10))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_vocabulary_rows(vocabulary, others):
    laws.numbers_the_vocabulary(vocabulary, [*vocabulary, *others])


@policies
def test_features_are_made_of_columns_as_written(policy):
    for bags in BAGS.values():
        laws.makes_features_as_written(BUILDABLE[policy], bags)


@policies
def test_remap_is_the_written_formula(policy):
    for bags in BAGS.values():
        laws.remaps_as_written(BUILDABLE[policy], bags)


@policies
def test_rows_in_numpy_are_the_written_formula(policy):
    known = [int(i) for v in BUILDABLE[policy].vocabularies.values() for i in v]
    laws.rows_in_numpy_as_written(BUILDABLE[policy], [*VOCABULARY.tolist(), *known, 1, 2**62 - 1])
    laws.rows_in_numpy_as_written(BUILDABLE[policy], [])


@policies
def test_fast_path_equals_general_path(policy):
    for bags in ("single", "single-weighted"):
        laws.fast_path_equals_general_path(BUILDABLE[policy], BAGS[bags])


def test_remap_leaves_its_input_alone():
    for bags in BAGS.values():
        features = batch(("user", "item"), bags)
        before = features.values().clone(), features.lengths().clone()
        embed.PolicyEmbedding(BUILDABLE["mixed-dims"]).remap(features)
        assert torch.equal(features.values(), before[0])
        assert torch.equal(features.lengths(), before[1])


def test_a_missing_feature_is_named():
    module = embed.PolicyEmbedding(BUILDABLE["mixed-dims"])
    for bags in (BAGS["single"], BAGS["bags"]):
        with pytest.raises(KeyError, match=r"lacks features \['item'\]; it has \['user', 'hour'\]"):
            module(batch(("user", "hour"), bags))


def test_unknown_ids_share_rows_by_hash():
    """Known ids keep rows of their own behind them; with one row for unknown ids it is row 0."""
    vocabulary = np.arange(0, 3000, 3)
    unknown = torch.arange(3000)[torch.arange(3000) % 3 > 0]
    known = torch.from_numpy(vocabulary)
    for u in (1, 2, 7, 100):
        seed = 0 if u == 1 else 11
        lookup = Lookup("t", "id", seed, unknown_rows=u)
        policy = Policy(
            (Table("t", 1000 + u, 1),), (Feature("f", (lookup,)),), vocabularies={"f": vocabulary}
        )
        remap = embed.PolicyEmbedding(policy).remap
        ones = torch.ones(3000, dtype=torch.int32)
        rows = remap(
            laws.KeyedJaggedTensor(["f"], torch.cat([known, unknown]), lengths=ones)
        ).values()
        assert rows[:1000].tolist() == list(range(u, 1000 + u))
        assert rows[1000:].tolist() == hash_rows(unknown, seed, u).tolist()
        assert set(rows[1000:].tolist()) == set(range(u))


def test_unknown_ids_read_row_zero():
    remap = embed.PolicyEmbedding(BUILDABLE["id-and-hash"]).remap
    features = laws.KeyedJaggedTensor(
        ["user", "item"],
        torch.tensor([*VOCABULARY.tolist(), 1, 2**62 - 1, 5] + [3] * 9),
        lengths=torch.ones(18, dtype=torch.int32),
    )
    lookups = remap(features)
    assert lookups["user:1"].values().tolist() == [1, 2, 3, 4, 5, 6, 0, 0, 0]
    assert lookups["item:0"].values().tolist() == [0] * 9
