"""Any CSV or Parquet table with a label, 0/1 or any number: the user's own data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seo_rec.data.delimited import (
    LABEL_FIX,
    LARGEST,
    Field,
    Layout,
    label_of,
    labels,
    numbers,
    read_blocks,
    require_delimiter,
    split_header,
    targets,
)
from seo_rec.data.prepare import Source, column_kinds, prepare, require_missing_rule
from seo_rec.data.rawfile import (
    BadRows,
    Intake,
    Problem,
    existing_file,
    file_sha256,
    is_parquet,
    text_blocks,
)
from seo_rec.data.split import Split
from seo_rec.data.tokens import bags_of_ids, categorical_ids
from seo_rec.data.vocabulary import Pruning
from seo_rec.schema import BINARY, LABEL_KINDS, REGRESSION, DataError, Schema

NUMERIC_TRANSFORMS = ("none", "log")
LONGEST_NAME = 255 - len(".parquet")  # bytes of a file's name on the usual file systems
_PARQUET_ROWS = 65_536


@dataclass(frozen=True)
class TableColumns:
    """Which columns of a table are used, and as what.

    Args:
        label: holds 0 and 1 (or true and false), or any numbers with the task ``regression``.
        categorical: one value per row, text or whole numbers.
        numeric: numbers.
        multivalent: several values per row: lists (Parquet), or text split at ``separator``.
        numeric_transform: ``none``, or ``log`` for sign(x) ln(1 + abs(x)).
        missing: a missing categorical value is a value of its own (``token``) or an empty bag
            (``empty``). A missing number is 0 after the transform; a missing multivalent cell is
            an empty bag.
        task: ``binary`` or ``regression``, which says what the label is.
    """

    label: str
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    multivalent: tuple[str, ...] = ()
    separator: str = "|"
    numeric_transform: str = "none"
    missing: str = "token"
    task: str = BINARY

    def __post_init__(self) -> None:
        if self.task not in LABEL_KINDS:
            raise DataError(f"task is {self.task!r}; allowed: {', '.join(LABEL_KINDS)}")
        require_missing_rule(self.missing)
        if self.numeric_transform not in NUMERIC_TRANSFORMS:
            raise DataError(
                f"numeric transform is {self.numeric_transform!r}; allowed: "
                f"{', '.join(NUMERIC_TRANSFORMS)}"
            )
        if not self.separator:
            raise DataError("the separator of multivalent columns is empty; give one, as in '|'")
        if not self.categorical and not self.multivalent:
            raise DataError("no categorical or multivalent column is named; name one at least")
        twice = sorted({name for name in self.used if self.used.count(name) > 1})
        if twice:
            raise DataError(f"columns {twice} are named more than once; give each one role")
        for name in self.used:
            size = len(name.encode())
            if size > LONGEST_NAME:
                raise DataError(
                    f"column {name[:20]!r}... has a name of {size} bytes, which cannot "
                    f"name a vocabulary file; rename it, to {LONGEST_NAME} bytes at most"
                )
            if not name or "/" in name or "\0" in name or name.startswith("."):
                raise DataError(
                    f"column {name!r} cannot name a vocabulary file; rename it so that it is not "
                    "empty, holds no '/' and does not start with '.'"
                )

    @property
    def used(self) -> tuple[str, ...]:
        return (self.label, *self.numeric, *self.categorical, *self.multivalent)

    def require_in(self, names: Sequence[str], path: Path) -> None:
        """DataError if ``path``, whose columns are ``names``, lacks a column or has it twice."""
        absent = [name for name in self.used if name not in names]
        if absent:
            raise DataError(
                f"{path}: no columns {absent}; allowed: {', '.join(names)}; correct --label, "
                "--categorical, --numeric or --multivalent"
            )
        twice = sorted({name for name in self.used if list(names).count(name) > 1})
        if twice:
            raise DataError(f"{path}: duplicate column names {twice}; rename one of each")


def prepare_table(
    raw: Path | str | Sequence[Path | str],
    out: Path | str,
    *,
    columns: TableColumns,
    delimiter: str | None = None,
    split: Split = Split(),
    pruning: Pruning = Pruning(),
    bad_rows: BadRows = BadRows(),
    progress: bool = False,
) -> Schema:
    """Prepare CSV (plain or gzip, with a header) or Parquet files, in the given order.

    Args:
        delimiter: one character between CSV cells; None means a tab for ``.tsv`` files and a
            comma for others.

    Raises:
        DataError: a file is missing or damaged, a column is missing, CSV headers differ, or a
            row is bad.
    """
    if delimiter is not None:
        require_delimiter(delimiter)
    given = [raw] if isinstance(raw, str | Path) else list(raw)
    paths = tuple(existing_file(path) for path in given)
    if not paths:
        raise DataError("no raw files are given; name one at least")
    twice = sorted({str(path) for path in paths if _times(path, paths) > 1})
    if twice:
        raise DataError(f"files {twice} are given more than once; name each of them once")
    texts = [path for path in paths if not is_parquet(path)]
    if delimiter is not None and not texts:
        raise DataError("a delimiter is given, but all files are Parquet; leave it out")

    def read(intake: Intake) -> Iterator[Any]:
        header: tuple[Path, tuple[str, ...]] | None = None
        for path in paths:
            if is_parquet(path):
                yield from _read_parquet(path, columns, intake)
                continue
            sign = delimiter or ("\t" if ".tsv" in path.suffixes else ",")
            names, blocks = split_header(text_blocks(path, intake, quoted=sign), path, sign)
            if header is None:
                _require_delimiter(columns, names, sign, path)
                columns.require_in(names, path)
                header = path, names
            elif names != header[1]:
                raise DataError(
                    f"{path}: line 1: the header is {','.join(names)!r}, but {header[0]} has "
                    f"{','.join(header[1])!r}; all CSV files need the same header"
                )
            layout = _layout(columns, names, sign)
            yield from read_blocks(blocks, layout, lambda t: _encode_text(t, columns), intake)

    source = Source(
        dataset="table",
        columns=column_kinds(columns.categorical, columns.multivalent, columns.numeric),
        label=columns.label,
        label_kind=columns.task,
        paths=paths,
        read=read,
        options={
            "missing": columns.missing,
            "numeric_rule": {
                "none": "as it is; missing: 0",
                "log": "sign(x) ln(1 + abs(x)); missing: 0",
            }[columns.numeric_transform],
            "separator": columns.separator,
        },
    )
    return prepare(source, out, split=split, pruning=pruning, bad_rows=bad_rows, progress=progress)


def _times(path: Path, paths: Sequence[Path]) -> int:
    return sum(path.samefile(other) for other in paths)


def _require_delimiter(
    columns: TableColumns, names: Sequence[str], delimiter: str, path: Path
) -> None:
    """DataError if the header has other names with another delimiter, and those are needed."""
    header = delimiter.join(names)
    if set(columns.used) <= set(names):
        return
    for other in ",;\t|":
        parts = [name.strip().strip('"') for name in header.split(other)]
        if other != delimiter and set(columns.used) <= set(parts):
            shown = "$'\\t'" if other == "\t" else f"'{other}'"
            raise DataError(
                f"{path}: line 1: the header has these columns between {other!r} and not between "
                f"{delimiter!r}; give --delimiter {shown}"
            )


def _layout(columns: TableColumns, names: Sequence[str], delimiter: str) -> Layout:
    kinds = {
        columns.label: "target" if columns.task == REGRESSION else "label",
        **dict.fromkeys(columns.numeric, "number"),
        **dict.fromkeys((*columns.categorical, *columns.multivalent), "token"),
    }
    return Layout(
        fields=tuple(Field(name, kinds.get(name, "ignored")) for name in names),
        delimiter=delimiter,
        quoting=True,
        column_count_fix="a row has as many cells as the header; quote cells with the delimiter",
    )


def _encode_text(table: Any, columns: TableColumns) -> Any:
    values = [numbers(table[name]) for name in columns.numeric]
    read = targets if columns.task == REGRESSION else labels
    return _encoded(table, columns, values, read(table[columns.label]))


def _encoded(
    table: Any,
    columns: TableColumns,
    values: Sequence[npt.NDArray[np.float64]],
    label: npt.NDArray[np.float32],
) -> Any:
    done: dict[str, Any] = {}
    for name, number in zip(columns.numeric, values, strict=True):
        if columns.numeric_transform == "log":
            number = np.sign(number) * np.log1p(np.abs(number))
        done[name] = pa.array(np.nan_to_num(number, nan=0.0).astype(np.float32))
    for name in columns.categorical:
        done[name] = categorical_ids(table[name], name, columns.missing)
    for name in columns.multivalent:
        done[name] = bags_of_ids(table[name], name, columns.separator)
    return pa.table({**done, columns.label: pa.array(label)})


def _read_parquet(path: Path, columns: TableColumns, intake: Intake) -> Iterator[Any]:
    try:
        with pq.ParquetFile(path) as file:
            columns.require_in(file.schema_arrow.names, path)
            target = (columns.label,) if columns.task == REGRESSION else ()
            _require_numbers(path, file.schema_arrow, (*columns.numeric, *target))
            first, counted = 1, 0
            rows, sizes = _row_group_ends(file)
            batches = file.iter_batches(_PARQUET_ROWS, columns=list(columns.used))
            for batch in batches:
                table = pa.table(batch)
                encoded = _encode_parquet(path, first, table, columns, intake)
                first += table.num_rows
                done = int(np.interp(first - 1, rows, sizes))
                intake.bytes_read += done - counted
                counted = done
                if encoded.num_rows:
                    yield encoded
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: not readable as Parquet ({error}); write or download the file again"
        ) from error
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
        if not (t.is_integer(kind) or t.is_floating(kind) or t.is_boolean(kind)) and not (
            t.is_decimal(kind) or t.is_null(kind)
        ):
            raise DataError(
                f"{path}: column {name!r} has type {kind}; a numeric column holds numbers; cast "
                "it, or name it under --categorical"
            )


def _encode_parquet(
    path: Path, first: int, table: Any, columns: TableColumns, intake: Intake
) -> Any:
    """Encode rows ``first`` and on; bad ones go to ``intake.reject`` one by one."""
    if columns.task == REGRESSION:
        number = _floats(table[columns.label])
        why, fix = "a label that is not a finite number", "correct or remove the row"
        faults = [(columns.label, ~(np.abs(number) <= LARGEST), why, fix)]
        label = np.where(np.abs(number) <= LARGEST, number, np.nan).astype(np.float32)
    else:
        label = _label_values(table[columns.label])
        faults = [(columns.label, np.isnan(label), "a label outside {0, 1}", LABEL_FIX)]
    values = [_floats(table[name]) for name in columns.numeric]
    for name, number in zip(columns.numeric, values, strict=True):
        beyond = np.abs(number) > LARGEST
        faults.append((name, beyond, "not a finite number", "correct or null the cell"))
    for name in columns.categorical:
        if pa.types.is_floating(table.schema.field(name).type):
            number = _floats(table[name])
            broken = ~np.isnan(number) & ((number != np.floor(number)) | (np.abs(number) >= 2**53))
            faults.append((name, broken, "not a whole number", "declare the column numeric"))
    bad = np.zeros(table.num_rows, bool)
    for name, wrong, why, fix in faults:
        for row in np.flatnonzero(wrong & ~bad):
            value = str(table[name][int(row)].as_py())
            intake.reject(Problem(path, first + int(row), name, value, why, fix, unit="row"))
        bad |= wrong
    if bad.any():
        good = pa.array(~bad)
        table = table.filter(good)
        label, values = label[~bad], [number[~bad] for number in values]
    try:
        return _encoded(table, columns, values, label)
    except DataError as error:
        raise DataError(f"{path}: rows {first} to {first + len(bad) - 1}: {error}") from error


def _floats(column: Any) -> npt.NDArray[np.float64]:
    """float64 with NaN for nulls."""
    return pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy()


def _label_values(column: Any) -> npt.NDArray[np.float32]:
    """0.0 and 1.0, NaN where the label is neither; true and false count as 1 and 0."""
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        text = column.cast(pa.string()).to_pylist()
        found = [label_of((value or "").encode()) for value in text]
        return np.array([np.nan if label is None else label for label in found], np.float32)
    values = _floats(column)
    return np.where((values == 0) | (values == 1), values, np.nan).astype(np.float32)
