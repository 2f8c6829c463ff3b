"""Embedding modules: ``build(policy)`` stands where TorchRec has an ``EmbeddingBagCollection``.

In: a policy, and then the ids of a batch (a ``KeyedJaggedTensor``). Out: ``x_BE``, the features'
embeddings side by side. Begin with :class:`PolicyEmbedding` (:mod:`~seo_rec.embed.rows`), which
names the steps: :mod:`~seo_rec.embed.cross` (columns to features), :mod:`~seo_rec.embed.remap`
(ids to rows), the tables, :mod:`~seo_rec.embed.combine` (rows to one vector a feature).
:mod:`~seo_rec.embed.batched`, :mod:`~seo_rec.embed.chunks`, :mod:`~seo_rec.embed.sparse` and
:mod:`~seo_rec.embed.fused` are faster ways to read the same tables.
"""

from __future__ import annotations

import torch

from seo_rec.embed.keyed import KeyedEmbedding
from seo_rec.embed.rows import Gate, PolicyEmbedding
from seo_rec.embed.tables import table_configs, table_key
from seo_rec.policy import Policy
from seo_rec.settings import INIT_SCALE

__all__ = [
    "INIT_SCALE",
    "Gate",
    "KeyedEmbedding",
    "PolicyEmbedding",
    "build",
    "table_configs",
    "table_key",
]


def build(
    policy: Policy,
    dim: int | None = None,
    *,
    init_scale: float = INIT_SCALE,
    device: torch.device | None = None,
    weighted: bool = False,
) -> KeyedEmbedding:
    """The policy as an ``embedding_bag_collection=`` argument; see :class:`KeyedEmbedding`.

    ``KJT[features] -> KeyedTensor[features]``, every feature ``dim`` wide (default: the largest
    width of the policy's features). :class:`PolicyEmbedding` is the module without keys and equal
    widths, ``KJT[features] -> x_BE``.
    """
    return KeyedEmbedding(policy, dim, init_scale, device, weighted)
