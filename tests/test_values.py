"""One value has one id, in whatever form and format a file stores it (docs/data.md)."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seo_rec import recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.like import LikeTable, prepare_like
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.data.tokens import TOKEN_RULE, VALUE_RULE, token_id
from seo_rec.data.values import one_form
from seo_rec.export.preparation import preparation_of
from seo_rec.model import ModelSettings
from seo_rec.runs import RunError
from seo_rec.schema import DataError, read_schema, write_schema
from seo_rec.serve.preparation import Preparation
from seo_rec.settings import FitSettings, Training

ALL = Split(fractions=(1, 0, 0))
UTC, NOON = dt.UTC, dt.datetime(2024, 1, 2, 12, 30)
DAY, MIDNIGHT = dt.date(2024, 1, 2), dt.datetime(2024, 1, 2)
EAST = dt.timezone(dt.timedelta(hours=5))

# by the text that the id is made of: cells of a CSV file, and Parquet columns, of one value
VALUES: dict[str, tuple[list[str], list[Any]]] = {
    "7": (
        ["7", "7.0", "7.00", "7.", '"7.0"'],
        [
            *(pa.array([7]).cast(t) for t in (pa.int8(), pa.uint64(), pa.float32(), pa.float64())),
            pa.array([7.0], pa.float32()).cast(pa.float16()),
            *(pa.array([Decimal("7.00")], t) for t in (pa.decimal128(5, 2), pa.decimal256(40, 2))),
            pa.array([Decimal(7)], pa.decimal128(5, 0)),
            *(pa.array([x]) for x in ("7", "7.0", b"7", b"7.00")),
            *(pa.array(["7.0"]).cast(t) for t in (pa.large_string(), pa.string_view())),
            *(pa.array([x]).dictionary_encode() for x in (7, "7", "7.0")),
        ],
    ),
    "700": (["700", "700.0"], [pa.array([700.0]), pa.array([Decimal("700.00")])]),
    "-7": (["-7", "-7.0"], [pa.array([-7]), pa.array([-7.0]), pa.array([Decimal("-7.0")])]),
    "0": (["0", "0.0", "-0", "-0.0"], [pa.array([-0.0]), pa.array([0])]),
    "1234567890123456789": (
        ["1234567890123456789", "1234567890123456789.0"],
        [pa.array([1234567890123456789]), pa.array([Decimal("1234567890123456789.0")])],
    ),
    "1": (["True", "true", "TRUE", "1"], [pa.array([True]), pa.array(["True"]), pa.array([1])]),
    "False": (["False", "false", "0.0"], [pa.array([False]), pa.array(["FALSE"])]),
    "2024-01-02": (
        ["2024-01-02", "2024-01-02 00:00:00", "2024-01-02T00:00:00.000"],
        [
            pa.array([DAY], pa.date32()),
            pa.array([DAY], pa.date64()),
            *(pa.array([MIDNIGHT], pa.timestamp(unit)) for unit in ("s", "ms", "us", "ns")),
            pa.array(["2024-01-02"]),
        ],
    ),
    "2024-01-02 12:30:00": (
        ["2024-01-02 12:30:00", "2024-01-02T12:30:00", "2024-01-02 12:30:00.000000"],
        [pa.array([NOON], pa.timestamp(unit)) for unit in ("s", "ms", "us", "ns")],
    ),
    "2024-01-02 12:30:00.25": (
        ["2024-01-02 12:30:00.25", "2024-01-02T12:30:00.250"],
        [pa.array([NOON.replace(microsecond=250_000)], pa.timestamp(u)) for u in ("ms", "us")],
    ),
    "2024-01-02 12:30:00Z": (
        ["2024-01-02 12:30:00Z", "2024-01-02T12:30:00+00:00", "2024-01-02 12:30:00.0+0000"],
        [
            pa.array([NOON.replace(tzinfo=UTC)], pa.timestamp("us", "UTC")),
            pa.array([NOON.replace(tzinfo=UTC).astimezone(EAST)], pa.timestamp("s", "+05:00")),
        ],
    ),
}  # fmt: skip
# text that is no other form of a value: versions, codes with leading zeros, blanks, words
AS_IT_IS = ["1.50", "1.10", "1.1", "01", "01.0", "+7", " 7", "7.0.0", ".0", "1e3", "yes", "tRue",
            "Trueish", "-", "2024-01-02 12:30", "2024-1-2T00:00:00", "nan", "7,0"]  # fmt: skip


def wanted(text: str) -> int:
    return token_id("0" if text == "False" else text)


def ids(raw: Path, kind: str = "categorical", **more: Any) -> Any:
    out = raw.parent / f"{raw.name}.data"
    prepare_table(raw, out, columns=TableColumns("y", **{kind: ("u",)}, **more), split=ALL)
    return pq.read_table(out / "train/part-00000.parquet")["u"].to_pylist()


@pytest.mark.parametrize("text", VALUES)
def test_a_value_has_one_id_in_every_form(text: str, tmp_path: Path) -> None:
    cells, arrays = VALUES[text]
    found = {}
    (tmp_path / "a.csv").write_text("y,u\n" + "".join(f"1,{c}\n" for c in cells))
    found |= dict(zip(cells, ids(tmp_path / "a.csv"), strict=True))
    for i, array in enumerate(arrays):
        pq.write_table(pa.table({"y": [1], "u": array}), tmp_path / f"{i}.parquet")
        (found[f"{array.type} {i}"],) = ids(tmp_path / f"{i}.parquet")
    assert found == dict.fromkeys(found, wanted(text))


def test_text_that_only_looks_like_a_value_stays(tmp_path: Path) -> None:
    rows = "".join(f'1,"{text}"\n' for text in AS_IT_IS)
    (tmp_path / "a.csv").write_text("y,u\n" + rows)
    found = ids(tmp_path / "a.csv")
    assert found == [token_id(text) for text in AS_IT_IS]
    assert len(set(found)) == len(found)
    odd = [b"\xff7.0", b"7.0\n", b"a\n7.0", None, b""]
    assert one_form(pa.array(odd)).to_pylist() == odd


def test_lists_and_split_text_follow_the_rule(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("y,u\n1,7.0|True|\n0,|x\n1,\n")
    assert ids(tmp_path / "a.csv", "multivalent") == [[7, 1], [token_id("x")], []]
    lists = pa.array([[7.0, 1.0], [], None], pa.list_(pa.float64()))
    pq.write_table(pa.table({"y": [1, 0, 1], "u": lists}), tmp_path / "a.parquet")
    assert ids(tmp_path / "a.parquet", "multivalent") == [[7, 1], [], []]


def test_a_bad_row_leaves_the_others_their_ids(tmp_path: Path) -> None:
    """The exact way of reading, which a bad row asks for, gives the ids of the fast one."""
    from seo_rec.data.rawfile import BadRows

    (tmp_path / "a.csv").write_text("y,u\n1,7.0\nx,8\n0,True\n")
    out = tmp_path / "d"
    columns = TableColumns("y", ("u",))
    prepare_table(tmp_path / "a.csv", out, columns=columns, split=ALL, bad_rows=BadRows("skip"))
    assert pq.read_table(out / "train/part-00000.parquet")["u"].to_pylist() == [7, 1]


@pytest.mark.parametrize(
    "array, shown",
    [(pa.array([1.0, 1.5]), "'1.5'"), (pa.array([Decimal("1.00"), Decimal("1.50")]), "'1.50'")],
)
def test_a_number_that_is_not_whole_is_refused(tmp_path: Path, array: Any, shown: str) -> None:
    pq.write_table(pa.table({"y": [1, 0], "u": array}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=rf"row 2, column 'u': not a whole number, got {shown}"):
        ids(tmp_path / "a.parquet")


@pytest.mark.parametrize("array", [pa.array([dt.time(1)]), pa.array([dt.timedelta(1)])])
def test_a_type_without_a_form_is_refused(tmp_path: Path, array: Any) -> None:
    pq.write_table(pa.table({"y": [1], "u": array}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"column 'u' has type .*; allowed: text, integers"):
        ids(tmp_path / "a.parquet")


def test_groups_of_one_value_stay_together(tmp_path: Path) -> None:
    cells = [f"{i % 40}{'.0' if i % 3 else ''}" for i in range(400)]
    rows = "".join(f"{i % 2},{i},{c}\n" for i, c in enumerate(cells))
    (tmp_path / "a.csv").write_text("y,u,g\n" + rows)
    columns = TableColumns("y", ("u", "g"), group="g")
    prepare_table(tmp_path / "a.csv", tmp_path / "d", columns=columns)
    parts = [pq.read_table(p)["g"].to_pylist() for p in (tmp_path / "d").glob("*/part*.parquet")]
    groups = [set(p) for p in parts if p]
    assert len(groups) > 1 and sum(map(len, groups)) == len(set().union(*groups)) == 40


# ---- serving, and data of earlier releases --------------------------------------------------


def old_and_new(tmp_path: Path) -> tuple[Path, DataSet, DataSet]:
    rows = "".join(f"{i % 2},{i % 5}.0,{'7.0|x' if i % 2 else 'True'}\n" for i in range(200))
    raw = tmp_path / "a.csv"
    raw.write_text("y,u,m\n" + rows)
    made = []
    for name, rule in (("old", TOKEN_RULE), ("new", VALUE_RULE)):
        columns = TableColumns("y", ("u",), multivalent=("m",), token_rule=rule)
        prepare_table(raw, tmp_path / name, columns=columns)
        made.append(open_data(tmp_path / name))
    return raw, made[0], made[1]


def served_ids(data: DataSet, cells: Any) -> Any:
    whole = preparation_of(data, ("u", "m"))
    read = Preparation.from_json(json.loads(json.dumps(whole.to_json({}))), {}, "p")
    assert read == whole
    return read.encode(pa.table({"u": cells, "m": cells})).columns


def test_packages_follow_the_rule_of_their_data(tmp_path: Path) -> None:
    _, old, new = old_and_new(tmp_path)
    cells = pa.array(["3.0", "True", "x"])
    one = served_ids(new, cells)
    assert one["u"].ids.tolist() == one["m"].ids.tolist() == [3, 1, token_id("x")]
    before = served_ids(old, cells)
    kept = [token_id(t) for t in ("3.0", "True", "x")]
    assert before["u"].ids.tolist() == before["m"].ids.tolist() == kept
    hundreds = pa.array([Decimal("7E2")], pa.decimal128(5, -2))  # which Parquet cannot hold
    for cells, found in ((pa.array([3.0, 1.0]), [3, 1]), (hundreds, [700])):
        lists = pa.array([[] for _ in cells], pa.list_(pa.int64()))
        table = pa.table({"u": cells, "m": lists})
        assert preparation_of(new, ("u", "m")).encode(table).columns["u"].ids.tolist() == found


def test_later_rows_of_earlier_data_keep_their_rule(tmp_path: Path) -> None:
    raw, old, new = old_and_new(tmp_path)
    for data, rule in ((old, TOKEN_RULE), (new, VALUE_RULE)):
        out = tmp_path / f"like {data.path.name}"
        prepare_like(raw, out, LikeTable.of(data), split=ALL)
        later = open_data(out)
        assert later.schema.options["token_rule"] == rule
        np.testing.assert_array_equal(later.vocabulary("u"), data.vocabulary("u"))
    assert new.vocabulary("u").tolist() == [0, 1, 2, 3, 4]
    assert old.vocabulary("u").tolist() == sorted(token_id(f"{i}.0") for i in range(5))


def test_a_model_meets_ids_of_its_rule_only(tmp_path: Path) -> None:
    _, old, new = old_and_new(tmp_path)
    policy = recipes.method_policy("separate", old, 100, 4)
    fit = FitSettings(epochs=1, batch_size=50)
    recipes.train(old, policy, tmp_path / "run", Training(ModelSettings(hidden=(4,)), fit))
    assert recipes.evaluate_served(tmp_path / "run", old, "test").metrics.num_rows > 0
    with pytest.raises((DataError, RunError), match="prepared by other rules"):
        recipes.evaluate_served(tmp_path / "run", new, "test")


def test_an_unknown_rule_is_refused(tmp_path: Path) -> None:
    _, _, new = old_and_new(tmp_path)
    schema = read_schema(new.path)
    schema.options["token_rule"] = "another one"  # type: ignore[index]
    write_schema(new.path, schema)
    with pytest.raises(DataError, match="ids by another rule"):
        LikeTable.of(open_data(new.path))
