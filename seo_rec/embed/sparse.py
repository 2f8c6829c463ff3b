"""Lookups whose gradient is kept as the rows that were read, for updates of these rows alone.

Letters: K lookups, B bags, V reads, E sum of the lookups' widths, R rows and D floats of a row.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from seo_kernels.row_bag import Reads, RowLayout, read_rows, weight_gradient


@dataclass(frozen=True)
class TablePart:
    """Which table a tensor of rows is, or where it lies in that table.

    Args:
        name: The name of the table's module.
        row, column: The place in the table of its first number.
    """

    name: str
    row: int = 0
    column: int = 0

    def key(self, seed: int) -> int:
        """64 bits for random numbers of this table: the first 8 bytes of a SHA-256, low first."""
        text = f"{seed} {self.name}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:8], "little")


class TableLookups(ABC):
    """The lookups of some tables; how their gradients are kept is what its kinds differ in."""

    layout: RowLayout

    def look_up(
        self,
        rows_V: torch.Tensor,
        offsets: torch.Tensor | None,
        weights_V: torch.Tensor | None,
        num_bags: int,
    ) -> torch.Tensor:
        """``x_BE``, the pooled rows of every lookup side by side; see :func:`read_rows`.

        Args:
            rows_V: int64, the row of every read, lookup after lookup, bag after bag.
            offsets: (K * B + 1) where the bags begin; None if each has one read.
            weights_V: A factor of every read; None for ones.
            num_bags: B.
        """
        reads = Reads(rows_V, offsets, weights_V, num_bags)
        return self.read(reads, weights_V)

    @abstractmethod
    def read(self, reads: Reads, weights_V: torch.Tensor | None) -> torch.Tensor:
        """``x_BE`` of these reads, (B, E), with what its backward pass needs."""


class SparseTables(TableLookups):
    """Some tables, their lookups, and the gradients of the rows read since the last update.

    A dense gradient of a table has as many floats as the table. Here the backward pass leaves the
    gradient of the looked-up vectors in ``pending``, and :class:`seo_rec.train.SparseRows` updates
    the rows.

    Args:
        weights: The tables, (R, D) each; they are read and updated in place.
        table_of: Of every lookup, the number of its table.
        parameters: The parameters that hold the tables, if the tables are parts of them.
        parts: Which tables, or parts of tables, the weights are; without them the weights are
            tables named by their numbers.
    """

    def __init__(
        self,
        weights: Sequence[torch.Tensor],
        table_of: Sequence[int],
        parameters: Sequence[torch.Tensor] = (),
        parts: Sequence[TablePart] = (),
    ) -> None:
        self.weights = list(weights)
        self.parts = list(parts) or [TablePart(str(i)) for i in range(len(self.weights))]
        self.parameters = list(parameters or weights)
        self.layout = RowLayout(table_of, [w.shape[1] for w in weights])
        self.pending: list[tuple[Reads, torch.Tensor]] = []

    def read(self, reads: Reads, weights_V: torch.Tensor | None) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return read_rows([w.detach() for w in self.weights], self.layout, reads)
        x_BE: torch.Tensor = _ReadRows.apply(self, reads, weights_V, *self.parameters)
        return x_BE


class _ReadRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        tables: SparseTables,
        reads: Reads,
        weights_V: torch.Tensor | None,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        ctx.tables, ctx.reads = tables, reads
        return read_rows([w.detach() for w in tables.weights], tables.layout, reads)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tables, reads, (gradient_BE,) = ctx.tables, ctx.reads, gradients
        of_weights = None
        if ctx.needs_input_grad[2]:
            weights = [w.detach() for w in tables.weights]
            of_weights = weight_gradient(weights, tables.layout, reads, gradient_BE)
        if any(ctx.needs_input_grad[3:]):
            tables.pending.append((reads, gradient_BE))
        return None, None, of_weights, *(None for _ in tables.parameters)
