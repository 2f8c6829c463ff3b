"""The rows that lookups read, in numpy: what :mod:`seo_rec.embed.remap` computes, without torch.

Packages are scored and collisions are counted by it. Its rows equal the rows of the embedding
modules to the bit, which a test checks for every kind of lookup. Letters: V ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from seo_rec.policy.entries import DIGEST_SEED, FULL_BITS, MISSING_ID, Feature, Ids, Lookup
from seo_rec.policy.policy import Policy

Number = TypeVar("Number", np.int64, np.float64)

FIRST_FACTOR = -0x00AE502812AA7333
SECOND_FACTOR = -0x3B314601E57A13AD
LOW_32 = 0xFFFFFFFF
LOW_62 = 2**62 - 1
LOW_63 = 2**63 - 1
CROSS_START = 0x1E3779B97F4A7C15  # from the golden ratio; far from small ids, as mix(0) = 0


def mix(x_V: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Two rounds of xor-shift-multiply modulo 2^64; the shifts repeat the sign bit.

    Args:
        x_V: int64, an array and not a scalar, for which numpy warns of the overflow.
    """
    x_V = (x_V ^ (x_V >> 33)) * np.int64(FIRST_FACTOR)
    x_V = (x_V ^ (x_V >> 29)) * np.int64(SECOND_FACTOR)
    return x_V ^ (x_V >> 32)


def cross_ids(parts: Sequence[Ids]) -> Ids:
    """One id for each combination of ids, one of each part; the order of the parts matters.

    ``docs/policy-format.md`` has the definition.

    Args:
        parts: int64 ids in [0, 2^63), one array (V,) for each column of the cross.

    Returns:
        int64 (V,): :data:`seo_rec.policy.MISSING_ID` where a part is it, else in [2^62, 2^63).
    """
    h = np.full_like(parts[0], CROSS_START + len(parts))
    for ids in parts:
        h = mix(h ^ ids) & LOW_63
    missing = np.logical_or.reduce([ids == MISSING_ID for ids in parts])
    return np.where(missing, MISSING_ID, (h & LOW_62) | 2**62)


def hash_rows(ids_V: Ids, seed: int, num_rows: int) -> npt.NDArray[np.int64]:
    """Row numbers ``floor((mix(id xor seed) mod 2^32) * num_rows / 2^32)``.

    Args:
        ids_V: int64, not negative.
        seed: From 0 to 2^63 - 1.
        num_rows: At most 2^31.

    Returns:
        int64 in [0, num_rows), (V,).
    """
    hashed: npt.NDArray[np.int64] = ((mix(ids_V ^ seed) & LOW_32) * num_rows) >> 32
    return hashed


def digests(ids_V: Ids) -> Ids:
    """``mix(id xor DIGEST_SEED) mod 2^32``: what a vocabulary of 32 bits holds of an id.

    Args:
        ids_V: int64, not negative.

    Returns:
        int64 in [0, 2^32), (V,).
    """
    digested: Ids = mix(ids_V ^ DIGEST_SEED) & LOW_32
    return digested


def known_as(ids_V: Ids, id_bits: int) -> Ids:
    """What stands for every id in a vocabulary of so many bits: itself, or its digest."""
    return ids_V if id_bits == FULL_BITS else digests(ids_V)


def counted_as(
    ids_V: Ids, counts_V: npt.NDArray[Number], id_bits: int
) -> tuple[Ids, npt.NDArray[Number]]:
    """Ids and their counts as a vocabulary of so many bits tells the ids apart.

    Ids of one digest are one id, with the sum of their counts.

    Args:
        ids_V: int64, ascending and distinct.
        counts_V: How often each occurs.
        id_bits: 64 changes nothing; 32 digests.

    Returns:
        What stands for the ids, ascending and distinct, and the counts.
    """
    if id_bits == FULL_BITS:
        return ids_V, counts_V
    found, place_V = np.unique(digests(ids_V), return_inverse=True)
    sums = np.zeros(len(found), counts_V.dtype)
    np.add.at(sums, place_V, counts_V)
    return found, sums


def block_seeds(lookup: Lookup) -> list[int]:
    """The seed of each block of a lookup: ``mix(seed xor j) mod 2^63`` for block j."""
    numbers = np.arange(-(-lookup.width // lookup.block), dtype=np.int64)
    seeds: list[int] = (mix(numbers ^ lookup.seed) & LOW_63).tolist()
    return seeds


def lookup_rows(
    policy: Policy, feature: Feature, lookup: Lookup, ids_V: Ids
) -> npt.NDArray[np.int64]:
    """The row of every id in a lookup of a table; see :class:`seo_rec.policy.Lookup`.

    Args:
        policy: The tables, vocabularies and codes.
        feature: A feature of the policy.
        lookup: A lookup of this feature, by any address but ``blocks``.
        ids_V: int64 ids of the feature.

    Returns:
        int64 row numbers, (V,).
    """
    if lookup.uses_index:
        ids_V = known_as(ids_V, feature.id_bits)
    return rows_of_known(policy, feature, lookup, ids_V)


def rows_of_known(
    policy: Policy, feature: Feature, lookup: Lookup, ids_V: Ids
) -> npt.NDArray[np.int64]:
    """:func:`lookup_rows` of what stands for ids in a vocabulary (:func:`known_as`).

    A lookup that does not use the index takes the ids themselves.
    """
    num_rows = policy.table(lookup.table).num_rows
    if lookup.uses_index:
        base_V = _indices(ids_V, policy.vocabularies[feature.name])
    else:
        base_V = hash_rows(ids_V, lookup.seed, lookup.modulus or num_rows)
    if lookup.unknown_rows > 1:
        unknown_V = hash_rows(ids_V, lookup.seed, lookup.unknown_rows)
        return np.where(base_V > 0, base_V + (lookup.unknown_rows - 1), unknown_V)
    if lookup.address == "remainder":
        base_V = base_V % lookup.modulus
    elif lookup.address == "quotient":
        base_V = base_V // lookup.modulus % num_rows
    elif lookup.address == "codes":
        base_V = policy.codes[lookup.codes][base_V].astype(np.int64)
    return base_V


def _indices(ids_V: Ids, vocabulary: Ids) -> npt.NDArray[np.int64]:
    """1 + rank of each id in the sorted vocabulary, 0 for ids that are not in it."""
    if not vocabulary.size:
        return np.zeros(ids_V.shape, np.int64)
    kind = vocabulary.dtype  # uint32 in a package of digests; else it would be copied as int64
    rank_V = np.searchsorted(vocabulary, ids_V.astype(kind, copy=False))
    rank_V = rank_V.clip(max=vocabulary.size - 1)
    return np.where(vocabulary[rank_V] == ids_V, rank_V + 1, 0)
