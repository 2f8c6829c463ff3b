"""Rows for the most frequent ids; the others share rows of their feature.

Letters: F features, K ids that have a row of their own, over all features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from seo_rec.methods.origin import lookup_seed, settings_provenance
from seo_rec.policy import (
    Codes,
    Feature,
    Ids,
    Lookup,
    Policy,
    PolicyError,
    Table,
    split_rows,
)
from seo_rec.policy.allowance import BudgetSettings
from seo_rec.schema import Schema

CHOSEN = ("global", "per-feature")
CLUSTERED = ("label-rate", "co-occurrence")  # tails that read the training rows
GROUPED = ("bands", *CLUSTERED)
TAILS = ("row", "hash", *GROUPED)

Counts = Mapping[str, tuple[Ids, Ids]]  # training ids, ascending, and how often each occurs
Ints = npt.NDArray[np.int64]
Cluster = Callable[[Mapping[str, Ids], int], Mapping[str, Ints]]


@dataclass(frozen=True)
class FrequentSettings(BudgetSettings):
    """Settings of frequent: which ids have a row, and what all others read.

    Args:
        dim: Width of a row, in floats.
        chosen: Ids have a row by count over all features (global), or features share by reads.
        tail: What other ids read: row, hash, bands (by count), label-rate, co-occurrence.
        tail_share: Share of the budget for hashed rows, or for the ids in a band or a cluster.
        bands: Rows of a feature for bands or clusters; each band has about as many reads.
        hot_dim: Further columns that the most frequent of the ids with a row have; 0: none.
        hot_share: Share of the ids with a row that have these columns.
    """

    dim: int = 16
    chosen: str = "global"
    tail: str = "row"
    tail_share: float = 0.1
    bands: int = 4
    hot_dim: int = 0
    hot_share: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (("chosen", CHOSEN), ("tail", TAILS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}"
                )
        for name in ("dim", "bands"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 1 or more")
        if self.hot_dim < 0:
            raise ValueError(f"hot_dim is {self.hot_dim}; allowed: 0 or more")
        for name in ("tail_share", "hot_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: between 0 and 1")
        for name, reads in (
            ("tail_share", self.tail != "row"),
            ("bands", self.grouped),
            ("hot_share", bool(self.hot_dim)),
        ):
            if not reads and getattr(self, name) != getattr(FrequentSettings, name):
                raise ValueError(
                    f"{name} {getattr(self, name)} would be ignored; allowed with "
                    f"{'hot_dim above 0' if name == 'hot_share' else 'another tail'}"
                )

    @property
    def grouped(self) -> bool:
        """Whether the most frequent ids without a row share the row of a band or a cluster."""
        return self.tail in GROUPED


@dataclass(frozen=True)
class Parts:
    """What the ids of one feature read.

    Args:
        kept: Ids with a row of their own, ascending.
        hot: Which of them have further columns, bool.
        banded: Ids that share the row of a band or a cluster, ascending.
        band: The band or the cluster of each of these, from 0.
        unknown_rows: Rows that all other ids share by hash.
    """

    kept: Ids
    hot: npt.NDArray[np.bool_]
    banded: Ids
    band: Ints
    unknown_rows: int


def frequent(
    schema: Schema,
    counts: Counts,
    settings: FrequentSettings,
    *,
    cluster: Cluster | None = None,
    seed: int = 0,
) -> Policy:
    """``x_f = T_f[1 + i]`` for the i-th id of feature f that is kept, ``T_f[0]`` for all others.

    Ids are ranked over all features: by count (``global``), or by ``reads_f / j`` for the j-th most
    frequent id of feature f (``per-feature``), so that the ids kept of a feature are in proportion
    to its reads. The first K are kept, for the largest K that fits; ties go to the first feature,
    and then to the smaller id. Every id that is kept takes a row and, in bytes, 8 for the id.

    Other ids share one row of their feature (``row``) or several by hash (``hash``). With
    ``bands`` the most frequent of them share one row per band of count; in bytes each such id
    takes 12, for itself and for its code. With ``label-rate`` and ``co-occurrence`` they share one
    row per cluster (:mod:`seo_rec.search.row_means`) in place of bands. With ``hot_dim`` the
    first of the K have so many further columns; all others share one row of these, and every id
    that is kept takes a code. Where all ids are kept, what is left gives these columns to more.

    Args:
        schema: The data set.
        counts: Training ids of every feature, ascending, and how often each occurs.
        settings: The budget, the width of a row, and what ids without a row of their own read.
        cluster: Called once with the ids of every feature and the number of clusters, where the
            tail has clusters. It gives the cluster of each of these ids, from 0, int64.
        seed: Salt of the hash functions.

    Returns:
        The policy. It leaves less than a row with its id of the budget, unless all ids are kept.

    Raises:
        PolicyError: The budget has no room for the shared rows of every feature; the message ends
            with the smallest one.
        ValueError: ``cluster`` is missing where ids are clustered.
    """
    s = settings
    parts = _parts(schema, counts, s)
    if s.tail in CLUSTERED:
        parts = _clustered(parts, s, cluster)
    tables: list[Table] = []
    codes: dict[str, Codes] = {}
    features = [
        _feature(c.name, parts[c.name], s, lookup_seed(seed, c.name, 0), tables, codes)
        for c in schema.features
    ]
    known = {name: np.sort(np.concatenate([p.kept, p.banded])) for name, p in parts.items()}
    origin = settings_provenance(schema, "frequent", s, seed)
    policy = Policy(tuple(tables), tuple(features), (), known, origin, codes)
    return s.allowance.typed(policy)


def _ranked(schema: Schema, counts: Counts, chosen: str) -> tuple[Ints, Ints]:
    """Feature and place among its ids of every training id, the first to be kept first."""
    features, places, scores, order = [], [], [], []
    for f, c in enumerate(schema.features):
        count = counts[c.name][1]
        place = np.argsort(-count, kind="stable")  # ids ascend: ties by id
        rank = np.arange(1, len(place) + 1)
        features.append(np.full(len(place), f, np.int64))
        places.append(place)
        order.append(rank)
        by_count = count[place].astype(np.float64)
        scores.append(by_count if chosen == "global" else float(count.sum()) / rank)
    if not features:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    of_all = np.concatenate(features)
    first = np.lexsort((np.concatenate(order), of_all, -np.concatenate(scores)))
    return of_all[first], np.concatenate(places)[first]


def _parts(schema: Schema, counts: Counts, s: FrequentSettings) -> dict[str, Parts]:
    """What the ids of every feature read, for the largest number of kept ids that fits."""
    feature, place = _ranked(schema, counts, s.chosen)
    V, allowance = len(feature), s.allowance
    unknown = _unknown_rows(schema, s)
    banded = 0
    if s.grouped:
        of_id = allowance.ids(1) + allowance.codes(1)
        banded = int(s.tail_share * allowance.amount) // of_id

    def takes(kept: int) -> int:
        return _takes(len(unknown), sum(unknown), kept, min(banded, V - kept), s)

    if takes(0) > allowance.amount and s.grouped:
        banded = 0
    if takes(0) > allowance.amount:
        raise PolicyError(
            f"a budget of {allowance} is too small for the shared rows of {len(unknown)} features; "
            f"the smallest feasible budget is {takes(0)}"
        )
    low, high = 0, V
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if takes(middle) <= allowance.amount else (low, middle - 1)
    hot = int(s.hot_share * low) if s.hot_dim else 0
    if s.hot_dim and low == V:  # all ids are kept: the rest of the budget makes more of them wider
        hot = min(V, hot + (allowance.amount - takes(V)) // allowance.row(s.hot_dim))
    found = {}
    for f, c in enumerate(schema.features):
        ids, count = counts[c.name]
        mine = np.flatnonzero(feature == f)
        kept = np.sort(place[mine[mine < low]])
        is_hot = np.isin(kept, place[mine[mine < hot]])
        shared = place[mine[(mine >= low) & (mine < low + banded)]]
        band = _bands(count[shared], s.bands)
        by_id = np.argsort(shared)
        found[c.name] = Parts(ids[kept], is_hot, ids[shared[by_id]], band[by_id], unknown[f])
    return found


def _unknown_rows(schema: Schema, s: FrequentSettings) -> list[int]:
    """Rows of every feature that ids without a row share by hash."""
    F, cost = len(schema.features), s.allowance.row(s.dim)
    room = int(s.tail_share * s.allowance.amount)
    if s.tail != "hash" or room < F * cost:
        return [1] * F
    sizes = [max(1, c.vocab_size or 0) for c in schema.features]
    rows = split_rows(room, [cost] * F, sizes)
    return [min(r, n) for r, n in zip(rows, sizes, strict=True)]


def _takes(features: int, unknown: int, kept: int, banded: int, s: FrequentSettings) -> int:
    """Floats or bytes of everything that is stored, for so many ids that are kept and banded."""
    allowance, known = s.allowance, kept + banded
    rows = unknown + kept + (s.bands * features if s.grouped else 0)
    total = rows * allowance.row(s.dim) + allowance.ids(known)
    if s.grouped:
        total += allowance.codes(known + features)
    if s.hot_dim:
        total += (int(s.hot_share * kept) + features) * allowance.row(s.hot_dim)
        total += allowance.codes(known + features)
    return total


def _bands(count: Ints, bands: int) -> Ints:
    """The band of every id, by falling count: each band has about as many reads."""
    if not len(count):
        return np.zeros(0, np.int64)
    read = np.cumsum(count) - count / 2
    found: Ints = np.minimum((bands * read / count.sum()).astype(np.int64), bands - 1)
    return found


def _clustered(
    parts: Mapping[str, Parts], s: FrequentSettings, cluster: Cluster | None
) -> dict[str, Parts]:
    """The parts with the cluster of every banded id in place of its band."""
    if cluster is None:
        raise ValueError(
            f"tail {s.tail!r} puts ids into clusters by their training rows; give `cluster`, as "
            "seo_rec.search.row_means makes it, or another tail"
        )
    found = cluster({name: p.banded for name, p in parts.items()}, s.bands)
    return {name: replace(p, band=found[name]) for name, p in parts.items()}


def _feature(
    name: str,
    parts: Parts,
    s: FrequentSettings,
    seed: int,
    tables: list[Table],
    codes: dict[str, Codes],
) -> Feature:
    """The feature and its lookups; its tables and codes are added to the policy's."""
    kept, u = len(parts.kept), parts.unknown_rows
    known = np.concatenate([parts.kept, parts.banded])
    by_id = np.argsort(known)
    bands = s.bands if s.grouped else 0
    tables.append(Table(name, u + kept + bands, s.dim))
    if bands:
        rows = np.concatenate([np.arange(1, kept + 1), kept + 1 + parts.band])
        codes[name] = np.concatenate([[0], rows[by_id]]).astype(np.int32)
        lookups = [Lookup(name, "codes", codes=name)]
    else:
        lookups = [Lookup(name, "id", seed if u > 1 else 0, unknown_rows=u)]
    if s.hot_dim:
        hot, table = np.zeros(len(known), np.int64), f"{name}:hot"
        hot[: len(parts.hot)][parts.hot] = np.arange(1, parts.hot.sum() + 1)
        tables.append(Table(table, 1 + int(parts.hot.sum()), s.hot_dim))
        codes[table] = np.concatenate([[0], hot[by_id]]).astype(np.int32)
        lookups.append(Lookup(table, "codes", codes=table))
    return Feature(name, tuple(lookups))
