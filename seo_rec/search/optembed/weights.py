"""The rows and columns of the supernet as weights of the model that the policy describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from seo_rec.backbones import traits_of
from seo_rec.embed import table_key
from seo_rec.model import ModelSettings
from seo_rec.search.optembed.settings import OptEmbedSettings
from seo_rec.search.optembed.supernet import Kept, Supernet
from seo_rec.search.slicing import EXACT, SLICED, backbone_columns


def policy_weights(
    model: Supernet,
    kept: Kept,
    dims: Sequence[int],
    model_settings: ModelSettings,
    state: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Weights of the policy's own model: the rows and columns of the supernet's that are left.

    Args:
        model: the supernet.
        kept, dims: its rows and widths; width 0 drops a feature.
        model_settings: the backbone, one of ``SLICED``.
        state: the supernet's weights, by the names of a ``RecModel`` of full width.
    """
    space, s = model.space, model.settings
    weights = backbone_columns(dims, s.max_dim, len(space.schema.numeric), model_settings, state)
    for name, rows, dim in zip(space.names, kept, dims, strict=True):
        if not dim:
            continue
        key = f"embedding.ebc.embedding_bags.{table_key(name)}.weight"
        table_VD = state[key].detach().cpu()[torch.from_numpy(rows), :dim].clone()
        if s.zeros:
            table_VD[0] = 0
        weights[key] = table_VD
    return weights


def loses_dense_vectors(dims: Sequence[int], numeric: int, m: ModelSettings, D: int) -> bool:
    """Whether products of dense columns' vectors had more columns than any feature has left."""
    return traits_of(m.backbone).widens_numeric and numeric > 1 and max(dims) < D


def check_weights(s: OptEmbedSettings, m: ModelSettings) -> None:
    """ValueError if weights are asked for of a backbone that cannot be cut down."""
    allowed = {"none": (m.backbone,), "initial": SLICED, "trained": EXACT}[s.weights]
    if m.backbone not in allowed:
        raise ValueError(
            f"weights {s.weights!r} with the backbone {m.backbone!r}, of which columns cannot be "
            f"taken out; allowed: none, or one of the backbones {', '.join(allowed)}"
        )
