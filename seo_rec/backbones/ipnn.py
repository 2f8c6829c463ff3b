"""IPNN: Product-based Neural Networks for User Response Prediction, with inner products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from seo_rec.backbones.layers import FeatureVectors, Inputs, PairProducts, logit_layers
from seo_rec.backbones.traits import Traits


class IPNN(nn.Module):
    """``logits = deep([z, <v_i, v_j> for i < j])``, ``z = [dense, x]``.

    The first hidden layer adds a linear signal of z and one of the products, each with its own
    weights, as in the paper before it factorises them. The vectors v are the features' embeddings,
    brought to one width, and ``value * vector`` for each dense column (the paper has none).

    Args:
        num_dense: N, number of dense columns.
        dims: widths of the parts of ``x_BE``; their sum is E.
        hidden: widths of the hidden layers.
        dropout: probability of dropping a hidden unit in training.
    """

    traits = Traits(pairs_features=True, columns_removable="exactly", widens_numeric=True)

    def __init__(
        self,
        num_dense: int,
        dims: Sequence[int],
        hidden: Sequence[int] = (256, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.inputs = Inputs(num_dense, dims)
        self.vectors = FeatureVectors(num_dense, dims)
        self.products = PairProducts(self.vectors.num_vectors)
        self.deep = logit_layers(self.inputs.width + self.products.num_pairs, hidden, dropout)

    def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, N) and (B, E). Returns: logits_B float32 (B,)."""
        z_BZ = self.inputs(dense_BN, x_BE)
        products_BP = self.products(self.vectors(dense_BN, x_BE))
        logits: torch.Tensor = self.deep(torch.cat([z_BZ, products_BP], dim=1))
        return logits.squeeze(1)
