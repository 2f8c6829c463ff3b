"""A policy that takes part in a run-off."""

from __future__ import annotations

from dataclasses import dataclass

from seo_rec.policy import Policy


@dataclass(frozen=True)
class Candidate:
    """One policy of a run-off.

    Args:
        name: As it stands in files and reports.
        policy: At the budget already.
        searched: Whether a search decided it; the others are plain and need none.
        of_both_kinds: Whether it is the plain policy of shared chunks and rows by id side by side.
    """

    name: str
    policy: Policy
    searched: bool = False
    of_both_kinds: bool = False
