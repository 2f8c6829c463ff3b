"""Rows that another program wrote become a prepared data set, or an error that names the place."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seo_rec.data.dataset import open_data
from seo_rec.data.imported import import_folder
from seo_rec.data.synthetic import synthetic
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.data.vocabulary import read_vocabulary
from seo_rec.schema import SPLITS, DataError, Schema, document_digest, read_schema

PAGE = Path(__file__).resolve().parent.parent / "docs" / "prepared-format.md"


def write_rows(folder: Path, number: int = 50, **columns: Any) -> Path:
    """A training split of another writer."""
    rng = np.random.default_rng(0)
    table = {
        "label": pa.array(rng.integers(0, 2, number), pa.float32()),
        "user": pa.array(rng.integers(0, 9, number), pa.int64()),
        "price": pa.array(rng.random(number), pa.float32()),
        "tags": pa.array([[int(i), 7] for i in range(number)], pa.list_(pa.int64())),
    }
    (folder / "train").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**table, **columns}), folder / "train" / "part-00000.parquet")
    return folder


def test_the_rows_of_a_prepared_data_set_give_it_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    synthetic(data, rows=3_000, multivalent=1, missing_rate=0.1)
    before = read_schema(data)
    vocabularies = {p.name: p.read_bytes() for p in (data / "vocabulary").iterdir()}
    (data / "schema.json").unlink()
    shutil.rmtree(data / "vocabulary")
    after = import_folder(data)
    assert (after.columns, after.num_rows) == (before.columns, before.num_rows)
    assert after.label_rate == before.label_rate
    assert after.files == before.files
    assert {p.name: p.read_bytes() for p in (data / "vocabulary").iterdir()} == vocabularies
    assert read_schema(data) == after
    open_data(data).verify_all()


def test_what_is_written_follows_from_the_rows(tmp_path: Path) -> None:
    folder = write_rows(tmp_path / "d", 4, user=pa.array([5, None, 5, 2**62], pa.int64()))
    schema = import_folder(folder)
    assert [(c.name, c.kind, c.vocab_size, c.lookups_per_row) for c in schema.columns] == [
        ("user", "categorical", 2, 0.75),
        ("price", "numeric", None, 1.0),
        ("tags", "multivalent", 5, 2.0),
    ]
    assert schema.num_rows == {"train": 4, "val": 0, "test": 0}
    ids, counts = read_vocabulary(folder, "user")
    assert (ids.tolist(), counts.tolist()) == ([5, 2**62], [2, 1])
    document = json.loads((folder / "schema.json").read_text())
    assert document.pop("sha256") == document_digest(document)


def test_an_outline_says_more(tmp_path: Path) -> None:
    folder = write_rows(tmp_path / "d").rename(tmp_path / "e")
    columns = [{"name": n, "kind": k} for n, k in (("price", "numeric"), ("tags", "multivalent"),
                                                   ("user", "categorical"))]  # fmt: skip
    outline = {"dataset": "shop", "columns": columns, "options": {"query": "q7"}}
    (folder / "schema.json").write_text(json.dumps(outline))
    schema = import_folder(folder)
    assert [c.name for c in schema.columns] == ["price", "tags", "user"]
    assert (schema.dataset, schema.options["query"]) == ("shop", "q7")


def test_files_of_other_names_are_renamed_in_order(tmp_path: Path) -> None:
    folder = write_rows(tmp_path / "d", 3)
    shard = folder / "train" / "part-00000.parquet"
    for name, user in (("b_1", 2), ("a_9", 1)):
        write_rows(folder, 3, user=pa.array([user] * 3, pa.int64()))
        shard.rename(folder / "train" / f"{name}.parquet")
    (folder / "train" / "_SUCCESS").touch()
    import_folder(folder)
    batches = list(open_data(folder).stream("train", batch_size=6))
    assert batches[0].sparse["user"].values().tolist() == [1, 1, 1, 2, 2, 2]


def test_other_rows_are_other_data(tmp_path: Path) -> None:
    """Also where all counts are equal."""
    prints = []
    for users in ([1, 2, 3, 4], [1, 2, 4, 3]):
        folder = write_rows(tmp_path / str(users), 4, user=pa.array(users, pa.int64()))
        prints.append(import_folder(folder).fingerprint)
    assert prints[0] != prints[1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": pa.array(["a"] * 50)}, "column 'user' is string; allowed: int64"),
        ({"user": pa.array([-1] * 50, pa.int64())}, "'user' has the id -1; allowed: 0 or more"),
        ({"price": pa.array([np.inf] * 50, pa.float32())}, "NaN or infinite numbers"),
        ({"price": pa.array([None] * 50, pa.float32())}, "50 nulls"),
        ({"label": pa.array([2.0] * 50, pa.float32())}, "labels other than 0 and 1"),
        ({"tags": pa.array([[None]] * 50, pa.list_(pa.int64()))}, "50 nulls inside its lists"),
        ({"label": pa.array([1] * 50, pa.int64())}, "a label column must be float32"),
    ],
)
def test_rows_outside_the_format_are_named(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    folder = write_rows(tmp_path / "d", **columns)
    with pytest.raises(DataError, match=message) as caught:
        import_folder(folder)
    assert "part-00000.parquet" in str(caught.value)
    assert not (folder / "schema.json").exists()


def _torn(folder: Path) -> None:
    path = folder / "train" / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-9])


def _other_columns(folder: Path) -> None:
    (folder / "val").mkdir()
    pq.write_table(pa.table({"label": pa.array([1.0], pa.float32())}),
                   folder / "val" / "part-00000.parquet")  # fmt: skip


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no rows": (lambda f: write_rows(f, 0), "there are no rows"),
    "no files": (lambda f: (f / "train" / "part-00000.parquet").unlink(), "no part-"),
    "torn": (_torn, "not readable as Parquet"),
    "columns differ": (_other_columns, "the columns do not match"),
    "complete": (import_folder, "the data set is complete"),
    "left over": (lambda f: (f / "vocabulary").mkdir() or (f / "vocabulary" / "x").touch(),
                  "belong to no column"),
    "outline": (lambda f: (f / "schema.json").write_text('{"rows": 1}'), "unknown keys"),
    "kind": (lambda f: (f / "schema.json").write_text(
        '{"columns": [{"name": "user", "kind": "id"}]}'), "has kind 'id'"),
    "column": (lambda f: (f / "schema.json").write_text('{"columns": [3]}'), "a column is 3"),
    "json": (lambda f: (f / "schema.json").write_text("{"), "not valid JSON"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_folders_outside_the_format_are_named(tmp_path: Path, fault: str) -> None:
    folder = write_rows(tmp_path / "d")
    damage, message = FAULTS[fault]
    damage(folder)
    with pytest.raises(DataError, match=message):
        import_folder(folder)


def test_without_vocabularies_sizes_are_estimated(tmp_path: Path) -> None:
    schema = import_folder(write_rows(tmp_path / "d"), counted=False)
    assert schema.vocab_size("user") == 9
    assert not (tmp_path / "d" / "vocabulary").exists()


def labelled(folder: Path, **columns: Any) -> Schema:
    """Rows of a table that is prepared, and then imported as those of another writer."""
    rng = np.random.default_rng(1)
    price = rng.normal(10, 3, 400).astype(np.float32)
    raw = {"u": rng.integers(0, 9, 400), "x": rng.random(400), "price": price}
    raw |= {"a": rng.integers(0, 2, 400), "b": rng.integers(0, 2, 400)}
    pq.write_table(pa.table(raw), folder / "raw.parquet")
    chosen = TableColumns(categorical=("u",), numeric=("x",), **columns)
    before = prepare_table(folder / "raw.parquet", folder / "data", columns=chosen)
    (folder / "data" / "schema.json").unlink()
    return before


WRITTEN = ("columns", "num_rows", "label", "label_rate", "label_kind", "label_std", "more_labels",
           "more_label_rates", "files")  # fmt: skip


@pytest.mark.parametrize("outlined", [False, True])
def test_several_labels_are_labels_and_no_features(tmp_path: Path, outlined: bool) -> None:
    before = labelled(tmp_path, label="a", more_labels=("b",))
    if outlined:
        outline = {"label": "a", "more_labels": ["b"]}
        (tmp_path / "data/schema.json").write_text(json.dumps(outline))
    after = import_folder(tmp_path / "data", label=None if outlined else ("a", "b"))
    assert [getattr(after, n) for n in WRITTEN] == [getattr(before, n) for n in WRITTEN]
    assert after.more_label_rates["b"]["train"] not in (0.0, after.label_rate["train"])
    open_data(tmp_path / "data").verify_all()


@pytest.mark.parametrize("outlined", [False, True])
def test_a_label_may_be_any_number(tmp_path: Path, outlined: bool) -> None:
    before = labelled(tmp_path, label="price", task="regression")
    if outlined:
        outline = {"label": "price", "label_kind": "regression"}
        (tmp_path / "data/schema.json").write_text(json.dumps(outline))
    given = {} if outlined else {"label": "price", "task": "regression"}
    after = import_folder(tmp_path / "data", **given)
    exact = [n for n in WRITTEN if n not in ("label_rate", "label_std")]
    assert [getattr(after, n) for n in exact] == [getattr(before, n) for n in exact]
    for name in SPLITS:  # sums of other blocks
        assert after.label_rate[name] == pytest.approx(before.label_rate[name], rel=1e-12)
        assert after.label_std[name] == pytest.approx(before.label_std[name], rel=1e-9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"label": ("a", "c")}, "no column 'c' of labels"),
        ({"label": ("a", "price")}, "column 'price' has labels other than 0 and 1"),
        ({"label": ("a", "a")}, "seen more than once: \\['a'\\]"),
        ({"label": "price", "task": "ranking"}, "label_kind is 'ranking'; allowed"),
        ({"label": ("a", "b"), "task": "regression"}, "several labels are regression"),
    ],
)
def test_labels_outside_the_format_are_named(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    labelled(tmp_path, label="a", more_labels=("b",))
    shard = tmp_path / "data/train/part-00000.parquet"
    rows = pq.read_table(shard)
    price = pa.array(np.arange(len(rows), dtype=np.float32))
    pq.write_table(rows.append_column("price", price), shard)
    for split in ("val", "test"):
        shutil.rmtree(tmp_path / "data" / split)
    with pytest.raises(DataError, match=message):
        import_folder(tmp_path / "data", **given)
    assert not (tmp_path / "data/schema.json").exists()


def test_the_command(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from seo_rec.cli.main import app

    folder = write_rows(tmp_path / "d")
    bad = CliRunner().invoke(app, ["prepare", "import", str(folder), "--label", "y"])
    assert bad.exit_code == 2
    assert "no column 'y' of labels" in bad.stderr
    good = CliRunner().invoke(app, ["prepare", "import", str(folder)])
    assert good.exit_code == 0, good.stderr
    assert "50 rows" in good.stdout
    other = write_rows(tmp_path / "e", other=pa.array([0.0, 1.0] * 25, pa.float32()))
    labels = ["--label", "label", "--label", "other"]
    several = CliRunner().invoke(app, ["prepare", "import", str(other), *labels])
    assert several.exit_code == 0 and "label rates label 0." in several.stdout, several.stderr
    numbers = ["--label", "price", "--task", "regression"]
    price = CliRunner().invoke(
        app, ["prepare", "import", str(write_rows(tmp_path / "f")), *numbers]
    )
    assert price.exit_code == 0 and "mean label 0." in price.stdout, price.stderr
    checked = CliRunner().invoke(app, ["prepare", "verify", str(folder)])
    assert checked.exit_code == 0, checked.stderr


# ---- the examples of the page --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "folder"),
    [("duckdb", "duck"), pytest.param("ray", "ray", marks=pytest.mark.slow), ("polars", "polars")],
)
def test_an_example_of_the_page_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, folder: str
) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (code,) = (block for block in blocks if f"import {library}\n" in block or
               f"import {library} as" in block)  # fmt: skip
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    clicks = {
        "row_id": np.arange(1_000),
        "clicked": rng.integers(0, 2, 1_000),
        "price": rng.random(1_000),
        "user_id": rng.integers(0, 99, 1_000),
        "tags": [[int(i)] * (i % 3) for i in range(1_000)],
    }
    pq.write_table(pa.table(clicks), "clicks.parquet")
    for split in SPLITS:
        Path("duck", split).mkdir(parents=True)
    exec(code, {"__name__": "example"})
    schema = import_folder(folder)
    assert sum(schema.num_rows.values()) == 1_000
    assert min(schema.num_rows.values()) > 50
    assert {c.name for c in schema.columns} >= {"price", "user_id"}
    total = sum(
        float(batch.labels_B.sum())
        for split in SPLITS
        for batch in open_data(folder).stream(split, batch_size=500)
    )
    assert total == clicks["clicked"].sum()
