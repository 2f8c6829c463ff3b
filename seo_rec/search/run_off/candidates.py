"""A policy that takes part in a run-off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seo_rec.policy import Policy


@dataclass(frozen=True)
class Candidate:
    """One policy of a run-off.

    Args:
        name: As it stands in files and reports.
        policy: At the budget already.
        searched: Whether a search decided it; the others are plain and need none.
        origin: What was searched and how it was applied, JSON values, for reports.
        shared: Whether it is a plain policy of hashed chunks that all features share, of which the
            best one is the one to beat at the end of a limited run-off.
        of_both_kinds: Whether it is the plain policy of shared chunks and rows by id side by side.
        by_worth: Whether rows and widths are divided by what every feature is worth to a model; the
            best one of these without crosses is among the finalists of a limited run-off, too.
    """

    name: str
    policy: Policy
    searched: bool = False
    origin: Mapping[str, Any] = field(default_factory=dict)
    shared: bool = False
    of_both_kinds: bool = False
    by_worth: bool = False

    @property
    def family(self) -> str:
        """``by-id`` where the policy stores ids, whose rows are of one id mostly, else ``hashed``.

        Policies of one family learn about equally fast, and are trained with the same settings.
        """
        return "by-id" if self.policy.vocabularies else "hashed"
