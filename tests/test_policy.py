"""Laws of the policy: round trip, equality, what is counted, and what cannot be built."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import laws
from cases import BUILDABLE, POLICIES, VOCABULARY
from policy_documents import document, later_document
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

policies = pytest.mark.parametrize("policy", BUILDABLE)


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
