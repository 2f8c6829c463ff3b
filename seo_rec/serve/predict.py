"""Scores of raw files or of a prepared split, streamed into one Parquet file.

Memory holds a few blocks of rows; the order of the rows is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seo_rec.data.dataset import open_data
from seo_rec.data.delimited import (
    UTF8_FIX,
    BlockError,
    Field,
    Layout,
    is_utf8,
    other_delimiter,
    read_blocks,
    require_delimiter,
    require_utf8,
    split_header,
)
from seo_rec.data.parquet import raw_tables
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
from seo_rec.files import require_new_file, whole_file
from seo_rec.policy import Policy
from seo_rec.schema import SPLITS, DataError
from seo_rec.serve.addresses import feature_bags
from seo_rec.serve.bags import Inputs, RowError
from seo_rec.serve.cells import encode_column
from seo_rec.serve.predictor import Predictor
from seo_rec.serve.preparation import Preparation
from seo_rec.serve.preparation_rules import Column
from seo_rec.serve.scores_file import require_scores_file

SCORE = "score"  # the column of the scores
AHEAD = 2  # blocks that are read while others are scored

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
        out: The file to write: ``score`` float32, or ``score_<label>`` for each of several labels,
            after the columns of ``keep``. It appears when it is whole.
        keep: Columns that are copied.
        delimiter: Between the cells of text files; None takes the one of the package.
        bad_rows: Whether a bad row ends it, or is left out and counted.
        progress: Told the bytes read and the rows scored, now and then.

    Raises:
        DataError: A file is missing or damaged, a column is missing, a row is bad, the delimiter
            is not one character or would be ignored, or ``out`` ends like another format.
        FileExistsError: Something is at ``out``.
    """
    require_scores_file(out)
    if delimiter is not None:
        require_delimiter(delimiter)
    files = [existing_file(path) for path in paths]
    if delimiter is not None and all(map(is_parquet, files)):
        raise DataError("a delimiter is given, but all files are Parquet; leave it out")
    intake = Intake(bad_rows)
    _require_free(keep, predictor)
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
        DataError: The data were prepared by other rules or lack a column, the split has no rows,
            a shard is damaged, missing or left over, or ``out`` ends like another format.
        FileExistsError: Something is at ``out``.
    """
    require_scores_file(out)
    if split not in SPLITS:
        raise DataError(f"split {split!r}; allowed: {', '.join(SPLITS)}")
    _require_free(keep, predictor)
    preparation, opened = predictor.preparation, open_data(data)
    opened.require_rules(preparation.rules, "the model of the package")
    if not opened.schema.num_rows.get(split):
        raise DataError(f"{data / split}: split {split!r} has no rows; choose another --split")
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
    with _parquet_file(out) as write:
        try:
            for block in ahead:
                try:
                    scores = predictor.score(block.inputs)
                except RowError as error:
                    raise error.moved(rows) from error
                columns = score_columns(scores, predictor.package.labels)
                write(pa.table({**block.kept, **columns}))
                rows += block.num_rows
                if progress is not None:
                    progress(intake.bytes_read, rows)
        finally:
            ahead.close()
        if not rows:
            names = score_names(predictor.package.labels)
            write(pa.table({name: pa.array([], pa.float32()) for name in names}))
    return Predicted(rows, intake.num_bad, intake.examples)


def score_names(labels: Sequence[str]) -> list[str]:
    """The names of the columns of scores."""
    return [f"{SCORE}_{label}" for label in labels] or [SCORE]


def score_columns(scores: Any, labels: Sequence[str]) -> dict[str, Any]:
    """Scores, float32 (B,) or (B, T), as Arrow columns by name."""
    parts = scores.T if labels else [scores]
    return {n: pa.array(part) for n, part in zip(score_names(labels), parts, strict=True)}


def _require_free(keep: Sequence[str], predictor: Predictor) -> None:
    """DataError if a column is kept twice, or has the name of a column of scores."""
    names = score_names(predictor.package.labels)
    if set(names) & set(keep) or len(set(keep)) < len(keep):
        raise DataError(
            f"--keep {','.join(keep)}; allowed: each column once, and not "
            f"{' or '.join(map(repr, names))}"
        )


@contextmanager
def _parquet_file(out: Path) -> Iterator[Callable[[Any], None]]:
    """What appends a table to a Parquet file, which appears at ``out`` when it is whole."""
    require_new_file(out)
    writer: Any = None

    def write(table: Any) -> None:
        nonlocal writer
        if writer is None:
            writer = pq.ParquetWriter(temporary, table.schema)
        writer.write_table(table.cast(writer.schema))

    with whole_file(out) as temporary:
        try:
            yield write
        finally:
            if writer is not None:
                writer.close()


class _Reader:
    """Reads raw files as blocks of encoded rows; bad rows go to the intake one by one."""

    def __init__(
        self, preparation: Preparation, policy: Policy, keep: tuple[str, ...], intake: Intake
    ) -> None:
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
        self._require(names, path, other_delimiter(names, sign))
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
        for c in self.preparation.embedded:
            if c.rule == "value" and pa.types.is_dictionary(table[c.name].type):
                require_utf8(table[c.name])
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
        for name in self.keep:
            if not is_utf8(row[name]):
                return name, row[name], "not UTF-8, so it cannot be kept", UTF8_FIX
        for c in self.preparation.embedded:
            if c.rule == "value" and not is_utf8(row[c.name]):
                return c.name, row[c.name], "not UTF-8", UTF8_FIX
        columns = {c.name: c for c in self.preparation.embedded}
        try:
            for c in columns.values():
                if c.rule == "hour_of_day":
                    encode_column(_one_cell(row[c.name], c), c)
            for f in self.crosses:
                of = [columns[name] for name in f.columns]
                feature_bags(f, [encode_column(_one_cell(row[c.name], c), c) for c in of])
        except RowError as error:
            return error.column, row.get(error.column, error.value), error.why, error.fix
        return None

    def _require(self, names: Sequence[str], path: Path, advice: str = "") -> None:
        try:
            self.preparation.require_in(names)
        except DataError as error:
            raise DataError(f"{path}: {error}{advice}") from error
        _require_kept(self.keep, names, path)

    # ---- Parquet ----

    def _parquet(self, path: Path) -> Iterator[Block]:
        total = 0

        def wanted(file: Any) -> list[str]:
            nonlocal total
            self._require(file.schema_arrow.names, path)
            total = file.metadata.num_rows
            return list(dict.fromkeys([*(c.name for c in self.preparation.columns), *self.keep]))

        first, size = 1, path.stat().st_size
        for table in raw_tables(path, wanted):
            block = self._good_rows(path, first, table)
            first += table.num_rows
            self.intake.bytes_read += size * table.num_rows // total
            if block.num_rows:
                yield block

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
            except (DataError, pa.ArrowException) as error:
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


def _one_cell(cell: str, column: Column) -> Any:
    """An Arrow array of one cell, as whole blocks of text are parsed."""
    if _field_kind(column) == "integer":
        number = int(cell, 16 if "x" in cell.lower() else 10) if cell else None
        return pa.array([number], pa.int64())
    content = cell.encode("utf-8", "surrogateescape") or None
    return pa.array([content], pa.binary()).dictionary_encode()


def _copied(column: Any) -> Any:
    """Cells as they are copied: text as strings."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.string()) if pa.types.is_binary(column.type) else column
