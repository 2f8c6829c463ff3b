"""The run-off between candidate policies on validation rows."""

from __future__ import annotations

from seo_rec.search.run_off.candidates import Candidate
from seo_rec.search.run_off.contest import Outcome, run_off
from seo_rec.search.run_off.plain import Shape, by_chunks, plain_candidates, side_by_side
from seo_rec.search.run_off.settings import RULE, RunOff

__all__ = [
    "RULE",
    "Candidate",
    "Outcome",
    "RunOff",
    "Shape",
    "by_chunks",
    "plain_candidates",
    "run_off",
    "side_by_side",
]
