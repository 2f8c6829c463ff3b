"""One batch on its way through the model.

Letters used in this package: B batch, N dense columns, F features, V ids in a batch,
K lookups, D one feature's width, E sum of widths. A tensor's name ends in its shape.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        weights_B: float32 (B,), 0 or more, by which the losses of rows are multiplied; None: 1.
        offset: is added to logits before the loss: -ln(w) for rows whose negatives are a sample,
            each kept with probability w.
        labels_BT: float32 (B, T) in {0, 1}, where there are T labels; the first is ``labels_B``.
    """

    dense_BN: torch.Tensor
    sparse: KeyedJaggedTensor
    labels_B: torch.Tensor
    num_rows: int = -1
    mean_rows: float = -1.0
    weights_B: torch.Tensor | None = None
    offset: float = 0.0
    labels_BT: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.num_rows < 0:
            self.num_rows = int(self.labels_B.numel())
        if self.mean_rows < 0:
            self.mean_rows = float(self.num_rows)

    @property
    def row_weights(self) -> torch.Tensor:
        """The weights of all B rows, float32 (B,): 1 where there are none."""
        return torch.ones_like(self.labels_B) if self.weights_B is None else self.weights_B

    def loss(self, logits_B: torch.Tensor, positive_weight: float = 1.0) -> torch.Tensor:
        """``sum_i w_i c_i BCE(z_i + offset, y_i) / mean_rows`` over the rows that are data.

        c_i is ``positive_weight`` where the label is 1, and 1 where it is 0.

        With a sample of the negatives the model learns the logits z of all rows: the sampled ones
        have z - ln(w), which is p = p' / (p' + (1 - p') / w) for their probability p' (He et al.,
        Practical Lessons from Predicting Clicks on Ads, 2014).

        Args:
            logits_B: float32 (B,).
            positive_weight: Of the class of label 1.

        Returns:
            float32, without shape. Its mean over the processes is the loss of the global batch.
        """
        rows = self.num_rows
        logits_B = logits_B[:rows] + self.offset if self.offset else logits_B[:rows]
        labels_B = self.labels_B[:rows]
        weights_B = None if self.weights_B is None else self.weights_B[:rows]
        if positive_weight != 1.0:
            classes_B = 1.0 + (positive_weight - 1.0) * labels_B
            weights_B = classes_B if weights_B is None else weights_B * classes_B
        total = functional.binary_cross_entropy_with_logits(
            logits_B, labels_B, weight=weights_B, reduction="sum"
        )
        return total / self.mean_rows

    def multi_task_loss(
        self, logits_BT: torch.Tensor, factors_T: Sequence[float], positive_weight: float = 1.0
    ) -> torch.Tensor:
        """``sum_t f_t loss_t``, with the loss of each label as :meth:`loss` has it.

        Args:
            logits_BT: float32 (B, T).
            factors_T: The factor f of the loss of each label.
            positive_weight: Of the class of label 1, of every label.

        Returns:
            float32, without shape.
        """
        assert self.labels_BT is not None
        pairs = zip(logits_BT.T, self.labels_BT.T.contiguous(), strict=True)
        losses = [
            replace(self, labels_B=labels_B, labels_BT=None).loss(logits_B, positive_weight)
            for logits_B, labels_B in pairs
        ]
        return torch.stack([f * x for f, x in zip(factors_T, losses, strict=True)]).sum()

    def squared_error(self, outputs_B: torch.Tensor) -> torch.Tensor:
        """``sum_i w_i (z_i - y_i)^2 / mean_rows`` over the rows that are data.

        Args:
            outputs_B: float32 (B,), the numbers z that are predicted.

        Returns:
            float32, without shape. Its mean over the processes is the loss of the global batch.
        """
        rows = self.num_rows
        errors_B = (outputs_B[:rows] - self.labels_B[:rows]).square()
        if self.weights_B is not None:
            errors_B = errors_B * self.weights_B[:rows]
        return errors_B.sum() / self.mean_rows

    def padded(self, rows: int) -> Batch:
        """The batch with rows of empty bags behind its own, ``rows`` in all."""
        missing = rows - int(self.labels_B.numel())
        if missing <= 0:
            return self
        keys, weights_B, labels_BT = self.sparse.keys(), self.weights_B, self.labels_BT
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
            weights_B=None if weights_B is None else functional.pad(weights_B, (0, missing)),
            labels_BT=None if labels_BT is None else functional.pad(labels_BT, (0, 0, 0, missing)),
        )

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        return replace(
            self,
            dense_BN=self.dense_BN.to(device, non_blocking=non_blocking),
            sparse=self.sparse.to(device, non_blocking=non_blocking),
            labels_B=self.labels_B.to(device, non_blocking=non_blocking),
            weights_B=(
                None
                if self.weights_B is None
                else self.weights_B.to(device, non_blocking=non_blocking)
            ),
            labels_BT=(
                None
                if self.labels_BT is None
                else self.labels_BT.to(device, non_blocking=non_blocking)
            ),
        )

    def record_stream(self, stream: torch.Stream) -> None:
        self.dense_BN.record_stream(stream)
        self.sparse.record_stream(stream)
        self.labels_B.record_stream(stream)
        for more in (self.weights_B, self.labels_BT):
            if more is not None:
                more.record_stream(stream)

    def pin_memory(self) -> Batch:
        return replace(
            self,
            dense_BN=self.dense_BN.pin_memory(),
            sparse=self.sparse.pin_memory(),
            labels_B=self.labels_B.pin_memory(),
            weights_B=None if self.weights_B is None else self.weights_B.pin_memory(),
            labels_BT=None if self.labels_BT is None else self.labels_BT.pin_memory(),
        )
