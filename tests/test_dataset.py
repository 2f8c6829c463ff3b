"""An opened data set: what it says is what its files hold, and it reads each of them once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from seo_rec import recipes
from seo_rec.data import dataset
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.stream import Stream
from seo_rec.model import ModelSettings
from seo_rec.recipes import Comparison
from seo_rec.schema import SCHEMA_FILE, DataError, read_schema
from seo_rec.train import FitSettings, Training
from spawn import run_ranks

THREE_METHODS = (
    "separate",
    "no-search",
    "sseds",
)  # no search, one that trains nothing, one that does


def test_it_says_what_the_folder_says(tiny: Path) -> None:
    data, schema = open_data(str(tiny)), read_schema(tiny)
    assert data.path == tiny and data.schema == schema
    assert data.fingerprint == schema.fingerprint in repr(data)
    assert data.num_numeric == len(schema.numeric) == 1


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=r"not a prepared data set; make one with `seo-rec pr"):
            open_data(folder)


def test_another_fingerprint_is_other_data(tiny: Path, tmp_path: Path) -> None:
    """One row more, or another raw file; where it lies does not matter."""
    document = json.loads((tiny / SCHEMA_FILE).read_text())
    prints = set()
    for change in ({}, {"num_rows": {**document["num_rows"], "val": 1}}, {"dataset": "other"}):
        folder = tmp_path / str(len(prints))
        folder.mkdir()
        (folder / SCHEMA_FILE).write_text(json.dumps({**document, **change}))
        prints.add(open_data(folder).fingerprint)
    assert len(prints) == 3 and open_data(tiny).fingerprint in prints


# ---- vocabularies ------------------------------------------------------------------------


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
    with pytest.raises(DataError, match=r"no vocabulary of column 'nobody'; allowed: "):
        data.vocabulary("nobody")


def test_a_vocabulary_is_read_once_and_only_if_it_is_asked_for(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, read, asked = open_data(tiny), dataset.read_vocabulary, []

    def counting(path: Path, feature: str) -> Any:
        asked.append(feature)
        return read(path, feature)

    monkeypatch.setattr(dataset, "read_vocabulary", counting)
    first, second, *_ = (c.name for c in data.schema.features)
    assert set(data.vocabularies([second])) == {second} and asked == [second]
    data.vocabularies([first, second])
    data.counts(first)
    data.vocabulary(second)
    assert asked == [second, first]
    assert data.vocabularies([]) == {}


# ---- rows --------------------------------------------------------------------------------


def test_a_stream_is_that_of_the_arguments(tiny_data: DataSet) -> None:
    names = [c.name for c in tiny_data.schema.features][2:4]
    options: dict[str, Any] = {"shuffle": True, "seed": 3, "rank": 1, "world_size": 2}
    found = list(tiny_data.stream("train", batch_size=64, columns=names, **options))
    wanted = list(Stream(tiny_data, "train", batch_size=64, columns=names, **options))
    assert len(found) == len(wanted) > 1
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.sparse.keys() == names
        assert torch.equal(mine.sparse.values(), theirs.sparse.values())
        assert torch.equal(mine.dense_BN, theirs.dense_BN)
        assert torch.equal(mine.labels_B, theirs.labels_B)
    other = next(iter(tiny_data.stream("train", batch_size=64, columns=names)))
    assert not torch.equal(other.labels_B, found[0].labels_B)  # in file order, of all ranks


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_labels_come_in_file_order(tiny_data: DataSet, split: str) -> None:
    stored = pq.read_table(tiny_data.path / split).column("label").to_numpy()
    labels = tiny_data.labels(split)
    assert labels.dtype == np.float32 and labels.tolist() == stored.tolist()
    assert len(labels) == tiny_data.schema.num_rows[split]


# ---- how often files are read ------------------------------------------------------------


def schema_reads(data: Path, out: Path) -> int:
    """How often this process opens ``schema.json`` in a comparison of three methods and one seed.

    The interpreter itself tells of every opened file, however it is opened. It never stops doing
    so, which is why this runs in a process of its own.
    """
    reads: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).endswith(SCHEMA_FILE):
            reads.append(str(arguments[0]))

    sys.addaudithook(hook)
    training = Training(ModelSettings(hidden=(8,)), FitSettings(epochs=1, batch_size=200))
    comparison = Comparison((open_data(data),), THREE_METHODS, 1600, seeds=1, training=training)
    assert len(recipes.compare(comparison, out)) == 3
    return len(reads)


def test_a_comparison_reads_the_schema_once_in_each_process(tiny: Path, tmp_path: Path) -> None:
    assert run_ranks(schema_reads, 1, tiny, tmp_path / "c") == [1]


def test_opening_needs_no_torch(tiny: Path) -> None:
    """Commands that only look at a data set start without it."""
    code = f"""
import sys
from seo_rec.data.dataset import open_data
data = open_data({str(tiny)!r})
data.vocabularies()
assert data.fingerprint
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
