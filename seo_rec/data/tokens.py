"""Tokens to 64-bit ids: the identity of a categorical value, without a vocabulary.

The rule, the same for every source and file format:

    id(token) = int(token)                                if token is a canonical decimal
              = 2^62 + (FNV-1a-64(UTF-8 bytes) mod 2^62)  otherwise

A canonical decimal has 1 to 18 digits, no sign and no leading zero (``0`` itself is one), so it
is below 10^18 < 2^62: numbers and hashes never meet, all ids are in [0, 2^63), and two ids just
below 2^62 are free for :data:`MISSING` and :data:`OUT_OF_VOCABULARY`. Negative integers are
hashed by their decimal text. FNV-1a is used because it is five lines in any language, so a
server can reproduce it; with 33 million distinct tokens in a column the expected number of
colliding pairs is about 1e-4.

Tables of users come in files of many kinds, which store one value in several forms. Their ids are
given by value: :mod:`seo_rec.data.values` brings each value into one form first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from seo_rec.data.values import as_text, one_form
from seo_rec.schema import DataError

Ids = npt.NDArray[np.int64]

HASH_BIT = 1 << 62
MISSING = HASH_BIT - 1
OUT_OF_VOCABULARY = HASH_BIT - 2
TOKEN_RULE = "canonical decimal below 10^18: its value; else 2^62 + FNV-1a-64(bytes) mod 2^62"
VALUE_RULE = f"whole numbers, truth and times in one form; then {TOKEN_RULE}"
TOKEN_RULES = (TOKEN_RULE, VALUE_RULE)

LIST_FIX = "make it a list of text or of whole numbers, or leave the column out"
MISSING_RULES = ("token", "empty")

_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_MAX_DIGITS = 18
FIRST_HASHED_NUMBER = 10**_MAX_DIGITS  # whole numbers below are their own ids
# So few tokens, of so few bytes in all, are faster one by one: a request of one row, say.
_FEW_TOKENS, _FEW_BYTES = 16, 128
_FEW_BYTES_OF_A_REQUEST = 1024


def token_id(token: str | bytes | int) -> int:
    """The id of one token, for servers and tests.

    >>> token_id("48067"), token_id(48067), token_id("048067") >= 2**62
    (48067, 48067, True)
    """
    data = token if isinstance(token, bytes) else str(token).encode()
    return int(hash_tokens(pa.array([data], type=pa.binary()))[0])


def hash_tokens(tokens: Any) -> Ids:
    """Ids of ``tokens``, a binary or string array of V values without nulls.

    Works one byte position at a time over all tokens that are long enough, longest first, so
    memory is O(V) whatever the lengths are.
    """
    tokens = tokens.cast(pa.large_binary())
    num = len(tokens)
    if num == 0:
        return np.zeros(0, np.int64)
    _, offset_buffer, data_buffer = tokens.buffers()
    ends = np.frombuffer(offset_buffer, np.int64)[tokens.offset : tokens.offset + num + 1]
    if num <= _FEW_TOKENS and ends[-1] - ends[0] <= _FEW_BYTES:
        return np.array([_id_of_bytes(token) for token in tokens.to_pylist()], np.int64)
    length = np.diff(ends)
    data = np.frombuffer(data_buffer if data_buffer is not None else b"", np.uint8)

    longest = int(length.max())
    same_length = longest == int(length.min())
    order = None if same_length else np.argsort(-length, kind="stable")
    start = ends[:-1] if order is None else ends[:-1][order]
    num_alive = (
        np.full(longest, num)
        if same_length
        else num - np.searchsorted(np.sort(length), np.arange(longest), side="right")
    )
    hashed = np.full(num, _FNV_OFFSET, np.uint64)
    value = np.zeros(num, np.int64)
    decimal = np.ones(num, bool)
    leading_zero = np.zeros(num, bool)
    for position in range(longest):
        alive = slice(0, int(num_alive[position]))
        byte = data[start[alive] + position]
        hashed[alive] ^= byte
        hashed[alive] *= _FNV_PRIME
        digit = byte - np.uint8(ord("0"))  # wraps round: a byte that is no digit becomes >= 10
        decimal[alive] &= digit < 10
        if position == 0:
            leading_zero[alive] = digit == 0
        if position < _MAX_DIGITS:
            value[alive] = value[alive] * 10 + digit
    sorted_length = length if order is None else length[order]
    decimal &= (sorted_length > 0) & (sorted_length <= _MAX_DIGITS)
    decimal &= ~leading_zero | (sorted_length == 1)
    low_bits = (hashed & np.uint64(HASH_BIT - 1)).astype(np.int64)
    ids = np.where(decimal, value, low_bits + HASH_BIT)
    if order is None:
        return ids
    restored = np.empty_like(ids)
    restored[order] = ids
    return restored


def hash_few(tokens: Sequence[bytes]) -> Sequence[int]:
    """Ids of few ``tokens``, as :func:`hash_tokens` gives them, without Arrow's set-up."""
    if sum(map(len, tokens)) <= _FEW_BYTES_OF_A_REQUEST:
        return [_id_of_bytes(token) for token in tokens]
    found: list[int] = hash_tokens(pa.array(tokens, pa.large_binary())).tolist()
    return found


def _id_of_bytes(token: bytes) -> int:
    """The id of one token by the rule at the top of this file, byte by byte."""
    starts_with_zero = token[:1] == b"0" and len(token) > 1
    if token.isdigit() and len(token) <= _MAX_DIGITS and not starts_with_zero:
        return int(token)
    hashed, prime = int(_FNV_OFFSET), int(_FNV_PRIME)
    for byte in token:
        hashed = (hashed ^ byte) * prime % 2**64
    return HASH_BIT + hashed % HASH_BIT


def integer_ids(values: Ids) -> Ids:
    """Ids of integers: themselves in [0, 10^18), else the hash of their decimal text."""
    ids = np.asarray(values, np.int64)
    strange = (ids < 0) | (ids >= 10**_MAX_DIGITS)
    if strange.any():
        ids = ids.copy()
        distinct, inverse = np.unique(ids[strange], return_inverse=True)
        ids[strange] = hash_tokens(pa.array([str(v) for v in distinct], pa.string()))[inverse]
    return ids


def categorical_ids(column: Any, name: str, missing: str, by_value: bool = False) -> Any:
    """One id per row of ``column`` (any Arrow array of text, integers, booleans or floats).

    Args:
        missing: ``token`` gives a null the id :data:`MISSING`; ``empty`` leaves it null.
        by_value: Whether the rule is :data:`VALUE_RULE`.

    Returns:
        Arrow int64 array of the same length.

    Raises:
        DataError: the column's type has no token rule, or a float is not a whole number.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # pyarrow keeps several chunks of huge text apart
        array = pa.concat_arrays(array.chunks)
    ids, null = _plain_ids(array, name, by_value)
    if missing == "empty":
        return pa.array(ids, mask=null)
    ids[null] = MISSING
    return pa.array(ids)


def bags_of_ids(column: Any, name: str, separator: str | None, by_value: bool = False) -> Any:
    """Bags of ids: lists as they are, text split at ``separator``; null and "" are empty bags.

    ``by_value`` says whether the rule is :data:`VALUE_RULE`.

    Returns:
        Arrow list<int64> array without nulls, of the same length as ``column``.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        # Split each distinct text once, then copy the bags to the rows.
        if len(array.dictionary) == 0:
            return _bags(np.zeros(len(array) + 1, np.int64), np.zeros(0, np.int64))
        bags = bags_of_ids(array.dictionary, name, separator, by_value).take(array.indices)
        return _bags(_offsets(bags), bags.flatten().to_numpy())
    if is_text(array.type):
        if separator is None:
            raise DataError(f"multivalent column {name!r} is text and needs a separator to split")
        array = pc.split_pattern(array.cast(pa.binary()), pattern=separator)
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        raise DataError(
            f"multivalent column {name!r} has type {array.type}; allowed: lists, or text that "
            "is split at a separator; make it a list column or declare it categorical"
        )
    return _bags(*_flat_bags(array, name, by_value))


def _bags(offsets: npt.NDArray[np.int64], values: Ids) -> Any:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, pa.int64()))


def _flat_bags(lists: Any, name: str, by_value: bool) -> tuple[npt.NDArray[np.int64], Ids]:
    """Offsets and ids of a list array, without null or empty elements."""
    offsets = _offsets(lists)
    ids, drop = _plain_ids(lists.flatten(), name, by_value)
    if drop.any():
        kept_before = np.concatenate([[0], np.cumsum(~drop)])
        offsets, ids = kept_before[offsets], ids[~drop]
    return offsets, ids


def _offsets(lists: Any) -> npt.NDArray[np.int64]:
    """Where each bag starts in ``lists.flatten()``; a null list is an empty bag."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def without_id(column: Any, by_value: bool = False) -> npt.NDArray[np.bool_]:
    """Which cells of a categorical column hold a number that is not whole, and so has no id.

    Args:
        column: An Arrow array; a null is none of them.
        by_value: Whether the rule is :data:`VALUE_RULE`, by which decimals are numbers.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_floating(kind) or (by_value and pa.types.is_decimal(kind))):
        return np.zeros(len(column), bool)
    array = column.cast(kind)
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if pa.types.is_floating(kind):
        numbers = pc.fill_null(array.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)
        with np.errstate(invalid="ignore"):
            whole = (numbers == np.floor(numbers)) & (np.abs(numbers) < 2**53)
        return np.asarray(~np.isnan(numbers) & ~whole)
    return np.asarray(_has_point(one_form(as_text(array))).to_numpy(zero_copy_only=False))


def without_id_in_lists(column: Any, by_value: bool = False) -> npt.NDArray[np.bool_]:
    """Which lists of a multivalent column hold a number that is not whole; text never does."""
    bad = np.zeros(len(column), bool)
    kind = getattr(column.type, "value_type", None)  # structs and maps have none
    lists = pa.types.is_nested(column.type) and kind is not None
    if lists and not pa.types.is_integer(kind) and not is_text(kind):
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        broken = without_id(pc.list_flatten(array), by_value)
        bad[pc.list_parent_indices(array).to_numpy()[broken]] = True
    return bad


def _has_point(texts: Any) -> Any:
    """Which of the texts of decimals, in one form, are no whole numbers; a null is none of them."""
    return pc.fill_null(pc.match_substring(texts, "."), False)


def is_text(type_: Any) -> bool:
    """Whether an Arrow type is one of text: strings or bytes of any size."""
    t = pa.types
    return bool(
        t.is_string(type_)
        or t.is_binary(type_)
        or t.is_large_string(type_)
        or t.is_large_binary(type_)
        or t.is_string_view(type_)
        or t.is_binary_view(type_)
        or t.is_fixed_size_binary(type_)
    )


def _plain_ids(array: Any, name: str, by_value: bool) -> tuple[Ids, npt.NDArray[np.bool_]]:
    """Ids (undefined where missing, and fresh memory) and where the array is missing."""
    if pa.types.is_null(array.type):
        return np.zeros(len(array), np.int64), np.ones(len(array), bool)
    if is_text(array.type):
        array = array.dictionary_encode()
    if pa.types.is_dictionary(array.type):
        values, absent = _plain_ids_of_values(array.dictionary, name, by_value)
        index = pc.fill_null(array.indices, len(values)).to_numpy(zero_copy_only=False)
        return np.append(values, 0)[index], np.append(absent, True)[index]
    return _plain_ids_of_values(array, name, by_value)


def _plain_ids_of_values(
    array: Any, name: str, by_value: bool
) -> tuple[Ids, npt.NDArray[np.bool_]]:
    null = array.is_null().to_numpy(zero_copy_only=False)
    type_ = array.type
    if is_text(type_):
        array = array.cast(pa.large_binary())
        text = pc.fill_null(one_form(array) if by_value else array, b"")
        return hash_tokens(text), null | (pc.binary_length(text).to_numpy() == 0)
    if pa.types.is_floating(type_):
        values = pc.fill_null(array.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)
        null = np.isnan(values)
        values = np.where(null, 0.0, values)
        wrong = ~np.isfinite(values) | (values != np.floor(values)) | (np.abs(values) >= 2**53)
        if wrong.any():
            raise DataError(
                f"categorical column {name!r} holds the number {float(values[wrong][0])}; allowed: "
                "text and whole numbers; declare it numeric, or cast it to text first"
            )
        return integer_ids(values.astype(np.int64)).copy(), null
    if pa.types.is_boolean(type_) or pa.types.is_integer(type_):
        if pa.types.is_uint64(type_) and (pc.max(array).as_py() or 0) >= 2**63:
            return _plain_ids_of_values(array.cast(pa.string()), name, by_value)
        values = pc.fill_null(array.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
        return integer_ids(values).copy(), null
    if pa.types.is_date(type_) or pa.types.is_timestamp(type_) or pa.types.is_decimal(type_):
        if not by_value:
            return _plain_ids_of_values(array.cast(pa.string()), name, by_value)
        text = one_form(as_text(array))
        if pa.types.is_decimal(type_) and (broken := text.filter(_has_point(text))):
            raise DataError(
                f"categorical column {name!r} holds the number {broken[0]}; allowed: text and "
                "whole numbers; declare it numeric, or cast it to text first"
            )
        return _plain_ids_of_values(text, name, by_value)
    raise DataError(
        f"categorical column {name!r} has type {type_}; allowed: text, integers, booleans, whole "
        "floats, dates and decimals; declare a list as multivalent, or cast the column to text"
    )
