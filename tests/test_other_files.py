"""Files of kinds that are not read are called by their names."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import feather, orc

from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.schema import DataError

TEXT = b"y,u\n0,1\n1,2\n"


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("clicks.csv")
        entry.size = len(TEXT)
        archive.addfile(entry, io.BytesIO(TEXT))
    return file.getvalue()


def lz4() -> bytes:
    file = pa.BufferOutputStream()
    with pa.CompressedOutputStream(file, "lz4") as packed:
        packed.write(TEXT)
    return file.getvalue().to_pybytes()


def columnar(form: str) -> bytes:
    file = pa.BufferOutputStream()
    table = pa.table({"y": [0, 1], "u": [1, 2]})
    if form == "orc":
        orc.write_table(table, file)
    else:
        feather.write_feather(table, file)
    return file.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (lz4, "packed by lz4"),
        (tarred, "a tar archive"),
        (lambda: gzip.compress(tarred()), "a tar archive"),
        (lambda: columnar("arrow"), "an Arrow file"),
        (lambda: columnar("orc"), "an ORC file"),
        (lambda: b"\x1f\x9d\x90" + bytes(40), "packed by compress"),
        (lambda: b"7z\xbc\xaf\x27\x1c" + bytes(40), "a 7z archive"),
        (lambda: b"SQLite format 3\0" + bytes(40), "an SQLite database"),
        (lambda: b'{"y": 0, "u": 1}\n', "JSON"),
        (lambda: b'[\n  {"y": 0, "u": 1}\n]\n', "JSON"),
    ],
    ids=["lz4", "tar", "tar-gz", "arrow", "orc", "compress", "7z", "sqlite", "json-lines", "json"],
)
def test_a_file_of_another_kind_is_called_by_its_name(
    tmp_path: Path, content: Callable[[], bytes], kind: str
) -> None:
    raw = tmp_path / "clicks.csv"
    raw.write_bytes(content())
    columns = TableColumns(label="y", categorical=("u",))
    with pytest.raises(DataError, match=rf"clicks\.csv: is {kind}; allowed: Parquet, and delimit"):
        prepare_table(raw, tmp_path / "out", columns=columns)


def test_names_of_columns_may_look_like_another_kind(tmp_path: Path) -> None:
    raw = tmp_path / "clicks.csv"
    for name in ("ORC", "ORCID", "7z", "Rar!", "{u}", "Obj"):
        raw.write_text(f"{name},y\n1,0\n2,1\n")
        columns = TableColumns(label="y", categorical=(name,))
        prepare_table(raw, tmp_path / f"out{len(list(tmp_path.iterdir()))}", columns=columns)
