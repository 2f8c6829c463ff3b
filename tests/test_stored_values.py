"""Raw files with values that have no use, or stored in ways that few programs choose."""

from __future__ import annotations

import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seo_rec.cli.inspection import inspection
from seo_rec.data.rawfile import BadRows
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, infer_table, prepare_table
from seo_rec.data.tokens import token_id
from seo_rec.schema import DataError

ALL = Split(fractions=(1, 0, 0))
UUIDS = [uuid.UUID(int=i) for i in (7, 2**128 - 1, 0x0123456789ABCDEF << 60)]


def parquet(folder: Path, **columns: Any) -> Path:
    path = folder / "a.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def column_of(raw: Path, name: str, columns: TableColumns, **more: Any) -> list[Any]:
    out = raw.parent / "data"
    prepare_table(raw, out, columns=columns, split=ALL, **more)
    found: list[Any] = pq.read_table(out / "train/part-00000.parquet")[name].to_pylist()
    return found


@pytest.mark.parametrize("inferred", [True, False])
def test_a_uuid_is_its_text(tmp_path: Path, inferred: bool) -> None:
    """As a program that writes CSV shows it, in whatever way Parquet stores it."""
    stored = pa.array([u.bytes for u in UUIDS] + [None], pa.binary(16))
    ids = pa.ExtensionArray.from_storage(pa.uuid(), stored)
    raw = parquet(tmp_path, y=[0, 1, 0, 1], u=ids)
    columns = TableColumns("y") if inferred else TableColumns("y", ("u",))
    found = column_of(raw, "u", columns)
    assert found[:3] == [token_id(str(u)) for u in UUIDS]
    assert len(set(found)) == 4


def test_bytes_of_a_fixed_size_are_bytes(tmp_path: Path) -> None:
    raw = parquet(tmp_path, y=[0, 1, 1], u=pa.array([b"ab", b"cd", None], pa.binary(2)))
    assert column_of(raw, "u", TableColumns("y"))[:2] == [token_id("ab"), token_id("cd")]


@pytest.mark.parametrize(
    ("part", "fix"),
    [("label", "give another one"), ("time", "give another one"), ("weight", "give another one"),
     ("group", "give another one"), ("u", "name it by --multivalent")],
)  # fmt: skip
def test_a_list_is_no_single_value(tmp_path: Path, part: str, fix: str) -> None:
    """The error names the column; the file is not called damaged."""
    lists = pa.array([[1], [0]])
    raw = parquet(tmp_path, label=lists if part == "label" else [1, 0], x=lists, u=[1, 2])
    given: dict[str, Any] = {"label": "label", "categorical": ("x" if part == "u" else "u",)}
    if part not in ("label", "u"):
        given[part] = "x"
    name = "label" if part == "label" else "x"
    message = rf"column '{name}' has type list<.*>; one value in a row is needed here; {fix}"
    with pytest.raises(DataError, match=message):
        prepare_table(raw, tmp_path / "out", columns=TableColumns(**given), split=ALL)


@pytest.mark.parametrize(
    "lists",
    [
        pa.array([[1.0, 2.0], [1.5, 2.0], None, []]),
        pa.array([[1.0, 2.0], [2.0, 1.5], None, []], pa.large_list(pa.float32())),
        pa.array([[1.0, 2.0], [1.5, 2.0], None, [3.0, 4.0]], pa.list_(pa.float64(), 2)),
        pa.array([[Decimal("1.0"), Decimal(2)], [Decimal("1.5"), Decimal(2)], None, []]),
    ],
    ids=lambda lists: str(lists.type),
)
def test_a_list_with_a_number_that_is_not_whole_is_a_bad_row(tmp_path: Path, lists: Any) -> None:
    raw = parquet(tmp_path, y=[1, 0, 1, 0], m=lists, u=[1, 2, 3, 4])
    columns = TableColumns("y", ("u",), multivalent=("m",))
    with pytest.raises(DataError, match=r"row 2, column 'm': a number in the list is not whole"):
        column_of(raw, "m", columns)
    found = column_of(raw, "m", columns, bad_rows=BadRows("skip"))
    assert found[:2] == [[1, 2], []] and len(found) == 3


def test_lists_of_measured_numbers_are_left_out(tmp_path: Path) -> None:
    raw = parquet(tmp_path, y=[1, 0], v=[[0.5, 0.25], [1.0, 2.0]], w=[[1.0], [2.0]], u=["a", "b"])
    decided = {d.name: (d.kind, d.reason) for d in infer_table(raw, TableColumns("y")).decisions}
    assert decided["v"] == ("drop", "lists of numbers with decimal places have no use here")
    assert decided["w"][0] == "multivalent"


@pytest.mark.parametrize("given", [{}, {"categorical": ("u",)}, {"multivalent": ("u",)}])
def test_text_in_another_encoding_is_a_bad_row(tmp_path: Path, given: dict[str, Any]) -> None:
    """Its ids would be other ones than the same text has in every other file."""
    raw = tmp_path / "a.csv"
    raw.write_bytes("y,u,v\n1,über,1\n0,été,2\n".encode("latin-1") + "1,été,3\n".encode())
    with pytest.raises(DataError, match=r"line 2, column 'u': not UTF-8, .*; convert the file to"):
        prepare_table(raw, tmp_path / "out", columns=TableColumns("y", **given), split=ALL)
    skip = BadRows("skip")
    (found,) = column_of(raw, "u", TableColumns("y", **given), bad_rows=skip)
    assert found == ([token_id("été")] if "multivalent" in given else token_id("été"))


def test_other_columns_may_be_in_any_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("y,u,v\n1,a,über\n0,b,été\n".encode("latin-1"))
    assert len(column_of(tmp_path / "a.csv", "u", TableColumns("y", ("u",)))) == 2


def test_what_is_printed_keeps_its_lines_and_names_bad_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('y,"p\nq",t\n1,1,a\n0,2\n0,3,b\n')
    shown = inspection(infer_table(tmp_path / "a.csv", TableColumns("y"))).splitlines()
    assert len(shown) == 6
    assert shown[0].startswith("columns, from all 2 rows")
    assert "left out, as a bad row: " in shown[1] and "line 4: the line has 2 columns" in shown[1]
    assert shown[3].startswith(r"  p\nq")


def test_truth_in_several_forms_is_a_boolean(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("y,b\n1,True\n0,true\n1,FALSE\n0,False\n")
    (found,) = infer_table(tmp_path / "a.csv", TableColumns("y")).decisions
    assert (found.kind, found.what, found.reason) == (
        "categorical", "boolean", "holds FALSE, False, True and true only",
    )  # fmt: skip
