"""One batch on its way through the model.

Letters used in this package: B batch, N dense columns, F features, V ids in a batch,
K lookups, D one feature's width, E sum of widths. A tensor's name ends in its shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable


@dataclass
class Batch(Pipelineable):
    """Dense columns, sparse features and labels of B rows.

    Args:
        dense_BN: float32 (B, N); N may be 0.
        sparse: one key per feature in schema order, int64 ids, stride B.
        labels_B: float32 (B,) in {0, 1}.
    """

    dense_BN: torch.Tensor
    sparse: KeyedJaggedTensor
    labels_B: torch.Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        return Batch(
            self.dense_BN.to(device, non_blocking=non_blocking),
            self.sparse.to(device, non_blocking=non_blocking),
            self.labels_B.to(device, non_blocking=non_blocking),
        )

    def record_stream(self, stream: torch.Stream) -> None:
        self.dense_BN.record_stream(stream)
        self.sparse.record_stream(stream)
        self.labels_B.record_stream(stream)

    def pin_memory(self) -> Batch:
        return Batch(
            self.dense_BN.pin_memory(), self.sparse.pin_memory(), self.labels_B.pin_memory()
        )

    @property
    def num_rows(self) -> int:
        return int(self.labels_B.numel())
