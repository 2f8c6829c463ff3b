"""Backbones of full-width features, cut down to the widths that a search left.

Letters: N dense columns, F features, D full width, E = F D, Z = N + E, P pairs of vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch

from seo_rec.backbones import build_backbone, having
from seo_rec.model import ModelSettings

# Backbones out of which columns can be cut; see seo_rec.backbones.Traits.
EXACT = having(lambda traits: traits.columns_removable == "exactly")
SLICED = having(lambda traits: traits.columns_removable != "no")


def backbone_columns(
    dims: Sequence[int],
    full: int,
    numeric: int,
    model: ModelSettings,
    state: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Weights of the backbone for features of widths ``dims``, out of one for features of width D.

    A feature's first columns are taken. Where the backbone needs vectors of one width, the map of a
    narrow feature adds zeros.

    Args:
        dims: of every feature; 0 leaves a feature out.
        full: D.
        numeric: N.
        model: the backbone, one of ``SLICED``.
        state: the weights, each name after ``backbone.``; others are not read.

    Returns:
        Weights on the CPU, by the same names.
    """
    D, N, F = full, numeric, len(dims)
    served = [i for i, d in enumerate(dims) if d]
    narrow = [dims[i] for i in served]
    backbone = build_backbone(
        model.backbone, N, narrow, model.hidden, model.dropout, model.interaction
    )
    columns_E = [i * D + k for i in served for k in range(dims[i])]
    columns_Z = [*range(N), *(N + e for e in columns_E)]
    vectors = {*served, *range(F, F + N)}
    every_pair = list(combinations(range(F + N), 2))
    pairs = [p for p, pair in enumerate(every_pair) if vectors.issuperset(pair)]
    Z, P = N + F * D, len(every_pair)

    def columns(old: int, new: int) -> list[int]:
        """Which of ``old`` numbers along one axis are the ``new`` ones."""
        if old == new:
            return list(range(old))
        if (old, new) == (F * D, len(columns_E)):
            return columns_E
        if (old, new) == (Z + P, len(columns_Z) + len(pairs)):
            return [*columns_Z, *(Z + p for p in pairs)]
        if old - Z == new - len(columns_Z):
            return [*columns_Z, *range(Z, old)]
        assert (old, new) == (D, max(narrow)), f"{old} to {new} of the backbone {model.backbone}"
        return list(range(new))

    weights = {}
    for name, value in backbone.state_dict().items():
        if ".projections." in name:
            taken = torch.eye(*value.shape)
        else:
            taken = state[f"backbone.{name}"].detach().cpu()
            for axis, (old, new) in enumerate(zip(taken.shape, value.shape, strict=True)):
                taken = taken.index_select(axis, torch.tensor(columns(old, new)))
        weights[f"backbone.{name}"] = taken.clone()
    return weights
