"""Learning rates by step: a linear warm-up, then a constant rate or half a cosine down to 0.

Letters: t steps done before this one, W steps of the warm-up, T steps in all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from seo_rec.settings import FitSettings


def total_steps(settings: FitSettings, steps_per_epoch: int) -> int:
    """T: the steps of all epochs, or ``max_steps`` if these are fewer.

    A training that its patience ends earlier does not reach them.
    """
    steps = settings.epochs * steps_per_epoch
    return min(steps, settings.max_steps) if settings.max_steps else steps


def rate_factor(t: int, settings: FitSettings, total: int) -> float:
    """What the learning rates are multiplied by in the step after ``t`` steps.

    ``(t + 1) / (W + 1)`` in the warm-up, t <= W. After it 1 where the schedule is ``constant``, and
    ``(1 + cos(pi (t - W) / (T - W))) / 2`` where it is ``cosine`` (Loshchilov and Hutter, SGDR:
    Stochastic Gradient Descent with Warm Restarts, ICLR 2017, without restarts).

    Args:
        t: Steps done, 0 or more.
        settings: ``warmup_steps`` is W.
        total: T; the cosine would be 0 at t = T, after the last step.
    """
    warmup = settings.warmup_steps
    if t <= warmup:
        return (t + 1) / (warmup + 1)
    if settings.schedule == "constant":
        return 1.0
    progress = min(1.0, (t - warmup) / max(1, total - warmup))
    return (1 + math.cos(math.pi * progress)) / 2


def set_learning_rates(
    optimizers: Mapping[str, torch.optim.Optimizer], t: int, settings: FitSettings, total: int
) -> None:
    """Give every group of parameters its learning rate for the step after ``t`` steps.

    Optimizers of all kinds read it from their groups: of dense gradients, of the rows of a batch
    (:class:`SparseRows`) and of shards that are updated within the backward pass. It is a function
    of ``t`` alone, so a training that goes on needs nothing of it from the checkpoint.

    Args:
        optimizers: Their groups have the rates of the settings when this is first called.
        t: Steps done.
        settings: Of the training.
        total: See :func:`total_steps`.
    """
    if settings.schedule == "constant" and (t > settings.warmup_steps or not settings.warmup_steps):
        return
    factor = rate_factor(t, settings, total)
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
