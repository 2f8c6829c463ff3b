"""Days that go on with vocabularies of digests: rows move exactly, counts and shares agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from seo_rec import recipes
from seo_rec.analysis.drift import drift
from seo_rec.data.crosses import Cross, with_crosses
from seo_rec.data.dataset import open_data
from seo_rec.data.shards import read_shards
from seo_rec.policy import Allowance, Feature, Lookup, Policy, Table
from seo_rec.policy.addresses import known_as, lookup_rows
from seo_rec.policy.preimages import ids_of_digests
from seo_rec.recipes.id_counts import counts_of_run, read_counts, write_counts
from seo_rec.recipes.replaying import unknown_shares
from seo_rec.train import warm_start
from seo_rec.train.carrying import row_moves
from spec import cross_id
from test_warm_start import BAG, saved_tensors, trained
from tests.days import prepare_day


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("days")
    return [prepare_day(folder / f"day{i}", i) for i in range(2)]


def every_id(day: Path, bits: int) -> Policy:
    """A row for every training id of a day."""
    return recipes.method_policy("collisionless", open_data(day), Allowance(0, id_bits=bits), 4)


def rows_of(policy: Policy, ids: np.ndarray) -> torch.Tensor:
    """The row of users that the vocabulary knows."""
    known = policy.vocabularies["user"]
    of = known_as(ids, policy.id_bits["user"])
    assert np.isin(of, known).all()
    return torch.from_numpy(1 + np.searchsorted(known, of))


def users(data: Path, policy: Policy) -> np.ndarray:
    """The training ids of a day that a policy knows."""
    ids = open_data(data).vocabulary("user")
    return ids[np.isin(known_as(ids, policy.id_bits["user"]), policy.vocabularies["user"])]


@pytest.mark.parametrize(("before", "after"), [(32, None), (64, 32), (32, 64)])
def test_rows_of_ids_that_stay_move_bit_for_bit(
    before: int, after: int | None, days: list[Path], tmp_path: Path
) -> None:
    """Renewed, and taken over by a policy that tells ids apart in the other way."""
    first = every_id(days[0], before)
    trained(days[0], first, tmp_path / "run")
    old = saved_tensors(tmp_path / "run" / "checkpoints")
    data = open_data(days[1])
    policy = None if after is None else every_id(days[1], after)
    made = recipes.continued(tmp_path / "run", data, policy=policy, mean_anew=False)
    training = made.earlier.training
    start = replace(training, fit=replace(training.fit, seed=5))
    warm_start.write_first_checkpoint(tmp_path / "next", data, made.trained, start, made.earlier)
    new = saved_tensors(tmp_path / "next" / "checkpoints", 0)
    assert made.policy.id_bits["user"] == (after or 32)
    both = np.intersect1d(users(days[0], first), users(days[1], made.trained))
    assert len(both) > 5
    tables = [n for n in old if BAG in n and old[n].dim() == 2]
    assert {n.split(".")[0] for n in tables} == {"model", "average", "optimizer"}
    for name in tables:
        wanted = old[name][rows_of(first, both)]
        assert wanted.any() and torch.equal(new[name][rows_of(made.trained, both)], wanted), name
    came = np.setdiff1d(users(days[1], made.trained), users(days[0], first))
    name = next(n for n in tables if n.startswith("model"))
    unknown = old[name][:1].expand(len(came), -1)
    assert len(came) > 2 and torch.equal(new[name][rows_of(made.trained, came)], unknown)


def test_counts_are_of_digests_and_decay(days: list[Path], tmp_path: Path) -> None:
    policy = every_id(days[0], 32)
    trained(days[0], policy, tmp_path / "run")
    kept = read_counts(tmp_path / "run" / "counts.npz")["user"]
    ids, counts = open_data(days[0]).counts("user")
    of = dict(zip(known_as(ids, 32).tolist(), counts.tolist(), strict=True))
    assert dict(zip(kept[0].tolist(), kept[1].tolist(), strict=True)) == of
    made = recipes.continued(tmp_path / "run", open_data(days[1]), decay=0.5)
    found = dict(zip(*(x.tolist() for x in made.counts["user"]), strict=True))
    later_ids, later = open_data(days[1]).counts("user")
    day = dict(zip(known_as(later_ids, 32).tolist(), later.tolist(), strict=True))
    wanted = {i: 0.5 * of.get(i, 0) + day.get(i, 0) for i in {*of, *day}}
    assert all(found[i] == wanted[i] for i in found) and len(found) > len(of) / 2


def test_shares_of_unknown_ids_are_those_of_whole_ids(days: list[Path]) -> None:
    data = [open_data(day) for day in days]
    short, whole = (every_id(days[0], bits) for bits in (32, 64))
    shares = unknown_shares(data[1], short)
    assert shares == unknown_shares(data[1], whole) and shares["user"] > 0.05
    reports = [drift(*data, policy=policy, rows=100) for policy in (short, whole)]
    assert reports[0].unknown == reports[1].unknown and reports[0].unknown["user"] > 0.05
    assert reports[0].to_json().keys() == reports[1].to_json().keys()


@pytest.mark.parametrize("bits", [64, 32])
def test_a_row_of_an_id_continues_the_row_that_its_hash_had(
    bits: int, days: list[Path], tmp_path: Path
) -> None:
    """From hashed rows to a row per id, whatever the vocabulary holds of it."""
    data = open_data(days[0])
    hashed = recipes.method_policy("hashing-trick", data, 120 * 4, 4)
    trained(days[0], hashed, tmp_path / "run")
    made = recipes.continued(tmp_path / "run", data, policy=every_id(days[0], bits))
    moves = row_moves(hashed, made.policy, made.earlier.known, made.earlier.stand_ins)
    ids = data.vocabulary("user")
    before, after = (
        lookup_rows(p, f, f.lookups[0], ids)
        for p in (hashed, made.policy)
        for f in p.features
        if f.name == "user"
    )
    assert len(np.unique(before)) > 5
    np.testing.assert_array_equal(moves["user"].row_R[after], before)


@pytest.mark.parametrize(("before", "after"), [(0, 32), (32, 0), (0, 64), (0, 0)])
def test_a_row_of_a_cross_continues_the_row_that_its_mixed_id_had(
    before: int, after: int, days: list[Path], tmp_path: Path
) -> None:
    """From hashed rows (0) to rows by digest, by id or by another hash, and back.

    Against the mixed ids of the rows of the day, one by one.
    """
    data, cross = open_data(days[0]), Cross(("user", "item"))
    crossed = with_crosses(data, (cross,))

    def policy(bits: int, params: int) -> Policy:
        if not bits:
            return recipes.method_policy("hashing-trick", crossed, params, 4)
        return recipes.method_policy("collisionless", crossed, Allowance(0, id_bits=bits), 4)

    old, new = policy(before, 1200 * 4), policy(after, 1600 * 4)
    trained(days[0], old, tmp_path / "run")
    made = recipes.continued(tmp_path / "run", data, policy=new)
    rows = pa.concat_tables(read_shards(days[0] / "train"))
    pairs = zip(rows["user"].to_pylist(), rows["item"].to_pylist(), strict=True)
    ids = np.unique([cross_id(pair) for pair in pairs])
    assert len(ids) > 50
    features = [next(f for f in p.features if f.name == cross.name) for p in (old, new)]
    assert all(f.columns == cross.columns for f in features)
    from_rows, to_rows = (
        lookup_rows(p, f, f.lookups[0], ids) for p, f in zip((old, new), features, strict=True)
    )
    table = features[1].lookups[0].table
    move = row_moves(old, new, made.earlier.known, made.earlier.stand_ins)[table]
    assert move.carried >= len(np.unique(to_rows)) > 50
    for row in np.unique(to_rows):  # several ids may meet there; one of them decides
        assert move.row_R[row] in from_rows[to_rows == row]


def test_ids_that_stand_in_for_digests_decide_nothing_for_lookups_of_whole_ids() -> None:
    known = ids_of_digests(np.arange(10))

    def policy(lookup: Lookup, **more: Any) -> Policy:
        return Policy((Table("t", 11, 4),), (Feature("u", (lookup,), **more),), **kept(more))

    def kept(more: Any) -> dict[str, Any]:
        return {"vocabularies": {"u": np.arange(10)}} if more else {}

    hashed = policy(Lookup("t", "hash", seed=5))
    other = policy(Lookup("t", "hash", seed=6))
    short = policy(Lookup("t", "id"), id_bits=32)
    for old, new in ((hashed, short), (short, hashed), (hashed, other)):
        assert row_moves(old, new, {"u": known})["t"].carried > 3
        assert not row_moves(old, new, {"u": known}, {"u": known})["t"].carried


@pytest.mark.parametrize(
    ("ids", "message"),
    [([-3, 5], "not a file of counts"), ([3, 2**32], "counts 4294967296 of 'user'")],
)
def test_counts_that_are_no_counts_of_digests_are_refused(
    ids: list[int], message: str, days: list[Path], tmp_path: Path
) -> None:
    counts = {"user": (np.array(ids), np.ones(2)), "item": (np.arange(2), np.ones(2))}
    write_counts(tmp_path / "counts.npz", counts)
    with pytest.raises(ValueError, match=message):
        counts_of_run(tmp_path, every_id(days[0], 32))
