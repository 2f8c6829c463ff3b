"""The rules by which a data set was prepared, in the words of a package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seo_rec.data.avazu import HEADER as AVAZU_HEADER
from seo_rec.data.criteo import INTEGERS, TOKENS
from seo_rec.data.dataset import DataSet
from seo_rec.data.numeric import BY_COLUMN, INDICATOR, NumericRule, rules_of
from seo_rec.data.tokens import VALUE_RULE
from seo_rec.schema import Column as SchemaColumn
from seo_rec.schema import DataError, Schema
from seo_rec.serve.layout import EXAMPLES
from seo_rec.serve.preparation import Preparation
from seo_rec.serve.preparation_rules import Column, Text

_CRITEO = ("label", *INTEGERS, *TOKENS)
_TEXTS: Mapping[str, Text] = {
    "criteo": Text("\t", False, (_CRITEO, _CRITEO[1:])),
    "avazu": Text(","),
}
_NAMED_OTHERWISE = {"avazu": AVAZU_HEADER[1]}  # the label in the raw files
# The words of schema.json for the rules of numeric columns.
_LOG = "sign(x) ln(1 + abs(x)); missing: 0"
_CRITEO_LOG = "ln(max(x + 4, 1)) for I2, ln(max(x + 1, 1)) otherwise; missing: 0"
_PLAIN = "as it is; missing: 0"
_BUCKET = "bucket: floor(ln(x)^2) for x > 2, else x"

_TOKENS = ("7", None, "", "abc", "048067", "-5", "größe", "1000000000000000000")
_VALUES = ("7.0", None, "", "True", "048067", "-5.00", "größe", "2024-01-02T00:00:00")
_NUMBERS = ("0", None, "1.5", "-3", "1000", "0.001", "-0.5", "12")
_WHOLE = ("0", None, "1", "-3", "1000", "3", "2", "12")
_HOURS = tuple(f"141021{hour:02d}" for hour in range(EXAMPLES))


def preparation_of(data: DataSet, columns: Sequence[str]) -> Preparation:
    """How the raw columns that a model reads become ids and numbers.

    Args:
        data: What the model was trained on.
        columns: The categorical and multivalent columns that its policy reads.

    Raises:
        DataError: The data were prepared by a rule that packages do not know.
    """
    schema = data.schema
    read = set(columns)
    indicators = {name + INDICATOR for name, rule in rules_of(schema).items() if rule.indicator}
    found = [_numeric(schema, c) for c in schema.numeric if c.name not in indicators]
    found += [_embedded(data, c) for c in schema.features if c.name in read]
    dataset = schema.dataset
    label = _NAMED_OTHERWISE.get(dataset, schema.label)
    return Preparation(
        dataset, label, schema.preparation, tuple(found), _TEXTS.get(dataset, Text())
    )


def _numeric(schema: Schema, column: SchemaColumn) -> Column:
    rule = schema.options.get("numeric_rule", _PLAIN)
    if rule == BY_COLUMN and column.name in (rules := rules_of(schema)):
        numbers = rules[column.name]
        return Column(column.name, "numeric", numbers.rule, numbers=numbers)
    if rule == _LOG:
        return Column(column.name, "numeric", "log", numbers=NumericRule("log"))
    if rule == _CRITEO_LOG:
        return Column(column.name, "numeric", "shifted_log", shift=4 if column.name == "I2" else 1)
    if rule == _PLAIN:
        return Column(column.name, "numeric", "none")
    raise DataError(f"numeric rule {rule!r} of the prepared data is unknown; prepare them again")


def _embedded(data: DataSet, column: SchemaColumn) -> Column:
    options = data.schema.options
    missing = str(options.get("missing", "token"))
    if (numbers := rules_of(data.schema).get(column.name)) is not None:
        return Column(column.name, "categorical", "quantiles", missing, numbers=numbers)
    kept = data.kept(column.name)
    rule = "value" if options.get("token_rule") == VALUE_RULE else "token"
    if column.kind == "multivalent":
        separator = str(options.get("separator", "|"))
        return Column(column.name, "multivalent", rule, separator=separator, kept=kept)
    if data.schema.dataset == "avazu" and column.name == "hour":
        rule = "hour_of_day"
    if options.get("embed_numeric") and column.name in INTEGERS:
        if options["numeric_rule"] != _BUCKET:
            raise DataError(
                f"numeric rule {options['numeric_rule']!r} of the prepared data is unknown; "
                "prepare them again"
            )
        rule = "bucket"
    return Column(column.name, "categorical", rule, missing, kept=kept)


def example_cells(preparation: Preparation) -> dict[str, list[str | None]]:
    """Made-up raw cells of :data:`EXAMPLES` rows, by column; None for a missing cell."""
    return {c.name: _cells(c) for c in preparation.columns}


def _cells(column: Column) -> list[str | None]:
    if column.kind == "numeric" or column.rule == "quantiles":
        return list(_NUMBERS)
    if column.rule == "hour_of_day":
        return list(_HOURS)
    if column.rule == "bucket":
        return list(_WHOLE)
    if column.kind == "multivalent":
        s = column.separator
        one = "1.0" if column.rule == "value" else "1"
        return ["7", None, "", s.join(("abc", "7")), s.join((one, "", "2")), s, "größe", "048067"]
    return list(_VALUES if column.rule == "value" else _TOKENS)


def described(schema: Schema) -> dict[str, Any]:
    """What the manifest says of the data."""
    return {
        "dataset": schema.dataset,
        "fingerprint": schema.fingerprint,
        "rows": dict(schema.num_rows),
    }
