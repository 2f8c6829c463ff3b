"""Backbones: from dense columns and embeddings to one logit per row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from seo_rec.backbones.mlp import MLP

__all__ = ["BACKBONES", "MLP", "Backbone"]


class Backbone(Protocol):
    """``forward(dense_BN, x_BE) -> logits_B``; rows of the batch never mix."""

    def __call__(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor: ...


BACKBONES: dict[str, Callable[[int, Sequence[int], Sequence[int], float], torch.nn.Module]] = {
    "mlp": MLP,
}
