"""Which optimizer moves each parameter of a model, and what it keeps of the parameter."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


class KeptState:
    """The names of the state that optimizers keep, by the names of parameters.

    torch's Adam makes its state at the first step, and the other optimizers at once, so that before
    a step only Adam's has to be known by name (:data:`ADAM_STATE`).

    Args:
        model: The model, whole in this process.
        optimizers: Its optimizers; a parameter that none of them moves has no state.
    """

    def __init__(self, model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        self._parameters = dict(model.named_parameters())
        self._owners = {
            id(p): o for o in optimizers.values() for g in o.param_groups for p in g["params"]
        }

    def keeps(self, name: str, key: str) -> bool:
        """Whether the optimizer of the parameter ``name`` keeps a state that is called ``key``."""
        owner = self._owner(name)
        if isinstance(owner, torch.optim.Adam):
            return key in ADAM_STATE
        return owner is not None and key in owner.state[self._parameters[name]]

    def is_whole(self, name: str, found: int) -> bool:
        """Whether ``found`` tensors are a state that the optimizer of ``name`` goes on from.

        Adam takes up a whole state or makes its own; Adagrad's count of steps alone is neither.
        """
        return not isinstance(self._owner(name), torch.optim.Adam) or found == len(ADAM_STATE)

    def _owner(self, name: str) -> torch.optim.Optimizer | None:
        return self._owners.get(id(self._parameters[name]))
