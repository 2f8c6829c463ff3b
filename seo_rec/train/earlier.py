"""A finished training whose state a new one continues, and what of it was carried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seo_rec.documents import read_object
from seo_rec.files import checksum
from seo_rec.model import ModelSettings
from seo_rec.policy import Ids, Policy
from seo_rec.runs import RunError
from seo_rec.runs.claim import unfinished
from seo_rec.runs.layout import (
    BEST_FOLDER,
    CHECKPOINTS_FOLDER,
    POLICY_FILE,
    RESULT_FILE,
    RUN_FILE,
    TRAINED_FILE,
)
from seo_rec.schema import document_digest
from seo_rec.settings import FitSettings, Training
from seo_rec.train.checkpoint import Checkpoints
from seo_rec.train.checkpoint_files import MARKER
from seo_rec.train.columns import Columns


@dataclass(frozen=True)
class Earlier:
    """A finished training whose state a new one continues.

    Args:
        run: Its folder.
        policy: Of the run, as it is served.
        trained: The policy that its checkpoints are of: the same, or with rows of candidates
            (:mod:`seo_rec.policy.candidates`).
        method: Who decided it.
        training: The model and how it was trained.
        numeric: Names of its dense columns.
        preparation: The rules by which its data were prepared.
        state: The checkpoint with the optimizer state; None if none is left.
        best: The checkpoint of the best weights.
        known: By feature, the ids whose rows move to other places, the most important last.
        stand_ins: By feature, those of them that only have the digest of an id that is not known.
        mean_anew: Whether the running mean of the new run starts at the weights, as that of a run
            that continues none, or goes on; None: as :func:`mean_starts_anew` decides.
    """

    run: Path
    policy: Policy
    trained: Policy
    method: str
    training: Training
    numeric: tuple[str, ...]
    preparation: Mapping[str, Any]
    state: Path | None
    best: Path
    known: Mapping[str, Ids]
    stand_ins: Mapping[str, Ids] = field(default_factory=dict)
    mean_anew: bool | None = None

    @property
    def digest(self) -> str:
        """SHA-256 by which a run knows again what it started from."""
        return str(checksum((self.state or self.best) / MARKER)["sha256"])

    @property
    def is_last_best(self) -> bool:
        """Whether the checkpoint was written after the best epoch, and not after a later one."""
        return self.state is not None and self.state.name == self.best.name

    @property
    def columns(self) -> Columns:
        """What its backbone reads."""
        return columns_of(self.policy, self.numeric)


@dataclass(frozen=True)
class Carried:
    """What of an earlier run a training continues, for people.

    Args:
        moved: By table, how many of its rows continue an earlier row.
        new_tables: Tables that continue none.
        left_tables: Tables of the earlier run that nothing continues.
        new_parameters: Parameters outside of tables that start anew.
        optimizer_state: Whether optimizer state was carried.
    """

    moved: Mapping[str, int]
    new_tables: tuple[str, ...]
    left_tables: tuple[str, ...]
    new_parameters: tuple[str, ...]
    optimizer_state: bool


def columns_of(policy: Policy, numeric: tuple[str, ...]) -> Columns:
    """What the backbone of a policy reads."""
    return Columns(numeric, tuple(f.name for f in policy.features), policy.widths)


def mean_starts_anew(asked: bool | None, fit: FitSettings, out: Path | None = None) -> bool:
    """Whether the running mean of a warm start begins at the weights of the earlier run.

    Args:
        asked: What the caller says; None: as the run in ``out`` recorded, and in a new run if there
            is a running mean. A run of a release that did not ask recorded nothing: its mean goes
            on.
        fit: How the run is trained.
        out: The run folder.

    Raises:
        ValueError: It is to start anew and the settings keep none; or ``run.json`` is damaged.
    """
    if asked and not fit.average:
        raise ValueError(
            "--mean-anew with --average 0, which keeps no running mean; leave one of them out"
        )
    if asked is not None:
        return asked
    if out is not None and (out / RUN_FILE).exists():
        return bool(read_object(out / RUN_FILE, {}).get("mean_anew"))
    return bool(fit.average)


def open_earlier(run: Path) -> Earlier:
    """The state of a finished training run, to be continued.

    It is the checkpoint of the best epoch. If later epochs have replaced it, the best weights are
    continued with the optimizer state of the last checkpoint; without any checkpoint, alone.

    Raises:
        RunError: The folder is not a finished training run, or of an earlier release.
        ValueError: One of its records is damaged.
    """
    best = Checkpoints(run / BEST_FOLDER).steps()
    if not (run / RESULT_FILE).exists() or not best:
        raise unfinished(run)
    required = {"model": dict, "fit": dict, "method": str, "preparation": dict, "numeric": list}
    asked = read_object(run / RUN_FILE, required)
    try:
        model = ModelSettings.from_json(asked["model"])
        fit = FitSettings(**asked["fit"])
    except (TypeError, ValueError, KeyError) as error:
        raise RunError(f"{run / RUN_FILE}: not the settings of a training ({error})") from error
    if not all(isinstance(name, str) for name in asked["numeric"]):
        raise RunError(f"{run / RUN_FILE}: numeric is {asked['numeric']!r:.60}; allowed: names")
    steps = Checkpoints(run / CHECKPOINTS_FOLDER).steps()
    step = best[-1] if best[-1] in steps else next(iter(steps[-1:]), None)
    name = f"step-{best[-1]:09d}"
    policy = Policy.load(run / POLICY_FILE)
    return Earlier(
        run,
        policy,
        _trained(run, asked.get("trained_policy")) or policy,
        asked["method"],
        Training(model, fit),
        tuple(asked["numeric"]),
        asked["preparation"],
        None if step is None else run / CHECKPOINTS_FOLDER / f"step-{step:09d}",
        run / BEST_FOLDER / name,
        {},
    )


def _trained(run: Path, digest: Any) -> Policy | None:
    """The policy with rows of candidates that a run was trained with; None if it has no such rows.

    Args:
        run: The folder of the run.
        digest: What its ``run.json`` says of that policy.
    """
    path = run / TRAINED_FILE
    if digest is None and not path.exists():
        return None
    found = Policy.load(path) if path.exists() else None
    if found is None or document_digest(found.to_json()) != digest:
        raise RunError(
            f"{path}: missing or changed, so the rows of the run cannot be told apart; restore the "
            "file"
        )
    return found
