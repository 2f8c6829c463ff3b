"""The frozen preparation of a package: how raw cells become ids and numbers, as ``prepare`` did.

``preparation.json`` says it in words of its own (``docs/package-format.md``), so that a reader
needs neither the prepared data nor the release that prepared them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from seo_rec.data.delimited import require_delimiter
from seo_rec.data.numeric import INDICATOR, TRANSFORMS, NumericRule
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
from seo_rec.policy.strict_json import integer, items, json_object, string
from seo_rec.schema import DataError
from seo_rec.serve.bags import Bags, Floats, Ids, Inputs, RowError

FORMAT = "seo-rec-preparation"
VERSION = 1
LARGEST = float(np.finfo(np.float32).max)
NUMERIC_RULES = ("none", "log", "standard", "shifted_log")
ID_RULES = ("token", "value", "bucket", "hour_of_day", "quantiles")
_NUMBER_KEYS: Mapping[str, set[str]] = {
    "shifted_log": {"shift"},
    "standard": {"mean", "scale"},
    "quantiles": {"bounds"},
}
MISSING_AS = ("token", "empty")
MAX_SHIFT = 1000


@dataclass(frozen=True)
class Column:
    """One raw column and its rule.

    Args:
        name: As in the raw rows.
        kind: ``numeric``, ``categorical`` or ``multivalent``.
        rule: Of a numeric column ``none``, ``log``, ``standard`` (see ``numbers``) or
            ``shifted_log`` (ln(max(x + shift, 1))); of the others ``token`` or ``value``, which
            brings whole numbers, truth and times into one form first, and of a categorical
            one also ``bucket`` (floor(ln(x)^2) above 2, else x), ``hour_of_day`` (YYMMDDHH mod 100)
            or ``quantiles`` (see ``numbers``).
        missing: Of a categorical column: ``token`` or ``empty``.
        shift: Of ``shifted_log``.
        separator: Of a multivalent column.
        kept: The ids that keep their identity, ascending; None if all do.
        numbers: Of ``none``, ``log``, ``standard`` and ``quantiles``: what becomes of a number.
    """

    name: str
    kind: str
    rule: str = "token"
    missing: str = "token"
    shift: int = 0
    separator: str = "|"
    kept: Ids | None = field(default=None, compare=False)
    numbers: NumericRule = NumericRule()

    @property
    def num_dense(self) -> int:
        """Numbers that the model gets of a cell: 2 if one says whether it is missing."""
        return (1 + self.numbers.indicator) if self.kind == "numeric" else 0

    @property
    def is_single(self) -> bool:
        """Whether every row has exactly one id."""
        return self.kind == "categorical" and self.missing == "token"


@dataclass(frozen=True)
class Text:
    """How raw text files look.

    Args:
        delimiter: Between cells; None for a tab in ``.tsv`` files and a comma in others.
        quoting: Whether cells may be quoted.
        headers: The columns of files without a header line, one list for each number of columns
            that a file may have; empty where files have a header line.
    """

    delimiter: str | None = None
    quoting: bool = True
    headers: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Preparation:
    """The rules of all raw columns that a model reads.

    Args:
        dataset: Kind of the source, such as ``table`` or ``criteo``.
        label: Name of the label; scoring never reads it.
        rules: The rules in the words of ``schema.json``, to recognise prepared folders by.
        columns: Numeric columns in the order of the model's dense columns, then the others. The
            number that says whether a cell is missing follows the number of the cell.
        text: How raw text files look.
    """

    dataset: str
    label: str
    rules: Mapping[str, Any]
    columns: tuple[Column, ...]
    text: Text = Text()

    @property
    def numeric(self) -> tuple[Column, ...]:
        return tuple(c for c in self.columns if c.kind == "numeric")

    @property
    def num_dense(self) -> int:
        """N, the number of the model's dense columns."""
        return sum(c.num_dense for c in self.columns)

    @property
    def embedded(self) -> tuple[Column, ...]:
        return tuple(c for c in self.columns if c.kind != "numeric")

    def require_in(self, names: Sequence[str]) -> None:
        """DataError if a table with columns of these names lacks one, or has one twice."""
        given = list(names)
        if missing := [c.name for c in self.columns if c.name not in given]:
            raise DataError(f"the rows lack the columns {missing}; given are {given}")
        if twice := sorted({c.name for c in self.columns if given.count(c.name) > 1}):
            raise DataError(f"the rows have the columns {twice} twice; give each of them once")

    def encode(self, table: Any, weights: Mapping[str, Any] | None = None) -> Inputs:
        """Raw rows to ids and numbers.

        Args:
            table: An Arrow table with the columns; others are not read.
            weights: By name of a categorical or multivalent column, a factor for each of its ids:
                numbers for a categorical column, lists as long as the bags for a multivalent one.

        Raises:
            DataError: A column is missing or of a type without a rule; or weights do not fit.
            RowError: A cell is bad; the error knows which.
        """
        self.require_in(table.column_names)
        weights = weights or {}
        if unknown := sorted(set(weights) - {c.name for c in self.embedded}):
            raise DataError(
                f"weights are given for {unknown}; allowed: {[c.name for c in self.embedded]}"
            )
        dense = _side_by_side(table.num_rows, [numbers(table[c.name], c) for c in self.numeric])
        columns = {
            c.name: encode_column(table[c.name], c, weights.get(c.name)) for c in self.embedded
        }
        return Inputs(dense, columns)

    def prepared(self, table: Any) -> Inputs:
        """Rows of a prepared folder, whose cells are ids and transformed numbers already."""
        self.require_in(table.column_names)
        names = [c.name + more for c in self.numeric for more in ("", INDICATOR)[: c.num_dense]]
        if missing := [name for name in names if name not in table.column_names]:
            raise DataError(f"the rows lack the columns {missing}; given are {table.column_names}")
        dense = _side_by_side(table.num_rows, [[table[name].to_numpy()] for name in names])
        return Inputs(dense, {c.name: _stored_bags(table[c.name], c) for c in self.embedded})

    # ---- the file ----

    def to_json(self, tensors: Mapping[str, str]) -> dict[str, Any]:
        """The JSON value; ``tensors``: by column, the name of the tensor of its kept ids."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "dataset": self.dataset,
            "label": self.label,
            "rules": dict(self.rules),
            "text": {
                "delimiter": self.text.delimiter,
                "quoting": self.text.quoting,
                "headers": [list(names) for names in self.text.headers],
            },
            "columns": [_column_json(c, tensors.get(c.name)) for c in self.columns],
        }

    @classmethod
    def from_json(cls, document: Any, tensors: Mapping[str, Ids], where: str) -> Preparation:
        """Read a preparation strictly; PolicyError or ValueError says what is wrong and where."""
        keys = {"format", "version", "dataset", "label", "rules", "text", "columns"}
        doc = json_object(document, keys, where)
        if (doc["format"], doc["version"]) != (FORMAT, VERSION) or doc["version"] is True:
            raise ValueError(
                f"{where}: format {doc['format']!r} version {doc['version']!r}; this release reads "
                f"{FORMAT!r} version {VERSION}"
            )
        if not isinstance(doc["rules"], dict):
            raise ValueError(f"{where}: rules must be an object")
        columns = tuple(_column(entry, tensors, at) for at, entry in items(doc, "columns", where))
        names = [c.name for c in columns]
        if len(set(names)) < len(names):
            raise ValueError(f"{where}: columns: a name is there twice: {names}")
        if unread := set(tensors) - {
            entry["kept"] for entry in doc["columns"] if entry.get("kept") is not None
        }:
            raise ValueError(f"{where}: no column names the tensors {sorted(unread)}")
        dataset, label = (string(doc[key], f"{where}: {key}") for key in ("dataset", "label"))
        return cls(dataset, label, doc["rules"], columns, _text(doc["text"], f"{where}: text"))


# ---- cells ---------------------------------------------------------------------------------


def _side_by_side(rows: int, parts: Sequence[Sequence[Floats]]) -> Floats:
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
    with np.errstate(invalid="ignore"):
        values = np.log(np.maximum(values + float(rule.shift), 1.0))
    return [np.nan_to_num(values, nan=0.0).astype(np.float32), *null]


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
        bad = (np.abs(values) > LARGEST) | (values != np.floor(values))
        why, fix = "not a whole number", "correct or null the cell"
    else:
        bad = null | (values < 1e7) | (values >= 1e8) | (values != np.floor(values))
        bad |= values % 100 > 23
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


def _stored_bags(column: Any, rule: Column) -> Bags:
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


# ---- the file ------------------------------------------------------------------------------


def _column_json(c: Column, tensor: str | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": c.name, "kind": c.kind, "rule": c.rule}
    if c.kind == "numeric":
        if c.rule == "shifted_log":
            return entry | {"shift": c.shift}
        rule = c.numbers.to_json()
        return entry | {key: value for key, value in rule.items() if value is not False}
    entry["kept"] = tensor
    entry |= c.numbers.to_json() if c.rule == "quantiles" else {}
    return entry | (
        {"missing": c.missing} if c.kind == "categorical" else {"separator": c.separator}
    )


def _column(entry: Any, tensors: Mapping[str, Ids], at: str) -> Column:
    if not isinstance(entry, dict):
        raise ValueError(f"{at}: must be an object")
    kind, rule = (string(entry.get(key), f"{at}.{key}") for key in ("kind", "rule"))
    numbers = _NUMBER_KEYS.get(rule, set())
    if kind == "numeric" and rule != "shifted_log" and "indicator" in entry:
        numbers = numbers | {"indicator"}
    keys = {
        "numeric": numbers,
        "categorical": {"kept", "missing"} | numbers,
        "multivalent": {"kept", "separator"},
    }
    rules = {"numeric": NUMERIC_RULES, "categorical": ID_RULES, "multivalent": ("token", "value")}
    if kind not in keys:
        raise ValueError(f"{at}.kind: {kind!r}; allowed: {', '.join(keys)}")
    if rule not in rules[kind]:
        raise ValueError(f"{at}.rule: {rule!r}; allowed: {', '.join(rules[kind])}")
    doc = json_object(entry, {"name", "kind", "rule", *keys[kind]}, at)
    missing = string(doc.get("missing", "token"), f"{at}.missing")
    if missing not in MISSING_AS:
        raise ValueError(f"{at}.missing: {missing!r}; allowed: {', '.join(MISSING_AS)}")
    shift = integer(doc.get("shift", 0), f"{at}.shift")
    if not 0 <= shift <= MAX_SHIFT:
        raise ValueError(f"{at}.shift: {shift}; allowed: 0 to {MAX_SHIFT}")
    separator = string(doc.get("separator", "|"), f"{at}.separator")
    if not separator:
        raise ValueError(f"{at}.separator: is empty")
    kept = None
    if doc.get("kept") is not None:
        tensor = string(doc["kept"], f"{at}.kept")
        if tensor not in tensors:
            raise ValueError(f"{at}.kept: there is no tensor {tensor!r}")
        kept = tensors[tensor]
    name = string(doc["name"], f"{at}.name")
    made = _number_rule(doc, at)
    return Column(name, kind, rule, missing, shift, separator, kept, made)


def _number_rule(doc: Mapping[str, Any], at: str) -> NumericRule:
    """What becomes of numbers by the entry of a column; ValueError if it is not as described."""
    if doc["rule"] not in TRANSFORMS or (doc["kind"] != "numeric" and doc["rule"] != "quantiles"):
        return NumericRule()
    keys = {"rule", "mean", "scale", "bounds", "indicator"} & set(doc)
    entry = {key: doc[key] for key in keys}
    if doc["rule"] != "quantiles":
        entry.setdefault("indicator", False)
    return NumericRule.from_json(entry, at)


def _text(entry: Any, at: str) -> Text:
    doc = json_object(entry, {"delimiter", "quoting", "headers"}, at)
    delimiter = doc["delimiter"]
    if delimiter is not None:
        require_delimiter(string(delimiter, f"{at}.delimiter"), f"{at}.delimiter")
    if not isinstance(doc["quoting"], bool):
        raise ValueError(f"{at}.quoting: must be true or false")
    headers = tuple(
        tuple(string(name, place) for place, name in items({"": names}, "", inner, ""))
        for inner, names in items(doc, "headers", at, ".")
    )
    return Text(delimiter, doc["quoting"], headers)
