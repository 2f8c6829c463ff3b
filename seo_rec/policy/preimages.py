"""Ids that have given digests: :func:`seo_rec.policy.addresses.digests` undone.

A digest does not tell its id, but ids with it can be computed, since every step of the mix can be
undone. They stand in for ids that a vocabulary of digests has forgotten. Letters: V digests.
"""

from __future__ import annotations

import numpy as np

from seo_rec.policy.addresses import FIRST_FACTOR, SECOND_FACTOR
from seo_rec.policy.entries import DIGEST_SEED, FULL_BITS, Ids

_WORD = 1 << 64
UNDO_FIRST = np.uint64(pow(FIRST_FACTOR % _WORD, -1, _WORD)).astype(np.int64)
UNDO_SECOND = np.uint64(pow(SECOND_FACTOR % _WORD, -1, _WORD)).astype(np.int64)


def ids_of_digests(digests_V: Ids) -> Ids:
    """An id for each digest: ``digests(ids_of_digests(d)) == d``.

    Of a mixed number only the low half is given; high halves are tried until one of them leads
    back to an id, which one in about two does. ``x`` and ``~x`` mix alike, so both are tried.

    Args:
        digests_V: int64 in [0, 2^32), (V,).

    Returns:
        int64 in [0, 2^63), (V,).
    """
    found = np.full(len(digests_V), -1, np.int64)
    high = 0
    while (open_V := np.flatnonzero(found < 0)).size:
        mixed = digests_V[open_V] | (high << 32)
        for second in _both(_unshifted(mixed, 32)):
            third = second * UNDO_SECOND
            for first in _both(_unshifted(third, 29)):
                before = first * UNDO_FIRST
                good = (third >= 0) & (before >= 0)
                found[open_V[good]] = _unshifted(before[good], 33) ^ DIGEST_SEED
        high += 1
    return found


def as_ids(known_V: Ids, id_bits: int) -> Ids:
    """Ids that what a vocabulary of so many bits holds stands for, each one of them."""
    return known_V if id_bits == FULL_BITS else ids_of_digests(known_V)


def _both(x: Ids) -> tuple[Ids, Ids]:
    return x, ~x


def _unshifted(y: Ids, shift: int) -> Ids:
    """The x of 0 or more with ``x ^ (x >> shift) == y``, for y of 0 or more."""
    x = y
    for _ in range(63 // shift):
        x = y ^ (x >> shift)
    return x
