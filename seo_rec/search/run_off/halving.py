"""Successive halving: many candidates are trained a little, and the best of them longer.

Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization,
AISTATS 2016. After a short training of all candidates the best begin their whole training, and
ever fewer of them go on with it, to its end: the answer is not one that leads only in short
trainings. All have the same seed, and so read the same rows in the same order.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from seo_rec.search.progress import say
from seo_rec.search.run_off.claims import Kinds, after_finals, after_screening, kinds_of
from seo_rec.search.run_off.contest import Contest
from seo_rec.search.run_off.schedule import Length, Schedule, early_steps, rounds
from seo_rec.settings import settled
from seo_rec.train.progress import duration


class _Rounds:
    """The rounds of one contest: what was read, and what will be."""

    def __init__(self, contest: Contest, names: Sequence[str], spent: int) -> None:
        self.contest, self.whole = contest, contest.once
        self.length, self.cost = contest.length(), contest.settings.cost
        self.goes_on = self.whole.fit.schedule == "constant"  # a cosine depends on the end
        self.schedule = rounds(
            len(names),
            self.length,
            self.cost,
            spent,
            goes_on=self.goes_on,
            early=early_steps(settled(self.whole.fit, contest.floats)),
        )
        self.pace = _Pace(self.schedule.rows)
        self.read = 0

    def begin(self, number: int) -> None:
        """The trainings of this round follow; those of the last one are as any training is."""
        stages, fit = self.schedule.rounds, self.whole.fit
        steps, screening = stages[number - 1].steps, stages[number - 1] is self.schedule.screening
        once = replace(self.whole, fit=replace(fit, max_steps=steps))
        if steps == self.length.steps:
            once = self.whole
        finals = len(self.schedule.finals)
        self.contest.set_length(once, short=screening, goes_on=not screening and finals > 1)
        self.contest.at_last = number == len(stages)

    def train(self, name: str, number: int, count: int, among: int) -> None:
        """Train a candidate in a round, note where it stands, and say so."""
        begun = self.length.rows(self.contest.begun(name))
        score, fresh = self.contest.train(name)
        rows = self.length.rows(score["steps"])
        self.read += rows - begun
        self.contest.scores[name].setdefault("curve", []).append([rows, score["val_auc"]])
        left = self.pace.after(rows - begun, fresh)
        say(
            f"round {number} of {len(self.schedule.rounds)}, {count} of {among}: {name}, "
            f"validation AUC {score['val_auc']:.5f}{'' if fresh else ' (kept from before)'}{left}"
        )

    def end_of(self, name: str) -> int:
        """Steps of a training of the last round in the rows that are left; 0 if they are too few.

        A training that can go on may end with any epoch after the round before the last one: most
        stop early by themselves. Its AUC is that of its best epoch, and so at most too low.
        """
        *others, last = self.schedule.rounds
        left = self.schedule.rows - self.read + self.length.rows(self.contest.begun(name))
        if self.length.rows(last.steps) <= left:
            return last.steps
        if not (self.goes_on and others):
            return 0
        steps = int(left // self.length.rows_per_epoch) * self.length.steps_per_epoch
        return steps if steps > others[-1].steps else 0

    def all(self, names: Sequence[str]) -> list[str]:
        """Train in all rounds; the names of the last one, the safe one first.

        Where trainings stopped early, rows are left. Then more than planned take part in the last
        round: shapes of shared chunks first, of which the best one is to be beaten, and then those
        that left most recently.
        """
        stages, contest = self.schedule.rounds, self.contest
        order, before, waiting = list(names), list(names), list[str]()
        for number, stage in enumerate(stages, 1):
            self.begin(number)
            last, now = number == len(stages), order[: stage.candidates]
            if not last:
                now = [name for name in names if name in now]
                _note(contest, before, now, number - 1)
            for count, name in enumerate(now, 1):
                self.train(name, number, count, len(now))
            if last:
                now += self.more([*order[len(now) :], *waiting], len(now))
                _note(contest, before, now, number - 1)
                return _ordered(contest, now)
            if stage is self.schedule.screening:
                order = _screened(contest, now, few_steps=self.schedule.few_steps)
            else:
                ending = number + 1 == len(stages)
                waiting = [*order[stage.candidates :], *waiting] if number > 1 else []
                order = _ordered(contest, now, stages[number].candidates, last=ending)
            before = now
        return order

    def more(self, waiting: Sequence[str], count: int) -> list[str]:
        """Those of the waiting candidates that are trained to the end in the rows that are left.

        A candidate that had left takes part in all rounds that it missed.
        """
        found = list[str]()
        number = len(self.schedule.rounds)
        shared = _kinds(self.contest, waiting)[1].shared if waiting else ()
        for name in sorted(waiting, key=lambda name: name not in shared):
            if not (end := self.end_of(name)):
                continue
            found.append(name)
            if end < self.schedule.rounds[-1].steps:
                self.contest.ends[name] = end
            score = self.contest.scores[name]
            if score.pop("round", None):
                del score["behind"]
                say(f"{name} is back, because trainings stopped early and rows are left")
            for missed in range(len(score["curve"]) + 1, number + 1):
                self.begin(missed)
                self.train(name, missed, count + len(found), count + len(found))
        return found


def halve(contest: Contest, spent: int) -> tuple[list[str], dict[str, Any]]:
    """Train all candidates in rounds; the names of the last round, and the record of the rounds.

    Afterwards the contest compares trainings of the length of the last round, and the first name is
    the safe one: the best plain policy of shared chunks. The score of a
    candidate that left has the number of the ``round`` after which it did, and how far its AUC was
    ``behind`` the best one of that round.

    Args:
        contest: The candidates and their scores.
        spent: Rows that other parts of the search train on at most.
    """
    names = contest.different()
    stages = _Rounds(contest, names, spent)
    length, schedule = stages.length, stages.schedule
    limit = f"on at most {stages.cost:g} times the {length.whole:,} rows of one training"
    if len(schedule.rounds) == 1 and schedule.rounds[0].steps == length.steps:
        limit = "each trained in full"
    say(f"{len(names)} candidates, {limit}: {_told(schedule, length)}")
    finalists = stages.all(names)
    curves = [contest.scores[name]["curve"] for name in names]
    told = [
        replace(stage, candidates=sum(len(curve) >= number for curve in curves))
        for number, stage in enumerate(schedule.rounds, 1)
    ]
    record = {
        "limit": stages.cost,
        "one_training": length.whole,
        "elsewhere": spent,
        "rounds": [
            {"candidates": s.candidates, "steps": s.steps, "rows": length.rows(s.steps)}
            for s in told
        ],
    }
    return finalists, record


def _screened(contest: Contest, names: Sequence[str], *, few_steps: bool) -> list[str]:
    """The candidates in the order of their claim to begin, with their gains noted."""
    auc, kinds = _kinds(contest, names)
    order = after_screening(auc, kinds, few_steps=few_steps)
    contest.compare(names, order[0])
    return order


def _ordered(
    contest: Contest, names: Sequence[str], places: int = 0, *, last: bool = True
) -> list[str]:
    """The finalists in the order of their claim to go on, with their gains noted."""
    auc, kinds = _kinds(contest, names)
    order = after_finals(auc, kinds, places, last=last)
    contest.compare(names, order[0])
    return order


def _kinds(contest: Contest, names: Sequence[str]) -> tuple[dict[str, float], Kinds]:
    auc = {name: contest.scores[name]["val_auc"] for name in names}
    return auc, kinds_of([contest.candidates[name] for name in names])


def _note(contest: Contest, names: Sequence[str], stay: Sequence[str], number: int) -> None:
    """Note and say who left after a round, and how far behind."""
    out = [name for name in names if name not in stay]
    if not out:
        return
    auc = {name: contest.scores[name]["curve"][number - 1][1] for name in names}
    out = sorted(out, key=lambda n: -auc[n])
    behind = {name: max(auc.values()) - auc[name] for name in out}
    for name in out:
        contest.scores[name] |= {"round": number, "behind": behind[name]}
    say(
        f"out after round {number}: {', '.join(out)}; their validation AUC is "
        f"{min(behind.values()):.5f} to {max(behind.values()):.5f} below the best of the round "
        "(the best plain candidate of shared chunks goes on, and first the best of each kind)"
    )


def _told(schedule: Schedule, length: Length) -> str:
    """The rounds in words."""
    first, *others = schedule.rounds
    parts = [f"{first.candidates} of {length.rows(first.steps):,} rows each"]
    parts += [f"{r.candidates} up to {length.rows(r.steps):,} rows each" for r in others]
    return ", then ".join(parts)


class _Pace:
    """How long the other trainings of a schedule will take at most, by the rows that they read."""

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
