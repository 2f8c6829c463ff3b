"""The optimizer of tables that are updated within the backward pass, for one process on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from seo_rec.embed.fused import FusedTables

FUSED_ON = ("cuda",)  # devices of updates within the backward pass; on a CPU SparseRows is faster


class FusedRows(torch.optim.Optimizer):
    """Hands learning rates to :class:`FusedTables`, and shows their state.

    The state of a parameter has the names and shapes that :class:`SparseRows` gives it, so that
    each goes on with the checkpoints of the other.

    Args:
        tables: They update themselves.
        parameters: The tables' weights, in order.
        lr: The learning rate.
    """

    def __init__(self, tables: FusedTables, parameters: Sequence[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})
        self.tables = tables
        for parameter, sums in zip(parameters, tables.sums, strict=False):
            self.state[parameter] = {"sum": sums}
        self._pass_on()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """The rows have moved; the rate is for the next step."""
        self._pass_on()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """There are no gradients; the rate is for the next step."""
        self._pass_on()

    def _pass_on(self) -> None:
        self.tables.set_learning_rate(float(self.param_groups[0]["lr"]))
