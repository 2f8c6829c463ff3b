"""Who shares what: each feature alone or all together, some features exact, one budget.

A method says what tables a *group* of features needs and how a feature of it looks them up. The
one switch between a method and its multiplexed form is what the groups are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from seo_rec.methods.origin import lookup_seed, provenance
from seo_rec.policy import (
    Allowance,
    Array,
    Feature,
    Ids,
    Lookup,
    Policy,
    PolicyError,
    Table,
    allowance_of,
    split_rows,
)
from seo_rec.schema import Column, Schema

ROW_RULES = ("even", "cardinality")
SHARED = "shared"  # the name of the group of all features


@dataclass(frozen=True)
class Sharing:
    """How the features of a method share tables, rows and hash functions.

    Args:
        multiplexed: all features in one set of tables, each with hash functions of its own; else
            every feature has tables of its own.
        rows: how features that do not share divide the budget: ``cardinality`` in proportion to
            their vocabularies, or ``even``.
        exact_below: features with at most so many training ids keep a row per id (and one for
            unknown ids), of the width ``dim``, outside of what the method does.
        same_hash: groups of features, by name, that take one set of hash functions, since their
            vocabularies are the same; for multiplexed features only, whose rows they then share.
    """

    multiplexed: bool = False
    rows: str = "cardinality"
    exact_below: int = 0
    same_hash: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.rows not in ROW_RULES:
            raise PolicyError(f"rows={self.rows!r}; allowed: {', '.join(ROW_RULES)}")
        if self.multiplexed and self.rows != "cardinality":
            raise PolicyError("multiplexed features do not divide rows; leave out rows='even'")
        named = [name for names in self.same_hash for name in names]
        if len(set(named)) < len(named):
            raise PolicyError(f"same_hash names a feature twice: {named}")

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "same_hash": [list(names) for names in self.same_hash]}


PER_FEATURE = Sharing()
MULTIPLEXED = Sharing(multiplexed=True)


@dataclass(frozen=True)
class Group:
    """Features that share their tables, the tables' name, and the group's weight in the budget."""

    name: str
    columns: tuple[Column, ...]
    weight: int


class Division:
    """A schema divided into groups that a method serves and features that stay exact.

    Args:
        schema: the data set.
        dim: width of the exact tables.
        sharing: how.
        vocabularies: sorted training ids, of the exact features at least.

    Raises:
        PolicyError: a vocabulary is lacking, or ``same_hash`` names a feature that is unknown or
            exact, or no tables are shared.
    """

    def __init__(
        self,
        schema: Schema,
        dim: int,
        sharing: Sharing,
        vocabularies: Mapping[str, Ids] | None,
    ) -> None:
        self.schema, self.dim, self.sharing = schema, dim, sharing
        self.vocabularies = vocabularies or {}
        self.exact = [c for c in schema.features if (c.vocab_size or 0) <= sharing.exact_below]
        self.exact = self.exact if sharing.exact_below else []
        self.require_vocabularies(self.exact, f"exact_below={sharing.exact_below}")
        others = [c for c in schema.features if c not in self.exact]
        weights = [1 if sharing.rows == "even" else max(1, c.vocab_size or 0) for c in others]
        if sharing.multiplexed and others:
            self.groups = [Group(SHARED, tuple(others), 1)]
        else:
            self.groups = [Group(c.name, (c,), w) for c, w in zip(others, weights, strict=True)]
        if sharing.same_hash and not sharing.multiplexed:
            raise PolicyError(
                "same_hash where no two features share a table would change nothing; allowed with "
                "multiplexed methods"
            )
        names = [c.name for c in schema.features]
        self._hash_of = {n: n for n in names}
        for same in sharing.same_hash:
            if unknown := sorted(set(same) - set(names)):
                raise PolicyError(f"same_hash names {unknown}; the features are {names}")
            if kept := sorted(set(same) & {c.name for c in self.exact}):
                raise PolicyError(
                    f"same_hash names {kept}, which exact_below={sharing.exact_below} gives a row "
                    "per id; leave them out of one of the two"
                )
            self._hash_of |= dict.fromkeys(same, same[0])

    def fixed(self, allowance: Allowance) -> int:
        """What the exact tables take, and in bytes their ids."""
        sizes = [len(self.vocabularies[c.name]) for c in self.exact]
        return sum((n + 1) * allowance.row(self.dim) + allowance.ids(n) for n in sizes)

    def require_vocabularies(self, columns: Sequence[Column], why: str) -> None:
        if missing := [c.name for c in columns if c.name not in self.vocabularies]:
            raise PolicyError(
                f"{why} needs the training ids of {missing}; give vocabularies "
                "(`read_vocabulary`) of these features"
            )

    def rows(
        self,
        budget: int | Allowance,
        dims: Sequence[int],
        weights: Sequence[float],
        least: Sequence[int] | None = None,
        ids: int = 0,
        besides: int = 0,
    ) -> list[int]:
        """Rows of tables of widths ``dims`` that fill what the exact tables leave of the budget.

        Args:
            budget: A number of floats, or an allowance.
            dims: Width of each table.
            weights: The share of each table, counted in floats; the ratio of the rows of any two
                tables is the same in floats and in bytes.
            least: Rows that each table has at least, in place of one.
            ids: Ids that the policy stores besides the ids of the exact features.
            besides: Floats (or bytes) of the budget that are taken by what is no table.

        Raises:
            PolicyError: The budget is too small; the message ends with the smallest one.
        """
        allowance = allowance_of(budget)
        costs = [allowance.row(d) for d in dims]
        shares = [Fraction(w) * c / d for w, c, d in zip(weights, costs, dims, strict=True)]
        return self._split(allowance, costs, shares, least, allowance.ids(ids) + besides)

    def floats(
        self, budget: int | Allowance, weights: Sequence[float], least: Sequence[int]
    ) -> list[int]:
        """Sizes of flat arrays, as :meth:`rows` has the rows of tables."""
        allowance = allowance_of(budget)
        cost, floats, fixed = allowance.flat()
        parts = [-(-n // floats) for n in least]
        costs = [cost] * len(least)
        found = self._split(allowance, costs, weights, parts, fixed * len(least))
        return [floats * n for n in found]

    def _split(
        self,
        allowance: Allowance,
        costs: Sequence[int],
        weights: Sequence[float | Fraction],
        least: Sequence[int] | None,
        besides: int,
    ) -> list[int]:
        least = [1] * len(costs) if least is None else least
        besides += (exact := self.fixed(allowance))
        smallest = besides + sum(n * c for n, c in zip(least, costs, strict=True))
        if allowance.amount < smallest:
            of_exact = f", {exact} of them for exact tables" if self.exact else ""
            raise PolicyError(
                f"a budget of {allowance} is too small for {len(costs)} tables of "
                f"{min(least, default=1)} rows or more{of_exact}; the smallest feasible budget is "
                f"{smallest}"
            )
        return split_rows(allowance.amount - besides, costs, weights, least) if costs else []

    def tables(
        self, budget: int | Allowance, wanted: Sequence[tuple[str, int, float]]
    ) -> tuple[Table, ...]:
        """Tables (name, dim, weight in floats) that fill the budget."""
        rows = self.rows(budget, [d for _, d, _ in wanted], [w for _, _, w in wanted])
        return tuple(Table(n, r, d) for (n, d, _), r in zip(wanted, rows, strict=True))

    def seed(self, column: Column, seed: int, lookup: object) -> int:
        """The seed of a feature's hash number ``lookup``."""
        return lookup_seed(seed, self._hash_of[column.name], lookup)

    def form(self, method: str) -> str:
        """The name of the form of a method that this division makes of it."""
        return f"multiplexed-{method}" if self.sharing.multiplexed else method

    def policy(
        self,
        method: str,
        arguments: Mapping[str, Any],
        tables: Sequence[Table],
        features: Sequence[Feature],
        arrays: Sequence[Array] = (),
    ) -> Policy:
        """The method's tables and features, and the exact ones, in the order of the schema.

        ``params`` among the arguments is the budget, whose precision all tables and arrays get.
        """
        told = dict(arguments)
        allowance = allowance_of(told.pop("params"))
        exact_tables = [
            Table(c.name, len(self.vocabularies[c.name]) + 1, self.dim) for c in self.exact
        ]
        exact_features = [Feature(c.name, (Lookup(c.name, "id"),)) for c in self.exact]
        by_name = {f.name: f for f in (*features, *exact_features)}
        ordered = tuple(by_name[c.name] for c in self.schema.features)
        needed = [f.name for f in ordered if any(_needs_ids(k) for k in f.all_lookups)]
        origin = provenance(
            self.schema,
            method,
            **allowance.to_json(),
            **told,
            sharing=self.sharing.to_json(),
        )
        policy = Policy(
            (*tables, *exact_tables),
            ordered,
            vocabularies={n: self.vocabularies[n] for n in needed},
            provenance=origin,
            arrays=tuple(arrays),
        )
        return allowance.typed(policy)


def _needs_ids(lookup: Lookup) -> bool:
    return lookup.address in ("id", "quotient", "remainder")
