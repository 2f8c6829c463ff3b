"""Parquet shards of a split: written in row groups that suit a shuffling reader, read in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seo_rec.data.parquet import open_parquet

# A reader shuffles whole row groups and mixes a window of them; 16,384 rows of 40 columns are
# about 5 MB decoded. 64 row groups make a shard of about a million rows.
ROW_GROUP_ROWS = 16_384
SHARD_ROWS = 64 * ROW_GROUP_ROWS
LARGE = 1000.0  # root mean square of a numeric column, beyond which a model hardly learns from it


class ShardWriter:
    """Writes tables as ``part-00000.parquet`` ... in ``folder``; use as a context manager.

    Dictionary pages with lz4, because on Criteo rows (40 columns, one thread) they took a quarter
    of the plain size at 7.4 million decoded rows/s; plain decoded 8.2, zstd with dictionaries 5.1.

    Equal rows give equal bytes, however they are cut into tables.
    """

    def __init__(self, folder: Path, schema: Any) -> None:
        self.num_rows = 0
        self._folder = folder
        self._schema = schema
        self._pending: list[Any] = []
        self._num_pending = 0
        self._num_shards = 0
        self._shard_rows = 0
        self._writer: Any = None
        folder.mkdir(parents=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None and (self._num_pending or not self._num_shards):
            self._write(self._take_pending())  # an empty split still has one readable shard
        if self._writer is not None:
            self._writer.close()

    def write(self, table: Any) -> None:
        """Append rows; they reach the disk in whole row groups."""
        if not table.num_rows:
            return
        self.num_rows += table.num_rows
        self._pending.append(table)
        self._num_pending += table.num_rows
        if self._num_pending < ROW_GROUP_ROWS:
            return
        rows = self._take_pending()
        whole = rows.num_rows - rows.num_rows % ROW_GROUP_ROWS
        for start in range(0, whole, ROW_GROUP_ROWS):
            self._write(rows.slice(start, ROW_GROUP_ROWS))
        if whole < rows.num_rows:
            # A copy: a slice would keep the whole block in memory.
            self._pending = [rows.take(pa.array(range(whole, rows.num_rows), pa.int64()))]
            self._num_pending = rows.num_rows - whole

    def _take_pending(self) -> Any:
        tables, self._pending, self._num_pending = self._pending, [], 0
        return pa.concat_tables(tables) if tables else self._schema.empty_table()

    def _write(self, rows: Any) -> None:
        if self._writer is None:
            path = self._folder / f"part-{self._num_shards:05d}.parquet"
            self._writer = pq.ParquetWriter(
                path,
                self._schema,
                compression="lz4",
                use_dictionary=True,
                write_statistics=False,
                write_page_checksum=True,
            )
            self._num_shards += 1
            self._shard_rows = 0
        # In one chunk: where chunks meet, Arrow may begin a page.
        self._writer.write_table(rows.combine_chunks(), row_group_size=ROW_GROUP_ROWS)
        self._shard_rows += rows.num_rows
        if self._shard_rows >= SHARD_ROWS:
            self._writer.close()
            self._writer = None


def read_shards(folder: Path) -> Iterator[Any]:
    """The tables of a split's row groups, in order."""
    for path in sorted(folder.glob("part-*.parquet")):
        with open_parquet(path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group)


def large_columns(tables: Iterator[Any], names: Sequence[str]) -> Mapping[str, float]:
    """The numeric columns among ``names`` whose root mean square is above ``LARGE``, and it.

    Args:
        tables: Rows of a split.
        names: Of numeric columns.
    """
    rows, squares = 0, np.zeros(len(names))
    for table in tables if names else ():
        rows += table.num_rows
        squares += [np.square(table[name].to_numpy().astype(np.float64)).sum() for name in names]
    sizes = np.sqrt(squares / max(rows, 1)).tolist()
    return {name: size for name, size in zip(names, sizes, strict=True) if size > LARGE}


def large_numbers(sizes: Mapping[str, float]) -> str:
    """A warning about the columns that :func:`large_columns` found."""
    found = ", ".join(f"{name!r} (about {size:.3g})" for name, size in sizes.items())
    return (
        f"numbers of columns {found} are large and reach the model as they are, which can spoil "
        "it; prepare them with --numeric-transform standard or log, or scale them first"
    )
