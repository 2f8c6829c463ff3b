"""Where a training stands: what its checkpoints hold beside weights, and by which names."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from seo_rec.data.stream import Stream
from seo_rec.train.saved import Saved
from seo_rec.train.state import State


@dataclass
class Progress:
    """Where a run stands; part of every checkpoint.

    ``changed_epoch``: the last epoch after which the search said that it still changed.
    ``best_auc``: the AUC of the best epoch, or R2 of a regression label, or minus its log loss
    where that says what is best.
    """

    epoch: int = 0
    step: int = 0
    best_auc: float = float("-inf")
    best_epoch: int = -1
    best_step: int = -1
    changed_epoch: int = -1
    loss_sum: float = 0.0
    loss_rows: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    seconds_per_epoch: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class FitResult:
    """Outcome of a run: validation metrics of the weights that it ends with, and the cost.

    ``seconds_per_epoch`` is the median training time of an epoch, evaluation not included;
    ``seconds`` is all time spent, that of sessions before a resume included.
    """

    val: Any  # Metrics, or RegressionMetrics of a regression label
    best_epoch: int
    epochs: int
    steps: int
    seconds_per_epoch: float
    seconds: float


def position(stream: Stream, done: int) -> dict[str, int]:
    """The state of ``stream`` after ``done`` steps of the epoch in which it was entered.

    A pipeline takes batches before they are trained on, so the stream itself may be ahead.
    """
    state = stream.state_dict()
    ahead_of_epoch = state["step"] == 0 and done > 0  # it has handed out its last batch
    epoch = state["epoch"] - (1 if ahead_of_epoch else 0)
    whole = done == len(stream)
    return {**state, "epoch": epoch + 1 if whole else epoch, "step": 0 if whole else done}


def first_values(stream: Stream, earlier_steps: int) -> dict[str, Any]:
    """The plain values of a checkpoint from which :func:`fit` starts at step 0.

    Args:
        stream: Over the training rows, not entered yet.
        earlier_steps: The steps that the weights and the running mean have behind them.
    """
    return {
        "progress": asdict(Progress()),
        "stream": stream.state_dict(),
        "after_step": {},
        "earlier_steps": earlier_steps,
    }


def named(prefix: str, state: State) -> State:
    return {f"{prefix}.{name}": value for name, value in state.items()}


def named_in(saved: Saved, prefix: str) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and type of the saved tensors of a kind, by their names without the kind."""
    start = f"{prefix}."
    return {n.removeprefix(start): size for n, size in saved.sizes.items() if n.startswith(start)}
