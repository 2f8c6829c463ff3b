"""A bounded number of rows of raw files, read before all of them are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seo_rec.data.delimited import (
    Field,
    Layout,
    other_delimiter,
    read_blocks,
    split_header,
)
from seo_rec.data.parquet import open_parquet, plain_types
from seo_rec.data.rawfile import BadRows, Intake, is_parquet, text_blocks
from seo_rec.schema import DataError

SAMPLE_ROWS = 100_000
_FILES = 8  # of many files so many are looked into
_PLACES = 16  # of a Parquet file rows are read at so many places
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Sample:
    """Some rows of raw files.

    Args:
        names: The columns of the first file, in its order.
        columns: The cells by column: text (distinct values and their numbers) from text files, and
            what the file holds from Parquet.
        rows: How many there are.
        whole: Whether these are all rows.
        bad: The first rows that could not be read, in words; they are left out.
    """

    names: tuple[str, ...]
    columns: dict[str, Any]
    rows: int
    whole: bool
    bad: tuple[str, ...] = ()


def cells_delimiter(path: Path, delimiter: str | None) -> str:
    """The character between the cells of a text file: as given, or a tab for ``.tsv`` files."""
    return delimiter or ("\t" if ".tsv" in path.suffixes else ",")


def read_sample(paths: Sequence[Path], delimiter: str | None, rows: int = SAMPLE_ROWS) -> Sample:
    """The first rows of text files, and rows from all over Parquet files.

    Rows that cannot be read are left out: whoever reads all rows will name them.

    Args:
        paths: The raw files; of more than 8, 8 from the first to the last are looked into.
        delimiter: Of text files; None takes a tab for ``.tsv`` files and a comma for others.
        rows: How many rows at most, shared evenly by the files.

    Raises:
        DataError: A file is damaged or empty, or has columns that the first one lacks.
    """
    places = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), _FILES)).round().astype(int))
    chosen = [paths[i] for i in places]
    share = -(-rows // len(chosen))
    tables, whole, intake = [], len(chosen) == len(paths), Intake(BadRows("skip", 1 << 62))
    for path in chosen:
        if is_parquet(path):
            table, all_read = _parquet_rows(path, share)
        else:
            table, all_read = _text_rows(path, delimiter, share, intake)
        tables.append(table)
        whole = whole and all_read
    names = tuple(tables[0].column_names)
    for path, table in zip(chosen, tables, strict=True):
        if missing := [name for name in names if name not in table.column_names]:
            raise DataError(f"{path}: lacks the columns {missing} of {chosen[0]}")
    columns = {name: [t[name] for t in tables] for name in names}
    return Sample(
        names,
        {name: _joined(name, parts, chosen) for name, parts in columns.items()},
        sum(t.num_rows for t in tables),
        whole,
        tuple(intake.examples),
    )


def _joined(name: str, parts: Sequence[Any], paths: Sequence[Path]) -> Any:
    if len(parts) == 1:
        return parts[0]
    kinds = [_plain(part).type for part in parts]
    if len(set(kinds)) > 1 and not all(_is_number(kind) for kind in kinds):
        other = next(i for i, kind in enumerate(kinds) if kind != kinds[0])
        raise DataError(
            f"{paths[other]}: column {name!r} is {kinds[other]}, and {kinds[0]} in {paths[0]}; "
            "name its kind, as in --kind "
            f"{name}=categorical, or cast one of them"
        )
    wanted = kinds[0] if len(set(kinds)) == 1 else pa.float64()
    chunks = [c for part in parts for c in _plain(part).cast(wanted).chunks]
    return pa.chunked_array(chunks, wanted)


def _plain(column: Any) -> Any:
    kind = column.type
    return column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column


def _is_number(kind: Any) -> bool:
    t = pa.types
    return bool(t.is_integer(kind) or t.is_floating(kind) or t.is_null(kind))


def _text_rows(path: Path, delimiter: str | None, rows: int, intake: Intake) -> tuple[Any, bool]:
    sign = cells_delimiter(path, delimiter)
    text = text_blocks(path, intake, quoted=sign, block_bytes=_BLOCK_BYTES)
    names, blocks = split_header(text, path, sign)
    fix = "a row has as many cells as the header; quote cells with the delimiter"
    layout = Layout(tuple(Field(n, "token") for n in names), sign, True, fix)
    tables: list[Any] = []
    left = rows
    for table in read_blocks(blocks, layout, lambda t: t, intake):
        tables.append(table.slice(0, left))
        left -= table.num_rows
        if left < 0:
            break
    if not tables:
        why = f"the first one: {intake.examples[0]}" if intake.examples else "it has a header only"
        why += other_delimiter(names, sign)
        raise DataError(f"{path}: no row of it can be read; {why}")
    return pa.concat_tables(tables).unify_dictionaries(), left >= 0


def _parquet_rows(path: Path, rows: int) -> tuple[Any, bool]:
    try:
        with open_parquet(path, verify=False) as file:
            if file.metadata.num_rows <= rows:
                return plain_types(file.read()), True
            return plain_types(pa.concat_tables(_spread(file, rows))), False
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: not readable as Parquet ({error}); write or download the file again"
        ) from error


def _spread(file: Any, rows: int) -> Iterator[Any]:
    """Tables of row groups from the first to the last one; the first rows of each."""
    groups = file.metadata.num_row_groups
    places = np.unique(np.linspace(0, groups - 1, min(groups, _PLACES)).round().astype(int))
    share = -(-rows // len(places))
    for place in places:
        batches = file.iter_batches(share, row_groups=[int(place)])
        for batch in islice(batches, 1):
            yield pa.Table.from_batches([batch])
