"""The plain DNN of SEO (section 4.1): ReLU layers over the concatenated embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class MLP(nn.Module):
    """``logits = W_L relu(... relu(W_1 [dense, x] + b_1) ...) + b_L``.

    Args:
        num_dense: N, number of dense columns.
        dims: widths of the parts of ``x_BE``; their sum is E.
        hidden: widths of the hidden layers.
        dropout: probability of dropping a hidden unit in training.
    """

    def __init__(
        self,
        num_dense: int,
        dims: Sequence[int],
        hidden: Sequence[int] = (256, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = num_dense + sum(dims)
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU(inplace=True)]
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = units
        layers.append(nn.Linear(width, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, N) and (B, E). Returns: logits_B float32 (B,)."""
        x = torch.cat([dense_BN, x_BE], dim=1) if dense_BN.shape[1] else x_BE
        logits: torch.Tensor = self.layers(x)
        return logits.squeeze(1)
