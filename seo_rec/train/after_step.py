"""What a search adds to the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from seo_rec.metrics import Metrics
from seo_rec.train.state import State


class AfterStep:
    """What a search adds to the training loop; this one adds nothing. Override what is needed."""

    @property
    def calls_model(self) -> bool:
        """Whether the step runs the model, which then cannot work batches ahead."""
        return False

    @property
    def keeps_best(self) -> bool:
        """Whether ``fit`` keeps the weights of the best epoch and ends with them.

        Otherwise it ends with the weights of the last epoch, and no best ones are written.
        """
        return True

    def __call__(self, model: nn.Module, step: int) -> None:
        """The search's own update, after training step number ``step``."""

    def after_epoch(self, metrics: Metrics) -> bool:
        """Called after each evaluation; whether the search still changed.

        If it did, the patience starts anew, as it does after a better AUC.
        """
        return False

    def tensors(self) -> State:
        """The tensors of the search's state that are neither the model's nor an optimizer's."""
        return {}

    def values(self) -> dict[str, Any]:
        """The plain values of the search's state, for JSON."""
        return {}

    def before_load(self, values: Mapping[str, Any]) -> None:
        """Make the parameters that a checkpoint holds and the model lacks, before it is loaded.

        Args:
            values: What :meth:`values` gave when the checkpoint was written.
        """

    def load(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what ``tensors`` and ``values`` gave; the model has been loaded."""
