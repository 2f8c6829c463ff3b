"""Policy files are read strictly: keys, types, versions, vocabularies, hostile content."""

from __future__ import annotations

import base64
import copy
import json
import re
import tracemalloc
import zlib
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import laws
from cases import BUILDABLE, VOCABULARY
from policy_documents import GOOD, document, later_document, packed, put, refused
from seo_rec.policy import (
    Feature,
    Lookup,
    Policy,
    PolicyError,
    Table,
)

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
    keys_are_checked(document(), at, tmp_path / "p.json", rf"{place}: ")


def keys_are_checked(good, at, path, place) -> None:
    """An unknown key and a missing one are refused in the object at ``at``, by name."""
    refused(path, put(good, (*at, "colour"), 1), rf"{place}unknown keys \['colour'\]; allowed: ")
    inner = reduce(getitem, at, good)
    for key in inner:
        less = copy.deepcopy(good)
        del reduce(getitem, at, less)[key]
        refused(path, less, rf"{place}missing keys \['{key}'\]")


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
    keys_are_checked(later_document(), at, tmp_path / "p.json", "")


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


@pytest.mark.parametrize("version", [0, 5, "3", 3.0, True, None, [1], 10**30])
def test_other_versions_are_refused(version, tmp_path):
    message = "this release reads 'seo-rec-policy' versions 1 to 4"
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
    with pytest.raises(PolicyError, match="no such policy file; `seo-rec search` writes one"):
        Policy.load(tmp_path / "no.json")
    with pytest.raises(PolicyError, match="a folder; name the policy file in it"):
        Policy.load(tmp_path)


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
