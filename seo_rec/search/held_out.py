"""Training some parameters of a search on validation rows, which its weights have not seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seo_rec.batch import Batch
from seo_rec.data.stream import Stream
from seo_rec.train import FitSettings, ranks
from seo_rec.train.state import State

SPLITS = ("train", "held-out")


class HeldOut:
    """Endless batches of validation rows, epoch after epoch; its position can be resumed."""

    def __init__(self, data: Path, settings: FitSettings) -> None:
        self.stream = Stream(
            data, "val", batch_size=settings.batch_size, shuffle=True, seed=settings.seed
        )
        self._batches: Iterator[Batch] = iter(())

    def next(self) -> Batch:
        batch = next(self._batches, None)
        if batch is None:
            self._batches = iter(self.stream)
            batch = next(self._batches)
        return batch.to(ranks().device)

    def state_dict(self) -> dict[str, int]:
        return self.stream.state_dict()

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.stream.load_state_dict(state)
        self._batches = iter(self.stream)


class HeldOutStep:
    """After every ``every``-th training step, one Adam step of ``parameters`` on held-out rows.

    First order: the weights of the model are taken as they are. An
    :class:`~seo_rec.train.loop.AfterStep`.
    """

    calls_model = True

    def __init__(
        self, parameters: Sequence[nn.Parameter], lr: float, held_out: HeldOut, every: int = 1
    ) -> None:
        self.parameters, self.held_out, self.every = list(parameters), held_out, every
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr)

    def __call__(self, model: nn.Module, step: int) -> None:
        if step % self.every:
            return
        loss, _ = model(self.held_out.next())
        gradients = torch.autograd.grad(loss, self.parameters)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()

    def tensors(self) -> State:
        """Adam's state, for a checkpoint."""
        return {
            f"{i}.{name}": value
            for i, p in enumerate(self.parameters)
            for name, value in self.optimizer.state[p].items()
        }

    def values(self) -> dict[str, Any]:
        """Position of the held-out rows, for a checkpoint."""
        return {"held_out": self.held_out.state_dict()}

    def load(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what ``tensors`` and ``values`` gave."""
        for name, value in tensors.items():
            i, _, key = name.partition(".")
            parameter = self.parameters[int(i)]
            self.optimizer.state[parameter][key] = value.to(parameter.device)
        self.held_out.load_state_dict(values["held_out"])
