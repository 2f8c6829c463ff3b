"""How often ids share rows: counted with the model's hashing, expected from uniform hashing.

A lookup sends each of the n distinct training ids of its feature to one of the R rows of its
table. For one feature:

* *intra*: the share of its ids whose row is also the row of another id of the feature in the same
  lookup; the mean over its lookups. Expected: ``1 - (1 - 1/R)^(n-1)``.
* *full*: the share of its ids that have the same rows as another id of the feature in *all*
  lookups, so that the model cannot tell the two apart. Expected: ``1 - (1 - p)^(n-1)``, where p is
  the probability that two ids agree everywhere: the product of ``1/R`` over independent lookups.
  Lookups with one seed are one hash function read at several scales and count once
  (:func:`agreement`).
* *inter*: the share of its ids whose row is also the row of an id of another feature that reads
  the same table; the mean over its lookups. Expected: ``1 - (1 - 1/R)^m``, where m ids of other
  features, counted once per feature and seed, are sent into the table.
* *occupied* rows of a table: ``R (1 - (1 - 1/R)^m)`` expected of m independent ids.

The ``id`` address gives each training id a row of its own: its intra and full shares are 0. A
lookup of blocks counts as one lookup per block, whose rows are the places where it may begin; only
whole blocks of one feature are compared. Importance weights are a lookup too:
ids that differ in them alone are told apart. There is no expected share for digits and codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seo_rec.policy import Feature, Ids, Lookup, Policy
from seo_rec.policy.addresses import block_seeds, hash_rows, lookup_rows

MAX_TABLE_ROWS = 2**28  # one counter per row is kept in memory
NAN = float("nan")


@dataclass(frozen=True)
class Pair:
    """A share or a count, as counted and as expected (NaN where no formula is given)."""

    actual: float
    expected: float


@dataclass(frozen=True)
class FeatureCollisions:
    """Shares in [0, 1] of one feature's distinct training ids."""

    feature: str
    num_ids: int
    num_lookups: int
    intra: Pair
    full: Pair
    inter: Pair


@dataclass(frozen=True)
class TableOccupancy:
    """Rows of a table that at least one training id reads."""

    table: str
    num_rows: int
    num_ids: int
    occupied: Pair


@dataclass(frozen=True)
class Collisions:
    """All features and tables of a policy; ``mean_*`` average the shares over all ids."""

    features: tuple[FeatureCollisions, ...]
    tables: tuple[TableOccupancy, ...]

    def mean(self, kind: str) -> Pair:
        """``intra``, ``full`` or ``inter``, averaged over the ids of all features."""
        total = sum(f.num_ids for f in self.features)
        pairs = [(f.num_ids, getattr(f, kind)) for f in self.features if f.num_ids]
        if not total:
            return Pair(NAN, NAN)
        return Pair(
            sum(n * p.actual for n, p in pairs) / total,
            sum(n * p.expected for n, p in pairs) / total,
        )


def shared_row(num_rows: int, num_others: float) -> float:
    """``1 - (1 - 1/R)^m``: the chance that at least one of m ids falls on a given row of R."""
    return hit(1.0 / num_rows, num_others)


def hit(p: float, num_others: float) -> float:
    """``1 - (1 - p)^m``, exact for small p."""
    if num_others <= 0:
        return 0.0
    return 1.0 if p >= 1 else float(-np.expm1(num_others * np.log1p(-p)))


def agreement(num_rows: Sequence[int]) -> float:
    """The chance that two ids agree in lookups of one seed into tables of ``num_rows``.

    The row is ``floor(u R)`` of one number u in [0, 1), so agreement in all tables means the same
    piece of [0, 1) cut at every ``i/R``: the sum of the squared lengths of the pieces. ``1/R`` for
    one size; for very large tables ``1/max(R)``, an upper bound.
    """
    sizes = sorted(set(num_rows))
    if len(sizes) == 1 or sum(sizes) > 10_000_000:
        return 1.0 / sizes[-1]
    cuts = np.unique(np.concatenate([np.arange(r + 1) / r for r in sizes]))
    return float(np.square(np.diff(cuts)).sum())


def collisions(policy: Policy, ids: Mapping[str, Ids]) -> Collisions:
    """Count and predict collisions of the distinct training ids of every feature.

    Args:
        policy: the tables and lookups.
        ids: distinct training ids of every served feature, int64.

    Raises:
        ValueError: a table is too large to count rows in memory.
    """
    if large := [t.name for t in policy.tables if t.num_rows > MAX_TABLE_ROWS]:
        raise ValueError(f"tables {large} have more than {MAX_TABLE_ROWS:,} rows")
    readers: dict[str, list[tuple[Feature, Lookup]]] = {t.name: [] for t in policy.tables}
    for f in policy.features:
        for k in f.all_lookups:
            if k.address != "blocks":
                readers[k.table].append((f, k))
    inter: dict[tuple[str, Lookup], Pair] = {}
    tables = []
    for table in policy.tables:
        inter |= _inter(policy, table.name, readers[table.name], ids)
        tables.append(_occupancy(policy, table.name, readers[table.name], ids))
    features = tuple(_feature(policy, f, ids[f.name], inter) for f in policy.features)
    return Collisions(features, tuple(tables))


def _reads(
    policy: Policy, feature: Feature, ids: Ids
) -> Iterator[tuple[str, int, int, npt.NDArray[np.int64]]]:
    """Address, seed, number of rows and the row of every id, of every lookup and block."""
    for k in feature.all_lookups:
        if k.address != "blocks":
            num_rows = policy.table(k.table).num_rows
            yield k.address, k.seed, num_rows, lookup_rows(policy, feature, k, ids)
            continue
        places = policy.array(k.table).size - k.block + 1
        for seed in block_seeds(k):
            yield k.address, seed, places, hash_rows(ids, seed, places)


def _feature(
    policy: Policy, feature: Feature, ids: Ids, inter: Mapping[tuple[str, Lookup], Pair]
) -> FeatureCollisions:
    n, num_lookups = len(ids), len(feature.all_lookups)
    if n == 0:
        nothing = Pair(NAN, NAN)
        return FeatureCollisions(feature.name, 0, num_lookups, nothing, nothing, nothing)
    intra_actual, intra_expected, probability = [], [], 1.0
    seeds: dict[int, list[int]] = {}
    left, groups = np.arange(n), np.zeros(n, np.int64)  # ids not yet told apart, and from whom
    for address, seed, R, rows in _reads(policy, feature, ids):
        intra_actual.append(float((_counts(rows, R) > 1).mean()))
        if address == "id":
            intra_expected.append(0.0)
            probability = 0.0
        elif address in ("hash", "blocks"):
            intra_expected.append(shared_row(R, n - 1))
            seeds.setdefault(seed, []).append(R)
        else:
            intra_expected.append(NAN)
            probability *= NAN
        _, groups, counts = np.unique(
            groups * R + rows[left], return_inverse=True, return_counts=True
        )
        still = counts[groups] > 1
        left, groups = left[still], groups[still]
    for sizes in seeds.values():
        probability *= agreement(sizes)
    met = [inter[feature.name, k] for k in feature.all_lookups if k.address != "blocks"]
    met = met or [Pair(NAN, NAN)]
    return FeatureCollisions(
        feature.name,
        n,
        num_lookups,
        Pair(float(np.mean(intra_actual)), float(np.mean(intra_expected))),
        Pair(len(left) / n, hit(probability, n - 1)),
        Pair(float(np.mean([p.actual for p in met])), float(np.mean([p.expected for p in met]))),
    )


def _inter(
    policy: Policy, table: str, readers: Sequence[tuple[Feature, Lookup]], ids: Mapping[str, Ids]
) -> dict[tuple[str, Lookup], Pair]:
    """Of every lookup into one table: the share of ids that meet another feature's id there."""
    R = policy.table(table).num_rows
    names = dict.fromkeys(f.name for f, _ in readers)
    if len(names) < 2:
        return {(f.name, k): Pair(0.0, 0.0) for f, k in readers}
    features_in_row = np.zeros(R, np.int32)
    for name in names:
        own = [lookup_rows(policy, f, k, ids[name]) for f, k in readers if f.name == name]
        features_in_row[np.unique(np.concatenate(own))] += 1
    found = {}
    hashed = all(k.address == "hash" for _, k in readers)
    for f, k in dict.fromkeys(readers):
        rows = lookup_rows(policy, f, k, ids[f.name])
        others = {(g.name, h.seed) for g, h in readers if g.name != f.name}
        m = sum(len(ids[name]) for name, _ in others)
        share = float((features_in_row[rows] > 1).mean()) if len(rows) else NAN
        found[f.name, k] = Pair(share, shared_row(R, m) if hashed else NAN)
    return found


def _occupancy(
    policy: Policy, table: str, readers: Sequence[tuple[Feature, Lookup]], ids: Mapping[str, Ids]
) -> TableOccupancy:
    R = policy.table(table).num_rows
    used = np.zeros(R, bool)
    for f, k in readers:
        used[lookup_rows(policy, f, k, ids[f.name])] = True
    sent = {(f.name, k.seed, k.address): len(ids[f.name]) for f, k in readers}
    m = sum(sent.values())
    hashed = all(k.address == "hash" for _, k in readers)
    expected = R * shared_row(R, m) if hashed else float(m) if len(sent) == 1 else NAN
    return TableOccupancy(table, R, m, Pair(float(used.sum()), expected))


def _counts(rows: npt.NDArray[np.int64], num_rows: int) -> npt.NDArray[np.int64]:
    """For every id the number of ids in its row."""
    counts: npt.NDArray[np.int64] = np.bincount(rows, minlength=num_rows)[rows]
    return counts
