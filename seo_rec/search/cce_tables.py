"""How CCE divides a budget: two tables for each feature of many ids, and codes for its ids.

Letters: F features, K ids that have a code, over all features; m rows of a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from seo_rec.methods import lookup_seed
from seo_rec.methods.frequent import Counts
from seo_rec.policy import Codes, Feature, Ids, Lookup, Policy, PolicyError, Table
from seo_rec.policy.addresses import counted_as, hash_rows, known_as
from seo_rec.policy.allowance import BudgetSettings
from seo_rec.policy.budget import level
from seo_rec.policy.entries import FULL_BITS
from seo_rec.schema import Schema
from seo_rec.search.clustering import Ints
from seo_rec.search.space import require

ADDRESSES = ("id", "hash")
STARTS = ("residual", "zero")


@dataclass(frozen=True)
class CceSettings(BudgetSettings):
    """Settings of CCE: two tables per feature, the first of which is read by learned codes.

    Features whose ids need no more rows than two tables would have get a row for each id.

    Args:
        params: Budget in parameters (floats), codes included; ids are free.
        dim: Width of a row, in floats.
        address: Codes for the most frequent training ids (id), or for hashes of ids (hash).
        code_share: Share of the budget that codes and the ids that have one may take.
        clusterings: How often the rows are clustered while the search trains.
        every: Epochs from one clustering to the next.
        second: The second table after a clustering: mean residuals (residual), or zeros (zero).
        points: Vectors for each centroid that k-means uses to find the centroids, at most.
        iterations: Iterations of k-means, at most.
    """

    dim: int = 16
    address: str = "id"
    code_share: float = 0.5
    clusterings: int = 2
    every: int = 1
    second: str = "residual"
    points: int = 256
    iterations: int = 25

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.dim <= 65536, "dim", self.dim, "1 to 65536")
        require(self.address in ADDRESSES, "address", self.address, ", ".join(ADDRESSES))
        require(0 < self.code_share < 1, "code_share", self.code_share, "between 0 and 1")
        require(self.second in STARTS, "second", self.second, ", ".join(STARTS))
        for name in ("clusterings", "every", "points", "iterations"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")


@dataclass(frozen=True)
class Pair:
    """The two tables of one feature.

    Args:
        name: Of the feature.
        ids: Its training ids, ascending.
        coded: Of these the ids that have a code, ascending, or with 32 bits their digests; None
            where hashes have codes.
        bases: Base rows, each of which has a code.
        rows: Rows of the first and of the second table.
        seed: Salt of the hash functions.
        id_bits: Of what has a code.
    """

    name: str
    ids: Ids
    coded: Ids | None
    bases: int
    rows: tuple[int, int]
    seed: int
    id_bits: int = FULL_BITS

    @cached_property
    def base_V(self) -> Ints:
        """The base row of every training id, int64 (V,); 0 is the one of ids without a code."""
        if self.coded is None:
            return hash_rows(self.ids, self._base_seed, self.bases)
        ids = known_as(self.ids, self.id_bits)
        found = np.isin(ids, self.coded)
        return np.where(found, 1 + np.searchsorted(self.coded, ids), 0).astype(np.int64)

    @property
    def _base_seed(self) -> int:
        return lookup_seed(self.seed, self.name, "base")

    def second_seed(self, done: int) -> int:
        """The seed of the second table's hash after so many clusterings."""
        return lookup_seed(self.seed, self.name, "second", done)

    def second_V(self, done: int) -> Ints:
        """The row of the second table that every training id reads then, int64 (V,)."""
        return hash_rows(self.ids, self.second_seed(done), self.rows[1])

    def first_codes(self) -> Codes:
        """Random codes, from which training starts."""
        bases = np.arange(self.bases, dtype=np.int64)
        seed = lookup_seed(self.seed, self.name, "codes")
        return hash_rows(bases, seed, self.rows[0]).astype(np.int32)

    @property
    def tables(self) -> tuple[str, str]:
        """The names of the two tables."""
        return self.name, f"{self.name}:second"

    def feature(self, done: int) -> Feature:
        """``x = T[c(id)] + T'[h'(id)]``."""
        first, second = self.tables
        coded = Lookup(first, "codes", codes=self.name)
        if self.coded is None:
            coded = replace(coded, seed=self._base_seed, modulus=self.bases)
        return Feature(
            self.name, (coded, Lookup(second, "hash", self.second_seed(done))), combine="sum"
        )


@dataclass(frozen=True)
class Division:
    """All features of a data set within a budget.

    Args:
        schema: The data set.
        exact: The ids (or digests) of the features that have a row for each, by name.
        pairs: The features that have two tables, by name.
        settings: Of the search.
    """

    schema: Schema
    exact: Mapping[str, Ids]
    pairs: Mapping[str, Pair]
    settings: CceSettings

    def policy(
        self, codes: Mapping[str, Codes], done: int, origin: Mapping[str, Any] | None = None
    ) -> Policy:
        """The policy with these codes, after so many clusterings."""
        dim, tables, features = self.settings.dim, list[Table](), list[Feature]()
        vocabularies = dict(self.exact)
        for c in self.schema.features:
            if c.name in self.exact:
                tables.append(Table(c.name, len(self.exact[c.name]) + 1, dim))
                features.append(Feature(c.name, (Lookup(c.name, "id"),)))
                continue
            pair = self.pairs[c.name]
            tables += [Table(n, r, dim) for n, r in zip(pair.tables, pair.rows, strict=True)]
            features.append(pair.feature(done))
            if pair.coded is not None:
                vocabularies[c.name] = pair.coded
        made = Policy(
            tuple(tables), tuple(features), (), vocabularies, origin or {}, codes=dict(codes)
        )
        return self.settings.allowance.typed(made)


def divide(schema: Schema, counts: Counts, settings: CceSettings, seed: int) -> Division:
    """Which features have a row per id, which ids of the others have codes, and the tables' rows.

    A feature of n ids has a row for each, and one for all other ids, if ``n + 1 <= 2 m``; the
    others have two tables of about m rows, for the largest m that fits. The K most frequent ids of
    these have a code, for the K that ``code_share`` of the budget pays; all others have one code in
    common. With hashed ids a feature gets codes in proportion to its ids.

    Args:
        schema: The data set.
        counts: Training ids of every feature, ascending, and how often each occurs.
        settings: Of the search.
        seed: Salt of the hash functions.

    Raises:
        PolicyError: The budget has no room for a row of each table; the message ends with the
            smallest one.
    """
    allowance = settings.allowance
    row = allowance.row(settings.dim)
    known = {c.name: counted_as(*counts[c.name], settings.id_bits) for c in schema.features}
    size = {n: len(ids) for n, (ids, _) in known.items()}
    of_code = allowance.codes(1) + (allowance.ids(1) if settings.address == "id" else 0)

    def exact(m: int) -> list[str]:
        return [n for n, ids in size.items() if ids + 1 <= 2 * m]

    def fixed(names: Sequence[str], coded: int) -> int:
        """What is taken by rows per id, their ids and all codes."""
        of_exact = sum((size[n] + 1) * row + allowance.ids(size[n]) for n in names)
        many = sum(ids for n, ids in size.items() if n not in names)
        pairs = len(size) - len(names)
        return of_exact + pairs * allowance.codes(1) + min(coded, many) * of_code

    def takes(m: int, coded: int) -> int:
        names = exact(m)
        return fixed(names, coded) + (len(size) - len(names)) * 2 * m * row

    if (least := takes(1, 0)) > allowance.amount:
        raise PolicyError(
            f"a budget of {allowance} is too small for a row of each table and a code of each of "
            f"{len(size)} features; the smallest feasible budget is {least}"
        )
    coded = int(settings.code_share * allowance.amount) // of_code
    coded = min(coded, (allowance.amount - least) // of_code)
    low, high = 1, max(size.values(), default=1)
    while low < high:
        middle = (low + high + 1) // 2
        fits = takes(middle, coded) <= allowance.amount
        low, high = (middle, high) if fits else (low, middle - 1)
    names = exact(low)
    rows = (allowance.amount - fixed(names, coded)) // row
    pairs = _pairs(
        {n: counts[n][0] for n in size if n not in names}, known, settings, coded, rows, seed
    )
    return Division(schema, {n: known[n][0] for n in names}, pairs, settings)


def _pairs(
    ids: Mapping[str, Ids],
    counts: Counts,
    settings: CceSettings,
    coded: int,
    rows: int,
    seed: int,
) -> dict[str, Pair]:
    """The tables of these features, which have so many codes and rows together.

    ``counts`` has what codes can be of: the ids, or their digests.
    """
    names = list(ids)
    kept: dict[str, Ids] = {}
    if settings.address == "id":
        kept = _most_frequent(names, counts, coded)
        bases = {n: len(kept[n]) + 1 for n in names}
    else:
        ends = np.cumsum([0, *(len(counts[n][0]) for n in names)])
        further = np.diff(min(coded, int(ends[-1])) * ends // max(1, int(ends[-1])))
        bases = {n: 1 + int(more) for n, more in zip(names, further, strict=True)}
    # a first table needs no more rows than there are codes
    levels = level([*(bases[n] for n in names), *(rows for _ in names)], rows)
    return {
        n: Pair(
            n,
            ids[n],
            kept.get(n),
            bases[n],
            (levels[i], levels[len(names) + i]),
            seed,
            settings.id_bits,
        )
        for i, n in enumerate(names)
    }


def _most_frequent(names: Sequence[str], counts: Counts, number: int) -> dict[str, Ids]:
    """The most frequent ids of these features together; ties go to the first feature and id."""
    if not names:
        return {}
    feature = np.concatenate([np.full(len(counts[n][0]), i) for i, n in enumerate(names)])
    ids = np.concatenate([counts[n][0] for n in names])
    order = np.argsort(-np.concatenate([counts[n][1] for n in names]), kind="stable")[:number]
    chosen = np.zeros(len(ids), bool)
    chosen[order] = True
    return {n: ids[chosen & (feature == i)] for i, n in enumerate(names)}
