"""Awkward raw files: the right rows come out, or an error names the place; nothing is guessed."""

from __future__ import annotations

import bz2
import csv
import errno
import gzip
import hashlib
import io
import lzma
import os
import random
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seo_rec.data import rawfile
from seo_rec.data.dataset import open_data
from seo_rec.data.delimited import BlockError, Field, Layout, _fault, labels, numbers, parse
from seo_rec.data.quotes import Rows, whole_rows
from seo_rec.data.rawfile import BadRows
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.data.tokens import token_id
from seo_rec.files import new_folder
from seo_rec.schema import DataError

ALL_TRAIN = Split(fractions=(1.0, 0.0, 0.0))
SKIP = BadRows("skip")
COLUMNS = TableColumns(label="y", categorical=("u", "t"))


def write_bytes(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def prepared(tmp_path: Path, text: str | bytes, bad_rows: BadRows = BadRows()) -> dict[str, list]:
    """The training rows of ``text`` as a CSV file with the columns y, u and t."""
    raw, out = write_bytes(tmp_path / "t.csv", text), tmp_path / "out"
    prepare_table(raw, out, columns=COLUMNS, split=ALL_TRAIN, bad_rows=bad_rows)
    return pq.read_table(out / "train").to_pydict()


# --- quotes that are never closed -------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "line", "users"),
    [
        (["0,1,a", '1,2,"b', "0,3,c", "1,4,d"], 3, [1, 3, 4]),  # in the last column
        (["0,1,a", '1,"2,b', "0,3,c", "1,4,d"], 3, [1, 3, 4]),  # in the middle
        (["0,1,a", '"1,2,b', "0,3,c", "1,4,d"], 3, [1, 3, 4]),  # in the first column
        (["0,1,a", "1,2,b", "0,3,c", '1,4,"d'], 5, [1, 2, 3]),  # in the last row
        (['0,1,"a', "1,2,b", "0,3,c", "1,4,d"], 2, [2, 3, 4]),  # in the first row
        (["0,1,a", '1,2,"b', "0,3,c", '1,4,"d'], 3, [1, 3]),  # two that would close each other
        (["0,1,a", '1,2,"b""', "0,3,c", "1,4,d"], 3, [1, 3, 4]),  # behind a doubled quote
        (["0,1,a", '1,2,""""""b', '0,3,"c', "1,4,d"], 4, [1, 2, 4]),  # behind a closed cell
        (['0,1,"a', 'a"', '1,"2","b', "0,3,c", "1,4,d"], 4, [1, 3, 4]),  # behind two lines
        (["0,1,5\"", '1,2,"b', "0,3,c", "1,4,d"], 3, [1, 3, 4]),  # behind a quote inside a cell
    ],
)  # fmt: skip
def test_a_quote_that_is_never_closed_is_named(
    tmp_path: Path, lines: list[str], line: int, users: list[int]
) -> None:
    text = "".join(f"{text}\n" for text in ["y,u,t", *lines])
    with pytest.raises(DataError, match=f"line {line}: the quote that opens a cell here"):
        prepared(tmp_path, text)
    assert prepared(tmp_path, text, SKIP)["u"] == users


def test_quotes_inside_cells_and_around_lines_are_read_as_they_are(tmp_path: Path) -> None:
    text = 'y,u,t\n0,1,5" pipe\n1,2,"a\nb"\n0,3,"say ""x"""\n1,4,"Foo" Bar\n0,5,""\n1,6,d'
    assert prepared(tmp_path, text)["t"][:4] == [
        token_id(t) for t in ('5" pipe', "a\nb", 'say "x"', "Foo Bar")
    ]


def test_rows_end_where_csv_ends_them() -> None:
    """Of random text the rows are those of Python's csv, whatever its quotes."""
    random_ = random.Random(7)
    for _ in range(3000):
        cells = "".join(random_.choice('"",\na ') for _ in range(random_.randrange(1, 24))) + "\n"
        found = whole_rows(cells.encode(), ",")
        reader, done, ends = csv.reader(io.StringIO(cells, newline="\n")), 0, [0]
        lines = cells.splitlines(keepends=True)
        for _row in reader:
            done, before = reader.line_num, done
            ends.append(ends[-1] + sum(map(len, lines[before:done])))
        assert found.end in ends, cells
        if found == Rows(found.end):
            assert found.end == len(cells), cells
        else:
            assert cells[found.open_quote] == '"'
            assert found.end == max(e for e in ends if e <= found.open_quote), cells


def test_an_open_quote_is_named_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rawfile, "_READ_BYTES", 16)
    monkeypatch.setattr(rawfile.text_blocks, "__kwdefaults__", {"block_bytes": 40})
    rows = [f'{i % 2},{i},"v\n{i}"' for i in range(40)]
    rows[20] = '0,20,"open'
    text = "\n".join(["y,u,t", *rows]) + "\n"
    with pytest.raises(DataError, match="line 42: the quote that opens a cell here"):
        prepared(tmp_path, text)
    assert prepared(tmp_path, text, SKIP)["u"] == [i for i in range(40) if i != 20]


# --- limits of one of the two parsers ---------------------------------------------------------


def test_a_long_cell_is_not_blamed_for_its_neighbour(tmp_path: Path) -> None:
    text = f"y,u,t\n0,1,a\n1,2,{'b' * 140_000}\n7,3,c\n1,4,d\n"
    with pytest.raises(DataError, match="line 4, column 'y': a label outside"):
        prepared(tmp_path, text)
    assert prepared(tmp_path, text, SKIP)["u"] == [1, 2, 4]


def test_the_header_may_hold_line_ends_and_long_names(tmp_path: Path) -> None:
    text = f'y,"u\n",{"n" * 140_000},t\n0,1,x,a\n1,b,x,b\n7,3,x,c\n'
    with pytest.raises(DataError, match="line 5, column 'y': a label outside"):
        prepared(tmp_path, text)
    assert prepared(tmp_path, text, SKIP)["u"] == [1, token_id("b")]


CELLS = [
    "1", "-1", "+1", " 1", "1 ", "\t1", "007", "9223372036854775807", "9223372036854775808",
    "-9223372036854775808", "123456789012345678", "1234567890123456789", "12345678901234567890",
    "0x10", "0X10", "-0x10", "+0x10", "0x", "0xFFFFFFFFFFFFFFFF", "0x1FFFFFFFFFFFFFFFF", "00x1",
    " 0x1", "- 1", "--1", "1 2", "5\t", " nan", "nan\t", "1e3", "1E3", "1e400", "1e-400", "-0",
    "-0.0", "nan", "NaN", "-nan", "+nan", "inf", "-inf", "infinity", "Infinity", "1_000", ".5",
    "5.", "-.5", "+.5", ".", "-", "e5", "1e", "1e+", "1e+5", "NA", "null", "NULL", "N/A", "#N/A",
    "n/a", "nan ", "", "  ", "1.0", "1.", "true", "True", "TRUE", "tRue", "3.4e38", "3.5e38",
    "-3.5e38", "1e39", "1e38", "0.00", "00", "01", "1d", "1f", "1.5f", "\u0661", "\xb2", "1\xa0",
    "1\x0b", "1\x00", "0e0", "1e0", "0x1p3",
    "0" * 25 + "5",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["label", "integer", "number"])
def test_both_ways_of_reading_agree_on_what_is_bad(kind: str) -> None:
    """Else a good row is dropped because a row beside it is bad, or a bad one is kept."""
    layout = Layout((Field("a", kind), Field("t", "token")), ",", True, "")
    fast: dict[str, bool] = {}
    for cell in CELLS:
        try:
            column = parse(f"{cell},z\n".encode(), layout)["a"]
            _ = labels(column) if kind == "label" else numbers(column) if kind == "number" else 0
            fast[cell] = True
        except (pa.ArrowInvalid, BlockError):
            fast[cell] = False
    assert fast == {cell: _fault([cell, "z"], layout) is None for cell in CELLS}
    assert 2 <= sum(fast.values()) < len(CELLS)


# --- files of other kinds ---------------------------------------------------------------------

PLAIN = "y,u,t\n0,1,a\n1,2,b\n1,3,c\n"


@pytest.mark.parametrize("pieces", [2, 5, 1 << 20])
def test_lines_may_end_with_cr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    monkeypatch.setattr(rawfile, "_READ_BYTES", pieces)
    assert prepared(tmp_path, PLAIN.replace("\n", "\r"))["u"] == [1, 2, 3]
    bad = PLAIN.replace("1,2,b", "7,2,b").replace("\n", "\r")
    with pytest.raises(DataError, match="line 3, column 'y'"):
        prepare_table(write_bytes(tmp_path / "bad.csv", bad), tmp_path / "bad", columns=COLUMNS)
    mixed = PLAIN.replace("\n", "\r") + "0," + "4" * 40 + ",d\n" + "1,5,e\n"
    prepare_again = write_bytes(tmp_path / "mixed.csv", mixed)
    with pytest.raises(DataError):
        prepare_table(prepare_again, tmp_path / "mixed", columns=COLUMNS)


def zipped(data: bytes, names: Sequence[str] = ("clicks.csv",)) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("folder")
        for name in names:
            archive.writestr(f"folder/{name}", data)
    return file.getvalue()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: pa.compress(data, "zstd", asbytes=True),
    "zip": zipped,
}


@pytest.mark.parametrize("kind", PACKED)
def test_compressed_files_are_read_and_damaged_ones_named(tmp_path: Path, kind: str) -> None:
    text = "y,u,t\n" + "".join(f"{i % 2},{i},{i * i}\n" for i in range(20_000))
    packed = PACKED[kind](text.encode())
    assert prepared(tmp_path, packed)["u"] == list(range(20_000))
    cut = write_bytes(tmp_path / "cut.csv", packed[: len(packed) // 2])
    with pytest.raises(DataError, match=f"the {kind} file is truncated or corrupt"):
        prepare_table(cut, tmp_path / "cut", columns=COLUMNS)


def test_a_zip_archive_holds_one_file_and_is_a_source_as_it_is(tmp_path: Path) -> None:
    raw = write_bytes(tmp_path / "t.zip", zipped(PLAIN.encode()))
    schema = prepare_table(raw, tmp_path / "out", columns=COLUMNS, split=ALL_TRAIN)
    size, digest = len(raw.read_bytes()), hashlib.sha256(raw.read_bytes()).hexdigest()
    assert schema.sources == ({"name": "t.zip", "bytes": size, "sha256": digest},)
    for names in ((), ("a.csv", "b.csv")):
        several = write_bytes(tmp_path / "s.zip", zipped(PLAIN.encode(), names))
        with pytest.raises(DataError, match=f"archive of {len(names)} files, and one is needed"):
            prepare_table(several, tmp_path / "s", columns=COLUMNS)
    locked = bytearray(zipped(PLAIN.encode(), ("a",)))
    for at in (locked.rfind(b"PK\x01\x02") + 8, locked.rfind(b"PK\x03\x04") + 6):
        locked[at] |= 1  # the flag that says a password is needed
    with pytest.raises(DataError, match="the zip archive is encrypted; unzip it first"):
        prepare_table(write_bytes(tmp_path / "l.zip", bytes(locked)), tmp_path / "l",
                      columns=COLUMNS)  # fmt: skip
    with pytest.raises(DataError, match="the zip file is truncated or corrupt"):
        damaged = bytearray(zipped(PLAIN.encode() * 200))
        damaged[80] ^= 255
        prepare_table(write_bytes(tmp_path / "d.zip", bytes(damaged)), tmp_path / "d",
                      columns=COLUMNS)  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PLAIN.encode("utf-16"), "the file is UTF-16"),
        (PLAIN.encode("utf-16-le"), "the file is UTF-16"),
        (PLAIN.encode("utf-16-be"), "the file is UTF-16"),
        (PLAIN.encode("utf-32"), "the file is UTF-16 or UTF-32"),
        (b"PK\x03\x04" + bytes(40), "the zip file is truncated or corrupt"),
        (PLAIN.replace(",", ";").encode(), "between ';' and not between ','; give --delimiter ';'"),
        (PLAIN.replace(",", "|").encode(), "give --delimiter '|'"),
        (PLAIN.replace(",", "\t").encode(), r"give --delimiter \$'\\t'"),
        (PLAIN.replace(",", ":").encode(), "give --delimiter ':'"),
        (PLAIN.replace(",", " ").encode(), "give --delimiter ' '"),
        (PLAIN.replace(",", "\x01").encode(), r"give --delimiter \$'\\x01'"),
        (
            PLAIN.replace(",", "::").encode(),
            "between '::' .* as sed 's/::/;/g' does, and name --del",
        ),
        (b"Y;U\n0;a\n1;b\n", r"no columns \['y'.*\]; the header has ';' .*: give --delimiter ';'"),
    ],
)
def test_files_of_another_kind_are_told_apart(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepared(tmp_path, content)


def test_pipes_and_repeated_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a pipe or a device"):
        prepare_table(tmp_path / "pipe", tmp_path / "out", columns=COLUMNS)
    raw = write_bytes(tmp_path / "t.csv", PLAIN)
    (tmp_path / "link.csv").symlink_to(raw)
    with pytest.raises(DataError, match="more than once"):
        prepare_table([raw, tmp_path / "link.csv"], tmp_path / "out", columns=COLUMNS)


@pytest.mark.parametrize("delimiter", ['"', "\n", "ab", "\N{SECTION SIGN}", ""])
def test_a_delimiter_is_one_character_of_its_own(tmp_path: Path, delimiter: str) -> None:
    raw = write_bytes(tmp_path / "t.csv", PLAIN)
    with pytest.raises(DataError, match="allowed: one ASCII character"):
        prepare_table(raw, tmp_path / "out", columns=COLUMNS, delimiter=delimiter)


def test_a_name_too_long_for_a_file_is_refused_before_rows_are_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a name of 260 bytes"):
        TableColumns(label="y", categorical=("\N{SECTION SIGN}" * 130,))


@pytest.mark.parametrize("cell", ["0.00", "00", "1.", "01.000"])
def test_labels_may_have_more_zeros(tmp_path: Path, cell: str) -> None:
    text = f"y,u,t\n{cell},1,a\n1,2,b\n"
    assert prepared(tmp_path, text)["y"] == [float(cell), 1.0]


def test_views_and_fixed_lists_of_parquet_equal_plain_columns(tmp_path: Path) -> None:
    texts, lists = ["a", None, "7"], [[1, 2], None, [3, None]]
    columns = TableColumns(label="y", categorical=("u",), multivalent=("m",))
    found = []
    for name, text, bag in [
        ("plain", pa.string(), pa.list_(pa.int64())),
        ("other", pa.string_view(), pa.list_(pa.int64(), 2)),
    ]:
        table = pa.table({"y": [0, 1, 1], "u": pa.array(texts, text), "m": pa.array(lists, bag)})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        raw = tmp_path / f"{name}.parquet"
        assert pq.read_schema(raw).types == table.schema.types
        prepare_table(raw, tmp_path / name, columns=columns, split=ALL_TRAIN)
        found.append(pq.read_table(tmp_path / name / "train").to_pydict())
    assert found[0] == found[1]


# --- numbers that spoil a model ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("transform", "numbers", "named"),
    [
        ("none", ["1600000000", "1600000007"], ["at"]),
        ("none", ["-1600000000", ""], ["at"]),
        ("none", ["900", "-999"], []),
        ("log", ["1600000000", "1600000007"], []),
        ("standard", ["1600000000", "1600000007"], []),
    ],
)
def test_large_numbers_are_named_at_prepare_and_train(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    transform: str,
    numbers: list[str],
    named: list[str],
) -> None:
    text = "y,u,at,small\n" + "".join(f"{i % 2},{i},{numbers[i % 2]},{i}\n" for i in range(40))
    raw = write_bytes(tmp_path / "t.csv", text)
    columns = TableColumns(
        label="y", categorical=("u",), numeric=("at", "small"), numeric_transform=transform
    )
    prepare_table(raw, tmp_path / "out", columns=columns, split=ALL_TRAIN)
    data = open_data(tmp_path / "out")
    data.check_numbers()
    data.check_numbers()
    assert len(caplog.messages) == 2 * len(named)
    for message in caplog.messages:
        assert "numbers of columns 'at' (about 1" in message
        assert "--numeric-transform standard or log" in message


# --- places that cannot be written to ---------------------------------------------------------


def test_a_place_that_cannot_be_written_to_is_said_at_the_start(
    tmp_path: Path, seo_rec: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write_bytes(tmp_path / "t.csv", PLAIN)
    monkeypatch.setattr("seo_rec.data.prepare._first_pass", lambda *_: pytest.fail("too late"))
    command = ["prepare", "table", "--raw", raw, "--label", "y", "--categorical", "u", "--out"]
    for out, message in [
        (raw / "out", "t.csv: File exists; a file is there, where a folder is needed"),
        (raw / "deep/out", "Not a directory; a part of the path is a file"),
        (tmp_path / ("n" * 300), "File name too long; choose a shorter name"),
    ]:
        done = seo_rec(*command, out)
        assert done.code == 2 and message in done.err, done.err
        assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EROFS, "F: Read-only file system; choose a place that can be written to"),
        (errno.ENOSPC, "OUT: no space is left on the disk; make room or choose another place"),
        (errno.EFBIG, "F: File too large; raise the limit on the size of files"),
        (errno.EIO, "F: Input/output error"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    tmp_path: Path,
    seo_rec: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    message: str,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), "F")

    monkeypatch.setattr("seo_rec.data.prepare.write_vocabulary", refuse)
    raw = write_bytes(tmp_path / "t.csv", PLAIN)
    command = ["prepare", "table", "--raw", raw, "--label", "y", "--categorical", "u"]
    done = seo_rec(*command, "--fractions", "1,0,0", "--out", tmp_path / "out")
    assert done.code == 2
    message = message.replace("OUT", str(tmp_path / "out"))
    assert done.err.startswith(f"error: {message}") and done.err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_of_two_prepares_into_one_folder_the_second_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(FileExistsError, match="made by another process in the meantime")
    with refused, new_folder(tmp_path / "out") as second:
        (second / "mine").touch()
        with new_folder(tmp_path / "out") as first:
            (first / "theirs").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "theirs"]


@pytest.mark.parametrize("size", ["u=\N{SUPERSCRIPT TWO}", "u=-1", "u=1.5", "=3"])
def test_sizes_of_vocabularies_are_numbers(
    tmp_path: Path, seo_rec: Callable[..., Any], size: str
) -> None:
    raw = write_bytes(tmp_path / "t.csv", PLAIN)
    command = ["prepare", "table", "--raw", raw, "--label", "y", "--categorical", "u"]
    done = seo_rec(*command, "--vocabulary-size", size, "--out", tmp_path / "out")
    assert done.code == 2 and "allowed: COLUMN=K" in done.err
