"""What features are worth to a model, against a model whose losses are written down by hand."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.synthetic import synthetic
from seo_rec.model import ModelSettings
from seo_rec.search.seo import SeoSearch, by_worth, search_attention
from seo_rec.search.worth import worth_of_features
from seo_rec.train import FitSettings, Training

WIDTHS = (1, 2, 3)


class Rows:
    """A batch of rows whose embeddings are known."""

    def __init__(self, x_BE: torch.Tensor, y_B: torch.Tensor) -> None:
        self.sparse, self.dense_BN, self.y_B = x_BE, torch.zeros(len(y_B), 0), y_B
        self.mean_rows = len(y_B)

    def to(self, device: torch.device) -> Rows:
        return self


def squared(batch: Rows, logits_B: torch.Tensor) -> torch.Tensor:
    return ((logits_B - batch.y_B) ** 2).mean()


def linear(weights_E: torch.Tensor) -> Any:
    """``logits_B = x_BE w_E`` with a squared loss."""
    model: Any = nn.Module()
    model.embedding = nn.Identity()
    model.backbone = lambda dense_BN, x_BE: x_BE @ weights_E
    model.loss = squared
    return model


def test_a_worth_is_the_loss_that_another_rows_embedding_adds() -> None:
    """The sum over rows and features, one at a time, in float64."""
    rng = np.random.default_rng(0)
    w_E = rng.normal(size=6)
    batches, wanted, rows = [], np.zeros(3), 0
    for B in (5, 8, 8):
        x_BE, y_B = rng.normal(size=(B, 6)), rng.normal(size=B)
        batches.append(Rows(torch.tensor(x_BE), torch.tensor(y_B)))
        if rows >= 13:
            continue  # is not read
        rows += B
        for f, part in enumerate((slice(0, 1), slice(1, 3), slice(3, 6))):
            for b in range(B):
                changed = x_BE[b].copy()
                changed[part] = x_BE[(b - B // 2) % B, part]
                wanted[f] += (changed @ w_E - y_B[b]) ** 2 - (x_BE[b] @ w_E - y_B[b]) ** 2
    found = worth_of_features(linear(torch.tensor(w_E)), WIDTHS, batches, rows=13)
    assert found == pytest.approx(wanted / 13)


def test_a_feature_that_the_model_does_not_use_is_worth_nothing() -> None:
    w_E = torch.tensor([1.0, 0.0, 0.0, 2.0, 2.0, 2.0])
    x_BE = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    found = worth_of_features(linear(w_E), WIDTHS, [Rows(x_BE, x_BE @ w_E)])
    assert found[1] == 0 < found[0] < found[2]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Two columns decide; the ids of two others say nothing and are as frequent."""
    folder = tmp_path_factory.mktemp("worth") / "data"
    sizes = {"strong_vocab": 30, "weak": 0, "noise_vocab": 30, "numeric": 0}
    synthetic(folder, rows=6_000, strong=2, noise=2, rank=1, **sizes)
    return open_data(folder)


FIT = FitSettings(epochs=4, batch_size=256, row_lr=1e-2, dense_lr=1e-2)
TRAINING = Training(ModelSettings(hidden=(16,)), FIT)


def test_an_attention_reads_test_rows_on_request_only(
    planted: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most of the rows of a data set may be test rows."""
    module, splits = sys.modules["seo_rec.search.seo.searched"], list[str]()

    def eval_stream(data: DataSet, split: str) -> Any:
        splits.append(split)
        return real(data, split)

    real = module.eval_stream  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "eval_stream", eval_stream)
    settings = SeoSearch(budget_rows=64, dim=8, chunk_dim=8, search_dim=16).attention
    once = replace(TRAINING, fit=replace(FIT, epochs=1))
    assert search_attention(planted, settings, once, tmp_path).test_auc is None
    assert splits == ["val"]
    for _ in range(2):  # trained, and found again
        found = search_attention(planted, settings, once, tmp_path, reads_test_rows=True)
        assert found.test_auc is not None and 0.5 < found.test_auc < 1
    assert splits == ["val", "val", "test"]


def test_the_search_gives_noise_no_rows(planted: DataSet, tmp_path: Path) -> None:
    settings = SeoSearch(budget_rows=64, dim=8, chunk_dim=8, search_dim=16)
    found = search_attention(planted, settings.attention, TRAINING, tmp_path)
    assert found.worth is not None
    worth = dict(zip([f.name for f in planted.schema.features], found.worth, strict=True))
    least = min(worth["strong_0"], worth["strong_1"])
    assert least > 10 * max(abs(worth["noise_0"]), abs(worth["noise_1"]), 1e-4)
    assert search_attention(planted, settings.attention, TRAINING, tmp_path).worth == found.worth
    policy = by_worth(planted, found.worth, settings)
    assert policy.num_params <= settings.params
    rows = {n: len(ids) for n, ids in policy.vocabularies.items()}
    assert rows["strong_0"] > 20 < rows["strong_1"]
    assert by_worth(planted, [1.0, 1.0, -1.0, 0.0], settings).provenance["arguments"]["worth"] == {
        "strong_0": 1.0, "strong_1": 1.0, "noise_0": 0.0, "noise_1": 0.0,
    }  # fmt: skip
