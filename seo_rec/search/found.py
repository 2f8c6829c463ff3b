"""What every search hands over, and how its memory is counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from seo_rec.policy import Policy


@dataclass(frozen=True)
class Found:
    """Outcome of a search, or of a method that needs none.

    Args:
        policy: What was decided.
        val_auc: Validation AUC of the search's own model; None if it trains none.
        seconds: Time of this search, sessions before a resume included.
        peak_bytes: The most that embedding parameters, their gradients and their optimizer state
            took together.
        record: What was learned, JSON values only.
        weights: If a model of ``policy`` can go on where the search stopped, its weights by the
            names of ``RecModel.state_dict()``.
        winner: Which candidate was chosen; empty if there was no choice between candidates.
        decision: What a person is told of that choice, JSON values only.
        candidates: The policies that were compared, by name.
        searched: The policy that the search itself decided, where another candidate may have won.
    """

    policy: Policy
    val_auc: float | None
    seconds: float
    peak_bytes: int
    record: Mapping[str, Any]
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    winner: str = ""
    decision: Mapping[str, Any] = field(default_factory=dict)
    candidates: Mapping[str, Policy] = field(default_factory=dict)
    searched: Policy | None = None


def embedding_bytes(
    parameters: Iterable[torch.Tensor], optimizers: Iterable[torch.optim.Optimizer]
) -> int:
    """Bytes of ``parameters``, of a gradient for each, and of what ``optimizers`` keep of them."""
    total = 0
    held = list(optimizers)
    for parameter in parameters:
        total += 2 * parameter.nbytes
        for optimizer in held:
            state = optimizer.state.get(parameter, {})
            total += sum(s.nbytes for s in state.values() if isinstance(s, torch.Tensor))
    return total
