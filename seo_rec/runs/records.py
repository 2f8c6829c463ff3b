"""What a finished training and a finished search say of themselves."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from seo_rec.documents import as_record
from seo_rec.files import finite, read_json
from seo_rec.policy import Policy, stored_types
from seo_rec.schema import BINARY, REGRESSION

log = logging.getLogger(__name__)


NAN = float("nan")
BINARY_METRICS = (
    "val_auc",
    "val_logloss",
    "test_auc",
    "test_logloss",
    "test_normalized_entropy",
    "test_calibration",
)
REGRESSION_METRICS = ("val_mse", "val_r2", "test_mse", "test_mae", "test_r2")


@dataclass(frozen=True)
class SearchCost:
    """What finding a policy took.

    Args:
        seconds: Time of the search.
        peak_bytes: The most that its embedding parameters, their gradients and their optimizer
            state took together.
    """

    seconds: float = 0.0
    peak_bytes: int = 0


@dataclass(frozen=True)
class Run:
    """What one trained model came to; ``result.json``, and one line of ``results.jsonl``.

    ``budget`` is the number of parameters that was asked for, or None for a method whose size
    follows from the data and where ``budget_bytes`` says the bytes that were asked for.
    ``precision`` names the types of the rows that the metrics are of. ``note`` is a remark for
    readers of the metrics, mostly empty; ``table_update`` says which optimizer was used where
    ``auto`` was asked for, with its rate and L2. The fields with a default came later than the rest
    and have it in older files.

    ``task`` says what the label is, ``binary`` or ``regression``. The metrics of the other task are
    not measured, and the file leaves them out: AUC, log loss, normalized entropy and calibration of
    a regression, and mean squared error, mean absolute error and R2 of a binary label.

    Of a model of several labels the metrics are those of the label that decides, and ``labels`` has
    AUC, log loss and calibration of every label by its name; the file of other models lacks it.
    """

    data: str
    data_fingerprint: str
    method: str
    seed: int
    budget: int | None
    embedding_params: int
    val_auc: float
    val_logloss: float
    test_auc: float
    test_logloss: float
    test_normalized_entropy: float
    test_calibration: float
    epochs: int
    steps: int
    seconds_per_epoch: float
    seconds: float
    search_seconds: float
    policy: str
    command: str
    environment: Mapping[str, Any]
    search_peak_bytes: int = 0
    num_bytes: int = 0
    still_improving: bool = False
    table_update: str = ""
    note: str = ""
    budget_bytes: int | None = None
    precision: str = "float32"
    task: str = BINARY
    val_mse: float | None = None
    val_r2: float | None = None
    test_mse: float | None = None
    test_mae: float | None = None
    test_r2: float | None = None
    labels: Mapping[str, Any] | None = None

    @property
    def val_quality(self) -> float:
        """Validation AUC, or R2 of a regression."""
        return _number(self.val_r2) if self.task == REGRESSION else self.val_auc

    @property
    def test_quality(self) -> float:
        """Test AUC, or R2 of a regression."""
        return _number(self.test_r2) if self.task == REGRESSION else self.test_auc

    @property
    def has_test_figures(self) -> bool:
        """Whether there were test rows."""
        return not math.isnan(self.test_loss)

    @property
    def test_loss(self) -> float:
        """Log loss on the test split, or the mean squared error of a regression."""
        return _number(self.test_mse) if self.task == REGRESSION else self.test_logloss

    def to_json(self) -> dict[str, Any]:
        """JSON values; None stands for a metric that is not a number."""
        left_out = BINARY_METRICS if self.task == REGRESSION else REGRESSION_METRICS
        values = {k: v for k, v in asdict(self).items() if k not in left_out}
        if self.task == BINARY:
            del values["task"]
        if self.labels is None:
            del values["labels"]
        document: dict[str, Any] = finite(values)
        return document

    @classmethod
    def from_json(cls, values: Any, where: object = "result") -> Run:
        """What :meth:`to_json` gave, or an older release wrote.

        Raises:
            ValueError: A field is missing, unknown or of another type; begins with ``where``.
        """
        if isinstance(values, dict):
            numbers = {f.name for f in fields(cls) if f.type == "float"}
            nan = {k: float("nan") for k, v in values.items() if k in numbers and v is None}
            if values.get("task") == REGRESSION:
                nan = {**dict.fromkeys(BINARY_METRICS, NAN), **nan}
            values = {**values, **nan}
        return as_record(cls, values, where)

    @classmethod
    def read(cls, path: Path) -> Run:
        """The ``result.json`` of a training.

        Raises:
            ValueError: The file is damaged; the message names it.
        """
        return cls.from_json(read_json(path), path)


def _number(value: float | None) -> float:
    return NAN if value is None else value


@dataclass(frozen=True)
class SearchRecord:
    """What one search came to; ``search.json``.

    Args:
        method: The search, by its name in the registry.
        winner: What was chosen: a candidate of a run-off, or the method itself.
        decision: The same in words for people: see :class:`seo_rec.policy.Policy`.
        dataset: Name of the data set.
        val_auc: Of the search's own model; None if it trains none.
        seconds: Time of the search, sessions before a resume included.
        peak_bytes: See :class:`SearchCost`.
        params: Numbers that the policy stores, ids of vocabularies excepted.
        record: What was learned, JSON values only; each search has its own keys.
        environment: Where it ran.
        command: The command that ran it.
        num_bytes: Everything that is stored to serve the policy; 0 in files of older releases.
    """

    method: str
    winner: str
    decision: Mapping[str, Any]
    dataset: str
    val_auc: float | None
    seconds: float
    peak_bytes: int
    params: int
    record: Mapping[str, Any]
    environment: Mapping[str, Any]
    command: str
    num_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON values; None stands for a value that is not a number."""
        values: dict[str, Any] = finite(asdict(self))
        return values


def read_runs(path: Path) -> list[Run]:
    """The complete lines of a ``results.jsonl``; a line cut short by a kill is left out."""
    runs = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            runs.append(Run.from_json(json.loads(line)))
        except (ValueError, RecursionError):
            log.warning("%s: an unreadable line was left out", path)
    return runs


def types_of(policy: Policy) -> str:
    """The types in which tables and arrays are stored, separated by commas."""
    return ", ".join(stored_types(policy))


def precision_note(policy: Policy, as_served: bool) -> str:
    """A remark if a policy is stored in other types than its model is trained in.

    Args:
        policy: The policy.
        as_served: Whether the model is scored with rows that were stored in their types; several
            processes score float32.

    Returns:
        One sentence without a full stop; empty if everything is stored as float32.
    """
    stored = types_of(policy)
    if stored == "float32":
        return ""
    if as_served:
        return f"trained in float32, stored as {stored} after the training and scored so"
    return (
        f"trained and scored in float32, although the policy is stored as {stored}: "
        "its bytes count these types, and AUC and log loss do not show what they lose; "
        "`seo-rec eval` does"
    )


def describe(policy: Policy) -> str:
    """A policy in a few words: tables and arrays, and lookups per feature."""
    counts: dict[int, int] = {}
    for f in policy.features:
        counts[len(f.lookups)] = counts.get(len(f.lookups), 0) + 1
    lookups = ", ".join(f"{n} features x {k}" for k, n in sorted(counts.items(), reverse=True))
    tables = sorted({(t.num_rows, t.dim) for t in policy.tables})
    parts = [
        _some(len(policy.tables), "table", [f"{r}x{d}" for r, d in tables]),
        _some(
            len(policy.arrays), "array", [str(n) for n in sorted({a.size for a in policy.arrays})]
        ),
    ]
    return f"{', '.join(filter(None, parts))}; {lookups}"


def _some(count: int, noun: str, sizes: list[str]) -> str:
    plural = noun if count == 1 else noun + "s"
    shown = ", ".join(sizes[:3]) + (", ..." if len(sizes) > 3 else "")
    return f"{count} {plural} ({shown})" if count else ""
