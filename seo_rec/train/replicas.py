"""Models that are whole in every process of a launch, and train together as one process would.

Every process has its rows of each batch. Gradients are averaged after the backward pass, and what a
model needs of the rows of all processes, or must draw alike in all of them, is here.

Letters: B rows of this process's batch, R rows of the batch of all processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from seo_rec.batch import Batch
from seo_rec.train.ranks import Ranks
from seo_rec.train.state import State

APART_BYTES = 1 << 20  # larger gradients are sent as they are, smaller ones together


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
    """The gradient of every parameter becomes its mean over the ranks.

    Args:
        parameters: the same in every process, in the same order; those without a gradient are left
            out, and must lack it in all processes.
        ranks: the processes.
    """
    if ranks.world_size == 1:
        return
    together = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.nbytes > APART_BYTES and gradient.is_contiguous():
            ranks.mean_(gradient)
        else:
            together.append(gradient)
    if together:
        joined = ranks.mean_(torch.cat([g.reshape(-1) for g in together]))
        parts = joined.split([g.numel() for g in together])
        torch._foreach_copy_(together, [p.view_as(g) for p, g in zip(parts, together, strict=True)])


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def summed(x: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """The sum of ``x`` over the ranks; its gradient is the sum of the gradients of all ranks."""
    total: torch.Tensor = _Summed.apply(x) if ranks.world_size > 1 else x
    return total


class Place(NamedTuple):
    """This process's rows of a batch are [first, stop) of the ``total`` rows of all processes."""

    first: int
    stop: int
    total: int

    @property
    def rows(self) -> int:
        return self.stop - self.first


def place_of(batch: Batch, ranks: Ranks) -> Place:
    """Where the rows of ``batch``, without its padding, stand in the batch of all processes."""
    total = round(batch.mean_rows * ranks.world_size)
    first, stop = (r * total // ranks.world_size for r in (ranks.rank, ranks.rank + 1))
    assert stop - first == batch.num_rows, "rows of a batch are shared out as Stream does"
    return Place(first, stop, total)


def rows_of_all(x_BD: torch.Tensor, place: Place, ranks: Ranks) -> torch.Tensor:
    """The rows of all processes in their order, (R, D), without a gradient.

    Args:
        x_BD: of this process, as long in every process; rows beyond ``place.rows`` are padding.
        place: of its rows.
        ranks: the processes.
    """
    if ranks.world_size == 1:
        return x_BD.detach()
    parts = [torch.empty_like(x_BD) for _ in range(ranks.world_size)]
    dist.all_gather(parts, x_BD.detach().contiguous())
    bounds = [r * place.total // ranks.world_size for r in range(ranks.world_size + 1)]
    sizes = (stop - first for first, stop in pairwise(bounds))
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


class SharedDraws:
    """Random numbers that all processes draw alike.

    One process draws from torch's generator. Several draw from one of their own, which starts where
    torch's does in ``fit`` of one process, so that they draw what one process draws if nothing else
    (dropout) takes numbers in between.

    Args:
        seed: of the run.
        ranks: the processes.
    """

    def __init__(self, seed: int, ranks: Ranks) -> None:
        several = ranks.world_size > 1
        self.generator = torch.Generator().manual_seed(seed) if several else None

    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> torch.Tensor:
        """Uniform in [low, high), int64, on the CPU."""
        return torch.randint(low, high, shape, generator=self.generator)

    def uniform_like(self, x: torch.Tensor) -> torch.Tensor:
        """Uniform in [0, 1), of the shape, type and device of ``x``."""
        if self.generator is None:
            return torch.rand_like(x)
        return torch.rand(x.shape, generator=self.generator, dtype=x.dtype).to(x.device)

    def tensors(self) -> State:
        """Where the generator stands, for a checkpoint; nothing in one process."""
        return {} if self.generator is None else {"draws": self.generator.get_state()}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from what :meth:`tensors` gave; a checkpoint of one process has nothing of it."""
        if self.generator is not None and "draws" in tensors:
            self.generator.set_state(tensors["draws"])
