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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import laws
from cases import BUILDABLE, POLICIES, VOCABULARY
from seo_rec.policy import Feature, Lookup, Policy, PolicyError, Table

SPEC = Path(__file__).resolve().parent.parent / "docs" / "policy-format.md"
policies = pytest.mark.parametrize("policy", BUILDABLE)


def document() -> dict[str, Any]:
    """A small valid policy as JSON, a vocabulary included."""
    of = POLICIES["id-and-hash"]
    policy = Policy(
        of.tables, of.features, ("hour",), of.vocabularies, {"method": "by hand", "seed": 1.5}
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
    r"feature 'f' has address 'hsh'; allowed: hash, id": (
        (T,),
        (Feature("f", (Lookup("t", "hsh"),)),),
    ),
    r"feature 'f' has seed -1; allowed": ((T,), (Feature("f", (Lookup("t", seed=-1),)),)),
    r"feature 'f' has seed 9223372036854775808": (
        (T,),
        (Feature("f", (Lookup("t", seed=2**63),)),),
    ),
    r"feature 'f' has combine 'mean'; allowed: concat, sum": (
        (T,),
        (Feature("f", (Lookup("t"),), "mean"),),
    ),
    r"feature 'f' sums vectors of different widths": (
        (T, Table("u", 3, 4)),
        (Feature("f", (Lookup("t"), Lookup("u")), "sum"),),
    ),
    r"tables \['u'\] are read by no feature": ((T, Table("u", 3, 4)), (F,)),
    r"features \['f'\] are both served and dropped": ((T,), (F,), ("f",)),
    r"dropped names a feature twice": ((T,), (F,), ("g", "g")),
    r"the policy serves no feature": ((), ()),
    r"feature 'f' uses the id address and has no vocabulary": (
        (T,),
        (Feature("f", (Lookup("t", "id"),)),),
    ),
}


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


@pytest.mark.parametrize("version", [0, 2, "1", 1.0, True, None, [1], 10**30])
def test_other_versions_are_refused(version, tmp_path):
    message = "this release reads 'seo-rec-policy' version 1"
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
    ("features", 1, "lookups", 0, "seed"): (None, "1", 1.0, True),
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
        replaced('"version": 1', '"version": 2, "version": 1'),
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
    "not UTF-8": (b"\xff\xfe" + json.dumps(document()).encode(), "not a policy file"),
    "UTF-16": (json.dumps(document()).encode("utf-16"), "not a policy file"),
    "a byte order mark": (b"\xef\xbb\xbf" + json.dumps(document()).encode(), "not valid JSON"),
    "zero bytes": (b"\0" * 100, "not valid JSON"),
    "a trailing comma": (replaced('"dim": 2}', '"dim": 2,}'), ":1:.*: not valid JSON"),
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


def packed(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw)).decode()


GOOD = packed(np.diff(VOCABULARY, prepend=0).astype("<i8").tobytes())
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
    changed: Any = document()
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
    content = bytearray(json.dumps(document()).encode())
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
    assert policy.num_params == 100 * 4 + 4 * 2


def test_the_worked_example_of_the_spec():
    """Every step of the hash, as the table of the spec prints it."""
    steps = re.findall(r"^\| `([^`]*)` \| `([^`]*)` \| `([^`]*)` \|$", SPEC.read_text(), re.M)
    assert len(steps) >= 4
    for inputs, x, row in steps:
        value, seed, num_rows = (int(n, 0) for n in inputs.split(","))
        mixed = laws.reference_mix(value ^ seed) % 2**64
        assert x == f"0x{mixed:016X}", inputs
        assert int(row) == laws.reference_hash(value, seed, num_rows), inputs
        laws.hashes_as_written(seed, num_rows, [value])


def test_the_code_of_the_spec():
    """The Python of the spec, run as it stands, is the hash."""
    (code,) = fenced("python")
    names: dict[str, Any] = {}
    exec(code, names)
    for value in (0, 7, 2**62, 2**63 - 1):
        for seed, num_rows in ((0, 100), (2**63 - 1, 2**31 - 1), (12345, 3)):
            assert names["row"](value, seed, num_rows) == laws.reference_hash(value, seed, num_rows)
