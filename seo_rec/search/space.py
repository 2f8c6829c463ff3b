"""What searches of widths start from: the rows of every feature, and policies made of them.

Letters: F features, D one feature's width.

Every feature has a table of its own. How many rows it has is given, how wide it is gets searched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from seo_rec.data.dataset import DataSet
from seo_rec.methods import lookup_seed, provenance
from seo_rec.policy import (
    Allowance,
    Codes,
    Feature,
    Ids,
    Lookup,
    Policy,
    PolicyError,
    Table,
    allowance_of,
    split_rows,
)
from seo_rec.policy.allowance import allowance_from, without_unset
from seo_rec.policy.entries import FULL_BITS
from seo_rec.schema import Schema

ADDRESSES = ("auto", "id", "hash")
COUNTS_FLOATS = Allowance(0)
LEAST_MEAN_WIDTH = 2  # "auto" hashes if rows for all ids leave less than this to the mean width


@dataclass(frozen=True)
class SpaceSettings:
    """The tables that a search of widths decides about.

    Each feature has a table. With ``address`` ``auto`` every training id has a row if the budget
    (if there is one) then leaves a mean width of 2 or more; otherwise ids are hashed. With
    ``hash_rows`` 0 hashed features get as many rows as fill the budget at a mean width of ``max_dim
    / 2``.

    Args:
        params: Budget of the policy in parameters (floats), spent exactly; 0 sets no budget.
        max_dim: Width of the widest table, in floats.
        address: A row per training id (id), hashed rows (hash), or what the budget allows (auto).
        hash_rows: Rows of features that have more ids, where ids are hashed; 0 fills the budget.
        num_bytes: Budget in bytes to serve, ids included, in place of params; 0: params says it.
        precision: The type in which rows are stored.
        id_bits: Bits of an id in a vocabulary: 64, or 32 for its digest.
    """

    params: int = 0
    max_dim: int = 16
    address: str = "auto"
    hash_rows: int = 0
    num_bytes: int = field(default=0, kw_only=True)
    precision: str = field(default="float32", kw_only=True)
    id_bits: int = field(default=FULL_BITS, kw_only=True)

    def __post_init__(self) -> None:
        require(self.params >= 0, "params", self.params, "0 (no budget) or more")
        allowance_from(self.params, self.num_bytes, self.precision, self.id_bits)
        require(1 <= self.max_dim <= 65536, "max_dim", self.max_dim, "1 to 65536")
        require(self.address in ADDRESSES, "address", self.address, ", ".join(ADDRESSES))
        require(self.hash_rows >= 0, "hash_rows", self.hash_rows, "0 or more")
        if self.hash_rows and self.address != "hash":
            raise ValueError(
                f"hash_rows {self.hash_rows} with address {self.address!r}; allowed: hash_rows "
                "only with address 'hash'"
            )
        if self.address == "hash" and not (self.hash_rows or self.amount):
            raise ValueError("address 'hash' without a budget; give hash_rows, or params")

    @property
    def allowance(self) -> Allowance:
        """The budget and the precision."""
        return allowance_from(self.params, self.num_bytes, self.precision, self.id_bits)

    @property
    def amount(self) -> int:
        """The floats or bytes of the budget; 0 where there is none."""
        return self.num_bytes or self.params


def require(holds: bool, name: str, got: object, allowed: str) -> None:
    """ValueError unless ``holds``; the message has the setting, its value and the allowed ones."""
    if not holds:
        raise ValueError(f"{name} is {got!r}; allowed: {allowed}")


@dataclass(frozen=True)
class Space:
    """Features, and the rows of the table of each; ``vocabularies`` of those addressed by id.

    ``max_dim``: the widest a feature may be; 0: no limit. ``codes``: of features that are hashed
    into more rows than their tables have, the row of each hash. ``allowance``: how rows, ids and
    codes are counted, in floats or in bytes, and the precision of the tables.
    """

    schema: Schema
    rows: tuple[int, ...]
    vocabularies: Mapping[str, Ids]
    seed: int
    max_dim: int = 0
    codes: Mapping[str, Codes] = field(default_factory=dict)
    allowance: Allowance = COUNTS_FLOATS

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.schema.features)

    def size(self, dims: Sequence[int]) -> int:
        """What widths ``dims`` take, with the ids and codes of features of width 1 or more."""
        return sum(self._cost(i, d) for i, d in enumerate(dims))

    def _cost(self, feature: int, dim: int) -> int:
        """What a feature takes at one width: nothing at width 0."""
        if not dim:
            return 0
        name, count = self.names[feature], self.allowance
        ids = count.ids(len(self.vocabularies[name])) if name in self.vocabularies else 0
        codes = count.codes(self.codes[name].size) if name in self.codes else 0
        return self.rows[feature] * count.row(dim) + ids + codes

    def column(self, feature: int, dim: int) -> int:
        """What a further column of a feature takes that is ``dim`` wide already."""
        return self._cost(feature, dim + 1) - self._cost(feature, dim)

    def _widths(self, dims: Sequence[int]) -> Iterator[tuple[str, int]]:
        return zip(self.names, dims, strict=True)

    def policy(
        self, dims: Sequence[int], params: int = 0, origin: Mapping[str, Any] | None = None
    ) -> Policy:
        """Tables of widths ``dims``; features of width 0 are dropped.

        If ``params`` (floats, or bytes where the space counts them) is given, the rest of it is
        used up. Hashed tables, if there are any, take
        more rows, so that less than one row of the narrowest stays unused. Where all tables have
        the rows they need, the next column is bought although not all its rows fit: one feature,
        of the fewest rows that are too many, gets a further column whose rows are hashed. Nothing
        stays unused, unless all such features have ``max_dim`` columns.
        """
        served = [i for i, d in enumerate(dims) if d > 0]
        rows = list(self.rows)
        found = {*self.vocabularies, *self.codes}  # which rows ids have is settled
        hashed = [i for i in served if self.names[i] not in found]
        left = params - self.size(dims)
        if params and hashed:
            costs = [self.allowance.row(dims[i]) for i in hashed]
            weights = [rows[i] * c for i, c in zip(hashed, costs, strict=True)]
            shared = split_rows(left + sum(weights), costs, weights)
            for i, r in zip(hashed, shared, strict=True):
                rows[i] = r
        room = [
            i for i in served if left < self.column(i, dims[i]) and not dims[i] == self.max_dim > 0
        ]
        further = left // self.allowance.row(1)
        last = min(room, key=lambda i: rows[i]) if further > 0 and room and not hashed else None
        tables, features = [], []
        for i in served:
            name = self.names[i]
            tables.append(Table(name, rows[i], dims[i]))
            seed = lookup_seed(self.seed, name, 0)
            lookups = [Lookup(name, "id")]
            if name in self.codes:
                modulus = self.codes[name].size
                lookups = [Lookup(name, "codes", seed, modulus=modulus, codes=name)]
            elif i in hashed:
                lookups = [Lookup(name, "hash", seed)]
            if i == last:
                tables.append(Table(f"{name}:last", further, 1))
                seed = lookup_seed(self.seed, name, "last")
                lookups.append(Lookup(f"{name}:last", "hash", seed))
            features.append(Feature(name, tuple(lookups)))
        dropped = tuple(n for n, d in self._widths(dims) if d == 0)
        policy = Policy(
            tuple(tables),
            tuple(features),
            dropped,
            {n: v for n, v in self.vocabularies.items() if n not in dropped},
            origin or {},
            codes={n: c for n, c in self.codes.items() if n not in dropped},
        )
        return self.allowance.typed(policy)

    def require_columns(self, params: int, least: int = 1) -> None:
        """PolicyError unless ``least`` columns of every feature fit into ``params``."""
        needed = self.size([least] * len(self.rows))
        if params and params < needed:
            raise PolicyError(
                f"a budget of {params} {self.allowance.unit} is less than {least} column(s) of "
                f"each of {len(self.rows)} tables of {sum(self.rows)} rows; the smallest feasible "
                f"budget is {needed}; raise it, or set address=hash"
            )

    def fill(
        self, weights: Sequence[float], params: int, most: Sequence[int], least: int = 1
    ) -> list[int]:
        """Widths in proportion to ``weights``, until no further column fits into ``params``.

        By highest averages: after ``least`` columns each, the next column goes to the largest
        ``weight / (width + 1)`` among the features it fits for (ties: the first), which is
        ``floor(lambda * weight)`` for the largest lambda that fits; more columns use up the rest.

        Args:
            weights: one per feature; a feature of weight 0 gets no column.
            params: floats, or bytes where the space counts them.
            most: largest width of each feature.
            least: smallest width of the features of weight above 0.

        Raises:
            PolicyError: ``least`` columns each do not fit.
        """
        dims = [min(least, m) if w > 0 else 0 for w, m in zip(weights, most, strict=True)]
        left = params - self.size(dims)
        if left < 0:
            raise PolicyError(
                f"a budget of {params} {self.allowance.unit}; {least} column(s) of each feature "
                f"that is kept take {self.size(dims)}; raise it, or set address=hash"
            )
        while True:
            room = [
                i
                for i, d in enumerate(dims)
                if weights[i] > 0 and d < most[i] and self.column(i, d) <= left
            ]
            if not room:
                return dims
            i = max(room, key=lambda i: (weights[i] / (dims[i] + 1), -i))
            left -= self.column(i, dims[i])
            dims[i] += 1

    def best_columns(
        self, scores: Sequence[Sequence[float]], params: int, least: int = 0
    ) -> list[int]:
        """Widths by one ranking of all columns: each that still fits is taken, the best first.

        Args:
            scores: for every feature the scores of its candidate columns.
            params: floats, or bytes where the space counts them.
            least: this many of every feature's best columns are taken before all others.
        """
        ranked = sorted(
            (rank >= least, -score, i)
            for i, row in enumerate(scores)
            for rank, score in enumerate(sorted(row, reverse=True))
        )
        dims, left = [0] * len(scores), params
        for _, _, i in ranked:
            if (cost := self.column(i, dims[i])) <= left:
                dims[i] += 1
                left -= cost
        return dims

    def origin(
        self, method: str, dims: Sequence[int], settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the policy records about where it came from."""
        widths = dict(self._widths(dims))
        told = without_unset(settings)
        return {**provenance(self.schema, method, seed=self.seed, **told), "dims": widths}


def fits_by_id(schema: Schema, budget: int | Allowance) -> bool:
    """Whether a row per training id leaves a mean width of ``LEAST_MEAN_WIDTH`` to the tables.

    In bytes the ids count.
    """
    allowance = allowance_of(budget)
    ids = sum(c.vocab_size or 0 for c in schema.features)
    rows = ids + len(schema.features)
    return rows * allowance.row(LEAST_MEAN_WIDTH) + allowance.ids(ids) <= allowance.amount


def open_space(
    data: DataSet, settings: SpaceSettings, seed: int, mean_dim: float | None = None
) -> Space:
    """The rows of every feature of a prepared data set, as ``settings`` say.

    Args:
        mean_dim: width at which hashed rows fill the budget; default ``max_dim / 2``.

    Raises:
        DataError: the data set has no vocabulary of a feature.
    """
    schema = data.schema
    names = [c.name for c in schema.features]
    exact = [(c.vocab_size or 0) + 1 for c in schema.features]
    if settings.id_bits != FULL_BITS and all(c.vocab_size is not None for c in schema.features):
        exact = [len(data.vocabulary(name, settings.id_bits)) + 1 for name in names]
    address = settings.address
    if address == "auto":
        fits = not settings.amount or fits_by_id(schema, settings.allowance)
        address = "id" if fits else "hash"
    most = max(exact)
    if address == "hash":
        mean = mean_dim or settings.max_dim / 2
        most = settings.hash_rows or _level(exact, settings.allowance, mean)
    rows = tuple(min(r, most) for r in exact)
    vocabularies = {
        name: data.vocabulary(name, settings.id_bits)
        for name, r in zip(names, exact, strict=True)
        if r <= most
    }
    counts = settings.allowance
    return Space(schema, rows, vocabularies, seed, settings.max_dim, allowance=counts)


def _level(exact: Sequence[int], allowance: Allowance, mean: float) -> int:
    """The largest m for which min(rows_f, m) rows per feature fit at the mean width, at least 1.

    In bytes the ids count of features that have a row for each.
    """

    def takes(most: int) -> float:
        rows = sum(min(r, most) for r in exact)
        if not allowance.in_bytes:
            return rows * mean
        return rows * allowance.row(math.ceil(mean)) + sum(
            allowance.ids(r - 1) for r in exact if r <= most
        )

    low, high = 1, max(exact)
    while low < high:
        middle = (low + high + 1) // 2
        if takes(middle) <= allowance.amount:
            low = middle
        else:
            high = middle - 1
    return low
