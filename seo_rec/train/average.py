"""The running mean of a model's weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from seo_kernels.row_bag import mean_share, share_left
from seo_rec.train.sparse_rows import sparse_rows
from seo_rec.train.state import Piece, Sharded, State, copied, like, local_tensors, weights_of

AT = ".at"
SWAPPED_AT_ONCE = 2**22  # floats; a whole table would be held a third time


class WeightAverage:
    """The running mean of a model's weights, ``m <- a_t m + (1 - a_t) w`` after step t.

    With ``a_t = min(decay, (1 + t) / (10 + t))``. Rows that :class:`SparseRows` updates have their
    mean in its state, brought up to date when they are read and before the mean is applied.

    Args:
        model: Its weights at the start are the first mean; sharded weights have sharded means.
        decay: Upper limit of a_t; 0 keeps no mean and costs nothing.
        optimizers: Of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        decay: float,
        optimizers: Mapping[str, torch.optim.Optimizer] | None = None,
    ) -> None:
        self.decay = decay
        self.sparse = sparse_rows(optimizers or {}) if decay else []
        for optimizer in self.sparse:
            optimizer.keep_mean(decay)
        self._names = {id(p): n for n, p in model.named_parameters()}
        self._weights = weights_of(model)
        kept = {self._names[id(p)] for optimizer in self.sparse for p in optimizer.state}
        weights = {n: w for n, w in self._weights.items() if n not in kept}
        self._dense: State = copied(weights, keep_device=True) if decay else {}
        self._live = local_tensors(weights) if decay else []
        self._means = local_tensors(self._dense)

    @property
    def state(self) -> State:
        """The means by the names of the weights, and beside those of rows their steps (``at``)."""
        return {**self._dense, **self._of_rows("mean", ""), **self._of_rows("mean_at", AT)}

    def room(self, sizes: Collection[str]) -> State:
        """Tensors to read the saved means into, whether they were kept by rows or not.

        Args:
            sizes: Names of the saved tensors, as :attr:`state` names them.
        """
        steps = {
            name + AT: _steps_like(weight)
            for name, weight in self._weights.items()
            if name in self._dense and name + AT in sizes
        }
        known = {n: t for n, t in self._of_rows("mean_at", AT).items() if n in sizes}
        return {**self._dense, **self._of_rows("mean", ""), **known, **steps}

    @torch.no_grad()
    def loaded(self, read: State, step: int) -> None:
        """Go on after ``step`` with what was read into :meth:`room`."""
        for name, value in self._of_rows("mean_at", AT).items():
            if name not in read:  # they were kept whole, and are right
                for tensor in local_tensors({name: value}):
                    tensor.fill_(step)
        for name in self._dense:
            if name + AT in read:
                of_name = (self._dense[name], self._weights[name], read[name + AT])
                parts = (local_tensors({name: tensors}) for tensors in of_name)
                for mean, weight, at in zip(*parts, strict=True):
                    left = share_left(at.clamp(min=0), step, self.decay).to(weight.dtype)
                    mean.copy_(torch.where(at < 0, weight, weight + left * (mean - weight)))

    def _of_rows(self, key: str, suffix: str) -> State:
        return {
            name + suffix: like(self._weights[name], state[key])
            for optimizer in self.sparse
            for parameter, state in optimizer.state.items()
            if (name := self._names[id(parameter)])
        }

    def update(self, step: int) -> None:
        """Take the weights after step ``step`` into the mean."""
        if self.decay:
            torch._foreach_lerp_(self._means, self._live, mean_share(step, self.decay))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model holds the mean; after it, its own weights again."""
        self._swap(back=False)
        try:
            yield
        finally:
            self._swap(back=True)

    @torch.no_grad()
    def _swap(self, back: bool) -> None:
        for optimizer in self.sparse:
            optimizer.swap_means(back)
        for live, mean in zip(self._live, self._means, strict=True):
            pieces = zip(_pieces(live), _pieces(mean), strict=True)
            for weights, means in pieces:
                kept = weights.clone()
                weights.copy_(means)
                means.copy_(kept)


def _steps_like(weight: torch.Tensor | Sharded) -> torch.Tensor | Sharded:
    """A step for every row, cut as the weight is."""

    def zeros(tensor: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(tensor), 1, dtype=torch.int32, device=tensor.device)

    if not isinstance(weight, Sharded):
        return zeros(weight)
    pieces = tuple(Piece(zeros(p.tensor), (p.offsets[0], 0)) for p in weight.pieces)
    return Sharded(torch.Size((weight.shape[0], 1)), pieces)


def _pieces(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Parts of a tensor along its first dimension, each of a bounded size."""
    if tensor.numel() <= SWAPPED_AT_ONCE:
        return [tensor]
    return list(tensor.split(max(1, SWAPPED_AT_ONCE // max(1, tensor[0].numel()))))
