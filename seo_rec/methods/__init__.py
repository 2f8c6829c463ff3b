"""Published ways to give features their embeddings: functions from a schema to a policy.

In: the columns of a data set and a budget, in floats or in bytes. Out: a
:class:`~seo_rec.policy.Policy`; nothing is trained and torch is not imported. Begin with
:mod:`~seo_rec.methods.rows`, the simplest; :mod:`~seo_rec.methods.registry` finds a method by its
name, and :mod:`~seo_rec.methods.sharing` says who shares tables.

A budget is never exceeded, and less than one row of the narrowest table is left of it.
"""

from __future__ import annotations

from seo_rec.methods.cafe import cafe
from seo_rec.methods.frequent import frequent
from seo_rec.methods.managed_collision import managed_collision
from seo_rec.methods.mlet import SUFFIX, Mlet, inner_policy, two_layer_tables
from seo_rec.methods.origin import lookup_seed, provenance
from seo_rec.methods.published import (
    hash_embedding,
    hashed_net,
    hashing_trick,
    pq,
    qr,
    robe,
)
from seo_rec.methods.registry import (
    METHOD_FAMILIES,
    METHOD_NAMES,
    MULTIPLEXED_NAMES,
    NamedMethod,
    PlainSettings,
    find_method,
)
from seo_rec.methods.rows import collisionless, monolithic, multi_size, separate
from seo_rec.methods.sharing import MULTIPLEXED, PER_FEATURE, Sharing
from seo_rec.methods.tensor import tensor
from seo_rec.methods.water_filling import water_filled

__all__ = [
    "METHOD_FAMILIES",
    "METHOD_NAMES",
    "MULTIPLEXED",
    "MULTIPLEXED_NAMES",
    "PER_FEATURE",
    "SUFFIX",
    "Mlet",
    "NamedMethod",
    "PlainSettings",
    "Sharing",
    "cafe",
    "collisionless",
    "find_method",
    "frequent",
    "hash_embedding",
    "hashed_net",
    "hashing_trick",
    "inner_policy",
    "lookup_seed",
    "managed_collision",
    "monolithic",
    "multi_size",
    "pq",
    "provenance",
    "qr",
    "robe",
    "separate",
    "tensor",
    "two_layer_tables",
    "water_filled",
]
