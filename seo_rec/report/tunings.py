"""How tunings went: a sentence, a picture of the trials and of what mattered, and every trial."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from seo_rec.report import formats
from seo_rec.report.charts import COLOURS, STYLE, as_svg
from seo_rec.runs.tunings import TrialRun, TuningRun

DONE, GIVEN_UP = "complete", "pruned"
STATES = {DONE: "whole", GIVEN_UP: "given up", "fail": "failed"}


@dataclass(frozen=True)
class TrialRow:
    """One trial as a row of a table."""

    number: int
    state: str
    values: tuple[str, ...]
    quality: float
    epochs: int
    is_best: bool


@dataclass(frozen=True)
class ShownTuning:
    """What the page shows of one tuning."""

    folder: Path
    sentence: str
    quality: str
    names: tuple[str, ...]
    rows: tuple[TrialRow, ...]
    chart: str


def shown_tuning(tuning: TuningRun) -> ShownTuning:
    """A tuning as the page shows it."""
    names = tuple(tuning.best_trial.values)
    rows = tuple(
        TrialRow(
            t.number,
            STATES.get(t.state, t.state),
            tuple(_shown(t.values.get(name)) for name in names),
            abs(_level(t)),
            len(t.by_epoch),
            t.number == tuning.best,
        )
        for t in tuning.trials
    )
    return ShownTuning(tuning.folder, _sentence(tuning), tuning.quality, names, rows, chart(tuning))


def _sentence(tuning: TuningRun) -> str:
    first, best = tuning.trials[0], tuning.best_trial
    states = [t.state for t in tuning.trials]
    counted = ", ".join(
        f"{states.count(state)} {said}" for state, said in STATES.items() if state in states
    )
    chosen = ", ".join(f"{name} {_shown(value)}" for name, value in best.values.items())
    text = (
        f"{tuning.method} on {tuning.dataset}: {len(states)} trials ({counted}). The settings as "
        f"given reach {tuning.quality} {formats.number(abs(_level(first)), 5)}, the best "
        f"{formats.number(abs(_level(best)), 5)}: {chosen}."
    )
    if tuning.test_quality is not None:
        text += f" On test rows, read once at the end: {formats.number(tuning.test_quality, 5)}."
    return text


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _level(trial: TrialRun) -> float:
    """The score of a trial; of one that was given up, its best epoch."""
    if trial.state == DONE:
        return trial.score
    known = [v for v in trial.by_epoch if not math.isnan(v)]
    return max(known, default=math.nan) if trial.state == GIVEN_UP else math.nan


def chart(tuning: TuningRun) -> str:
    """The history of the trials, and importances where there are any, as an SVG element."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.4), layout="constrained")
        if tuning.importance:
            left, right = figure.subplots(1, 2, width_ratios=(3, 2))
            _importance(right, tuning)
        else:
            left = figure.add_subplot()
        _history(left, tuning)
        return as_svg(figure)


def _history(ax: Axes, tuning: TuningRun) -> None:
    sign = -1.0 if tuning.quality.endswith("loss") else 1.0
    for state, marker in ((DONE, "o"), (GIVEN_UP, "x")):
        trials = [t for t in tuning.trials if t.state == state]
        levels = [sign * _level(t) for t in trials]
        ax.plot([t.number for t in trials], levels, marker, color=COLOURS[0], markersize=5)
    numbers, best = list[int](), list[float]()
    for t in tuning.trials:
        if t.state == DONE and not math.isnan(t.score):
            numbers.append(t.number)
            best.append(max([*best, t.score]))
    ax.step(numbers, [sign * b for b in best], where="post", color=COLOURS[1], linewidth=1.6)
    ax.set_xlabel("trial")
    ax.set_ylabel(tuning.quality)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _importance(ax: Axes, tuning: TuningRun) -> None:
    ordered = sorted(tuning.importance.items(), key=lambda item: item[1])
    ax.barh([name for name, _ in ordered], [share for _, share in ordered], color=COLOURS[2])
    ax.set_xlabel("importance")
