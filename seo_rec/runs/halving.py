"""The rounds of a limited run-off, read back from ``search.json``, and told in a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seo_rec.documents import FIX
from seo_rec.runs.decision import PLAIN, decided


@dataclass(frozen=True)
class Stage:
    """One round: how many candidates were trained, and the rows of each training."""

    candidates: int
    rows: int


@dataclass(frozen=True)
class Course:
    """How one candidate did.

    ``curve`` has the rows of a training and its validation AUC, round after round; ``left`` is the
    number of the round after which it left, and ``behind`` how far its AUC was below the best one
    of that round; None and 0 of a candidate of the last round.
    """

    name: str
    curve: tuple[tuple[int, float], ...]
    left: int | None
    behind: float

    @property
    def is_plain(self) -> bool:
        """Whether no search decided it."""
        return self.name.startswith(PLAIN)


@dataclass(frozen=True)
class Halving:
    """The rounds of successive halving.

    ``one_training`` is the number of rows that one whole training reads, ``limit`` how many times
    that the search could read, and ``rows`` what its trainings read, attentions included.
    """

    limit: float
    one_training: int
    rows: int
    stages: tuple[Stage, ...]
    courses: tuple[Course, ...]


def halving_of(record: Mapping[str, Any], where: Path) -> Halving | None:
    """The rounds in the ``record`` of a search; None if it had none.

    Raises:
        ValueError: The record is damaged; the message names ``where``.
    """
    if "halving" not in record:
        return None
    try:
        told, scores = record["halving"], record["run_off"]
        return Halving(
            float(told["limit"]),
            int(told["one_training"]),
            int(told["rows"]) + int(told["elsewhere"]),
            tuple(Stage(int(s["candidates"]), int(s["rows"])) for s in told["rounds"]),
            tuple(_course(n, s) for n, s in scores.items() if "same_as" not in s),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: halving holds no rounds ({error!r}); {FIX}") from error


def _course(name: str, score: Mapping[str, Any]) -> Course:
    curve = tuple((int(rows), float(auc)) for rows, auc in score["curve"])
    left = score.get("round")
    return Course(name, curve, left if left is None else int(left), float(score.get("behind", 0)))


def story(halving: Halving, decision: Mapping[str, Any]) -> list[str]:
    """The search in at most five lines: what it read, who left in which round, and who won."""
    plain = sum(c.is_plain for c in halving.courses)
    told = list[str]()
    limit = f"the limit was {halving.limit:g} times"
    if len(halving.stages) == 1:
        limit = "each was trained in full"
    lines = [
        f"{plain} plain and {len(halving.courses) - plain} searched candidates read "
        f"{halving.rows / halving.one_training:.1f} times the {halving.one_training:,} rows of one "
        f"training, attentions included; {limit}."
    ]
    for number, stage in enumerate(halving.stages[:-1], 1):
        out = [c for c in halving.courses if c.left == number]
        behind = sorted(c.behind for c in out)
        trained = [c for c in halving.courses if len(c.curve) >= number]
        best = max(trained, key=lambda c: c.curve[number - 1][1])
        told.append(
            f"Round {number} trained {stage.candidates} of them on {stage.rows:,} rows; "
            f"{best.name} was the best, and {len(out)} left"
            + (f", {behind[0]:.4f} to {behind[-1]:.4f} lower in validation AUC." if out else ".")
        )
    last = [c.name for c in halving.courses if c.left is None]
    told.append(
        f"The last round trained {', '.join(last)} on {halving.stages[-1].rows:,} rows at most."
    )
    lines += [*told[:1], " ".join(told[1:-1]), told[-1]] if len(told) > 2 else told
    return [*lines, f"{decided(decision)}."]
