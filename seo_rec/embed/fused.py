"""Tables that FBGEMM updates within the backward pass: its split table-batched embedding bags.

What TorchRec makes of a sharded table whose kernel is ``fused``, for all tables of one process.

Letters: K lookups, B bags, V reads, E sum of the lookups' widths, R rows and D floats of a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
    ComputeDevice,
    EmbeddingLocation,
    PoolingMode,
)
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)

from seo_kernels.row_bag import Reads, RowLayout
from seo_rec.embed.order import Permute, order_of
from seo_rec.embed.sparse import TableLookups

OPTIMIZERS = {
    "sgd": EmbOptimType.EXACT_SGD,
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
}


class FusedTables(TableLookups):
    """Tables whose backward pass updates the rows that were read, and keeps no gradient.

    ``w_r <- w_r - lr g_r`` (``sgd``) or ``w_r - lr g_r / (sqrt(s_r) + eps)``, where before
    ``s_r <- s_r + g_r^2`` (``adagrad``) or ``s_r + mean(g_r^2)`` (``rowwise_adagrad``); g_r is the
    sum of the gradients of all reads of row r. FBGEMM wants the lookups in the order of their
    tables, so they are sorted before it and put back after it.

    Args:
        weights: The tables, float32 (R, D) each, D a multiple of four; they are copied.
        table_of: Of every lookup, the number of its table; each table has one.
        optimizer: ``sgd``, ``adagrad`` or ``rowwise_adagrad``.
        eps: Added to the root of the sums.
        device: Where the tables are made.
    """

    def __init__(
        self,
        weights: Sequence[torch.Tensor],
        table_of: Sequence[int],
        optimizer: str,
        *,
        eps: float,
        device: torch.device,
    ) -> None:
        self.optimizer = optimizer
        self.layout = RowLayout(table_of, [w.shape[1] for w in weights])
        sorted_K = sorted(range(len(table_of)), key=lambda k: table_of[k])
        self._sorted_K = torch.tensor(sorted_K, device=device)
        names = tuple(map(str, range(len(table_of))))
        found = tuple(names[k] for k in sorted_K)
        widths = tuple(self.layout.widths[k] for k in sorted_K)
        self._back = order_of(found, widths, names, device)
        on_cpu = device.type == "cpu"
        where = EmbeddingLocation.HOST if on_cpu else EmbeddingLocation.DEVICE
        compute = ComputeDevice.CPU if on_cpu else ComputeDevice.CUDA
        self.module = SplitTableBatchedEmbeddingBagsCodegen(
            [(*w.shape, where, compute) for w in weights],
            feature_table_map=[table_of[k] for k in sorted_K],
            optimizer=OPTIMIZERS[optimizer],
            eps=eps,
            pooling_mode=PoolingMode.SUM,
            device=device,
        )
        self.weights: list[torch.Tensor] = self.module.split_embedding_weights()
        with torch.no_grad():
            for mine, weight in zip(self.weights, weights, strict=True):
                mine.copy_(weight)
        self._offsets = torch.empty(0, dtype=torch.int64)

    @property
    def sums(self) -> list[torch.Tensor]:
        """The accumulators s of every table, (R, D) or (R, 1), not copied; none of ``sgd``."""
        found = [states[0] for states in self.module.split_optimizer_states() if states]
        return [s.view(len(w), -1) for s, w in zip(found, self.weights, strict=False)]

    def set_learning_rate(self, lr: float) -> None:
        """The rate of the updates of what is read from now on."""
        self.module.set_learning_rate(lr)

    def read(self, reads: Reads, weights_V: torch.Tensor | None) -> torch.Tensor:
        rows_V, offsets = reads.rows_V, reads.offsets
        if self._back is not None:
            rows_V, offsets, weights_V = self._sorted(reads, weights_V)
        if offsets is None:
            offsets = self._each_one(rows_V)
        x_BE: torch.Tensor = self.module(rows_V, offsets, per_sample_weights=weights_V)
        return x_BE if self._back is None else Permute.apply(x_BE, *self._back)

    def _sorted(
        self, reads: Reads, weights_V: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Rows, offsets and weights of the reads, lookups in the order of their tables."""
        rows_V, num = reads.rows_V, self.layout.num_lookups
        if reads.offsets is None:
            rows = rows_V.view(num, -1)[self._sorted_K].flatten()
            weights = None if weights_V is None else weights_V.view(num, -1)[self._sorted_K]
            return rows, None, None if weights is None else weights.flatten()
        lengths_KB = reads.offsets.diff().view(num, -1)
        places_V = torch.arange(rows_V.numel(), device=rows_V.device)
        lengths, places_V, _ = torch.ops.fbgemm.permute_2D_sparse_data(
            self._sorted_K.int(), lengths_KB, places_V, None, None
        )
        offsets = torch.ops.fbgemm.asynchronous_complete_cumsum(lengths.flatten())
        weights = None if weights_V is None else weights_V[places_V]
        return rows_V[places_V], offsets, weights

    def _each_one(self, rows_V: torch.Tensor) -> torch.Tensor:
        """Offsets of bags of one read each."""
        if self._offsets.numel() != rows_V.numel() + 1 or self._offsets.device != rows_V.device:
            self._offsets = torch.arange(rows_V.numel() + 1, device=rows_V.device)
        return self._offsets
