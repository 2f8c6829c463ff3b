"""The running mean of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from seo_rec.train.state import State, copied, local_tensors, weights_of


class WeightAverage:
    """The running mean of a model's weights, ``m <- a_t m + (1 - a_t) w`` after step t.

    Args:
        model: its weights at the start are the first mean; sharded weights have sharded means.
        decay: upper limit of a_t; 0 keeps no mean and costs nothing.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        weights = weights_of(model)
        self.state: State = copied(weights, keep_device=True) if decay else {}
        self._live = local_tensors(weights) if decay else []
        self._means = local_tensors(self.state)

    def update(self, step: int) -> None:
        if self.decay:
            share = 1 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self._means, self._live, share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model holds the mean; after it, its own weights again."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for live, mean in zip(self._live, self._means, strict=True):
            kept = live.clone()
            live.copy_(mean)
            mean.copy_(kept)
