"""Lookups of a sharded collection in the order of the policy.

Letters: B batch, E sum of widths.
"""

from __future__ import annotations

import functools
import math
from itertools import accumulate
from typing import Any

import torch


@functools.lru_cache(maxsize=64)  # a model asks for the same one in every step
def order_of(
    found: tuple[str, ...], widths: tuple[int, ...], keys: tuple[str, ...], device: torch.device
) -> tuple[int, torch.Tensor, torch.Tensor] | None:
    """How to bring the keys ``found`` into the order of ``keys``; None if they are in it.

    Returns:
        Columns that always stay together, and in units of them, which one comes to each place and
        to which place each one goes.
    """
    if found == keys:
        return None
    unit = math.gcd(*widths)
    starts = dict(zip(found, accumulate(widths, initial=0), strict=False))
    sizes = dict(zip(found, widths, strict=True))
    places = [n // unit for k in keys for n in range(starts[k], starts[k] + sizes[k], unit)]
    there = torch.tensor(places, device="cpu")
    assert len(places) == sum(widths) // unit, "the tables give other lookups than the policy's"
    return unit, there.to(device), torch.argsort(there).to(device)


class Permute(torch.autograd.Function):
    """Blocks of columns in another order.

    The gradient is the opposite permutation, which reads and writes every number once; that of
    ``index_select`` would add into zeros, as if a column could be taken twice.
    """

    @staticmethod
    def forward(
        ctx: Any, x_BE: torch.Tensor, unit: int, there: torch.Tensor, back: torch.Tensor
    ) -> torch.Tensor:
        ctx.unit, ctx.back = unit, back
        return _take(x_BE, unit, there)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return _take(gradients[0], ctx.unit, ctx.back), None, None, None


def _take(x_BE: torch.Tensor, unit: int, blocks: torch.Tensor) -> torch.Tensor:
    return x_BE.reshape(len(x_BE), x_BE.shape[1] // unit, unit).index_select(1, blocks).flatten(1)
