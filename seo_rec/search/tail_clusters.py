"""Clusters of ids that share a row, by what is known of each id.

Letters: N ids, K folds of the training rows, D numbers that are known of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # rows by which a mean is shrunk
ERRORS = 2.0  # standard errors by which the means of ids must predict better than one mean


@dataclass(frozen=True)
class FoldSums:
    """Sums over the training rows of every id of a feature, by fold.

    Args:
        weights_KN: How many rows an id has in a fold; rows may have weights.
        sums_KND: The sum of what is known of these rows.
    """

    weights_KN: Floats
    sums_KND: Floats


def shrunk_means(sums: FoldSums) -> Floats:
    """The mean of what is known of the rows of every id, shrunk to the mean of all ids.

    ``(sum_i + m q) / (n_i + m)`` with n_i rows of id i and the mean q of all of them. The rows of
    a fold are predicted by the means of all other folds. Of the strengths m that predict them
    better than q alone, by two standard errors over the ids, the one with the least squared error
    is taken. Where there is none, every id gets q: what is known says nothing about its rows.

    Args:
        sums: Of at least two folds.

    Returns:
        float64 (N, D).
    """
    n_KN, s_KND = sums.weights_KN, sums.sums_KND
    rest_n_KN, rest_s_KND = n_KN.sum(0) - n_KN, s_KND.sum(0) - s_KND
    q_K1D = _means(rest_s_KND.sum(1, keepdims=True), rest_n_KN.sum(1)[:, None, None])

    def error_N(mean_KND: Floats) -> Floats:
        """The squared error of each id's rows, less the squares of the rows themselves."""
        found: Floats = (n_KN[..., None] * mean_KND**2 - 2 * mean_KND * s_KND).sum((0, 2))
        return found

    plain_N = error_N(np.broadcast_to(q_K1D, s_KND.shape))
    best, most = np.inf, 0.0
    for m in STRENGTHS:
        gain_N = plain_N - error_N((rest_s_KND + m * q_K1D) / (rest_n_KN[..., None] + m))
        gain = float(gain_N.sum())
        if gain > max(most, ERRORS * float(np.sqrt((gain_N**2).sum()))):
            best, most = m, gain
    q_D = _means(s_KND.sum((0, 1)), n_KN.sum())
    if np.isinf(best):
        return np.broadcast_to(q_D, s_KND.shape[1:]).copy()
    found: Floats = (s_KND.sum(0) + best * q_D) / (n_KN.sum(0)[:, None] + best)
    return found


def _means(sums: Floats, weights: npt.ArrayLike) -> Floats:
    found: Floats = sums / np.maximum(weights, 1e-12)
    return found


def clusters(points_ND: Floats, reads_N: Ints, count: int) -> Ints:
    """The cluster of every id, by k-means of the points, each weighted by the reads of its id.

    Ids with equal points are in one cluster. Clusters are numbered by falling reads.

    Args:
        points_ND: What is known of each id, (N, D).
        reads_N: How often each id is read, 1 or more, (N,).
        count: The largest number of clusters, 1 or more.

    Returns:
        int64 in [0, count), (N,).
    """
    if not len(points_ND):
        return np.zeros(0, np.int64)
    distinct, which = np.unique(points_ND, axis=0, return_inverse=True)
    which = which.reshape(-1)
    if len(distinct) > count:
        from sklearn.cluster import KMeans  # most of a second to import

        weights = np.bincount(which, reads_N)
        found = KMeans(count, n_init=4, random_state=0).fit(distinct, sample_weight=weights)
        which = found.labels_.astype(np.int64)[which]
    reads = np.bincount(which, reads_N, minlength=count)
    number = np.empty(len(reads), np.int64)
    number[np.argsort(-reads, kind="stable")] = np.arange(len(reads))
    return number[which]
