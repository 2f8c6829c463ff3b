"""Candidates that have crosses of columns as further features, inside the same budget."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from seo_rec import methods
from seo_rec.data.crosses import CrossedData
from seo_rec.methods.frequent import FrequentSettings
from seo_rec.policy import Policy, PolicyError
from seo_rec.search.by_counts import counts_of
from seo_rec.search.run_off.candidates import Candidate
from seo_rec.search.run_off.plain import Shape

log = logging.getLogger(__name__)

FEW = 3  # so many crosses, or fewer: every number of them is tried
CROSSES = "crosses"  # of a candidate's origin: the names of its crosses


def numbers_of(proposed: int) -> list[int]:
    """How many of the proposed crosses candidates have: 2, 4, 8, ... and all, or 1 to 3."""
    if proposed <= FEW:
        return list(range(1, proposed + 1))
    return [*(2**i for i in range(1, proposed.bit_length()) if 2**i < proposed), proposed]


def crossed_candidates(wide: CrossedData, shape: Shape, *, by_id: bool) -> list[Candidate]:
    """Policies of the columns and the first crosses, for several numbers of crosses.

    Rows for the most frequent ids, ``dim / 2`` and ``dim / 4`` wide, and ``multi-size`` with ``dim
    / chunk_dim`` lookups. A policy that does not fit the budget is no candidate. They count as
    searched, since crosses are proposed by what they say about training rows.

    Args:
        wide: The data with all proposed crosses, the best first.
        shape: Budget and widths.
        by_id: Whether policies that store ids may take part.
    """
    k, widths = shape.dim // shape.chunk_dim, dict.fromkeys((shape.dim // 2, shape.dim // 4))
    found = []
    for number in numbers_of(len(wide.crosses)):
        part = wide.only(wide.crosses[:number])
        made: dict[str, Callable[[], Policy]] = {f"{k}x{shape.chunk_dim}": _shared(part, shape, k)}
        if by_id:
            made |= {f"frequent-{w}": _frequent(part, shape, w) for w in widths if w}
        origin = {CROSSES: [c.name for c in part.crosses]}
        for name, make in made.items():
            try:
                policy = make()
            except PolicyError as error:
                log.info("crosses-%d-%s is no candidate: %s", number, name, error)
                continue
            found.append(Candidate(f"crosses-{number}-{name}", policy, True, origin))
    return found


def _shared(data: CrossedData, shape: Shape, lookups: int) -> Callable[[], Policy]:
    return lambda: methods.multi_size(
        data.schema, shape.allowance, shape.dim, lookups=lookups, seed=shape.seed
    )


def _frequent(data: CrossedData, shape: Shape, width: int) -> Callable[[], Policy]:
    counts = counts_of(data, shape.allowance.id_bits)
    wanted = FrequentSettings(**shape.allowance.to_json(), dim=width)
    return lambda: methods.frequent(data.schema, counts, wanted, seed=shape.seed)


def crosses_of_candidate(candidate: Candidate) -> Sequence[str]:
    """The names of the crosses that a candidate has as features."""
    named: Any = candidate.origin.get(CROSSES, ())
    return tuple(named)
