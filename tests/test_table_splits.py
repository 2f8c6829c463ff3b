"""Splits by time, by a column, by files and by group; every row once, in one split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seo_rec.data import time_order
from seo_rec.data.dataset import open_data
from seo_rec.data.rawfile import BadRows
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.data.times import time_of
from seo_rec.schema import SPLITS, DataError

TEMPORAL = Split("temporal", fractions=(0.6, 0.2, 0.2))
ROWS = 3000


def rows_of(data: Path) -> dict[str, dict[str, list[Any]]]:
    return {split: pq.read_table(data / split).to_pydict() for split in SPLITS}


# --- by time ------------------------------------------------------------------------------------


def hours(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    return rng.integers(0, 24 * 300, ROWS)


FORMS = {
    "number": lambda hour: f"{hour / 8}",
    "epoch": lambda hour: str(1_700_000_000 + 3600 * hour),
    "date": lambda hour: str(np.datetime64("2026-01-01", "h") + hour)[:13] + ":00:00+00:00",
    "day": lambda hour: str((np.datetime64("2026-01-01", "h") + hour).astype("M8[D]")),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("part_rows", [1 << 19, 250])
def test_rows_are_put_in_order_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, part_rows: int
) -> None:
    monkeypatch.setattr(time_order, "PART_ROWS", part_rows)
    cells = [FORMS[form](int(hour)) for hour in hours(np.random.default_rng(0))]
    lines = [f"{i % 2},{i},{cell}" for i, cell in enumerate(cells)]
    (tmp_path / "t.csv").write_text("y,u,t\n" + "\n".join(lines) + "\n")
    columns = TableColumns("y", categorical=("u",), time="t")
    schema = prepare_table(tmp_path / "t.csv", tmp_path / "out", columns=columns, split=TEMPORAL)
    # the reference: sort by the text or number, cut at the shares, keep equal times together
    keys = np.array([float(c) for c in cells] if form in ("number", "epoch") else cells)
    order = np.argsort(keys, kind="stable")
    first, second = keys[order[round(0.6 * ROWS)]], keys[order[round(0.8 * ROWS)]]
    want = {
        "train": [int(i) for i in order if keys[i] < first],
        "val": [int(i) for i in order if first <= keys[i] < second],
        "test": [int(i) for i in order if keys[i] >= second],
    }
    found = rows_of(tmp_path / "out")
    assert {split: found[split]["u"] for split in SPLITS} == want
    assert schema.time == "t" and schema.split["time"] == "t"
    assert schema.split["starts"] == [time_of(str(first)), time_of(str(second))]
    for split, rows in found.items():
        assert rows["t"] == [time_of(cells[i]) for i in want[split]]
        assert rows["t"] == sorted(rows["t"])
    assert open_data(tmp_path / "out").verify_all()
    batches = open_data(tmp_path / "out").stream("val", batch_size=100)
    assert [i for b in batches for i in b.sparse["u"].values().tolist()] == want["val"]


def test_timestamps_of_parquet_are_seconds(tmp_path: Path) -> None:
    at = np.array(["2026-01-01T00:00:00", "2026-01-01T00:00:01.5", "1969-12-31T23:59:59"], "M8[us]")
    cells = {"y": [0, 1, 0], "u": [0, 1, 2], "t": pa.array(at)}
    pq.write_table(pa.table(cells), tmp_path / "t.parquet")
    everything = Split("temporal", fractions=(1.0, 0.0, 0.0))
    columns = TableColumns("y", categorical=("u",), time="t")
    prepare_table(tmp_path / "t.parquet", tmp_path / "out", columns=columns, split=everything)
    rows = rows_of(tmp_path / "out")["train"]
    assert rows["t"] == [-1.0, 1767225600.0, 1767225601.5]
    assert rows["u"] == [2, 0, 1]


def test_what_a_time_is() -> None:
    for text, seconds in [
        ("12.5", 12.5), ("1970-01-02", 86400), ("1970-01-01 01:00", 3600), ("nan", None),
        ("1970-01-01T01:00:00+01:00", 0), ("1970-01-01T00:00:00Z", 0), ("1970/01/02", 86400),
        ("", None), ("soon", None), ("2026-13-01", None), ("1_000", None), ("inf", None),
    ]:  # fmt: skip
        assert time_of(text) == seconds, text


def test_a_row_without_a_time_is_bad(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("y,u,t\n0,1,5\n1,2,\n1,3,later\n0,4,1\n")
    columns = TableColumns("y", categorical=("u",), time="t")
    with pytest.raises(DataError, match=r"line 3, column 't': not a time, got ''; give a number"):
        prepare_table(tmp_path / "t.csv", tmp_path / "out", columns=columns, split=TEMPORAL)
    schema = prepare_table(
        tmp_path / "t.csv", tmp_path / "out", columns=columns, split=TEMPORAL,
        bad_rows=BadRows("skip"),
    )  # fmt: skip
    assert sum(schema.num_rows.values()) == 2
    assert schema.options["bad_rows"]["skipped"] == 2


# --- by a column and by files -------------------------------------------------------------------


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_column_says_the_split(tmp_path: Path, form: str) -> None:
    words = ["train", "Validation", "TEST", "dev"]
    rows = {"y": [i % 2 for i in range(40)], "u": list(range(40)), "fold": words * 10}
    raw = tmp_path / f"t.{form}"
    if form == "csv":
        lines = [f"{y},{u},{f}" for y, u, f in zip(*rows.values(), strict=True)]
        raw.write_text("y,u,fold\n" + "\n".join(lines) + "\n")
    else:
        pq.write_table(pa.table(rows), raw)
    columns = TableColumns("y", categorical=("u",), split_column="fold")
    schema = prepare_table(raw, tmp_path / "out", columns=columns)
    found = rows_of(tmp_path / "out")
    assert found["train"]["u"] == list(range(0, 40, 4))
    assert found["val"]["u"] == [i for i in range(40) if i % 4 in (1, 3)]
    assert found["test"]["u"] == list(range(2, 40, 4))
    assert schema.split == {"rule": "column", "column": "fold"}
    assert set(found["train"]) == {"u", "y"}
    bad = tmp_path / "bad.csv"
    bad.write_text("y,u,fold\n0,1,train\n1,2,later\n")
    with pytest.raises(DataError, match=r"line 3, column 'fold': not the name of a split"):
        prepare_table(bad, tmp_path / "bad", columns=columns)


def test_files_are_the_splits(tmp_path: Path) -> None:
    files = {}
    for split, first in (("train", 0), ("val", 50), ("test", 70)):
        path = tmp_path / f"{split}.csv"
        lines = [f"{i % 2},{i}" for i in range(first, first + 20)]
        path.write_text("y,u\n" + "\n".join(lines) + "\n")
        files[split] = [path]
    schema = prepare_table(files, tmp_path / "out", columns=TableColumns("y", categorical=("u",)))
    found = rows_of(tmp_path / "out")
    assert [found[split]["u"][0] for split in SPLITS] == [0, 50, 70]
    assert schema.split["files"] == {split: [f"{split}.csv"] for split in SPLITS}
    assert schema.vocab_size("u") == 20
    with pytest.raises(DataError, match=r"files are given for \['later'\]"):
        prepare_table({"later": files["val"]}, tmp_path / "x", columns=TableColumns("y", ("u",)))
    both = TableColumns("y", ("u",), split_column="u2")
    with pytest.raises(DataError, match="files of their own"):
        prepare_table(files, tmp_path / "x", columns=both)


# --- by group -----------------------------------------------------------------------------------


def test_no_group_is_in_two_splits(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    users = rng.zipf(1.3, ROWS) % 700
    lines = [f"{i % 2},u{u},{i}" for i, u in enumerate(users)]
    (tmp_path / "t.csv").write_text("y,u,i\n" + "\n".join(lines) + "\n")
    columns = TableColumns("y", categorical=("u", "i"), group="u")
    split = Split(seed=7, fractions=(0.6, 0.2, 0.2))
    schema = prepare_table(tmp_path / "t.csv", tmp_path / "out", columns=columns, split=split)
    found = rows_of(tmp_path / "out")
    where = {split: set(found[split]["u"]) for split in SPLITS}
    assert (
        not where["train"] & where["val"]
        | where["train"] & where["test"]
        | (where["val"] & where["test"])
    )
    assert sum(schema.num_rows.values()) == ROWS and min(schema.num_rows.values()) > 0
    groups = sum(map(len, where.values()))
    assert len(where["train"]) == pytest.approx(0.6 * groups, abs=4 * groups**0.5)
    assert schema.split["group"] == "u"
    other = Split(seed=8, fractions=(0.6, 0.2, 0.2))
    prepare_table(tmp_path / "t.csv", tmp_path / "other", columns=columns, split=other)
    assert set(rows_of(tmp_path / "other")["train"]["u"]) != where["train"]
    with pytest.raises(DataError, match="cannot keep groups together"):
        prepare_table(tmp_path / "t.csv", tmp_path / "x", columns=columns, split=TEMPORAL)


def test_roles_that_clash_are_refused() -> None:
    for roles in ({"time": "u"}, {"split_column": "y"}, {"weight": "u"}, {"group": "y"}):
        with pytest.raises(DataError, match="give each one role"):
            TableColumns("y", categorical=("u",), **roles)
