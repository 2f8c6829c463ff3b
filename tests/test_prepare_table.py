"""``prepare table``: rows of CSV and Parquet, and faults that are named."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prepared_rows import ALL_TRAIN, rows, write
from seo_rec.data import parquet, prepare, rawfile
from seo_rec.data.progress import ProgressBar
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.data.tokens import MISSING, token_id
from seo_rec.schema import DataError

# --- the user's own table -------------------------------------------------------------------

TABLE = TableColumns(
    "y", categorical=("a",), numeric=("x",), multivalent=("m",), numeric_transform="none"
)


def test_table_from_csv(tmp_path: Path) -> None:
    raw = write(
        tmp_path / "t.csv",
        "skip,y,a,x,m",
        '1,0,"one, two",1.5,p|q||p',
        "2,true,,,",
        '3,1,"line',
        'end",-2e1,7',
        end="\r\n",
    )
    schema = prepare_table(raw, tmp_path / "out", columns=TABLE, split=ALL_TRAIN)
    got = rows(tmp_path / "out")
    assert got["y"] == [0.0, 1.0, 1.0]
    assert got["a"] == [token_id("one, two"), MISSING, token_id("line\r\nend")]
    assert got["x"] == [1.5, 0.0, -20.0]
    assert got["m"] == [[token_id("p"), token_id("q"), token_id("p")], [], [7]]
    assert [(c.name, c.kind) for c in schema.columns] == [
        ("x", "numeric"), ("a", "categorical"), ("m", "multivalent"),
    ]  # fmt: skip
    assert schema.columns[2].lookups_per_row == pytest.approx(4 / 3)
    assert schema.vocab_size("m") == 3


def test_table_physical_line_after_quoted_line_end(tmp_path: Path) -> None:
    raw = write(tmp_path / "t.csv", "y,a,x,m", '0,"two', 'lines",1,1', "1,b,zero,1")
    with pytest.raises(DataError, match=r"line 4, column 'x': not a finite number, got 'zero'"):
        prepare_table(raw, tmp_path / "out", columns=TABLE)


def test_table_open_quote_is_named_before_memory_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rawfile, "_READ_BYTES", 64)
    monkeypatch.setattr(rawfile.text_blocks, "__kwdefaults__", {"block_bytes": 100})
    raw = write(tmp_path / "t.csv", "y,a,x,m", *["1,b,0,1"] * 50, '0,"b,0,1', *["1,b,0,1"] * 500)
    with pytest.raises(DataError, match=r"line 52: no row ends within .* close the quoted cell"):
        prepare_table(raw, tmp_path / "out", columns=TABLE)


def test_table_from_parquet_equals_csv(tmp_path: Path) -> None:
    table = pa.table(
        {
            "m": pa.array([["p", "q"], None, []], pa.list_(pa.string())),
            "a": pa.array([5, None, -4], pa.int32()),
            "x": pa.array([1, None, 3], pa.int64()),
            "y": pa.array([True, False, True]),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    raw = write(tmp_path / "t.csv", "y,a,x,m", "1,5,1,p|q", "0,,,", "1,-4,3,")
    prepare_table(tmp_path / "t.parquet", tmp_path / "parquet", columns=TABLE, split=ALL_TRAIN)
    prepare_table(raw, tmp_path / "csv", columns=TABLE, split=ALL_TRAIN)
    assert rows(tmp_path / "parquet") == rows(tmp_path / "csv")


def test_progress_of_parquet_follows_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a file and within a row group; at the end every byte is counted once."""
    seen: list[tuple[int, int]] = []

    class Watched(ProgressBar):
        def update(self, done: int, rows: int, num_bytes: int | None = None) -> None:
            seen.append((rows, done))

    monkeypatch.setattr(prepare, "ProgressBar", Watched)
    monkeypatch.setattr(parquet, "_RAW_ROWS", 100)
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    ids = np.random.default_rng(0).integers(0, 2**60, 1000)
    for path in paths:
        pq.write_table(pa.table({"y": ids % 2, "a": ids, "b": ids}), path, row_group_size=400)
    columns = TableColumns("y", categorical=("a",))
    schema = prepare_table(paths, tmp_path / "out", columns=columns)
    sizes = [path.stat().st_size for path in paths]
    assert [rows for rows, _ in seen] == [*range(100, 2001, 100), 2000]
    read = np.interp(range(2001), [0, 1000, 2000], [0, sizes[0], sum(sizes)])
    for number, done in seen:  # the reader is up to four batches ahead; the footer comes last
        assert read[number] - 0.1 * sizes[0] < done <= read[min(2000, number + 400)]
    assert seen[-1] == (2000, sum(sizes))
    assert [source["bytes"] for source in schema.sources] == sizes


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1.0, None, 3.0]), [1, MISSING, 3]),
        (pa.array(["x", None, "x"]).dictionary_encode(), [token_id("x"), MISSING, token_id("x")]),
        (pa.array([2**63 + 1, 3, None], pa.uint64()), [token_id(2**63 + 1), 3, MISSING]),
        (pa.array([b"\xff", b"", b"7"]), [token_id(b"\xff"), MISSING, 7]),
        (pa.nulls(3), [MISSING] * 3),
    ],
)
def test_table_parquet_categorical_types(
    tmp_path: Path, column: pa.Array, expected: list[int]
) -> None:
    pq.write_table(pa.table({"a": column, "y": [0, 1, 0]}), tmp_path / "t.parquet")
    columns = TableColumns("y", categorical=("a",))
    prepare_table(tmp_path / "t.parquet", tmp_path / "out", columns=columns, split=ALL_TRAIN)
    assert rows(tmp_path / "out")["a"] == expected


def test_table_bad_parquet_cells_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    columns = TableColumns("y", categorical=("a",), numeric=("x",))

    def fails(match: str, **cells: object) -> None:
        good: dict[str, object] = {"y": [0, 1], "a": [1, 2], "x": [0.5, 1.0]}
        pq.write_table(pa.table({**good, **cells}), path)
        with pytest.raises(DataError, match=match):
            prepare_table(path, tmp_path / "out", columns=columns)
        assert not (tmp_path / "out").exists()

    fails(r"row 2, column 'y': a label outside \{0, 1\}, got '2'", y=[0, 2])
    fails(r"row 2, column 'y': a label outside \{0, 1\}, got 'None'", y=[0, None])
    fails(r"row 1, column 'y': .*'maybe'.*--label 'rating >= 4'", y=["maybe", "1"])
    fails(r"row 2, column 'x': not a finite number, got 'inf'", x=[0.0, math.inf])
    fails(r"row 1, column 'a': not a whole number, got '1.5'", a=[1.5, 2.0])
    fails(r"row 2, column 'x': not a finite number, got 'many'", x=["1", "many"])
    fails(r"column 'a' has type list", a=[[1], [2]])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="not readable as Parquet"):
        prepare_table(path, tmp_path / "out", columns=columns)


def test_table_headers_are_checked(tmp_path: Path) -> None:
    a = write(tmp_path / "a.csv", "y,a", "1,2")
    b = write(tmp_path / "b.csv", "a,y", "2,1")
    twice = write(tmp_path / "twice.csv", "y,a,a", "1,2,3")
    columns = TableColumns("y", categorical=("a",))
    with pytest.raises(DataError, match=r"b\.csv: line 1: the header is 'a,y', but .*a\.csv"):
        prepare_table([a, b], tmp_path / "out", columns=columns)
    with pytest.raises(DataError, match=r"duplicate column names \['a'\]"):
        prepare_table(twice, tmp_path / "out", columns=columns)
    with pytest.raises(DataError, match=r"no columns \['z'\]; allowed: y, a"):
        prepare_table(a, tmp_path / "out", columns=TableColumns("y", categorical=("z",)))
    for label, word in (("y => 1", "'y => 1' is no rule for a label"), ("z >= 1", "group ...)")):
        with pytest.raises(DataError) as caught:
            prepare_table(a, tmp_path / "out", columns=TableColumns(label, categorical=("a",)))
        assert ("is no rule" in str(caught.value)) is (label == "y => 1")
        assert word in str(caught.value)
    with pytest.raises(DataError, match="named more than once"):
        TableColumns("y", categorical=("a",), numeric=("a",))
    with pytest.raises(DataError, match="vocabulary file"):
        TableColumns("y", categorical=("a/b",))
