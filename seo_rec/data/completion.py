"""What completes a prepared data set: its ``schema.json``."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from seo_rec.data.finishing import Finish
from seo_rec.data.numeric import BY_COLUMN
from seo_rec.data.rawfile import Intake
from seo_rec.data.shards import large_columns, large_numbers, read_shards
from seo_rec.data.source import Assign, Source
from seo_rec.data.split import Split
from seo_rec.data.tally import Counted
from seo_rec.data.tokens import MISSING
from seo_rec.data.vocabulary import Pruning
from seo_rec.schema import BINARY, Column, DataError, Schema, write_schema

log = logging.getLogger(__name__)


def require_training_rows(
    source: Source, split: Split, num_rows: Mapping[str, int], intake: Intake
) -> None:
    """DataError unless the train split has rows; with the figures of earlier data, any split."""
    needed = num_rows["train"] if source.figures is None else sum(num_rows.values())
    if needed == 0:
        raise DataError(
            f"{source.dataset}: no rows in the train split of {sum(num_rows.values())} rows "
            f"({intake.num_bad} skipped as bad); give more rows or other fractions than "
            f"{split.shares}"
        )


def finish(folder: Path, schema: Schema) -> None:
    """Write ``schema.json``, which completes a data set, and warn of large numbers."""
    write_schema(folder, schema)
    numeric = [column.name for column in schema.numeric]
    if large := large_columns(islice(read_shards(folder / "train"), 1), numeric):
        log.warning("%s", large_numbers(large))


def schema_of(
    source: Source,
    assign: Assign,
    pruning: Pruning,
    intake: Intake,
    counted: Counted,
    last: Finish,
) -> Schema:
    """The schema of a prepared data set, without the checksums of its files."""
    columns = []
    for name, kind in last.final_columns:
        if kind == "numeric":
            columns.append(Column(name, kind))
        else:
            distinct, lookups = counted.sizes[name]
            columns.append(
                Column(name, kind, distinct, lookups / max(1, counted.num_rows["train"]))
            )
    rules = {name: rule.to_json() for name, rule in last.rules.items()}
    return Schema(
        dataset=source.dataset,
        columns=tuple(columns),
        label=source.label,
        num_rows=counted.num_rows,
        label_rate=rates(counted.positives, counted.num_rows)
        if source.label_kind == BINARY
        else {name: spread.mean for name, spread in counted.targets.items()},
        split=assign.to_json(),
        time=source.time,
        weight=source.weight,
        sources=tuple(intake.sources),
        options={
            **source.options,
            **source.findings(),
            **({"like": source.figures.fingerprint} if source.figures else {}),
            **({"numeric_rule": BY_COLUMN, "numeric_columns": rules} if rules else {}),
            **({"mean_weight": last.mean_weight} if source.weight else {}),
            **({"negative_rate": source.negative_rate} if source.negative_rate < 1 else {}),
            "token_rule": source.token_rule,
            "missing_id": MISSING,
            "vocabulary": pruning.to_json(),
            "bad_rows": {
                "action": intake.bad_rows.action,
                "skipped": intake.num_bad,
                "examples": intake.examples,
            },
        },
        versions=versions(),
        label_kind=source.label_kind,
        label_std={}
        if source.label_kind == BINARY
        else {name: spread.std for name, spread in counted.targets.items()},
        more_labels=source.more_labels,
        more_label_rates={
            name: rates(positive, counted.num_rows)
            for name, positive in counted.more_positives.items()
        },
    )


def rates(positive: Mapping[str, int], num_rows: Mapping[str, int]) -> dict[str, float]:
    """The share of positive labels by split, 0 where there are no rows."""
    return {name: positive[name] / rows if rows else 0.0 for name, rows in num_rows.items()}


def versions() -> dict[str, str]:
    """The versions of what wrote a data set."""
    wheels = {wheel: _version(wheel) for wheel in ("seo-rec", "numpy", "pyarrow")}
    return {"python": platform.python_version(), **wheels}


def _version(wheel: str) -> str:
    try:
        return importlib.metadata.version(wheel)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
