"""The run-off: train every candidate, score it on validation rows, and name the winner."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seo_rec.data.dataset import DataSet
from seo_rec.search.run_off.candidates import Candidate
from seo_rec.search.run_off.contest import Contest
from seo_rec.search.run_off.crossed import crosses_of_candidate
from seo_rec.search.run_off.halving import halve
from seo_rec.search.run_off.kept import Score
from seo_rec.search.run_off.settings import RunOff
from seo_rec.search.run_off.tuning import tune
from seo_rec.search.run_off.verdict import decision_of, over_no_crosses
from seo_rec.train import Training, ranks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a run-off came to.

    Args:
        winner: The candidate that won.
        scores: AUC, size, cost and gain of every candidate, by its name; JSON values.
        decision: Who won against whom and by how much; JSON values.
        seconds: Time of all trainings, earlier sessions included.
        rounds: What the rounds of successive halving came to; None if there were none. JSON values.
        last: The candidates that were compared at the end.
    """

    winner: Candidate
    scores: dict[str, Score]
    decision: dict[str, Any]
    seconds: float
    rounds: dict[str, Any] | None = None
    last: tuple[str, ...] = ()


def run_off(
    data: DataSet,
    candidates: Sequence[Candidate],
    settings: RunOff,
    training: Training,
    folder: Path,
    spent: int = 0,
) -> Outcome:
    """Train every candidate, score it on validation rows, and name the winner.

    Equal policies are trained once. With ``settings.cost`` candidates are trained in rounds of
    successive halving (:func:`seo_rec.search.run_off.halving.halve`), and what follows holds for
    the candidates of the last one, of which the best one of shared chunks is the first to beat;
    without, every candidate is trained in full.

    The first to beat wins unless another plain candidate, and then a searched one, beats the winner
    so far by ``standard_errors`` of the paired difference, and, without a limit, does so still on
    the mean of two trainings when both are trained once more with another seed.

    Args:
        data: The data set.
        candidates: Plain ones first.
        settings: Length of the trainings, and how clearly a candidate must win.
        training: How the candidates are trained.
        folder: Where scores are kept; an interrupted run-off goes on from them.
        spent: Rows that the search has trained on, which count towards ``settings.cost``.
    """
    contest = Contest(data, candidates, settings, training, folder)
    tuned = tune(contest) if settings.tune else None
    if tuned:
        contest.changes = {c.name: tuned.of(c) for c in candidates}
        spent += tuned.rows
    if settings.cost:
        names, record = halve(contest, spent)
        contest.forget_trainings()
    else:
        names, record = contest.train_all(), None
    searched = [n for n in names if contest.candidates[n].searched]
    plain = [n for n in names if not contest.candidates[n].searched]
    first = plain[0] if settings.cost else contest.first_to_beat(plain)
    best_plain = contest.best_of(plain, first)
    winner = contest.best_of(searched, best_plain)
    if ranks().first:
        log.info("the run-off chose %s", winner)
    if record:
        record["rows"] = contest.rows()
        if tuned:
            record["tuned"] = {name: dict(values) for name, values in tuned.changes.items()}
    decision = decision_of(contest, winner, best_plain, searched)
    if taken := crosses_of_candidate(contest.candidates[winner]):
        decision["crosses"] = {"taken": list(taken), **over_no_crosses(contest, names, winner)}
    if winner in contest.changes:
        decision["settings"] = dict(contest.changes[winner])
    return Outcome(
        contest.candidates[winner],
        contest.scores,
        decision,
        contest.seconds(),
        record,
        tuple(names),
    )
