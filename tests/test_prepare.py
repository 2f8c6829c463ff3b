"""Raw rows in, exact rows out; a bad row is named; nothing is half written."""

from __future__ import annotations

import gzip
import hashlib
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from real_data import real_data
from seo_rec.cli.prepare import app
from seo_rec.data import parquet, prepare, rawfile
from seo_rec.data.avazu import HEADER, prepare_avazu
from seo_rec.data.criteo import bucket, log_transform, prepare_criteo
from seo_rec.data.movielens import prepare_movielens
from seo_rec.data.progress import ProgressBar
from seo_rec.data.rawfile import BadRows
from seo_rec.data.shards import ROW_GROUP_ROWS
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.data.tokens import MISSING, OUT_OF_VOCABULARY, token_id
from seo_rec.data.vocabulary import PRESETS, Pruning, read_vocabulary
from seo_rec.schema import SPLITS, DataError, read_schema

ALL_TRAIN = Split(fractions=(1.0, 0.0, 0.0))


def criteo_line(label: object = 1, integers: str = "3", tokens: str = "0a1b2c3d") -> str:
    return "\t".join([str(label), *[integers] * 13, *[tokens] * 26])


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def rows(data: Path, split: str = "train") -> dict[str, list[object]]:
    return pq.read_table(data / split).to_pydict()


def digests(data: Path) -> dict[str, str]:
    return {
        str(p.relative_to(data)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(data.rglob("*.parquet"))
    }


# --- the three public formats ---------------------------------------------------------------


def test_criteo_rows_are_exact(tmp_path: Path) -> None:
    full = criteo_line(1, "7", "05db9164")
    sparse = criteo_line(0, "", "")
    raw = write(tmp_path / "train.txt", full, sparse, criteo_line(0, "-3", "12345678"))
    schema = prepare_criteo(raw, tmp_path / "out", split=ALL_TRAIN)
    got = rows(tmp_path / "out")
    assert got["label"] == [1.0, 0.0, 0.0]
    assert got["I1"] == pytest.approx([math.log(8), 0.0, 0.0])  # -3: clipped where ln is undefined
    assert got["I2"] == pytest.approx([math.log(11), 0.0, 0.0])
    assert got["C26"] == [token_id("05db9164"), MISSING, 12345678]
    assert schema.num_rows == {"train": 3, "val": 0, "test": 0}
    assert schema.vocab_size("C1") == 3
    assert schema.sources[0]["sha256"] == hashlib.sha256(raw.read_bytes()).hexdigest()
    assert "missing: 0" in schema.options["numeric_rule"]
    assert pq.read_table(tmp_path / "out" / "test").num_rows == 0
    assert read_schema(tmp_path / "out") == schema
    ids, counts = read_vocabulary(tmp_path / "out", "C1")
    assert sorted(ids) == list(ids)
    assert counts.tolist() == [1, 1, 1]


def test_criteo_embedded_integers_and_empty_bags(tmp_path: Path) -> None:
    raw = write(tmp_path / "t", criteo_line(1, "100"), criteo_line(0, "", ""), criteo_line(0, "-1"))
    schema = prepare_criteo(
        raw, tmp_path / "out", embed_numeric=True, missing="empty", split=ALL_TRAIN
    )
    assert len(schema.features) == 39
    assert schema.numeric == ()
    got = rows(tmp_path / "out")
    assert got["I1"] == [int(math.log(100) ** 2), None, token_id("-1")]
    assert got["C1"] == [token_id("0a1b2c3d"), None, token_id("0a1b2c3d")]
    assert schema.columns[0].lookups_per_row == pytest.approx(2 / 3)


def test_criteo_number_rules() -> None:
    values = np.array([np.nan, -3, -1, 0, 1, 2, 3, 1000])
    assert log_transform("I2", values) == pytest.approx(
        [0, 0, math.log(3), math.log(4), math.log(5), math.log(6), math.log(7), math.log(1004)]
    )
    assert log_transform("I3", values)[:4].tolist() == [0, 0, 0, 0]
    assert bucket(values[1:]).tolist() == [-3, -1, 0, 1, 2, 1, 47]


def test_line_ends_mark_gzip_and_blank_tail_change_nothing(tmp_path: Path) -> None:
    lines = [criteo_line(i % 2, str(i), f"{i:08x}") for i in range(50)]
    plain = write(tmp_path / "plain", *lines)
    text = plain.read_bytes()
    (tmp_path / "crlf").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n") + b"\r\n\r\n")
    (tmp_path / "no_end").write_bytes(text[:-1])
    half = len(text) // 2
    (tmp_path / "zip.gz").write_bytes(gzip.compress(text[:half]) + gzip.compress(text[half:]))
    expected = None
    for name in ("plain", "crlf", "no_end", "zip.gz"):
        prepare_criteo(tmp_path / name, tmp_path / f"out_{name}")
        found = digests(tmp_path / f"out_{name}")
        expected = expected or found
        assert found == expected, name


def test_criteo_folder_of_days_in_number_order(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for day in (10, 2):
        write(raw / f"day_{day}", criteo_line(1, str(day)))
    schema = prepare_criteo(raw, tmp_path / "out", split=ALL_TRAIN)
    assert [source["name"] for source in schema.sources] == ["day_2", "day_10"]
    assert rows(tmp_path / "out")["I1"] == pytest.approx([math.log(3), math.log(11)])


def test_avazu_rows_are_exact(tmp_path: Path) -> None:
    cells = [str(i) for i in range(21)]
    cells[3], cells[19] = "85f751fd", "-1"
    row = ",".join(["10000371904215119486", "1", "14102123", *cells])
    raw = write(tmp_path / "train.csv", ",".join(HEADER), row)
    schema = prepare_avazu(raw, tmp_path / "out", split=ALL_TRAIN)
    got = rows(tmp_path / "out")
    assert [c.name for c in schema.columns] == list(HEADER[2:])
    assert got["hour"] == [23]
    assert got["site_domain"] == [token_id("85f751fd")]
    assert got["C20"] == [token_id("-1")]
    assert got["C21"] == [20]


def test_movielens_rows_are_exact(tmp_path: Path) -> None:
    write(tmp_path / "users.dat", "2::M::56::16::01234", "1::F::1::10::98107-2117")
    write(tmp_path / "ratings.dat", "1::10::5::9", "2::10::3::9", "2::11::2::9", "1::11::4::9")
    schema = prepare_movielens(tmp_path, tmp_path / "out", split=ALL_TRAIN)
    got = rows(tmp_path / "out")
    assert got["user"] == [1, 2, 1]
    assert got["movie"] == [10, 11, 11]
    assert got["label"] == [1.0, 0.0, 1.0]
    assert got["zip"] == [token_id(z) for z in ("98107-2117", "01234", "98107-2117")]
    assert schema.options["rating_rule"] == "drop-3"
    prepare_movielens(tmp_path, tmp_path / "all", rating_rule="ge-3", split=ALL_TRAIN)
    assert rows(tmp_path / "all")["label"] == [1.0, 1.0, 0.0, 1.0]
    with pytest.raises(DataError, match="ordered by user"):
        prepare_movielens(tmp_path, tmp_path / "x", split=Split("temporal"))


# --- bad input ------------------------------------------------------------------------------

CRITEO_FAULTS = [
    ("1\t2\t3", ["line 4", "has 3 columns, 40 are needed"]),
    (criteo_line(2), ["line 4", "'label'", "'2'", "outside {0, 1}"]),
    (criteo_line(""), ["line 4", "'label'", "''"]),
    (criteo_line(1, "7x"), ["line 4", "'I1'", "'7x'", "not an integer"]),
    (criteo_line(1, "1.5"), ["line 4", "'I1'", "'1.5'"]),
    (criteo_line() + "\textra", ["line 4", "has 41 columns"]),
    ("", ["line 4", "is blank"]),
]


@pytest.mark.parametrize(("line", "message"), CRITEO_FAULTS)
@pytest.mark.parametrize("block_bytes", [100, 1 << 20])
def test_bad_criteo_row_is_named_and_nothing_is_left(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    message: list[str],
    block_bytes: int,
) -> None:
    monkeypatch.setattr(rawfile, "_READ_BYTES", 64)
    defaults = {"quoted": None, "block_bytes": block_bytes}
    monkeypatch.setattr(rawfile.text_blocks, "__kwdefaults__", defaults)
    good = criteo_line()
    raw = write(tmp_path / "train.txt", good, good, good, line, good, good)
    with pytest.raises(DataError) as error:
        prepare_criteo(raw, tmp_path / "out")
    for part in ["train.txt", *message]:
        assert part in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["train.txt"]

    schema = prepare_criteo(
        raw, tmp_path / "out", split=ALL_TRAIN, bad_rows=BadRows("skip", max_bad=1)
    )
    assert schema.num_rows["train"] == 5
    assert schema.options["bad_rows"]["skipped"] == 1
    with pytest.raises(DataError, match="more than 0 bad rows"):
        prepare_criteo(raw, tmp_path / "out2", bad_rows=BadRows("skip", max_bad=0))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        prepare_criteo(tmp_path / "absent", tmp_path / "out")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        prepare_criteo(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "blank").write_bytes(b"\n\r\n\n")
    with pytest.raises(DataError, match="holds no rows"):
        prepare_criteo(tmp_path / "blank", tmp_path / "out")
    (tmp_path / "utf16").write_bytes("1\t2\n".encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16"):
        prepare_criteo(tmp_path / "utf16", tmp_path / "out")
    whole = gzip.compress("".join(f"{criteo_line(1, str(i))}\n" for i in range(999)).encode())
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut.gz: line \d+: the gzip file is truncated"):
        prepare_criteo(tmp_path / "cut.gz", tmp_path / "out")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(DataError, match=r"no train\.txt"):
        prepare_criteo(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_avazu_and_movielens_rows_are_named(tmp_path: Path) -> None:
    row = "1,0,{hour}," + ",".join("7" for _ in range(21))
    raw = write(tmp_path / "a.csv", ",".join(HEADER), row.format(hour="14102124"))
    with pytest.raises(DataError, match=r"a\.csv: line 2, column 'hour': .*'14102124'"):
        prepare_avazu(raw, tmp_path / "out")
    raw = write(tmp_path / "b.csv", ",".join(HEADER[2:]), "1")
    with pytest.raises(DataError, match=r"b\.csv: line 1: the header is"):
        prepare_avazu(raw, tmp_path / "out")
    raw = write(tmp_path / "c.csv", ",".join(HEADER))
    with pytest.raises(DataError, match=r"no rows in the train split"):
        prepare_avazu(raw, tmp_path / "out")

    write(tmp_path / "users.dat", "1::F::1::10::1")
    write(tmp_path / "ratings.dat", "1::1::5::0", "7::1::5::0")
    with pytest.raises(DataError, match=r"ratings\.dat: line 2, column 'user': .*users\.dat"):
        prepare_movielens(tmp_path, tmp_path / "out")
    write(tmp_path / "ratings.dat", "1::1::5::0", "1::1::6::0")
    with pytest.raises(DataError, match=r"line 2, column 'rating': .*'6'"):
        prepare_movielens(tmp_path, tmp_path / "out")
    write(tmp_path / "users.dat", "1::F::1::10::1", "1::M::1::10::1")
    with pytest.raises(DataError, match="user 1 has more than one line"):
        prepare_movielens(tmp_path, tmp_path / "out")
    write(tmp_path / "users.dat", "1,F,1,10,1", "x::F::1::10::1")
    with pytest.raises(DataError, match=r"users\.dat: none of its 2 lines .* line 1: .*1 columns"):
        prepare_movielens(tmp_path, tmp_path / "out", bad_rows=BadRows("skip"))
    assert not (tmp_path / "out").exists()


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
    for rows, done in seen:  # the reader is up to four batches ahead; the footer comes last
        assert read[rows] - 0.1 * sizes[0] < done <= read[min(2000, rows + 400)]
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
    with pytest.raises(DataError, match="named more than once"):
        TableColumns("y", categorical=("a",), numeric=("a",))
    with pytest.raises(DataError, match="vocabulary file"):
        TableColumns("y", categorical=("a/b",))


# --- splits and vocabularies ----------------------------------------------------------------


def numbered(path: Path, num: int) -> Path:
    """Row i holds a = i and b = i mod 10."""
    return write(path, "y,a,b", *[f"{i % 2},{i},{i % 10}" for i in range(num)])


NUMBERED = TableColumns("y", categorical=("a", "b"))


def test_random_split_partitions_by_seed(tmp_path: Path) -> None:
    raw = numbered(tmp_path / "t.csv", 40_000)
    prepare_table(raw, tmp_path / "one", columns=NUMBERED, split=Split(seed=5))
    prepare_table(raw, tmp_path / "two", columns=NUMBERED, split=Split(seed=5))
    prepare_table(raw, tmp_path / "other", columns=NUMBERED, split=Split(seed=6))
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert digests(tmp_path / "one") != digests(tmp_path / "other")
    parts = [rows(tmp_path / "one", split)["a"] for split in SPLITS]
    assert sorted(i for part in parts for i in part) == list(range(40_000))
    assert all(part == sorted(part) for part in parts)
    assert [len(part) / 40_000 for part in parts] == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    file = pq.ParquetFile(tmp_path / "one" / "train" / "part-00000.parquet")
    assert file.metadata.row_group(0).num_rows == ROW_GROUP_ROWS
    assert file.num_row_groups == 2


def test_split_does_not_depend_on_blocks() -> None:
    for split in (Split(seed=3), Split("temporal")):
        whole = split.assign(0, 1000, 1000)
        pieces = [split.assign(first, 100, 1000) for first in range(0, 1000, 100)]
        assert np.array_equal(whole, np.concatenate(pieces))
    # A golden value: changing the rule would silently change every published split.
    assert Split(seed=42).assign(0, 24).tolist() == GOLDEN_SPLIT


GOLDEN_SPLIT = [0, 2, 0, 0, 0, 1, 2, 2, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0]


def test_temporal_split_keeps_file_order(tmp_path: Path) -> None:
    raw = numbered(tmp_path / "t.csv", 70_000)
    schema = prepare_table(raw, tmp_path / "out", columns=NUMBERED, split=Split("temporal"))
    assert schema.num_rows == {"train": 60_000, "val": 5_000, "test": 5_000}
    assert "seed" not in schema.split
    assert rows(tmp_path / "out", "val")["a"] == list(range(60_000, 65_000))
    assert schema.vocab_size("a") == 60_000


def test_bad_splits_are_refused() -> None:
    for fractions in [(0.5, 0.5, 0.5), (1.2, -0.1, -0.1), (0.0, 0.5, 0.5)]:
        with pytest.raises(DataError, match="fractions"):
            Split(fractions=fractions)
    with pytest.raises(DataError, match="allowed: random, temporal"):
        Split("time")


def test_pruning_counts_the_training_split_only(tmp_path: Path) -> None:
    lines = ["1,a", "1,a", "0,a", "0,b", "0,b", "1,c", "1,d", "0,d", "0,d", "0,d"]
    raw = write(tmp_path / "t.csv", "y,a", *lines)
    columns = TableColumns("y", categorical=("a",))
    split = Split("temporal", fractions=(0.6, 0.2, 0.2))
    schema = prepare_table(
        raw, tmp_path / "count", columns=columns, split=split, pruning=Pruning(min_count=2)
    )
    a, b, oov = token_id("a"), token_id("b"), OUT_OF_VOCABULARY
    assert rows(tmp_path / "count")["a"] == [a, a, a, b, b, oov]
    assert rows(tmp_path / "count", "test")["a"] == [oov, oov]
    ids, counts = read_vocabulary(tmp_path / "count", "a")
    assert dict(zip(ids.tolist(), counts.tolist(), strict=True)) == {a: 3, b: 2, oov: 1}
    assert schema.vocab_size("a") == 3
    assert schema.options["vocabulary"]["out_of_vocabulary_id"] == oov
    pruned = Pruning(sizes={"a": 2})
    prepare_table(raw, tmp_path / "size", columns=columns, split=split, pruning=pruned)
    assert rows(tmp_path / "size")["a"] == [a, a, a, oov, oov, oov]
    assert not list((tmp_path / "size").glob(".*"))


def test_pruning_leaves_bags_and_missing_alone(tmp_path: Path) -> None:
    raw = write(tmp_path / "t.csv", "y,a,m", "1,u,1|2|1", "0,,", "0,v,2|3")
    columns = TableColumns("y", categorical=("a",), multivalent=("m",), missing="empty")
    prepare_table(
        raw, tmp_path / "out", columns=columns, split=ALL_TRAIN, pruning=Pruning(min_count=2)
    )
    oov = OUT_OF_VOCABULARY
    assert rows(tmp_path / "out")["a"] == [oov, None, oov]
    assert rows(tmp_path / "out")["m"] == [[1, 2, 1], [], [2, oov]]


def test_presets_are_the_published_tables() -> None:
    assert sum(PRESETS["unified-criteo"].values()) == 160_605
    assert sum(PRESETS["unified-avazu"].values()) == 252_838
    assert len(PRESETS["unified-criteo"]) == 26
    with pytest.raises(DataError, match="allowed: unified-avazu, unified-criteo"):
        Pruning(preset="criteo")


# --- the folder appears whole or not at all -------------------------------------------------


def test_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    raw = write(tmp_path / "t", criteo_line())
    (tmp_path / "out").mkdir()
    write(tmp_path / "out" / "mine", "keep")
    with pytest.raises(FileExistsError, match="not empty"):
        prepare_criteo(raw, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupted_prepare_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def interrupted(*_: object) -> None:
        raise error

    raw = write(tmp_path / "t", *[criteo_line()] * 10)
    monkeypatch.setattr("seo_rec.data.prepare.write_vocabulary", interrupted)
    with pytest.raises(error):
        prepare_criteo(raw, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


# --- the command ----------------------------------------------------------------------------


def test_cli_reports_errors_in_one_message(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    raw = write(tmp_path / "t", criteo_line(), criteo_line(3))
    bad = CliRunner().invoke(app, ["criteo", "--raw", str(raw), "--out", out])
    assert bad.exit_code == 2
    assert "line 2, column 'label'" in bad.stderr
    assert "Traceback" not in bad.stderr
    command = ["criteo", "--raw", str(raw), "--out", out, "--on-bad-row", "skip", "--max-bad", "1"]
    skipped = CliRunner().invoke(app, [*command, "--fractions", "1,0,0"])
    assert skipped.exit_code == 0, skipped.stderr
    assert "1 bad rows skipped" in skipped.stderr
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2
    assert "not empty" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-bad", "3"], "without --on-bad-row skip"),
        (["--split", "temporal", "--seed", "3"], "a temporal split uses none"),
        (["--fractions", "0.5,0.5"], "three numbers"),
        (["--vocabulary-size", "C3"], "COLUMN=K"),
        (["--vocabulary-size", "I1=9"], "not categorical columns"),
        (["--missing", "drop"], "allowed: token, empty"),
    ],
)
def test_cli_refuses_settings_that_would_be_ignored(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    raw = write(tmp_path / "t", criteo_line())
    command = ["criteo", "--raw", str(raw), "--out", str(tmp_path / "out"), *arguments]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_cli_table_takes_several_files(tmp_path: Path) -> None:
    files = [str(numbered(tmp_path / f"{name}.csv", 10)) for name in "pqr"]
    result = CliRunner().invoke(
        app,
        ["table", "--raw", *files, "--label", "y", "--categorical", "a,b", "--fractions", "1,0,0",
         "--out", str(tmp_path / "out")],
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert read_schema(tmp_path / "out").num_rows["train"] == 30


# --- real data ------------------------------------------------------------------------------


def test_real_movielens(tmp_path: Path) -> None:
    schema = prepare_movielens(real_data("ml-1m"), tmp_path / "out")
    assert sum(schema.num_rows.values()) == 1_000_209 - 261_197
    positives = sum(schema.num_rows[s] * schema.label_rate[s] for s in SPLITS)
    assert round(positives) == 348_971 + 226_310
    assert schema.vocab_size("user") == 6_040


def test_real_criteo(tmp_path: Path) -> None:
    schema = prepare_criteo(real_data("criteo-sample"), tmp_path / "out")
    assert sum(schema.num_rows.values()) == 137_139
    positives = sum(schema.num_rows[s] * schema.label_rate[s] for s in SPLITS)
    assert positives / 137_139 == pytest.approx(0.25677, abs=5e-6)
    distinct = set()
    for split in SPLITS:
        distinct |= set(pq.read_table(tmp_path / "out" / split, columns=["C3"])["C3"].to_pylist())
    assert len(distinct) == 61_764  # the empty token is one of them


def test_real_criteo_with_the_published_protocol(tmp_path: Path) -> None:
    schema = prepare_criteo(
        real_data("criteo-sample"),
        tmp_path / "out",
        split=Split("temporal"),
        pruning=Pruning(preset="unified-criteo"),
    )
    assert schema.num_rows["train"] == round(137_139 * 6 / 7)
    for column in schema.features:
        assert column.vocab_size <= PRESETS["unified-criteo"][column.name]
    assert schema.vocab_size("C3") == 17_447


def test_real_avazu(tmp_path: Path) -> None:
    schema = prepare_avazu(
        real_data("avazu-sample/train.csv"),
        tmp_path / "out",
        pruning=Pruning(preset="unified-avazu"),
    )
    assert sum(schema.num_rows.values()) == 8_999
    assert len(schema.features) == 22
