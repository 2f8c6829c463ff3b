"""Files that older releases wrote are read, as strictly as those of today."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

import laws
from cases import VOCABULARY
from policy_documents import refused
from seo_rec.apply import default_budget
from seo_rec.policy import Array, Budget, Feature, Lookup, Policy, Table

GOLDEN = Path(__file__).resolve().parent / "golden" / "policies"


def golden(name: str) -> str:
    """What a release of that version wrote; never to be written anew."""
    return (GOLDEN / f"{name}.json").read_text(encoding="utf-8")


def test_the_golden_files_are_those_of_the_old_releases():
    """Byte for byte, so that nobody helps a reader that fails by changing them."""
    found = {p.stem: hashlib.sha256(p.read_bytes()).hexdigest()[:16] for p in GOLDEN.iterdir()}
    assert found == {
        "version-1-searched": "cba9ddebfa13cb9b",
        "version-1": "7529d1b529834b74",
        "version-2-searched": "4210d2d10b91dc47",
        "version-2": "ff3d6e2fcc835dc4",
    }


def test_files_of_version_1_are_read(tmp_path):
    """They lack what came later, and an ``id`` lookup has a seed, which says nothing."""
    policy = Policy.load(GOLDEN / "version-1.json")
    assert policy.tables == (Table("shared", 100, 4), Table("c", 4, 2), Table("d", 9, 4))
    assert policy.features == (
        Feature("country", (Lookup("c", "id"), Lookup("shared", seed=42))),
        Feature("device", (Lookup("shared", seed=7), Lookup("d", seed=2**63 - 1)), "sum"),
    )
    assert policy.dropped == ("hour",)
    assert policy.vocabularies["country"].tolist() == [5, 7, 4611686018427387905]
    assert dict(policy.provenance) == {"method": "by hand", "seed": 1.5}
    assert policy.to_json()["version"] == 3
    laws.round_trip(policy, tmp_path)


def test_files_of_version_2_are_read(tmp_path):
    """They have all addresses; every feature reads its own column, and everything is float32."""
    policy = Policy.load(GOLDEN / "version-2.json")
    assert policy.tables == (
        Table("a", 5, 3),
        Table("p", 6, 2),
        Table("q", 4, 3),
        Table("c", 9, 2),
    )
    assert policy.arrays == (Array("m", 40),)
    assert policy.features == (
        Feature("user", (Lookup("a", "codes", 9, modulus=8, codes="kept"),), project=2),
        Feature("item", (Lookup("m", "blocks", 4, block=2, width=5),)),
        Feature("hour", (Lookup("a", seed=6),) * 2, "weighted_sum", None, Lookup("p", seed=7)),
        Feature(
            "day", (Lookup("q", "remainder", modulus=3), Lookup("q", "quotient", modulus=3)), "mul"
        ),
        Feature("week", (Lookup("a", "codes", codes="kept"),)),
        Feature("country", (Lookup("c", "id"), Lookup("a", seed=42))),
    )
    assert policy.columns == ("user", "item", "hour", "day", "week", "country")
    assert policy.dropped == ("noise",)
    assert policy.codes["kept"].tolist() == [0, 4, 0, 1, 2, 0, 3, 0]
    assert set(policy.vocabularies) == {"day", "week", "country"}
    assert all(v.tolist() == VOCABULARY.tolist() for v in policy.vocabularies.values())
    assert dict(policy.provenance) == {"method": "by hand", "seed": 1.5}
    assert (policy.budget, policy.decision) == (None, None)
    assert policy.to_json()["version"] == 3
    laws.round_trip(policy, tmp_path)


@pytest.mark.parametrize(
    "name, budget, own", [("version-1-searched", 320, 600), ("version-2-searched", 400, 600)]
)
def test_the_budget_of_an_old_search_is_found_once(name, budget, own, tmp_path):
    """Before version 3 it stood in the provenance alone, which nobody need read any more."""
    policy = Policy.load(GOLDEN / f"{name}.json")
    assert (policy.budget, policy.num_params) == (Budget(budget), own)
    replace(policy, provenance={}).save(tmp_path / "p.json")
    bare = Policy.load(tmp_path / "p.json")
    assert bare == policy and default_budget(bare) == default_budget(policy) == budget


@pytest.mark.parametrize(
    "old, new",
    [
        ('"seo-search"', '"seo"'),
        ('"arguments": {', '"apply": "exact", "arguments": {'),
        ('"budget_rows": 50', '"budget_rows": "50"'),
        ('"budget_rows": 50', '"budget_rows": 0'),
        ('"budget_rows": 50', '"budget_rows": 50.0'),
        ('"budget_rows": 50', '"budget_rows": true'),
        ('"budget_rows": 50', '"budget_rows": 1' + "0" * 30),
        ('"budget_rows"', '"rows"'),
        ('"arguments"', '"other"'),
    ],
)
def test_other_old_policies_have_no_budget(old, new, tmp_path):
    """What is applied already, or cannot be understood, is as large as it is."""
    text = golden("version-2-searched")
    assert old in text
    (tmp_path / "p.json").write_text(text.replace(old, new, 1))
    policy = Policy.load(tmp_path / "p.json")
    assert policy.budget is None and default_budget(policy) == policy.num_params


def test_vocabularies_that_old_files_do_not_use_are_left_out(tmp_path):
    unused = '"vocabularies": {\n  "device": "broken",'
    text = golden("version-1").replace('"vocabularies": {', unused, 1)
    (tmp_path / "p.json").write_text(text)
    policy = Policy.load(tmp_path / "p.json")
    assert set(policy.vocabularies) == {"country"}
    assert policy == Policy.load(GOLDEN / "version-1.json")


@pytest.mark.parametrize(
    "name, old, new, message",
    [
        (1, '"combine"', '"project": 3, "combine"', r"features\[0\]: unknown keys \['project'\]"),
        (1, '"format"', '"codes": {}, "format"', r"unknown keys \['codes'\]"),
        (1, '"address": "hash"', '"address": "codes"', "address 'codes'; allowed: hash, id$"),
        (1, '"seed": 5,', "", r"lookups\[0\]: missing keys \['seed'\]"),
        (1, '"seed": 5,', '"seed": 5.0,', r"lookups\[0\].seed: must be a whole number"),
        (1, '"dim": 4', '"dim": 4, "dtype": "int8"', r"tables\[0\]: unknown keys \['dtype'\]"),
        (2, '"arrays"', '"budget": null, "arrays"', r"unknown keys \['budget'\]"),
        (2, '"arrays"', '"decision": null, "arrays"', r"unknown keys \['decision'\]"),
        (2, '"size": 40', '"size": 40, "dtype": "float32"', r"unknown keys \['dtype'\]"),
        (2, '"combine"', '"columns": ["user"], "combine"', r"unknown keys \['columns'\]"),
        (2, '"address": "id"', '"address": "id", "seed": 0', r"unknown keys \['seed'\]"),
        (2, '"address": "id"', '"address": "id", "unknown_rows": 1', r"keys \['unknown_rows'\]"),
        (2, '"version": 2', '"version": 1', r"unknown keys \['arrays', 'codes'\]"),
        (2, '"version": 2', '"version": 3', r"missing keys \['budget', 'decision'\]"),
    ],
)
def test_old_versions_are_read_as_strictly(name, old, new, message, tmp_path):
    text = golden(f"version-{name}")
    assert old in text
    refused(tmp_path / "p.json", text.replace(old, new, 1), message)
