"""What is read of finished runs: trainings, searches and their parts, as plain records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seo_rec.policy import Policy
from seo_rec.policy.allowance import FLOATS
from seo_rec.runs.groups import GroupReport
from seo_rec.runs.halving import Halving
from seo_rec.runs.tunings import TuningRun
from seo_rec.schema import BINARY


@dataclass(frozen=True)
class Epoch:
    """One finished epoch of a training; ``number`` counts from 1; AUC, or R2 of a regression."""

    number: int
    train_loss: float
    val_auc: float


@dataclass(frozen=True)
class TrainingRun:
    """One finished training: its outcome, and the files of its folder that are still there.

    ``given`` is the folder the caller named; ``budget`` is None for a method that has none, and
    in ``unit``, parameters or bytes;
    ``num_bytes`` is everything that is stored to serve the policy, and None where neither the
    result nor a policy file says it; ``data``, ``policy``, ``curve`` and ``groups`` are None or
    empty where the folder lacks them. ``task`` says what the label is. Of a ``regression`` the
    fields ``val_auc`` and ``test_auc`` hold R2 and ``test_logloss`` the mean squared error, so that
    more is better of the two first and less of the last whatever the label; reports name them by
    :data:`seo_rec.schema.QUALITY_NAMES` and :data:`seo_rec.schema.LOSS_NAMES`. ``trials`` is how
    many trainings tuned each method of its comparison; 0: none was tuned.
    """

    given: Path
    folder: Path
    dataset: str
    fingerprint: str
    method: str
    seed: int
    params: int
    budget: int | None
    val_auc: float
    test_auc: float
    test_logloss: float
    epochs: int
    seconds_per_epoch: float
    seconds: float
    search_seconds: float
    search_peak_bytes: int
    description: str
    command: str
    environment: Mapping[str, Any]
    settings: Mapping[str, Any]
    num_bytes: int | None = None
    data: Path | None = None
    policy: Policy | None = None
    curve: tuple[Epoch, ...] = ()
    repeat: Path | None = None
    groups: GroupReport | None = None
    unit: str = FLOATS
    task: str = BINARY
    trials: int = 0


@dataclass(frozen=True)
class Candidate:
    """One line of a run-off: the validation AUC after a short training, and its gain.

    ``num_bytes`` is None where neither the record nor a policy file says it.
    """

    name: str
    val_auc: float
    gain: float
    standard_error: float
    params: int
    seconds: float
    num_bytes: int | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Attention:
    """The attention a search ended with: ``values[f][c]`` of feature f and chunk c, sum 1."""

    chunk_dim: int
    features: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    val_auc: float
    seconds: float


@dataclass(frozen=True)
class SearchRun:
    """One finished search: attentions, the run-off's candidates and the policy it chose."""

    given: Path
    folder: Path
    dataset: str
    fingerprint: str
    seed: int
    budget: int
    winner: str
    decision: Mapping[str, Any]
    candidates: tuple[Candidate, ...]
    attentions: tuple[Attention, ...]
    seconds: float
    command: str
    environment: Mapping[str, Any]
    settings: Mapping[str, Any]
    data: Path | None = None
    policy: Policy | None = None
    policies: Mapping[str, Policy] = field(default_factory=dict)
    repeat: Path | None = None
    unit: str = FLOATS
    trials: int = 0
    halving: Halving | None = None


@dataclass(frozen=True)
class Records:
    """What was found in the folders, and remarks for the reader on what was not."""

    trainings: tuple[TrainingRun, ...]
    searches: tuple[SearchRun, ...]
    notes: tuple[str, ...]
    tunings: tuple[TuningRun, ...] = ()
