"""The opened data set: read once, handed on, and equal to its files."""

from __future__ import annotations

import builtins
import io
import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from patience import PATIENCE
from seo_rec import recipes
from seo_rec.data import dataset
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.stream import Stream
from seo_rec.data.vocabulary import read_vocabulary
from seo_rec.model import ModelSettings
from seo_rec.schema import SCHEMA_FILE, DataError, read_schema
from seo_rec.train import FitSettings, Training


@pytest.fixture
def opened_files(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that Python opens, however it is asked to."""
    found: list[Path] = []
    real = io.open

    def noted(file: Any, *arguments: Any, **more: Any) -> Any:
        if isinstance(file, str | Path):
            found.append(Path(file))
        return real(file, *arguments, **more)

    monkeypatch.setattr(io, "open", noted)
    monkeypatch.setattr(builtins, "open", noted)
    return found


def reads_of_schema(files: list[Path], data: DataSet) -> int:
    return files.count(data.path / "schema.json")


def test_opening_reads_the_schema_and_nothing_else(tiny: Path, opened_files: list[Path]) -> None:
    data = open_data(tiny)
    assert opened_files == [tiny / "schema.json"]
    assert (data.path, data.schema) == (tiny, read_schema(tiny))
    assert data.fingerprint == data.schema.fingerprint
    assert data.num_numeric == len(data.schema.numeric) == 1


def test_a_comparison_reads_the_schema_once(
    tiny: Path, tmp_path: Path, opened_files: list[Path]
) -> None:
    """Three methods and one seed: one policy by columns, one by ids, one that is searched."""
    data = open_data(tiny)
    comparison = recipes.Comparison(
        data=(data,),
        methods=("monolithic", "qr", "seo"),
        params=4000,
        seeds=1,
        training=Training(ModelSettings(hidden=(4,)), FitSettings(epochs=1, max_steps=1)),
        settings={"seo": {"run_off.chunk_dims": (), "run_off.trivial_lookups": ()}},
    )
    runs = recipes.compare(comparison, tmp_path / "out")
    assert [r.method for r in runs] == ["monolithic", "qr", "seo"]
    assert reads_of_schema(opened_files, data) == 1


def test_a_vocabulary_is_read_once(
    tiny: Path, tiny_data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def noted(path: Path, feature: str) -> Any:
        asked.append(feature)
        return read_vocabulary(path, feature)

    monkeypatch.setattr(dataset, "read_vocabulary", noted)
    data = open_data(tiny)
    names = [c.name for c in data.schema.features]
    every = data.vocabularies()
    assert list(every) == names == asked
    for name in names:
        ids, rows = read_vocabulary(tiny, name)
        assert np.array_equal(every[name], ids) and np.array_equal(data.counts(name)[1], rows)
        assert np.array_equal(data.vocabulary(name), ids)
    assert list(data.vocabularies(names[2:4])) == names[2:4]
    assert asked == names


def ids_of(data: DataSet, feature: str) -> Counter[int]:
    """How often each id of a feature occurs, from the parquet files themselves."""
    rows = pq.read_table(data.path / "train").column(feature).to_pylist()
    return Counter(i for row in rows for i in (row if isinstance(row, list) else [row]))


def test_vocabularies_are_the_training_ids_in_order(tiny: Path) -> None:
    data = open_data(tiny)
    assert {c.kind for c in data.schema.features} == {"categorical", "multivalent"}
    found = data.vocabularies()
    assert list(found) == [c.name for c in data.schema.features]
    for column in data.schema.features:
        ids, counts = data.counts(column.name)
        counted = ids_of(data, column.name)
        counted.pop(None, None)  # type: ignore[call-overload]
        assert ids.tolist() == sorted(counted) and len(ids) == column.vocab_size
        assert counts.tolist() == [counted[i] for i in ids.tolist()]
        assert data.vocabulary(column.name) is found[column.name] is ids
        assert ids.dtype == np.int64


def test_an_unknown_feature_is_named(tiny_data: DataSet) -> None:
    with pytest.raises(DataError, match="nobody"):
        tiny_data.vocabulary("nobody")
    with pytest.raises(DataError, match="nobody"):
        tiny_data.stream("train", batch_size=8, columns=["nobody"])


def test_its_streams_are_streams(tiny_data: DataSet) -> None:
    """Every argument arrives."""
    asked = {"shuffle": True, "seed": 3, "rank": 1, "world_size": 2, "columns": ["weak_0"]}
    one = tiny_data.stream("val", batch_size=20, **asked)
    other = Stream(tiny_data, "val", batch_size=20, **asked)
    assert one.state_dict() == other.state_dict()
    for a, b in zip(one, other, strict=True):
        assert a.sparse.keys() == b.sparse.keys() == ["weak_0"]
        assert torch.equal(a.sparse.values(), b.sparse.values())
        assert torch.equal(a.labels_B, b.labels_B)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_labels_are_those_of_the_files(
    tiny_data: DataSet, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    monkeypatch.setattr(dataset, "LABEL_ROWS", 50)  # more than one batch
    files = sorted((tiny_data.path / split).glob("*.parquet"))
    label = tiny_data.schema.label
    wanted = np.concatenate([pq.read_table(f, columns=[label])[label].to_numpy() for f in files])
    found = tiny_data.labels(split)
    assert found.dtype == np.float32 and np.array_equal(found, wanted)


def test_what_was_opened_stays_what_it_is(tiny: Path, tmp_path: Path) -> None:
    """A schema that is written anew while a run is under way does not change the run."""
    shutil.copytree(tiny, tmp_path / "copy")
    data = open_data(str(tmp_path / "copy"))
    (tmp_path / "copy" / "schema.json").write_text("{}")
    assert data.stream("test", batch_size=50).num_rows == data.schema.num_rows["test"]
    assert data.fingerprint in repr(data)
    with pytest.raises(DataError, match=r"schema\.json"):
        open_data(tmp_path / "copy")


def test_another_fingerprint_is_other_data(tiny: Path, tmp_path: Path) -> None:
    """One row more, or another raw file; where it lies does not matter."""
    document = json.loads((tiny / SCHEMA_FILE).read_text())
    del document["sha256"]  # an edit, not damage
    prints = set()
    for change in ({}, {"num_rows": {**document["num_rows"], "val": 1}}, {"dataset": "other"}):
        folder = tmp_path / str(len(prints))
        folder.mkdir()
        (folder / SCHEMA_FILE).write_text(json.dumps({**document, **change}))
        prints.add(open_data(folder).fingerprint)
    assert len(prints) == 3 and open_data(tiny).fingerprint in prints


def test_a_folder_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no schema\.json here.*seo-rec prepare"):
        open_data(tmp_path)


def test_opening_needs_no_torch(tiny: Path) -> None:
    """Nor do the settings of a model, the registry of plain methods and run folders."""
    program = (
        "import sys\n"
        "import seo_rec.methods, seo_rec.runs, seo_rec.settings\n"
        "from seo_rec.data.dataset import open_data\n"
        f"assert len(open_data({str(tiny)!r}).vocabulary('weak_0'))\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("positive", "says"),
    [
        (0, "error"), (1, "1 positive rows of 100"), (19, "19 positive rows"), (20, ""), (80, ""),
        (99, "1 negative rows of 100"), (100, "error"),
    ],
)  # fmt: skip
def test_few_labels_to_choose_by_are_said_once(
    tiny: Path, caplog: pytest.LogCaptureFixture, positive: int, says: str
) -> None:
    schema = read_schema(tiny)
    rows, rates = dict(schema.num_rows, val=100), dict(schema.label_rate, val=positive / 100)
    data = DataSet(tiny, replace(schema, num_rows=rows, label_rate=rates))
    if says == "error":
        with pytest.raises(DataError, match=r"0 (posi|nega)tive rows of 100, so there is no AUC"):
            data.check_validation()
        return
    data.check_validation()
    data.check_validation()
    assert len(caplog.messages) == bool(says)
    assert not says or (f"{says}" in caplog.text and "cannot decide" in caplog.text)
