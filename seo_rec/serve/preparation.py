"""The frozen preparation of a package: how raw cells become ids and numbers, as ``prepare`` did.

``preparation.json`` says it in words of its own (``docs/package-format.md``), so that a reader
needs neither the prepared data nor the release that prepared them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from seo_rec.data.delimited import require_delimiter
from seo_rec.data.numeric import INDICATOR, TRANSFORMS, NumericRule
from seo_rec.policy.strict_json import integer, items, json_object, string
from seo_rec.schema import DataError
from seo_rec.serve.bags import Ids, Inputs
from seo_rec.serve.cells import encode_column, numbers, side_by_side, stored_bags
from seo_rec.serve.few_rows import FewRows
from seo_rec.serve.preparation_rules import (
    ID_RULES,
    MAX_SHIFT,
    MISSING_AS,
    NUMERIC_RULES,
    Column,
    Text,
)

FORMAT = "seo-rec-preparation"
VERSION = 1
_NUMBER_KEYS: Mapping[str, set[str]] = {
    "shifted_log": {"shift"},
    "standard": {"mean", "scale"},
    "quantiles": {"bounds"},
}


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

    @cached_property
    def few_rows(self) -> FewRows:
        """What reads and encodes few rows faster than :meth:`encode`, with equal results."""
        return FewRows(self.columns)

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
        dense = side_by_side(table.num_rows, [numbers(table[c.name], c) for c in self.numeric])
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
        dense = side_by_side(table.num_rows, [[table[name].to_numpy()] for name in names])
        return Inputs(dense, {c.name: stored_bags(table[c.name], c) for c in self.embedded})

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
