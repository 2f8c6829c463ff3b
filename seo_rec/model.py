"""The trained thing: embedding + backbone + loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from seo_rec.backbones import BACKBONES, INTERACTIONS, Interaction, build_backbone
from seo_rec.batch import Batch
from seo_rec.embed import INIT_SCALE, Gate, PolicyEmbedding
from seo_rec.methods import Mlet
from seo_rec.policy import Policy


@dataclass(frozen=True)
class ModelSettings:
    """What a model is besides its policy.

    Args:
        backbone: The network that reads the dense columns and the embeddings.
        hidden: Widths of the hidden layers of the network.
        dropout: Share of the hidden units that are dropped in training, from 0 to below 1.
        init_scale: Embeddings start uniformly distributed between minus this number and this
            number.
        interaction: Settings of the backbone itself; backbones that have no settings keep None.
        mlet: How the tables are trained as two layers; None trains them as one layer.
    """

    backbone: str = "mlp"
    hidden: tuple[int, ...] = (256, 128)
    dropout: float = 0.0
    init_scale: float = INIT_SCALE
    interaction: Interaction | None = None
    mlet: Mlet | None = None

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone {self.backbone!r}; allowed: {', '.join(BACKBONES)}")
        wanted = INTERACTIONS.get(self.backbone)
        if self.interaction is None and wanted is not None:
            object.__setattr__(self, "interaction", wanted())
        elif self.interaction is not None and type(self.interaction) is not wanted:
            raise ValueError(
                f"interaction {self.interaction} of backbone {self.backbone}; allowed: "
                f"{wanted.__name__ + '(...)' if wanted else 'None, it has no settings'}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout}; allowed: 0 <= dropout < 1")
        if any(h < 1 for h in self.hidden):
            raise ValueError(f"hidden {self.hidden}; allowed: widths of 1 or more")

    def as_json(self) -> dict[str, Any]:
        """What ``run.json`` holds; without ``interaction`` and ``mlet`` where they are None."""
        return {k: v for k, v in asdict(self).items() if v is not None}

    @classmethod
    def from_json(cls, read: Mapping[str, Any]) -> ModelSettings:
        """The settings that ``as_json`` gave; JSON's lists were tuples."""
        given = _tuples(read)
        if read.get("interaction") is not None:
            kind = INTERACTIONS[read["backbone"]]
            given["interaction"] = kind(**_tuples(read["interaction"]))
        if read.get("mlet") is not None:
            given["mlet"] = Mlet(**read["mlet"])
        return cls(**given)


def _tuples(read: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in read.items()}


class RecModel(nn.Module):
    """``Batch -> (mean binary cross entropy, logits_B)``.

    The loss is the sum over the batch's own rows divided by ``batch.mean_rows``: its mean over
    the processes is the mean over all rows of the global batch, however they are shared out.
    """

    def __init__(self, embedding: PolicyEmbedding, backbone: nn.Module) -> None:
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

    def collapsed(self) -> RecModel:
        """The model with tables of one layer (:class:`Mlet`); the backbone is the same module."""
        return RecModel(self.embedding.collapsed(), self.backbone)


def build_model(
    policy: Policy, num_dense: int, settings: ModelSettings, seed: int, gate: Gate | None = None
) -> RecModel:
    """A freshly initialised model; the same seed gives the same weights.

    The backbone's initial weights do not depend on the number or the size of the tables, only on
    its own shape, so that methods compared at one seed start from one backbone where they can.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        embedding = PolicyEmbedding(policy, gate, settings.init_scale, mlet=settings.mlet)
        torch.manual_seed(seed + 1_000_003)
        backbone = build_backbone(
            settings.backbone,
            num_dense,
            embedding.dims,
            settings.hidden,
            settings.dropout,
            settings.interaction,
        )
    return RecModel(embedding, backbone)
