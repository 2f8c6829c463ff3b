"""Optimizers of the rows that a batch read: a step costs the same whatever the size of the tables.

``sgd``, ``adagrad`` and ``rowwise_adagrad`` are the optimizers of these names on dense gradients,
to which a row that was not read has the gradient zero. ``lazy_adam`` is not Adam, whose moments
move every row in every step; see :class:`seo_kernels.row_bag.RowUpdate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.batched_embedding_kernel import BatchedDenseEmbeddingBag
from torchrec.distributed.embedding_types import ShardedEmbeddingTable
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection

from seo_kernels import native
from seo_kernels.pages import ask_for_large_pages
from seo_kernels.row_bag import (
    RowTable,
    RowUpdate,
    swap_means,
    update_rows,
)
from seo_rec.embed.dense import DenseTables
from seo_rec.embed.sparse import SparseTables, TableLookups, TablePart

EPS = 1e-8
MOMENTS = {"sgd": (), "adagrad": ("sum",), "rowwise_adagrad": ("sum",)}
MOMENTS["lazy_adam"] = ("exp_avg", "exp_avg_sq")


class SparseRows(torch.optim.Optimizer):
    """Updates of the rows that were read since the last step, and the running mean of all rows.

    The state of a parameter, by the name of its tensor: ``sum`` or ``exp_avg``, ``exp_avg_sq`` and
    ``updates``; ``reads`` for L2 by frequency; ``mean`` and ``mean_at`` once :meth:`keep_mean` was
    called. See :class:`seo_kernels.row_bag.RowTable`. They take memory as rows are first read, in
    pages of 2 MB where the system gives them.

    Args:
        sources: The lookups whose tables are updated.
        parameters: The parameters that these tables are, or are parts of.
        optimizer: ``sgd``, ``adagrad``, ``rowwise_adagrad`` or ``lazy_adam``.
        lr: The learning rate.
        l2: The L2 penalty.
        l2_on: ``read`` or ``frequency``: the rows that the penalty acts on.
        seed: Of the random numbers by which weights and means of 16 bits are rounded.
    """

    def __init__(
        self,
        sources: Sequence[SparseTables],
        parameters: Iterable[nn.Parameter],
        *,
        optimizer: str,
        lr: float,
        l2: float = 0.0,
        l2_on: str = "read",
        seed: int = 0,
    ) -> None:
        super().__init__(parameters, {"lr": lr})
        self.sources, self.optimizer, self.seed = list(sources), optimizer, seed
        self.l2, self.l2_on = l2, l2_on if l2 else "none"
        self.decay, self.steps = 0.0, 0
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = self._new_state(parameter)
        self._refresh()

    def keep_mean(self, decay: float) -> None:
        """From now on keep a running mean of the weights, which limits its decay to ``decay``."""
        self.decay = decay
        for parameter, state in self.state.items():
            state["mean"] = _zeros(parameter, parameter.shape, dtype=parameter.dtype)
            state["mean_at"] = _zeros(parameter, (len(parameter), 1), torch.int32).fill_(-1)
        self._refresh()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the rows read since :meth:`zero_grad`."""
        self.steps += 1
        update = self._update()
        for source, tables in zip(self.sources, self.tables, strict=True):
            reads = [r for r, _ in source.pending]
            update_rows(tables, source.layout, reads, [g for _, g in source.pending], update)
            source.pending.clear()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the rows that were read and not updated."""
        for source in self.sources:
            source.pending.clear()

    @torch.no_grad()
    def swap_means(self, back: bool) -> None:
        """Exchange weights and running means, these brought up to the last step; or ``back``."""
        for table in (table for tables in self.tables for table in tables):
            swap_means(table, self._update(), back)

    def _update(self) -> RowUpdate:
        return RowUpdate(
            self.optimizer,
            float(self.param_groups[0]["lr"]),
            self.steps,
            l2=self.l2,
            l2_on=self.l2_on,
            eps=EPS,
            decay=self.decay,
        )

    def _new_state(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        per_row = (len(parameter), 1)
        shape = per_row if self.optimizer == "rowwise_adagrad" else parameter.shape
        state = {name: _zeros(parameter, shape) for name in MOMENTS[self.optimizer]}
        if self.optimizer == "lazy_adam":
            state["updates"] = _zeros(parameter, per_row, torch.int32)
        if self.l2_on == "frequency":
            state["reads"] = _zeros(parameter, per_row, torch.int32)
        return state

    def _refresh(self) -> None:
        self.tables = [
            [self._table(w, part) for w, part in zip(source.weights, source.parts, strict=True)]
            for source in self.sources
        ]

    def _table(self, weight: torch.Tensor, part: TablePart) -> RowTable:
        """A table with its part of the state of the parameter that it lies in."""
        for parameter, state in self.state.items():
            if parameter.shape[1] != weight.shape[1]:
                continue
            row_bytes = parameter.element_size() * parameter.shape[1]
            first, rest = divmod(weight.data_ptr() - parameter.data_ptr(), row_bytes)
            if rest == 0 and 0 <= first <= len(parameter) - len(weight):
                mine = slice(first, first + len(weight))
                values = {name: value[mine] for name, value in state.items()}
                return RowTable(
                    weight.detach(),
                    values.get("sum", values.get("exp_avg")),
                    values.get("exp_avg_sq"),
                    updates=values.get("updates"),
                    reads=values.get("reads"),
                    mean=values.get("mean"),
                    mean_at=values.get("mean_at"),
                    key=part.key(self.seed),
                    first_row=part.row,
                    first_column=part.column,
                )
        raise ValueError(f"no parameter holds the table of {tuple(weight.shape)} floats")


def sparse_rows(optimizers: Mapping[str, torch.optim.Optimizer]) -> list[SparseRows]:
    """The optimizers that update rows alone."""
    return [o for o in optimizers.values() if isinstance(o, SparseRows)]


def read_shards_sparsely(ebc: nn.Module, tables: Iterable[str]) -> list[SparseTables]:
    """Let the lookups of a sharded collection keep the gradients of the rows that were read.

    Args:
        ebc: What ``DistributedModelParallel`` made of a collection, its kernels ``dense``.
        tables: Names of the tables, as the collection has them. The others keep dense gradients; on
            a CPU their lookups are this project's (:class:`DenseTables`).
    """
    names, made = set(tables), list[SparseTables]()
    lookups = ebc._lookups if isinstance(ebc, ShardedEmbeddingBagCollection) else []
    for lookup in lookups:
        if isinstance(lookup, DistributedDataParallel):
            lookup = lookup.module
        for kernel in getattr(lookup, "_emb_modules", []):
            if isinstance(kernel, BatchedDenseEmbeddingBag):
                if {t.name for t in kernel.config.embedding_tables} <= names:
                    made.append(_read_kernel_sparsely(kernel))
                elif kernel.emb_module.weights.dtype == torch.float32 and native.missing() is None:
                    _read_kernel_densely(kernel)
    return made


def _read_kernel_sparsely(kernel: BatchedDenseEmbeddingBag) -> SparseTables:
    module = kernel.emb_module
    ask_for_large_pages(module.weights, filled=True)
    source = SparseTables(
        [w.detach() for w in module.split_embedding_weights()],
        kernel._feature_table_map,
        [module.weights],
        [_part(t) for t in kernel.config.embedding_tables],
    )
    module.forward = _forward(source)
    return source


def _read_kernel_densely(kernel: BatchedDenseEmbeddingBag) -> None:
    module = kernel.emb_module
    if module.weights.device.type == "cpu":
        sizes = [tuple(w.shape) for w in module.split_embedding_weights()]
        module.forward = _forward(DenseTables(module.weights, sizes, kernel._feature_table_map))


def _forward(tables: TableLookups) -> Callable[..., torch.Tensor]:
    """In place of the forward pass of FBGEMM's module."""

    def forward(
        indices: torch.Tensor,
        offsets: torch.Tensor,
        per_sample_weights: torch.Tensor | None = None,
        **_: Any,
    ) -> torch.Tensor:
        bags = (offsets.numel() - 1) // tables.layout.num_lookups
        return tables.look_up(indices, offsets, per_sample_weights, bags)

    return forward


def _part(table: ShardedEmbeddingTable) -> TablePart:
    """Which part of which table a shard is, as TorchRec says it."""
    metadata = table.local_metadata
    return TablePart(table.name, *(metadata.shard_offsets if metadata else ()))


def _zeros(
    like: torch.Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Zeros; on a CPU the system gives memory, in large pages, as it is first written."""
    if like.device.type != "cpu":
        return torch.zeros(tuple(shape), dtype=dtype, device=like.device)
    bits = {1: np.uint8, 2: np.uint16, 4: np.int32, 8: np.int64}[dtype.itemsize]
    zeros = torch.from_numpy(np.zeros(tuple(shape), bits)).view(dtype)  # NumPy has no bfloat16
    ask_for_large_pages(zeros)
    return zeros
