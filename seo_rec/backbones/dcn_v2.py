"""DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torchrec.modules.crossnet import CrossNet, LowRankCrossNet

from seo_rec.backbone_settings import DCNv2Settings
from seo_rec.backbones.layers import CrossBesideDeep, Inputs, logit_layers
from seo_rec.backbones.traits import Traits


class DCNv2(nn.Module):
    """``logits = deep(cross(z))`` or ``W [cross(z), deep(z)] + b``, ``z = [dense, x]``.

    A cross layer is ``x_{l+1} = x_0 * (W_l x_l + b_l) + x_l``, with ``W_l = U_l V_l`` where a rank
    is given (TorchRec's CrossNet and LowRankCrossNet).

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
        settings: DCNv2Settings = DCNv2Settings(),
    ) -> None:
        super().__init__()
        self.inputs = Inputs(num_dense, dims)
        width = self.inputs.width
        cross = (
            LowRankCrossNet(width, settings.layers, settings.rank)
            if settings.rank
            else CrossNet(width, settings.layers)
        )
        if settings.structure == "parallel":
            self.layers: nn.Module = CrossBesideDeep(cross, width, hidden, dropout)
        else:
            self.layers = nn.Sequential(cross, *logit_layers(width, hidden, dropout))

    def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, N) and (B, E). Returns: logits_B float32 (B,)."""
        logits: torch.Tensor = self.layers(self.inputs(dense_BN, x_BE))
        return logits.squeeze(1)
