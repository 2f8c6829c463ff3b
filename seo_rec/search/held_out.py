"""Training some parameters of a search on validation rows, which its weights have not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from seo_rec.batch import Batch
from seo_rec.data.dataset import DataSet
from seo_rec.train import FitSettings, ranks, ready, train_stream
from seo_rec.train.after_step import AfterStep
from seo_rec.train.replicas import SharedDraws
from seo_rec.train.state import State

SPLITS = ("train", "held-out")


class HeldOut:
    """Endless batches of validation rows, epoch after epoch; its position can be resumed."""

    def __init__(self, data: DataSet, settings: FitSettings) -> None:
        self.stream = train_stream(data, settings, split="val")
        self._batches: Iterator[Batch] = iter(())

    def next(self) -> Batch:
        batch = next(self._batches, None)
        if batch is None:
            self._batches = ready(self.stream, ranks())
            batch = next(self._batches)
        return batch.to(ranks().device)

    def state_dict(self) -> dict[str, int]:
        return self.stream.state_dict()

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.stream.load_state_dict(state)
        self._batches = ready(self.stream, ranks())


class Tempered(Protocol):
    """A gate whose softmax has a temperature that may be set."""

    temperature: float


@dataclass(frozen=True)
class Cooling:
    """A gate and the temperature that it has after each step.

    Args:
        gate: Whose ``temperature`` is set.
        at: The temperature after so many training steps.
    """

    gate: Tempered
    at: Callable[[int], float]


class HeldOutStep(AfterStep):
    """After training steps: the temperature of a gate, and Adam steps on held-out rows.

    The steps are of first order: the weights of the model are taken as they are.

    Args:
        parameters: What the held-out rows train.
        lr: Adam's learning rate.
        held_out: The rows; None sets the temperature only.
        every: Training steps between two held-out steps.
        after: Training steps before the first one.
        cooling: The temperature of a gate; None leaves it alone.
        draws: Of which the model draws in its steps, to be kept in checkpoints; None: there are
            none.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        lr: float,
        held_out: HeldOut | None,
        *,
        every: int = 1,
        after: int = 0,
        cooling: Cooling | None = None,
        draws: SharedDraws | None = None,
    ) -> None:
        self.parameters, self.held_out = list(parameters), held_out
        self.every, self.after, self.cooling, self.draws = every, after, cooling, draws
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr)

    @property
    def calls_model(self) -> bool:
        return self.held_out is not None

    def __call__(self, model: nn.Module, step: int) -> None:
        if self.cooling is not None:
            self.cooling.gate.temperature = self.cooling.at(step)
        if self.held_out is None or step <= self.after or step % self.every:
            return
        loss, _ = model(self.held_out.next())
        gradients = torch.autograd.grad(loss, self.parameters)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = ranks().mean_(gradient)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def tensors(self) -> State:
        """Adam's state and the draws', for a checkpoint."""
        adam: State = {
            f"{i}.{name}": value
            for i, p in enumerate(self.parameters)
            for name, value in self.optimizer.state[p].items()
        }
        return adam | (self.draws.tensors() if self.draws else {})

    def values(self) -> dict[str, Any]:
        """Temperature and position of the held-out rows, for a checkpoint."""
        temperature = self.cooling.gate.temperature if self.cooling else None
        held_out = self.held_out.state_dict() if self.held_out else {}
        return {"temperature": temperature, "held_out": held_out}

    def load(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what ``tensors`` and ``values`` gave."""
        if self.draws is not None:
            self.draws.load(tensors)
        for name, value in tensors.items():
            i, _, key = name.partition(".")
            if not key:  # of the draws
                continue
            parameter = self.parameters[int(i)]
            self.optimizer.state[parameter][key] = value.to(parameter.device)
        if self.cooling is not None:
            self.cooling.gate.temperature = values["temperature"]
        if self.held_out is not None:
            self.held_out.load_state_dict(values["held_out"])
