"""What a run-off came to, as ``policy.json`` and ``search.json`` say it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from seo_rec.search.run_off.contest import Contest
from seo_rec.search.run_off.crossed import crosses_of_candidate


def over_no_crosses(contest: Contest, names: Sequence[str], winner: str) -> dict[str, Any]:
    """The gain of a winner with crosses over the best finalist that has none."""
    without = [n for n in names if not crosses_of_candidate(contest.candidates[n])]
    best = max(without, key=lambda n: contest.scores[n]["val_auc"])
    gain, error = contest.gain(winner, best, twice=False)
    known = None if np.isnan(error) else error
    return {"over": best, "gain": gain, "standard_error": known}


def decision_of(
    contest: Contest, winner: str, best_plain: str, searched: Sequence[str]
) -> dict[str, Any]:
    """Who won: ``gain`` is the winner's validation AUC minus the one of ``against``."""
    decision: dict[str, Any] = {"winner": winner, "kind": "attention", "against": best_plain}
    scores = contest.scores
    if winner in searched:
        rivals = [n for n, c in contest.candidates.items() if not c.searched]
        decision |= {k: scores[winner][k] for k in ("gain", "standard_error")}
        decision["plain_candidates"] = sum("same_as" not in scores[n] for n in rivals)
        return decision
    decision["kind"] = "plain"
    best = max(searched, key=lambda n: scores[n]["gain"], default=None)
    if best is None:
        return {**decision, "against": None, "gain": None, "standard_error": None}
    error = scores[best]["standard_error"]
    return {**decision, "against": best, "gain": -scores[best]["gain"], "standard_error": error}
