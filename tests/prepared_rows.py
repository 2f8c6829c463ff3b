"""Raw files of a few lines, and what a preparation has made of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq

from seo_rec.data.split import Split

ALL_TRAIN = Split(fractions=(1.0, 0.0, 0.0))


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def numbered(path: Path, num: int) -> Path:
    """Row i holds a = i and b = i mod 10."""
    return write(path, "y,a,b", *[f"{i % 2},{i},{i % 10}" for i in range(num)])


def rows(data: Path, split: str = "train") -> dict[str, list[object]]:
    return pq.read_table(data / split).to_pydict()


def digests(data: Path) -> dict[str, str]:
    return {
        str(p.relative_to(data)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(data.rglob("*.parquet"))
    }
