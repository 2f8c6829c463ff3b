"""The record of a replay: its days, what they scored, and the means over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seo_rec.documents import as_record, read_object
from seo_rec.files import finite
from seo_rec.metrics import LabelsMetrics, Metrics
from seo_rec.model import ModelSettings
from seo_rec.runs.layout import REPLAY_FILE, day_folder

OF_LABEL = ("auc", "log_loss", "calibration")  # kept of each of several labels


@dataclass(frozen=True)
class Day:
    """One day of a replay.

    Args:
        day: The name of its folder.
        rows: Rows that were scored: of all splits.
        auc, log_loss, calibration: Of the model of the day before; NaN where they are undefined.
        unknown: By feature with a vocabulary, the share of the day's training ids outside of it.
        admitted: Ids that got a row of their own when the model was trained on the day.
        train_rows: Rows that were trained on.
        train_seconds: Time of that, the warm start included.
        score_seconds: Time of scoring.
        labels: Of several labels, AUC, log loss and calibration by label; the fields above are of
            the label that decides. None of one label, and of a day that is not scored.
    """

    day: str
    rows: int
    auc: float
    log_loss: float
    calibration: float
    unknown: Mapping[str, float]
    admitted: int = 0
    train_rows: int = 0
    train_seconds: float = 0.0
    score_seconds: float = 0.0
    labels: Mapping[str, Mapping[str, float | None]] | None = None


@dataclass(frozen=True)
class Replayed:
    """What a replay came to: its days in order, the mean AUC, and the run of the last day."""

    days: tuple[Day, ...]
    mean_auc: float
    last: Path

    def to_json(self) -> dict[str, Any]:
        """JSON values; None stands for a metric that is not a number."""
        document = {"days": [plain_day(d) for d in self.days], "mean_auc": self.mean_auc}
        if by_label := self.mean_auc_by_label:
            document["mean_auc_by_label"] = by_label
        values: dict[str, Any] = finite({**document, "last": self.last.name})
        return values

    @property
    def mean_auc_by_label(self) -> dict[str, float]:
        """By label, the mean over the days of its AUC; empty for a single label."""
        scored = [d.labels for d in self.days if d.labels]
        return {name: _mean([d[name]["auc"] for d in scored]) for name in (scored or [{}])[0]}


def plain_day(day: Day) -> dict[str, Any]:
    """A day without the field of several labels where there is one label."""
    values = asdict(day)
    if day.labels is None:
        del values["labels"]
    return values


def _mean(aucs: Sequence[float | None]) -> float:
    """The mean of the days that have an AUC; NaN where none has."""
    there = [a for a in aucs if a is not None and not np.isnan(a)]
    return float(np.mean(there)) if there else float("nan")


def read_replay(out: Path | str) -> Replayed:
    """The finished days of a replay.

    Raises:
        ValueError: ``replay.json`` is damaged.
        OSError: There is none.
    """
    out = Path(out)
    path = out / REPLAY_FILE
    document = read_object(path, {"days": list, "last": str})
    days = tuple(day_of(values, path) for values in document["days"])
    return replayed(days, day_folder(out, document["last"]))


def replayed(days: Sequence[Day], last: Path) -> Replayed:
    return Replayed(tuple(days), _mean([d.auc for d in days]), last)


def scored_day(
    name: str, rows: int, metrics: Metrics, unknown: Mapping[str, float], seconds: float
) -> Day:
    m, labels = metrics, None
    if isinstance(m, LabelsMetrics):
        labels = {
            label: {name: found[name] for name in OF_LABEL} for label, found in m.by_label.items()
        }
    return Day(
        name, rows, m.auc, m.log_loss, m.calibration, unknown, score_seconds=seconds, labels=labels
    )


def figures_of(scored: Day, model: ModelSettings) -> Metrics:
    """The figures of a day as metrics, with each label's where there are several."""
    nan = float("nan")
    values = (scored.auc, scored.log_loss, nan, scored.calibration, scored.rows)
    if model.multi_task is None:
        return Metrics(*values)
    unscored: dict[str, float | None] = dict.fromkeys(OF_LABEL, nan)
    found = scored.labels or dict.fromkeys(model.multi_task.labels, unscored)
    by_label = {
        label: {name: nan if x is None else x for name, x in of.items()}
        for label, of in found.items()
    }
    return LabelsMetrics(*values, by_label)


def day_of(values: Any, where: Path) -> Day:
    numbers = ("auc", "log_loss", "calibration")
    if isinstance(values, dict):
        nan = {k: float("nan") for k in numbers if k in values and values[k] is None}
        values = {**values, **nan}
    return as_record(Day, values, where)
