"""Plain policies, which need no search, and which a searched one has to beat in the run-off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from seo_rec import methods
from seo_rec.data.dataset import DataSet
from seo_rec.methods.frequent import FrequentSettings
from seo_rec.policy import Allowance, Feature, Policy, allowance_of
from seo_rec.schema import Schema
from seo_rec.search.by_counts import counts_of
from seo_rec.search.mixed_dimension import MixedDimensionSettings, mixed_dimension
from seo_rec.search.no_search import NoSearchSettings, no_search
from seo_rec.search.run_off.candidates import Candidate
from seo_rec.search.run_off.settings import RunOff
from seo_rec.search.space import fits_by_id
from seo_rec.train import FitSettings, Training

MIXED = "mixed-dimension"
EQUAL = "no-search"


@dataclass(frozen=True)
class Shape:
    """The sizes that plain candidates share with the search they stand against.

    Args:
        params: The budget: floats, or an allowance in bytes with the precision.
        dim: Width of a feature's embedding.
        chunk_dim: Width of a chunk.
        widest: The widest that the search can make a feature.
        seed: Salt of the hash functions.
    """

    params: int | Allowance
    dim: int
    chunk_dim: int
    widest: int
    seed: int

    @property
    def allowance(self) -> Allowance:
        """The budget, counted in floats or in bytes, and the precision."""
        return allowance_of(self.params)


def plain_candidates(data: DataSet, shape: Shape, settings: RunOff) -> list[Candidate]:
    """All plain candidates, the first to beat at the front.

    Args:
        data: The data set.
        shape: Their budget and widths.
        settings: Which kinds of policies are tried.

    Raises:
        PolicyError: The budget is too small for one of them.
    """
    found = by_chunks(data.schema, shape, settings.trivial_lookups)
    if not settings.by_id:
        return found
    often = by_frequency(data, shape) if settings.frequent else []
    return [*found, *both(data, shape), *by_id(data, shape), *often]


def by_chunks(schema: Schema, shape: Shape, lookups: Sequence[int]) -> list[Candidate]:
    """Every feature reads every chunk of ``k`` shared tables, for several k.

    First is the k of the shape, ``dim / chunk_dim``.

    Raises:
        PolicyError: The budget is too small for one of them.
    """
    return [
        Candidate(
            f"trivial-{k}x{shape.dim // k}",
            methods.multi_size(schema, shape.allowance, shape.dim, lookups=k, seed=shape.seed),
            shared=True,
        )
        for k in dict.fromkeys((shape.dim // shape.chunk_dim, *lookups))
        if shape.dim % k == 0
    ]


def by_id(data: DataSet, shape: Shape) -> list[Candidate]:
    """Every feature has a table of its own, with a row for every training id.

    One policy of equal widths, and one of widths by popularity (mixed dimension), up to the widest
    that the search can make a feature. None where they do not fit
    (:func:`seo_rec.search.space.fits_by_id`).
    """
    if not fits_by_id(data.schema, shape.allowance):
        return []
    return [
        Candidate(f"trivial-{kind}", _widths(kind, data, shape, shape.allowance))
        for kind in (EQUAL, MIXED)
    ]


def by_frequency(data: DataSet, shape: Shape) -> list[Candidate]:
    """Rows for the most frequent ids of all features, ``dim`` wide and ``chunk_dim`` wide.

    A width is left out where the row that all other ids share does not fit.
    """
    counts = counts_of(data, shape.allowance.id_bits)
    found = []
    for width in dict.fromkeys((shape.dim, shape.chunk_dim)):
        if len(counts) * shape.allowance.row(width) <= shape.allowance.amount:
            wanted = FrequentSettings(**shape.allowance.to_json(), dim=width)
            policy = methods.frequent(data.schema, counts, wanted, seed=shape.seed)
            found.append(Candidate(f"trivial-frequent-{width}", policy))
    return found


def both(data: DataSet, shape: Shape) -> list[Candidate]:
    """Half the budget by id (mixed dimension), the rest in ``dim / chunk_dim`` shared tables.

    What a feature has of its own cannot collide, and what it shares makes it wider. None where
    half the budget is too little (:func:`seo_rec.search.space.fits_by_id`).
    """
    whole = shape.allowance
    half = whole.with_amount(whole.amount // 2)
    if not fits_by_id(data.schema, half):
        return []
    own = _widths(MIXED, data, shape, half)
    k, rest = shape.dim // shape.chunk_dim, whole.with_amount(whole.amount - whole.of(own))
    shared = methods.multi_size(data.schema, rest, shape.dim, lookups=k, seed=shape.seed)
    method = f"{MIXED}-and-{k}x{shape.chunk_dim}"
    origin = methods.provenance(
        data.schema, method, **whole.to_json(), dim=shape.dim, seed=shape.seed
    )
    policy = side_by_side(own, shared, origin)
    return [Candidate(f"trivial-{method}", policy, of_both_kinds=True)]


def _widths(kind: str, data: DataSet, shape: Shape, allowance: Allowance) -> Policy:
    training = Training(fit=FitSettings(seed=shape.seed))
    sizes = {"max_dim": shape.widest, "address": "id", **allowance.to_json()}
    if kind == EQUAL:
        return no_search(data, NoSearchSettings(**sizes), training).policy
    return mixed_dimension(data, MixedDimensionSettings(**sizes), training).policy


def side_by_side(own: Policy, shared: Policy, origin: Mapping[str, Any]) -> Policy:
    """Every feature reads what it reads in either policy, its own table first."""
    name = "own {}".format  # so that no feature's table has the name of a shared one
    features = tuple(
        Feature(
            f.name,
            (*(replace(k, table=name(k.table)) for k in f.lookups), *g.lookups),
            id_bits=f.id_bits,
        )
        for f, g in zip(own.features, shared.features, strict=True)
    )
    tables = (*(replace(t, name=name(t.name)) for t in own.tables), *shared.tables)
    return Policy(tables, features, vocabularies=own.vocabularies, provenance=origin)
