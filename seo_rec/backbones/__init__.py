"""Backbones: from dense columns and embeddings to one logit per row.

In: ``dense_BN`` and ``x_BE`` of a batch. Out: ``logits_B``. Each has a file of its own, and
:func:`build_backbone` makes the one that the settings name. Begin with
:mod:`~seo_rec.backbones.mlp`, the smallest. What several are made of is in
:mod:`~seo_rec.backbones.layers`.

``BACKBONES`` names them. What can be set besides hidden layers and dropout is a small dataclass
of the backbone's own (:mod:`seo_rec.settings`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch

from seo_rec.backbone_settings import (
    INTERACTIONS,
    AutoIntSettings,
    DCNSettings,
    DCNv2Settings,
    DLRMSettings,
    Interaction,
    XDeepFMSettings,
)
from seo_rec.backbones.autoint import AutoInt
from seo_rec.backbones.dcn import DCN
from seo_rec.backbones.dcn_v2 import DCNv2
from seo_rec.backbones.deepfm import DeepFM
from seo_rec.backbones.dlrm import DLRM
from seo_rec.backbones.fnn import FNN
from seo_rec.backbones.ipnn import IPNN
from seo_rec.backbones.mlp import MLP
from seo_rec.backbones.multi_task import MMoE, SharedBottom, Towers
from seo_rec.backbones.nfm import NFM
from seo_rec.backbones.traits import Traits
from seo_rec.backbones.wide_deep import WideDeep
from seo_rec.backbones.xdeepfm import XDeepFM
from seo_rec.multi_task import MultiTask

__all__ = [
    "BACKBONES",
    "DCN",
    "DLRM",
    "FNN",
    "INTERACTIONS",
    "IPNN",
    "MLP",
    "NFM",
    "AutoInt",
    "AutoIntSettings",
    "Backbone",
    "DCNSettings",
    "DCNv2",
    "DCNv2Settings",
    "DLRMSettings",
    "DeepFM",
    "Interaction",
    "Traits",
    "WideDeep",
    "XDeepFM",
    "XDeepFMSettings",
    "build_backbone",
    "having",
    "traits_of",
]


class Backbone(Protocol):
    """``forward(dense_BN, x_BE) -> logits_B``; rows of the batch never mix."""

    def __call__(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor: ...


# Called with (num_dense, dims, hidden, dropout), and the settings of INTERACTIONS if it has any.
BACKBONES: dict[str, Callable[..., torch.nn.Module]] = {
    "mlp": MLP,
    "dcn-v2": DCNv2,
    "dcn": DCN,
    "dlrm": DLRM,
    "wide-deep": WideDeep,
    "deepfm": DeepFM,
    "fnn": FNN,
    "ipnn": IPNN,
    "xdeepfm": XDeepFM,
    "autoint": AutoInt,
    "nfm": NFM,
}


def build_backbone(
    name: str,
    num_dense: int,
    dims: Sequence[int],
    hidden: Sequence[int],
    dropout: float,
    interaction: Interaction | None = None,
    multi_task: MultiTask | None = None,
) -> torch.nn.Module:
    """The backbone called ``name``, with the settings of its interaction or their defaults.

    For several labels it gives logits_BT, and is made of towers: a backbone of this name for each
    label, or layers above those that the labels share.
    """
    own = () if interaction is None else (interaction,)
    make = partial(BACKBONES[name], num_dense, dims, hidden, dropout, *own)
    if multi_task is None:
        return make()
    labels, shared = len(multi_task.labels), multi_task.shared
    if multi_task.sharing == "mmoe":
        return MMoE(num_dense, dims, hidden, dropout, shared, multi_task.experts, labels)
    if shared:
        return SharedBottom(num_dense, dims, hidden, dropout, shared, labels)
    return Towers(make, labels)


def traits_of(backbone: str) -> Traits:
    """What searches may assume about the backbone called ``backbone``."""
    traits: Traits = BACKBONES[backbone].traits  # type: ignore[attr-defined]
    return traits


def having(holds: Callable[[Traits], bool]) -> tuple[str, ...]:
    """The names of the backbones whose traits fulfil a condition."""
    return tuple(name for name in BACKBONES if holds(traits_of(name)))
