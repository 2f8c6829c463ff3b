"""One batch on its way through the model.

Letters used in this package: B batch, N dense columns, F features, V ids in a batch,
K lookups, D one feature's width, E sum of widths. A tensor's name ends in its shape.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch.nn import functional
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable


@dataclass
class Batch(Pipelineable):
    """Dense columns, sparse features and labels of B rows.

    Args:
        dense_BN: float32 (B, N); N may be 0.
        sparse: one key per feature in schema order, int64 ids, stride B.
        labels_B: float32 (B,) in {0, 1}, or any numbers where the label is one to predict.
        num_rows: the first so many of the B rows are data, the rest is padding; default: all.
        mean_rows: rows of the batch of all processes together over the number of processes, by
            which a sum of losses is divided; default: ``num_rows``.
    """

    dense_BN: torch.Tensor
    sparse: KeyedJaggedTensor
    labels_B: torch.Tensor
    num_rows: int = -1
    mean_rows: float = -1.0

    def __post_init__(self) -> None:
        if self.num_rows < 0:
            self.num_rows = int(self.labels_B.numel())
        if self.mean_rows < 0:
            self.mean_rows = float(self.num_rows)

    def padded(self, rows: int) -> Batch:
        """The batch with rows of empty bags behind its own, ``rows`` in all."""
        missing = rows - int(self.labels_B.numel())
        if missing <= 0:
            return self
        keys = self.sparse.keys()
        lengths_FB = self.sparse.lengths().view(len(keys), -1)
        sparse = KeyedJaggedTensor(
            keys=keys,
            values=self.sparse.values(),
            lengths=functional.pad(lengths_FB, (0, missing)).view(-1),
            weights=self.sparse.weights_or_none(),
            stride=rows,
        )
        return replace(
            self,
            dense_BN=functional.pad(self.dense_BN, (0, 0, 0, missing)),
            sparse=sparse,
            labels_B=functional.pad(self.labels_B, (0, missing)),
        )

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        return replace(
            self,
            dense_BN=self.dense_BN.to(device, non_blocking=non_blocking),
            sparse=self.sparse.to(device, non_blocking=non_blocking),
            labels_B=self.labels_B.to(device, non_blocking=non_blocking),
        )

    def record_stream(self, stream: torch.Stream) -> None:
        self.dense_BN.record_stream(stream)
        self.sparse.record_stream(stream)
        self.labels_B.record_stream(stream)

    def pin_memory(self) -> Batch:
        return replace(
            self,
            dense_BN=self.dense_BN.pin_memory(),
            sparse=self.sparse.pin_memory(),
            labels_B=self.labels_B.pin_memory(),
        )
