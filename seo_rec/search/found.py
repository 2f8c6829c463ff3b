"""What every search hands over, and how its memory is counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from seo_rec.policy import Policy


@dataclass(frozen=True)
class Found:
    """Outcome of a search.

    ``policy``: what was decided; ``val_auc``: of the search's own model (None if it trains none);
    ``seconds``: of this search; ``peak_bytes``: the most that embedding parameters, their gradients
    and their optimizer state took together; ``record``: what was learned, JSON values only;
    ``weights``: if a model of ``policy`` can go on where the search stopped, its weights by the
    names of ``RecModel.state_dict()``.
    """

    policy: Policy
    val_auc: float | None
    seconds: float
    peak_bytes: int
    record: dict[str, Any]
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)


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
