"""Avazu click-through rate prediction (Kaggle 2014): ``train.csv``, all columns categorical."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seo_rec.data.delimited import BlockError, Field, Layout, labels, read_blocks, split_header
from seo_rec.data.parallel import Workers, prepare_by
from seo_rec.data.rawfile import BadRows, Intake, existing_file, text_blocks
from seo_rec.data.source import Figures, Source, column_kinds, require_missing_rule
from seo_rec.data.split import Split
from seo_rec.data.tokens import categorical_ids
from seo_rec.data.vocabulary import Pruning
from seo_rec.schema import DataError, Schema

TOKENS = (
    "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain",
    "app_category", "device_id", "device_ip", "device_model", "device_type", "device_conn_type",
    "C14", "C15", "C16", "C17", "C18", "C19", "C20", "C21",
)  # fmt: skip
COLUMNS = ("hour", *TOKENS)
HEADER = ("id", "click", *COLUMNS)
# 90/10 after shuffling as in AutoInt (Song et al., 2019), validation cut from the 90.
AVAZU_SPLIT = Split("random", 42, (0.81, 0.09, 0.1))

_HOUR = re.compile(r"\d{6}([01]\d|2[0-3])", re.ASCII)


def prepare_avazu(
    raw: Path | str,
    out: Path | str,
    *,
    missing: str = "token",
    split: Split = AVAZU_SPLIT,
    pruning: Pruning = Pruning(),
    bad_rows: BadRows = BadRows(),
    workers: Workers = Workers(),
    progress: bool = False,
    figures: Figures | None = None,
) -> Schema:
    """Prepare ``train.csv`` (plain or gzip): ``id`` is dropped, ``hour`` is the hour of the day.

    Args:
        missing: an empty cell is a value of its own (``token``) or an empty bag (``empty``).
        figures: of earlier data, whose rules these are (:class:`seo_rec.data.like.LogRules`).

    Raises:
        DataError: the file is missing or damaged, the header is not Avazu's, or a row is bad.
    """
    return prepare_by(
        workers,
        partial(avazu_source, raw, missing=missing, figures=figures),
        out,
        split=split,
        pruning=pruning,
        bad_rows=bad_rows,
        progress=progress,
    )


def avazu_source(raw: Path | str, *, missing: str, figures: Figures | None = None) -> Source:
    """The encoded rows of Avazu's file; see :func:`prepare_avazu`."""
    require_missing_rule(missing)
    path = existing_file(raw)

    def encode(table: Any) -> Any:
        hour = table["hour"]
        if hour.null_count:
            raise BlockError("an empty hour")
        hours = hour.to_numpy()
        hour_of_day = hours % 100
        if ((hours < 10**7) | (hours >= 10**8) | (hour_of_day > 23)).any():
            raise BlockError("an hour that is not YYMMDDHH")
        columns: dict[str, Any] = {"hour": pa.array(hour_of_day.astype(np.int64))}
        for name in TOKENS:
            columns[name] = categorical_ids(table[name], name, missing)
        return pa.table({**columns, "label": labels(table["click"])})

    def read(intake: Intake) -> Iterator[Any]:
        header, blocks = split_header(text_blocks(path, intake, quoted=","), path, ",")
        if header != HEADER:
            raise DataError(
                f"{path}: line 1: the header is {','.join(header)!r}, needed is "
                f"{','.join(HEADER)!r}; use train.csv (test.csv has no labels)"
            )
        yield from read_blocks(blocks, _LAYOUT, encode, intake)

    return Source(
        dataset="avazu",
        columns=column_kinds(COLUMNS, (), ()),
        label="label",
        paths=(path,),
        read=read,
        options={
            "hour": "hour of the day: YYMMDDHH mod 100, 24 values",
            "dropped": ["id"],
            "missing": missing,
        },
        quoted=lambda _: ",",
        figures=figures,
    )


def _check(row: Sequence[str]) -> tuple[str, str, str, str] | None:
    hour = row[HEADER.index("hour")]
    if _HOUR.fullmatch(hour.strip()):
        return None
    return "hour", hour, "not an hour written as YYMMDDHH", "correct the cell"


_LAYOUT = Layout(
    fields=(
        Field("id", "ignored"),
        Field("click", "label"),
        Field("hour", "integer"),
        *(Field(name, "token") for name in TOKENS),
    ),
    delimiter=",",
    quoting=True,
    column_count_fix="a row has the 24 columns of the header",
    check=_check,
)
