"""The trained thing: embedding + backbone + loss."""

from __future__ import annotations

import torch
from torch import nn

from seo_rec.backbones import build_backbone
from seo_rec.batch import Batch
from seo_rec.embed import Gate, PolicyEmbedding
from seo_rec.multi_task import MultiTask
from seo_rec.policy import Policy
from seo_rec.settings import ModelSettings, Regression

__all__ = ["ModelSettings", "RecModel", "build_model"]


class RecModel(nn.Module):
    """``Batch -> (mean loss, logits_B)``; see :meth:`Batch.loss` and :meth:`Batch.squared_error`.

    The loss of a row is the binary cross entropy, or the squared error where ``regression``: then
    ``logits_B`` are the numbers that are predicted.

    The loss is the sum over the batch's own rows divided by ``batch.mean_rows``: its mean over
    the processes is the mean over all rows of the global batch, however they are shared out.
    In the sum, rows with label 1 count ``positive_weight`` times. With several labels the logits
    are ``logits_BT``, and the loss is the weighted sum over labels
    (:meth:`Batch.multi_task_loss`).
    """

    def __init__(
        self,
        embedding: PolicyEmbedding,
        backbone: nn.Module,
        positive_weight: float = 1.0,
        regression: bool = False,
        multi_task: MultiTask | None = None,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.backbone = backbone
        self.positive_weight = positive_weight
        self.regression = regression
        self.multi_task = multi_task

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        logits_B = self.backbone(batch.dense_BN, self.embedding(batch.sparse))
        return self.loss(batch, logits_B), logits_B

    def loss(self, batch: Batch, logits_B: torch.Tensor) -> torch.Tensor:
        """The mean loss of a batch whose rows have these logits, a scalar."""
        if self.regression:
            return batch.squared_error(logits_B)
        if self.multi_task is not None:
            return batch.multi_task_loss(logits_B, self.multi_task.factors, self.positive_weight)
        return batch.loss(logits_B, self.positive_weight)

    def collapsed(self) -> RecModel:
        """The model with tables of one layer (:class:`Mlet`); the backbone is the same module."""
        embedding = self.embedding.collapsed()
        positive = self.positive_weight
        return RecModel(embedding, self.backbone, positive, self.regression, self.multi_task)


class Rescaled(nn.Module):
    """``mean + std * backbone(dense, x)``; see :class:`seo_rec.settings.Regression`.

    Args:
        backbone: Any backbone.
        scale: Of the label.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: nn.Module, scale: Regression) -> None:
        super().__init__()
        self.backbone = backbone
        # not persistent: they are settings, and no weights to save or to average
        self.register_buffer("mean", torch.tensor([scale.mean]), persistent=False)
        self.register_buffer("std", torch.tensor([scale.std]), persistent=False)

    def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, N) and (B, E). Returns: predicted numbers, float32 (B,)."""
        return self.mean + self.std * self.backbone(dense_BN, x_BE)


def build_model(
    policy: Policy,
    num_dense: int,
    settings: ModelSettings,
    seed: int,
    gate: Gate | None = None,
    tables_on_meta: bool = False,
    storage: str = "float32",
) -> RecModel:
    """A freshly initialised model; the same seed gives the same weights.

    With ``tables_on_meta`` the tables have no memory yet: :func:`distribute` makes the shards of
    each process where they live, with the same weights. ``storage`` is the type of the tables, to
    which their initial weights are rounded once.

    The backbone's initial weights do not depend on the number or the size of the tables, only on
    its own shape, so that methods compared at one seed start from one backbone where they can.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        embedding = PolicyEmbedding(
            policy,
            gate,
            settings.init_scale,
            mlet=settings.mlet,
            seed=seed,
            tables_on_meta=tables_on_meta,
            storage=storage,
        )
        torch.manual_seed(seed + 1_000_003)
        backbone = build_backbone(
            settings.backbone,
            num_dense,
            embedding.dims,
            settings.hidden,
            settings.dropout,
            settings.interaction,
            settings.multi_task,
        )
    if settings.regression:
        backbone = Rescaled(backbone, settings.regression)
    regression = settings.regression is not None
    positive, tasks = settings.positive_weight, settings.multi_task
    return RecModel(embedding, backbone, positive, regression, tasks)
