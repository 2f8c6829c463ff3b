"""The weights of the search model as weights of the model that its policy describes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from seo_rec.backbones import Traits
from seo_rec.embed import table_key
from seo_rec.search.dimgrow.model import GrowingModel


@torch.no_grad()
def found_weights(model: GrowingModel, kept: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Weights with which the policy's own model computes what the search model does.

    The adaptation layer is folded into the linear maps that read the vectors (``Traits.readers``),
    ``W_1 W_adapt^T``, and a column's gate into its values. Shuffled values and columns that are not
    kept are lost. Other backbones also read the vectors in products, and get no weights.
    """
    backbone = model.backbone
    traits: Traits = type(backbone).traits  # type: ignore[attr-defined]
    readers = traits.readers
    if not readers:
        return {}
    weights = {f"backbone.{name}": value.clone() for name, value in backbone.state_dict().items()}
    H, joint = model.settings.adapt_dim, model.settings.adapt == "joint"
    adapted: dict[int, torch.Tensor] = {}  # of every feature that is left, (H, its columns)
    for i, own in enumerate(kept):
        if own:
            found = [model.dimension(i, k) for k in own]
            gates = torch.sigmoid(model.settings.tau * torch.stack([d.theta for d in found]))
            key = f"embedding.ebc.embedding_bags.{table_key(model.space.names[i])}.weight"
            weights[key] = torch.stack([d.values_V for d in found], dim=1) * gates
            adapted[i] = torch.stack([d.adapt_H for d in found], dim=1)
    for reader in readers:
        name = f"backbone.{reader}.weight"
        numeric = weights[name].shape[1] - H * (1 if joint else len(kept))
        parts = [weights[name][:, :numeric]]
        for i, adapt_HD in adapted.items():
            start = numeric + (0 if joint else i * H)
            parts.append(weights[name][:, start : start + H] @ adapt_HD)
        weights[name] = torch.cat(parts, dim=1)
    return {name: value.cpu() for name, value in weights.items()}
