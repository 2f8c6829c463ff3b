"""Data sets of the tests of the Stream, and their rows in Python as the reference for content."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from seo_rec.batch import Batch
from seo_rec.data.stream import Stream
from seo_rec.schema import SCHEMA_FILE, Column, Schema

# Rows are Python tuples (bags of each feature, dense columns, label): the reference for content.
Row = tuple[tuple[tuple[int, ...], ...], tuple[float, ...], float]


PLAIN = (
    Column("row", "categorical", 10_000),
    Column("price", "numeric"),
    Column("colour", "categorical", 50),
)


MIXED = (
    *PLAIN,
    Column("maybe", "categorical", 50, 0.7),
    Column("age", "numeric"),
    Column("tags", "multivalent", 50, 1.5),
)


KINDS = {
    "categorical": pa.int64(),
    "multivalent": pa.list_(pa.int64()),
    "numeric": pa.float32(),
}


def table(columns: Sequence[Column], rows: int, first: int = 0) -> Any:
    """Rows first .. first + rows; the feature `row` is the row's number."""
    rng = np.random.default_rng([first, rows])

    def cell(column: Column, number: int) -> Any:
        value = int(rng.integers(50))
        if column.name == "row":
            return number
        if column.kind == "numeric":
            return float(rng.normal())
        if column.kind == "categorical":
            missing = column.lookups_per_row < 1 and rng.random() < 0.3
            return None if missing else value
        bags: list[list[int] | None] = [None, [], [value], [value, number % 50, value]]
        return bags[int(rng.integers(4))]

    data = {
        c.name: pa.array([cell(c, first + i) for i in range(rows)], KINDS[c.kind]) for c in columns
    }
    data["label"] = pa.array(rng.integers(0, 2, rows).astype(np.float32))
    return pa.table(data)


def write(
    data: Path, columns: Sequence[Column], shards: Sequence[int], group_rows: int = 8, **more: int
) -> Path:
    """A data set whose training split has the given shard sizes; `more` are other splits."""
    num_rows = {"train": sum(shards), **more}
    schema = Schema("fixture", tuple(columns), "label", num_rows, dict.fromkeys(num_rows, 0.5))
    data.mkdir(parents=True, exist_ok=True)
    (data / SCHEMA_FILE).write_text(json.dumps(schema.to_json()))
    for split, sizes in {"train": shards, **{k: [v] for k, v in more.items()}}.items():
        (data / split).mkdir()
        first = 0
        for number, size in enumerate(sizes):
            path = data / split / f"part-{number:05d}.parquet"
            pq.write_table(table(columns, size, first), path, row_group_size=group_rows)
            first += size
    return data


def reference(data: Path, columns: Sequence[Column], split: str = "train") -> list[Row]:
    """All rows in file order, by pyarrow's own conversion to Python."""
    rows: list[Row] = []
    for path in sorted((data / split).glob("*.parquet")):
        for record in pq.read_table(path).to_pylist():
            bags = []
            for column in columns:
                value = record[column.name]
                if column.kind == "categorical":
                    bags.append(() if value is None else (value,))
                elif column.kind == "multivalent":
                    bags.append(tuple(value or ()))
            dense = tuple(record[c.name] for c in columns if c.kind == "numeric")
            rows.append((tuple(bags), dense, record["label"]))
    return rows


def rows_of(batches: Batch | Iterable[Batch]) -> list[Row]:
    """The rows of batches, read through the public face of the KeyedJaggedTensor."""
    rows: list[Row] = []
    for batch in [batches] if isinstance(batches, Batch) else batches:
        keys = batch.sparse.keys()
        features = [batch.sparse[key] for key in keys]
        bags = [[tuple(bag.tolist()) for bag in f.to_dense()] for f in features]
        for i in range(batch.num_rows):
            dense = tuple(batch.dense_BN[i].tolist())
            rows.append((tuple(b[i] for b in bags), dense, float(batch.labels_B[i])))
    return rows


def numbers(batches: Batch | Iterable[Batch]) -> list[int]:
    """The row numbers in batches: the ids of the feature `row`."""
    batches = [batches] if isinstance(batches, Batch) else batches
    return [i for b in batches for i in b.sparse["row"].values().tolist()]


def epoch_of(stream: Stream) -> list[list[int]]:
    return [numbers(batch) for batch in stream]


def same(a: Batch, b: Batch) -> bool:
    return (
        a.sparse.keys() == b.sparse.keys()
        and a.sparse.stride() == b.sparse.stride()
        and torch.equal(a.sparse.values(), b.sparse.values())
        and torch.equal(a.sparse.lengths(), b.sparse.lengths())
        and torch.equal(a.dense_BN, b.dense_BN)
        and torch.equal(a.labels_B, b.labels_B)
    )


def plain_data(folder: Path) -> Path:
    """227 rows in 3 shards, row groups of 8 rows and of shards' ends; all bags have one id."""
    return write(folder, PLAIN, [100, 77, 50], val=20, test=0)


def mixed_data(folder: Path) -> Path:
    """61 rows with nulls, null lists and empty lists."""
    return write(folder, MIXED, [40, 21])
