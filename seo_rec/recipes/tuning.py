"""Tune how a model is trained: many trainings, chosen by Optuna, compared on validation rows.

A folder of it::

    TUNING/  run.json (kind tune)  settings.json  journal.log  tune.json  tuned.json  policy.json
             trials/<number>/: a TRAINING each; the best one has result.json and its weights

Test rows are read once, by the best trial, when all trials are done. Processes that are given the
same folder share the trials (:mod:`seo_rec.recipes.trials`).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from seo_rec.data.dataset import DataSet, require_opened
from seo_rec.environment import stamp
from seo_rec.files import finite, write_json
from seo_rec.metrics import Metrics
from seo_rec.policy import Allowance, Policy, PolicyError
from seo_rec.recipes.training import OWN_BUDGET, asked_for, check_before, for_label, train
from seo_rec.recipes.trials import RESULT, WHY, Asked, Pruned, Trials, best_of, values_of
from seo_rec.recipes.tuning_space import (
    TUNED_NAMES,
    WIDTHS,
    Subject,
    Value,
    check_names,
    space,
)
from seo_rec.runs import Run, RunError, claim_run, command_line
from seo_rec.runs.layout import (
    BEST_FOLDER,
    BOARD_FOLDER,
    CHECKPOINTS_FOLDER,
    POLICY_FILE,
    TUNE_FILE,
    trial_folder,
)
from seo_rec.search.progress import say
from seo_rec.train import (
    Start,
    TooLargeError,
    Training,
    check_storage,
    fit_policy,
    ranks,
    with_storage,
)
from seo_rec.train.after_step import AfterStep
from seo_rec.train.evaluation import score_of

log = logging.getLogger(__name__)

NOT_TRAINABLE = (FloatingPointError, PolicyError, TooLargeError, ValueError)
PolicyOf = Callable[[int], Policy]


@dataclass(frozen=True)
class Tuning:
    """What :func:`tune` is asked for.

    Args:
        data: The data set.
        policy_of: The policy at a width in floats; it raises PolicyError or ValueError where there
            is none.
        training: The model, and how the first trial is trained; the others change it.
        dim: Width of the first trial.
        method: Who decides the policy, for reports.
        budget: Parameters or bytes that were asked for; None for a method whose size follows from
            the data, ``OWN_BUDGET`` for the one that the policy was made for.
        trials: Trainings in all.
        names: What is tuned, some of ``TUNED_NAMES``.
    """

    data: DataSet
    policy_of: PolicyOf
    training: Training
    dim: int = 16
    method: str = "policy"
    budget: int | Allowance | None = OWN_BUDGET
    trials: int = 20
    names: tuple[str, ...] = TUNED_NAMES

    def __post_init__(self) -> None:
        require_opened(self.data, "Tuning")

    @property
    def subject(self) -> Subject:
        """The training of the first trial, and what its values may be changed to."""
        return Subject(self.training, self.dim, self.policy_of(self.dim).num_params)

    def widths(self) -> list[int]:
        """The widths for which there is a policy."""
        return [dim for dim in WIDTHS if self._has_policy(dim)]

    def _has_policy(self, dim: int) -> bool:
        try:
            self.policy_of(dim)
        except (PolicyError, ValueError):
            return False
        return True


@dataclass(frozen=True)
class Tuned:
    """What a tuning came to.

    Args:
        training: The best training.
        dim: Its width.
        policy: Its policy.
        number: Of its trial.
        values: What was tuned, and the best values.
        run: Its outcome on validation and test rows; None where test rows are not read.
    """

    training: Training
    dim: int
    policy: Policy
    number: int
    values: Mapping[str, Value]
    run: Run | None


def tune(tuning: Tuning, out: Path, *, resume: bool = False, test: bool = True) -> Tuned | None:
    """Train the trials that ``out`` lacks, and return the best.

    Resumable: called again with the same ``out`` it goes on where it stopped, and more trials may
    be asked for. Several processes may call it at the same time with the same ``out``.

    Args:
        tuning: What is tuned.
        out: The folder.
        resume: Whether ``out`` may hold this tuning already.
        test: Whether test rows are read, once, with the weights of the best trial.

    Returns:
        The best; None if other processes still train trials, the last of which ends the tuning.

    Raises:
        DataError: A split has no rows, or the validation split rows of one label only.
        RunError: ``out`` holds something else, or no trial could be trained.
        ValueError: A name that cannot be tuned, or less than one trial.
    """
    check_names(tuning.names)
    if tuning.trials < 1:
        raise ValueError(f"{tuning.trials} trials; allowed: 1 or more")
    training = for_label(tuning.training, tuning.data)
    if (here := ranks()).world_size > 1:
        raise ValueError(
            f"tuning in a launch of {here.world_size} processes; allowed: processes that are "
            "started alone and share a folder, as `seo-rec tune` and its TorchX component are"
        )
    policy = tuning.policy_of(tuning.dim)
    training = with_storage(training, policy, out=out)
    tuning = replace(tuning, training=training)
    check_storage(policy, training)
    check_before(tuning.data, policy, training)
    tuning.data.check_numbers()
    claim_run(out, _asked(tuning, policy), resume)
    subject = tuning.subject
    rows = tuning.data.schema.num_rows["train"]
    ranges = space(subject, tuning.names, rows, tuning.widths() if "dim" in tuning.names else [])
    trials = Trials(out, ranges, subject.values, training.fit.seed)
    while True:
        with trials.next(tuning.trials) as asked:
            if asked is None:
                break
            _train_trial(tuning, subject, trials, asked, out)
        _clean(trials, out)
    return _ended(tuning, subject, trials, out, test)


def _asked(tuning: Tuning, policy: Policy) -> dict[str, Any]:
    """Everything that decides the trials but their number, which may grow."""
    asked = asked_for(tuning.data, policy, tuning.training, tuning.method, Start())
    return {**asked, "kind": "tune", "dim": tuning.dim, "tune": list(tuning.names)}


# ---- one trial -----------------------------------------------------------------------------


class _Watch(AfterStep):
    """Reports every epoch of a trial, and gives the trial up where it is far behind."""

    def __init__(self, trials: Trials, asked: Asked, keep_by: str) -> None:
        self.trials, self.asked, self.keep_by = trials, asked, keep_by
        self.epochs = 0

    def after_epoch(self, metrics: Metrics) -> bool:
        """Raises Pruned where the trial is given up."""
        self.epochs += 1
        self.trials.report(self.asked, score_of(metrics, self.keep_by), self.epochs - 1)
        return False

    def values(self) -> dict[str, Any]:
        """The number of epochs, for a checkpoint."""
        return {"epochs": self.epochs}

    def load(self, tensors: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Go on after so many epochs."""
        self.epochs = int(values["epochs"])


def _train_trial(tuning: Tuning, subject: Subject, trials: Trials, asked: Asked, out: Path) -> None:
    folder, title = trial_folder(out, asked.number), f"trial {asked.number}"
    chosen = {name: _shown(value) for name, value in asked.values.items()}
    shown = ", ".join(f"{name} {value}" for name, value in chosen.items())
    try:
        changed = subject.with_values(asked.values)
        policy, training = tuning.policy_of(changed.dim), changed.training
        claim_run(
            folder, asked_for(tuning.data, policy, training, tuning.method, Start()), resume=True
        )
        policy.save(folder / POLICY_FILE)
        watch = _Watch(trials, asked, training.fit.keep_by)
        trained = fit_policy(
            tuning.data, policy, training, out=folder, title=title, after_step=watch
        )
    except Pruned:
        trials.tell_pruned(asked, {})
        say(f"{title} of {tuning.trials}: {shown}: given up, worse than the median")
        return
    except NOT_TRAINABLE as error:
        trials.tell_failed(asked, str(error))
        log.warning("%s (%s) failed: %s", title, shown, error)
        return
    result = trained.result
    score = score_of(result.val, training.fit.keep_by)
    outcome = {
        "val": finite(asdict(result.val)),
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "seconds": result.seconds,
        "num_bytes": policy.num_bytes,
    }
    trials.tell(asked, score, outcome)
    say(f"{title} of {tuning.trials}: {shown}: {tuning_quality(training)} {abs(score):.5f}")


def tuning_quality(training: Training) -> str:
    """The name of the number by which trials are compared."""
    if training.fit.keep_by == "logloss":
        return "validation log loss"
    return "validation R2" if training.model.regression else "validation AUC"


def _shown(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _clean(trials: Trials, out: Path) -> None:
    """Remove the weights of finished trials that are not the best."""
    every = trials.all  # one look, so that no better trial is told between two
    best = best_of(every)
    for trial in every:
        if trial.state == TrialState.RUNNING or (best and trial.number == best.number):
            continue
        for name in (CHECKPOINTS_FOLDER, BEST_FOLDER, BOARD_FOLDER):
            shutil.rmtree(trial_folder(out, trial.number) / name, ignore_errors=True)


# ---- the end -------------------------------------------------------------------------------


def _ended(tuning: Tuning, subject: Subject, trials: Trials, out: Path, test: bool) -> Tuned | None:
    """The best trial, when no other process still trains one."""
    every = trials.all
    best = best_of(every)
    if any(t.state == TrialState.RUNNING for t in every):
        return None
    if best is None:
        reasons = [str(t.user_attrs[WHY]) for t in every if WHY in t.user_attrs]
        raise RunError(
            f"{out}: none of {len(every)} trials could be trained: {'; '.join(reasons[:1])}"
        )
    values = values_of(best)
    chosen = subject.with_values(values)
    policy, training = tuning.policy_of(chosen.dim), chosen.training
    run = None
    with trials.alone():
        if test:
            run = train(
                tuning.data,
                policy,
                trial_folder(out, best.number),
                training,
                method=tuning.method,
                resume=True,
                budget=tuning.budget,
            )
        policy.save(out / POLICY_FILE)
        write_json(out / TUNE_FILE, _record(tuning, trials, best, run))
    return Tuned(training, chosen.dim, policy, best.number, values, run)


def _record(tuning: Tuning, trials: Trials, best: FrozenTrial, run: Run | None) -> dict[str, Any]:
    """What ``tune.json`` says: every trial, the best, and what mattered."""
    record: dict[str, Any] = finite(
        {
            "method": tuning.method,
            "dataset": tuning.data.schema.dataset,
            "data_fingerprint": tuning.data.fingerprint,
            "quality": tuning_quality(tuning.training),
            "seed": tuning.training.fit.seed,
            "best": best.number,
            "trials": [_trial_record(t) for t in trials.all],
            "importance": trials.importance(),
            "test_quality": None if run is None else run.test_quality,
            "test_loss": None if run is None else run.test_loss,
            "command": command_line(),
            "environment": stamp(),
        }
    )
    return record


def _trial_record(trial: FrozenTrial) -> dict[str, Any]:
    """One trial: its values, its state, and its score, of which more is better."""
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "values": values_of(trial),
        "score": trial.value if trial.state == TrialState.COMPLETE else None,
        "by_epoch": [trial.intermediate_values[k] for k in sorted(trial.intermediate_values)],
        "why": trial.user_attrs.get(WHY, ""),
        **trial.user_attrs.get(RESULT, {}),
    }
