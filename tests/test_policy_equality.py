"""Policies are equal where every id finds the same rows: ids of vocabularies count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cases import POLICIES
from seo_rec.policy import Feature, Lookup, Policy, Table

BY_ID = Policy(
    (Table("user", 4, 2),),
    (Feature("user", (Lookup("user", "id"),)),),
    vocabularies={"user": np.array([3, 5, 9])},
    provenance={"method": "collisionless"},
)


@pytest.mark.parametrize("name", POLICIES)
def test_copies_are_equal(name: str) -> None:
    """Copies of the arrays, not the arrays themselves."""
    policy = POLICIES[name]
    copied = replace(
        policy,
        vocabularies={feature: ids.copy() for feature, ids in policy.vocabularies.items()},
        codes={code: rows.copy() for code, rows in policy.codes.items()},
    )
    assert copied == policy
    assert hash(copied) == hash(policy)
    assert Policy.from_json(policy.to_json()) == policy


@pytest.mark.parametrize("ids", [[3, 5, 8], [3, 5], [5, 9, 10]])
def test_policies_with_other_ids_are_not_equal(ids: list[int]) -> None:
    """The same tables and lookups: the id 3 reads another row, or none of its own."""
    other = replace(BY_ID, vocabularies={"user": np.array(ids)})
    assert other != BY_ID
    assert {BY_ID, other, replace(BY_ID)} == {BY_ID, other}


def test_origin_and_purpose_do_not_count() -> None:
    """A file that was written by another release is the same policy."""
    assert replace(BY_ID, provenance={"method": "by hand"}, decision={"by": "nobody"}) == BY_ID


def test_a_policy_equals_policies_only() -> None:
    assert BY_ID.__eq__(BY_ID.to_json()) is NotImplemented
