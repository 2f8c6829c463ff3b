"""Laws of the policy and its file: round trip, strict reading, hostile files, the written spec."""

from __future__ import annotations

import base64
import copy
import json
import os
import re
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import laws
from cases import BUILDABLE, POLICIES, VOCABULARY
from seo_rec.data.tokens import MISSING
from seo_rec.policy import (
    MISSING_ID,
    Array,
    Budget,
    Feature,
    Lookup,
    Policy,
    PolicyError,
    Table,
)
from seo_rec.policy.dtypes import DTYPES, dequantize_rows, quantize_rows
from spec import cross_id, reference_hash, reference_mix

SPEC = Path(__file__).resolve().parent.parent / "docs" / "policy-format.md"
policies = pytest.mark.parametrize("policy", BUILDABLE)


def packed(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw)).decode()


GOOD = packed(np.diff(VOCABULARY, prepend=0).astype("<i8").tobytes())


def document() -> dict[str, Any]:
    """A small valid policy as JSON, a vocabulary included."""
    of = POLICIES["id-and-hash"]
    policy = Policy(
        of.tables, of.features, ("hour",), of.vocabularies, {"method": "by hand", "seed": 1.5}
    )
    assert policy.budget is None and policy.decision is None
    return json.loads(json.dumps(policy.to_json()))


def later_document() -> dict[str, Any]:
    """A valid policy as JSON with everything that version 1 did not have."""
    tables = (Table("a", 5, 3, "int4"), Table("p", 6, 2), Table("q", 8, 3))
    features = (
        Feature("user", (Lookup("a", "codes", 9, modulus=8, codes="kept"),), project=2),
        Feature("item", (Lookup("m", "blocks", 4, block=2, width=5),)),
        Feature("hour", (Lookup("a", seed=6),) * 2, "weighted_sum", None, Lookup("p", seed=7)),
        Feature(
            "day", (Lookup("q", "remainder", modulus=3), Lookup("q", "quotient", modulus=3)), "mul"
        ),
        Feature("week", (Lookup("a", "codes", codes="kept"),)),
        Feature("user x item", (Lookup("q", "id", 3, unknown_rows=2),), columns=("user", "item")),
    )
    policy = Policy(
        tables,
        features,
        vocabularies=dict.fromkeys(("day", "week", "user x item"), VOCABULARY),
        codes={"kept": np.array([0, 4, 0, 1, 2, 0, 3, 0], np.int32)},
        arrays=(Array("m", 40, "float16"),),
        budget=Budget(params=200, num_bytes=None),
        decision={"method": "seo", "winner": "plain", "gain": -0.25, "of": [1, None]},
    )
    return json.loads(json.dumps(policy.to_json()))


def refused(path: Path, content: bytes | str | dict[str, Any], message: str) -> None:
    """Loading ``content`` raises PolicyError; the message matches and starts with the path."""
    if isinstance(content, dict):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PolicyError, match=message) as caught:
        Policy.load(path)
    assert str(caught.value).startswith(str(path))


def put(target: Any, at: tuple[str | int, ...], value: Any) -> Any:
    """A deep copy of ``target`` with ``value`` at the path ``at``."""
    changed = copy.deepcopy(target)
    inner = changed
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return changed


# ---- round trip ----------------------------------------------------------------------------


@policies
def test_round_trip(policy, tmp_path):
    laws.round_trip(BUILDABLE[policy], tmp_path)


def test_round_trip_of_the_document(tmp_path):
    laws.round_trip(Policy.from_json(document()), tmp_path)


def test_round_trip_of_the_later_document(tmp_path):
    policy = Policy.from_json(later_document())
    laws.round_trip(policy, tmp_path)
    assert policy.num_params == 5 * 3 + 6 * 2 + 8 * 3 + 40 + 3 * 2 + 8
    assert policy.num_bytes == 5 * 6 + 6 * 8 + 8 * 12 + 40 * 2 + 3 * 2 * 4 + 8 * 4 + 18 * 8
    assert policy.num_lookups == 1 + 1 + 3 + 2 + 1 + 1
    assert policy.widths == (2, 5, 3, 3, 3, 3)
    assert policy.columns == ("user", "item", "hour", "day", "week")
    assert (policy.budget, policy.decision["gain"]) == (Budget(200), -0.25)


# ---- equality ------------------------------------------------------------------------------


def test_budget_decision_and_provenance_make_no_other_policy():
    policy = POLICIES["dtypes"]
    other = replace(
        policy, provenance={"a": 1}, budget=Budget(None, 9), decision={"method": "by hand"}
    )
    assert policy == other and hash(policy) == hash(other)


@pytest.mark.parametrize(
    "name, change",
    [
        ("dtypes", {"tables": (replace(POLICIES["dtypes"].tables[0], dtype="int8"),)}),
        ("blocks", {"arrays": (Array("m", 50, "int8"),)}),
        ("crosses", {"features": (replace(POLICIES["crosses"].features[0], columns=("hour",)),)}),
        (
            "unknown-rows",
            {"features": (Feature("user", (Lookup("a", "id", 9, unknown_rows=5), Lookup("b"))),)},
        ),
    ],
)
def test_what_is_served_makes_another_policy(name, change):
    policy = POLICIES[name]
    ((key, (entry, *_)),) = change.items()
    changed = replace(policy, **{key: (entry, *getattr(policy, key)[1:])})
    assert changed != policy


def test_policies_with_other_codes_are_not_equal():
    """They compute other things, and a comparison must not take one for the other."""
    policy = POLICIES["codes"]
    other = {**policy.codes, "by id": np.array([0, 4, 3, 0, 0, 1, 1], np.int32)}
    assert policy == replace(policy)
    assert hash(policy) == hash(replace(policy))
    assert policy != replace(policy, codes=other)
    assert policy.codes_digest != replace(policy, codes=other).codes_digest


def test_same_bytes_in_every_process(tmp_path):
    """The order of Python's sets and hashes never reaches the file."""
    code = (
        "import sys; from seo_rec import methods; from seo_rec.schema import Column, Schema\n"
        "columns = tuple(Column(f'C{i}', 'categorical', 10 * i) for i in range(9))\n"
        "schema = Schema('d', columns, 'y', {'train': 1}, {'train': 0.5})\n"
        "methods.multi_size(schema, 999, 8, seed=3).save(sys.argv[1])"
    )
    for seed in "1", "2":
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code, str(tmp_path / seed)]
        subprocess.run(command, check=True, env=environment)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_the_file_is_plain_text(tmp_path):
    BUILDABLE["names"].save(tmp_path / "p.json")
    content = (tmp_path / "p.json").read_bytes()
    assert content.isascii()
    assert content.endswith(b"}\n")


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50, unique=True).map(sorted))
@example([-(2**63), 2**63 - 1])
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_vocabulary_survives(ids):
    table = Table("t", len(ids) + 1, 1)
    vocabulary = {"f": np.array(ids, dtype=np.int64)}
    policy = Policy((table,), (Feature("f", (Lookup("t", "id"),)),), (), vocabulary)
    loaded = Policy.from_json(policy.to_json())
    assert loaded.vocabularies["f"].tolist() == ids


# ---- what a policy counts ------------------------------------------------------------------


def test_widths_and_counts():
    policy = POLICIES["mixed-dims"]
    assert policy.widths == (4, 12)
    assert policy.num_params == 5 * 3 + 700 * 8 + 11
    assert policy.num_lookups == 5
    assert POLICIES["sum"].widths == (4, 6, 2)


def test_bytes_of_every_type_by_hand():
    policy = POLICIES["dtypes"]
    tables = 11 * 6 + 7 * 10 + 9 * (5 + 4) + 8 * (2 + 4) + 7 * 8
    assert policy.num_bytes == tables + (16 + 4) + 20 * 2 + 8 * len(VOCABULARY)
    assert policy.num_params == 11 * 3 + 7 * 5 + 9 * 5 + 8 * 3 + 7 * 2 + 31 + 20


# ---- columns -------------------------------------------------------------------------------


def test_a_feature_reads_the_column_of_its_name_unless_told():
    feature = Feature("f", (Lookup("t"),))
    assert feature.columns == ("f",) and not feature.is_cross
    assert feature == Feature("f", (Lookup("t"),), columns=["f"])
    cross = replace(feature, columns=["b", "a"])
    assert cross.columns == ("b", "a") and cross.is_cross
    with pytest.raises(PolicyError, match=r"has columns 'ab'; give a tuple of names, \('ab',\)"):
        Feature("f", (Lookup("t"),), columns="ab")


def test_columns_come_in_the_order_of_their_first_use():
    assert POLICIES["columns"].columns == ("item", "user")
    assert POLICIES["crosses"].columns == ("user", "item", "hour")
    assert POLICIES["dropped"].columns == ("hour",)


def test_the_missing_id_of_crosses_is_that_of_the_data():
    assert MISSING_ID == MISSING


# ---- strict construction -------------------------------------------------------------------

T, F = Table("t", 3, 2), Feature("f", (Lookup("t"),))
BAD_POLICIES = {
    r"table name 't' is .* used twice": ((T, T), (F,)),
    r"table name '' is empty": ((Table("", 3, 2),), (Feature("f", (Lookup(""),)),)),
    r"feature name 'f' is .* used twice": ((T,), (F, F)),
    r"feature name '' is empty": ((T,), (Feature("", (Lookup("t"),)),)),
    r"table 't' has num_rows 0; allowed: 1 to 2147483647": ((Table("t", 0, 2),), (F,)),
    r"table 't' has num_rows 2147483648": ((Table("t", 2**31, 2),), (F,)),
    r"table 't' has dim 0; allowed: 1 to 65536": ((Table("t", 3, 0),), (F,)),
    r"table 't' has dim 65537": ((Table("t", 3, 65537),), (F,)),
    r"feature 'f' has no lookups": ((T,), (Feature("f", ()),)),
    r"feature 'f' looks up table 'u'; tables: \['t'\]": ((T,), (Feature("f", (Lookup("u"),)),)),
    r"feature 'f' has address 'hsh'; allowed: hash, id, ": (
        (T,),
        (Feature("f", (Lookup("t", "hsh"),)),),
    ),
    r"feature 'f' has seed -1; allowed": ((T,), (Feature("f", (Lookup("t", seed=-1),)),)),
    r"feature 'f' has seed 9223372036854775808": (
        (T,),
        (Feature("f", (Lookup("t", seed=2**63),)),),
    ),
    r"feature 'f' has combine 'mean'; allowed: concat, sum, mul, weighted_sum": (
        (T,),
        (Feature("f", (Lookup("t"),), "mean"),),
    ),
    r"feature 'f' sums vectors of different widths": (
        (T, Table("u", 3, 4)),
        (Feature("f", (Lookup("t"), Lookup("u")), "sum"),),
    ),
    r"tables \['u'\] are read by no feature": ((T, Table("u", 3, 4)), (F,)),
    r"features \['f'\] are both served and dropped": ((T,), (F,), ("f",)),
    r"columns \['b'\] are dropped, and features read them": (
        (T,),
        (Feature("f", (Lookup("t"),), columns=("a", "b")),),
        ("b",),
    ),
    r"features \['f'\] are both served and dropped$": (
        (T,),
        (Feature("f", (Lookup("t"),), columns=("a", "b")),),
        ("f",),
    ),
    r"has columns \['a', 'a'\], of which one is empty or named twice": (
        (T,),
        (Feature("f", (Lookup("t"),), columns=("a", "a")),),
    ),
    r"has columns \['a', ''\], of which one is empty or named twice": (
        (T,),
        (Feature("f", (Lookup("t"),), columns=("a", "")),),
    ),
    r"feature 'f' crosses 9 columns; allowed: 8": (
        (T,),
        (Feature("f", (Lookup("t"),), columns=tuple("abcdefghi")),),
    ),
    r"table 't' has dtype 'fp16'; allowed: float32, float16, bfloat16, int8, int4": (
        (replace(T, dtype="fp16"),),
        (F,),
    ),
    r"table 't' has dtype ''; allowed: float32": ((replace(T, dtype=""),), (F,)),
    r"dropped names a feature twice": ((T,), (F,), ("g", "g")),
    r"the policy serves no feature": ((), ()),
    r"feature 'f' uses the id address and has no vocabulary": (
        (T,),
        (Feature("f", (Lookup("t", "id"),)),),
    ),
}


P = Table("p", 3, 1)
DIGITS = (Lookup("t", "remainder", modulus=2), Lookup("t", "quotient", modulus=2))
KNOWN = {"vocabularies": {"f": np.arange(4)}}
BLOCKS = Lookup("m", "blocks", block=2, width=3)


def codes(*values: int, dtype: Any = np.int32) -> dict[str, Any]:
    return {"codes": {"c": np.array(values, dtype)}}


BAD_LATER: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "feature 'f' has project 0; allowed: 1 to 65536, or none": (
        (T,),
        Feature("f", (Lookup("t"),), project=0),
        {},
    ),
    "has combine 'concat' and weights; weights are given if and only if combine is": (
        (T, P),
        Feature("f", (Lookup("t"),), weights=Lookup("p")),
        {},
    ),
    "has combine 'weighted_sum' and no weights": (
        (T,),
        Feature("f", (Lookup("t"),), "weighted_sum"),
        {},
    ),
    "has 2 lookups and its weights are in table 'p' of width 1; give it one column per": (
        (T, P),
        Feature("f", (Lookup("t"), Lookup("t")), "weighted_sum", weights=Lookup("p")),
        {},
    ),
    "multiplies vectors of different widths": (
        (T, P),
        Feature("f", (Lookup("t"), Lookup("p")), "mul"),
        {},
    ),
    "has modulus 3 with the address 'hash', which ignores it; allowed: 0": (
        (T,),
        Feature("f", (Lookup("t", modulus=3),)),
        {},
    ),
    "has seed 3 with the address 'id' and one row for unknown ids, which ignores it": (
        (Table("t", 5, 2),),
        Feature("f", (Lookup("t", "id", 3),)),
        KNOWN,
    ),
    "has unknown_rows 2 with the address 'hash', which ignores it; allowed: 1": (
        (T,),
        Feature("f", (Lookup("t", unknown_rows=2),)),
        {},
    ),
    "has unknown_rows 0; allowed: 1 to 2147483647": (
        (Table("t", 5, 2),),
        Feature("f", (Lookup("t", "id", unknown_rows=0),)),
        KNOWN,
    ),
    "has unknown_rows 2147483648; allowed: 1 to": (
        (Table("t", 5, 2),),
        Feature("f", (Lookup("t", "id", unknown_rows=2**31),)),
        KNOWN,
    ),
    r"has 4 ids and needs 7 rows \(rows 0 to 2 serve unknown ids\); table 't' has 6": (
        (Table("t", 6, 2),),
        Feature("f", (Lookup("t", "id", unknown_rows=3),)),
        KNOWN,
    ),
    r"the vocabularies of \['f'\] are used by no lookup of a feature": (
        (T,),
        F,
        KNOWN,
    ),
    "array 'm' has dtype 'int2'; allowed: float32, float16, bfloat16, int8, int4": (
        (),
        Feature("f", (BLOCKS,)),
        {"arrays": (Array("m", 5, "int2"),)},
    ),
    "has codes 'c' with the address 'hash', which ignores it": (
        (T,),
        Feature("f", (Lookup("t", codes="c"),)),
        {},
    ),
    "has remainder with modulus 0; allowed: 1 to 3": (
        (T,),
        Feature("f", (Lookup("t", "remainder"), DIGITS[1]), "mul"),
        KNOWN,
    ),
    "has remainder with modulus 4; allowed: 1 to 3": (
        (T,),
        Feature("f", (Lookup("t", "remainder", modulus=4), DIGITS[1]), "mul"),
        KNOWN,
    ),
    "has quotient with modulus 0": ((T,), Feature("f", (Lookup("t", "quotient"),)), KNOWN),
    "uses the remainder address and has no vocabulary": (
        (T,),
        Feature("f", DIGITS, "mul"),
        {},
    ),
    "has 6 ids, and its quotients tell 6 numbers apart; 7 are needed": (
        (T,),
        Feature("f", DIGITS, "mul"),
        {"vocabularies": {"f": np.arange(6)}},
    ),
    "has 4 ids, and its quotients tell 0 numbers apart": (
        (T,),
        Feature("f", DIGITS[:1], "mul"),
        KNOWN,
    ),
    r"has codes 'c'; the policy has codes \[\]": (
        (T,),
        Feature("f", (Lookup("t", "codes", modulus=3, codes="c"),)),
        {},
    ),
    "hashes into 4 rows and codes 'c' are of 3; make modulus that, or 0": (
        (T,),
        Feature("f", (Lookup("t", "codes", modulus=4, codes="c"),)),
        codes(0, 1, 2),
    ),
    "has seed 1 with codes of the index .modulus 0., which ignore it": (
        (T,),
        Feature("f", (Lookup("t", "codes", 1, codes="c"),)),
        codes(0, 1, 2),
    ),
    "uses the codes address and has no vocabulary": (
        (T,),
        Feature("f", (Lookup("t", "codes", codes="c"),)),
        codes(0, 1, 2),
    ),
    "has 4 ids and needs 5 codes .* codes 'c' are 3": (
        (T,),
        Feature("f", (Lookup("t", "codes", codes="c"),)),
        {**codes(0, 1, 2), **KNOWN},
    ),
    "codes 'c' are 0 to 3; table 't' has rows 0 to 2": (
        (T,),
        Feature("f", (Lookup("t", "codes", modulus=3, codes="c"),)),
        codes(0, 1, 3),
    ),
    "codes 'c' are -1 to 2": (
        (T,),
        Feature("f", (Lookup("t", "codes", modulus=3, codes="c"),)),
        codes(0, -1, 2),
    ),
    r"codes 'c' are int64 of shape \(3,\); allowed: one dimension of int32": (
        (T,),
        Feature("f", (Lookup("t", "codes", modulus=3, codes="c"),)),
        codes(0, 1, 2, dtype=np.int64),
    ),
    r"codes \['c'\] are read by no lookup; remove them": ((T,), F, codes(0, 1, 2)),
    "array name 't' is empty or used twice; names of arrays and tables differ": (
        (T,),
        F,
        {"arrays": (Array("t", 5),)},
    ),
    "array 'm' has size 0; allowed: 1 to 2147483647": ((T,), F, {"arrays": (Array("m", 0),)}),
    r"tables \['m'\] are read by no feature": ((T,), F, {"arrays": (Array("m", 5),)}),
    "reads 'm' by hash, and it is an array; blocks are read from arrays": (
        (),
        Feature("f", (Lookup("m"),)),
        {"arrays": (Array("m", 5),)},
    ),
    "reads 't' by blocks, and it is a table": (
        (T,),
        Feature("f", (Lookup("t", "blocks", block=1, width=2),)),
        {},
    ),
    "has block 0; allowed: 1 to 3": (
        (),
        Feature("f", (replace(BLOCKS, block=0),)),
        {"arrays": (Array("m", 5),)},
    ),
    r"has block 2; allowed: 1 to 1 \(its width is 3, array 'm' has 1 floats\)": (
        (),
        Feature("f", (BLOCKS,)),
        {"arrays": (Array("m", 1),)},
    ),
    "has width 0; allowed: 1 to 65536": (
        (),
        Feature("f", (replace(BLOCKS, width=0),)),
        {"arrays": (Array("m", 5),)},
    ),
    "has combine 'mul' and reads blocks; allowed: concat, sum": (
        (),
        Feature("f", (BLOCKS, BLOCKS), "mul"),
        {"arrays": (Array("m", 5),)},
    ),
}


@pytest.mark.parametrize(
    "numbers, message",
    [
        ((), "has neither params nor num_bytes; give one of them, or no budget"),
        ((0,), "has params 0; allowed: 1 to 2"),
        ((-5, 3), "has params -5; allowed"),
        ((3, 0), "has num_bytes 0; allowed"),
        ((None, 2**63), "has num_bytes 9223372036854775808; allowed"),
    ],
)
def test_a_budget_of_nothing_is_refused(numbers, message):
    with pytest.raises(PolicyError, match=message):
        Budget(*numbers)


@pytest.mark.parametrize("message", BAD_LATER)
def test_what_cannot_be_built_of_later_things_is_refused(message):
    tables, feature, more = BAD_LATER[message]
    with pytest.raises(PolicyError, match=message):
        Policy(tables, (feature,), **more)


@pytest.mark.parametrize("message", BAD_POLICIES)
def test_what_cannot_be_built_is_refused(message):
    with pytest.raises(PolicyError, match=message):
        Policy(*BAD_POLICIES[message])


@pytest.mark.parametrize(
    "ids, message",
    [
        ([1, 2, 3], r"has 3 ids and needs 4 rows .* table 't' has 3"),
        ([2, 1], "not sorted and distinct"),
        ([2, 2], "not sorted and distinct"),
        ([2**62, -(2**63)], "not sorted and distinct"),  # their difference wraps around
    ],
)
def test_a_bad_vocabulary_is_refused(ids, message):
    by_id = Feature("f", (Lookup("t", "id"),))
    with pytest.raises(PolicyError, match=message):
        Policy((T,), (by_id,), vocabularies={"f": np.array(ids)})


# ---- strict reading ------------------------------------------------------------------------

KEYED: tuple[tuple[str | int, ...], ...] = (
    (),
    ("tables", 0),
    ("features", 1),
    ("features", 0, "lookups", 0),
    ("features", 0, "lookups", 1),
)


@pytest.mark.parametrize("at", KEYED)
def test_unknown_and_missing_keys_are_refused(at, tmp_path):
    where = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in at).lstrip(".")
    place = ": " + re.escape(where) if where else ""
    refused(
        tmp_path / "p.json",
        put(document(), (*at, "colour"), 1),
        rf"{place}: unknown keys \['colour'\]; allowed: ",
    )
    inner = document()
    for key in at:
        inner = inner[key]
    for key in inner:
        less = document()
        parent = less
        for k in at:
            parent = parent[k]
        del parent[key]
        refused(tmp_path / "p.json", less, rf"{place}: missing keys \['{key}'\]")


LATER_KEYED: tuple[tuple[str | int, ...], ...] = (
    ("budget",),
    ("tables", 0),
    ("arrays", 0),
    ("features", 0),
    ("features", 2, "weights"),
    ("features", 0, "lookups", 0),
    ("features", 1, "lookups", 0),
    ("features", 3, "lookups", 1),
    ("features", 5, "lookups", 0),
    ("codes", "kept"),
)


@pytest.mark.parametrize("at", LATER_KEYED, ids=lambda at: ".".join(map(str, at)))
def test_unknown_and_missing_keys_of_later_things_are_refused(at, tmp_path):
    bad = put(later_document(), (*at, "colour"), 1)
    refused(tmp_path / "p.json", bad, r"unknown keys \['colour'\]; allowed: ")
    inner = later_document()
    for key in at:
        inner = inner[key]
    for key in inner:
        less = later_document()
        parent = less
        for k in at:
            parent = parent[k]
        del parent[key]
        refused(tmp_path / "p.json", less, rf"missing keys \['{key}'\]")


@pytest.mark.parametrize(
    "at, value, message",
    [
        (("arrays",), {}, r"arrays: must be a list"),
        (("arrays", 0, "size"), "9", r"arrays\[0\].size: must be a whole number"),
        (("features", 0, "project"), 2.0, r"features\[0\].project: must be a whole number"),
        (("features", 0, "project"), True, r"features\[0\].project: must be a whole number"),
        (("features", 2, "weights"), [], r"features\[2\].weights: must be an object"),
        (("features", 2, "weights"), None, "and no weights"),
        (("features", 1, "lookups", 0, "block"), None, r"lookups\[0\].block: must be a whole"),
        (("features", 0, "lookups", 0, "codes"), 1, r"lookups\[0\].codes: must be a string"),
        (("features", 0, "lookups", 0, "modulus"), 2**31, "hashes into 2147483648 rows"),
        (("features", 3, "lookups", 1, "modulus"), 2**31, "modulus 2147483648; allowed: 1 to"),
        (("features", 5, "lookups", 0, "unknown_rows"), None, "unknown_rows: must be a whole num"),
        (("features", 5, "lookups", 0, "unknown_rows"), 2.0, "unknown_rows: must be a whole num"),
        (("features", 5, "lookups", 0, "unknown_rows"), True, "unknown_rows: must be a whole"),
        (("features", 5, "lookups", 0, "unknown_rows"), -1, "has unknown_rows -1; allowed: 1 to"),
        (("features", 5, "lookups", 0, "unknown_rows"), 1, "has seed 3 with the address 'id' and"),
        (("features", 5, "lookups", 0, "unknown_rows"), 3, "has 6 ids and needs 9 rows"),
        (("features", 5, "lookups", 0, "seed"), -3, "has seed -3; allowed: 0 to"),
        (("features", 5, "columns"), None, r"features\[5\].columns: must be a list"),
        (("features", 5, "columns"), "user", r"features\[5\].columns: must be a list"),
        (("features", 5, "columns"), {"user": 1}, r"features\[5\].columns: must be a list"),
        (("features", 5, "columns"), [], r"features\[5\].columns: names no column; allowed: one"),
        (("features", 5, "columns"), ["user", "user"], "of which one is empty or named twice"),
        (("features", 5, "columns"), ["user", ""], "of which one is empty or named twice"),
        (("features", 5, "columns"), list("abcdefghi"), "crosses 9 columns; allowed: 8"),
        (("features", 5, "columns", 1), 3, r"features\[5\].columns\[1\]: must be a string"),
        (("features", 0, "columns", 0), None, r"features\[0\].columns\[0\]: must be a string"),
        (("dropped",), ["item"], r"features \['item'\] are both served and dropped"),
        (("tables", 0, "dtype"), 4, r"tables\[0\].dtype: must be a string"),
        (("tables", 0, "dtype"), None, r"tables\[0\].dtype: must be a string"),
        (("tables", 0, "dtype"), "INT4", "table 'a' has dtype 'INT4'; allowed: float32, float16"),
        (("arrays", 0, "dtype"), ["int8"], r"arrays\[0\].dtype: must be a string"),
        (("arrays", 0, "dtype"), "float64", "array 'm' has dtype 'float64'; allowed: float32"),
        (("budget",), 200, "budget: must be an object"),
        (("budget",), [200], "budget: must be an object"),
        (("budget", "params"), None, "budget: the budget has neither params nor num_bytes"),
        (("budget", "params"), 200.0, "budget.params: must be a whole number"),
        (("budget", "params"), True, "budget.params: must be a whole number"),
        (("budget", "params"), "200", "budget.params: must be a whole number"),
        (("budget", "params"), -200, "budget: the budget has params -200; allowed: 1 to"),
        (("budget", "params"), 2**63, "has params 9223372036854775808; allowed: 1 to"),
        (("budget", "num_bytes"), 0, "budget: the budget has num_bytes 0; allowed: 1 to"),
        (("budget", "num_bytes"), [], "budget.num_bytes: must be a whole number"),
        (("decision",), [], "decision must be an object"),
        (("decision",), "seo", "decision must be an object"),
        (("vocabularies", "item"), "", r"vocabularies\['item'\]: not packed ids"),
        (("vocabularies", "item"), GOOD, r"vocabularies of \['item'\] are used by no lookup"),
        (("codes",), [], "codes must be an object"),
        (("codes", "kept"), "x", r"codes\['kept'\]: must be an object"),
        (("codes", "kept", "size"), 8.0, r"codes\['kept'\].size: must be a whole number"),
        (("codes", "kept", "size"), 0, "size 0; allowed: 1 to 2147483647"),
        (("codes", "kept", "size"), 2**31, "size 2147483648; allowed"),
        (("codes", "kept", "size"), 7, "not packed codes .*more than 7 codes"),
        (("codes", "kept", "size"), 9, "not packed codes .8 of 9"),
        (("codes", "kept", "rows"), 5, r"codes\['kept'\].rows: must be a string"),
        (("codes", "kept", "rows"), "$$$$", "not packed codes"),
        (("codes", "kept", "rows"), "", "not packed codes .cut short"),
    ],
)
def test_wrong_values_of_later_things_are_refused(at, value, message, tmp_path):
    refused(tmp_path / "p.json", put(later_document(), at, value), message)


def test_a_bomb_of_codes_is_refused_without_unpacking_it(tmp_path):
    """No more is unpacked than the size that the file states, which the budget counts."""
    bomb = zlib.compressobj()
    raw = b"".join(bomb.compress(bytes(2**20)) for _ in range(200)) + bomb.flush()
    rows = base64.b64encode(raw).decode()
    bad = put(later_document(), ("codes", "kept"), {"size": 8, "rows": rows})
    tracemalloc.start()
    try:
        refused(tmp_path / "p.json", bad, "more than 8 codes")
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("version", [0, 4, "3", 3.0, True, None, [1], 10**30])
def test_other_versions_are_refused(version, tmp_path):
    message = "this release reads 'seo-rec-policy' versions 1 to 3"
    refused(tmp_path / "p.json", put(document(), ("version",), version), message)


@pytest.mark.parametrize("name", ["seo-rec-plan", "SEO-REC-POLICY", "", None, 1, ["seo"]])
def test_other_formats_are_refused(name, tmp_path):
    refused(tmp_path / "p.json", put(document(), ("format",), name), "this release reads")


WRONG_TYPES: dict[tuple[str | int, ...], tuple[Any, ...]] = {
    ("tables",): (None, {}, "t", 3),
    ("tables", 0): (None, [], "t", 3),
    ("tables", 0, "name"): (None, [], 3, True),
    ("tables", 0, "num_rows"): (None, "7", 7.0, True, [7]),
    ("tables", 0, "dim"): (None, "2", 2.5, False),
    ("features",): (None, {}, 0),
    ("features", 1): (None, [], "f"),
    ("features", 1, "name"): (None, 1),
    ("features", 1, "combine"): (None, 1, True),
    ("features", 1, "lookups"): (None, {}, "a"),
    ("features", 1, "lookups", 0): (None, [], "a"),
    ("features", 1, "lookups", 0, "table"): (None, 0),
    ("features", 1, "lookups", 0, "address"): (None, 0),
    ("features", 0, "lookups", 0, "seed"): (None, "1", 1.0, True),
    ("dropped",): (None, {}, "hour"),
    ("dropped", 0): (None, 1, ["hour"]),
    ("vocabularies",): (None, [], "x"),
    ("vocabularies", "user"): (None, [], {}, 1),
    ("provenance",): (None, [], "x"),
}


@pytest.mark.parametrize("at", WRONG_TYPES, ids=lambda at: ".".join(map(str, at)))
def test_wrong_types_are_refused_by_place(at, tmp_path):
    where = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in at).lstrip(".")
    where = where.replace("vocabularies.user", "vocabularies['user']")
    for value in WRONG_TYPES[at]:
        message = re.escape(f": {where}") + ":? must be "
        refused(tmp_path / "p.json", put(document(), at, value), message)


@pytest.mark.parametrize("value", [None, [], [1], "policy", 1, True])
def test_a_file_that_holds_no_object_is_refused(value, tmp_path):
    refused(tmp_path / "p.json", json.dumps(value), "must be an object, got")


def replaced(old: str, new: str) -> str:
    text = json.dumps(document())
    assert old in text
    return text.replace(old, new, 1)


HOSTILE = {
    "a key twice": (
        replaced('"num_rows": 7', '"num_rows": 7, "num_rows": 8'),
        "key 'num_rows' appears twice",
    ),
    "a key twice at the top": (
        replaced('"version": 3', '"version": 1, "version": 3'),
        "key 'version' appears twice",
    ),
    "NaN": (replaced("1.5", "NaN"), "the number NaN is not allowed"),
    "Infinity": (replaced("1.5", "-Infinity"), "the number -Infinity is not allowed"),
    "a float beyond float64": (replaced("1.5", "1e400"), "the number 1e400 is not allowed"),
    "a row count of 10^400": (
        replaced('"num_rows": 7', '"num_rows": 1' + "0" * 400),
        "has num_rows 10*; allowed: 1 to 2147483647",
    ),
    "10000 digits": (replaced('"num_rows": 7', '"num_rows": ' + "7" * 10_000), "digits"),
    "deep nesting": (replaced("1.5", "[" * 200_000 + "]" * 200_000), "RecursionError"),
    "an empty file": (b"", ":1:1: not valid JSON"),
    "cut short": (json.dumps(document())[:200], ":1:.*: not valid JSON"),
    "two documents": (json.dumps(document()) * 2, "not valid JSON .Extra data"),
    "not UTF-8": (b"\xff\xfe" + json.dumps(document()).encode(), "not a JSON file"),
    "UTF-16": (json.dumps(document()).encode("utf-16"), "not a JSON file"),
    "a byte order mark": (b"\xef\xbb\xbf" + json.dumps(document()).encode(), "not valid JSON"),
    "zero bytes": (b"\0" * 100, "not valid JSON"),
    "a trailing comma": (
        replaced('"dtype": "float32"}', '"dtype": "float32",}'),
        ":1:.*: not valid JSON",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name, tmp_path):
    content, message = HOSTILE[name]
    refused(tmp_path / "p.json", content, message)


def test_a_missing_file_is_refused(tmp_path):
    for path in (tmp_path / "no.json", tmp_path):
        with pytest.raises(PolicyError, match="no such policy file; `seo-rec search` writes one"):
            Policy.load(path)


def test_a_huge_file_is_refused_unread(tmp_path):
    with (tmp_path / "p.json").open("wb") as stream:
        stream.truncate(2**30 + 1)  # sparse: takes no space
    with pytest.raises(PolicyError, match="1073741825 bytes; allowed: 1073741824"):
        Policy.load(tmp_path / "p.json")


# ---- packed vocabularies -------------------------------------------------------------------


BAD_VOCABULARIES = {
    "not base64": "$$$$",
    "base64 with a line break": GOOD[:8] + "\n" + GOOD[8:],
    "not ASCII": "\N{SNOWMAN}" * 4,
    "not zlib": base64.b64encode(b"no zlib at all").decode(),
    "empty": "",
    "cut short": base64.b64encode(base64.b64decode(GOOD)[:-3]).decode(),
    "followed by other bytes": base64.b64encode(base64.b64decode(GOOD) + b"more").decode(),
    "half an id": packed(b"123456789012"),
    "more ids than rows": packed(np.ones(20, "<i8").tobytes()),
    "wrong checksum": base64.b64encode(base64.b64decode(GOOD)[:-4] + b"abcd").decode(),
}


def test_the_packing_is_the_written_one():
    written = base64.b64decode(document()["vocabularies"]["user"])
    assert zlib.decompress(written) == zlib.decompress(base64.b64decode(GOOD))
    loaded = Policy.from_json(put(document(), ("vocabularies", "user"), GOOD))
    assert loaded.vocabularies["user"].tolist() == VOCABULARY.tolist()


@pytest.mark.parametrize("name", BAD_VOCABULARIES)
def test_a_bad_packing_is_refused_by_name(name, tmp_path):
    bad = put(document(), ("vocabularies", "user"), BAD_VOCABULARIES[name])
    refused(tmp_path / "p.json", bad, r": vocabularies\['user'\]: not packed ids")


def test_a_zlib_bomb_is_refused_without_unpacking_it(tmp_path):
    """200 MB of zeros in 200 kB: no more is unpacked than the largest table has rows."""
    bomb = zlib.compressobj()
    raw = b"".join(bomb.compress(bytes(2**20)) for _ in range(200)) + bomb.flush()
    bad = put(document(), ("vocabularies", "user"), base64.b64encode(raw).decode())
    tracemalloc.start()
    try:
        refused(tmp_path / "p.json", bad, "more than 19 ids")
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def test_a_vocabulary_that_just_fits(tmp_path):
    """As many ids as the largest table has rows, less one: what ``collisionless`` makes."""
    laws.round_trip(BUILDABLE["collisionless"], tmp_path)
    ids = np.arange(1000)
    table, feature = Table("t", 1001, 1), Feature("f", (Lookup("t", "id"),))
    laws.round_trip(Policy((table,), (feature,), (), {"f": ids}), tmp_path)


# ---- mutations of a valid file -------------------------------------------------------------

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "a", "hash", "id", "sum", "user", GOOD, packed(b""), "\ud800", "a.b"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def places(value: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every path inside a JSON value but the root."""
    keys = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    here = [(*at, k) for k in keys]
    return here + [p for k in keys for p in places(value[k], (*at, k))]


def loads_or_is_refused(path: Path) -> None:
    """Only PolicyError comes out, and what loads can be saved, and loads again as the same."""
    try:
        policy = Policy.load(path)
    except PolicyError:
        return
    laws.round_trip(policy, path.parent)


@given(st.data())
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_mutated_values_load_or_are_refused(tmp_path, data):
    changed: Any = data.draw(st.sampled_from([document, later_document]))()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(places(changed)))
        if data.draw(st.booleans()):
            changed = put(changed, at, data.draw(anything))
        else:  # what stands at another place of the document
            inner = changed
            for key in data.draw(st.sampled_from(places(changed))):
                inner = inner[key]
            changed = put(changed, at, copy.deepcopy(inner))
    path = tmp_path / "p.json"
    path.write_text(json.dumps(changed))
    loads_or_is_refused(path)


@given(st.data())
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_mutated_bytes_load_or_are_refused(tmp_path, data):
    made = data.draw(st.sampled_from([document, later_document]))()
    content = bytearray(json.dumps(made).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        end = min(len(content), start + data.draw(st.integers(0, 8)))
        content[start:end] = data.draw(st.binary(max_size=4) | st.sampled_from([b'"', b"}", b"9"]))
    path = tmp_path / "p.json"
    path.write_bytes(bytes(content))
    loads_or_is_refused(path)


# ---- the written spec ----------------------------------------------------------------------


def fenced(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SPEC.read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_of_the_spec_is_what_we_write(tmp_path):
    """Byte for byte but for what zlib makes of the vocabulary; files of today stay readable."""
    (example,) = fenced("json")
    (tmp_path / "a.json").write_text(example)
    policy = Policy.load(tmp_path / "a.json")
    policy.save(tmp_path / "b.json")
    vocabulary = re.compile(r'"country": ".*"')
    written = (tmp_path / "b.json").read_text()
    assert vocabulary.sub("", written) == vocabulary.sub("", example)
    assert policy.vocabularies["country"].tolist() == [5, 7, 4611686018427387905]
    assert policy.num_params == 100 * 4 + 5 * 2 == 410
    assert policy.num_bytes == 100 * 8 + 5 * 8 + 3 * 8 == 864
    assert policy.widths == (6, 4, 4)
    text = SPEC.read_text(encoding="utf-8")
    assert "= 410 parameters" in text and "takes 864 bytes" in text


def steps_of_the_spec(pattern: str) -> list[tuple[str, ...]]:
    found = re.findall(pattern, SPEC.read_text(encoding="utf-8"), re.M)
    assert len(found) >= 4
    return found


def test_the_worked_example_of_the_spec():
    """Every step of the hash, as the table of the spec prints it."""
    for inputs, x, row in steps_of_the_spec(r"^\| `([^`]*)` \| `(0x[^`]*)` \| `(\d*)` \|$"):
        value, seed, num_rows = (int(n, 0) for n in inputs.split(","))
        mixed = reference_mix(value ^ seed) % 2**64
        assert x == f"0x{mixed:016X}", inputs
        assert int(row) == reference_hash(value, seed, num_rows), inputs
        laws.hashes_as_written(seed, num_rows, [value])


def test_the_crosses_of_the_spec():
    for inputs, written in steps_of_the_spec(r"^\| `([\d, ]*)` \| `(0x[^`]*)` \|$"):
        ids = [int(i) for i in inputs.split(",")]
        assert written == f"0x{cross_id(ids):016X}", inputs
        laws.crosses_as_written(ids)


def test_the_rows_for_unknown_ids_of_the_spec():
    vocabulary, u = np.array([5, 7]), 3
    policy = Policy(
        (Table("t", 5, 1),),
        (Feature("f", (Lookup("t", "id", 42, unknown_rows=u),)),),
        vocabularies={"f": vocabulary},
    )
    rows = laws.reference_rows(policy, policy.features[0].lookups[0], "f", [5, 7, 9, 10, 11])
    assert rows == [3, 4, 0, 2, 2]
    text = " ".join(SPEC.read_text(encoding="utf-8").split())
    assert "5 and 7 read rows 3 and 4." in text and "read the rows 0, 2 and 2." in text


def names_of_the_spec() -> dict[str, Any]:
    """What the Python blocks of the spec define, run as they stand."""
    names: dict[str, Any] = {}
    for code in fenced("python"):
        exec(code, names)
    return names


def test_the_code_of_the_spec():
    """The hash and the cross of the spec are those of the references."""
    names = names_of_the_spec()
    for value in (0, 7, 2**62, 2**63 - 1):
        for seed, num_rows in ((0, 100), (2**63 - 1, 2**31 - 1), (12345, 3)):
            assert names["row"](value, seed, num_rows) == reference_hash(value, seed, num_rows)
        for others in ((5,), (2**63 - 1, 0), (2**62 - 1,), (2**62 - 2, 7, 7)):
            assert names["cross"]([value, *others]) == cross_id([value, *others])


def test_the_stored_row_of_the_spec():
    row = np.array([[0.5, -1.1, 0.25, 1, 0.1]], np.float32)
    written = dict(steps_of_the_spec(r"^\| `(\w+)` \| `([0-9A-F ]+)` \|$"))
    assert list(written) == list(DTYPES)
    for dtype, stored in written.items():
        assert quantize_rows(row, dtype).tobytes() == bytes.fromhex(stored), dtype


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("dim", [1, 2, 7, 8])
def test_the_code_of_the_spec_stores_what_we_store(dtype, dim):
    names, bits = names_of_the_spec(), {"int8": 8, "int4": 4}[dtype]
    rng = np.random.default_rng(dim)
    rows = (rng.normal(size=(200, dim)) * 10.0 ** rng.integers(-9, 4, (200, 1))).astype(np.float32)
    rows[:5] = 0.1
    rows[5:9] = 0
    stored = quantize_rows(rows, dtype)
    served = dequantize_rows(stored, dim, dtype)
    for row, found, back in zip(rows, stored, served, strict=True):
        written = names["stored"](row, bits)
        assert written == found.tobytes()
        assert names["served"](written, dim, bits) == back.tolist()
