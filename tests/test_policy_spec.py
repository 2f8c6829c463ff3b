"""The written format of policies: its examples and its code do what the product does."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import laws
from policy_documents import SPEC
from seo_rec.policy import (
    Feature,
    Lookup,
    Policy,
    Table,
)
from seo_rec.policy.dtypes import DTYPES, dequantize_rows, quantize_rows
from spec import cross_id, reference_hash, reference_mix


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
