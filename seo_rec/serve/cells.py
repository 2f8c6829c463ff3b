"""Raw cells as ids and numbers, by the rules of their columns.

Letters: B rows of a batch, N dense columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from seo_rec.data.roles import text_numbers
from seo_rec.data.tokens import (
    LIST_FIX,
    MISSING,
    bags_of_ids,
    categorical_ids,
    integer_ids,
    is_text,
    without_id,
    without_id_in_lists,
)
from seo_rec.data.vocabulary import prune
from seo_rec.schema import DataError
from seo_rec.serve.bags import Bags, Floats, Ids, RowError
from seo_rec.serve.preparation_rules import LARGEST, Column


def side_by_side(rows: int, parts: Sequence[Sequence[Floats]]) -> Floats:
    """float32 (B, N): the columns of all parts."""
    dense: Floats = np.empty((rows, sum(map(len, parts))), np.float32)
    for i, values in enumerate(values for part in parts for values in part):
        dense[:, i] = values
    return dense


def numbers(column: Any, rule: Column) -> list[Floats]:
    """The model's numbers of a raw numeric column, each float32 (B,); a missing one is 0.

    The second array, if the rule has one, is 1 where a number is missing.

    Raises:
        DataError: The column holds no numbers.
        RowError: A number is infinite, or beyond float32.
    """
    values = _floats(column, rule.name)
    _require_float32(values, rule.name)
    null = [np.isnan(values).astype(np.float32)] if rule.numbers.indicator else []
    if rule.rule != "shifted_log":
        return [rule.numbers.values(values), *null]
    return [shifted_log(values, float(rule.shift)), *null]


def shifted_log(values: npt.NDArray[np.float64], shift: float | npt.NDArray[np.float64]) -> Floats:
    """ln(max(x + shift, 1)), float32 of the same shape; 0 for NaN."""
    with np.errstate(invalid="ignore"):
        values = np.log(np.maximum(values + shift, 1.0))
    return np.nan_to_num(values, nan=0.0).astype(np.float32)


def _require_float32(values: npt.NDArray[np.float64], name: str) -> None:
    """RowError for a number that is infinite, or beyond float32."""
    with np.errstate(invalid="ignore"):
        beyond = np.abs(values) > LARGEST
    if beyond.any():
        row = int(np.argmax(beyond))
        raise RowError(
            row, name, str(values[row]), "not a finite number", "correct or null the cell"
        )


def _floats(column: Any, name: str) -> npt.NDArray[np.float64]:
    """float64 with NaN for nulls; text is read as numbers."""
    kind = column.type
    t = pa.types
    if t.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if is_text(kind):
        numbers_of_text, broken = text_numbers(column)
        if broken.any():
            row = int(np.argmax(broken))
            cell = column[row].as_py()
            shown = cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)
            raise RowError(row, name, shown, "not a number", "correct or null the cell")
        return numbers_of_text
    known = t.is_integer(kind) or t.is_floating(kind) or t.is_boolean(kind) or t.is_null(kind)
    if not (known or t.is_decimal(kind)):
        raise DataError(f"column {name!r} has type {kind}; a numeric column holds numbers")
    if t.is_boolean(kind):
        column = column.cast(pa.int8())
    values: npt.NDArray[np.float64] = pc.fill_null(
        column.cast(pa.float64(), safe=False), np.nan
    ).to_numpy()
    return values


def encode_column(column: Any, rule: Column, weights: Any = None) -> Bags:
    """The bags of ids of a raw categorical or multivalent column.

    Raises:
        DataError: The type has no rule, or the weights do not fit.
        RowError: A cell is bad.
    """
    if rule.kind == "multivalent":
        bags = _lists(column, rule, weights)
    else:
        bags = _singles(column, rule, weights)
    return (
        bags if rule.kept is None else Bags(prune(bags.ids, rule.kept), bags.lengths, bags.weights)
    )


def _singles(column: Any, rule: Column, weights: Any) -> Bags:
    if rule.rule in ("token", "value"):
        _require_whole(column, rule)
        array = categorical_ids(column, rule.name, rule.missing, rule.rule == "value")
        null = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
        ids = (array.fill_null(0) if array.null_count else array).to_numpy()
    else:
        ids, null = _computed(column, rule)
        if rule.missing == "token":
            ids[null] = MISSING
            null = None
    factors = None if weights is None else _factors(weights, len(ids), rule.name)
    if rule.missing == "token":
        return Bags(ids, None, factors)
    if null is None:
        null = np.zeros(len(ids), bool)
    there = ~null
    return Bags(ids[there], there.astype(np.int64), None if factors is None else factors[there])


def _require_whole(column: Any, rule: Column) -> None:
    """RowError for a number that is not whole, which no rule makes an id of."""
    by_value = rule.rule == "value"
    if rule.kind == "multivalent":
        broken = without_id_in_lists(column, by_value)
        why, fix = "a number in the list is not whole", LIST_FIX
    else:
        broken = without_id(column, by_value)
        why, fix = "not a whole number", "give whole numbers or text"
    if broken.any():
        row = int(np.argmax(broken))
        raise RowError(row, rule.name, str(column[row].as_py()), why, fix)


def _computed(column: Any, rule: Column) -> tuple[Ids, npt.NDArray[np.bool_]]:
    """Ids computed from whole numbers, and where the number is missing."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if rule.rule == "quantiles":
        values = _floats(column, rule.name)
        _require_float32(values, rule.name)
        return rule.numbers.buckets(values)
    if is_text(column.type):
        raise DataError(
            f"column {rule.name!r} has type {column.type}; its rule {rule.rule} needs whole numbers"
        )
    values = _floats(column, rule.name)
    null = np.isnan(values)
    values = np.where(null, 0.0, values)
    if rule.rule == "bucket":
        below = values < -(2.0**63)  # no 64 bits hold it; a large one has a small bucket
        bad = below | (values > LARGEST) | (values != np.floor(values))
        why, fix = "not a whole number from -2^63", "correct or null the cell"
    else:
        bad = null | (values < 1e7) | (values >= 1e8) | (values != np.floor(values))
        bad |= np.where(bad, 0, values) % 100 > 23
        why, fix = "not an hour written as YYMMDDHH", "correct the cell"
    if bad.any():
        row = int(np.argmax(bad))
        value = "nothing" if null[row] else str(values[row])
        raise RowError(row, rule.name, value, why, fix)
    if rule.rule == "hour_of_day":
        return (values % 100).astype(np.int64), null
    logs = np.log(np.maximum(values, 2.0))
    buckets = np.where(values > 2, np.floor(logs**2), values).astype(np.int64)
    return integer_ids(buckets).copy(), null


def _lists(column: Any, rule: Column, weights: Any) -> Bags:
    if weights is not None and not _is_list(column.type):
        raise DataError(
            f"weights are given for column {rule.name!r}, whose cells are {column.type}; give "
            "lists of values with lists of weights"
        )
    if pa.types.is_null(column.type):  # nothing but missing cells
        column = column.cast(pa.list_(pa.string()))
    _require_whole(column, rule)
    lists = bags_of_ids(column, rule.name, rule.separator, rule.rule == "value")
    lengths = np.diff(lists.offsets.to_numpy()).astype(np.int64)
    ids = lists.values.to_numpy()
    if weights is None:
        return Bags(ids, lengths)
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    cells = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    given = list(weights)
    sizes = [0 if w is None else len(w) for w in given]
    if sizes != cells.tolist():
        raise DataError(
            f"the weights of column {rule.name!r} are lists of other lengths than its values"
        )
    flat = np.array([x for w in given if w is not None for x in w], np.float32)
    _require_finite(flat, rule.name)
    # null and empty elements of a list are dropped, and their weights with them
    values = array.flatten()
    kept = ~values.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        kept &= pc.fill_null(pc.binary_length(values), 0).to_numpy(zero_copy_only=False) > 0
    elif pa.types.is_floating(values.type):
        kept &= ~np.isnan(values.cast(pa.float64()).fill_null(np.nan).to_numpy())
    if int(kept.sum()) != len(ids):
        raise DataError(f"weights cannot be matched to the values of column {rule.name!r}")
    return Bags(ids, lengths, flat[kept])


def _is_list(kind: Any) -> bool:
    t = pa.types
    return bool(t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind))


def _factors(weights: Any, rows: int, name: str) -> Floats:
    factors = np.asarray(weights, np.float32)
    if factors.shape != (rows,):
        raise DataError(
            f"the weights of column {name!r} have shape {factors.shape}; allowed: one number for "
            f"each of {rows} rows"
        )
    _require_finite(factors, name)
    return factors


def _require_finite(factors: Floats, name: str) -> None:
    if not np.isfinite(factors).all():
        raise DataError(f"a weight of column {name!r} is not a finite number; correct it")


def stored_bags(column: Any, rule: Column) -> Bags:
    """Of a column of a prepared shard: int64 with nulls, or lists of int64."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    lengths = None
    if pa.types.is_list(array.type):
        lengths = np.diff(array.offsets.to_numpy()).astype(np.int64)
        ids = array.flatten().to_numpy()
    else:
        ids = array.drop_null().to_numpy()
        if array.null_count or not rule.is_single:
            lengths = array.is_valid().to_numpy(zero_copy_only=False).astype(np.int64)
    if (rule.is_single and lengths is not None) or (rule.kind == "categorical" and _many(lengths)):
        raise DataError(f"column {rule.name!r} has other bags than the data of the training")
    return Bags(ids if rule.kept is None else prune(ids, rule.kept), lengths)


def _many(lengths: Ids | None) -> bool:
    return lengths is not None and bool((lengths > 1).any())
