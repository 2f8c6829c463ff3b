"""What every search takes and what it hands over, and how its memory is counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from seo_rec.data.crosses import CrossedData
from seo_rec.data.dataset import DataSet
from seo_rec.policy import Policy
from seo_rec.train import SparseRows, Training, inner_model, ranks
from seo_rec.train.state import MEANS, local_tensors, optimizer_state, weights_of


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


class Decide(Protocol):
    """Finds a policy.

    Args:
        data: The data set.
        settings: An instance of the method's own settings.
        training: Of the models that the search trains, if it trains any; the seed of the policy.
        out: Folder for checkpoints, from which an interrupted search goes on; None: none.
    """

    def __call__(
        self, data: DataSet, settings: Any, training: Training, out: Path | None = None
    ) -> Found: ...


class DecideCrossed(Protocol):
    """Finds a policy that may have some of the proposed crosses as features.

    Args:
        data: The data set.
        settings, training, out: As of :class:`Decide`.
        wide: The data set with all proposed crosses, whose columns the policies read.
    """

    def __call__(
        self, data: DataSet, settings: Any, training: Training, out: Path | None, wide: CrossedData
    ) -> Found: ...


def embedding_bytes(
    parameters: Iterable[torch.Tensor], optimizers: Iterable[torch.optim.Optimizer]
) -> int:
    """Bytes of ``parameters``, of what ``optimizers`` keep of them, and of dense gradients.

    Parameters that are updated row by row have none.
    """
    total = 0
    held = list(optimizers)
    for parameter in parameters:
        sparse = any(isinstance(o, SparseRows) and parameter in o.state for o in held)
        total += parameter.nbytes if sparse else 2 * parameter.nbytes
        for optimizer in held:
            state = optimizer.state.get(parameter, {})
            kept = (s for name, s in state.items() if name not in MEANS)
            total += sum(s.nbytes for s in kept if isinstance(s, torch.Tensor))
    return total


def table_bytes(model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> int:
    """Bytes of a model's tables, of what optimizers keep of them, and of dense gradients.

    Over all processes together, in each of which this is called.

    Args:
        model: a RecModel, or what ``distribute`` made of one.
        optimizers: of the model, by name.
    """
    embedding = inner_model(model).embedding
    tables = sum(t.nbytes for t in local_tensors(weights_of(embedding.ebc)))
    sparse = (p for o in optimizers.values() if isinstance(o, SparseRows) for p in o.state)
    gradients = tables - sum(p.nbytes for p in sparse)
    prefix = "embedding.ebc."
    states = optimizer_state(model, optimizers)
    kept = {name: value for name, value in states.items() if name.startswith(prefix)}
    return sum(ranks().gather(tables + gradients + sum(t.nbytes for t in local_tensors(kept))))
