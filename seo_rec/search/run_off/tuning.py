"""A joint choice of L2 and learning rates for each family of policies, before a run-off ranks them.

The ranking of policies depends on these settings, so that a run-off under settings that suit one
family misleads. The epochs need no choice: every training keeps its best one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from seo_rec.runs.decision import as_options
from seo_rec.search.progress import say
from seo_rec.search.run_off.candidates import Candidate
from seo_rec.search.run_off.contest import Contest
from seo_rec.search.run_off.schedule import Length
from seo_rec.settings import FitSettings

L2 = (0.0, 3e-4, 1e-3, 3e-3, 1e-2)  # besides the one that was given
RATES = (1.0, 2.5)  # times the rates that were given
LONGER = 2  # settings of a family that are tried longer
SHARE = 1 / 4  # of the limit of the search


@dataclass(frozen=True)
class Tuned:
    """What was chosen.

    Args:
        changes: Changed fields of the fit settings, by the name of the family.
        rows: Rows that the trainings read.
    """

    changes: Mapping[str, Mapping[str, float]]
    rows: int

    def of(self, candidate: Candidate) -> Mapping[str, float]:
        """The changes for a candidate."""
        return self.changes[candidate.family]


def grid(fit: FitSettings) -> list[dict[str, float]]:
    """All settings that are tried; the given ones first."""
    strengths = dict.fromkeys((fit.row_l2, *L2))
    return [
        {"row_l2": l2, "row_lr": rate * fit.row_lr, "dense_lr": rate * fit.dense_lr}
        for l2 in strengths
        for rate in RATES
    ]


def tuning_steps(length: Length, cost: float, families: int, settings: int) -> tuple[int, int]:
    """Steps of the trainings of all settings, and of the longer ones; half of the rows for each.

    Args:
        length: One whole training.
        cost: The limit of the search, in whole trainings.
        families: How many families are tuned.
        settings: How many settings are tried for each.
    """
    half = SHARE * cost * length.whole / 2 / families
    return length.steps_within(half / settings), length.steps_within(half / LONGER)


def tune(contest: Contest) -> Tuned:
    """The best settings of each family, by the validation AUC of its first candidate.

    All settings are tried on few rows, and the best ``LONGER`` of them anew on more.

    Args:
        contest: The candidates; one of plain policies first.
    """
    first: dict[str, Candidate] = {}
    for candidate in contest.candidates.values():
        first.setdefault(candidate.family, candidate)
    tried = grid(contest.once.fit)
    length, cost = contest.length(), contest.settings.cost
    steps = tuning_steps(length, cost, len(first), len(tried))
    changes: dict[str, Mapping[str, float]] = {}
    rows = 0
    for family, candidate in first.items():
        named = {f"{candidate.name}-l2-{c['row_l2']:g}-lr-{c['row_lr']:g}": c for c in tried}
        trials = contest.beside([Candidate(n, candidate.policy) for n in named], "tuning", named)
        best = _best(trials, _best(trials, list(named), steps[0])[:LONGER], steps[1])[0]
        changes[family] = named[best]
        say(f"settings of {family} candidates: {as_options(named[best])}")
        rows = trials.rows()  # of all families, which share the folder
    return Tuned(changes, rows)


def _best(trials: Contest, names: Sequence[str], steps: int) -> list[str]:
    """Candidates trained for so many steps, the highest validation AUC first."""
    whole = trials.once
    trials.set_length(replace(whole, fit=replace(whole.fit, max_steps=steps)))
    auc = {name: trials.train(name)[0]["val_auc"] for name in names}
    return sorted(auc, key=lambda name: -auc[name])
