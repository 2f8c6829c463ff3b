"""The plain DNN of SEO (section 4.1): ReLU layers over the concatenated embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from seo_rec.backbones.layers import Inputs, logit_layers
from seo_rec.backbones.traits import Traits


class MLP(nn.Module):
    """``logits = W_L relu(... relu(W_1 [dense, x] + b_1) ...) + b_L``.

    Args:
        num_dense: N, number of dense columns.
        dims: widths of the parts of ``x_BE``; their sum is E.
        hidden: widths of the hidden layers.
        dropout: probability of dropping a hidden unit in training.
    """

    traits = Traits(readers=("layers.0",), columns_removable="exactly")

    def __init__(
        self,
        num_dense: int,
        dims: Sequence[int],
        hidden: Sequence[int] = (256, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.inputs = Inputs(num_dense, dims)
        self.layers = logit_layers(self.inputs.width, hidden, dropout)

    def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, N) and (B, E). Returns: logits_B float32 (B,)."""
        logits: torch.Tensor = self.layers(self.inputs(dense_BN, x_BE))
        return logits.squeeze(1)
