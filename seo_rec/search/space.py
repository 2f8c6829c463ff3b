"""What searches of widths start from: the rows of every feature, and policies made of them.

Letters: F features, D one feature's width.

Every feature has a table of its own. How many rows it has is given, how wide it is gets searched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from seo_rec.data.dataset import DataSet
from seo_rec.methods import lookup_seed, provenance
from seo_rec.policy import Codes, Feature, Ids, Lookup, Policy, PolicyError, Table, split_rows
from seo_rec.schema import Schema

ADDRESSES = ("auto", "id", "hash")
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
    """

    params: int = 0
    max_dim: int = 16
    address: str = "auto"
    hash_rows: int = 0

    def __post_init__(self) -> None:
        require(self.params >= 0, "params", self.params, "0 (no budget) or more")
        require(1 <= self.max_dim <= 65536, "max_dim", self.max_dim, "1 to 65536")
        require(self.address in ADDRESSES, "address", self.address, ", ".join(ADDRESSES))
        require(self.hash_rows >= 0, "hash_rows", self.hash_rows, "0 or more")
        if self.hash_rows and self.address != "hash":
            raise ValueError(
                f"hash_rows {self.hash_rows} with address {self.address!r}; allowed: hash_rows "
                "only with address 'hash'"
            )
        if self.address == "hash" and not (self.hash_rows or self.params):
            raise ValueError("address 'hash' without a budget; give hash_rows, or params")


def require(holds: bool, name: str, got: object, allowed: str) -> None:
    """ValueError unless ``holds``; the message has the setting, its value and the allowed ones."""
    if not holds:
        raise ValueError(f"{name} is {got!r}; allowed: {allowed}")


@dataclass(frozen=True)
class Space:
    """Features, and the rows of the table of each; ``vocabularies`` of those addressed by id.

    ``max_dim``: the widest a feature may be; 0: no limit. ``codes``: of features that are hashed
    into more rows than their tables have, the row of each hash; each counts like a float.
    """

    schema: Schema
    rows: tuple[int, ...]
    vocabularies: Mapping[str, Ids]
    seed: int
    max_dim: int = 0
    codes: Mapping[str, Codes] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.schema.features)

    def size(self, dims: Sequence[int]) -> int:
        """Floats of the tables at widths ``dims``, and the codes of features of width 1 or more."""
        codes = sum(self.codes[n].size for n, d in self._widths(dims) if d and n in self.codes)
        return codes + sum(r * d for r, d in zip(self.rows, dims, strict=True))

    def _widths(self, dims: Sequence[int]) -> Iterator[tuple[str, int]]:
        return zip(self.names, dims, strict=True)

    def policy(
        self, dims: Sequence[int], params: int = 0, origin: Mapping[str, Any] | None = None
    ) -> Policy:
        """Tables of widths ``dims``; features of width 0 are dropped.

        If ``params`` is given, the rest of it is used up. Hashed tables, if there are any, take
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
            weights = [rows[i] * dims[i] for i in hashed]
            shared = split_rows(left + sum(weights), [dims[i] for i in hashed], weights)
            for i, r in zip(hashed, shared, strict=True):
                rows[i] = r
        room = [i for i in served if left < rows[i] and not dims[i] == self.max_dim > 0]
        last = min(room, key=lambda i: rows[i]) if left > 0 and room and not hashed else None
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
                tables.append(Table(f"{name}:last", left, 1))
                seed = lookup_seed(self.seed, name, "last")
                lookups.append(Lookup(f"{name}:last", "hash", seed))
            features.append(Feature(name, tuple(lookups)))
        dropped = tuple(n for n, d in self._widths(dims) if d == 0)
        return Policy(
            tuple(tables),
            tuple(features),
            dropped,
            {n: v for n, v in self.vocabularies.items() if n not in dropped},
            origin or {},
            codes={n: c for n, c in self.codes.items() if n not in dropped},
        )

    def require_columns(self, params: int, least: int = 1) -> None:
        """PolicyError unless ``least`` columns of every feature fit into ``params``."""
        needed = least * sum(self.rows)
        if params and params < needed:
            raise PolicyError(
                f"a budget of {params} parameters is less than {least} column(s) of each of "
                f"{len(self.rows)} tables of {sum(self.rows)} rows; the smallest feasible budget "
                f"is {needed}; raise it, or set address=hash"
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
            params: floats.
            most: largest width of each feature.
            least: smallest width of the features of weight above 0.

        Raises:
            PolicyError: ``least`` columns each do not fit.
        """
        dims = [min(least, m) if w > 0 else 0 for w, m in zip(weights, most, strict=True)]
        left = params - self.size(dims)
        if left < 0:
            raise PolicyError(
                f"a budget of {params} parameters; {least} column(s) of each feature that is kept "
                f"take {self.size(dims)}; raise it, or set address=hash"
            )
        while True:
            room = [
                i
                for i, d in enumerate(dims)
                if weights[i] > 0 and d < most[i] and self.rows[i] <= left
            ]
            if not room:
                return dims
            i = max(room, key=lambda i: (weights[i] / (dims[i] + 1), -i))
            dims[i] += 1
            left -= self.rows[i]

    def best_columns(
        self, scores: Sequence[Sequence[float]], params: int, least: int = 0
    ) -> list[int]:
        """Widths by one ranking of all columns: each that still fits is taken, the best first.

        Args:
            scores: for every feature the scores of its candidate columns.
            params: floats.
            least: this many of every feature's best columns are taken before all others.
        """
        ranked = sorted(
            (rank >= least, -score, i)
            for i, row in enumerate(scores)
            for rank, score in enumerate(sorted(row, reverse=True))
        )
        dims, left = [0] * len(scores), params
        for _, _, i in ranked:
            if self.rows[i] <= left:
                dims[i] += 1
                left -= self.rows[i]
        return dims

    def origin(
        self, method: str, dims: Sequence[int], settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the policy records about where it came from."""
        widths = dict(self._widths(dims))
        return {**provenance(self.schema, method, seed=self.seed, **settings), "dims": widths}


def fits_by_id(schema: Schema, params: int) -> bool:
    """Whether a row per training id leaves a mean width of ``LEAST_MEAN_WIDTH`` to the tables."""
    rows = sum((c.vocab_size or 0) + 1 for c in schema.features)
    return LEAST_MEAN_WIDTH * rows <= params


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
    address = settings.address
    if address == "auto":
        fits = not settings.params or fits_by_id(schema, settings.params)
        address = "id" if fits else "hash"
    most = max(exact)
    if address == "hash":
        budget = int(settings.params / (mean_dim or settings.max_dim / 2))
        most = settings.hash_rows or _level(exact, budget)
    rows = tuple(min(r, most) for r in exact)
    vocabularies = {
        name: data.vocabulary(name) for name, r in zip(names, exact, strict=True) if r <= most
    }
    return Space(schema, rows, vocabularies, seed, settings.max_dim)


def _level(exact: Sequence[int], budget: int) -> int:
    """The largest m with ``sum_f min(rows_f, m) <= budget``, at least 1."""
    low, high = 1, max(exact)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(r, middle) for r in exact) <= budget:
            low = middle
        else:
            high = middle - 1
    return low
