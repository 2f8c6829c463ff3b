"""Ids of tokens are the same on every machine, in every release and for every Arrow type."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from seo_rec.data import vocabulary
from seo_rec.data.tokens import (
    HASH_BIT,
    MISSING,
    OUT_OF_VOCABULARY,
    bags_of_ids,
    categorical_ids,
    hash_tokens,
    integer_ids,
    token_id,
)
from seo_rec.data.vocabulary import IdCounter, prune


def fnv1a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def test_fnv1a_reference_vectors() -> None:
    # From the FNV authors' test suite.
    assert fnv1a(b"") == 0xCBF29CE484222325
    assert fnv1a(b"a") == 0xAF63DC4C8601EC8C
    assert fnv1a(b"foobar") == 0x85944171F73967E8


@pytest.mark.parametrize(
    ("token", "golden"),
    [
        ("0", 0),
        ("48067", 48067),
        ("999999999999999999", 999999999999999999),
        ("a", HASH_BIT + 0xAF63DC4C8601EC8C % HASH_BIT),
        ("foobar", HASH_BIT + 0x85944171F73967E8 % HASH_BIT),
    ],
)
def test_golden_ids(token: str, golden: int) -> None:
    assert token_id(token) == golden


def test_vectorised_hash_equals_the_reference() -> None:
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, 256, n, dtype=np.uint8).tobytes() for n in rng.integers(0, 40, 500)]
    tokens += [b"", b"00", b"01", b"-1", b"1000000000000000000", b"12a", b"a12", "é".encode()]
    ids = hash_tokens(pa.array(tokens, pa.binary()))
    for token, got in zip(tokens, ids.tolist(), strict=True):
        canonical = token.isdigit() and len(token) <= 18 and (token == b"0" or token[:1] != b"0")
        assert got == (int(token) if canonical else HASH_BIT + fnv1a(token) % HASH_BIT), token
    sliced = pa.array(tokens, pa.binary()).slice(7, 100)
    assert hash_tokens(sliced).tolist() == ids[7:107].tolist()


def test_few_tokens_have_the_ids_that_they_have_among_many() -> None:
    """They are hashed another way, one token at a time."""
    rng = np.random.default_rng(1)
    sizes = [0, 1, 8, 17, 18, 19, 63, 64, 65, 128, 129, 300]
    tokens = [rng.integers(0, 256, n, dtype=np.uint8).tobytes() for n in sizes]
    tokens += [b"1" * n for n in sizes] + [b"0", b"00", b"01", b"-1", b"+1", b" 1", b"1_0"]
    tokens += ["\N{ARABIC-INDIC DIGIT ONE}".encode(), b"12a", b"9" * 18, b"0" * 18]
    array = pa.array(tokens, pa.binary())
    wanted = hash_tokens(array).tolist()
    for size in (1, 2, 15, 16, 17):
        for start in range(len(tokens) - size + 1):
            found = hash_tokens(array.slice(start, size))
            assert found.dtype == np.int64
            assert found.tolist() == wanted[start : start + size], (start, size)


def test_ids_are_the_same_for_every_type() -> None:
    numbers = [0, 7, -7, 10**18, 2**62]
    expected = [token_id(str(n)) for n in numbers]
    assert integer_ids(np.array(numbers)).tolist() == expected
    text = pa.array([str(n) for n in numbers])
    for column in (text, text.dictionary_encode(), pa.array(numbers), text.cast(pa.large_binary())):
        assert categorical_ids(column, "c", "token").to_pylist() == expected
    assert all(0 <= i < 2**63 and i not in (MISSING, OUT_OF_VOCABULARY) for i in expected)


def test_bags_split_text_and_skip_nothing_else() -> None:
    text = pa.array(["a|b", None, "", "|c|", "a|b"])
    expected = [[token_id("a"), token_id("b")], [], [], [token_id("c")]]
    expected.append(expected[0])
    assert bags_of_ids(text, "m", "|").to_pylist() == expected
    assert bags_of_ids(text.dictionary_encode(), "m", "|").to_pylist() == expected
    lists = pa.array([[1, None, 2], None, []], pa.large_list(pa.int64()))
    assert bags_of_ids(lists, "m", None).to_pylist() == [[1, 2], [], []]
    assert bags_of_ids(lists.slice(1, 2), "m", None).to_pylist() == [[], []]


@pytest.mark.parametrize("piece", [3, 1 << 19])
def test_counter_equals_numpy_unique(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(vocabulary, "_PIECE", piece)
    rng = np.random.default_rng(0)
    counter, everything = IdCounter(), []
    for _ in range(50):
        ids = rng.zipf(1.3, rng.integers(0, 3000)).astype(np.int64)
        counter.add(ids.copy())
        everything.append(ids)
    expected = np.unique(np.concatenate(everything), return_counts=True)
    for got, wanted in zip(counter.result(), expected, strict=True):
        assert np.array_equal(got, wanted)
    empty, _ = IdCounter().result()
    assert len(empty) == 0


def test_prune_replaces_what_is_not_kept() -> None:
    ids = np.array([5, 1, 9, 7, 100])
    oov = OUT_OF_VOCABULARY
    assert prune(ids, np.array([1, 7, 9])).tolist() == [oov, 1, 9, 7, oov]
    assert prune(ids, np.zeros(0, np.int64)).tolist() == [oov] * 5
