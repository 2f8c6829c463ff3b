"""Vocabularies renewed inside the same bytes, as ids come and go from day to day."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from seo_rec.policy.entries import Feature, Ids, Lookup
from seo_rec.policy.policy import Policy

Weights = npt.NDArray[np.float64]
DecayedCounts = Mapping[
    str, tuple[Ids, Weights]
]  # by feature: ascending ids, and their decayed counts

SHARED = 0.0  # of the rows of a large vocabulary, for ids that have none of their own
SHARED_FROM = 200  # ids of a vocabulary, from which on rows are shared

KEPT_BESIDE = 1024  # ids outside a vocabulary that are counted on, besides as many as it has


@dataclass(frozen=True)
class Turnover:
    """How the vocabulary of a feature changed: numbers of ids."""

    stayed: int
    admitted: int
    evicted: int


def added_counts(
    before: tuple[Ids, Weights], day: tuple[Ids, npt.NDArray[np.generic]], decay: float
) -> tuple[Ids, Weights]:
    """``c <- decay * c + n`` for every id of either side, n the count of the new day.

    Args:
        before: Ascending ids and their decayed counts.
        day: Ascending ids and how often each occurs in the new training rows.
        decay: What is left of a count after one day, 0 to 1.
    """
    ids = np.union1d(before[0], day[0])
    counts = np.zeros(len(ids))
    counts[np.searchsorted(ids, before[0])] = decay * np.asarray(before[1], np.float64)
    counts[np.searchsorted(ids, day[0])] += np.asarray(day[1], np.float64)
    return ids, counts


def bounded(counted: tuple[Ids, Weights], vocabulary: Ids) -> tuple[Ids, Weights]:
    """The counts of the vocabulary and of the most frequent other ids, so that none grows for ever.

    As many other ids are kept as the vocabulary has, and :data:`KEPT_BESIDE` more.
    """
    ids, counts = counted
    outside = np.flatnonzero(~np.isin(ids, vocabulary, assume_unique=True))
    spare = len(vocabulary) + KEPT_BESIDE
    if len(outside) <= spare:
        return ids, counts
    first = np.argsort(-counts[outside], kind="stable")[:spare]  # ties: the smaller id
    keep = np.isin(ids, vocabulary, assume_unique=True)
    keep[outside[first]] = True
    return ids[keep], counts[keep]


def indexed_features(policy: Policy) -> tuple[str, ...]:
    """The features whose rows depend on a vocabulary."""
    return tuple(f.name for f in policy.features if any(k.uses_index for k in f.all_lookups))


def renewable_features(policy: Policy) -> tuple[str, ...]:
    """The features whose vocabulary can change while the rows of the ids that stay move exactly.

    Their lookups by index are ``id`` or ``codes``, into rows (or codes) that no other feature
    reads by index. The digits of ``quotient`` and ``remainder`` share rows among ids, so that no
    id can be replaced without changing others.
    """
    readers: dict[tuple[str, str], set[str]] = {}
    for f in policy.features:
        for k in _by_index(f):
            for place in _places(k):
                readers.setdefault(place, set()).add(f.name)
    return tuple(
        f.name
        for f in policy.features
        if (lookups := _by_index(f))
        and all(k.address in ("id", "codes") for k in lookups)
        and all(readers[place] == {f.name} for k in lookups for place in _places(k))
    )


def _by_index(feature: Feature) -> list[Lookup]:
    return [k for k in feature.all_lookups if k.uses_index]


def _places(lookup: Lookup) -> list[tuple[str, str]]:
    codes = [("codes", lookup.codes)] if lookup.address == "codes" else []
    return [("table", lookup.table), *codes]


def renewed(
    policy: Policy, counted: DecayedCounts, shared: float = 0.0
) -> tuple[Policy, dict[str, Turnover]]:
    """The policy with the most frequent ids in its vocabularies, inside the same bytes.

    The ids of a vocabulary of V ids are the V with the largest decayed counts; where counts are
    equal, ids that are in it already come first, then smaller ids. Tables and codes keep their
    sizes. With ``shared`` a table by ``id`` of T rows gives ``u = min(shared T, n)`` of them, n the
    number of other ids that are counted, to the ids outside the vocabulary, which find theirs by
    hash; V is then T - u. These rows are never taken back. An id that is admitted later continues
    the row that it shared, and so what was learned of it before.

    Args:
        policy: Any policy.
        counted: Decayed counts of the features of :func:`renewable_features`; an id of a
            vocabulary that is not counted has the count 0. Other features stay as they are.
        shared: The share of a table's rows for ids without one, 0 to below 1; vocabularies of less
            than :data:`SHARED_FROM` ids and lookups by ``codes`` keep what they have.

    Returns:
        The policy, and by feature how its vocabulary changed.
    """
    require_share(shared)
    vocabularies, codes = dict(policy.vocabularies), dict(policy.codes)
    turnovers: dict[str, Turnover] = {}
    features = {f.name: f for f in policy.features}
    for name in renewable_features(policy):
        if name not in counted:
            continue
        old = policy.vocabularies[name]
        feature = features[name]
        more = _more_shared_rows(policy, feature, counted[name][0], shared)
        features[name] = _sharing(feature, more)
        new = _most_frequent(old, *counted[name])[: len(old) - more]
        stayed = int(np.isin(new, old, assume_unique=True).sum())
        turnovers[name] = Turnover(stayed, len(new) - stayed, len(old) - stayed)
        vocabularies[name] = new = np.sort(new)
        for array in dict.fromkeys(k.codes for k in _by_index(feature) if k.address == "codes"):
            codes[array] = _codes(policy.codes[array], old, new, counted[name])
    kept = tuple(features[f.name] for f in policy.features)
    return replace(policy, vocabularies=vocabularies, codes=codes, features=kept), turnovers


def require_share(shared: float) -> None:
    """ValueError unless ``shared`` is a share of rows, 0 to below 1."""
    if not 0 <= shared < 1:
        raise ValueError(f"shared rows {shared}; allowed: 0 (one row) to below 1, as 0.05")


def _more_shared_rows(policy: Policy, feature: Feature, counted: Ids, shared: float) -> int:
    """How many further rows the ids outside the vocabulary of a feature are to share."""
    lookups, vocabulary = _by_index(feature), policy.vocabularies[feature.name]
    rows = {k.unknown_rows for k in lookups}
    by_id = all(k.address == "id" for k in lookups) and len(rows) == 1
    if not shared or not by_id or len(vocabulary) < SHARED_FROM:
        return 0
    has = rows.pop()
    outside = int((~np.isin(counted, vocabulary, assume_unique=True)).sum())
    return max(0, min(int(shared * (len(vocabulary) + has)), outside) - has)


def _sharing(feature: Feature, more: int) -> Feature:
    """The feature with so many further rows for the ids outside its vocabulary."""
    if not more:
        return feature

    def sharing(k: Lookup) -> Lookup:
        if not k.uses_index:
            return k
        seed = k.seed or zlib.crc32(f"{feature.name}/{k.table}".encode())
        return replace(k, unknown_rows=k.unknown_rows + more, seed=seed)

    weights = None if feature.weights is None else sharing(feature.weights)
    return replace(feature, lookups=tuple(map(sharing, feature.lookups)), weights=weights)


def _most_frequent(old: Ids, ids: Ids, counts: Weights) -> Ids:
    """As many ids as ``old`` has, the most frequent first."""
    every, amounts = added_counts((ids, counts), (old, np.zeros(len(old))), 1.0)
    known = np.isin(every, old, assume_unique=True)
    order = np.lexsort((every, ~known, -amounts))
    return every[order[: len(old)]]


def _codes(
    codes: npt.NDArray[np.int32], old: Ids, new: Ids, counted: tuple[Ids, Weights]
) -> npt.NDArray[np.int32]:
    """Ids that stay keep their code; the most frequent new ids take those of rows of their own."""
    made = codes.copy()
    place = np.searchsorted(old, new)
    stays = np.isin(new, old, assume_unique=True)
    made[1 : 1 + len(new)][stays] = codes[1:][place[stays]]
    left = codes[1 : 1 + len(old)][~np.isin(old, new, assume_unique=True)]
    left = left[np.argsort(left == codes[0], kind="stable")]  # rows of the unknown come last
    amount = dict(zip(counted[0].tolist(), counted[1].tolist(), strict=True))
    newcomers = np.flatnonzero(~stays)
    rank = np.argsort([-amount.get(int(i), 0.0) for i in new[newcomers]], kind="stable")
    made[1 + newcomers[rank]] = left
    return made
