"""Policies that need no search, which a searched one has to beat in the run-off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seo_rec import methods
from seo_rec.model import ModelSettings
from seo_rec.policy import Feature, Policy
from seo_rec.schema import Schema, read_schema
from seo_rec.search import SEARCHES
from seo_rec.search.seo import SeoSettings
from seo_rec.search.space import fits_by_id
from seo_rec.train import FitSettings

MIXED = "mixed-dimension"
BOTH = f"trivial-{MIXED}-and-"  # how the name of a policy of both kinds begins


def by_chunks(
    schema: Schema, settings: SeoSettings, lookups: Sequence[int], seed: int
) -> dict[str, Policy]:
    """Every feature reads every chunk of ``k`` shared tables, for several k; by name.

    First is the k of the settings, ``dim / chunk_dim``.

    Raises:
        PolicyError: the budget is too small for one of them.
    """
    return {
        f"trivial-{k}x{settings.dim // k}": methods.multi_size(
            schema, settings.params, settings.dim, lookups=k, seed=seed
        )
        for k in dict.fromkeys((settings.dim // settings.chunk_dim, *lookups))
        if settings.dim % k == 0
    }


def by_id(data: Path, settings: SeoSettings, seed: int) -> dict[str, Policy]:
    """Every feature has a table of its own, with a row for every training id; by name.

    One of equal widths, and one of widths by popularity (mixed dimension), up to the widest that
    SEO can give a feature, ``search_dim``. None where they do not fit
    (:func:`seo_rec.search.space.fits_by_id`).
    """
    if not fits_by_id(read_schema(data), settings.params):
        return {}
    return {
        f"trivial-{method}": _widths(method, data, settings.params, settings, seed)
        for method in ("no-search", MIXED)
    }


def both(data: Path, settings: SeoSettings, seed: int) -> dict[str, Policy]:
    """Half the budget by id (mixed dimension), the rest in ``dim / chunk_dim`` shared tables.

    What a feature has of its own cannot collide, and what it shares makes it wider. None where
    half the budget is too little (:func:`seo_rec.search.space.fits_by_id`).
    """
    schema, half = read_schema(data), settings.params // 2
    if not fits_by_id(schema, half):
        return {}
    own = _widths(MIXED, data, half, settings, seed)
    k, rest = settings.dim // settings.chunk_dim, settings.params - own.num_params
    shared = methods.multi_size(schema, rest, settings.dim, lookups=k, seed=seed)
    name = f"{BOTH}{k}x{settings.chunk_dim}"
    method = name.removeprefix("trivial-")
    origin = methods.provenance(schema, method, params=settings.params, dim=settings.dim, seed=seed)
    return {name: side_by_side(own, shared, origin)}


def _widths(method: str, data: Path, params: int, settings: SeoSettings, seed: int) -> Policy:
    search = SEARCHES[method]
    widths = search.settings(params=params, max_dim=settings.search_dim, address="id")
    return search.run(data, widths, ModelSettings(), FitSettings(seed=seed)).policy


def side_by_side(own: Policy, shared: Policy, origin: Mapping[str, Any]) -> Policy:
    """Every feature reads what it reads in either policy, its own table first."""
    name = "own {}".format  # so that no feature's table has the name of a shared one
    features = tuple(
        Feature(f.name, (*(replace(k, table=name(k.table)) for k in f.lookups), *g.lookups))
        for f, g in zip(own.features, shared.features, strict=True)
    )
    tables = (*(replace(t, name=name(t.name)) for t in own.tables), *shared.tables)
    return Policy(tables, features, vocabularies=own.vocabularies, provenance=origin)
