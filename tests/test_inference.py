"""What columns are taken for, why, and that it holds for all rows or is an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from real_data import real_data
from seo_rec.data import inference, sample
from seo_rec.data.table import TableColumns, infer_table, prepare_table
from seo_rec.schema import DataError, read_schema

ROWS = 240
# a column by name: the cells of its rows as text, what it is, its kind
COLUMNS: dict[str, tuple[Callable[[int], str], str, str]] = {
    "user": (lambda i: str(i % 60), "id", "categorical"),
    "zip": (lambda i: f"0{i % 50}067", "id", "categorical"),
    "city": (lambda i: ["Köln", "Paris, France", ""][i % 3], "id", "categorical"),
    "stock": (lambda i: str(i % 40 - 20), "number", "numeric"),
    "price": (lambda i: f"{i % 70}.25" if i % 9 else "", "number", "numeric"),
    "itemCount": (lambda i: str(i % 90), "number", "numeric"),
    "price_id": (lambda i: str(100 + i % 90), "id", "categorical"),
    "floor": (lambda i: str(i % 7), "id", "categorical"),
    "level": (lambda i: f"{i % 80}.0", "id", "categorical"),
    "tags": (lambda i: f"t{i % 4}|t{i % 6}", "list", "multivalent"),
    "paid": (lambda i: "yes" if i % 5 else "no", "boolean", "categorical"),
    "flag": (lambda i: str(i % 2), "boolean", "categorical"),
    "day": (lambda i: f"2026-{1 + i % 12:02d}-{1 + i % 28:02d}", "date", "drop"),
    "at": (lambda i: f"2026-11-27T{i % 24:02d}:30:00Z", "date", "drop"),
    "seen": (lambda i: str(1_700_000_000 + 7 * i), "date", "drop"),
    "millis": (lambda i: str(1_700_000_000_000 + 7 * (i % 50)), "date", "drop"),
    "when": (lambda i: f"2026{1 + i % 12:02d}15", "date", "drop"),
    "day_shop": (lambda i: f"2026{1 + i % 12:02d}{1 + i % 28:02d}-S{i % 3}", "date", "drop"),
    "day_us": (lambda i: f"{1 + i % 12}/{1 + i % 28:02d}/2026", "date", "drop"),
    "at_de": (lambda i: f"{1 + i % 28:02d}.{1 + i % 12:02d}.2026 {i % 24:02d}:30", "date", "drop"),
    "release": (lambda i: f"{i % 12}.{i % 8}.{i % 5}", "id", "categorical"),
    "serial": (lambda i: f"20261{i % 20:05d}-S", "id", "categorical"),
    "key": (lambda i: f"k{i}", "row id", "drop"),
    "same": (lambda i: "x", "constant", "drop"),
    "empty": (lambda i: "", "constant", "drop"),
    "note": (lambda i: f"order {i % 200} came late and the box was open", "free text", "drop"),
}


def write(path: Path, rows: int = ROWS, **others: Callable[[int], str]) -> Path:
    cells = {name: of for name, (of, _, _) in COLUMNS.items()} | others
    lines = [",".join(["y", *cells])]
    for i in range(rows):
        quoted = [f'"{of(i)}"' if "," in of(i) else of(i) for of in cells.values()]
        lines.append(",".join([str(i % 2), *quoted]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_every_kind_of_column_is_told_and_kept(tmp_path: Path) -> None:
    raw = write(tmp_path / "t.csv")
    schema = prepare_table(raw, tmp_path / "out", columns=TableColumns("y"))
    entries = read_schema(tmp_path / "out").options["inferred"]["columns"]
    assert {e["name"]: (e["what"], e["kind"]) for e in entries} == {
        name: (what, kind) for name, (_, what, kind) in COLUMNS.items()
    }
    assert all(e["reason"] for e in entries)
    features = {c.name for c in schema.columns if not c.name.endswith(" is missing")}
    assert features == {name for name, (_, _, kind) in COLUMNS.items() if kind != "drop"}


@pytest.mark.parametrize(
    "cell, plain",
    [
        ("$1,2{:02d}.50", True),
        ("-{}%", True),
        ("{},50 €", True),
        ("USD {}", True),
        ("1.2{:02d}.300,5", True),
        ("#{}", False),
        ("10.0.0.{}", False),
        ("{}-12", False),
    ],
)
def test_numbers_with_signs_are_ids_and_the_reason_says_how_they_become_numbers(
    tmp_path: Path, cell: str, plain: bool
) -> None:
    raw = write(tmp_path / "t.csv", fee=lambda i: cell.format(i % 70))
    (fee,) = [d for d in infer_table(raw, TableColumns("y")).decisions if d.name == "fee"]
    assert (fee.kind, "written plainly, as 1234.5" in fee.reason) == ("categorical", plain)


def test_parquet_columns_are_told_by_their_types(tmp_path: Path) -> None:
    rows = range(ROWS)
    cells = {
        "y": pa.array([i % 2 for i in rows]),
        "u": pa.array([float(i % 30) if i % 4 else None for i in rows]),  # as pandas stores ids
        "x": pa.array([float(i % 30) for i in rows]),
        "z": pa.array([i / 7 for i in rows]),
        "b": pa.array([i % 3 == 0 for i in rows]),
        "d": pa.array([date(2026, 1, 1 + i % 28) for i in rows]),
        "m": pa.array([["a"] * (i % 3) for i in rows]),
        "s": pa.array([{"a": i} for i in rows]),
        "c": pa.array([f"v{i % 5}" for i in rows]).dictionary_encode(),
        "id": pa.array(range(ROWS)),
        "none": pa.nulls(ROWS),
    }
    pq.write_table(pa.table(cells), tmp_path / "t.parquet", row_group_size=50)
    found = infer_table(tmp_path / "t.parquet", TableColumns("y"))
    assert {d.name: d.kind for d in found.decisions} == {
        "u": "categorical", "x": "numeric", "z": "numeric", "b": "categorical", "d": "drop",
        "m": "multivalent", "s": "drop", "c": "categorical", "id": "drop", "none": "drop",
    }  # fmt: skip
    assert found.whole and found.rows == ROWS
    prepare_table(tmp_path / "t.parquet", tmp_path / "out", columns=TableColumns("y"))


def test_kinds_win_over_what_is_inferred(tmp_path: Path) -> None:
    raw = write(tmp_path / "t.csv")
    kinds = {"zip": "drop", "key": "categorical", "seen": "numeric", "same": "categorical"}
    schema = prepare_table(raw, tmp_path / "out", columns=TableColumns("y", kinds=kinds))
    assert {c.name: c.kind for c in schema.columns if c.name in kinds} == {
        "key": "categorical", "seen": "numeric", "same": "categorical",
    }  # fmt: skip
    for wrong, message in [
        ({"nothing": "drop"}, "allowed columns: y, user"),
        ({"zip": "text"}, "allowed kinds: categorical, numeric"),
        ({"y": "numeric"}, "another part"),
    ]:
        with pytest.raises(DataError, match=message):
            infer_table(raw, TableColumns("y", kinds=wrong))
    with pytest.raises(DataError, match="use one of the two ways"):
        TableColumns("y", categorical=("user",), kinds={"zip": "drop"})


@pytest.mark.parametrize(
    ("name", "later", "message"),
    [
        ("same", "z", "was left out as a constant, .* but another row holds 'z'"),
        ("empty", "z", "was left out as a constant, because no row has a value"),
        ("key", "k5", "was left out as a row id, .* of the values repeat"),
        ("stock", "low", "line .*column 'stock': not a finite number, got 'low'.*--kind"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_sample_that_is_not_like_all_rows_is_an_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    later: str,
    message: str,
    form: str,
) -> None:
    monkeypatch.setattr(sample.read_sample, "__defaults__", (ROWS,))
    monkeypatch.setattr(sample, "_BLOCK_BYTES", 1 << 14)
    of = COLUMNS[name][0]
    raw = write(tmp_path / "t.csv", 3 * ROWS, **{name: lambda i: of(i) if i < 2 * ROWS else later})
    if form == "parquet":
        if name == "stock":
            pytest.skip("a column of Parquet has one type")
        lines = [line.split(",") for line in raw.read_text().splitlines()]
        at = lines[0].index(name)
        values = [line[at + (len(line) > len(lines[0]))] or None for line in lines[1:]]
        at_rows = range(len(values))
        columns = {"y": [i % 2 for i in at_rows], "u": [i % 9 for i in at_rows]}
        raw = tmp_path / "t.parquet"
        pq.write_table(pa.table({**columns, name: pa.array(values, pa.string())}), raw)
    columns = TableColumns("y")
    assert infer_table(raw, columns).rows == ROWS
    with pytest.raises(DataError, match=message):
        prepare_table(raw, tmp_path / "out", columns=columns)
    assert not (tmp_path / "out").exists()
    kind = "drop" if name == "stock" else "categorical"
    prepare_table(raw, tmp_path / "out", columns=TableColumns("y", kinds={name: kind}))


def test_a_few_repeated_rows_do_not_spoil_a_row_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "WATCHED", 500)
    decision = inference.Decision("k", "drop", "row id", "each")
    watch = inference.Watch([decision], 100)
    for first in range(0, 50_000, 1000):
        watch.see(pa.table({"k": pa.array(range(first, first + 1000))}), Path("a"))
    assert len(watch._sketches["k"]._counts) <= 500
    watch.see(pa.table({"k": pa.array(range(100))}), Path("a"))
    with pytest.raises(DataError, match="of the values repeat"):
        for _ in range(3):
            watch.see(pa.table({"k": pa.array(range(50_000))}), Path("a"))


def test_inspect_prints_and_writes_nothing(tmp_path: Path, seo_rec: Callable[..., Any]) -> None:
    raw = write(tmp_path / "t.csv")
    arguments = ("prepare", "table", "--raw", raw, "--label", "y", "--time", "seen")
    done = seo_rec(*arguments, "--inspect", "--kind", "zip=numeric")
    assert done.code == 0, done.err
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    assert "all 240 rows" in lines["columns,"] and "seen (time)" in lines["columns,"]
    assert "categorical" in lines["user"] and "60" in lines["user"]
    assert "named by --kind" in lines["zip"] and "numeric" in lines["zip"]
    assert "left out" in lines["key"] and "each of 240 rows has another value" in lines["key"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv"]
    assert seo_rec(*arguments).code == 2
    done = seo_rec(*arguments, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "each of 240 rows" in done.out
    assert json.loads((tmp_path / "out" / "schema.json").read_text())["time"] == "seen"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "zip"], "allowed: COLUMN=KIND"),
        (["--categorical", "user", "--inspect"], "--inspect shows what is inferred"),
        (["--test", "b.csv"], "--val or --test is given without --train"),
        (["--train", "b.csv", "--raw", "a.csv"], "use one of the two ways"),
        (["--split-column", "fold", "--seed", "3"], "leave out --split"),
        (["--buckets", "8"], "--buckets with these numbers would be ignored"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    arguments: list[str], message: str, tmp_path: Path, seo_rec: Callable[..., Any]
) -> None:
    done = seo_rec("prepare", "table", "--label", "y", "--out", tmp_path / "out", *arguments)
    assert done.code == 2
    assert message in done.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "label", "left_out"),
    [
        ("retrosheet/plate_appearances.parquet", "strikeout", {"date"}),
        ("flights/flights.parquet", "late", {"date", "date_origin"}),
        ("avazu-sample/train.csv", "click", {"id", "hour"}),
    ],
)
def test_real_tables(name: str, label: str, left_out: set[str]) -> None:
    found = infer_table(real_data(name), TableColumns(label))
    assert {d.name for d in found.decisions if d.kind == "drop"} == left_out
    assert found.rows <= sample.SAMPLE_ROWS + 16
