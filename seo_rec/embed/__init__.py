"""Embedding modules: ``build(policy)`` gives a module ``KJT[features] -> x_BE``."""

from __future__ import annotations

import torch

from seo_rec.embed.rows import INIT_SCALE, Gate, RowEmbedding, table_configs, table_key
from seo_rec.policy import Policy

__all__ = ["INIT_SCALE", "Gate", "RowEmbedding", "build", "table_configs", "table_key"]


def build(
    policy: Policy,
    gate: Gate | None = None,
    init_scale: float = INIT_SCALE,
    device: torch.device | None = None,
) -> RowEmbedding:
    """The embedding module of ``policy``; ``gate`` is what a search puts before ``Combine``."""
    return RowEmbedding(policy, gate, init_scale, device)
