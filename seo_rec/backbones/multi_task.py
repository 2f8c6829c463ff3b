"""Networks of several labels: a backbone a label, layers that they share, and experts with gates.

Letters: T labels, X experts, H the width of the last shared layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from seo_rec.backbones.layers import Inputs, hidden_layers, logit_layers


class Towers(nn.Module):
    """``logits_t = tower_t(dense, x)``: each label has a backbone of its own above the embeddings.

    Args:
        make: Makes a backbone.
        labels: T.
    """

    def __init__(self, make: Callable[[], nn.Module], labels: int) -> None:
        super().__init__()
        self.towers = nn.ModuleList(make() for _ in range(labels))

    def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, N) and (B, E). Returns: logits_BT float32 (B, T)."""
        return _side_by_side([tower(dense_BN, x_BE) for tower in self.towers])


class SharedBottom(nn.Module):
    """``logits_t = tower_t(bottom([dense, x]))``, with ReLU layers in the bottom and the towers.

    Args:
        num_dense: N, number of dense columns.
        dims: Widths of the parts of ``x_BE``; their sum is E.
        hidden: Widths of the hidden layers of a tower.
        dropout: Probability of dropping a hidden unit in training.
        shared: Widths of the layers of the bottom, one at least.
        labels: T.
    """

    def __init__(
        self,
        num_dense: int,
        dims: Sequence[int],
        hidden: Sequence[int],
        dropout: float,
        shared: Sequence[int],
        labels: int,
    ) -> None:
        super().__init__()
        self.inputs = Inputs(num_dense, dims)
        self.bottom = nn.Sequential(*hidden_layers(self.inputs.width, shared, dropout))
        self.towers = nn.ModuleList(
            logit_layers(shared[-1], hidden, dropout) for _ in range(labels)
        )

    def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, N) and (B, E). Returns: logits_BT float32 (B, T)."""
        h_BH = self.bottom(self.inputs(dense_BN, x_BE))
        return _side_by_side([tower(h_BH).squeeze(1) for tower in self.towers])


class MMoE(nn.Module):
    """``logits_t = tower_t(sum_e g_te expert_e(z))``, ``g_t = softmax(G_t z)``, ``z = [dense, x]``.

    The gates have no bias, as in the paper (equation 7).

    Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts, 2018.

    Args:
        num_dense: N, number of dense columns.
        dims: Widths of the parts of ``x_BE``; their sum is E.
        hidden: Widths of the hidden layers of a tower.
        dropout: Probability of dropping a hidden unit in training.
        shared: Widths of the layers of an expert, one at least.
        experts: X.
        labels: T.
    """

    def __init__(
        self,
        num_dense: int,
        dims: Sequence[int],
        hidden: Sequence[int],
        dropout: float,
        shared: Sequence[int],
        experts: int,
        labels: int,
    ) -> None:
        super().__init__()
        self.inputs = Inputs(num_dense, dims)
        width = self.inputs.width
        self.experts = nn.ModuleList(
            nn.Sequential(*hidden_layers(width, shared, dropout)) for _ in range(experts)
        )
        self.towers = nn.ModuleList(
            logit_layers(shared[-1], hidden, dropout) for _ in range(labels)
        )
        self.gates = nn.Linear(width, labels * experts, bias=False)

    def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, N) and (B, E). Returns: logits_BT float32 (B, T)."""
        z_BZ = self.inputs(dense_BN, x_BE)
        h_BXH = torch.stack([expert(z_BZ) for expert in self.experts], dim=1)
        shape = len(self.towers), len(self.experts)
        g_BTX = torch.softmax(self.gates(z_BZ).unflatten(1, shape), dim=2)
        mixed = (g_BTX @ h_BXH).unbind(1)
        pairs = zip(self.towers, mixed, strict=True)
        return _side_by_side([tower(h_BH).squeeze(1) for tower, h_BH in pairs])


def _side_by_side(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """T logits_B as logits_BT. Each label's lie together, so that its gradient is summed alike.

    The gradient of a tower would otherwise have gaps, and sums of it other last bits than the
    gradient of a model of one label.
    """
    return torch.stack(list(logits)).T
