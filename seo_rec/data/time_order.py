"""Rows in order of time, when they are more than memory holds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seo_rec.data.shards import ShardWriter, read_shards

PART_ROWS = 1 << 19  # rows that are sorted in memory at a time

Times = npt.NDArray[np.float64]


def in_order(folder: Path, schema: Any, column: str, times: Times) -> Iterator[Any]:
    """The rows of ``folder`` by ascending time; rows of one time stay in the order they are in.

    Where the rows are in order already they are read as they lie. Else they are first dealt out to
    files of about ``PART_ROWS`` rows that follow each other in time, each of which is then sorted.

    Args:
        folder: Shards, as :class:`ShardWriter` writes them; they are removed if rows are moved.
        schema: Of the shards.
        column: The name of the column of times.
        times: The times of all rows, in the order of the shards.
    """
    if bool((times[1:] >= times[:-1]).all()):
        yield from read_shards(folder)
        return
    ordered = np.sort(times)
    edges = np.unique(ordered[PART_ROWS::PART_ROWS])
    parts = [folder.with_name(f"{folder.name}-{i}") for i in range(len(edges) + 1)]
    with ExitStack() as stack:
        writers = [stack.enter_context(ShardWriter(part, schema)) for part in parts]
        for table in read_shards(folder):
            places = np.searchsorted(edges, table[column].to_numpy(), side="right")
            for place in np.unique(places):
                writers[place].write(table.filter(pa.array(places == place)))
    shutil.rmtree(folder)
    for part in parts:
        tables = list(read_shards(part))
        rows = pa.concat_tables(tables)
        order = np.argsort(rows[column].to_numpy(), kind="stable")
        shutil.rmtree(part)
        yield rows.take(pa.array(order))
