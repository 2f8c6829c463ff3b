"""Any CSV or Parquet table with a label, 0/1 or any number: the user's own data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seo_rec.data.cells import encode_text, layout_of
from seo_rec.data.columns import TableColumns
from seo_rec.data.delimited import (
    COMMON,
    delimiter_fix,
    other_delimiter,
    read_blocks,
    require_delimiter,
    split_header,
)
from seo_rec.data.inference import Decision, Watch, infer
from seo_rec.data.parallel import Workers, prepare_by
from seo_rec.data.parquet_rows import parquet_rows
from seo_rec.data.rawfile import (
    BadRows,
    Intake,
    TextBlock,
    existing_file,
    is_parquet,
    text_blocks,
)
from seo_rec.data.roles import PLACE
from seo_rec.data.sample import cells_delimiter, read_sample
from seo_rec.data.source import Figures, Source, column_kinds
from seo_rec.data.split import Split
from seo_rec.data.vocabulary import Pruning
from seo_rec.schema import BINARY, SPLITS, DataError, Schema

__all__ = ["Inferred", "TableColumns", "infer_table", "prepare_table"]

Raw = Path | str | Sequence[Path | str] | Mapping[str, Sequence[Path | str]]


@dataclass(frozen=True)
class Inferred:
    """What the columns of a table are.

    Args:
        columns: The columns as they will be used.
        decisions: One for each column of the files that has no other part to play.
        rows: Of the sample that was looked at.
        whole: Whether these are all rows.
        bad: The first rows of the sample that could not be read, in words.
    """

    columns: TableColumns
    decisions: tuple[Decision, ...]
    rows: int
    whole: bool
    bad: tuple[str, ...] = ()


def infer_table(raw: Raw, columns: TableColumns, *, delimiter: str | None = None) -> Inferred:
    """Infer the kinds of columns from a sample of at most 100,000 rows, and write nothing.

    Args:
        raw: CSV or Parquet files, as in :func:`prepare_table`.
        columns: The label and other parts; no features.
        delimiter: Between CSV cells.

    Raises:
        DataError: A file is missing or damaged, or a column is missing.
    """
    paths = _existing([path for files in _by_split(raw).values() for path in files], delimiter)
    sample = read_sample(paths, delimiter)
    if not is_parquet(paths[0]):
        _require_delimiter(columns, sample.names, cells_delimiter(paths[0], delimiter), paths[0])
    columns.require_in(sample.names, paths[0])
    apart = [*columns.label_columns, columns.weight, columns.time, columns.split_column]
    leave_out = [name for name in apart if name is not None]
    decisions = infer(sample, leave_out, columns.kinds, columns.separator)
    return Inferred(columns.inferred(decisions), decisions, sample.rows, sample.whole, sample.bad)


def prepare_table(
    raw: Raw,
    out: Path | str,
    *,
    columns: TableColumns,
    delimiter: str | None = None,
    split: Split = Split(),
    pruning: Pruning = Pruning(),
    bad_rows: BadRows = BadRows(),
    workers: Workers = Workers(),
    progress: bool = False,
    inferred: Inferred | None = None,
    negative_rate: float = 1.0,
) -> Schema:
    """Prepare CSV (plain or compressed, with a header) or Parquet files, in the given order.

    Args:
        raw: The files, or those of ``train``, ``val`` and ``test`` by these names.
        out: The folder to make.
        columns: Which ones are used, and as what; if none is named as a feature, all are inferred.
        delimiter: One character between CSV cells; None means a tab for ``.tsv`` files and a
            comma for others.
        split: How rows are divided, where neither files nor a column say so.
        pruning: Of vocabularies.
        bad_rows: Whether a bad row ends it, or is left out and counted.
        workers: The processes that do it.
        progress: Whether a bar is drawn on a terminal.
        inferred: What :func:`infer_table` found, if it has been asked before.
        negative_rate: Each training row of label 0 is kept with this probability, above 0 and up
            to 1. A model that is trained on them still gives the probabilities of all rows.

    Raises:
        DataError: A file is missing or damaged, a column is missing, CSV headers differ, a row is
            bad, or a column holds something else than its sample did.
    """
    if not 0 < negative_rate <= 1:
        raise DataError(f"the rate of negatives is {negative_rate}; allowed: above 0, up to 1")
    if negative_rate < 1 and columns.task != BINARY:
        raise DataError(
            f"--keep-negatives {negative_rate:g} with --task {columns.task}, whose labels are not "
            "negative or positive; leave out one of the two"
        )
    if negative_rate < 1 and columns.more_labels:
        raise DataError(
            f"--keep-negatives {negative_rate:g} with the labels "
            f"{', '.join(columns.label_columns)}, of which a row may have both kinds; leave it out"
        )
    if columns.is_open and inferred is None:
        inferred = infer_table(raw, columns, delimiter=delimiter)
    return prepare_by(
        workers,
        partial(table_source, raw, columns, delimiter, inferred, negative_rate),
        out,
        split=split,
        pruning=pruning,
        bad_rows=bad_rows,
        progress=progress,
    )


def table_source(
    raw: Raw,
    columns: TableColumns,
    delimiter: str | None = None,
    inferred: Inferred | None = None,
    negative_rate: float = 1.0,
    figures: Figures | None = None,
) -> Source:
    """The encoded rows of a table's files; see :func:`prepare_table`."""
    by_split = _by_split(raw)
    paths = _existing([path for files in by_split.values() for path in files], delimiter)
    if inferred is not None:
        columns = inferred.columns
    return Source(
        dataset="table",
        columns=column_kinds(columns.categorical, columns.multivalent, columns.numeric),
        label=columns.label_column,
        label_kind=columns.task,
        more_labels=columns.label_columns[1:],
        paths=paths,
        read=_Reader(by_split, paths, columns, delimiter, inferred).read,
        options={**columns.options, **_inference(inferred)},
        numeric=columns.measured,
        time=columns.time,
        weight=columns.weight,
        group=columns.group,
        negative_rate=negative_rate,
        placed=_placed(by_split, columns),
        quoted=partial(cells_delimiter, delimiter=delimiter),
        figures=figures,
        token_rule=columns.token_rule,
    )


# ---- which files -------------------------------------------------------------------------------


def _by_split(raw: Raw) -> Mapping[str, Sequence[Path | str]]:
    """The files by split; under "" if all of them are to be divided."""
    if isinstance(raw, str | Path):
        return {"": [raw]}
    if not isinstance(raw, Mapping):
        return {"": list(raw)}
    if unknown := sorted(set(raw) - set(SPLITS)):
        raise DataError(f"files are given for {unknown}; allowed: {', '.join(SPLITS)}")
    return {split: list(raw.get(split, ())) for split in SPLITS}


def _existing(files: Sequence[Path | str], delimiter: str | None) -> tuple[Path, ...]:
    if delimiter is not None:
        require_delimiter(delimiter)
    paths = tuple(existing_file(path) for path in files)
    if not paths:
        raise DataError("no raw files are given; name one at least")
    twice = sorted({str(path) for path in paths if _times(path, paths) > 1})
    if twice:
        raise DataError(f"files {twice} are given more than once; name each of them once")
    if delimiter is not None and all(map(is_parquet, paths)):
        raise DataError("a delimiter is given, but all files are Parquet; leave it out")
    return paths


def _times(path: Path, paths: Sequence[Path]) -> int:
    return sum(path.samefile(other) for other in paths)


def _placed(
    by_split: Mapping[str, Sequence[Path | str]], columns: TableColumns
) -> dict[str, Any] | None:
    """What says the split of each row, in the words of ``schema.json``; None: the split rule."""
    if columns.split_column is not None:
        if "" not in by_split:
            raise DataError("the splits are files of their own; leave out the split column")
        return {"rule": "column", "column": columns.split_column}
    if "" in by_split:
        return None
    if columns.group is not None:
        raise DataError("the splits are files of their own; a group cannot be kept in one of them")
    names = {split: [Path(path).name for path in files] for split, files in by_split.items()}
    return {"rule": "files", "files": names}


def _inference(inferred: Inferred | None) -> dict[str, Any]:
    """The entry of ``schema.options`` about the columns."""
    if inferred is None:
        return {}
    columns = [decision.to_json() for decision in inferred.decisions]
    return {"inferred": {"rows": inferred.rows, "columns": columns}}


def _require_delimiter(
    columns: TableColumns, names: Sequence[str], delimiter: str, path: Path
) -> None:
    """DataError if the header has other names with another delimiter, and those are needed."""
    header = delimiter.join(names)
    if set(columns.used) <= set(names):
        return
    signs = [sign for sign in dict.fromkeys((*COMMON, *header)) if not sign.isalnum()]
    for other in signs:
        if not other.isascii() or other in "\"'\r\n_":
            continue
        parts = [name.strip().strip('"') for name in header.split(other)]
        if other != delimiter and set(columns.used) <= set(parts):
            raise DataError(
                f"{path}: line 1: the header has these columns between {other!r} and not between "
                f"{delimiter!r}; {delimiter_fix(other)}"
            )
    if advice := other_delimiter(names, delimiter):
        absent = [name for name in columns.used if name not in names]
        raise DataError(f"{path}: line 1: no columns {absent}{advice}")


# ---- their rows --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reader:
    """Reads files as tables of encoded rows."""

    by_split: Mapping[str, Sequence[Path | str]]
    paths: tuple[Path, ...]
    columns: TableColumns
    delimiter: str | None
    inferred: Inferred | None

    def read(self, intake: Intake) -> Iterator[Any]:
        """All rows, in the order of the files."""
        header: tuple[Path, tuple[str, ...]] | None = None
        watch = Watch((), 0)
        if self.inferred is not None and not self.inferred.whole:
            watch = Watch(self.inferred.decisions, self.inferred.rows)
        splits = [split for split, files in self.by_split.items() for _ in files]
        for path, split in zip(self.paths, splits, strict=True):
            if not intake.wants(path):
                continue
            if is_parquet(path):
                tables = parquet_rows(path, self.columns, watch, intake)
            else:
                sign = cells_delimiter(path, self.delimiter)
                names, blocks = split_header(text_blocks(path, intake, quoted=sign), path, sign)
                header = self._same_header(header, path, names, sign)
                tables = self._text(path, names, blocks, sign, intake, watch)
            for table in tables:
                if split:
                    place = pa.array(np.full(table.num_rows, SPLITS.index(split), np.int8))
                    table = table.append_column(PLACE, place)
                yield table

    def _same_header(
        self,
        header: tuple[Path, tuple[str, ...]] | None,
        path: Path,
        names: tuple[str, ...],
        delimiter: str,
    ) -> tuple[Path, tuple[str, ...]]:
        """The first text file and its columns; DataError if this one has other columns."""
        first = next(other for other in self.paths if not is_parquet(other))
        if header is None and path != first:  # it is not among what is read
            sign = cells_delimiter(first, self.delimiter)
            blocks = text_blocks(first, Intake(), quoted=sign)
            header = first, split_header(blocks, first, sign)[0]
        if header is None:
            _require_delimiter(self.columns, names, delimiter, path)
            self.columns.require_in(names, path)
            return path, names
        if names != header[1]:
            raise DataError(
                f"{path}: line 1: the header is {','.join(names)!r}, but {header[0]} has "
                f"{','.join(header[1])!r}; all CSV files need the same header"
            )
        return header

    def _text(
        self,
        path: Path,
        names: tuple[str, ...],
        blocks: Iterator[TextBlock],
        delimiter: str,
        intake: Intake,
        watch: Watch,
    ) -> Iterator[Any]:
        def encode(table: Any) -> Any:
            encoded = encode_text(table, self.columns)
            watch.see(table, path)
            return encoded

        layout = layout_of(self.columns, names, delimiter, watch.names)
        return read_blocks(blocks, layout, encode, intake)
