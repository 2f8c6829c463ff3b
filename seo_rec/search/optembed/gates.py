"""The unit step that cuts rows off, with a gradient, and the term that drives thresholds up."""

from __future__ import annotations

from typing import Any

import torch


class _UnitStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        distance = ctx.saved_tensors[0].abs()
        slope = torch.where(distance <= 0.4, 2 - 4 * distance, 0.4)
        return gradients[0] * slope.masked_fill(distance > 1, 0.0)


def unit_step(u: torch.Tensor) -> torch.Tensor:
    """``S(u) = 1 if u > 0 else 0``, with the long-tailed estimator in place of its derivative.

    ``H(u) = 2 - 4 |u|`` up to 0.4, 0.4 up to 1, and 0 beyond. Any shape.
    """
    stepped: torch.Tensor = _UnitStep.apply(u)
    return stepped


def sparsity(thresholds_F: torch.Tensor) -> torch.Tensor:
    """``sum_f exp(-t_f)``."""
    return torch.exp(-thresholds_F).sum()
