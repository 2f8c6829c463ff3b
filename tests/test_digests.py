"""Vocabularies of digests: a known id takes 4 bytes where it would take 8."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import laws
from cases import BAGS, DIGESTS, POLICIES, SCHEMAS, VOCABULARY
from policy_documents import SPEC, packed
from seo_kernels.remap import reference, remap
from seo_rec import methods
from seo_rec.data.dataset import DataSet
from seo_rec.methods.frequent import FrequentSettings
from seo_rec.policy import Allowance, Feature, Lookup, Policy, PolicyError, Table
from seo_rec.policy.addresses import counted_as, digests, known_as, lookup_rows
from seo_rec.policy.entries import DIGEST_SEED
from seo_rec.policy.preimages import as_ids, ids_of_digests
from seo_rec.recipes import Comparison, stores_ids
from seo_rec.search.registry import find
from seo_rec.train import Training
from spec import digest
from test_bytes import BYTES, DIM, QUICKLY, SHORT, decided
from test_registry import EVERY, UNTRAINED

Command = Callable[..., Any]
POLICY = POLICIES["digests"]
STORES_IDS = [
    *("frequent", "two-level", "managed-collision", "cafe", "no-search", "mixed-dimension", "qr"),
    *("seo-divide", "cce", "magnitude", "pep", "dimgrow", "autodim", "sseds"),
]


# ---- the digest, and the rows that it leads to ---------------------------------------------


def test_a_digest_is_the_hash_that_the_format_says() -> None:
    ids = [*VOCABULARY.tolist(), 1, 2**62 - 1, 2**32, 2**63 - 2]
    found = digests(np.array(ids))
    assert found.dtype == np.int64 and found.tolist() == [digest(i) for i in ids]
    for op in (remap, reference.remap):
        seeds, rows = torch.tensor([DIGEST_SEED]), torch.tensor([2**32])
        signed = op(torch.tensor(ids), [0, len(ids)], [0], seeds, rows)
        assert [n % 2**32 for n in signed.tolist()] == found.tolist()


@pytest.mark.parametrize("bags", BAGS)
def test_rows_are_found_by_digests(bags: str) -> None:
    laws.remaps_as_written(POLICY, BAGS[bags])


def test_both_paths_of_a_batch_and_numpy_find_the_same_rows() -> None:
    laws.fast_path_equals_general_path(POLICY, BAGS["single"])
    laws.rows_in_numpy_as_written(POLICY, [*VOCABULARY.tolist(), *range(40), 2**63 - 5])


def test_an_id_that_is_not_kept_is_known_as_rarely_as_chance_has_it() -> None:
    """With n digests, a share of ``n / 2^32`` of all other ids."""
    n = 1 << 20
    known = np.unique(digests(np.arange(n)))
    other = digests(2**40 + 977 * np.arange(n))
    expected = len(known) * n / 2**32
    assert abs(int(np.isin(other, known).sum()) - expected) < 5 * np.sqrt(expected)


def a_collision() -> tuple[int, int]:
    """Two ids of one digest."""
    of = digests(np.arange(300_000))
    order = np.argsort(of, kind="stable")
    first = int(np.flatnonzero(of[order[1:]] == of[order[:-1]])[0])
    return int(order[first]), int(order[first + 1])


def test_ids_of_one_digest_are_one_id_whose_counts_add_up() -> None:
    """It is kept once, and the next most frequent id takes the place that this saves."""
    twins = a_collision()
    ids = np.sort([*twins, 7_000_000, 7_000_001])
    count = np.array([{twins[0]: 50, twins[1]: 1, 7_000_000: 40, 7_000_001: 30}[i] for i in ids])
    found, sums = counted_as(ids, count, 32)
    assert found.tolist() == sorted({digest(i) for i in ids.tolist()}) and len(found) == 3
    assert sums[found == digest(twins[0])].tolist() == [51] and sums.sum() == count.sum()
    assert counted_as(ids, count, 64) == (ids, count)
    schema = SCHEMAS["one"]
    for_two = Allowance(3 * 8 + 2 * 4, "bytes", id_bits=32)
    policy = methods.frequent(
        schema, {"only": (found, sums)}, FrequentSettings(**for_two.to_json(), dim=2)
    )
    assert policy.num_bytes == for_two.amount
    feature = policy.features[0]
    rows = lookup_rows(policy, feature, feature.lookups[0], np.array([*twins, 7_000_000, 9]))
    assert rows[0] == rows[1] > 0 and rows[2] > 0 and rows[2] != rows[0] and rows[3] == 0


# ---- the file ------------------------------------------------------------------------------


def test_the_file_keeps_digests_and_says_so(tmp_path: Path) -> None:
    laws.round_trip(POLICY, tmp_path)
    laws.counts_what_is_built(POLICY)
    laws.counts_what_is_stored(POLICY)
    document = POLICY.to_json()
    assert document["version"] == 4
    assert [f["id_bits"] for f in document["features"]] == [32, 32, 64, 32, 32, 32]
    raw = packed(np.diff(DIGESTS, prepend=0).astype("<u4").tobytes())
    changed = {**document, "vocabularies": {**document["vocabularies"], "user": raw}}
    assert Policy.from_json(changed) == POLICY


def test_without_digests_the_file_is_of_version_3() -> None:
    policy = Policy(
        (Table("t", 9, 2),), (Feature("f", (Lookup("t", "id"),)),), vocabularies={"f": VOCABULARY}
    )
    document = policy.to_json()
    assert document["version"] == 3 and "id_bits" not in document["features"][0]
    with pytest.raises(PolicyError, match=r"unknown keys \['id_bits'\]"):
        Policy.from_json(with_bits(document, 64))
    later = {**with_bits(document, 64), "version": 4}
    assert Policy.from_json(later) == policy
    with pytest.raises(PolicyError, match=r"missing keys \['id_bits'\]"):
        Policy.from_json({**document, "version": 4})


def with_bits(document: dict[str, Any], bits: Any) -> dict[str, Any]:
    features = [{**f, "id_bits": bits} for f in document["features"]]
    return {**document, "features": features}


def one(known: list[int], lookup: Lookup | None = None, bits: int = 32) -> Policy:
    feature = Feature("f", (lookup or Lookup("t", "id"),), id_bits=bits)
    vocabularies = {} if known == [] else {"f": np.array(known)}
    return Policy((Table("t", 9, 2),), (feature,), vocabularies=vocabularies)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: one([1, 2**32]), "from 1 to 4294967296; with id_bits 32 it holds digests"),
        (lambda: one([-1, 5]), "from -1 to 5; with id_bits 32 it holds digests"),
        (lambda: one([5, 4]), "is not sorted and distinct"),
        (lambda: one([5, 5]), "is not sorted and distinct"),
        (lambda: one([5], bits=16), "has id_bits 16; allowed: 64, 32"),
        (lambda: one([], Lookup("t")), "has id_bits 32 and no lookup by index"),
    ],
)
def test_policies_that_are_refused(make: Callable[[], Policy], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        make()


@pytest.mark.parametrize("bits", [16, 0, "32", 32.0, True, None])
def test_bits_in_a_file_that_are_refused(bits: Any) -> None:
    with pytest.raises(PolicyError, match=r"features\[0\]\.id_bits"):
        Policy.from_json(with_bits(one([3, 4]).to_json(), bits))


@pytest.mark.parametrize(
    "raw, message",
    [
        (np.array([7, 2**32 - 1], "<u4").tobytes(), "holds digests"),  # the sum is above 2^32
        (np.array([7, 0], "<u4").tobytes(), "not sorted and distinct"),
        (np.array([7], "<u4").tobytes() + b"\0", "not packed ids"),
        (np.arange(9, dtype="<u4").tobytes(), "more than 8 ids"),
    ],
)
def test_packed_digests_that_are_refused(raw: bytes, message: str) -> None:
    document = one([3, 4]).to_json()
    with pytest.raises(PolicyError, match=message):
        Policy.from_json({**document, "vocabularies": {"f": packed(raw)}})


# ---- methods and commands ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in UNTRAINED else pytest.mark.slow)
        for n in EVERY
        if n in STORES_IDS
    ],
)
def test_every_method_keeps_digests_of_training_ids_within_the_bytes(
    name: str, tiny_data: DataSet, tmp_path: Path
) -> None:
    budget = Allowance(BYTES, "bytes", "int8", id_bits=32)
    policy = decided(name, tiny_data, budget, None if name in UNTRAINED else tmp_path)
    assert policy.num_bytes <= BYTES and policy.vocabularies
    for f in policy.features:
        if f.name in policy.vocabularies:
            assert f.id_bits == 32
            ids = known_as(tiny_data.vocabulary(f.name), 32)
            assert np.isin(policy.vocabularies[f.name], ids).all()
            for k in (k for k in f.all_lookups if k.uses_index):
                rows = lookup_rows(policy, f, k, tiny_data.vocabulary(f.name))
                assert rows.max() < policy.table(k.table).num_rows
        else:
            assert f.id_bits == 64


@pytest.mark.parametrize("bits, of_row", [(64, 16), (32, 12)])
def test_a_row_of_four_numbers_takes_a_quarter_less(
    bits: int, of_row: int, tiny_data: DataSet
) -> None:
    policy = decided("frequent", tiny_data, Allowance(2_000, "bytes", "int8", bits), None)
    wide = decided_at(tiny_data, Allowance(2_000, "bytes", "int8", bits), 4)
    rows = sum(map(len, wide.vocabularies.values()))
    assert rows == (2_000 - 8 * len(wide.features)) // of_row
    assert policy.num_bytes <= 2_000


def decided_at(data: DataSet, budget: Allowance, dim: int) -> Policy:
    method = find("frequent")
    return method.decide(data, method.settings_at(budget, dim, Training()), Training()).policy


def test_ids_share_rows_alike_whichever_way_they_are_kept(tiny_data: DataSet) -> None:
    """Where all ids are kept; at the last place of a budget ties go to the smaller digest."""
    of = {bits: decided_at(tiny_data, Allowance(99_999, id_bits=bits), 4) for bits in (64, 32)}
    for f, g in zip(of[64].features, of[32].features, strict=True):
        ids = tiny_data.vocabulary(f.name)
        pairs = {
            (int(a), int(b))
            for a, b in zip(
                lookup_rows(of[64], f, f.lookups[0], ids),
                lookup_rows(of[32], g, g.lookups[0], ids),
                strict=True,
            )
        }
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert of[64].num_params == of[32].num_params
    assert of[64].num_bytes - of[32].num_bytes == 4 * sum(map(len, of[32].vocabularies.values()))


@pytest.mark.parametrize(
    "options, bits",
    [
        (["--bytes", "2k"], 32),
        (["--bytes", "2k", "--id-bits", "64"], 64),
        (["--params", "800"], 64),
        (["--params", "800", "--id-bits", "32"], 32),
    ],
)
def test_a_budget_in_bytes_has_digests_by_default(
    seo_rec: Command, tiny: Path, tmp_path: Path, options: list[str], bits: int
) -> None:
    asked = ["--method", "frequent", "--dim", DIM, *options]
    done = seo_rec("train", tiny, "--out", tmp_path / "r", *asked, *QUICKLY)
    assert done.code == 0, done.err
    policy = Policy.load(tmp_path / "r" / "policy.json")
    assert {f.id_bits for f in policy.features} == {bits}
    said = policy.provenance["arguments"]
    assert said.get("id_bits", 64) == bits
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    assert result["num_bytes"] == policy.num_bytes


def test_a_number_of_bits_that_is_refused(seo_rec: Command, tiny: Path, tmp_path: Path) -> None:
    asked = ["--method", "frequent", "--bytes", "2k", "--id-bits", "16"]
    done = seo_rec("train", tiny, "--out", tmp_path / "r", *asked)
    assert done.code != 0 and "--id-bits 16; allowed: 64 (ids), 32 (digests of ids)" in done.err
    assert not (tmp_path / "r").exists()


def test_bits_of_ids_that_no_policy_stores_are_refused(
    seo_rec: Command, tiny: Path, tmp_path: Path
) -> None:
    asked = ["--method", "separate", "--bytes", "2k", "--id-bits", "32"]
    for command in ("train", "tune"):
        done = seo_rec(command, tiny, "--out", tmp_path / "r", *asked)
        assert done.code == 2 and "--id-bits with --method separate would be ignored" in done.err
        assert not (tmp_path / "r" / "policy.json").exists()


@pytest.mark.parametrize("command", ["compare", "frontier"])
def test_bits_that_no_method_of_a_comparison_stores_are_refused(
    seo_rec: Command, tiny: Path, tmp_path: Path, command: str
) -> None:
    asked = ["--methods", "separate,monolithic", "--bytes", "2k", "--id-bits", "64"]
    done = seo_rec(command, tiny, "--out", tmp_path / "r", *asked)
    refused = "--id-bits with --methods separate,monolithic would be ignored"
    assert done.code == 2 and refused in done.err, done.err
    assert not (tmp_path / "r").exists()


def test_bits_are_for_a_comparison_that_stores_ids(tiny_data: DataSet) -> None:
    def of(*names: str) -> bool:
        return stores_ids(Comparison((tiny_data,), names, 0, num_bytes=4000, id_bits=32))

    assert not of("separate", "monolithic")
    assert of("separate", "frequent") and of("seo"), "a search may store ids"


def test_settings_take_the_bits_of_the_budget() -> None:
    for name in STORES_IDS:
        settings = find(name).settings_at(Allowance(900, "bytes", id_bits=32), 16, SHORT)
        assert settings.allowance.id_bits == 32 and settings.allowance.ids(10) == 40


def test_the_digests_of_the_page() -> None:
    page = (SPEC.parent / "digests.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `(\d+)` \| `(0x[0-9A-F]{8})` \|$", page, re.M)
    assert len(lines) == 4
    for value, written in lines:
        assert written == f"0x{digest(int(value)):08X}"
    assert f"0x{DIGEST_SEED:X}" in page


# ---- ids of digests ------------------------------------------------------------------------


def test_an_id_is_found_for_every_digest() -> None:
    edges = np.array([0, 1, 2**31, 2**32 - 1])
    wanted = np.concatenate([edges, np.random.default_rng(0).integers(0, 2**32, 5_000)])
    found = ids_of_digests(wanted)
    assert found.dtype == np.int64 and (found >= 0).all()
    assert [digest(i) for i in found[:8].tolist()] == wanted[:8].tolist()
    assert (digests(found) == wanted).all()
    assert ids_of_digests(wanted[:0]).size == 0
    assert as_ids(wanted, 64) is wanted and (as_ids(wanted, 32) == found).all()
