"""The methods of the Unified Embedding paper by the names that ``compare`` and ``train`` take."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from seo_rec import methods
from seo_rec.data.vocabulary import read_vocabulary
from seo_rec.policy import Policy
from seo_rec.schema import read_schema

# The argument that the number at the end of a name sets.
_NUMBERS: dict[str, str | None] = {
    "hashing-trick": None,
    "hash-embedding": "lookups",
    "hashednet": None,
    "robe": "block",
    "pq": "lookups",
    "qr": "components",
}
_MAKE: dict[str, Callable[..., Policy]] = {
    "hashing-trick": methods.hashing_trick,
    "hash-embedding": methods.hash_embedding,
    "hashednet": methods.hashed_net,
    "robe": methods.robe,
    "pq": methods.pq,
    "qr": methods.qr,
}
_NAME = re.compile(
    rf"(multiplexed-)?({'|'.join(_MAKE)})(?:-([1-9][0-9]{{0,4}}))?(?:-p(0\.[0-9]{{1,4}}))?"
)
PUBLISHED = (
    "hashing-trick",
    "hash-embedding-K",
    "hash-embedding-K-p0.1",
    "hashednet",
    "robe-Z",
    "pq-K",
    "qr-K",
    "and multiplexed- before these",
)


def is_published(name: str) -> bool:
    """Whether ``name`` is one of :data:`PUBLISHED`; the number at its end may be left out."""
    found = _NAME.fullmatch(name)
    if found is None or (found[4] and found[2] != "hash-embedding"):
        return False
    return found[3] is None or _NUMBERS[found[2]] is not None


def published_policy(
    name: str,
    data: Path,
    params: int,
    dim: int,
    seed: int,
    sharing: methods.Sharing = methods.PER_FEATURE,
) -> Policy:
    """The policy of a method by its name.

    Args:
        name: as :func:`is_published`; ``-K`` is the number of lookups or components, ``-Z`` the
            size of a block, ``-p`` the share of the budget that importance weights take.
        data: prepared data set.
        params, dim, seed: budget, width, salt.
        sharing: rows, exact features and common hash functions; the name says who shares tables.

    Raises:
        PolicyError: an infeasible budget or number.
    """
    found = _NAME.fullmatch(name)
    assert found is not None, name
    schema = read_schema(data)
    make = partial(_MAKE[found[2]], schema, params, dim, seed=seed)
    if (argument := _NUMBERS[found[2]]) and found[3]:
        make = partial(make, **{argument: int(found[3])})
    if found[4]:
        make = partial(make, importance=float(found[4]))
    sharing = replace(sharing, multiplexed=found[1] is not None)
    every = found[2] == "qr" and not sharing.multiplexed
    vocabularies = {
        c.name: read_vocabulary(data, c.name)[0]
        for c in schema.features
        if every or (c.vocab_size or 0) <= sharing.exact_below
    }
    return make(sharing=sharing, vocabularies=vocabularies)
