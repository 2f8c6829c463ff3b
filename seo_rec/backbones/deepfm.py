"""DeepFM: A Factorization-Machine based Neural Network for CTR Prediction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from seo_rec.backbones.layers import FeatureVectors, Inputs, logit_layers, pair_sum, require_pairs
from seo_rec.backbones.traits import Traits


class DeepFM(nn.Module):
    """``logits = <w, z> + sum over i < j of <v_i, v_j> + deep(z)``, ``z = [dense, x]``.

    The vectors v are the features' embeddings, brought to one width, and ``value * vector`` for
    each dense column. The paper's first-order term has a weight for every id; here it is a linear
    map of z, because the embedding budget is exact.

    Args:
        num_dense: N, number of dense columns.
        dims: widths of the parts of ``x_BE``; their sum is E.
        hidden: widths of the deep part's hidden layers; without any there is no deep part.
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
        require_pairs(self.vectors.num_vectors)
        self.first = nn.Linear(self.inputs.width, 1, bias=not hidden)
        self.deep = logit_layers(self.inputs.width, hidden, dropout) if hidden else None

    def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, N) and (B, E). Returns: logits_B float32 (B,)."""
        z_BZ = self.inputs(dense_BN, x_BE)
        pairs_B: torch.Tensor = pair_sum(self.vectors(dense_BN, x_BE)).sum(1)
        logits_B = self.first(z_BZ).squeeze(1) + pairs_B
        return logits_B if self.deep is None else logits_B + self.deep(z_BZ).squeeze(1)
