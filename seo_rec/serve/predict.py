"""Scores of raw files or of a prepared split, streamed into one Parquet file.

Memory holds a few blocks of rows; the order of the rows is kept.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seo_rec.data.dataset import open_data
from seo_rec.data.delimited import (
    BlockError,
    Field,
    Layout,
    read_blocks,
    require_delimiter,
    split_header,
)
from seo_rec.data.rawfile import (
    BadRows,
    Intake,
    Problem,
    TextBlock,
    existing_file,
    is_parquet,
    text_blocks,
)
from seo_rec.data.read_ahead import ReadAhead
from seo_rec.data.shards import read_shards
from seo_rec.files import require_new_file
from seo_rec.policy import MAX_CROSS_IDS, Policy
from seo_rec.schema import SPLITS, DataError, other_rules
from seo_rec.serve.addresses import feature_bags
from seo_rec.serve.bags import Inputs, RowError
from seo_rec.serve.predictor import Predictor
from seo_rec.serve.preparation import Column, Preparation

SCORE = "score"  # the column of the scores
AHEAD = 2  # blocks that are read while others are scored
_PARQUET_ROWS = 65_536
_HOUR_DIGITS = 8

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Block:
    """Some rows that can be scored, and the cells that are copied beside their scores."""

    inputs: Inputs
    kept: Mapping[str, Any]

    @property
    def num_rows(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Predicted:
    """What :func:`predict_files` wrote.

    Args:
        rows: Rows with a score.
        skipped: Bad rows that were left out.
        examples: What was wrong with the first of them.
    """

    rows: int
    skipped: int
    examples: list[str] = field(default_factory=list)


def predict_files(
    predictor: Predictor,
    paths: Sequence[Path],
    out: Path,
    *,
    keep: Sequence[str] = (),
    delimiter: str | None = None,
    bad_rows: BadRows = BadRows(),
    progress: Progress | None = None,
) -> Predicted:
    """Score the rows of raw files, in order, and write them to a Parquet file.

    Args:
        predictor: A loaded package.
        paths: CSV or TSV files (plain or compressed), or Parquet files.
        out: The file to write: ``score`` float32, after the columns of ``keep``. It appears when
            it is whole.
        keep: Columns that are copied.
        delimiter: Between the cells of text files; None takes the one of the package.
        bad_rows: Whether a bad row ends it, or is left out and counted.
        progress: Told the bytes read and the rows scored, now and then.

    Raises:
        DataError: A file is missing or damaged, a column is missing, a row is bad, or the delimiter
            is not one character or would be ignored.
        FileExistsError: Something is at ``out``.
    """
    if delimiter is not None:
        require_delimiter(delimiter)
    files = [existing_file(path) for path in paths]
    if delimiter is not None and all(map(is_parquet, files)):
        raise DataError("a delimiter is given, but all files are Parquet; leave it out")
    intake = Intake(bad_rows)
    reader = _Reader(predictor.preparation, predictor.package.policy, tuple(keep), intake)
    blocks = reader.blocks(files, delimiter)
    return _scored(predictor, blocks, out, intake, progress)


def predict_split(
    predictor: Predictor,
    data: Path,
    split: str,
    out: Path,
    *,
    keep: Sequence[str] = (),
    progress: Progress | None = None,
) -> Predicted:
    """Score a split of a prepared data set, in the order of its files; see :func:`predict_files`.

    Args:
        predictor: A loaded package.
        data: The folder of the data set, prepared by the rules of the package.
        split: ``train``, ``val`` or ``test``.
        out: The file to write.
        keep: Columns that are copied, as they were prepared.
        progress: Told 0 and the rows scored, now and then.

    Raises:
        DataError: The data were prepared by other rules or lack a column, or a shard is damaged,
            missing or left over.
        FileExistsError: Something is at ``out``.
    """
    if split not in SPLITS:
        raise DataError(f"split {split!r}; allowed: {', '.join(SPLITS)}")
    preparation, opened = predictor.preparation, open_data(data)
    if rules := other_rules(preparation.rules, opened.schema.preparation):
        raise DataError(
            f"{data} was prepared by other rules than the data of the training ({rules}); prepare "
            "it with the same options"
        )
    require_new_file(out)  # before every shard is read once
    opened.verify(split)

    def blocks() -> Iterator[Block]:
        for table in read_shards(data / split):
            _require_kept(keep, table.column_names, data)
            yield Block(preparation.prepared(table), {name: table[name] for name in keep})

    return _scored(predictor, blocks(), out, Intake(), progress)


def _scored(
    predictor: Predictor,
    blocks: Iterator[Block],
    out: Path,
    intake: Intake,
    progress: Progress | None,
) -> Predicted:
    rows = 0
    ahead = ReadAhead(blocks, AHEAD)
    with _ParquetFile(out) as writer:
        try:
            for block in ahead:
                try:
                    scores = pa.array(predictor.score(block.inputs))
                except RowError as error:
                    raise error.moved(rows) from error
                writer.write(pa.table({**block.kept, SCORE: scores}))
                rows += block.num_rows
                if progress is not None:
                    progress(intake.bytes_read, rows)
        finally:
            ahead.close()
        if not rows:
            writer.write(pa.table({SCORE: pa.array([], pa.float32())}))
    return Predicted(rows, intake.num_bad, intake.examples)


class _ParquetFile:
    """A Parquet file that appears at its place when it is whole; use as a context manager."""

    def __init__(self, out: Path) -> None:
        require_new_file(out)
        self._out = out
        handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
        os.close(handle)
        self._temporary = Path(name)
        self._writer: Any = None

    def write(self, table: Any) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._temporary, table.schema)
        self._writer.write_table(table.cast(self._writer.schema))

    def __enter__(self) -> _ParquetFile:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
            if kind is None:
                os.chmod(self._temporary, 0o644)
                os.replace(self._temporary, self._out)
        finally:
            self._temporary.unlink(missing_ok=True)


class _Reader:
    """Reads raw files as blocks of encoded rows; bad rows go to the intake one by one."""

    def __init__(
        self, preparation: Preparation, policy: Policy, keep: tuple[str, ...], intake: Intake
    ) -> None:
        if SCORE in keep or len(set(keep)) < len(keep):
            raise DataError(
                f"--keep {','.join(keep)}; allowed: each column once, and not {SCORE!r}"
            )
        self.preparation, self.keep, self.intake = preparation, keep, intake
        lists = {c.name for c in preparation.embedded if c.kind == "multivalent"}
        self.crosses = [f for f in policy.features if f.is_cross and set(f.columns) & lists]

    def blocks(self, paths: Sequence[Path], delimiter: str | None) -> Iterator[Block]:
        for path in paths:
            yield from self._parquet(path) if is_parquet(path) else self._text(path, delimiter)

    # ---- text ----

    def _text(self, path: Path, delimiter: str | None) -> Iterator[Block]:
        text = self.preparation.text
        sign = delimiter or text.delimiter or ("\t" if ".tsv" in path.suffixes else ",")
        blocks = text_blocks(path, self.intake, quoted=sign if text.quoting else None)
        if text.headers:
            names, blocks = _known_header(blocks, text.headers, sign, path)
        else:
            names, blocks = split_header(blocks, path, sign)
        self._require(names, path)
        kinds = {c.name: _field_kind(c) for c in self.preparation.columns}
        kinds |= {name: "token" for name in self.keep if name not in kinds}
        layout = Layout(
            fields=tuple(Field(name, kinds.get(name, "ignored")) for name in names),
            delimiter=sign,
            quoting=text.quoting,
            column_count_fix="a row has as many cells as the header; quote cells that need it",
            check=lambda row: self._fault(dict(zip(names, row, strict=True))),
        )
        yield from read_blocks(blocks, layout, self._encode_text, self.intake)

    def _encode_text(self, table: Any) -> Block:
        try:
            return self._encode(table)
        except RowError as error:  # the row is looked for among the lines
            raise BlockError(str(error)) from error

    def _encode(self, table: Any) -> Block:
        inputs = self.preparation.encode(table)
        for f in self.crosses:
            feature_bags(f, [inputs.columns[name] for name in f.columns])
        return Block(inputs, {name: _copied(table[name]) for name in self.keep})

    def _fault(self, row: Mapping[str, str]) -> tuple[str, str, str, str] | None:
        """What is wrong with the cells of a row, whose numbers are numbers."""
        for c in self.preparation.embedded:
            cell = row[c.name].strip()
            if c.rule == "hour_of_day" and not _is_hour(cell):
                return c.name, cell, "not an hour written as YYMMDDHH", "correct the cell"
        for name in self.keep:
            if any("\udc80" <= sign <= "\udcff" for sign in row[name]):
                return name, row[name], "not UTF-8, so it cannot be kept", "convert the file"
        columns = {c.name: c for c in self.preparation.embedded}
        for f in self.crosses:
            sizes = [_bag_size(row[name], columns[name]) for name in f.columns]
            if int(np.prod(sizes, dtype=object)) > MAX_CROSS_IDS:
                why = f"more combinations than {MAX_CROSS_IDS} for the cross {f.name!r}"
                return f.columns[0], " x ".join(map(str, sizes)), why, "shorten the lists"
        return None

    def _require(self, names: Sequence[str], path: Path) -> None:
        try:
            self.preparation.require_in(names)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        _require_kept(self.keep, names, path)

    # ---- Parquet ----

    def _parquet(self, path: Path) -> Iterator[Block]:
        try:
            with pq.ParquetFile(path) as file:
                self._require(file.schema_arrow.names, path)
                wanted = [c.name for c in self.preparation.columns]
                wanted += [name for name in self.keep if name not in wanted]
                first, size = 1, path.stat().st_size
                for batch in file.iter_batches(_PARQUET_ROWS, columns=wanted):
                    table = pa.Table.from_batches([batch])
                    block = self._good_rows(path, first, table)
                    first += table.num_rows
                    self.intake.bytes_read += size * table.num_rows // file.metadata.num_rows
                    if block.num_rows:
                        yield block
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{path}: not readable as Parquet ({error}); write or download the file again"
            ) from error

    def _good_rows(self, path: Path, first: int, table: Any) -> Block:
        """The rows of a table that can be read; the others are rejected by their numbers."""
        numbers = np.arange(first, first + table.num_rows)
        while True:
            try:
                return self._encode(table)
            except RowError as error:
                row = int(numbers[error.row])
                self.intake.reject(
                    Problem(path, row, error.column, error.value, error.why, error.fix, "row")
                )
                stays = np.arange(len(numbers)) != error.row
                table, numbers = table.filter(pa.array(stays)), numbers[stays]
            except DataError as error:
                last = first + table.num_rows - 1
                raise DataError(f"{path}: rows {first} to {last}: {error}") from error


def _require_kept(keep: Sequence[str], names: Sequence[str], where: Path) -> None:
    if missing := [name for name in keep if name not in names]:
        raise DataError(f"{where}: no columns {missing} to keep; allowed: {', '.join(names)}")


def _known_header(
    blocks: Iterator[TextBlock], headers: Sequence[Sequence[str]], delimiter: str, path: Path
) -> tuple[tuple[str, ...], Iterator[TextBlock]]:
    """The columns of a file without a header line, by the number of cells of its first line."""
    first = next(blocks, None)
    line = b"" if first is None else first.data.split(b"\n", 1)[0]
    cells = line.count(delimiter.encode()) + 1
    for names in headers:
        if len(names) == cells:
            break
    else:
        sizes = " or ".join(str(len(names)) for names in headers)
        raise DataError(f"{path}: line 1: has {cells} columns, {sizes} are needed")

    def all_blocks() -> Iterator[TextBlock]:
        if first is not None:
            yield first
        yield from blocks

    return tuple(names), all_blocks()


def _field_kind(column: Column) -> str:
    if column.kind == "numeric" or column.rule == "quantiles":
        return "number"
    return "integer" if column.rule in ("bucket", "hour_of_day") else "token"


def _is_hour(cell: str) -> bool:
    digits = cell.isascii() and cell.isdigit() and len(cell) == _HOUR_DIGITS
    return digits and int(cell) >= 10**7 and int(cell[-2:]) < 24


def _bag_size(cell: str, column: Column) -> int:
    if column.kind == "multivalent":
        return sum(1 for part in cell.split(column.separator) if part)
    return 1 if cell or column.missing == "token" else 0


def _copied(column: Any) -> Any:
    """Cells as they are copied: text as strings."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_binary(column.type):
        return column.cast(pa.string())
    return column
