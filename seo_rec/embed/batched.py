"""All lookups of an unsharded collection in one FBGEMM call.

Letters: B batch, K lookups, E sum of widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from seo_kernels.row_bag import HALVES, Reads, RowLayout, read_rows
from seo_rec.embed.remap import row_lookups
from seo_rec.policy import Policy

IN_FOURS = ("cuda",)  # devices where FBGEMM reads four floats at a time, from multiples of four


class TableBatched(nn.Module):
    """All lookups of an unsharded collection in one FBGEMM call, in the policy's order.

    TorchRec's own unsharded collection runs one ``embedding_bag`` and one full dense gradient per
    (table, feature) pair; ``benchmarks/speed/step.py`` measures both. On devices of
    :data:`IN_FOURS` the rows that FBGEMM reads are filled up with zeros to multiples of four
    floats, which are not returned; the parameters stay as wide as the policy says.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.exact = _Layout(policy, 1)
        self.fours = _Layout(policy, 4) if any(t.dim % 4 for t in policy.tables) else None
        index = {t.name: i for i, t in enumerate(policy.tables)}
        table_of = [index[k.table] for _, _, k in row_lookups(policy)]
        self.layout = RowLayout(table_of, [t.dim for t in policy.tables])
        self._offsets = torch.empty(0, dtype=torch.int64)

    def forward(self, weights: list[torch.Tensor], lookups: KeyedJaggedTensor) -> torch.Tensor:
        """``x_BE`` = pooled rows of every lookup side by side, float32 (B, E)."""
        of_16_bits = weights[0].dtype in HALVES
        if not torch.is_grad_enabled() and (of_16_bits or not weights[0].is_cuda):
            return self._read(weights, lookups)
        if of_16_bits:
            raise RuntimeError(
                f"a gradient of whole tables of {weights[0].dtype}; allowed: the gradients of the "
                "rows that were read (keep_sparse_gradients, which make_optimizers calls)"
            )
        filled = self.fours if weights[0].device.type in IN_FOURS else None
        if filled is None:
            return self._look_up(self.exact, weights, lookups)
        padded = [nn.functional.pad(w, (0, -w.shape[1] % 4)) for w in weights]
        return self._look_up(filled, padded, lookups).index_select(1, filled.columns)

    def _read(self, weights: list[torch.Tensor], lookups: KeyedJaggedTensor) -> torch.Tensor:
        """The same without gradients: the tables are read where they are, not copied together."""
        tables = [w.detach() for w in weights]
        bags, factors = bag_offsets(lookups), lookups.weights_or_none()
        return read_rows(
            tables, self.layout, Reads(lookups.values(), bags, factors, lookups.stride())
        )

    def _look_up(
        self, layout: _Layout, weights: list[torch.Tensor], lookups: KeyedJaggedTensor
    ) -> torch.Tensor:
        return torch.ops.fbgemm.dense_embedding_codegen_lookup_function(
            dev_weights=_one_after_the_other(weights),
            weights_offsets=layout.weights_offsets,
            D_offsets=layout.dim_offsets,
            total_D=layout.total_dim,
            max_D=layout.max_dim,
            hash_size_cumsum=layout.row_offsets,
            total_hash_size_bits=layout.row_bits,
            indices=lookups.values(),
            offsets=self._bag_offsets(lookups),
            pooling_mode=int(PoolingMode.SUM),
            indice_weights=lookups.weights_or_none(),
            feature_requires_grad=None,
            output_dtype=SparseType.FP32.as_int(),
            mixed_D=layout.mixed,
        )

    def _bag_offsets(self, lookups: KeyedJaggedTensor) -> torch.Tensor:
        offsets, values = bag_offsets(lookups), lookups.values()
        if offsets is not None:
            return offsets
        if self._offsets.numel() != values.numel() + 1 or self._offsets.device != values.device:
            self._offsets = torch.arange(values.numel() + 1, device=values.device)
        return self._offsets


def bag_offsets(lookups: KeyedJaggedTensor) -> torch.Tensor | None:
    """Where the bags of all lookups begin, int64 (K * B + 1); None where each holds one id."""
    lengths = lookups.lengths()
    if lookups.values().numel() == lengths.numel() and bool((lengths == 1).all()):
        return None
    return torch.ops.fbgemm.asynchronous_complete_cumsum(lengths.long())


class _Layout(nn.Module):
    """Where FBGEMM finds tables that lie one after the other, and what it writes.

    Args:
        policy: its tables and lookups, in order.
        multiple: rows begin at, and are as long as, multiples of so many floats.
    """

    weights_offsets: torch.Tensor
    dim_offsets: torch.Tensor
    row_offsets: torch.Tensor
    columns: torch.Tensor  # of the output: those that are a table's own

    def __init__(self, policy: Policy, multiple: int) -> None:
        super().__init__()
        index = {t.name: i for i, t in enumerate(policy.tables)}
        order = [index[k.table] for _, _, k in row_lookups(policy)]
        own = [t.dim for t in policy.tables]
        dims = [-(-d // multiple) * multiple for d in own]
        rows = [t.num_rows for t in policy.tables]
        starts = list(accumulate([r * d for r, d in zip(rows, dims, strict=True)], initial=0))
        row_starts = list(accumulate(rows, initial=0))
        dim_starts = list(accumulate([dims[t] for t in order], initial=0))
        self.total_dim = dim_starts[-1]
        self.max_dim = max(dims)
        self.row_bits = max(1, row_starts[-1]).bit_length()
        self.mixed = len(set(dims)) > 1
        columns = [s + c for s, t in zip(dim_starts, order, strict=False) for c in range(own[t])]

        def buffer(name: str, values: Sequence[int], dtype: torch.dtype) -> None:
            tensor = torch.tensor(values, dtype=dtype, device="cpu")  # not meta
            self.register_buffer(name, tensor, persistent=False)

        buffer("weights_offsets", [starts[t] for t in order], torch.int64)
        buffer("dim_offsets", dim_starts, torch.int32)
        buffer("row_offsets", [*(row_starts[t] for t in order), row_starts[-1]], torch.int64)
        buffer("columns", columns, torch.int64)


def _one_after_the_other(weights: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([w.view(-1) for w in weights]) if len(weights) > 1 else weights[0].view(-1)
