"""Further plain candidates of a run-off by successive halving: one line each.

A method joins the run-off by a line of :data:`PROPOSALS`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from seo_rec import methods
from seo_rec.data.dataset import DataSet
from seo_rec.methods import PlainSettings, find_method
from seo_rec.methods.frequent import FrequentSettings
from seo_rec.policy import Policy, PolicyError
from seo_rec.search.by_counts import counts_of
from seo_rec.search.run_off.candidates import Candidate
from seo_rec.search.run_off.plain import Shape

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Proposal:
    """A plain policy that may take part in a run-off.

    Args:
        name: As it stands in files and reports, after ``trivial-``.
        make: The policy; PolicyError where the budget is too small, ValueError where the widths
            cannot be made.
        stores_ids: Whether it stores ids of the training rows.
    """

    name: str
    make: Callable[[DataSet, Shape], Policy]
    stores_ids: bool = False


def _named(name: str, data: DataSet, shape: Shape) -> Policy:
    """The policy of a method without a search, by the name that commands take."""
    method = find_method(name)
    assert method is not None
    settings = PlainSettings(**shape.allowance.to_json(), dim=shape.dim)
    known = data.vocabularies(method.features_by_id(data.schema, settings), shape.allowance.id_bits)
    return method.policy(data.schema, settings, known, shape.seed)


def _frequent(form: FrequentSettings, data: DataSet, shape: Shape) -> Policy:
    """``frequent`` in another form; widths count in sixteenths of the shape's ``dim``."""
    counts = counts_of(data, shape.allowance.id_bits)
    wanted = FrequentSettings(
        **shape.allowance.to_json(),
        dim=max(1, form.dim * shape.dim // 16),
        chosen=form.chosen,
        tail=form.tail,
        hot_dim=form.hot_dim * shape.dim // 16,
    )
    return methods.frequent(data.schema, counts, wanted, seed=shape.seed)


def _by_name(name: str) -> Proposal:
    return Proposal(name, partial(_named, name))


def _by_count(name: str, form: FrequentSettings) -> Proposal:
    return Proposal(f"frequent-{name}", partial(_frequent, form), stores_ids=True)


PROPOSALS: tuple[Proposal, ...] = (
    _by_name("separate"),
    _by_name("multiplexed-hash-embedding-2"),
    _by_count("quarter", FrequentSettings(dim=4)),
    _by_count("double", FrequentSettings(dim=32)),
    _by_count("per-feature", FrequentSettings(dim=16, chosen="per-feature")),
    _by_count("half-per-feature", FrequentSettings(dim=8, chosen="per-feature")),
    _by_count("hash", FrequentSettings(dim=16, tail="hash")),
    _by_count("half-hash", FrequentSettings(dim=8, tail="hash")),
    _by_count("bands", FrequentSettings(dim=8, tail="bands")),
    _by_count("two-widths", FrequentSettings(dim=4, hot_dim=12)),
)


def proposed(data: DataSet, shape: Shape, *, by_id: bool, frequent: bool) -> list[Candidate]:
    """The proposals that the budget has room for, as candidates.

    Args:
        data: The data set.
        shape: Their budget and widths.
        by_id: Whether policies that store ids may take part.
        frequent: Whether forms of ``frequent`` may.
    """
    found = []
    for proposal in PROPOSALS:
        if proposal.stores_ids and not (by_id and frequent):
            continue
        try:
            policy = proposal.make(data, shape)
        except (PolicyError, ValueError) as error:
            log.info("%s is no candidate: %s", proposal.name, error)
            continue
        found.append(Candidate(f"trivial-{proposal.name}", policy))
    return found
