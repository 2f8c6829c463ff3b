"""Wide & Deep Learning for Recommender Systems."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from seo_rec.backbones.layers import Inputs, logit_layers
from seo_rec.backbones.traits import Traits


class WideDeep(nn.Module):
    """``logits = <w, x> + deep([dense, x])``.

    The paper's wide part has a weight for every id and for chosen pairs of ids; here it is a
    linear map of the embeddings, because the embedding budget is exact. Dense columns enter the
    deep part only, as in the paper.

    Args:
        num_dense: N, number of dense columns.
        dims: widths of the parts of ``x_BE``; their sum is E.
        hidden: widths of the deep part's hidden layers; without any it is linear.
        dropout: probability of dropping a hidden unit in training.
    """

    traits = Traits(readers=("deep.0", "wide"), columns_removable="exactly")

    def __init__(
        self,
        num_dense: int,
        dims: Sequence[int],
        hidden: Sequence[int] = (256, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.inputs = Inputs(num_dense, dims)
        self.wide = nn.Linear(sum(dims), 1, bias=False)
        self.deep = logit_layers(self.inputs.width, hidden, dropout)

    def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, N) and (B, E). Returns: logits_B float32 (B,)."""
        deep = self.deep(self.inputs(dense_BN, x_BE))
        logits: torch.Tensor = self.wide(x_BE) + deep
        return logits.squeeze(1)
