"""Bodies of requests: what is read, and that everything else is refused with a clear message."""

from __future__ import annotations

import json
from unittest import mock

import pyarrow as pa
import pytest
from small_package import PREPARATION, ROWS

from seo_rec.serve.few_rows import Few, FewRows
from seo_rec.serve.server.bodies import ARROW, JSON, MAX_TEXT, RequestError, read_body, write_scores

TABLE = pa.table({name: pa.array(cells) for name, cells in ROWS.items()})


def stream(table, compression=None, rows=None, version=pa.ipc.MetadataVersion.V5) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression, metadata_version=version)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue().to_pybytes()


def read(kind, content, max_rows=100, max_body=1 << 20):
    return read_body(kind, content, PREPARATION, max_rows, max_body)


def columns_of(**changed) -> bytes:
    return json.dumps({"columns": {**ROWS, **changed}}).encode()


def with_column(name, array) -> bytes:
    place = TABLE.column_names.index(name)
    return stream(TABLE.set_column(place, name, array))


def test_all_forms_are_the_same_rows():
    rows = [{name: cells[i] for name, cells in ROWS.items()} for i in range(4)]
    for kind, content in (
        (JSON, columns_of(other=[1, 2, 3, "x"])),
        (JSON, json.dumps({"rows": rows}).encode()),
        (ARROW, stream(TABLE)),
        (ARROW, stream(TABLE, rows=3)),
        (ARROW, stream(TABLE.append_column("other", pa.array([b"", b"", b"", b""])))),
    ):
        found = read(kind, content).rows
        assert isinstance(found, Few) and len(found) == 4
        assert found == PREPARATION.few_rows.read(TABLE)
        with mock.patch.object(FewRows, "read", return_value=None):
            table = read(kind, content).rows
        assert table.select(list(ROWS)).to_pydict() == TABLE.to_pydict()
        assert set(table.column_names) == set(ROWS)


def test_weights():
    content = json.dumps({"columns": ROWS, "weights": {"user": [1, 2, 3, 4.5]}}).encode()
    assert read(JSON, content).weights == {"user": [1, 2, 3, 4.5]}


DEEP = b'{"columns": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BAD = {
    "empty": (JSON, b"", 400, "no JSON text"),
    "no UTF-8": (JSON, b'{"columns": "\xff"}', 400, "UTF-8"),
    "cut": (JSON, columns_of()[:-3], 400, "no JSON text"),
    "NaN": (JSON, columns_of(price=[float("nan"), 1, 2, 3]), 400, "NaN"),
    "infinite": (JSON, columns_of(price=[float("-inf"), 1, 2, 3]), 400, "-Infinity"),
    "long number": (JSON, b'{"columns": {"price": [' + b"9" * 10_000 + b"]}}", 400, "digits"),
    "deep": (JSON, DEEP, 400, "nested"),
    "a list": (JSON, b"[]", 400, "columns"),
    "both": (JSON, b'{"rows": [], "columns": {}}', 400, "columns"),
    "unknown key": (JSON, b'{"rows": [], "k": 1}', 400, "'k'"),
    "twice": (JSON, b'{"rows": [], "rows": []}', 400, "twice"),
    "column is no list": (JSON, b'{"columns": {"user": 3}}', 400, "lists"),
    "row is no object": (JSON, b'{"rows": [3]}', 400, "objects"),
    "row lacks": (JSON, b'{"rows": [{"user": 1}]}', 422, "row 0 lacks"),
    "weights": (JSON, b'{"rows": [], "weights": 3}', 400, "weights"),
    "mixed types": (JSON, columns_of(user=["a", 1, None, "b"]), 422, "'user'"),
    "lengths": (JSON, columns_of(user=["a"]), 422, "length"),
    "beyond 64 bits": (
        JSON,
        columns_of(user=[1, 2**64, 2, 3]),
        422,
        "^row 1, column 'user': a whole number beyond 64 bits, got '18446744",
    ),
    "price beyond 64 bits": (JSON, columns_of(price=[10**300, 1, 2, 3]), 422, "^row 0, .*'1000"),
    "list beyond 64 bits": (JSON, columns_of(item=[[], [1, -(2**64)], [], []]), 422, "^row 1, "),
    "another name": (
        JSON,
        json.dumps(
            {"columns": {"User" if n == "user" else n: c for n, c in ROWS.items()}}
        ).encode(),
        422,
        r"lack the columns \['user'\]; given are \['price', 'stock', 'User', 'item'\]",
    ),
    "many other names": (
        JSON,
        json.dumps({"columns": {str(i) * 99: [1] for i in range(1000)}}).encode(),
        422,
        "lack the columns .* and 99",
    ),
    "rows": (JSON, json.dumps({"rows": [{}] * 101}).encode(), 413, "101 rows; allowed: 100"),
    "column rows": (JSON, json.dumps({"columns": {"user": [1] * 101}}).encode(), 413, "101 rows"),
    "long text": (JSON, columns_of(user=["x" * (MAX_TEXT + 1), "a", "b", "c"]), 422, "10001"),
    "long in list": (JSON, columns_of(item=[["x" * (MAX_TEXT + 1)], [], [], []]), 422, "10001"),
    "media type": ("text/csv", b"", 415, "text/csv"),
    "no stream": (ARROW, b"junk" * 100, 400, "Arrow"),
    "empty stream": (ARROW, b"", 400, "Arrow"),
    "cut stream": (ARROW, stream(TABLE)[:-100], 400, "Arrow"),
    "zstd": (ARROW, stream(TABLE, "zstd"), 400, "compressed"),
    "lz4": (ARROW, stream(TABLE, "lz4"), 400, "compressed"),
    "zstd dictionary": (
        ARROW,
        stream(
            TABLE.select(["user"]).set_column(
                0, "user", TABLE["user"].combine_chunks().dictionary_encode()
            ),
            "zstd",
        ),
        400,
        "compressed",
    ),
    "old": (ARROW, stream(TABLE, version=pa.ipc.MetadataVersion.V4), 400, "before 1.0"),
    "Arrow rows": (ARROW, stream(pa.concat_tables([TABLE] * 26)), 413, "104 rows"),
    "dictionary of lists": (
        ARROW,
        with_column(
            "item", pa.DictionaryArray.from_arrays(pa.array([0, 0, 0, 0]), pa.array([["a"] * 9]))
        ),
        422,
        "dictionary",
    ),
    "dictionary of bags": (
        ARROW,
        with_column("item", pa.array(["a|b"] * 4).dictionary_encode()),
        422,
        "dictionary",
    ),
    "list without bytes": (
        ARROW,
        with_column("item", pa.FixedSizeListArray.from_arrays(pa.nulls(4_000_000), 1_000_000)),
        422,
        "fixed_size_list",
    ),
    "struct": (ARROW, with_column("user", pa.array([{"a": 1}] * 4)), 422, "struct"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name):
    kind, content, status, part = BAD[name]
    with pytest.raises(RequestError, match=part) as refused:
        read(kind, content)
    assert refused.value.status == status
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("column", ["user", "item"], ids=["dictionary", "lists"])
def test_booleans_count_with_their_size_in_memory(column):
    """Eight of them come in a byte of the body, and each takes a byte, then an id."""
    truths = pa.array([True] * 80_000)
    array = (
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3]), truths)
        if column == "user"
        else pa.ListArray.from_arrays([0, 1, 2, 3, 80_000], truths)
    )
    content = with_column(column, array)
    assert len(content) < 40_000
    assert len(read(ARROW, content, max_body=80_000)) == 4
    with pytest.raises(RequestError, match="80000 booleans of a byte each; allowed: 40000") as no:
        read(ARROW, content, max_body=40_000)
    assert no.value.status == 413


def test_long_cells_of_short_values_are_read():
    cells = ["|".join(["abc"] * MAX_TEXT), "", "a", None]
    assert read(JSON, columns_of(item=cells)).rows["item"].to_pylist() == cells


def test_damaged_streams_are_refused_or_read():
    """No flipped byte crashes the reader or gives columns of other types."""
    good = stream(TABLE)
    for place in range(0, len(good), 3):
        changed = bytearray(good)
        changed[place] ^= 0xFF
        try:
            found = read(ARROW, bytes(changed)).rows
        except RequestError as error:
            assert 400 <= error.status < 500
        else:
            assert len(found) <= 4
            if isinstance(found, pa.Table):
                found.validate(full=True)


def test_scores_are_written():
    scores = pa.array([0.25, 0.5], pa.float32()).to_numpy()
    assert json.loads(write_scores(JSON, scores, "v")) == {"scores": [0.25, 0.5], "package": "v"}
    table = pa.ipc.open_stream(write_scores(ARROW, scores, "v")).read_all()
    assert table["score"].to_pylist() == [0.25, 0.5]
    assert table.schema.metadata == {b"package": b"v"}
