"""Successive halving: many candidates are trained a little, and the best of them longer.

Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization,
AISTATS 2016. A candidate that stays is trained anew and for longer, with the same seed, and so on
the same rows in the same order.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from seo_rec.search.progress import say
from seo_rec.search.run_off.crossed import crosses_of_candidate
from seo_rec.search.run_off.schedule import Length, Round, rounds, rows_of
from seo_rec.train.progress import duration

if TYPE_CHECKING:
    from seo_rec.search.run_off.contest import Contest


def survivors(
    auc: Mapping[str, float],
    searched: Collection[str],
    keep: int,
    family: Mapping[str, str],
    crossed: Collection[str] = (),
) -> list[str]:
    """The candidates that stay after a round, in their order.

    The first one stays, because it is the one to beat, and so do the best other plain one and the
    best searched one, so that the last round compares the two kinds. Some policies learn more
    slowly than others: crosses, whose ids are rare, and rows by id. So the best one with crosses
    stays as well, and then the best searched and the best plain one of every family, as far as
    there are places. The other places go to the highest AUC; ties go to the earlier candidate.

    Args:
        auc: Validation AUC of the candidates of the round.
        searched: The candidates that a search decided.
        keep: How many stay, 3 or more.
        family: Of every candidate (:attr:`Candidate.family`).
        crossed: The candidates that have crosses.
    """
    first, *others = auc
    ranked = sorted(others, key=lambda name: -auc[name])
    kinds = [[n for n in ranked if (n in searched) is kind] for kind in (False, True)]
    leaders = [name for kind in kinds for name in kind[:1]]
    leaders += [name for name in ranked if name in crossed][:1]
    for kind in reversed(kinds):
        best = dict.fromkeys(family[name] for name in kind)  # in the order of their best ones
        leaders += [next(n for n in kind if family[n] == one) for one in best]
    stay = {first}
    for name in (*leaders, *ranked):
        if len(stay) < keep:
            stay.add(name)
    return [name for name in auc if name in stay]


def halve(contest: Contest, spent: int) -> tuple[list[str], dict[str, Any]]:
    """Train all candidates in rounds; the names of the last round, and the record of the rounds.

    Afterwards the contest compares trainings of the length of the last round. The score of a
    candidate that left has the number of the ``round`` after which it did, and how far its AUC was
    ``behind`` the best one of that round.

    Args:
        contest: The candidates and their scores.
        spent: Rows that other parts of the search train on at most.
    """
    names, length, whole = contest.different(), contest.length(), contest.once
    cost = contest.settings.cost
    schedule = rounds(len(names), length, cost, spent)
    pace = _Pace(rows_of(schedule, length))
    say(
        f"{len(names)} candidates, on at most {cost:g} times the {length.whole:,} rows of one "
        f"training: {_told(schedule, length)}"
    )
    for number, stage in enumerate(schedule, 1):
        contest.set_length(replace(whole, fit=replace(whole.fit, max_steps=stage.steps)))
        contest.at_last = number == len(schedule)
        for count, name in enumerate(names, 1):
            score, fresh = contest.train(name)
            rows = length.rows(score["steps"])
            contest.scores[name].setdefault("curve", []).append([rows, score["val_auc"]])
            left = pace.after(length.rows(stage.steps), fresh)
            say(
                f"round {number} of {len(schedule)}, {count} of {len(names)}: {name}, validation "
                f"AUC {score['val_auc']:.5f}{'' if fresh else ' (kept from before)'}{left}"
            )
        if number < len(schedule):
            names = _leave(contest, names, number, schedule[number].candidates)
    record = {
        "limit": cost,
        "one_training": length.whole,
        "elsewhere": spent,
        "rounds": [
            {"candidates": s.candidates, "steps": s.steps, "rows": length.rows(s.steps)}
            for s in schedule
        ],
    }
    return names, record


def _leave(contest: Contest, names: Sequence[str], number: int, keep: int) -> list[str]:
    """Note who leaves after a round and why; the names that stay."""
    contest.compare(names, names[0])
    auc = {name: contest.scores[name]["val_auc"] for name in names}
    searched = [name for name in names if contest.candidates[name].searched]
    family = {name: contest.candidates[name].family for name in names}
    crossed = [name for name in names if crosses_of_candidate(contest.candidates[name])]
    stay = survivors(auc, searched, keep, family, crossed)
    out = sorted((n for n in names if n not in stay), key=lambda n: -auc[n])
    behind = {name: max(auc.values()) - auc[name] for name in out}
    for name in out:
        contest.scores[name] |= {"round": number, "behind": behind[name]}
    least, most = (min(behind.values()), max(behind.values())) if out else (0.0, 0.0)
    if out:
        say(
            f"out after round {number}: {', '.join(out)}; their validation AUC is {least:.5f} to "
            f"{most:.5f} below the best of the round (the plain candidate to beat and the best of "
            "each kind stay)"
        )
    return stay


def _told(schedule: Sequence[Round], length: Length) -> str:
    """The rounds in words."""
    often = {1: "each", 2: "twice each"}
    return ", then ".join(
        f"{s.candidates} of {length.rows(s.steps):,} rows {often[s.trainings]}" for s in schedule
    )


class _Pace:
    """How long the other trainings of a schedule will take, by the rows that they read."""

    def __init__(self, rows: int) -> None:
        self.left, self.measured, self.seconds = rows, 0, 0.0
        self._began = time.perf_counter()

    def after(self, rows: int, fresh: bool) -> str:
        """The end of a line about a training of so many rows; only fresh ones say something."""
        now = time.perf_counter()
        self.left -= rows
        if fresh:
            self.measured += rows
            self.seconds += now - self._began
        self._began = now
        if not self.measured or self.left <= 0:
            return ""
        return f"; about {duration(self.left * self.seconds / self.measured)} left"
