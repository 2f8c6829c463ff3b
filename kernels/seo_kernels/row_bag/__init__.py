"""``row_bag``: pooled rows of tables, and updates of the rows that a batch read and of no others.

The cost of :func:`read_rows` and :func:`update_rows` depends on the batch, not on the tables. A CPU
runs the C of ``native``; other devices and types run ``reference``.

Letters: K lookups, B bags of each, V reads of all lookups, R rows and D floats of a table's row, E
floats of an output row, U different rows that were read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seo_kernels import native
from seo_kernels.native import rows as c_rows
from seo_kernels.row_bag import reference
from seo_kernels.row_bag.layout import (
    L2_ON,
    ROW_OPTIMIZERS,
    Reads,
    RowLayout,
    RowTable,
    RowUpdate,
    mean_share,
    settled_step,
    share_left,
)
from seo_kernels.row_bag.rounding import HALVES

__all__ = [
    "HALVES",
    "L2_ON",
    "ROW_OPTIMIZERS",
    "Reads",
    "RowLayout",
    "RowTable",
    "RowUpdate",
    "add_rows",
    "mean_share",
    "read_rows",
    "settled_step",
    "share_left",
    "step_rows",
    "swap_means",
    "update_rows",
    "weight_gradient",
]


def read_rows(tables: Sequence[Tensor], layout: RowLayout, reads: Reads) -> Tensor:
    """``x[b, columns of k] = sum_{v in bag(k, b)} w_v tables[t_k][row_v]``, without a gradient.

    Args:
        tables: (R, D) each; the C kernel reads float32, float16 and bfloat16 on a CPU.
        layout: Which table each lookup reads, and where its columns begin.
        reads: The rows of the batch.

    Returns:
        (B, E) of the type of the tables, float32 if they have 16 bits; an empty bag gives zeros.

    Raises:
        ValueError: A row or an offset is out of range (a GPU does not look).
    """
    if _calls_c(tables):
        return c_rows.read_rows(tables, layout, reads)
    return reference.read_rows(tables, layout, reads)


def update_rows(
    tables: Sequence[RowTable],
    layout: RowLayout,
    reads: Sequence[Reads],
    gradients: Sequence[Tensor],
    update: RowUpdate,
) -> None:
    """One optimizer step of every row that was read, in place; the other rows are not touched.

    The gradient of a row is the sum over its reads v, in bag b of lookup k, of
    ``w_v gradients[b, columns of k]``; several pairs of reads and gradients add up. What is then
    done with it says :class:`RowUpdate`.

    Args:
        tables: The weights and the state of each table.
        layout: As for :func:`read_rows`.
        reads, gradients: What :func:`read_rows` was given, and the gradient (B, E) of its result.
        update: The optimizer, its rate, L2 and the running mean.

    Raises:
        ValueError: A row or an offset is out of range (a GPU does not look), or a gradient is of
            another shape.
    """
    if not reads:
        return
    for read, gradient in zip(reads, gradients, strict=True):
        _check_gradient(layout, read, gradient)
    if len(reads) == 1 and _calls_c([t.weight for t in tables]):
        c_rows.update_rows(tables, layout, reads[0], gradients[0], update)
        return
    reference.update_rows(tables, layout, reads, gradients, update)


def add_rows(tables: Sequence[Tensor], layout: RowLayout, reads: Reads, gradient: Tensor) -> None:
    """``tables[t_k][row_v] += w_v gradient[b, columns of k]`` for every read v in bag (k, b).

    This is the gradient of whole tables if they are zeros before.

    Args:
        tables: float32 (R, D) each, written in place.
        layout, reads: As for :func:`read_rows`.
        gradient: (B, E), of what :func:`read_rows` gives.

    Raises:
        ValueError: A row or an offset is out of range (a GPU does not look), or the gradient is of
            another shape.
    """
    _check_gradient(layout, reads, gradient)
    if _calls_c([*tables, gradient], torch.float32):
        c_rows.add_rows(tables, layout, reads, gradient)
        return
    reference.add_rows(tables, layout, reads, gradient)


def step_rows(tables: Sequence[RowTable], gradients: Sequence[Tensor], update: RowUpdate) -> None:
    """One optimizer step, in place, of every row whose gradient is not zero.

    With ``sgd``, ``adagrad`` and ``rowwise_adagrad`` this is a step of all rows, because a gradient
    of zero moves neither a weight nor its sum of squares.

    Args:
        tables: The float32 weights and the sums of each table, without a mean.
        gradients: Of each table, (R, D).
        update: An optimizer named above, without L2.

    Raises:
        ValueError: The update moves rows whose gradient is zero, or a gradient or the sums are not
            of the shape of their table.
    """
    if (
        update.optimizer == "lazy_adam"
        or update.l2_on != "none"
        or any(t.mean is not None for t in tables)
    ):
        raise ValueError(
            f"step_rows with optimizer {update.optimizer}, L2 on {update.l2_on}, or a mean, which "
            "move rows whose gradient is zero; allowed: sgd, adagrad and rowwise_adagrad alone"
        )
    for table, gradient in zip(tables, gradients, strict=True):
        _check_step(table, gradient, update)
    if _calls_c([*(t.weight for t in tables), *gradients], torch.float32):
        c_rows.step_rows(tables, gradients, update)
        return
    reference.step_rows(tables, gradients, update)


def _check_gradient(layout: RowLayout, reads: Reads, gradient: Tensor) -> None:
    """ValueError unless a gradient is of the shape of what :func:`read_rows` gives."""
    if gradient.shape != (reads.num_bags, layout.width):
        raise ValueError(
            f"the gradient is of shape {tuple(gradient.shape)}; allowed: "
            f"({reads.num_bags}, {layout.width}), the bags and the floats of all lookups"
        )


def _check_step(table: RowTable, gradient: Tensor, update: RowUpdate) -> None:
    """ValueError unless a table's gradient and sums are of its shape."""
    rows, dim = table.weight.shape
    if gradient.shape != (rows, dim):
        raise ValueError(
            f"the gradient of a table of shape {(rows, dim)} is of shape {tuple(gradient.shape)}; "
            "allowed: the same shape"
        )
    sums = {"sgd": 0, "adagrad": rows * dim, "rowwise_adagrad": rows}[update.optimizer]
    first = table.first
    if sums and (first is None or first.numel() != sums):
        has = "no sums" if first is None else f"sums of shape {tuple(first.shape)}"
        raise ValueError(
            f"{update.optimizer} on a table of shape {(rows, dim)} with {has}; allowed: {sums} sums"
        )


def swap_means(table: RowTable, update: RowUpdate, back: bool) -> None:
    """Exchange weights and running means, in place; rows that were never read are their own mean.

    Args:
        table: It has a mean, which is of the type of the weights.
        update: The means are first brought up to its step, unless ``back``; of 16 bits they are
            rounded right on average.
        back: Undo the exchange.
    """
    if _calls_c([table.weight]):
        c_rows.swap_means(table, update, back)
        return
    reference.swap_means(table, update, back)


def weight_gradient(
    tables: Sequence[Tensor], layout: RowLayout, reads: Reads, gradient: Tensor
) -> Tensor:
    """The gradient (V,) of the weights of the reads: ``<tables[t_k][row_v], gradient[b, k]>``."""
    return reference.weight_gradient(tables, layout, reads, gradient)


def _calls_c(tables: Sequence[Tensor], *dtypes: torch.dtype) -> bool:
    allowed = dtypes or native.FLOATS
    return native.missing() is None and all(
        t.device.type == "cpu" and t.dtype in allowed and t.is_contiguous() for t in tables
    )
