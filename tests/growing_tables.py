"""Small DimGrow searches: their settings, and a model whose tables grow."""

from __future__ import annotations

from dataclasses import replace

import torch

from seo_rec.data.dataset import DataSet
from seo_rec.model import ModelSettings
from seo_rec.search.dimgrow import (
    DimGrowSettings,
    GrowingModel,
    Growth,
    make_optimizers,
    mean_reads,
)
from seo_rec.search.space import open_space
from seo_rec.train import FitSettings

SMALL = ModelSettings(hidden=(8,), init_scale=0.1)
FIT = FitSettings(epochs=4, patience=9, batch_size=200, row_lr=0.05, dense_lr=0.05)
SETTINGS = DimGrowSettings(adapt_dim=4, max_dim=4, gate_lr=0.05, alpha=1e-5)


def growing(
    data: DataSet, settings: DimGrowSettings = SETTINGS, backbone: str = "mlp"
) -> tuple[GrowingModel, Growth]:
    torch.manual_seed(0)
    own = replace(SMALL, backbone=backbone)
    model = GrowingModel(open_space(data, settings, 0), settings, own)
    names = model.space.names
    for i in range(len(names)):
        model.allocate(i)
    model.used = [[0] for _ in names]
    batches = data.stream("train", batch_size=300)
    model.reads = mean_reads(model.remap, model.space.rows, batches)
    return model, Growth(model, settings, make_optimizers(model, FIT))
