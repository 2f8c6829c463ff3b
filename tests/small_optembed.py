"""A small OptEmbed search: its settings, its supernet and its policy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from seo_rec import search
from seo_rec.data.dataset import DataSet
from seo_rec.model import ModelSettings, build_model
from seo_rec.policy import Policy
from seo_rec.search.optembed import (
    OptEmbedSettings,
    Searched,
    Supernet,
    optembed,
    search_supernet,
    with_codes,
)
from seo_rec.search.optembed import search as searching
from seo_rec.search.space import open_space
from seo_rec.train import FitSettings, Ranks, Training
from seo_rec.train.replicas import SharedDraws

SMALL = ModelSettings(hidden=(8,), init_scale=0.1)
FIT = FitSettings(epochs=2, batch_size=200, row_lr=0.02, dense_lr=0.02)
SETTINGS = OptEmbedSettings(max_dim=6, alpha=0.2, threshold_lr=0.3, generations=3)
ROWS = replace(SETTINGS, variant="rows", generations=30)
DIMS = OptEmbedSettings(max_dim=6, variant="dims", generations=3)


def supernet(data: DataSet, settings: OptEmbedSettings, backbone: str = "mlp") -> Supernet:
    space = open_space(data, settings, 0)
    if settings.prunes:
        space = with_codes(space)
    whole = space.policy([settings.max_dim] * len(space.names))
    model = build_model(whole, 1, replace(SMALL, backbone=backbone), 0)
    return Supernet(model, space, settings, SharedDraws(0, Ranks()))


def logits_of(model: torch.nn.Module, data: DataSet, split: str = "val") -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return torch.cat([model(b)[1] for b in data.stream(split, batch_size=50)])


def searched_and_found(
    data: DataSet, settings: OptEmbedSettings, model: ModelSettings, fit: FitSettings = FIT
) -> tuple[Searched, search.Found]:
    """What :func:`optembed` finds, and the supernet that it found it with."""
    held: list[Searched] = []

    def keeping(*given: Any) -> Searched:
        held.append(search_supernet(*given))
        return held[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "search_supernet", keeping)
        found = optembed(data, settings, Training(model, fit))
    return held[0], found


def shown(policy: Policy) -> dict[str, tuple[int, int]]:
    return {t.name: (t.num_rows, t.dim) for t in policy.tables}
