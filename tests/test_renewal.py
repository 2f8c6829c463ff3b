"""Vocabularies are renewed inside the same bytes, and rows of ids that stay move exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from seo_rec.policy import Feature, Lookup, Policy, PolicyError, Table
from seo_rec.policy.addresses import lookup_rows
from seo_rec.policy.columns import adapted
from seo_rec.policy.renewal import (
    KEPT_BESIDE,
    Turnover,
    added_counts,
    bounded,
    renewable_features,
    renewed,
)
from seo_rec.schema import Column, Schema
from seo_rec.train.carrying import NEW, row_moves


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def by_id(vocabulary: np.ndarray, unknown_rows: int = 1) -> Policy:
    seed = 3 if unknown_rows > 1 else 0
    lookup = Lookup("u", "id", seed=seed, unknown_rows=unknown_rows)
    table = Table("u", len(vocabulary) + unknown_rows, 2)
    return Policy((table,), (Feature("u", (lookup,)),), vocabularies={"u": vocabulary})


def by_codes() -> Policy:
    """Ids 10, 20, 30, 40; 20 and 30 were pruned and read the row of the unknown."""
    return Policy(
        (Table("u", 3, 2),),
        (Feature("u", (Lookup("u", "codes", codes="c"),)),),
        vocabularies={"u": ids(10, 20, 30, 40)},
        codes={"c": np.array([0, 2, 0, 0, 1], np.int32)},
    )


def test_counts_decay_and_add() -> None:
    found = added_counts((ids(1, 5), np.array([4.0, 8.0])), (ids(5, 9), np.array([1, 2])), 0.5)
    assert found[0].tolist() == [1, 5, 9]
    assert found[1].tolist() == [2.0, 5.0, 2.0]


def test_counts_do_not_grow_for_ever() -> None:
    many = np.arange(10 * KEPT_BESIDE)
    counts = np.random.default_rng(0).integers(1, 1000, len(many)).astype(float)
    kept, amounts = bounded((many, counts), ids(3, 4))
    assert len(kept) == KEPT_BESIDE + 4
    assert {3, 4} <= set(kept.tolist())
    others = np.setdiff1d(kept, [3, 4])
    assert counts[others].min() >= counts[np.setdiff1d(many, kept)].max()
    assert np.array_equal(counts[kept], amounts)


@pytest.mark.parametrize("seed", range(5))
def test_the_most_frequent_ids_have_rows(seed: int) -> None:
    """Against a plain sort of (count, known first, smaller id)."""
    rng = np.random.default_rng(seed)
    old = np.sort(rng.choice(100, 30, replace=False)).astype(np.int64)
    counted = np.sort(rng.choice(100, 60, replace=False)).astype(np.int64)
    counts = rng.integers(0, 6, 60).astype(float)
    policy = by_id(old)
    made, turnovers = renewed(policy, {"u": (counted, counts)})
    amount = dict.fromkeys(old.tolist(), 0.0) | dict(zip(counted.tolist(), counts, strict=True))
    order = sorted(amount, key=lambda i: (-amount[i], i not in set(old.tolist()), i))
    assert made.vocabularies["u"].tolist() == sorted(order[:30])
    stayed = len(set(order[:30]) & set(old.tolist()))
    assert turnovers["u"] == Turnover(stayed, 30 - stayed, 30 - stayed)
    assert made.num_bytes == policy.num_bytes
    assert made.tables == policy.tables


def test_codes_of_evicted_ids_go_to_the_most_frequent_new_ones() -> None:
    counted = ids(10, 25, 35, 40), np.array([5.0, 1.0, 9.0, 0.0])
    made, _ = renewed(by_codes(), {"u": counted})
    assert made.vocabularies["u"].tolist() == [10, 20, 25, 35]  # ties: known ids, smaller first
    feature = made.features[0]
    rows = lookup_rows(made, feature, feature.lookups[0], ids(10, 20, 25, 35, 99))
    assert rows.tolist() == [2, 0, 0, 1, 0]  # 35 takes the row of 40


def test_digits_and_shared_rows_are_not_renewed() -> None:
    digits = Lookup("r", "remainder", modulus=3), Lookup("q", "quotient", modulus=3)
    qr = Policy(
        (Table("r", 3, 2), Table("q", 3, 2)),
        (Feature("u", digits, "mul"),),
        vocabularies={"u": ids(1, 2, 3)},
    )
    assert renewable_features(qr) == ()
    shared = by_id(ids(1, 2, 3))
    second = Feature("v", (Lookup("u", "id"),))
    shared = replace(
        shared,
        features=(*shared.features, second),
        vocabularies={"u": ids(1, 2, 3), "v": ids(1, 2, 3)},
    )
    assert renewable_features(shared) == ()
    assert renewed(shared, {"u": (ids(9), np.array([9.0]))})[0] == shared
    assert renewable_features(by_id(ids(1, 2))) == ("u",)
    assert renewable_features(by_codes()) == ("u",)


@pytest.mark.parametrize("unknown_rows", [1, 4])
def test_rows_of_ids_that_stay_move_exactly(unknown_rows: int) -> None:
    old = by_id(ids(2, 4, 6, 8), unknown_rows)
    counted = ids(1, 2, 4, 6, 7, 8), np.array([9.0, 1.0, 8.0, 0.0, 9.0, 5.0])
    new, _ = renewed(old, {"u": counted})
    assert new.vocabularies["u"].tolist() == [1, 4, 7, 8]
    move = row_moves(old, new, {"u": ids(1, 2, 4, 6, 7, 8)})["u"]
    lookup, feature = old.features[0].lookups[0], old.features[0]
    for stays in (4, 8):
        after = int(lookup_rows(new, feature, lookup, ids(stays))[0])
        assert move.row_R[after] == lookup_rows(old, feature, lookup, ids(stays))[0]
        assert not move.fresh_R[after]
    for enters in (1, 7):
        after = int(lookup_rows(new, feature, lookup, ids(enters))[0])
        assert (
            move.row_R[after] == lookup_rows(old, feature, lookup, ids(enters))[0]
        )  # the unknown's
        assert move.row_R[after] < unknown_rows
        assert move.fresh_R[after]
    assert move.row_R[:unknown_rows].tolist() == list(range(unknown_rows))
    assert not (move.table_R == NEW).any()


def test_codes_carry_rows_in_place() -> None:
    old = by_codes()
    new, _ = renewed(old, {"u": (ids(10, 25, 35, 40), np.array([5.0, 1.0, 9.0, 0.0]))})
    move = row_moves(old, new, {"u": ids(40, 20, 25, 10, 35)})["u"]
    assert move.row_R.tolist() == [0, 0, 2]  # row 1 was of 40 and begins as the unknown's
    assert move.fresh_R.tolist() == [False, True, False]


def test_equal_addresses_are_taken_over_whole() -> None:
    policy = by_id(ids(1, 2, 3))
    assert row_moves(policy, policy, {})["u"].whole


def test_hashed_rows_follow_the_most_important_id() -> None:
    """From a row per id to two hashed rows: the last known id of a row decides."""
    old = by_id(ids(1, 2, 3, 4))
    lookup = Lookup("u", "hash", seed=5)
    new = Policy((Table("u", 2, 2),), (Feature("u", (lookup,)),))
    known = ids(4, 3, 2, 1)
    move = row_moves(old, new, {"u": known})["u"]
    expected = [NEW, NEW]
    for i in known.tolist():
        expected[int(lookup_rows(new, new.features[0], lookup, ids(i))[0])] = i  # row of id i is i
    assert [r if t != NEW else NEW for r, t in zip(move.row_R, move.table_R, strict=True)] == (
        expected
    )


def test_tables_of_other_widths_start_anew() -> None:
    old = by_id(ids(1, 2))
    new = replace(old, tables=(Table("u", 3, 4),))
    assert row_moves(old, new, {"u": ids(1, 2)}) == {}


def schema(*names: str) -> Schema:
    columns = tuple(Column(n, "categorical", 10) for n in names)
    return Schema("table", columns, "y", {"train": 10}, {"train": 0.5})


def test_new_columns_read_shared_tables_for_nothing() -> None:
    features = tuple(Feature(n, (Lookup("t", seed=i),)) for i, n in enumerate("ab"))
    policy = Policy((Table("t", 50, 4),), features)
    made, change = adapted(policy, schema("a", "b", "c"))
    assert change.added == ("c",) and change.lost == () and change.more_bytes == 0
    assert made.features[:2] == features
    assert made.features[2].columns == ("c",)
    assert made.features[2].lookups[0].seed not in (0, 1)


def test_new_columns_get_a_table_of_their_own_beside_others() -> None:
    made, change = adapted(by_id(ids(1, 2, 3, 4, 5, 6)), schema("u", "w"))
    assert made.table("w") == Table("w", 7, 2)  # the median of the rows, below the 11 of its ids
    assert change.more_bytes == 4 * 2 * 7


def test_lost_columns_leave_with_their_tables() -> None:
    both, _ = adapted(by_id(ids(1, 2)), schema("u", "w"))
    left, change = adapted(both, schema("w"))
    assert change.lost == ("u",)
    assert [t.name for t in left.tables] == ["w"] and not left.vocabularies
    with pytest.raises(PolicyError, match="none of the columns"):
        adapted(by_id(ids(1)), schema("w"))


# ---- rows that ids without one share -----------------------------------------------------------


@pytest.mark.parametrize(("outside", "rows", "later"), [(0, 1, 1), (5, 5, 9), (200, 30, 30)])
def test_ids_outside_of_a_large_vocabulary_share_rows(outside: int, rows: int, later: int) -> None:
    """Against a plain sort; 301 rows give at most 30 away, and no more than ids need.

    The next time ids that lost their row need some too.
    """
    rng = np.random.default_rng(outside)
    old = np.sort(rng.choice(5000, 300, replace=False)).astype(np.int64)
    others = np.setdiff1d(np.arange(5000), old)[:outside]
    counted = np.sort(np.concatenate([old, others]))
    counts = rng.integers(0, 9, len(counted)).astype(float)
    policy = by_id(old)
    made, turnovers = renewed(policy, {"u": (counted, counts)}, 0.1)
    amount = dict(zip(counted.tolist(), counts, strict=True))
    order = sorted(amount, key=lambda i: (-amount[i], i not in set(old.tolist()), i))
    kept = order[: 301 - rows]
    assert made.vocabularies["u"].tolist() == sorted(kept)
    assert made.features[0].lookups[0].unknown_rows == rows
    assert made.tables == policy.tables
    assert made.num_bytes == policy.num_bytes - 8 * (rows - 1)
    stayed = len(set(kept) & set(old.tolist()))
    assert turnovers["u"] == Turnover(stayed, len(kept) - stayed, 300 - stayed)
    again, _ = renewed(made, {"u": (counted, counts)}, 0.1)
    assert again.features[0].lookups[0].unknown_rows == later
    plain, _ = renewed(policy, {"u": (counted, counts)})
    assert plain.features == policy.features and plain.num_bytes == policy.num_bytes


def test_small_vocabularies_and_codes_share_nothing_more() -> None:
    small = by_id(np.arange(199, dtype=np.int64))
    made, _ = renewed(small, {"u": (np.arange(500), np.ones(500))}, 0.5)
    assert made.features == small.features
    coded, _ = renewed(by_codes(), {"u": (np.arange(500), np.ones(500))}, 0.5)
    assert coded.features == by_codes().features
    with pytest.raises(ValueError, match="shared rows 1; allowed"):
        renewed(small, {}, 1)


def test_ids_that_lose_their_row_share_new_ones_and_come_back_with_them() -> None:
    """Of ids that meet in a shared row the most frequent decides; later each continues its row."""
    old = np.arange(1000, 1300, dtype=np.int64)
    counts = np.arange(300, dtype=float)  # id 1299 is the most frequent
    counted = np.concatenate([old, np.arange(5000, 5100)])
    amounts = np.concatenate([counts, np.full(100, 400.0)])
    policy = by_id(old)
    made, _ = renewed(policy, {"u": (counted, amounts)}, 0.1)
    feature, lookup = made.features[0], made.features[0].lookups[0]
    order = counted[np.lexsort((counted, amounts))]
    move = row_moves(policy, made, {"u": order})["u"]
    came, left = np.arange(5000, 5100), old[:129]
    assert made.vocabularies["u"].tolist() == [*old[129:], *came]
    wanted = np.zeros(30, np.int64)  # the row of the unknown, where no id of a row comes
    for i in left:
        wanted[lookup_rows(made, feature, lookup, np.array([i]))[0]] = 1 + i - 1000
    assert move.row_R[:30].tolist() == wanted.tolist() and len(set(wanted.tolist())) > 20
    assert not move.fresh_R[:30].any()
    rows = lookup_rows(made, feature, lookup, old[129:])
    assert move.row_R[rows].tolist() == list(range(130, 301)) and not move.fresh_R[rows].any()
    rows = lookup_rows(made, feature, lookup, came)
    assert not move.row_R[rows].any() and move.fresh_R[rows].all()
    # a day later the evicted come back, and continue the rows that they shared
    amounts = np.concatenate([np.full(300, 900.0), np.full(100, 400.0)])
    later, _ = renewed(made, {"u": (counted, amounts)}, 0.1)
    move = row_moves(made, later, {"u": counted})["u"]
    back = np.setdiff1d(later.vocabularies["u"], made.vocabularies["u"])
    assert len(back) == 100
    rows = lookup_rows(later, later.features[0], later.features[0].lookups[0], back)
    before = lookup_rows(made, feature, lookup, back)
    assert move.row_R[rows].tolist() == before.tolist() and move.fresh_R[rows].all()
    assert move.row_R[:30].tolist() == list(range(30))
