"""Criteo display advertising (Kaggle 2014, and the 1 TB day files in the same format).

A line is a label, 13 integers I1..I13 and 26 hexadecimal tokens C1..C26, separated by tabs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seo_rec.data.delimited import Field, Layout, labels, numbers, read_blocks
from seo_rec.data.parallel import Workers, prepare_by
from seo_rec.data.rawfile import BadRows, Intake, existing_file, text_blocks
from seo_rec.data.source import Figures, Source, column_kinds, require_missing_rule
from seo_rec.data.split import Split
from seo_rec.data.tokens import MISSING, Ids, categorical_ids, integer_ids
from seo_rec.data.vocabulary import Pruning
from seo_rec.places import place
from seo_rec.schema import DataError, Schema

INTEGERS = tuple(f"I{i}" for i in range(1, 14))
TOKENS = tuple(f"C{i}" for i in range(1, 27))
_LAYOUT = Layout(
    fields=(
        Field("label", "label"),
        *(Field(name, "integer") for name in INTEGERS),
        *(Field(name, "token") for name in TOKENS),
    ),
    delimiter="\t",
    quoting=False,
    column_count_fix=(
        "a line is label, 13 integers and 26 tokens with tabs between them (the test.txt of "
        "Kaggle has no label and cannot be used)"
    ),
)


def prepare_criteo(
    raw: Path | str,
    out: Path | str,
    *,
    embed_numeric: bool = False,
    missing: str = "token",
    split: Split = Split(),
    pruning: Pruning = Pruning(),
    bad_rows: BadRows = BadRows(),
    workers: Workers = Workers(),
    progress: bool = False,
    figures: Figures | None = None,
) -> Schema:
    """Prepare ``train.txt`` (plain or gzip), or the folder that holds it or ``day_0``, ...

    Args:
        embed_numeric: the 13 integers become 13 categorical columns (39 in all, none numeric)
            by the bucket rule of :func:`bucket`; otherwise they are numeric by
            :func:`log_transform`.
        missing: an empty token (and with ``embed_numeric`` an empty integer) is a value of its
            own (``token``) or an empty bag (``empty``). A missing numeric value is 0.
        figures: of earlier data, whose rules these are (:class:`seo_rec.data.like.LogRules`).

    Raises:
        DataError: a file is missing or damaged, or a row is bad.
    """
    source = partial(
        criteo_source, raw, embed_numeric=embed_numeric, missing=missing, figures=figures
    )
    return prepare_by(
        workers, source, out, split=split, pruning=pruning, bad_rows=bad_rows, progress=progress
    )


def criteo_source(
    raw: Path | str, *, embed_numeric: bool, missing: str, figures: Figures | None = None
) -> Source:
    """The encoded rows of Criteo's files; see :func:`prepare_criteo`."""
    require_missing_rule(missing)
    paths = criteo_files(place(raw))

    def encode(table: Any) -> Any:
        columns: dict[str, Any] = {}
        for name in INTEGERS:
            values = numbers(table[name])
            if embed_numeric:
                columns[name] = _bucket_ids(values, missing)
            else:
                columns[name] = pa.array(log_transform(name, values))
        for name in TOKENS:
            columns[name] = categorical_ids(table[name], name, missing)
        return pa.table({**columns, "label": labels(table["label"])})

    def read(intake: Intake) -> Iterator[Any]:
        for path in paths:
            yield from read_blocks(text_blocks(path, intake), _LAYOUT, encode, intake)

    numeric_rule = (
        "bucket: floor(ln(x)^2) for x > 2, else x"
        if embed_numeric
        else "ln(max(x + 4, 1)) for I2, ln(max(x + 1, 1)) otherwise; missing: 0"
    )
    return Source(
        dataset="criteo",
        columns=(
            column_kinds(INTEGERS + TOKENS, (), ())
            if embed_numeric
            else column_kinds(TOKENS, (), INTEGERS)
        ),
        label="label",
        paths=paths,
        read=read,
        options={
            "embed_numeric": embed_numeric,
            "numeric_rule": numeric_rule,
            "missing": missing,
        },
        quoted=lambda _: None,
        figures=figures,
    )


def criteo_files(raw: Path) -> tuple[Path, ...]:
    """The training files at ``raw``: itself, its train.txt, or its day_0, day_1, ... in order."""
    if not raw.is_dir():
        return (existing_file(raw),)
    for name in ("train.txt", "train.txt.gz"):
        if (raw / name).is_file():
            return (existing_file(raw / name),)
    days = {
        int(match[1]): path
        for path in raw.iterdir()
        if (match := re.fullmatch(r"day_(\d+)(\.gz)?", path.name))
    }
    if not days:
        raise DataError(
            f"{raw}: no train.txt, train.txt.gz or day_0 ... in this folder; name the file as --raw"
        )
    return tuple(existing_file(days[day]) for day in sorted(days))


def log_transform(name: str, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """ln(max(x + c, 1)), c = 4 for I2 and 1 otherwise; NaN (missing) becomes 0.

    DCN-V2 (Wang et al., 2021) uses ln(x + c); the clip keeps it defined for the few x <= -c.
    """
    shift = 4.0 if name == "I2" else 1.0
    logs = np.log(np.maximum(values + shift, 1.0))
    return np.nan_to_num(logs, nan=0.0).astype(np.float32)


def bucket(values: npt.NDArray[np.float64]) -> Ids:
    """floor(ln(x)^2) for x > 2, else x (the rule of FuxiCTR's and BARS' Criteo_x4)."""
    logs = np.log(np.maximum(values, 2.0))
    return np.where(values > 2, np.floor(logs**2), values).astype(np.int64)


def _bucket_ids(values: npt.NDArray[np.float64], missing: str) -> Any:
    absent = np.isnan(values)
    ids = integer_ids(bucket(np.where(absent, 0.0, values)))
    if missing == "empty":
        return pa.array(ids, mask=absent)
    return pa.array(np.where(absent, MISSING, ids))
