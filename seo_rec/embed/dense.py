"""Lookups whose gradient is that of whole tables, which lie one after the other in one tensor.

Letters: K lookups, B bags, V reads, E sum of the lookups' widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from seo_kernels.row_bag import Reads, RowLayout, add_rows, read_rows, weight_gradient
from seo_rec.embed.sparse import TableLookups


class DenseTables(TableLookups):
    """Some tables in one tensor, and their lookups.

    The backward pass writes every float of the tensor's gradient once and adds the rows that were
    read, so that its cost is that of the tables' size: for small tables.

    Args:
        parameter: The tables' floats, one table after the other.
        sizes: Rows and width of each table.
        table_of: Of every lookup, the number of its table.
    """

    def __init__(
        self, parameter: torch.Tensor, sizes: Sequence[tuple[int, int]], table_of: Sequence[int]
    ) -> None:
        self.parameter, self.sizes = parameter, list(sizes)
        self.layout = RowLayout(table_of, [width for _, width in sizes])

    def read(self, reads: Reads, weights_V: torch.Tensor | None) -> torch.Tensor:
        x_BE: torch.Tensor = _ReadTables.apply(self, reads, weights_V, self.parameter)
        return x_BE

    def tables(self, floats: torch.Tensor) -> list[torch.Tensor]:
        """The tables in a tensor of so many floats as the parameter has."""
        parts = floats.detach().view(-1).split([rows * width for rows, width in self.sizes])
        return [part.view(size) for part, size in zip(parts, self.sizes, strict=True)]


class _ReadTables(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        tables: DenseTables,
        reads: Reads,
        weights_V: torch.Tensor | None,
        parameter: torch.Tensor,
    ) -> torch.Tensor:
        ctx.tables, ctx.reads = tables, reads
        return read_rows(tables.tables(parameter), tables.layout, reads)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tables, reads, (gradient_BE,) = ctx.tables, ctx.reads, gradients
        of_weights = of_parameter = None
        if ctx.needs_input_grad[2]:
            weights = tables.tables(tables.parameter)
            of_weights = weight_gradient(weights, tables.layout, reads, gradient_BE)
        if ctx.needs_input_grad[3]:
            of_parameter = torch.zeros_like(tables.parameter)
            add_rows(tables.tables(of_parameter), tables.layout, reads, gradient_BE.contiguous())
        return None, None, of_weights, of_parameter
