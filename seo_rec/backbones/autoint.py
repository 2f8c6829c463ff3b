"""AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks.

Letters in addition to the ones of ``layers``: H heads, W width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from seo_rec.backbone_settings import AutoIntSettings
from seo_rec.backbones.layers import FeatureVectors, Inputs, logit_layers
from seo_rec.backbones.traits import Traits


class Attention(nn.Module):
    """``relu(concat over heads of softmax(Q K^T) V + R v)``, Q, K, V and R linear in v.

    The scores are not divided by the square root of the width, as in the paper.

    Args:
        in_width: D of the vectors.
        heads: H.
        width: W; the result has vectors of width H * W.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, in_width: int, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.shape = (3, heads, width)
        self.dropout = dropout
        self.queries_keys_values = nn.Linear(in_width, 3 * heads * width, bias=False)
        self.residual = nn.Linear(in_width, heads * width, bias=False)

    def forward(self, v_BVD: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, V, D). Returns: float32 (B, V, H * W)."""
        projected = self.queries_keys_values(v_BVD).unflatten(2, self.shape)
        q_BHVW, k_BHVW, v_BHVW = projected.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        seen_BHVW = F.scaled_dot_product_attention(
            q_BHVW, k_BHVW, v_BHVW, dropout_p=dropout, scale=1.0
        )
        return F.relu(seen_BHVW.transpose(1, 2).flatten(2) + self.residual(v_BVD))


class AutoInt(nn.Module):
    """``logits = <w, attention layers(v)> + deep([dense, x])``.

    The vectors v are the features' embeddings, brought to one width, and ``value * vector`` for
    each dense column, as in the paper. With hidden layers this is the paper's AutoInt+, without
    any its AutoInt.

    Args:
        num_dense: N, number of dense columns.
        dims: widths of the parts of ``x_BE``; their sum is E.
        hidden: widths of the deep part's hidden layers; without any there is no deep part.
        dropout: probability of dropping an attention weight or a hidden unit in training.
        settings: of the attention.
    """

    traits = Traits(pairs_features=True, widens_numeric=True)

    def __init__(
        self,
        num_dense: int,
        dims: Sequence[int],
        hidden: Sequence[int] = (256, 128),
        dropout: float = 0.0,
        settings: AutoIntSettings = AutoIntSettings(),
    ) -> None:
        super().__init__()
        self.inputs = Inputs(num_dense, dims)
        self.vectors = FeatureVectors(num_dense, dims)
        width = settings.heads * settings.width
        widths = [self.vectors.width] + [width] * (settings.layers - 1)
        self.attention = nn.Sequential(
            *(Attention(w, settings.heads, settings.width, dropout) for w in widths)
        )
        self.last = nn.Linear(self.vectors.num_vectors * width, 1, bias=not hidden)
        self.deep = logit_layers(self.inputs.width, hidden, dropout) if hidden else None

    def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, N) and (B, E). Returns: logits_B float32 (B,)."""
        z_BZ = self.inputs(dense_BN, x_BE)
        attended = self.attention(self.vectors(dense_BN, x_BE))
        logits: torch.Tensor = self.last(attended.flatten(1))
        if self.deep is not None:
            logits = logits + self.deep(z_BZ)
        return logits.squeeze(1)
