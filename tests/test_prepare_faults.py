"""Awkward raw files: the right rows come out, or an error names the place; nothing is guessed."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from seo_rec.data import rawfile
from seo_rec.data.quotes import Rows, whole_rows
from seo_rec.data.rawfile import BadRows
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.data.tokens import token_id
from seo_rec.schema import DataError

ALL_TRAIN = Split(fractions=(1.0, 0.0, 0.0))
SKIP = BadRows("skip")
COLUMNS = TableColumns(label="y", categorical=("u", "t"))


def prepared(tmp_path: Path, text: str | bytes, bad_rows: BadRows = BadRows()) -> dict[str, list]:
    """The training rows of ``text`` as a CSV file with the columns y, u and t."""
    raw, out = tmp_path / "t.csv", tmp_path / "out"
    raw.write_bytes(text if isinstance(text, bytes) else text.encode())
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
