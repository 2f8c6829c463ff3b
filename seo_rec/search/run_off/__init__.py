"""The run-off between candidate policies on validation rows.

In: candidates (a name, a policy, where it came from), the data, and how long each may train. Out:
:class:`Outcome`, the best policy and the scores of all. Begin with :func:`run_off`; with a limit
:mod:`~seo_rec.search.run_off.halving` trains in rounds, and only the better candidates go on.
:mod:`~seo_rec.search.run_off.plain` has candidates that need no search.
"""

from __future__ import annotations

from seo_rec.search.run_off.candidates import Candidate
from seo_rec.search.run_off.contest import whole_length
from seo_rec.search.run_off.crossed import crossed_candidates
from seo_rec.search.run_off.outcome import Outcome, run_off
from seo_rec.search.run_off.plain import Shape, by_chunks, plain_candidates, side_by_side
from seo_rec.search.run_off.proposals import PROPOSALS, Proposal, proposed
from seo_rec.search.run_off.schedule import (
    attention_epochs,
    has_few_steps,
    has_short_finals,
)
from seo_rec.search.run_off.settings import ROOM_FOR_ALL, RULE, SHORT_RULE, RunOff

__all__ = [
    "PROPOSALS",
    "ROOM_FOR_ALL",
    "RULE",
    "SHORT_RULE",
    "Candidate",
    "Outcome",
    "Proposal",
    "RunOff",
    "Shape",
    "attention_epochs",
    "by_chunks",
    "crossed_candidates",
    "has_few_steps",
    "has_short_finals",
    "plain_candidates",
    "proposed",
    "run_off",
    "side_by_side",
    "whole_length",
]
