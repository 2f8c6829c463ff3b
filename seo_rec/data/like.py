"""Later data prepared as earlier data were: by their columns, rules and figures.

A model knows values by the rules of its training data, such as a price by its distance from their
mean. Rows of a new day follow the same rules if the figures are read from the earlier data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from seo_rec.data.columns import FIXED_RULES, TableColumns
from seo_rec.data.dataset import DataSet
from seo_rec.data.numeric import BY_COLUMN, INDICATOR, NumericRule, rules_of
from seo_rec.data.parallel import Workers, prepare_by
from seo_rec.data.rawfile import BadRows
from seo_rec.data.source import Figures
from seo_rec.data.split import Split
from seo_rec.data.table import table_source
from seo_rec.data.tokens import TOKEN_RULE, TOKEN_RULES
from seo_rec.data.vocabulary import Pruning
from seo_rec.schema import DataError, Schema

Raw = Path | str | Sequence[Path | str] | Mapping[str, Sequence[Path | str]]


@dataclass(frozen=True)
class LikeTable:
    """How the rows of a table were prepared, with what was measured on them.

    Args:
        columns: The columns of the raw files, and their roles.
        pruning: The ids that stay.
        negative_rate: The share of the negative training rows that is kept.
        figures: The numbers that were measured.
    """

    columns: TableColumns
    pruning: Pruning
    negative_rate: float
    figures: Figures

    @classmethod
    def of(cls, data: DataSet) -> LikeTable:
        """The rules and figures of a table that ``seo-rec prepare table`` has prepared.

        Raises:
            DataError: The data are no such table, or of a release with other rules, or a vocabulary
                that is needed is missing or damaged.
        """
        schema = data.schema
        if schema.dataset != "table":
            raise DataError(
                f"{data.path} was made by `seo-rec prepare {schema.dataset}`, and `prepare table` "
                "follows tables of its own only; prepare the new rows by the same command and "
                "options as these"
            )
        if schema.options.get("token_rule") not in TOKEN_RULES:
            raise DataError(
                f"{data.path} has ids by another rule than this release gives; prepare it again"
            )
        rules = rules_of(schema)
        mean = schema.options.get("mean_weight", 1.0)
        if type(mean) not in (int, float) or not mean > 0:
            raise DataError(f"{data.path}: mean_weight is {mean!r}; allowed: a number above 0")
        columns = _columns(data, rules)
        return cls(
            columns,
            _pruning(data, (*columns.categorical, *columns.multivalent)),
            schema.options.get("negative_rate", 1.0),
            Figures(rules, float(mean), data.fingerprint),
        )


@dataclass(frozen=True)
class LogRules:
    """How the rows of Criteo's, Avazu's or MovieLens' files are prepared.

    Args:
        pruning: The ids that stay.
        missing: What becomes of a missing categorical value.
        embed_numeric: Whether Criteo's integers are categories.
        rating_rule: How MovieLens' ratings become labels.
        figures: The fingerprint of earlier data, whose rules these are; these sources measure
            nothing else. None of rules that follow no data.
    """

    pruning: Pruning
    missing: str = "token"
    embed_numeric: bool = False
    rating_rule: str = "drop-3"
    figures: Figures | None = None

    @classmethod
    def of(cls, data: DataSet, dataset: str) -> LogRules:
        """The rules of data that ``seo-rec prepare criteo``, ``avazu`` or ``movielens`` has made.

        Args:
            data: The earlier data.
            dataset: The name that the schema of the new data will have.

        Raises:
            DataError: Another command has made the data, or a release with other rules; or a
                vocabulary that is needed is missing or damaged.
        """
        schema = data.schema
        if schema.dataset != dataset:
            raise DataError(
                f"{data.path} was made by `seo-rec prepare {schema.dataset}`, and {dataset} "
                "follows data of its own only; name data of this source by --like"
            )
        if schema.options.get("token_rule") != TOKEN_RULE:
            raise DataError(
                f"{data.path} has ids by another rule than this release gives; prepare it again"
            )
        return cls(
            _pruning(data, [column.name for column in schema.features]),
            str(schema.options.get("missing", "token")),
            bool(schema.options.get("embed_numeric", False)),
            str(schema.options.get("rating_rule", "drop-3")),
            Figures({}, 1.0, data.fingerprint),
        )


def prepare_like(
    raw: Raw,
    out: Path | str,
    like: LikeTable,
    *,
    delimiter: str | None = None,
    split: Split = Split(),
    split_column: str | None = None,
    group: str | None = None,
    counted: bool = True,
    bad_rows: BadRows = BadRows(),
    workers: Workers = Workers(),
    progress: bool = False,
) -> Schema:
    """Prepare a table by the rules and the figures of an earlier one; nothing is measured anew.

    Only the vocabularies are counted on the new training rows. There may be no such rows: with
    ``Split(fractions=(0, 0, 1), trains=False)`` all rows are test rows.

    Args:
        raw: The files, or those of ``train``, ``val`` and ``test`` by these names.
        out: The folder to make.
        like: The rules and figures, of :meth:`LikeTable.of`.
        delimiter: One character between CSV cells; None means a tab for ``.tsv`` files and a
            comma for others.
        split: How rows are divided, where neither files nor a column say so.
        split_column: The column that says train, val or test.
        group: The column whose values stay together in one split.
        counted: Whether ids are counted, if they were in the earlier data.
        bad_rows: Whether a bad row ends it, or is left out and counted.
        workers: The processes; one, since several cannot do this.
        progress: Whether a bar is drawn on a terminal.

    Raises:
        DataError: A file is missing or damaged, lacks a column or has a bad row; or ids are not to
            be counted although some are pruned.
    """
    columns = replace(like.columns, split_column=split_column, group=group)
    pruning = replace(like.pruning, counted=like.pruning.counted and counted)
    make = partial(
        table_source, raw, columns, delimiter, None, like.negative_rate, figures=like.figures
    )
    return prepare_by(
        workers, make, out, split=split, pruning=pruning, bad_rows=bad_rows, progress=progress
    )


def _columns(data: DataSet, rules: Mapping[str, NumericRule]) -> TableColumns:
    schema, options = data.schema, data.schema.options
    indicators = {name + INDICATOR for name, rule in rules.items() if rule.indicator}
    numbers = [c.name for c in schema.columns if c.kind == "numeric" or c.name in rules]
    kinds = {
        kind: tuple(c.name for c in schema.features if c.kind == kind and c.name not in rules)
        for kind in ("categorical", "multivalent")
    }
    more_rules = options.get("more_label_rules", {})
    return TableColumns(
        label=str(options.get("label_rule", schema.label)),
        categorical=kinds["categorical"],
        numeric=tuple(name for name in numbers if name not in indicators),
        multivalent=kinds["multivalent"],
        separator=str(options.get("separator", "|")),
        numeric_transform=_transform(data, rules),
        missing=str(options.get("missing", "token")),
        time=schema.time,
        weight=schema.weight,
        task=schema.label_kind,
        token_rule=str(options["token_rule"]),
        more_labels=tuple(str(more_rules.get(name, name)) for name in schema.more_labels),
        numeric_missing=None if rules else "zero",
    )


def _transform(data: DataSet, rules: Mapping[str, NumericRule]) -> str:
    """A transform of all columns; with ``rules``, one of those that leave raw numbers to them."""
    words: Any = data.schema.options.get("numeric_rule")
    if words == BY_COLUMN and rules:
        return "quantiles" if any(rule.is_bucket for rule in rules.values()) else "standard"
    transforms = {text: name for name, text in FIXED_RULES.items()}
    if words not in transforms:
        raise DataError(
            f"{data.path}: numeric rule {words!r:.80} is unknown; prepare the data again"
        )
    return transforms[words]


def _pruning(data: DataSet, names: Sequence[str]) -> Pruning:
    options = data.schema.options.get("vocabulary") or {}
    kept = {name: ids for name in names if (ids := data.kept(name)) is not None}
    return Pruning(
        options.get("min_count", 1),
        options.get("preset"),
        options.get("sizes", {}),
        counted=options.get("counted_on", "train") is not None,
        earlier=kept,
    )
