"""The methods that look at columns and a budget alone, by the names that commands take.

A name is one of :data:`FAMILIES`, with ``multiplexed-`` before it where all features are to share
the tables, and with a number behind it where the method has one: ``pq-4``, ``multiplexed-robe-8``,
``hash-embedding-2-p0.1``. A new method is one function and one entry here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from seo_rec.methods.published import (
    Vocabularies,
    hash_embedding,
    hashed_net,
    hashing_trick,
    pq,
    qr,
    robe,
)
from seo_rec.methods.rows import collisionless, multi_size
from seo_rec.methods.sharing import MULTIPLEXED, PER_FEATURE, Sharing
from seo_rec.methods.tensor import tensor
from seo_rec.policy import Allowance, Policy
from seo_rec.policy.allowance import BudgetSettings
from seo_rec.schema import Schema


@dataclass(frozen=True)
class PlainSettings(BudgetSettings):
    """What a method without a search is told.

    Args:
        params: The budget in parameters, for methods that have one.
        dim: Width of a feature's embedding, floats.
        chunk_dim: Width of a table, floats, where the name of multi-size has no number.
        exact_below: Features with at most so many training ids keep a row per id; 0 for none.
        same_hash: Groups of features, by name, that take one set of hash functions.
        lookups: Rows that features read with multi-size, as user:4,hour:1; others dim / chunk_dim.
    """

    dim: int = 16
    chunk_dim: int = 8
    exact_below: int = 0
    same_hash: tuple[tuple[str, ...], ...] = ()
    lookups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is {self.dim}; allowed: 1 or more")
        if self.exact_below < 0:
            raise ValueError(f"exact_below is {self.exact_below}; allowed: 0 or more")
        super().__post_init__()


@dataclass(frozen=True)
class MethodFamily:
    """A function of :mod:`seo_rec.methods` and what may stand around its name.

    Args:
        make: The function: schema, budget, dim, then by name sharing, vocabularies and seed.
        sharing: Who shares tables; a name with ``multiplexed-`` before it sets that.
        number: The argument that a number behind the name sets; empty if the name takes none.
        label: How the number is called in lists of allowed names.
        has_multiplexed_form: Whether ``multiplexed-`` may stand before the name.
        needs_ids: Whether it needs the training ids of every feature that does not share tables.
        budgeted: Whether a budget decides its size; else its size follows from the data.
    """

    make: Callable[..., Policy]
    sharing: Sharing = PER_FEATURE
    number: str = ""
    label: str = "K"
    has_multiplexed_form: bool = False
    needs_ids: bool = False
    budgeted: bool = True


def _collisionless(
    schema: Schema,
    allowance: Allowance,
    dim: int,
    *,
    sharing: Sharing,
    vocabularies: Vocabularies,
    seed: int,
) -> Policy:
    return allowance.typed(collisionless(schema, dim, vocabularies))


FAMILIES: dict[str, MethodFamily] = {
    "separate": MethodFamily(hashing_trick, Sharing(rows="even")),
    "separate-cardinality": MethodFamily(hashing_trick),
    "monolithic": MethodFamily(hashing_trick, MULTIPLEXED),
    "multi-size": MethodFamily(multi_size, MULTIPLEXED, "lookups"),
    "collisionless": MethodFamily(_collisionless, needs_ids=True, budgeted=False),
    "hashing-trick": MethodFamily(hashing_trick, has_multiplexed_form=True),
    "hash-embedding": MethodFamily(hash_embedding, number="lookups", has_multiplexed_form=True),
    "hashednet": MethodFamily(hashed_net, has_multiplexed_form=True),
    "robe": MethodFamily(robe, number="block", label="Z", has_multiplexed_form=True),
    "pq": MethodFamily(pq, number="lookups", has_multiplexed_form=True),
    "qr": MethodFamily(qr, number="components", has_multiplexed_form=True, needs_ids=True),
    "tensor": MethodFamily(tensor, number="components", has_multiplexed_form=True),
}
_IMPORTANCE = "hash-embedding"  # the family whose names may end in a share of importance weights
_NAME = re.compile(
    rf"(?P<shared>multiplexed-)?(?P<family>{'|'.join(sorted(FAMILIES, key=len, reverse=True))})"
    r"(?:-(?P<number>[1-9][0-9]{0,4}))?(?:-p(?P<importance>0\.[0-9]{1,4}))?"
)


def _names() -> tuple[str, ...]:
    """The names that are allowed, a letter for a number, without the multiplexed forms."""
    found = []
    for name, family in FAMILIES.items():
        found.append(name)
        if family.number:
            found.append(f"{name}-{family.label}")
        if name == _IMPORTANCE:
            found.append(f"{name}-{family.label}-p0.1")
    return tuple(found)


METHOD_NAMES = _names()
# how a list of names ends, for people: the forms that METHOD_NAMES leaves out
MULTIPLEXED_NAMES = "and multiplexed- before " + ", ".join(
    name for name, family in FAMILIES.items() if family.has_multiplexed_form
)
METHOD_FAMILIES = tuple(FAMILIES)


@dataclass(frozen=True)
class NamedMethod:
    """A method as its name asks for it; see :func:`find_method`."""

    name: str
    family: str
    make: Callable[..., Policy]
    sharing: Sharing
    needs_ids: bool
    budgeted: bool
    has_number: bool

    @property
    def reads_chunk_dim(self) -> bool:
        """Whether the settings' ``chunk_dim`` says how many rows a feature reads."""
        return self.family == "multi-size" and not self.has_number

    def features_by_id(self, schema: Schema, settings: PlainSettings) -> tuple[str, ...]:
        """The features whose training ids :meth:`policy` has to be given."""
        return tuple(
            c.name
            for c in schema.features
            if (self.needs_ids and not self.sharing.multiplexed)
            or (c.vocab_size or 0) <= settings.exact_below
        )

    def policy(
        self, schema: Schema, settings: PlainSettings, vocabularies: Vocabularies, seed: int
    ) -> Policy:
        """The policy of the method for these columns.

        Args:
            schema: The data set.
            settings: Budget and widths.
            vocabularies: Sorted training ids of :meth:`features_by_id`, by feature.
            seed: Salt of the hash functions.

        Raises:
            PolicyError: The budget is infeasible, or the settings do not fit the method.
            ValueError: An unknown feature in ``same_hash``, or settings that would be ignored.
        """
        _check_same_hash(schema, settings)
        make = self.make
        if self.reads_chunk_dim:
            if settings.chunk_dim < 1 or settings.dim % settings.chunk_dim:
                raise ValueError(
                    f"chunk_dim {settings.chunk_dim}; allowed: a divisor of dim {settings.dim}"
                )
            make = partial(make, lookups=settings.dim // settings.chunk_dim)
        dim = settings.dim
        if settings.lookups:
            make, dim = self._with_lookups(schema, settings, make)
        sharing = replace(
            self.sharing, exact_below=settings.exact_below, same_hash=settings.same_hash
        )
        return make(
            schema,
            settings.allowance,
            dim,
            sharing=sharing,
            vocabularies=vocabularies,
            seed=seed,
        )

    def _with_lookups(
        self, schema: Schema, settings: PlainSettings, make: Callable[..., Policy]
    ) -> tuple[Callable[..., Policy], int]:
        """Multi-size with the numbers of ``settings.lookups``, and the width of the widest feature.

        A table is as wide as without them.
        """
        if self.family != "multi-size":
            raise ValueError(f"lookups with method {self.name}; allowed: with multi-size")
        assert isinstance(make, partial)  # by the number in the name, or by chunk_dim
        usual = make.keywords["lookups"]
        if settings.dim % usual:
            raise ValueError(f"dim {settings.dim}; allowed: a multiple of the {usual} lookups")
        names = [c.name for c in schema.features]
        reads = {**dict.fromkeys(names, usual), **_lookups_of(settings.lookups, names)}
        return partial(make, lookups=reads), settings.dim // usual * max(reads.values())


def _lookups_of(texts: tuple[str, ...], names: list[str]) -> dict[str, int]:
    """``("user:4", "hour:1")`` as numbers by feature."""
    found: dict[str, int] = {}
    for text in texts:
        name, _, number = text.rpartition(":")
        if name not in names or name in found or not re.fullmatch("[1-9][0-9]{0,3}", number):
            raise ValueError(
                f"lookups {text!r}; allowed: FEATURE:NUMBER, each feature once, with a number of "
                f"1 or more and a feature of {', '.join(names)}"
            )
        found[name] = int(number)
    return found


def find_method(name: str) -> NamedMethod | None:
    """The method called ``name``; None if no family takes that name."""
    read = _NAME.fullmatch(name)
    if read is None:
        return None
    family = FAMILIES[read["family"]]
    if (
        (read["number"] and not family.number)
        or (read["shared"] and not family.has_multiplexed_form)
        or (read["importance"] and read["family"] != _IMPORTANCE)
    ):
        return None
    make = family.make
    if read["number"]:
        make = partial(make, **{family.number: int(read["number"])})
    if read["importance"]:
        make = partial(make, importance=float(read["importance"]))
    return NamedMethod(
        name=name,
        family=read["family"],
        make=make,
        sharing=MULTIPLEXED if read["shared"] else family.sharing,
        needs_ids=family.needs_ids,
        budgeted=family.budgeted,
        has_number=read["number"] is not None,
    )


def _check_same_hash(schema: Schema, settings: PlainSettings) -> None:
    names = [c.name for c in schema.features]
    grouped = [name for group in settings.same_hash for name in group]
    if unknown := sorted(set(grouped) - set(names)):
        raise ValueError(f"same_hash names {unknown}; allowed: {', '.join(names)}")
    if twice := sorted({name for name in grouped if grouped.count(name) > 1}):
        raise ValueError(f"same_hash names {twice} twice; allowed: each feature once")
