"""Raw rows of a small table, and the files that were made of them, for tests of preparation."""

from __future__ import annotations

import csv
import random
from pathlib import Path

from seo_rec.data.table import TableColumns

COLUMNS = TableColumns(
    "y",
    categorical=("u", "t"),
    numeric=("x",),
    multivalent=("m",),
    numeric_transform="none",
)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and what is in it."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def table_rows(rng: random.Random, number: int) -> list[list[object]]:
    """Rows of awkward cells: quotes, delimiters and line ends inside them, and empty ones."""
    texts = ["a", 'say "hi"', "x,y", "two\nlines", "", "7", "ü"]
    bags = ["", "p|q", "p", "q||r"]
    return [
        [rng.randint(0, 1), rng.randint(0, 40), rng.choice(texts), rng.random(), rng.choice(bags)]
        for _ in range(number)
    ]


def write_table(path: Path, rows: list[list[object]], end: str = "\n") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator=end)
        writer.writerow(["y", "u", "t", "x", "m"])
        writer.writerows(rows)
    return path


def rows_of_files(tmp_path: Path, number: int = 6) -> list[Path]:
    rows = table_rows(random.Random(6), 60 * number)
    return [write_table(tmp_path / f"{i}.csv", rows[60 * i : 60 * (i + 1)]) for i in range(number)]
