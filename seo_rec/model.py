"""The trained thing: embedding + backbone + loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from seo_rec.backbones import BACKBONES
from seo_rec.batch import Batch
from seo_rec.embed import INIT_SCALE, Gate, RowEmbedding
from seo_rec.policy import Policy


@dataclass(frozen=True)
class ModelSettings:
    """What a model is besides its policy.

    ``hidden``: widths of the hidden layers; ``dropout``: in [0, 1); ``init_scale``: embeddings
    start uniform in [-init_scale, init_scale].
    """

    backbone: str = "mlp"
    hidden: tuple[int, ...] = (256, 128)
    dropout: float = 0.0
    init_scale: float = INIT_SCALE

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone {self.backbone!r}; allowed: {', '.join(BACKBONES)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout}; allowed: 0 <= dropout < 1")
        if any(h < 1 for h in self.hidden):
            raise ValueError(f"hidden {self.hidden}; allowed: widths of 1 or more")


class RecModel(nn.Module):
    """``Batch -> (mean binary cross entropy, logits_B)``.

    The loss is the sum over the batch's own rows divided by ``batch.mean_rows``: its mean over
    the processes is the mean over all rows of the global batch, however they are shared out.
    """

    def __init__(self, embedding: RowEmbedding, backbone: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding
        self.backbone = backbone

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        logits_B = self.backbone(batch.dense_BN, self.embedding(batch.sparse))
        rows = batch.num_rows
        loss = F.binary_cross_entropy_with_logits(
            logits_B[:rows], batch.labels_B[:rows], reduction="sum"
        )
        return loss / batch.mean_rows, logits_B


def build_model(
    policy: Policy, num_dense: int, settings: ModelSettings, seed: int, gate: Gate | None = None
) -> RecModel:
    """A freshly initialised model; the same seed gives the same weights.

    The backbone's initial weights do not depend on the number or the size of the tables, only on
    its own shape, so that methods compared at one seed start from one backbone where they can.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        embedding = RowEmbedding(policy, gate, settings.init_scale)
        torch.manual_seed(seed + 1_000_003)
        backbone = BACKBONES[settings.backbone](
            num_dense, embedding.dims, settings.hidden, settings.dropout
        )
    return RecModel(embedding, backbone)
