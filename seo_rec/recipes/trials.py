"""The trials of a tuning: an Optuna study in a file, shared by processes that ask and tell.

Every process does the same: it asks for a trial, trains it, tells how good it was. What they have
in common is the folder::

    journal.log        the study, written by Optuna; whoever appends to it locks it
    owners/<number>/   the lock of the process that trains the trial, until it tells or dies
    trials/<number>/   the training itself: run.json, policy.json, metrics.jsonl, checkpoints

A trial that was asked for and never told, and whose lock is free, was left by a process that died:
the next one goes on with it from its checkpoint. With one process, the values of a trial are a
function of the seed, of the number of the trial and of the trials before, so that a tuning which
was interrupted ends as one that was not.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from seo_rec.files import locked
from seo_rec.recipes.tuning_space import Value, Values, as_parameters, as_values
from seo_rec.runs.layout import JOURNAL_FILE, OWNERS_FOLDER

RANDOM_TRIALS = 8  # after which the sampler learns from the trials
WARM_UP_EPOCHS = 2  # of a trial that are never compared with the others
WAIT_S = 0.05  # between two looks at a lock
NAME = "tune"
WHY, RESULT = "why", "result"  # attributes of a trial


class Pruned(Exception):
    """A trial was worse at one of its epochs than the median of the others, and was given up."""


class ByNumber(BaseSampler):
    """Optuna's tree-structured Parzen estimator, seeded anew for every trial.

    The seed of a trial is a function of the seed of the tuning and of its number, so that a process
    which goes on draws what the one before would have drawn, and processes side by side draw
    different values.

    Args:
        seed: Of the tuning.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._number, self._sampler = -1, TPESampler(seed=0)

    def _of(self, trial: FrozenTrial) -> TPESampler:
        if trial.number != self._number:
            state = np.random.SeedSequence([self.seed, trial.number]).generate_state(1)
            self._number = trial.number
            self._sampler = TPESampler(
                seed=int(state[0]),
                n_startup_trials=RANDOM_TRIALS,
                multivariate=True,
                constant_liar=True,  # trials that others train count, as bad ones
            )
        return self._sampler

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As the estimator has it."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values drawn together."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """One value drawn alone."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)


@dataclass(frozen=True)
class Asked:
    """A trial that this process trains.

    Args:
        number: Counted from 0; the first one has the values of the settings as they are given.
        values: By the names of :data:`~seo_rec.recipes.tuning_space.TUNED_NAMES`.
        trial: Of Optuna, to report to.
    """

    number: int
    values: Mapping[str, Value]
    trial: Trial


class Trials:
    """The study in a folder.

    Args:
        out: The folder of the tuning.
        ranges: Of the values.
        first: Values of the first trial.
        seed: Of what is drawn.
    """

    def __init__(
        self, out: Path, ranges: Mapping[str, BaseDistribution], first: Values, seed: int
    ) -> None:
        self.out, self.ranges = out, dict(ranges)
        with self.alone(), quiet():
            self.study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(out / JOURNAL_FILE))),
                study_name=NAME,
                direction="maximize",
                sampler=ByNumber(seed),
                pruner=optuna.pruners.MedianPruner(
                    n_startup_trials=RANDOM_TRIALS // 2, n_warmup_steps=WARM_UP_EPOCHS
                ),
                load_if_exists=True,
            )
            if not self.study.trials:
                self.study.enqueue_trial(as_parameters(first, ranges))

    @contextmanager
    def next(self, limit: int) -> Iterator[Asked | None]:
        """A trial that this process owns within the block; None if all of them have an owner.

        Args:
            limit: Trials in all, of every process and of earlier ones.
        """
        with self.alone(), quiet():
            owner, asked = self._left_behind() or self._fresh(limit) or (None, None)
        if owner is None or asked is None:
            yield None
            return
        try:
            yield asked
        finally:
            owner.__exit__(None, None, None)

    def report(self, asked: Asked, score: float, epoch: int) -> None:
        """Say how good a trial is after an epoch, counted from 0.

        Raises:
            Pruned: It is worse than the median of the others at that epoch.
        """
        with quiet():
            asked.trial.report(score, epoch)
            if asked.trial.should_prune():
                raise Pruned

    def tell(self, asked: Asked, score: float, result: Mapping[str, Any]) -> None:
        """The trial is done; ``result`` has JSON values."""
        asked.trial.set_user_attr(RESULT, dict(result))
        self.study.tell(asked.trial, score)

    def tell_pruned(self, asked: Asked, result: Mapping[str, Any]) -> None:
        """The trial was given up."""
        asked.trial.set_user_attr(RESULT, dict(result))
        self.study.tell(asked.trial, state=TrialState.PRUNED)

    def tell_failed(self, asked: Asked, why: str) -> None:
        """The trial cannot be trained."""
        asked.trial.set_user_attr(WHY, why)
        self.study.tell(asked.trial, state=TrialState.FAIL)

    @property
    def all(self) -> list[FrozenTrial]:
        """Every trial that was asked for, in order."""
        with quiet():
            trials = self.study.get_trials(deepcopy=False)
        return [t for t in trials if t.state != TrialState.WAITING]

    def importance(self) -> dict[str, float]:
        """What share of the variance of the score each name explains; empty if that is unknown.

        Functional ANOVA on a random forest (Hutter, Hoos and Leyton-Brown, ICML 2014), by Optuna,
        over completed trials.
        """
        scores = {t.value for t in self.all if t.state == TrialState.COMPLETE}
        if len(scores) < 4:
            return {}
        with quiet():
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            return dict(optuna.importance.get_param_importances(self.study, evaluator=evaluator))

    # ---- who trains what -------------------------------------------------------------------

    def _left_behind(self) -> tuple[Any, Asked] | None:
        """A trial whose process died."""
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if owner := self._own(frozen.number):
                return owner, self._with_values(Trial(self.study, frozen._trial_id))
        return None

    def _fresh(self, limit: int) -> tuple[Any, Asked] | None:
        """The next trial, unless there are as many as are wanted."""
        if len(self.all) >= limit:
            return None
        trial = self.study.ask()
        owner = self._own(trial.number)
        assert owner is not None
        return owner, self._with_values(trial)

    def _with_values(self, trial: Trial) -> Asked:
        """The trial with all its values; what a process has drawn already is kept."""
        drawn = {name: _draw(trial, name, d) for name, d in self.ranges.items()}
        return Asked(trial.number, as_values(drawn), trial)

    def _own(self, number: int) -> Any:
        owner = locked(self.out / OWNERS_FOLDER / str(number))
        try:
            owner.__enter__()
        except BlockingIOError:
            return None
        return owner

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within the block no other process asks for a trial."""
        with _waiting(lambda: locked(self.out / OWNERS_FOLDER)):
            yield


def _draw(trial: Trial, name: str, distribution: BaseDistribution) -> Value:
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, CategoricalDistribution)
    chosen: Any = trial.suggest_categorical(name, distribution.choices)
    value: Value = chosen
    return value


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The completed trial with the best score; the first of equal ones."""
    done = [t for t in trials if t.state == TrialState.COMPLETE]
    return max(done, key=lambda t: (t.value or 0.0, -t.number), default=None)


def values_of(trial: FrozenTrial) -> dict[str, Value]:
    """The values of a trial, by the names of options."""
    return as_values(trial.params)


@contextmanager
def _waiting(lock: Callable[[], Any]) -> Iterator[None]:
    while True:
        held = lock()
        with suppress(BlockingIOError):
            held.__enter__()
            break
        time.sleep(WAIT_S)
    try:
        yield
    finally:
        held.__exit__(None, None, None)


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block Optuna says nothing: neither each trial nor what of it is experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="optuna")
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(before)
