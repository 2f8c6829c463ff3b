"""xDeepFM: Combining Explicit and Implicit Feature Interactions for Recommender Systems.

Letters in addition to the ones of ``layers``: H feature maps of a CIN layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from seo_rec.backbone_settings import XDeepFMSettings
from seo_rec.backbones.layers import FeatureVectors, Inputs, logit_layers
from seo_rec.backbones.traits import Traits


class CIN(nn.Module):
    """``X^k_h = sum over i, j of W^k_hij X^{k-1}_i * X^0_j``, each map summed over D.

    No activation, as the paper recommends. The last layer is only needed summed, and the sum can
    be taken before its weights: D times less work for the widest product.

    Args:
        num_vectors: V, rows of X^0.
        maps: H of each layer.
    """

    def __init__(self, num_vectors: int, maps: Sequence[int]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            nn.init.xavier_uniform_(torch.empty(h, before * num_vectors))
            for h, before in zip(maps, (num_vectors, *maps[:-1]), strict=True)
        )

    def forward(self, v_BVD: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, V, D). Returns: float32 (B, sum of H)."""
        x0_BDV = v_BVD.mT.contiguous()
        x_BDH = x0_BDV
        pooled = []
        *inner, last = self.weights
        for weight in inner:
            x_BDH = F.linear((x_BDH[..., :, None] * x0_BDV[..., None, :]).flatten(2), weight)
            pooled.append(x_BDH.sum(1))
        pooled.append(F.linear((x_BDH.mT @ x0_BDV).flatten(1), last))
        return torch.cat(pooled, dim=1)


class XDeepFM(nn.Module):
    """``logits = <w, z> + <u, CIN(v)> + deep(z)``, ``z = [dense, x]``.

    The vectors v are the features' embeddings, brought to one width, and ``value * vector`` for
    each dense column. The paper's linear part has a weight for every id; here it is a linear map
    of z, because the embedding budget is exact.

    Args:
        num_dense: N, number of dense columns.
        dims: widths of the parts of ``x_BE``; their sum is E.
        hidden: widths of the deep part's hidden layers; without any there is no deep part.
        dropout: probability of dropping a hidden unit in training.
        settings: of the CIN.
    """

    traits = Traits(pairs_features=True, widens_numeric=True)

    def __init__(
        self,
        num_dense: int,
        dims: Sequence[int],
        hidden: Sequence[int] = (256, 128),
        dropout: float = 0.0,
        settings: XDeepFMSettings = XDeepFMSettings(),
    ) -> None:
        super().__init__()
        self.inputs = Inputs(num_dense, dims)
        self.vectors = FeatureVectors(num_dense, dims)
        self.first = nn.Linear(self.inputs.width, 1, bias=not hidden)
        self.cin = CIN(self.vectors.num_vectors, settings.maps)
        self.last = nn.Linear(sum(settings.maps), 1, bias=False)
        self.deep = logit_layers(self.inputs.width, hidden, dropout) if hidden else None

    def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, N) and (B, E). Returns: logits_B float32 (B,)."""
        z_BZ = self.inputs(dense_BN, x_BE)
        logits: torch.Tensor = self.first(z_BZ) + self.last(self.cin(self.vectors(dense_BN, x_BE)))
        if self.deep is not None:
            logits = logits + self.deep(z_BZ)
        return logits.squeeze(1)
