"""The served function in plain NumPy: the reference that every faster way is tested against.

``logits_B = backbone(dense_BN, x_BE)``, ``x_f = W_f sum_{i in bag} w_i combine_k(v_k(i))``, as
``docs/policy-format.md`` says, with rows in the types in which they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from seo_rec.policy import Feature, Lookup, Policy
from seo_rec.policy.addresses import lookup_rows
from seo_rec.policy.dtypes import BITS, FLOAT_BYTES, dequantize_rows
from seo_rec.serve.addresses import block_places, feature_bags
from seo_rec.serve.bags import Bags, Floats, Ids, Inputs
from seo_rec.serve.layout import Place, table_places
from seo_rec.serve.package import Array, Package

MAX_IDS = 1 << 18  # ids of one feature that are looked up at a time


class NumpyScorer:
    """Scores rows of a package with NumPy alone; several threads may use it at once.

    Args:
        package: The package to score by.
    """

    def __init__(self, package: Package) -> None:
        self.package = package
        self.policy = package.policy
        self._places = table_places(package.policy)
        self._arrays = {a.name: (i, a) for i, a in enumerate(package.policy.arrays)}

    def logits(self, inputs: Inputs) -> Floats:
        """float32 (B,).

        Raises:
            ValueError: A row has more combinations than a cross may have.
        """
        program = self.package.program
        return program.run(inputs.dense_BN, self.embed(inputs), self.package.weights)

    def embed(self, inputs: Inputs) -> Floats:
        """``x_BE``, float32: the features' vectors side by side."""
        parts = []
        for i, f in enumerate(self.policy.features):
            bags = feature_bags(f, [inputs.columns[name] for name in f.columns])
            x_BD = self._pooled(f, bags)
            if f.project is not None:
                x_BD = x_BD @ self.package.embeddings[f"project.{i}"].T
            parts.append(x_BD)
        return np.concatenate(parts, axis=1)

    def _pooled(self, f: Feature, bags: Bags) -> Floats:
        """The sums of the vectors of each bag, float32 (B, D); zeros for an empty bag."""
        if bags.lengths is None:
            return self._vectors(f, bags)
        sums = np.zeros((len(bags.lengths), self.policy.combined_width(f)), np.float32)
        ends = np.cumsum(bags.lengths)
        first = 0
        while first < len(ends):  # as many rows at a time as have MAX_IDS ids, one at least
            start = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, start + MAX_IDS, side="right")))
            lengths = bags.lengths[first:last]
            for a in range(start, int(ends[last - 1]), MAX_IDS):  # more than once for a huge bag
                b = min(a + MAX_IDS, int(ends[last - 1]))
                weights = None if bags.weights is None else bags.weights[a:b]
                vectors = self._vectors(f, Bags(bags.ids[a:b], None, weights))
                if last == first + 1:
                    sums[first] += vectors.sum(0)
                else:
                    there = np.flatnonzero(lengths)
                    starts = (np.cumsum(lengths) - lengths)[there]
                    sums[first + there] = np.add.reduceat(vectors, starts, axis=0)
            first = last
        return sums

    def _vectors(self, f: Feature, bags: Bags) -> Floats:
        """The combined and weighted vector of every id, float32 (V, D)."""
        vectors = [self._look_up(f, k, bags.ids) for k in f.lookups]
        if f.combine == "concat":
            combined = np.concatenate(vectors, axis=1) if len(vectors) > 1 else vectors[0]
        else:
            factors = None
            if f.weights is not None:
                factors = self._look_up(f, f.weights, bags.ids)
            combined = vectors[0] if factors is None else vectors[0] * factors[:, :1]
            for j, vector in enumerate(vectors[1:], start=1):
                if f.combine == "mul":
                    combined = combined * vector
                else:
                    combined = combined + (
                        vector if factors is None else vector * factors[:, j : j + 1]
                    )
        return combined if bags.weights is None else combined * bags.weights[:, None]

    def _look_up(self, f: Feature, lookup: Lookup, ids: Ids) -> Floats:
        """The vector that a lookup gives each id, float32 (V, D)."""
        if lookup.address == "blocks":
            i, array = self._arrays[lookup.table]
            places = block_places(lookup, array.size, ids)
            return read_floats(self.package.embeddings[f"array.{i}"], places, array.dtype)
        place = self._places[lookup.table]
        rows = lookup_rows(self.policy, f, lookup, ids) + place.first
        return read_rows(self.package.embeddings[place.tensor], rows, place)


def read_rows(stored: Array, rows: Ids, place: Place) -> Floats:
    """The floats of stored rows, float32 (V, D)."""
    read = np.ascontiguousarray(stored[rows])
    if place.dtype == "float32":
        return read
    return dequantize_rows(read.view(np.uint8), place.dim, place.dtype)


def read_back(policy: Policy, stored: Mapping[str, Array]) -> Iterator[tuple[str, Floats]]:
    """Of each table and array that is not stored as float32, its name and the floats it stands for.

    Args:
        policy: With the types of storage.
        stored: The tensors of ``embeddings.safetensors``.
    """
    for t, place in zip(policy.tables, table_places(policy).values(), strict=True):
        if t.dtype != "float32":
            rows = np.arange(place.first, place.first + place.rows)
            yield t.name, read_rows(stored[place.tensor], rows, place)
    for i, a in enumerate(policy.arrays):
        if a.dtype != "float32":
            yield a.name, read_floats(stored[f"array.{i}"], np.arange(a.size), a.dtype)


def read_floats(stored: Array, places: Ids, dtype: str) -> Floats:
    """The floats of a stored flat array at these places, float32 of their shape."""
    if dtype in FLOAT_BYTES:
        read = np.ascontiguousarray(stored[places.reshape(-1)])
        flat = dequantize_rows(read.view(np.uint8)[None, :], len(read), dtype)
        return flat.reshape(places.shape)
    scale, offset = stored[-4:].copy().view("<f2").astype(np.float64)
    if BITS[dtype] == 8:
        numbers = stored[places]
    else:
        numbers = (stored[places >> 1] >> (4 * (places & 1)).astype(np.uint8)) & np.uint8(15)
    return (offset + scale * numbers).astype(np.float32)


def scores_of(logits: Floats) -> Floats:
    """``1 / (1 + exp(-logit))``, computed in float64, float32 (B,)."""
    x = logits.astype(np.float64)
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(np.float32)
