"""DCN: Deep & Cross Network for Ad Click Predictions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from seo_rec.backbone_settings import DCNSettings
from seo_rec.backbones.layers import CrossBesideDeep, Inputs
from seo_rec.backbones.traits import Traits


class VectorCross(nn.Module):
    """``x_{l+1} = x_0 <x_l, w_l> + b_l + x_l``.

    The formula of TorchRec's VectorCrossNet, in less than half its time on a CPU: rows stay rows.

    Args:
        width: Z.
        num_layers: number of cross layers.
    """

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            nn.init.xavier_normal_(torch.empty(width, 1)).squeeze(1) for _ in range(num_layers)
        )
        self.biases = nn.ParameterList(torch.zeros(width) for _ in range(num_layers))

    def forward(self, z_BZ: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, Z). Returns: float32 (B, Z)."""
        x_BZ = z_BZ
        for weight_Z, bias_Z in zip(self.weights, self.biases, strict=True):
            x_BZ = z_BZ * (x_BZ @ weight_Z)[:, None] + bias_Z + x_BZ
        return x_BZ


class DCN(nn.Module):
    """``logits = W [cross(z), deep(z)] + b``, ``z = [dense, x]``; see ``VectorCross``.

    Args:
        num_dense: N, number of dense columns.
        dims: widths of the parts of ``x_BE``; their sum is E.
        hidden: widths of the deep network; without any there is only the cross network.
        dropout: probability of dropping a hidden unit in training.
        settings: of the cross network.
    """

    traits = Traits(columns_removable="initially")

    def __init__(
        self,
        num_dense: int,
        dims: Sequence[int],
        hidden: Sequence[int] = (256, 128),
        dropout: float = 0.0,
        settings: DCNSettings = DCNSettings(),
    ) -> None:
        super().__init__()
        self.inputs = Inputs(num_dense, dims)
        width = self.inputs.width
        self.layers = CrossBesideDeep(VectorCross(width, settings.layers), width, hidden, dropout)

    def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, N) and (B, E). Returns: logits_B float32 (B,)."""
        logits: torch.Tensor = self.layers(self.inputs(dense_BN, x_BE))
        return logits.squeeze(1)
