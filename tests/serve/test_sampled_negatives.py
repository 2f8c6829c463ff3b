"""A model of sampled negatives gives the probabilities of all rows: in eval and in a package."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from served import CLICK_COLUMNS, write_clicks

from seo_rec import recipes
from seo_rec.data.dataset import open_data
from seo_rec.data.split import Split
from seo_rec.data.table import prepare_table
from seo_rec.model import ModelSettings
from seo_rec.train import FitSettings, Training


def test_scores_are_calibrated(seo_rec, tmp_path):
    write_clicks(tmp_path / "raw.csv", rows=6000)
    prepare_table(
        tmp_path / "raw.csv",
        tmp_path / "data",
        columns=CLICK_COLUMNS,
        split=Split(fractions=(0.5, 0.2, 0.3)),
        negative_rate=0.3,
    )
    data = open_data(tmp_path / "data")
    # as trained, without the correction, the scores would be those of the sampled rows
    assert data.schema.label_rate["train"] > 0.7
    assert data.schema.label_rate["test"] == pytest.approx(0.5, abs=0.03)
    policy = recipes.method_policy("multi-size-2", data, 500, 4)
    fit = FitSettings(epochs=4, batch_size=64, row_lr=0.02, dense_lr=0.01)
    recipes.train(data, policy, tmp_path / "run", Training(ModelSettings(hidden=(8,)), fit))
    found = json.loads(seo_rec("eval", tmp_path / "run", data.path).out)
    assert found["calibration"] == pytest.approx(1.0, abs=0.15)
    assert found["normalized_entropy"] < 0.8
    assert seo_rec("export", tmp_path / "run", "--out", tmp_path / "package").code == 0
    out = tmp_path / "scores.parquet"
    assert seo_rec("predict", tmp_path / "package", "--raw", data.path, "--out", out).code == 0
    scores, labels = pq.read_table(out)["score"].to_numpy(), data.labels("test")
    assert scores.mean() / labels.mean() == pytest.approx(found["calibration"], abs=1e-5)
    loss = -np.mean(np.where(labels == 1, np.log(scores), np.log1p(-scores)))
    assert loss == pytest.approx(found["log_loss"], abs=1e-5)
