"""Tunings read back from their folders: every trial, and what mattered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seo_rec.documents import read_object
from seo_rec.runs.layout import RESULT_FILE, TUNE_FILE, TUNINGS_FOLDER, trial_folder

KEYS = {
    "method": str,
    "dataset": str,
    "quality": str,
    "best": int,
    "trials": list,
    "importance": dict,
}


@dataclass(frozen=True)
class TrialRun:
    """One trial.

    Args:
        number: Counted from 0.
        state: ``complete``, ``pruned`` or ``fail``.
        values: Of what was tuned.
        score: Validation AUC or R2, or minus the log loss; NaN unless it is complete.
        by_epoch: The same after every epoch.
    """

    number: int
    state: str
    values: Mapping[str, Any]
    score: float
    by_epoch: tuple[float, ...]


@dataclass(frozen=True)
class TuningRun:
    """One finished tuning.

    Args:
        folder: Where it is.
        method: Who decided the policy.
        dataset: The name of the data set.
        quality: The name of the number by which trials were compared.
        best: The number of the best trial.
        trials: In order.
        importance: The share of the variance of the score that each name explains.
        test_quality: Of the best trial; None where test rows were not read.
    """

    folder: Path
    method: str
    dataset: str
    quality: str
    best: int
    trials: tuple[TrialRun, ...]
    importance: Mapping[str, float]
    test_quality: float | None

    @property
    def best_trial(self) -> TrialRun:
        """The trial that is called the best."""
        return next(t for t in self.trials if t.number == self.best)


def best_folder(tuning: Path) -> Path | None:
    """The run folder of the best trial; None if the tuning has not ended."""
    if not (tuning / TUNE_FILE).is_file():
        return None
    best = trial_folder(tuning, read_tuning(tuning).best)
    return best if (best / RESULT_FILE).is_file() else None


def tunings_in(run: Path) -> list[TuningRun]:
    """The finished tunings of a run folder: itself, or those of a comparison or a frontier."""
    places = [run, *sorted(run.glob(f"{TUNINGS_FOLDER}/*"))]
    places += sorted(run.glob(f"*/{TUNINGS_FOLDER}/*"))
    return [read_tuning(place) for place in places if (place / TUNE_FILE).is_file()]


def read_tuning(folder: Path) -> TuningRun:
    """The tuning in a folder.

    Raises:
        ValueError: ``tune.json`` is damaged; the message names it.
    """
    path = folder / TUNE_FILE
    read = read_object(path, KEYS)
    try:
        trials = tuple(_trial(values) for values in read["trials"])
        importance = {str(k): float(v) for k, v in read["importance"].items()}
        tested = read.get("test_quality")
        found = TuningRun(
            folder,
            read["method"],
            read["dataset"],
            read["quality"],
            read["best"],
            trials,
            importance,
            None if tested is None else float(tested),
        )
        if found.best not in {t.number for t in trials}:
            raise ValueError(f"best is {found.best}, which is no trial")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not the record of a tuning ({error!r})") from error
    return found


def _trial(values: Mapping[str, Any]) -> TrialRun:
    score = values["score"]
    return TrialRun(
        number=int(values["number"]),
        state=str(values["state"]),
        values=dict(values["values"]),
        score=math.nan if score is None else float(score),
        by_epoch=tuple(math.nan if v is None else float(v) for v in values["by_epoch"]),
    )
