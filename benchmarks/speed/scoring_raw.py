"""The raw rows that ``benchmarks.speed.scoring`` scores, as tables and as files."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from seo_rec.data.criteo import INTEGERS, TOKENS
from seo_rec.data.movielens import USER_COLUMNS


def movielens_rows(folder: Path) -> Any:
    """Every rating of ``folder``, with the columns of its user: six columns of text."""
    ratings = _colons(folder / "ratings.dat", ("user", "movie", "rating", "time"))
    users = _colons(folder / "users.dat", ("user", *USER_COLUMNS))
    people = users.take(pc.index_in(ratings["user"], value_set=users["user"]))
    columns = {name: people[name] for name in USER_COLUMNS}
    return pa.table({"user": ratings["user"], "movie": ratings["movie"], **columns})


def _colons(path: Path, names: tuple[str, ...]) -> Any:
    lines = path.read_bytes().replace(b"::", b"\t")
    return pacsv.read_csv(
        io.BytesIO(lines),
        pacsv.ReadOptions(column_names=names),
        pacsv.ParseOptions(delimiter="\t", quote_char=False),
        pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    )


def criteo_rows(path: Path) -> Any:
    """Every line of ``path`` without its label: 13 columns of integers, 26 of text."""
    types = dict.fromkeys(INTEGERS, pa.int64()) | dict.fromkeys(TOKENS, pa.string())
    names = [*INTEGERS, *TOKENS]
    return pacsv.read_csv(
        path,
        pacsv.ReadOptions(column_names=["label", *names]),
        pacsv.ParseOptions(delimiter="\t", quote_char=False),
        pacsv.ConvertOptions(column_types=types, include_columns=names, strings_can_be_null=True),
    )


@dataclass(frozen=True)
class RawSet:
    """How the raw rows of a data set are read and written.

    Args:
        read: Reads the raw data, as users download them, as a table.
        rows: Rows to score, unless the command says otherwise.
        goal: Rows per second that ``seo-rec predict`` should score on two cores.
        text: The name of a text file of its rows.
        delimiter: Between the cells of a text file.
        header: Whether a text file begins with the names of its columns.
    """

    read: Callable[[Path], Any]
    rows: int
    goal: int
    text: str
    delimiter: str
    header: bool


SETS: Mapping[str, RawSet] = {
    "movielens-1m": RawSet(movielens_rows, 2_500_000, 300_000, "rows.csv", ",", True),
    "criteo": RawSet(criteo_rows, 500_000, 60_000, "rows.tsv", "\t", False),
}


def write_files(raw: RawSet, table: Any, times: int, folder: Path) -> dict[str, Path]:
    """Write the rows of ``table``, ``times`` times over, as text and as Parquet; paths by form."""
    paths = {"text": folder / raw.text, "Parquet": folder / "rows.parquet"}
    with paths["text"].open("wb") as file:
        for number in range(times):
            style = pacsv.WriteOptions(
                include_header=raw.header and not number,
                delimiter=raw.delimiter,
                quoting_style="needed" if raw.header else "none",
            )
            pacsv.write_csv(table, file, style)
    with pq.ParquetWriter(paths["Parquet"], table.schema) as writer:
        for _ in range(times):
            writer.write_table(table)
    return paths
