"""What happens after each training step and each epoch, and what a checkpoint keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from seo_rec.batch import Batch
from seo_rec.metrics import Metrics
from seo_rec.search.dimgrow.growth import Growth
from seo_rec.search.dimgrow.weights import found_weights
from seo_rec.search.held_out import HeldOut
from seo_rec.train import ranks
from seo_rec.train.after_step import AfterStep
from seo_rec.train.replicas import average_gradients
from seo_rec.train.state import State, optimizer_state

KEPT = 0.5  # a column whose gate ends above this is part of the answer


@dataclass(frozen=True)
class Answer:
    """Gates of the columns in use at the end of ``epoch``, by feature; that epoch's AUC."""

    epoch: int
    val_auc: float
    gates: list[list[float]]

    @property
    def kept(self) -> list[int]:
        """Columns of every feature whose gates are above 0.5."""
        return [sum(g > KEPT for g in own) for own in self.gates]


class DimGrowStep(AfterStep):
    """After each training step: train the gates on held-out rows, and adapt the widths.

    After each epoch it reads the gates. The gates of the last or of the best epoch are the answer.

    Args:
        growth: The model, its optimizers, and how they grow.
        held_out: The rows that train the gates; None if the training rows do.
    """

    def __init__(self, growth: Growth, held_out: HeldOut | None) -> None:
        self.growth, self.held_out = growth, held_out
        self.model, self.settings = growth.model, growth.settings
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.answer: Answer | None = None
        self.best_weights: dict[str, torch.Tensor] = {}

    @property
    def calls_model(self) -> bool:
        return self.held_out is not None

    @property
    def keeps_best(self) -> bool:
        return False

    def __call__(self, model: nn.Module, step: int) -> None:
        self.step = step
        if self.held_out is not None:
            self._train_gates(self.held_out.next())
        self.growth(step)

    def _train_gates(self, batch: Batch) -> None:
        """An Adam step of the gates alone; they have gradients of the training batch so far."""
        gate, thetas = self.growth.optimizers["gate"], [d.theta for d in self.model.in_use()]
        gate.zero_grad()
        loss, _ = self.model(batch)
        gradients = torch.autograd.grad(loss, thetas)
        for theta, gradient in zip(thetas, gradients, strict=True):
            theta.grad = gradient
        average_gradients(thetas, ranks())
        gate.step()
        gate.zero_grad()

    def after_epoch(self, metrics: Metrics) -> bool:
        """Note the gates; whether the number of columns that are kept of a feature changed."""
        answer = Answer(len(self.history) + 1, metrics.auc, self.gates())
        earlier = [epoch["val_auc"] for epoch in self.history]
        if self.settings.gates_of == "last":
            self.answer = answer
        elif metrics.auc > max(earlier, default=-1.0):
            self.answer = answer
            self.best_weights = found_weights(self.model, self.kept_columns())
        changed = not self.history or answer.kept != self.history[-1]["kept"]
        self.history.append(
            {
                "epoch": answer.epoch,
                "step": self.step,
                "val_auc": metrics.auc,
                "used": self.model.dims,
                "kept": answer.kept,
            }
        )
        return changed

    def gates(self) -> list[list[float]]:
        """Gates of the columns in use, by feature."""
        gates = iter(self.model.gates().detach().cpu().tolist())
        return [[next(gates) for _ in own] for own in self.model.used]

    def kept_columns(self) -> list[list[int]]:
        """Columns of every feature whose gates are above 0.5."""
        both = zip(self.model.used, self.gates(), strict=True)
        return [[k for k, g in zip(own, gates, strict=True) if g > KEPT] for own, gates in both]

    # ---- checkpoints -------------------------------------------------------------------

    def tensors(self) -> State:
        """The model's random state, Adam's state of the gates, the weights of the best epoch."""
        gate = {"gate": self.growth.optimizers["gate"]} if self.held_out else {}
        states = optimizer_state(self.model, gate)
        return {
            **self.model.random,
            **{f"gate.{n}": t for n, t in states.items()},
            **{f"best.{n}": t for n, t in self.best_weights.items()},
        }

    def values(self) -> dict[str, Any]:
        """Which columns there are and which are in use, what happened, the answer so far."""
        return {
            "allocated": self.model.allocated,
            "used": self.model.used,
            "events": self.growth.events,
            "history": self.history,
            "answer": asdict(self.answer) if self.answer else None,
            "held_out": self.held_out.state_dict() if self.held_out else {},
        }

    def before_load(self, values: Mapping[str, Any]) -> None:
        """Allocate the columns that the checkpoint holds."""
        self.growth.start(values["allocated"], values["used"])

    def load(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what ``tensors`` and ``values`` gave."""
        named = dict(self.model.named_parameters())
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "gate":
                parameter, _, key = rest.rpartition(".")
                theta = named[parameter]
                self.growth.optimizers["gate"].state[theta][key] = tensor.to(theta.device)
            elif kind == "best":
                self.best_weights[rest] = tensor
            elif name in self.model.random:  # it may have been written where a GPU was, or was not
                self.model.random[name] = tensor
        self.growth.events = [(s, n, d) for s, n, d in values["events"]]
        self.history = values["history"]
        self.answer = Answer(**values["answer"]) if values["answer"] else None
        if self.held_out:
            self.held_out.load_state_dict(values["held_out"])
