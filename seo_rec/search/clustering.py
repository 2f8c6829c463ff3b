"""One clustering step of CCE: two tables become the centroids of what they sum to, and the rest.

"Clustering the Sketch: Dynamic Compression for Embedding Tables" (Tsang and Ahle).
Letters: N base rows, V ids, R rows of the first table, S rows of the second one, D floats of a row.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Points:
    """At most so many points for each centroid are used to find centroids.

    Args:
        per_centroid: The points; all of them are assigned to centroids afterwards.
        iterations: Iterations of k-means, at most.
        seed: Of the sample and of the first centroids.
    """

    per_centroid: int
    iterations: int
    seed: int


def centroids_of(vectors_ND: Floats, number: int, points: Points) -> tuple[Floats, Ints]:
    """k-means: centroids, and for every vector the number of the nearest one.

    Minimises ``sum_n |x_n - c_(a_n)|^2`` by Lloyd's iterations from vectors drawn at random. Where
    there are as many centroids as vectors, every vector is one. The same arguments give the same
    bits.

    Args:
        vectors_ND: What is clustered, float32 (N, D).
        number: How many centroids there may be, 1 or more.
        points: How many vectors are used, and the seed.

    Returns:
        Centroids, float32 (K, D) with K of ``number`` or less; numbers, int64 (N,).
    """
    if number >= len(vectors_ND):
        return vectors_ND.copy(), np.arange(len(vectors_ND))
    # sklearn takes most of a second to import
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    used = vectors_ND.astype(np.float64)
    if len(used) > (most := points.per_centroid * number):
        drawn = np.random.default_rng(points.seed).choice(len(used), most, replace=False)
        used = used[np.sort(drawn)]
    means = KMeans(
        number, init="random", n_init=1, max_iter=points.iterations, random_state=points.seed
    )
    # several threads add up in an order that differs from run to run
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct vectors than centroids
        means.fit(used)
        nearest = means.predict(vectors_ND.astype(np.float64))
    return means.cluster_centers_.astype(np.float32), nearest.astype(np.int64)


def base_vectors(
    first_RD: Floats, second_SD: Floats, codes_N: Ints, base_V: Ints, second_V: Ints
) -> Floats:
    """``x_n = T[c_n] + mean of T'[h'(i)] over the training ids i of base row n``, float32 (N, D).

    A base row without training ids, which only new ids read, takes the mean of all of ``T'``.

    Args:
        first_RD: T.
        second_SD: T'.
        codes_N: c, the row of T that each base row reads.
        base_V: The base row of every training id.
        second_V: h', the row of T' that every training id reads.
    """
    sums_ND = np.zeros((len(codes_N), first_RD.shape[1]))
    np.add.at(sums_ND, base_V, second_SD[second_V].astype(np.float64))
    count_N = np.bincount(base_V, minlength=len(codes_N))
    means_ND = sums_ND / np.maximum(1, count_N)[:, None]
    means_ND[count_N == 0] = second_SD.mean(0, dtype=np.float64)
    vectors: Floats = (first_RD[codes_N] + means_ND).astype(np.float32)
    return vectors


def mean_residuals(vectors_VD: Floats, centroids_VD: Floats, second_V: Ints, rows: int) -> Floats:
    """``T'[r] = mean of x_i - c_i over the ids i that read row r``, float32 (rows, D).

    Rows that no id reads are zeros. Of all second tables this one leaves the smallest sum of
    squares ``|x_i - c_i - T'[h'(i)]|^2``.

    Args:
        vectors_VD: The vector of every training id before the clustering.
        centroids_VD: The centroid that every training id reads.
        second_V: The row of the second table that every training id reads.
        rows: Rows of the second table.
    """
    sums = np.zeros((rows, vectors_VD.shape[1]))
    np.add.at(sums, second_V, vectors_VD.astype(np.float64) - centroids_VD)
    count = np.bincount(second_V, minlength=rows)
    means: Floats = (sums / np.maximum(1, count)[:, None]).astype(np.float32)
    return means


@dataclass(frozen=True)
class Clustered:
    """Two tables and the codes of the first one after a clustering step.

    Args:
        first_RD, second_SD: The tables.
        codes_N: The row of the first table that each base row reads.
        error: ``sum |x_i - y_i|^2 / sum |x_i - mean x|^2`` over the training ids i, where x is the
            vector before and y the one after; 0 if nothing is lost.
    """

    first_RD: Floats
    second_SD: Floats
    codes_N: Ints
    error: float


def clustered(
    first_RD: Floats,
    second_SD: Floats,
    codes_N: Ints,
    base_V: Ints,
    second_V: Ints,
    new_second_V: Ints,
    points: Points,
    *,
    residuals: bool = True,
) -> Clustered:
    """The clustering step: ``T`` becomes centroids of the vectors, ``c`` the nearest of them.

    Args:
        first_RD, second_SD, codes_N, base_V, second_V: See :func:`base_vectors`.
        new_second_V: The row of the second table that every training id reads from now on.
        points: How k-means is done.
        residuals: Whether the second table starts at :func:`mean_residuals`; else at zero.

    Returns:
        Tables of the same shapes; rows of the first one that no base row reads keep their values.
    """
    vectors_ND = base_vectors(first_RD, second_SD, codes_N, base_V, second_V)
    centroids, nearest_N = centroids_of(vectors_ND, len(first_RD), points)
    first = first_RD.copy()
    first[: len(centroids)] = centroids
    vectors_VD = first_RD[codes_N[base_V]] + second_SD[second_V]
    centroids_VD = first[nearest_N[base_V]]
    second = np.zeros_like(second_SD)
    if residuals:
        second = mean_residuals(vectors_VD, centroids_VD, new_second_V, len(second_SD))
    lost = vectors_VD - centroids_VD - second[new_second_V]
    spread = vectors_VD - vectors_VD.mean(0, keepdims=True)
    total = float(np.square(spread, dtype=np.float64).sum())
    error = float(np.square(lost, dtype=np.float64).sum()) / total if total else 0.0
    return Clustered(first, second, nearest_N, error)
