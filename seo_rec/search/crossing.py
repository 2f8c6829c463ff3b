"""Which crosses earn rows inside a budget, decided on validation rows.

The budget stays the same however many crosses there are: a further feature takes rows from the
others. Policies with none, one, two, four, eight, ... of the proposed crosses are trained shortly;
the best two are trained at length against the policy without crosses, and the winner keeps the
crosses that it is worse without.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seo_rec.data.crosses import Cross, CrossedData, with_crosses
from seo_rec.data.dataset import DataSet
from seo_rec.policy import Policy, PolicyError
from seo_rec.search.progress import say
from seo_rec.search.run_off import Candidate, RunOff, run_off
from seo_rec.search.run_off.contest import Contest
from seo_rec.train import Training

FINALISTS = 2  # numbers of crosses that are trained for all epochs
SHORT = 4  # the first trainings have so many times fewer epochs
MOST_WITHOUT = 12  # crosses of which each is left out in turn
NONE = "no-crosses"

PolicyOf = Callable[[CrossedData], Policy]


@dataclass(frozen=True)
class Chosen:
    """Which crosses were taken.

    Args:
        crosses: In the order of the proposals.
        seconds: Time of all trainings, earlier sessions included.
        record: JSON values: ``proposed``, ``short`` (validation AUC by number of crosses, short
            trainings), ``taken``, ``gain`` of validation AUC over no crosses with its
            ``standard_error`` (long trainings), and ``without``: for each cross that was taken the
            validation AUC without it, and how much lower that is (short trainings).
    """

    crosses: tuple[Cross, ...]
    seconds: float
    record: dict[str, Any]


def choose_crosses(
    data: DataSet,
    proposed: Sequence[Cross],
    policy_of: PolicyOf,
    training: Training,
    folder: Path,
) -> Chosen:
    """Decide on validation rows which of the proposed crosses become features.

    1. The first 0, 1, 2, 4, ... and all proposed crosses are trained for a quarter of the epochs.
    2. The two numbers with the best validation AUC, and no crosses, are trained for all epochs.
       Crosses are taken if they win by two standard errors, also on the mean with a second seed
       (:func:`seo_rec.search.run_off.run_off`).
    3. Each cross that was taken is left out in turn, for a quarter of the epochs. Crosses that are
       worth less than a standard error are left out together, unless the AUC is lower by a
       standard error then, for all epochs.

    Args:
        data: The data set without crosses.
        proposed: The best first.
        policy_of: Decides a policy at the budget, of data with some of the crosses.
        training: Of the models.
        folder: Where scores are kept; an interrupted choice goes on from them.

    Raises:
        PolicyError: The budget is too small for the columns alone.
    """
    record: dict[str, Any] = {"proposed": [c.name for c in proposed], "taken": []}
    if not proposed:
        return Chosen((), 0.0, record)
    choice = _Choice(with_crosses(data, proposed), policy_of, training, folder)
    rungs = choice.rungs()
    if len(rungs) == 1:
        say("crosses: none, the budget is too small for the rows of one more feature")
        return Chosen((), 0.0, record)
    short = choice.short(rungs)
    aucs = {name: float(short.scores[name]["val_auc"]) for name in rungs}
    record["short"] = {str(len(rungs[name])): auc for name, auc in aucs.items()}
    ranked = sorted((n for n in rungs if rungs[n]), key=lambda n: -aucs[n])
    taken = choice.at_length(rungs, ranked[:FINALISTS], record)
    if taken:
        taken = choice.pruned(taken, record)
    record["taken"] = [c.name for c in taken]
    chosen = Chosen(taken, choice.seconds, record)
    say(chosen_line(record))
    return chosen


def chosen_line(record: dict[str, Any]) -> str:
    """What was taken and what it is worth, for people."""
    taken, of = record["taken"], len(record["proposed"])
    if not taken:
        gain = record.get("gain")
        why = "" if gain is None else f"; the best of them gained {gain:.5f} of validation AUC"
        return f"crosses: none of {of} earns its rows{why}"
    worth = {n: w["worth"] for n, w in record.get("without", {}).items()}
    named = [f"{n} ({worth[n]:+.5f})" if n in worth else n for n in taken]
    return (
        f"crosses: {len(taken)} of {of} taken, {record['gain']:+.5f} of validation AUC (standard "
        f"error {record['standard_error']:.5f}) in the same budget: {', '.join(named)}"
    )


class _Choice:
    """The trainings of one choice.

    Args:
        wide: The data with all proposed crosses.
        policy_of, training, folder: As in :func:`choose_crosses`.
    """

    def __init__(
        self, wide: CrossedData, policy_of: PolicyOf, training: Training, folder: Path
    ) -> None:
        self.wide, self.policy_of, self.training = wide, policy_of, training
        self.folder = folder
        self.long = RunOff(epochs=training.fit.epochs, cost=0)
        self.quarter = replace(self.long, epochs=math.ceil(training.fit.epochs / SHORT))
        self.contests: dict[str, Contest] = {}

    @property
    def seconds(self) -> float:
        """Time of all trainings whose scores are kept."""
        return sum(contest.seconds() for contest in self.contests.values())

    def candidate(self, name: str, crosses: Sequence[Cross]) -> Candidate:
        return Candidate(name, self.policy_of(self.wide.only(crosses)), searched=bool(crosses))

    def rungs(self) -> dict[str, tuple[Cross, ...]]:
        """The first 0, 1, 2, 4, ... and all crosses, as far as the budget has room for them."""
        every = self.wide.crosses
        numbers = [0, *(2**i for i in range(len(every).bit_length()) if 2**i < len(every))]
        found: dict[str, tuple[Cross, ...]] = {}
        for n in (*numbers, len(every)):
            try:
                self.policy_of(self.wide.only(every[:n]))
            except PolicyError:
                if not n:
                    raise
                break
            found[f"crosses-{n}" if n else NONE] = every[:n]
        return found

    def short(self, wanted: dict[str, tuple[Cross, ...]]) -> Contest:
        """Train these for a quarter of the epochs."""
        return self._contest("short", wanted, self.quarter)

    def _contest(
        self, name: str, wanted: dict[str, tuple[Cross, ...]], settings: RunOff
    ) -> Contest:
        candidates = [self.candidate(n, crosses) for n, crosses in wanted.items()]
        contest = Contest(self.wide, candidates, settings, self.training, self.folder / name)
        contest.train_all()
        self.contests[name] = contest
        return contest

    def at_length(
        self, rungs: dict[str, tuple[Cross, ...]], best: Sequence[str], record: dict[str, Any]
    ) -> tuple[Cross, ...]:
        """The best crosses that beat no crosses, or none."""
        candidates = [self.candidate(n, rungs[n]) for n in (NONE, *best)]
        where = self.folder / "long"
        outcome = run_off(self.wide, candidates, self.long, self.training, where)
        self.contests["long"] = Contest(self.wide, candidates, self.long, self.training, where)
        taken = outcome.winner.name
        first = taken if taken != NONE else max(best, key=lambda n: outcome.scores[n]["gain"])
        record |= {k: outcome.scores[first][k] for k in ("gain", "standard_error")}
        return rungs[taken]

    def pruned(self, taken: tuple[Cross, ...], record: dict[str, Any]) -> tuple[Cross, ...]:
        """The crosses that are worth their rows; ``record`` gets what each is worth."""
        if len(taken) > MOST_WITHOUT:
            say(f"crosses: {len(taken)} are too many to leave out each of them in turn")
            return taken
        whole = f"crosses-{len(taken)}"
        wanted, names = {whole: taken}, dict[Cross, str]()
        for cross in taken:
            left = tuple(c for c in taken if c != cross)
            names[cross] = f"{whole}-without-{taken.index(cross) + 1}" if left else NONE
            wanted[names[cross]] = left
        contest = self.short(wanted)
        gains = {c: contest.gain(whole, name, twice=False) for c, name in names.items()}
        without: dict[str, Any] = {}
        for cross, name in names.items():
            worth, error = gains[cross]
            without[cross.name] = {
                "val_auc": float(contest.scores[name]["val_auc"]),
                "worth": worth,
                "standard_error": None if np.isnan(error) else error,
            }
        record["without"] = without
        kept = tuple(c for c in taken if gains[c][0] > gains[c][1])
        if not kept or len(kept) == len(taken):
            return taken
        pair = {whole: taken, f"{whole}-pruned": kept}
        gain, error = self._contest("long", pair, self.long).gain(*reversed(pair), twice=False)
        known = None if np.isnan(error) else error
        record["pruned"] = {
            "crosses": [c.name for c in kept],
            "gain": gain,
            "standard_error": known,
        }
        return kept if gain >= -(known or 0.0) else taken
