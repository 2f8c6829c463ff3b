"""DLRM: Deep Learning Recommendation Model for Personalization and Recommendation Systems."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from seo_rec.backbone_settings import DLRMSettings
from seo_rec.backbones.layers import (
    FeatureVectors,
    Inputs,
    PairProducts,
    hidden_layers,
    logit_layers,
)
from seo_rec.backbones.traits import Traits


class DLRM(nn.Module):
    """``logits = top([d, <v_i, v_j> for i < j])``, with ``d = bottom(dense)`` among the v.

    The other vectors v are the features' embeddings, brought to one width. Without dense columns
    there is no d: the top network reads the products only.

    Args:
        num_dense: N, number of dense columns.
        dims: widths of the parts of ``x_BE``; their sum is E.
        hidden: widths of the top network's hidden layers.
        dropout: probability of dropping a hidden unit of the top network in training.
        settings: of the bottom network.

    Raises:
        ValueError: nothing to interact, or a bottom network and no dense columns for it.
    """

    traits = Traits(pairs_features=True)

    def __init__(
        self,
        num_dense: int,
        dims: Sequence[int],
        hidden: Sequence[int] = (256, 128),
        dropout: float = 0.0,
        settings: DLRMSettings = DLRMSettings(),
    ) -> None:
        super().__init__()
        if not num_dense and settings != DLRMSettings():
            raise ValueError(
                f"bottom {settings.bottom} and no dense columns; allowed: the default, not used"
            )
        self.inputs = Inputs(num_dense, dims)
        self.vectors = FeatureVectors(0, dims)
        D = self.vectors.width
        self.bottom = (
            nn.Sequential(*hidden_layers(num_dense, (*settings.bottom, D), 0.0))
            if num_dense
            else None
        )
        self.products = PairProducts(len(dims) + bool(num_dense))
        self.top = logit_layers(self.products.num_pairs + D * bool(num_dense), hidden, dropout)

    def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, N) and (B, E). Returns: logits_B float32 (B,)."""
        self.inputs.check(dense_BN, x_BE)
        v_BVD = self.vectors(dense_BN, x_BE)
        if self.bottom is None:
            logits: torch.Tensor = self.top(self.products(v_BVD))
        else:
            d_BD = self.bottom(dense_BN)
            products_BP = self.products(torch.cat([d_BD[:, None], v_BVD], dim=1))
            logits = self.top(torch.cat([d_BD, products_BP], dim=1))
        return logits.squeeze(1)
