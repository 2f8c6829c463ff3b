"""Who goes on in a limited run-off: kinds that short trainings rank badly have their places."""

from __future__ import annotations

from dataclasses import replace

from seo_rec import methods
from seo_rec.data.dataset import DataSet
from seo_rec.search.run_off import Candidate, RunOff, Shape, plain_candidates, proposed
from seo_rec.search.run_off.claims import (
    LATE_GAIN,
    Kinds,
    after_finals,
    after_screening,
    kinds_of,
)

AUC = {
    "1x16": 0.9, "2x8": 0.5, "4x4": 0.7, "8x2": 0.6, "qr": 0.2, "frequent": 0.4,
    "chunks": 0.8, "ids": 0.1, "crosses": 0.3, "worth": 0.05, "worth-2": 0.04, "x": 0.85,
}  # fmt: skip
KINDS = Kinds(
    shared={"1x16", "2x8", "4x4", "8x2"},
    searched={"chunks", "ids", "crosses", "worth", "worth-2", "x"},
    by_id={"frequent", "ids", "worth", "worth-2"},
    crossed={"crosses"},
    by_worth={"worth", "worth-2"},
)


def test_every_kind_has_a_claim_to_begin() -> None:
    """In the order of the claims, each once; the rest by AUC."""
    kinds = ["1x16", "x", "4x4", "8x2", "2x8", "crosses", "worth", "frequent", "ids", "qr"]
    assert after_screening(AUC, KINDS) == [*kinds, "chunks", "worth-2"]


def test_with_few_places_the_best_shape_and_the_best_searched_one_begin() -> None:
    assert after_screening(AUC, KINDS)[:2] == ["1x16", "x"]
    ties = dict.fromkeys(AUC, 0.5)
    assert after_screening(ties, KINDS)[:3] == ["1x16", "chunks", "2x8"]


def test_with_few_steps_a_searched_policy_with_stored_ids_begins_before_the_last_shape() -> None:
    """Not one with crosses or divided by worth, which have their own places."""
    order = after_screening(AUC, KINDS, few_steps=True)
    assert order[:7] == ["1x16", "x", "4x4", "8x2", "crosses", "worth", "ids"]
    assert order[7:] == ["2x8", "frequent", "qr", "chunks", "worth-2"]
    without = replace(KINDS, by_id={"frequent", "worth", "worth-2"})
    assert after_screening(AUC, without, few_steps=True)[6:8] == ["2x8", "frequent"]


def test_three_shapes_go_on_where_there_are_five_places() -> None:
    """The best policy that stores ids goes on in any case, and then AUC decides."""
    assert after_finals(AUC, KINDS, 6, last=False)[:6] == [
        "1x16", "4x4", "8x2", "frequent", "x", "chunks",
    ]  # fmt: skip
    assert after_finals(AUC, KINDS, 5, last=False)[:4] == ["1x16", "4x4", "8x2", "frequent"]
    for places in (3, 4):
        order = after_finals(AUC, KINDS, places, last=False)
        assert order[:4] == ["1x16", "frequent", "x", "chunks"]


def test_the_last_round_has_the_best_shared_one_and_the_highest_auc() -> None:
    """One that stores ids takes the place of another that is less than LATE_GAIN better."""
    auc = {"2x8": 0.80, "1x16": 0.81, "x": 0.9, "ids": 0.9 - 0.9 * LATE_GAIN, "chunks": 0.7}
    assert after_finals(auc, KINDS, 2, last=True) == ["1x16", "ids", "x", "2x8", "chunks"]
    auc["ids"] = 0.9 - 1.1 * LATE_GAIN
    assert after_finals(auc, KINDS, 2, last=True) == ["1x16", "x", "ids", "2x8", "chunks"]


def test_without_a_shape_or_ids_auc_decides() -> None:
    none = Kinds(shared={"a"})
    auc = {"a": 0.1, "b": 0.2, "c": 0.3}
    for order in (
        after_screening(auc, none),
        after_finals(auc, none, 2, last=False),
        after_finals(auc, none, 2, last=True),
    ):
        assert order == ["a", "c", "b"]


def test_kinds_of_real_candidates(tiny_data: DataSet) -> None:
    shape = Shape(6400, 16, 8, 32, 0)
    plain = plain_candidates(tiny_data, shape, RunOff())
    plain += proposed(tiny_data, shape, by_id=True, frequent=True)
    found = kinds_of(plain)
    assert found.shared == {"trivial-1x16", "trivial-2x8", "trivial-4x4", "trivial-8x2"}
    assert found.by_id == {c.name for c in plain if c.policy.vocabularies}
    assert not (found.searched or found.crossed or found.by_worth)
    policy = methods.monolithic(tiny_data.schema, 6400, 16)
    one = Candidate("one", policy, shared=True)
    others = [
        Candidate("w", policy, True, by_worth=True),
        Candidate("c", policy, True, {"crosses": ["a*b"]}, by_worth=True),
    ]
    found = kinds_of([one, *others])
    assert found.shared == {"one"}
    assert found.searched == {"w", "c"}
    assert (found.crossed, found.by_worth) == ({"c"}, {"w"})
    assert kinds_of([replace(one, shared=False), *others]).shared == {"one"}
