"""The report's collisions: equal to a count by brute force and to closed forms."""

import math

import numpy as np
import pytest

from cases import BUILDABLE, VOCABULARY
from seo_rec.embed.remap import hash_rows
from seo_rec.policy import Feature, Lookup, Policy, Table
from seo_rec.policy.addresses import lookup_rows
from seo_rec.report.collisions import agreement, collisions, hit, shared_row


def toy_policy() -> tuple[Policy, dict]:
    """Features a, b, c in shared tables of 13, 5 and 11 rows; c reads one seed at two sizes."""
    tables = (Table("s", 13, 2), Table("t", 5, 2), Table("u", 11, 4))
    features = (
        Feature("a", (Lookup("s", "hash", 1), Lookup("t", "hash", 2))),
        Feature("b", (Lookup("s", "hash", 3),)),
        Feature("c", (Lookup("t", "hash", 4), Lookup("u", "hash", 4))),
    )
    rng = np.random.default_rng(1)
    ids = {
        n: np.sort(rng.choice(10**6, k, replace=False)) for n, k in (("a", 9), ("b", 4), ("c", 7))
    }
    return Policy(tables, features), ids


def test_collisions_equal_a_brute_force_count():
    policy, ids = toy_policy()
    found = {f.feature: f for f in collisions(policy, ids).features}

    def row(lookup, x):
        size = next(t.num_rows for t in policy.tables if t.name == lookup.table)
        return int(hash_rows(torch_int(x), lookup.seed, size))

    for f in policy.features:
        own = [int(x) for x in ids[f.name]]
        intra, inter, full = [], [], 0
        for k in f.lookups:
            intra.append(sum(any(row(k, x) == row(k, y) for y in own if y != x) for x in own))
            others = {
                row(h, int(y))
                for g in policy.features
                if g.name != f.name
                for h in g.lookups
                if h.table == k.table
                for y in ids[g.name]
            }
            inter.append(sum(row(k, x) in others for x in own))
        full = sum(
            any(all(row(k, x) == row(k, y) for k in f.lookups) for y in own if y != x) for x in own
        )
        assert found[f.name].intra.actual == pytest.approx(np.mean(intra) / len(own))
        assert found[f.name].inter.actual == pytest.approx(np.mean(inter) / len(own))
        assert found[f.name].full.actual == pytest.approx(full / len(own))
    occupied = {t.table: t.occupied.actual for t in collisions(policy, ids).tables}
    both = {row(Lookup("s", "hash", s), int(x)) for s, n in ((1, "a"), (3, "b")) for x in ids[n]}
    assert occupied["s"] == len(both)


def torch_int(x):
    import torch

    return torch.tensor(x, dtype=torch.int64)


def test_expected_shares_equal_the_mean_over_many_hash_functions():
    """The closed forms against the model's own hash, drawn with 1500 seeds."""
    rng = np.random.default_rng(2)
    ids = {"a": rng.choice(10**9, 30, replace=False), "b": rng.choice(10**9, 12, replace=False)}
    sums = np.zeros((2, 4))
    rounds = 1500
    for _ in range(rounds):
        s = [int(x) for x in rng.integers(0, 2**62, 3)]
        tables = (Table("s", 17, 1), Table("t", 23, 1))
        features = (
            Feature("a", (Lookup("s", "hash", s[0]), Lookup("t", "hash", s[1]))),
            Feature("b", (Lookup("s", "hash", s[2]), Lookup("t", "hash", s[2]))),
        )
        found = collisions(Policy(tables, features), ids)
        for i, f in enumerate(found.features):
            sums[i] += (
                f.intra.actual,
                f.full.actual,
                f.inter.actual,
                found.tables[i].occupied.actual,
            )
    for i, f in enumerate(found.features):
        expected = (f.intra.expected, f.full.expected, f.inter.expected)
        np.testing.assert_allclose(sums[i][:3] / rounds, expected, atol=0.01)
        assert sums[i][3] / rounds == pytest.approx(found.tables[i].occupied.expected, rel=0.01)


def test_closed_forms_by_hand():
    assert shared_row(2, 1) == pytest.approx(0.5)
    assert shared_row(1, 3) == 1.0
    assert shared_row(10, 0) == 0.0
    assert hit(1e-12, 1000) == pytest.approx(1e-9, rel=1e-6)
    assert agreement([4]) == agreement([4, 4]) == 0.25
    # Cuts at 1/3, 1/2, 2/3: pieces of 1/3, 1/6, 1/6, 1/3.
    assert agreement([2, 3]) == pytest.approx(2 / 9 + 2 / 36)


@pytest.mark.parametrize("name", BUILDABLE)
def test_collisions_of_every_policy_are_shares(name):
    policy = BUILDABLE[name]
    ids = {f.name: np.sort(VOCABULARY) for f in policy.features}
    found = collisions(policy, ids)
    for f in found.features:
        for share in (f.intra.actual, f.full.actual, f.full.expected, f.intra.expected):
            assert math.isnan(share) or 0 <= share <= 1
        assert not math.isnan(f.full.actual)
    assert [t.table for t in found.tables] == [t.name for t in policy.tables]


def test_digits_tell_ids_apart_that_share_rows():
    policy = BUILDABLE["digits"]
    ids = {"user": VOCABULARY, "item": VOCABULARY, "hour": VOCABULARY}
    user, item, _ = collisions(policy, ids).features
    assert (user.full.actual, item.full.actual) == (0.0, 0.0)
    assert user.intra.actual > 0.5


def test_the_id_address_has_no_collisions():
    ids = np.array([3, 5, 9])
    policy = Policy(
        (Table("a", 4, 2),), (Feature("a", (Lookup("a", "id"),)),), vocabularies={"a": ids}
    )
    found = collisions(policy, {"a": ids})
    (f,) = found.features
    assert (f.intra.actual, f.full.actual, f.inter.actual) == (0, 0, 0)
    assert (f.intra.expected, f.full.expected, f.inter.expected) == (0, 0, 0)
    assert found.tables[0].occupied.actual == found.tables[0].occupied.expected == 3
    assert list(lookup_rows(policy, policy.features[0], policy.features[0].lookups[0], ids)) == [
        1,
        2,
        3,
    ]


def test_a_feature_without_ids_has_no_shares():
    policy, ids = toy_policy()
    ids["b"] = np.zeros(0, np.int64)
    found = collisions(policy, ids)
    assert math.isnan(found.features[1].intra.actual)
    assert not math.isnan(found.mean("intra").actual)
