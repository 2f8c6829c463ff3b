"""The rows of a Parquet file of a table, encoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seo_rec.data.cells import Fault, good_cells
from seo_rec.data.columns import TableColumns
from seo_rec.data.inference import Watch
from seo_rec.data.parquet import raw_tables
from seo_rec.data.rawfile import Intake, Piece, Problem, file_sha256
from seo_rec.data.tokens import is_text
from seo_rec.schema import DataError


def parquet_rows(path: Path, columns: TableColumns, watch: Watch, intake: Intake) -> Iterator[Any]:
    """Tables of the encoded rows of a file, or of the piece of it that ``intake`` names.

    Args:
        path: The file.
        columns: Which columns are used, and as what.
        watch: Is shown the cells of all rows.
        intake: Counts what is read, and is told of bad rows.

    Raises:
        DataError: The file is damaged, lacks a column, or has one of a type without a use.
    """
    first = 1 if intake.piece is None or intake.piece.stop is None else intake.piece.line
    for table in _cells(path, columns, watch, intake):
        watch.see(table, path)
        encoded = _encoded(path, first, table, columns, intake)
        first += table.num_rows
        if encoded.num_rows:
            yield encoded


def _cells(path: Path, columns: TableColumns, watch: Watch, intake: Intake) -> Iterator[Any]:
    """The cells as they are stored."""
    rows, sizes = [0], [0]

    def wanted(file: Any) -> list[str]:
        names = file.schema_arrow.names
        columns.require_in(names, path)
        _require_numbers(path, file.schema_arrow, columns.numeric)
        _require_single(path, file.schema_arrow, columns)
        rows[:], sizes[:] = _row_group_ends(file)
        return [n for n in dict.fromkeys((*columns.used, *watch.names)) if n in names]

    piece = intake.piece or Piece(path)
    groups = None if piece.stop is None else range(piece.start, piece.stop)
    done = counted = 0
    for table in raw_tables(path, wanted, groups, verify=False):
        if not done:
            done, counted = rows[piece.start], sizes[piece.start]
        done += table.num_rows
        size = int(np.interp(done, rows, sizes))
        intake.bytes_read += size - counted
        counted = size
        yield table
    if intake.piece is None:
        file_sha256(path, intake, counted)


def _row_group_ends(file: Any) -> tuple[list[int], list[int]]:
    """Rows up to the end of each row group and the compressed bytes of all its columns, from 0."""
    footer = file.metadata
    rows, sizes = [0], [0]
    for group in map(footer.row_group, range(footer.num_row_groups)):
        packed = sum(group.column(i).total_compressed_size for i in range(group.num_columns))
        rows.append(rows[-1] + group.num_rows)
        sizes.append(sizes[-1] + packed)
    return rows, sizes


def _require_numbers(path: Path, schema: Any, names: Sequence[str]) -> None:
    t = pa.types
    for name in names:
        kind = schema.field(name).type
        kind = kind.value_type if t.is_dictionary(kind) else kind
        if is_text(kind):
            continue
        if not (t.is_integer(kind) or t.is_floating(kind) or t.is_boolean(kind)) and not (
            t.is_decimal(kind) or t.is_null(kind)
        ):
            raise DataError(
                f"{path}: column {name!r} has type {kind}; a numeric column holds numbers; cast "
                "it, or declare it categorical (--categorical, or --kind COLUMN=categorical)"
            )


def _require_single(path: Path, schema: Any, columns: TableColumns) -> None:
    """DataError if the label, or another column that is no feature, has no single values."""
    t = pa.types
    apart = [*columns.label_columns, columns.weight, columns.time, columns.split_column]
    names = [*apart, columns.group, *columns.categorical]
    for name in filter(None, names):
        kind = schema.field(name).type
        if t.is_nested(kind):
            fix = "give another one"
            if name in columns.categorical:
                listed = not (t.is_struct(kind) or t.is_map(kind) or t.is_union(kind))
                fix = "name it by --multivalent" if listed else "make columns of its fields"
            raise DataError(
                f"{path}: column {name!r} has type {kind}; one value in a row is needed here; {fix}"
            )


def _encoded(path: Path, first: int, table: Any, columns: TableColumns, intake: Intake) -> Any:
    """Encode rows ``first`` and on; bad ones go to ``intake.reject`` one by one."""

    def reject(row: int, fault: Fault) -> None:
        name, _, why, fix = fault
        value = str(table[name][row].as_py())
        intake.reject(Problem(path, first + row, name, value, why, fix, unit="row"))

    where = f"{path}: rows {first} to {first + table.num_rows - 1}"
    try:
        cells = good_cells(table, columns, reject)
    except pa.ArrowException as error:
        raise DataError(f"{where}: {error}") from error
    try:
        return cells.encoded(columns)
    except (DataError, pa.ArrowException) as error:
        raise DataError(f"{where}: {error}") from error
