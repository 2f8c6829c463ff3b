"""Weights of rows and samples of negatives: what a model learns and how it is judged."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from seo_rec.batch import Batch
from seo_rec.data.dataset import open_data
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.metrics import auc_gain, binary_metrics
from seo_rec.schema import SPLITS, DataError

RNG = np.random.default_rng(1)


def batch(labels: np.ndarray, **options: object) -> Batch:
    ids = torch.arange(len(labels))
    sparse = KeyedJaggedTensor(["u"], ids, lengths=torch.ones(len(labels), dtype=torch.int32))
    y = torch.tensor(labels, dtype=torch.float32)
    return Batch(torch.zeros(len(labels), 0), sparse, y, **options)


# --- the loss -----------------------------------------------------------------------------------


def test_a_weight_is_a_number_of_equal_rows() -> None:
    labels, counts = RNG.integers(0, 2, 30).astype(float), RNG.integers(0, 4, 30)
    z = torch.tensor(RNG.normal(size=30), dtype=torch.float32, requires_grad=True)
    weighted = batch(labels, weights_B=torch.tensor(counts, dtype=torch.float32), mean_rows=7.0)
    weighted.loss(z).backward()
    first, z.grad = z.grad, None
    repeated = batch(np.repeat(labels, counts), mean_rows=7.0)
    repeated.loss(z.repeat_interleave(torch.tensor(counts))).backward()
    assert z.grad is not None and first is not None
    torch.testing.assert_close(first, z.grad)
    padded = weighted.padded(40)
    assert padded.row_weights[30:].sum() == 0
    wide = torch.cat([z.detach(), torch.full((10,), 5.0)])
    torch.testing.assert_close(padded.loss(wide), weighted.loss(z.detach()))
    assert torch.equal(batch(labels).row_weights, torch.ones(30))


@pytest.mark.parametrize("rate", [0.5, 0.01])
def test_scores_of_sampled_negatives_are_corrected(rate: float) -> None:
    """With p of the model, p' of the sampled rows: p = p' / (p' + (1 - p') / w)."""
    labels = RNG.integers(0, 2, 50).astype(float)
    z = torch.tensor(RNG.normal(-2, 1, 50), dtype=torch.float64)
    p = torch.sigmoid(z)
    sampled = p / (p + (1 - p) * rate)  # of the rows that are left, positives are 1 / rate as many
    torch.testing.assert_close(sampled / (sampled + (1 - sampled) / rate), p)
    y = torch.tensor(labels)
    want = -(y * sampled.log() + (1 - y) * (1 - sampled).log()).mean()
    found = batch(labels, offset=-math.log(rate)).loss(z.float())
    torch.testing.assert_close(found.double(), want, rtol=1e-5, atol=1e-6)


# --- the metrics --------------------------------------------------------------------------------


def test_metrics_of_weights_are_those_of_repeated_rows() -> None:
    z, y = RNG.normal(size=400).round(1), RNG.integers(0, 2, 400).astype(float)
    w = RNG.integers(0, 4, 400)
    found = binary_metrics(z, y, w)
    want = binary_metrics(np.repeat(z, w), np.repeat(y, w))
    for name in ("auc", "log_loss", "normalized_entropy", "calibration"):
        assert getattr(found, name) == pytest.approx(getattr(want, name), abs=1e-12)
        assert getattr(found, name) != pytest.approx(getattr(binary_metrics(z, y), name), abs=1e-4)
    assert found.num_rows == 400
    assert binary_metrics(z, y, np.ones(400)) == binary_metrics(z, y)
    assert math.isnan(binary_metrics(z, y, np.zeros(400)).auc)
    assert math.isnan(binary_metrics(z, y, y).auc)
    gain, error = auc_gain(z, -z, y, weights=w)
    assert gain == pytest.approx(2 * found.auc - 1)
    assert error > 0
    one = np.where(y == 1, np.arange(400) < 1, 1)  # all positives that count lie in one block
    one[np.argmax(y)] = 1
    assert math.isnan(auc_gain(z, -z, y, weights=one)[1])


# --- the data -----------------------------------------------------------------------------------


def table(path: Path, **more: np.ndarray) -> Path:
    rows = len(next(iter(more.values())))
    cells = {"y": (np.arange(rows) % 4 == 0).astype(int), "u": np.arange(rows)}
    pq.write_table(pa.table({**cells, **more}), path)
    return path


def test_weights_reach_the_batches_with_mean_1_in_training(tmp_path: Path) -> None:
    w = RNG.gamma(2.0, 3.0, 5000).astype(np.float32)
    raw = table(tmp_path / "t.parquet", w=w)
    columns = TableColumns("y", categorical=("u",), weight="w")
    schema = prepare_table(raw, tmp_path / "out", columns=columns)
    assert schema.weight == "w" and [c.name for c in schema.columns] == ["u"]
    data = open_data(tmp_path / "out")
    for split in SPLITS:
        for shuffle in (False, True):
            stream = data.stream(split, batch_size=64, shuffle=shuffle)
            pairs = [(b.sparse["u"].values(), b.weights_B) for b in stream]
            ids = torch.cat([u for u, _ in pairs]).numpy()
            weights = torch.cat([v for _, v in pairs]).numpy()
            np.testing.assert_allclose(weights * schema.options["mean_weight"], w[ids], rtol=1e-5)
            if split == "train":
                assert weights.mean() == pytest.approx(1.0, abs=1e-5)
    labels, found = data.labels_and_weights("val")
    assert len(labels) == len(found) == schema.num_rows["val"]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_bad_weight_is_a_bad_row(tmp_path: Path, form: str) -> None:
    columns = TableColumns("y", categorical=("u",), weight="w")
    for cell in ("-1", "", "nan", "1e39", "much"):
        if form == "csv":
            raw = tmp_path / "t.csv"
            raw.write_text(f"y,u,w\n0,1,2\n1,2,{cell}\n")
        else:
            raw = tmp_path / "t.parquet"
            cells = {"y": [0, 1], "u": [1, 2], "w": pa.array(["2", cell or None])}
            pq.write_table(pa.table(cells), raw)
        with pytest.raises(
            DataError, match=r"column 'w': not a weight, got .*; a weight is a number"
        ):
            prepare_table(raw, tmp_path / "out", columns=columns)
    raw = table(tmp_path / "zero.parquet", w=np.zeros(20))
    with pytest.raises(DataError, match="all weights of the train split are 0"):
        prepare_table(raw, tmp_path / "out", columns=columns)


@pytest.mark.parametrize("split", [Split(), Split("temporal")])
def test_negatives_of_training_are_sampled_and_others_are_not(tmp_path: Path, split: Split) -> None:
    raw = table(tmp_path / "t.parquet", x=np.arange(20_000))
    columns = TableColumns("y", categorical=("u",))
    whole = prepare_table(raw, tmp_path / "all", columns=columns, split=split)
    part = prepare_table(raw, tmp_path / "part", columns=columns, split=split, negative_rate=0.2)
    rows = {
        name: {s: pq.read_table(tmp_path / name / s).to_pydict()["u"] for s in SPLITS}
        for name in ("all", "part")
    }
    assert rows["all"]["val"] == rows["part"]["val"] and rows["all"]["test"] == rows["part"]["test"]
    kept, before = set(rows["part"]["train"]), set(rows["all"]["train"])
    assert kept < before
    assert {u for u in before if u % 4 == 0} <= kept
    negatives = sum(u % 4 != 0 for u in before)
    left = sum(u % 4 != 0 for u in kept)
    assert left == pytest.approx(0.2 * negatives, abs=5 * (0.16 * negatives) ** 0.5)
    assert part.vocab_size("u") == len(kept)
    assert "negative_rate" not in whole.options and part.options["negative_rate"] == 0.2
    data = open_data(tmp_path / "part")
    offsets = {s: {b.offset for b in data.stream(s, batch_size=512)} for s in SPLITS}
    assert offsets == {"train": {-math.log(0.2)}, "val": {0.0}, "test": {0.0}}
    for rate in (0.0, 1.5, math.nan):
        with pytest.raises(DataError, match="above 0, up to 1"):
            prepare_table(raw, tmp_path / "x", columns=columns, negative_rate=rate)
