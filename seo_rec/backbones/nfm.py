"""NFM: Neural Factorization Machines for Sparse Predictive Analytics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from seo_rec.backbones.layers import FeatureVectors, Inputs, logit_layers, pair_sum, require_pairs
from seo_rec.backbones.traits import Traits


class NFM(nn.Module):
    """``logits = <w, z> + deep(sum over i < j of v_i * v_j)``, ``z = [dense, x]``.

    The vectors v are the features' embeddings, brought to one width, and ``value * vector`` for
    each dense column. The paper's first-order term has a weight for every id; here it is a linear
    map of z, because the embedding budget is exact. There is no batch normalisation: rows of a
    batch never mix.

    Args:
        num_dense: N, number of dense columns.
        dims: widths of the parts of ``x_BE``; their sum is E.
        hidden: widths of the hidden layers; without any, the pooled pairs are mapped to the logit.
        dropout: probability of dropping a hidden unit, or a number of the pooled pairs.
    """

    traits = Traits(pairs_features=True, widens_numeric=True)

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
        self.first = nn.Linear(self.inputs.width, 1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.deep = logit_layers(self.vectors.width, hidden, dropout)

    def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, N) and (B, E). Returns: logits_B float32 (B,)."""
        first = self.first(self.inputs(dense_BN, x_BE))
        pooled_BD = self.dropout(pair_sum(self.vectors(dense_BN, x_BE)))
        logits: torch.Tensor = first + self.deep(pooled_BD)
        return logits.squeeze(1)
