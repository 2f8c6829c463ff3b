"""The Stream names what is wrong with arguments and files, and leaves no thread behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from patience import PATIENCE
from seo_rec.data import row_groups
from seo_rec.data.dataset import open_data
from seo_rec.data.read_ahead import THREAD_NAME
from seo_rec.data.stream import Stream
from seo_rec.schema import Column, DataError
from stream_data import MIXED, PLAIN, plain_data, reference, rows_of, write


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_data(tmp_path_factory.mktemp("plain"))


# ---- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"split": "holdout"}, r"no split 'holdout'.*\['test', 'train', 'val'\]"),
        ({"split": "test"}, "split 'test' has no rows"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"window": 0}, "window is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"read_ahead": -1}, "read_ahead is -1"),
        ({"world_size": 0}, "world_size is 0"),
        ({"rank": 2, "world_size": 2}, r"rank is 2; with world_size 2 .* \[0, 2\)"),
        ({"cache": "disk"}, "cache is 'disk'; allowed: auto, memory, none"),
        ({"columns": ["row", "size"]}, r"\['size'\].*schema.json are \['row', 'colour'\]"),
        ({"columns": ["price"]}, r"\['price'\].*numeric columns are always read"),
        ({"columns": []}, "no feature"),
        ({"columns": "row"}, "pass a list"),
        ({"batch_size": 300, "drop_last": True}, "227 rows do not fill .* smaller batch_size"),
    ],
)
def test_wrong_arguments(plain: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Stream(open_data(plain), **({"batch_size": 8} | options))


def test_not_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a prepared data set"):
        Stream(open_data(tmp_path), batch_size=8)


def test_missing_shards(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", PLAIN, [20, 20])
    (folder / "train" / "part-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"train: 20 rows in 1 shards.*says 40.*missing"):
        Stream(open_data(folder), batch_size=8)
    (folder / "train" / "part-00000.parquet").unlink()
    with pytest.raises(DataError, match="0 rows in 0 shards"):
        Stream(open_data(folder), batch_size=8)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.drop_columns(["colour"]), r"missing \['colour'\]"),
        (lambda t: t.append_column("size", t["row"]), r"not in the schema \['size'\]"),
        (lambda t: t.drop_columns(["label"]), r"missing \['label'\]"),
        (
            lambda t: t.set_column(2, "colour", t["colour"].cast(pa.string())),
            "'colour' is string; a categorical column must be int64",
        ),
        (
            lambda t: t.set_column(1, "price", t["price"].cast(pa.float64())),
            "'price' is double; a numeric column must be float32",
        ),
        (
            lambda t: t.set_column(5, "tags", t["row"]),
            "'tags' is int64; a multivalent column must be list<int64>",
        ),
    ],
)
def test_shard_that_does_not_match_the_schema(
    tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    folder = write(tmp_path / "d", MIXED, [20, 20])
    path = folder / "train" / "part-00001.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(DataError, match=r"part-00001\.parquet: .*" + message):
        Stream(open_data(folder), batch_size=8)


@pytest.mark.parametrize(
    "column, values, message",
    [
        ("price", [None] * 20, "column 'price' has 20 nulls"),
        ("label", [0.0] * 19 + [None], "column 'label' has 1 nulls"),
        ("tags", [[1, None]] * 20, "column 'tags' has 20 nulls inside its lists"),
    ],
)
@pytest.mark.parametrize("read_ahead", [0, 2])
def test_nulls_where_none_may_be(
    tmp_path: Path, column: str, values: list[Any], message: str, read_ahead: int
) -> None:
    folder = write(tmp_path / "d", MIXED, [20])
    path = folder / "train" / "part-00000.parquet"
    old = pq.read_table(path)
    place = old.schema.get_field_index(column)
    array = pa.array(values, old.schema.field(column).type)
    pq.write_table(old.set_column(place, column, array), path)
    with pytest.raises(DataError, match=r"part-00000\.parquet: row group 0: " + message):
        list(Stream(open_data(folder), batch_size=8, read_ahead=read_ahead))
    assert_no_threads()


def test_lists_over_rows_that_are_null_leave_nothing_behind(tmp_path: Path) -> None:
    """Arrow may keep values under a null list; they must not enter the next bag."""
    columns = [Column("tags", "multivalent", 50, 1.0)]
    folder = write(tmp_path / "d", columns, [4])
    offsets = pa.array([0, 2, 3, 3, 5], pa.int32())
    mask = pa.array([False, True, False, False])
    lists = pa.ListArray.from_arrays(offsets, pa.array([1, 2, 9, 3, 4]), mask=mask)
    group = row_groups.RowGroup(Path("none"), None, 0, 4)
    array = row_groups._bags(pa.chunked_array([lists]), "tags", group)
    assert array.values.tolist() == [1, 2, 3, 4]
    assert array.lengths is not None
    assert array.lengths.tolist() == [2, 0, 0, 2]
    assert [len(b[0][0]) for b in rows_of(Stream(open_data(folder), batch_size=4))] == [
        len(b[0][0]) for b in reference(folder, columns)
    ]


def test_corrupt_files_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", PLAIN, [200, 200], group_rows=100)
    path = folder / "train" / "part-00001.parquet"
    good = path.read_bytes()
    path.write_bytes(good[:-20])
    with pytest.raises(DataError, match=r"part-00001\.parquet: not readable as parquet"):
        Stream(open_data(folder), batch_size=8)
    # the footer is whole, the pages are not: found while reading, in the thread
    path.write_bytes(b"PAR1" + b"\xff" * (len(good) // 2) + good[4 + len(good) // 2 :])
    for read_ahead in (0, 2):
        with pytest.raises(DataError, match=r"part-00001\.parquet: row group 0: not readable"):
            list(Stream(open_data(folder), batch_size=8, window=1, read_ahead=read_ahead))
    assert_no_threads()


# ---- threads -------------------------------------------------------------------------------


def assert_no_threads() -> None:
    gc.collect()
    assert [t for t in threading.enumerate() if t.name == THREAD_NAME] == []


def test_no_thread_outlives_its_loop(plain: Path) -> None:
    stream = Stream(open_data(plain), batch_size=4, window=1, read_ahead=1)
    list(stream)
    assert_no_threads()

    for _ in stream:
        break
    assert_no_threads()

    def fail() -> None:
        for _ in stream:
            raise ValueError("the training step")

    with pytest.raises(ValueError, match="the training step"):
        fail()
    assert_no_threads()

    kept = iter(stream)
    next(kept)
    assert [t for t in threading.enumerate() if t.name == THREAD_NAME]
    del kept
    assert_no_threads()

    iter(stream)
    assert_no_threads()


@pytest.mark.slow
def test_an_iterator_left_open_does_not_hang_the_interpreter(plain: Path) -> None:
    program = (
        "from seo_rec.data.dataset import open_data\n"
        "from seo_rec.data.stream import Stream\n"
        f"data = open_data({str(plain)!r})\n"
        "stream = Stream(data, batch_size=4, window=1, read_ahead=1)\n"
        "batches = iter(stream)\n"
        "next(batches)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)
