"""Bags of crosses, and blocks, in plain NumPy; hashes and ids of crosses are with the policy.

Letters: B rows, V ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from seo_rec.policy import MAX_CROSS_IDS, Feature, Lookup
from seo_rec.policy.addresses import block_seeds, cross_ids, hash_rows
from seo_rec.serve.bags import Bags, Ids, RowError


def block_places(lookup: Lookup, size: int, ids: Ids) -> Ids:
    """int64 (V, width): the place in a flat array of ``size`` floats of every float of a lookup."""
    places = np.empty((len(ids), lookup.width), np.int64)
    for j, seed in enumerate(block_seeds(lookup)):
        start = j * lookup.block
        stop = min(start + lookup.block, lookup.width)
        first = hash_rows(ids, seed, size - lookup.block + 1)
        places[:, start:stop] = first[:, None] + np.arange(stop - start)
    return places


def feature_bags(feature: Feature, columns: Sequence[Bags]) -> Bags:
    """The bags of a feature, made of its columns' bags; a cross has one id per combination.

    Raises:
        RowError: A row has more combinations than a cross may have.
    """
    if len(columns) == 1:
        return columns[0]
    weighted = any(bags.weights is not None for bags in columns)
    parts, lengths = list(columns), None
    if any(bags.lengths is not None for bags in columns):
        counts = [bags.counts() for bags in columns]
        lengths = _combinations(feature, counts)
        places = _places(lengths, counts)
        parts = [_taken(bags, at) for bags, at in zip(columns, places, strict=True)]
    ids = cross_ids([bags.ids for bags in parts])
    if not weighted:
        return Bags(ids, lengths)
    factors = [bags.weights for bags in parts if bags.weights is not None]
    return Bags(ids, lengths, reduce(np.multiply, factors))


def _taken(bags: Bags, places: Ids) -> Bags:
    weights = None if bags.weights is None else bags.weights[places]
    return Bags(bags.ids[places], None, weights)


def _combinations(feature: Feature, counts: Sequence[Ids]) -> Ids:
    """int64 (B,): how many combinations each row has."""
    lengths = counts[0]
    for other in counts[1:]:  # cut where it is too many, so that no product overflows
        lengths = np.minimum(lengths, MAX_CROSS_IDS + 1) * np.minimum(other, MAX_CROSS_IDS + 1)
        lengths = np.minimum(lengths, MAX_CROSS_IDS + 1)
    if (lengths > MAX_CROSS_IDS).any():
        row = int(np.argmax(lengths > MAX_CROSS_IDS))
        sizes = " x ".join(str(int(c[row])) for c in counts)
        raise RowError(
            row,
            ", ".join(feature.columns),
            sizes,
            f"more combinations than {MAX_CROSS_IDS} for the cross {feature.name!r}",
            "give shorter lists",
        )
    return lengths


def _places(lengths: Ids, counts: Sequence[Ids]) -> list[Ids]:
    """For each column, the places in its ids of every combination; the last changes fastest."""
    row_V = np.repeat(np.arange(len(lengths)), lengths)
    left_V: Ids = np.arange(len(row_V)) - (np.cumsum(lengths) - lengths)[row_V]
    places: list[Ids] = []
    for count in reversed(counts):
        size_V = count[row_V]
        starts_V: Ids = (np.cumsum(count) - count)[row_V]
        places.append(starts_V + left_V % size_V)
        left_V = left_V // size_V
    return places[::-1]
