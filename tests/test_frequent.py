"""Rows for the most frequent ids: which are kept, what the others read, and what it takes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import laws
from cases import SCHEMAS, by_last_digit, counts, told
from seo_rec import methods, recipes
from seo_rec.data.dataset import DataSet
from seo_rec.methods.frequent import FrequentSettings, frequent
from seo_rec.policy import Allowance, Policy, PolicyError
from seo_rec.policy.addresses import lookup_rows
from seo_rec.search.run_off import RunOff
from seo_rec.search.run_off.plain import Shape, plain_candidates

OF = SCHEMAS["three"]
COUNTS = counts(OF)
FORMS: dict[str, dict[str, Any]] = {
    "row": {},
    "per-feature": {"chosen": "per-feature"},
    "hash": {"tail": "hash", "tail_share": 0.2},
    "bands": {"tail": "bands", "bands": 3, "tail_share": 0.2},
    "clusters": {"tail": "label-rate", "bands": 3, "tail_share": 0.2},
    "hot": {"hot_dim": 6, "hot_share": 0.2},
    "hot-bands": {"hot_dim": 3, "tail": "bands", "chosen": "per-feature"},
}
forms = pytest.mark.parametrize("form", FORMS)
units = pytest.mark.parametrize(
    "unit, precision", [("parameters", "float32"), ("bytes", "float32"), ("bytes", "int8")]
)


def made(form: str, budget: int | Allowance, seed: int = 0) -> Policy:
    settings = FrequentSettings(**told(budget), dim=4, **FORMS[form])
    return frequent(OF, COUNTS, settings, cluster=by_last_digit, seed=seed)


def ranked(chosen: str) -> list[tuple[str, int]]:
    """All ids, the first to be kept first, by the definition."""
    found = []
    for f, c in enumerate(OF.features):
        ids, count = COUNTS[c.name]
        pairs = sorted(zip(ids.tolist(), count.tolist(), strict=True), key=lambda p: (-p[1], p[0]))
        for j, (i, n) in enumerate(pairs, 1):
            score = n if chosen == "global" else int(count.sum()) / j
            found.append((-score, f, j, c.name, i))
    return [(name, i) for *_, name, i in sorted(found)]


def own_rows(policy: Policy) -> dict[tuple[str, int], int]:
    """The row of every training id that shares its first row with no other id."""
    found: dict[tuple[str, int], int] = {}
    for f in policy.features:
        ids = np.append(COUNTS[f.name][0], 12345678901)  # and one that was never trained
        rows = lookup_rows(policy, f, f.lookups[0], ids).tolist()
        alone = {r for r in rows if rows.count(r) == 1}
        found |= {(f.name, i): r for i, r in zip(ids.tolist(), rows, strict=True) if r in alone}
    return found


@units
@pytest.mark.parametrize("chosen", ["global", "per-feature"])
def test_the_first_ids_that_fit_are_kept(chosen: str, unit: str, precision: str) -> None:
    """Ids are added in the order of the definition as long as everything stored fits."""
    for amount in (300, 1001, 2500):
        row = laws.bytes_of_a_row(4, precision) if unit == "bytes" else 4
        of_id = row + (8 if unit == "bytes" else 0)
        fits = min((amount - len(OF.features) * row) // of_id, len(ranked(chosen)))
        allowance = Allowance(amount, unit, precision)
        policy = frequent(OF, COUNTS, FrequentSettings(**told(allowance), dim=4, chosen=chosen))
        wanted = set(ranked(chosen)[:fits])
        kept = {(n, i) for n, ids in policy.vocabularies.items() for i in ids.tolist()}
        assert kept == wanted and set(own_rows(policy)) >= kept
        assert allowance.of(policy) == len(OF.features) * row + fits * of_id


def test_ids_are_kept_in_proportion_to_reads() -> None:
    policy = made("per-feature", 4 * 3 + 4 * 60)
    reads = {n: int(count.sum()) for n, (_, count) in COUNTS.items()}
    kept = {n: len(ids) for n, ids in policy.vocabularies.items()}
    for n, m in itertools.permutations(kept, 2):
        if kept[n] < len(COUNTS[n][0]):  # of those whose ids are not all kept
            assert (kept[n] + 1) / reads[n] >= kept[m] / reads[m] - 1e-9


@forms
@units
def test_the_budget_is_filled(form: str, unit: str, precision: str) -> None:
    """Never above it, and less than a row with its id and its codes below it."""
    largest = laws.bytes_of_a_row(4, precision) + laws.bytes_of_a_row(6, precision) + 8 + 8
    # 464 ids of 4 floats are all kept from 2,000 floats on
    for amount in range(1_000, 4_000, 97) if unit == "bytes" else range(300, 1_700, 47):
        allowance = Allowance(amount, unit, precision)
        policy = made(form, allowance)
        assert 0 <= amount - allowance.of(policy) < largest
        assert {t.dtype for t in policy.tables} == {precision}


@forms
@units
def test_the_smallest_budget_is_named(form: str, unit: str, precision: str) -> None:
    with pytest.raises(PolicyError, match="too small for the shared rows of 3 features") as error:
        made(form, Allowance(1, unit, precision))
    smallest = int(str(error.value).rsplit(maxsplit=1)[1])
    allowance = Allowance(smallest, unit, precision)
    assert allowance.of(made(form, allowance)) == smallest
    with pytest.raises(PolicyError, match=f"smallest feasible budget is {smallest}"):
        made(form, Allowance(smallest - 1, unit, precision))


@pytest.mark.parametrize("chosen", ["global", "per-feature"])
def test_with_room_for_all_ids_it_is_collisionless(chosen: str) -> None:
    known = {n: ids for n, (ids, _) in COUNTS.items()}
    assert frequent(
        OF, COUNTS, FrequentSettings(10**6, dim=4, chosen=chosen)
    ) == methods.collisionless(OF, 4, known)


def test_hashed_tails_have_a_share_of_the_rows() -> None:
    policy = made("hash", Allowance(4_000, "bytes", "int8"))
    hashed = [f.lookups[0].unknown_rows for f in policy.features]
    assert 0.9 * 0.2 * 4_000 <= 8 * sum(hashed) <= 0.2 * 4_000
    assert len({f.lookups[0].seed for f in policy.features}) == 3
    rows = lookup_rows(policy, policy.features[1], policy.features[1].lookups[0], COUNTS["item"][0])
    kept = np.isin(COUNTS["item"][0], policy.vocabularies["item"])
    assert (rows[kept] >= hashed[1]).all() and (rows[~kept] < hashed[1]).all()


def test_bands_have_alike_many_reads() -> None:
    """The ids after those that are kept, by count: a band is a run of them."""
    policy = made("bands", Allowance(6_000, "bytes", "int8"))
    alone, item = own_rows(policy), policy.features[1]
    ids, count = COUNTS["item"]
    known = np.isin(ids, policy.vocabularies["item"])
    rows = lookup_rows(policy, item, item.lookups[0], ids)
    kept = np.array([("item", i) in alone for i in ids.tolist()])
    banded = known & ~kept
    assert banded.sum() > 10 and (rows[~known] == 0).all()
    assert count[kept].min() >= count[banded].max() >= count[banded].min() >= count[~known].max()
    reads = [int(count[banded & (rows == r)].sum()) for r in sorted(set(rows[banded].tolist()))]
    assert len(reads) == 3 and max(reads) - min(reads) <= 2 * count[banded].max()
    means = [count[banded & (rows == r)].mean() for r in sorted(set(rows[banded].tolist()))]
    assert means == sorted(means, reverse=True)
    before, total = 0, int(count[banded].sum())
    for i in sorted(np.flatnonzero(banded), key=lambda i: (-count[i], ids[i])):
        # the band in which the middle one of its reads lies
        assert rows[i] - rows[banded].min() == (6 * before + 3 * int(count[i])) // (2 * total)
        before += int(count[i])


def test_hot_ids_have_further_columns() -> None:
    policy = made("hot", Allowance(6_000, "bytes", "int8"))
    assert policy.widths == (10, 10, 10)
    kept = sum(len(ids) for ids in policy.vocabularies.values())
    hot = set(ranked("global")[: int(0.2 * kept)])
    for f in policy.features:
        ids = COUNTS[f.name][0]
        rows = lookup_rows(policy, f, f.lookups[1], ids).tolist()
        for i, row in zip(ids.tolist(), rows, strict=True):
            assert (row > 0) == ((f.name, i) in hot)
        own = [r for r in rows if r]
        assert sorted(own) == list(range(1, policy.table(f.lookups[1].table).num_rows))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"chosen": "best"}, "chosen is 'best'; allowed: global, per-feature"),
        ({"tail": "none"}, "tail is 'none'; allowed: row, hash, bands, label-rate, co-occurrence"),
        ({"dim": 0}, "dim is 0; allowed: 1 or more"),
        ({"hot_dim": -1}, "hot_dim is -1; allowed: 0 or more"),
        ({"tail": "hash", "tail_share": 1.0}, r"tail_share is 1.0; allowed: between 0 and 1"),
        ({"tail_share": 0.2}, r"tail_share 0.2 would be ignored; allowed with another tail"),
        ({"tail": "hash", "bands": 3}, "bands 3 would be ignored; allowed with another tail"),
        ({"hot_share": 0.2}, r"hot_share 0.2 would be ignored; allowed with hot_dim above 0"),
    ],
)
def test_settings_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrequentSettings(**changes)


def test_the_run_off_has_it_among_its_plain_candidates(tiny_data: DataSet) -> None:
    """At both widths, also where a row for every id does not fit."""
    shape = Shape(Allowance(2_400, "bytes", "int8"), 16, 8, 32, 0)
    names = [c.name for c in plain_candidates(tiny_data, shape, RunOff())]
    assert names[0] == "trivial-2x8"
    assert [n for n in names if "frequent" in n] == ["trivial-frequent-16", "trivial-frequent-8"]
    without = plain_candidates(tiny_data, shape, RunOff(frequent=False))
    assert [c.name for c in without] == [n for n in names if "frequent" not in n]
    for c in plain_candidates(tiny_data, shape, RunOff()):
        assert not c.searched and 2_400 - 36 < c.policy.num_bytes <= 2_400


@pytest.mark.parametrize("dim, narrow, hot", [(16, 8, 8), (7, 4, 3), (2, 1, 1)])
def test_two_level_divides_the_width(dim: int, narrow: int, hot: int, tiny_data: DataSet) -> None:
    """It is ``frequent`` with further columns for the most frequent ids, also per feature."""
    budget, known = Allowance(4_000, "bytes"), tiny_data.schema.features
    of = {c.name: tiny_data.counts(c.name) for c in known}
    for chosen in ("global", "per-feature"):
        changes = {"chosen": chosen, "hot_share": 0.3}
        found = recipes.method_policy("two-level", tiny_data, budget, dim, changes=changes)
        wanted = frequent(
            tiny_data.schema,
            of,
            FrequentSettings(**told(budget), dim=narrow, hot_dim=hot, **changes),
        )
        assert replace(found, budget=None, decision=None) == wanted
        assert set(found.widths) == {dim}


def test_what_all_ids_leave_makes_more_of_them_wider() -> None:
    """A row of 4 floats and a code for each of 464 ids and 3 features, 6 more floats for some."""
    for amount in (2_907, 3_507, 5_000, 5_137, 9_999):
        policy = made("hot", amount)
        hot = sum(policy.table(f"{f.name}:hot").num_rows - 1 for f in policy.features)
        assert sum(map(len, policy.vocabularies.values())) == 464
        assert hot == min(464, (amount - 467 * 4 - 3 * 6 - 467) // 6) >= 92
        assert amount - policy.num_params < 6 or hot == 464


def test_two_level_needs_two_columns(tiny_data: DataSet) -> None:
    with pytest.raises(ValueError, match="dim of two-level is 1; allowed: 2 or more"):
        recipes.method_policy("two-level", tiny_data, 4_000, 1)


def test_the_command(seo_rec: Callable[..., Any], tiny: Any, tmp_path: Any) -> None:
    quickly = ["--epochs", "1", "--batch-size", "200", "--hidden", "8", "--threads", "1"]
    asked = ["--method", "frequent", "--bytes", "3k", "--precision", "int8", "--dim", "4"]
    out = tmp_path / "r"
    done = seo_rec("train", tiny, "--out", out, *asked, "--set", "tail=hash", *quickly)
    assert done.code == 0, done.err
    policy = Policy.load(out / "policy.json")
    assert policy.provenance["method"] == "frequent"
    assert policy.provenance["arguments"]["tail"] == "hash"
    assert 3_000 - 16 < policy.num_bytes <= 3_000
