"""Candidates with rows for the most frequent ids, and with rows that are stored in other types."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from seo_rec.data.crosses import CrossedData
from seo_rec.data.dataset import DataSet
from seo_rec.policy import Policy, PolicyError
from seo_rec.search.run_off import Candidate, RunOff, Shape, by_chunks
from seo_rec.search.run_off.crossed import CROSSES
from seo_rec.search.run_off.plain import EQUAL, by_frequency, by_id
from seo_rec.search.seo import selection
from seo_rec.search.seo.division import by_worth, by_worth_with_crosses
from seo_rec.search.seo.settings import SeoSettings

log = logging.getLogger(__name__)

NARROW = 2  # floats of a row, whose scale and offset take more than its numbers in int8


def by_counts(
    data: DataSet,
    alpha: torch.Tensor,
    worth: Sequence[float] | None,
    settings: SeoSettings,
    seed: int,
) -> list[Candidate]:
    """Rows for the most frequent ids, by one attention: of two widths, and by worth of features.

    What does not fit the budget is no candidate.

    Args:
        data: The data set.
        alpha: Attention, (F, C).
        worth: Of every feature; None: no candidate is made by it.
        settings: Budget, precision and widths.
        seed: Salt of the hash functions.
    """
    width, dim = settings.chunk_dim, settings.dim
    origin = {"chunk_dim": width}
    of_worth = f"seo-{width}-worth"
    makers: dict[str, Callable[[], Policy]] = {
        f"seo-{width}-frequent": lambda: selection.by_frequency(data, alpha, width, settings, seed),
        f"seo-{width}-frequent-{dim}": lambda: selection.by_frequency(
            data, alpha, dim, settings, seed
        ),
    }
    if worth is not None:
        makers[of_worth] = lambda: by_worth(data, worth, settings, seed)
    found = []
    for name, make in makers.items():
        try:
            found.append(Candidate(name, make(), True, origin, by_worth=name == of_worth))
        except PolicyError as error:
            log.info("%s is no candidate: %s", name, error)
    return found


def with_crosses_by_worth(
    wide: CrossedData, worth: Sequence[float] | None, settings: SeoSettings, seed: int
) -> list[Candidate]:
    """Rows and widths divided over columns and crosses by what each is worth, one candidate.

    There is no candidate where no cross gets rows, or where the budget is too small.

    Args:
        wide: The data with all proposed crosses.
        worth: Of every column and then of every cross; None: there is no candidate.
        settings: Budget, precision and widths.
        seed: Salt of the hash functions.
    """
    name = f"seo-{settings.chunk_dim}-worth-crosses"
    if worth is None:
        return []
    try:
        found = by_worth_with_crosses(wide, worth, settings, seed)
    except PolicyError as error:
        log.info("%s is no candidate: %s", name, error)
        return []
    if found is None:
        return []
    policy, taken = found
    names = [c.name for c in wide.schema.features]
    told = dict(zip(names, worth, strict=True))
    origin = {"chunk_dim": settings.chunk_dim, CROSSES: list(taken), "worth": told}
    return [Candidate(name, policy, True, origin, by_worth=True)]


def in_other_types(
    data: DataSet,
    alpha: torch.Tensor,
    worth: Sequence[float] | None,
    settings: SeoSettings,
    rules: RunOff,
    seed: int,
) -> list[Candidate]:
    """Leading kinds of policies with other rows than the others', in the same bytes.

    In int4: ``dim / chunk_dim`` shared chunks and one, rows for frequent ids, equal widths by id,
    and what the attention decides by counts. In float16: shared chunks of ``NARROW`` floats. The
    type follows the name of a candidate, as in ``trivial-2x8-int4``. What does not fit the budget
    is no candidate.

    Args:
        data: The data set.
        alpha: Attention of the settings' chunks, (F, C).
        worth: Of every feature; None: no candidate is made by it.
        settings: Budget in bytes, and widths.
        rules: Whether policies that store ids, and rows for frequent ids, may take part.
        seed: Salt of the hash functions.
    """
    small, half = (replace(settings, precision=precision) for precision in ("int4", "float16"))
    shape, wide = (
        Shape(of.allowance, of.dim, of.chunk_dim, of.search_dim, seed) for of in (small, half)
    )
    tried: list[tuple[str, Callable[[], Sequence[Candidate]]]] = [
        ("int4", partial(by_chunks, data.schema, shape, (1,))),
        ("float16", partial(_narrow, data, wide)),
    ]
    if rules.by_id:
        tried.append(("int4", partial(_equal_widths, data, shape)))
    if rules.by_id and rules.frequent:
        tried.append(("int4", partial(by_frequency, data, shape)))
        tried.append(("int4", partial(by_counts, data, alpha, worth, small, seed)))
    found = list[Candidate]()
    for precision, make in tried:
        try:
            found += [replace(c, name=f"{c.name}-{precision}") for c in make()]
        except PolicyError as error:
            log.info("no candidate in %s: %s", precision, error)
    return found


def _equal_widths(data: DataSet, shape: Shape) -> list[Candidate]:
    return [c for c in by_id(data, shape) if c.name.endswith(EQUAL)]


def _narrow(data: DataSet, shape: Shape) -> list[Candidate]:
    if shape.dim % NARROW:
        return []
    return by_chunks(data.schema, replace(shape, chunk_dim=NARROW), ())
