"""What :mod:`seo_kernels.row_bag` reads and updates: layouts, batches, tables and settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

ROW_OPTIMIZERS = ("sgd", "adagrad", "rowwise_adagrad", "lazy_adam")
L2_ON = ("none", "read", "frequency")


class RowLayout:
    """Which table each lookup reads, and the columns of the output that it writes.

    Args:
        table_of: The number of the table of each of the K lookups.
        dims: The width of each table's rows.
    """

    def __init__(self, table_of: Sequence[int], dims: Sequence[int]) -> None:
        self.table_of, self.dims = tuple(table_of), tuple(dims)
        self.widths = tuple(dims[t] for t in table_of)
        ends = list(accumulate(self.widths, initial=0))
        self.columns, self.width = tuple(ends[:-1]), ends[-1]
        self.table_of_K = torch.tensor(self.table_of, dtype=torch.int64, device="cpu")
        self.columns_K = torch.tensor(self.columns, dtype=torch.int64, device="cpu")

    @property
    def num_lookups(self) -> int:
        return len(self.table_of)


@dataclass(frozen=True)
class Reads:
    """The rows that a batch reads.

    Args:
        rows_V: int64, the row of every read, lookup after lookup, bag after bag.
        offsets: (K * B + 1), int64: the reads of bag b of lookup k begin at ``offsets[k B + b]``;
            None where every bag has one.
        weights_V: A factor of every read; None for ones.
        num_bags: B.
    """

    rows_V: Tensor
    offsets: Tensor | None
    weights_V: Tensor | None
    num_bags: int


@dataclass(frozen=True)
class RowTable:
    """A table with what its optimizer and its mean remember; what is not in use is None.

    Args:
        weight: (R, D), float32, float16 or bfloat16; sums and moments are float32, whatever it is.
        first: Sums of squares, (R, D) for ``adagrad`` and (R, 1) for ``rowwise_adagrad``; the
            first moment (R, D) for ``lazy_adam``.
        second: Its second moment (R, D).
        updates: (R, 1) int32, its updates of each row so far.
        reads: (R, 1) int32, the reads of each row so far, for L2 by frequency.
        mean: (R, D), the running mean, of the type of the weight.
        mean_at: (R, 1) int32, the step up to which it is right; -1: the row was never read, and
            its mean is the weight, whatever ``mean`` holds.
        key: Of the random numbers by which weights and means of 16 bits are rounded, 64 bits.
        first_row, first_column: Where this part begins in the whole table; random numbers go by
            the place in that.
    """

    weight: Tensor
    first: Tensor | None = None
    second: Tensor | None = None
    updates: Tensor | None = None
    reads: Tensor | None = None
    mean: Tensor | None = None
    mean_at: Tensor | None = None
    key: int = 0
    first_row: int = 0
    first_column: int = 0

    def __post_init__(self) -> None:
        rows, dim = self.weight.shape
        shapes = {
            "first": ((rows, dim), (rows, 1)),
            **dict.fromkeys(("second", "mean"), ((rows, dim),)),
            **dict.fromkeys(("updates", "reads", "mean_at"), ((rows, 1),)),
        }
        for name, allowed in shapes.items():
            value: Tensor | None = getattr(self, name)
            if value is not None and (value.shape not in allowed or not value.is_contiguous()):
                raise ValueError(
                    f"{name} is of shape {tuple(value.shape)} for a table of {rows} x {dim}; "
                    f"allowed: {' or '.join(map(str, allowed))}, contiguous"
                )
        if self.mean is not None and self.mean.dtype != self.weight.dtype:
            raise ValueError(
                f"mean is {self.mean.dtype} for a table of {self.weight.dtype}; allowed: that type"
            )


@dataclass(frozen=True)
class RowUpdate:
    """What is done with the gradient g of a row w that was read.

    ``g <- g + l2 w`` with ``l2_on`` "read", ``g <- g + l2 / n w`` with "frequency", where n counts
    the reads of the row so far, this batch's included. Then

    * ``sgd``: ``w <- w - lr g``;
    * ``adagrad``: ``s <- s + g^2``, ``w <- w - lr g / (sqrt(s) + eps)``, float by float;
    * ``rowwise_adagrad``: the same with one s for the row, which grows by the mean of g^2;
    * ``lazy_adam``: Adam, whose moments and count of steps are the row's own: they stand still
      while the row is not read.

    A weight of 16 bits is read as float32, and w is rounded to one of its neighbours of 16 bits,
    right on average (:func:`seo_kernels.row_bag.rounding.round_randomly`).

    Last, where the table has a mean, ``m <- a_t m + (1 - a_t) w`` for this step t and all the steps
    since the row was last read, in which w stood still; a_t is ``min(decay, (1 + t) / (10 + t))``.
    A mean of 16 bits is read and rounded as w is, by random numbers of its own.

    Args:
        optimizer: One of :data:`ROW_OPTIMIZERS`.
        lr: The learning rate.
        step: The number of this step, from 1.
        l2, l2_on: The L2 penalty, and the rows that it acts on, of :data:`L2_ON`.
        eps: Added to square roots.
        betas: Of ``lazy_adam``.
        decay: The limit of a_t, below 1.
    """

    optimizer: str
    lr: float
    step: int
    l2: float = 0.0
    l2_on: str = "none"
    eps: float = 1e-8
    betas: tuple[float, float] = (0.9, 0.999)
    decay: float = 0.0

    @property
    def codes(self) -> tuple[int, int]:
        """The numbers of the optimizer and of the rows that L2 acts on."""
        return ROW_OPTIMIZERS.index(self.optimizer), L2_ON.index(self.l2_on)

    @property
    def settled(self) -> int:
        """The last step t at which a_t is ``(1 + t) / (10 + t)``."""
        return settled_step(self.decay) if self.decay else 0


def settled_step(decay: float) -> int:
    """The last step t at which ``(1 + t) / (10 + t) <= decay``; 0 if there is none."""
    last = max(0, int((10 * decay - 1) / (1 - decay)))
    while last > 0 and (1 + last) / (10 + last) > decay:
        last -= 1
    while (2 + last) / (11 + last) <= decay:
        last += 1
    return last


def share_left(start: Tensor, end: int, decay: float) -> Tensor:
    """The product of ``min(decay, (1 + i) / (10 + i))`` over the steps i after start up to end.

    The quotients telescope: up to the settled step the product is
    ``prod_{j=2}^{10} (start + j) / (end + j)``, after it a power of the decay.

    Args:
        start: Steps, none above ``end``.
        end: A step.
        decay: The limit, above 0 and below 1.

    Returns:
        float64 of the shape of ``start``.
    """
    settled = settled_step(decay)
    begin = start.double()
    until = torch.full_like(begin, min(end, settled)).maximum(begin)
    left = torch.ones_like(begin)
    for j in range(2, 11):
        left *= (begin + j) / (until + j)
    power = (end - begin.clamp(min=settled)).clamp(min=0)
    return left * torch.exp(power * math.log(decay))


def mean_share(step: int, decay: float) -> float:
    """``1 - a_t`` of the step."""
    return 1 - min(decay, (1 + step) / (10 + step))
