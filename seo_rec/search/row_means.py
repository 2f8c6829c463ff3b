"""What the training rows of an id have in common: their labels, or the ids of other features.

Letters: B rows, N ids of a feature, V ids in a batch, K folds of the rows, D numbers of a row.

Only training rows are read. Row r of the file order is in fold ``r mod K``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from seo_rec.batch import Batch
from seo_rec.data.dataset import DataSet
from seo_rec.methods import lookup_seed
from seo_rec.methods.frequent import Cluster
from seo_rec.policy import Ids
from seo_rec.policy.addresses import hash_rows, known_as
from seo_rec.policy.entries import FULL_BITS
from seo_rec.search.tail_clusters import Floats, FoldSums, Ints, clusters, shrunk_means

FOLDS = 4
SIGNS = 16  # of an id, by which ids of other features are told apart
BATCH_ROWS = 65_536


def label_rates(
    data: DataSet, ids: Mapping[str, Ids], id_bits: int = FULL_BITS
) -> dict[str, Floats]:
    """The mean label of the training rows of every id, float64 (N, 1).

    Args:
        data: The data set.
        ids: Ids of some features, ascending, by feature.
        id_bits: 32 if these are digests of ids.

    Returns:
        By feature: the mean label, shrunk to the mean over all these ids as much as the labels of
        other folds ask for (:func:`seo_rec.search.tail_clusters.shrunk_means`). All ids have one
        number if their labels do not repeat in other folds.
    """

    def labels(batch: Batch) -> Callable[[str, Ints], Floats]:
        labels_B = batch.labels_B.numpy().astype(np.float64)
        return lambda feature, rows_V: labels_B[rows_V, None]

    return _means(data, ids, labels, 1, id_bits)


def co_occurrence(
    data: DataSet, ids: Mapping[str, Ids], seed: int = 0, id_bits: int = FULL_BITS
) -> dict[str, Floats]:
    """The mean over its training rows of the ids that occur beside an id, float64 (N, 16).

    An id of another feature is a vector of 16 signs, which are bits of its hash, so that the inner
    products of the means estimate how often two ids occur beside the same ids. Means are shrunk as
    in :func:`label_rates`.

    Args:
        data: The data set.
        ids: Ids of some features, ascending, by feature.
        seed: Salt of the hash functions.
        id_bits: 32 if the ids are digests.
    """

    def beside(batch: Batch) -> Callable[[str, Ints], Floats]:
        of = {name: _signs(batch, name, lookup_seed(seed, name, "signs")) for name in names}
        all_BD = sum(of.values())
        return lambda feature, rows_V: (all_BD - of[feature])[rows_V]

    names = [c.name for c in data.schema.features]
    return _means(data, ids, beside, SIGNS, id_bits)


def cluster_by(tail: str, data: DataSet, seed: int, id_bits: int = FULL_BITS) -> Cluster:
    """What :func:`seo_rec.methods.frequent` takes as ``cluster``.

    Args:
        tail: ``label-rate`` or ``co-occurrence``.
        data: The data set.
        seed: Salt of the hash functions of co-occurrence.
        id_bits: 32 if ids are clustered by their digests.
    """

    def cluster(ids: Mapping[str, Ids], count: int) -> dict[str, Ints]:
        if tail == "label-rate":
            points = label_rates(data, ids, id_bits)
        else:
            points = co_occurrence(data, ids, seed, id_bits)
        found = {}
        for name, of in ids.items():
            known, reads = data.counts(name, id_bits)
            found[name] = clusters(points[name], reads[np.searchsorted(known, of)], count)
        return found

    return cluster


def _signs(batch: Batch, name: str, seed: int) -> Floats:
    """The sum of the signs of a feature's ids in every row, float64 (B, 16)."""
    bags = batch.sparse[name]
    hashed_V = hash_rows(bags.values().numpy(), seed, 1 << SIGNS)
    bits_VD = (hashed_V[:, None] >> np.arange(SIGNS)) & 1
    signs_VD = (2 * bits_VD - 1).astype(np.float64)
    return _by_place(_rows(bags.lengths().numpy()), signs_VD, batch.num_rows)


def _rows(lengths_B: npt.NDArray[np.int32]) -> Ints:
    """The row of the batch of every id."""
    return np.repeat(np.arange(len(lengths_B)), lengths_B)


def _by_place(place_V: Ints, values_VD: Floats, places: int) -> Floats:
    """The sum of the values of every place, float64 (places, D)."""
    found = np.empty((places, values_VD.shape[1]))
    for d, column in enumerate(values_VD.T):
        found[:, d] = np.bincount(place_V, column, minlength=places)
    return found


def _means(
    data: DataSet,
    ids: Mapping[str, Ids],
    known_of: Callable[[Batch], Callable[[str, Ints], Floats]],
    width: int,
    id_bits: int,
) -> dict[str, Floats]:
    """The shrunk means of what is known of the rows of every id, in one pass over the rows."""
    sums = {
        name: FoldSums(np.zeros((FOLDS, len(of))), np.zeros((FOLDS, len(of), width)))
        for name, of in ids.items()
    }
    start = 0
    for batch in data.stream("train", batch_size=BATCH_ROWS):
        known, weights_B = known_of(batch), batch.row_weights.double().numpy()
        for name, of in ids.items():
            if not len(of):
                continue
            bags, found = batch.sparse[name], sums[name]
            values_V = known_as(bags.values().numpy(), id_bits)
            rows_V = _rows(bags.lengths().numpy())
            rank_V = np.searchsorted(of, values_V).clip(max=len(of) - 1)
            is_one = of[rank_V] == values_V
            rank_V, rows_V = rank_V[is_one], rows_V[is_one]
            place_V = (start + rows_V) % FOLDS * len(of) + rank_V
            w_V1: Floats = weights_B[rows_V, None]
            shape = (FOLDS, len(of))
            places = FOLDS * len(of)
            found.weights_KN[:] += _by_place(place_V, w_V1, places).reshape(shape)
            told_VD = w_V1 * known(name, rows_V)
            found.sums_KND[:] += _by_place(place_V, told_VD, places).reshape(*shape, width)
        start += batch.num_rows
    return {name: shrunk_means(s) if len(ids[name]) else s.sums_KND[0] for name, s in sums.items()}
