"""The trained thing: embedding + backbone + loss."""

from __future__ import annotations

import torch
from torch import nn

from seo_rec.backbones import build_backbone
from seo_rec.batch import Batch
from seo_rec.embed import Gate, PolicyEmbedding
from seo_rec.policy import Policy
from seo_rec.settings import ModelSettings

__all__ = ["ModelSettings", "RecModel", "build_model"]


class RecModel(nn.Module):
    """``Batch -> (mean binary cross entropy, logits_B)``; see :meth:`Batch.loss`.

    The loss is the sum over the batch's own rows divided by ``batch.mean_rows``: its mean over
    the processes is the mean over all rows of the global batch, however they are shared out.
    In the sum, rows with label 1 count ``positive_weight`` times.
    """

    def __init__(
        self, embedding: PolicyEmbedding, backbone: nn.Module, positive_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.backbone = backbone
        self.positive_weight = positive_weight

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        logits_B = self.backbone(batch.dense_BN, self.embedding(batch.sparse))
        return batch.loss(logits_B, self.positive_weight), logits_B

    def collapsed(self) -> RecModel:
        """The model with tables of one layer (:class:`Mlet`); the backbone is the same module."""
        return RecModel(self.embedding.collapsed(), self.backbone, self.positive_weight)


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
        )
    return RecModel(embedding, backbone, settings.positive_weight)
