"""The trainings of a run-off: every candidate is scored once, its score kept, and compared."""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from seo_rec.data.dataset import DataSet
from seo_rec.files import write_bytes, write_json
from seo_rec.metrics import auc_gain
from seo_rec.policy import Policy
from seo_rec.search.progress import Progress
from seo_rec.search.run_off.candidates import Candidate
from seo_rec.search.run_off.crossed import crosses_of_candidate
from seo_rec.search.run_off.kept import Floats, Score, read_logits, read_score
from seo_rec.search.run_off.schedule import Length, haste
from seo_rec.search.run_off.settings import RunOff
from seo_rec.search.worth import worth_of_features
from seo_rec.settings import settled
from seo_rec.train import (
    FitSettings,
    Training,
    eval_stream,
    evaluate,
    fit_policy,
    inner_model,
    ranks,
    store_,
    train_stream,
)

log = logging.getLogger(__name__)

TRAINING = "-training"  # ends the names of folders with checkpoints
SECOND_SEED = 7919  # between the seeds of a candidate's two trainings


class Contest:
    """Candidates, and their scores as far as they are trained.

    Args:
        data: The data set.
        candidates: The first one is the one to beat.
        settings: How the winner is found.
        training: Every candidate is trained so, for at most ``settings.epochs``.
        folder: Where scores are kept; a candidate that is scored there is not trained again.
        changes: Fields of the fit settings that differ for a candidate, by its name.

    ``at_last`` says that the trainings that follow are the last, for figures of finalists alone;
    ``short`` that they have the higher rates of short ones
    (:func:`~seo_rec.search.run_off.schedule.haste`), and ``goes_on`` that each goes on with the
    training of its candidate before. ``ends`` has the steps of whole trainings that are cut short.
    """

    def __init__(
        self,
        data: DataSet,
        candidates: Sequence[Candidate],
        settings: RunOff,
        training: Training,
        folder: Path,
        changes: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self.at_last, self.short, self.goes_on = False, False, False
        # steps and seconds of the trainings that can go on
        self._begun: dict[str, tuple[int, float]] = {}
        self.changes, self.ends = dict(changes or {}), dict[str, int]()
        self.data, self.settings, self.folder = data, settings, folder
        self.training = training
        self.candidates = {c.name: c for c in candidates}
        self.set_length(settings.shortened(training))
        self.labels, self.weights = data.labels_and_weights("val")
        self.distinct = len({c.policy for c in candidates})
        self.scores: dict[str, Score] = {}
        ranks().on_first(lambda: folder.mkdir(parents=True, exist_ok=True))

    def set_length(self, once: Training, *, short: bool = False, goes_on: bool = False) -> None:
        """From now on candidates are compared by trainings like ``once``."""
        self.short, self.goes_on = short, goes_on
        self.once, self.again = once, once.with_seed(once.fit.seed + SECOND_SEED)

    @property
    def floats(self) -> int:
        """Of the tables of the largest candidate, by which ``auto`` chooses their optimizer."""
        return max(candidate.policy.num_params for candidate in self.candidates.values())

    def different(self) -> list[str]:
        """Candidates that are not equal to an earlier one; the others are noted as equal."""
        first_of: dict[Policy, str] = {}
        for name, candidate in self.candidates.items():
            same = first_of.setdefault(candidate.policy, name)
            if same != name:
                params = candidate.policy.num_params
                self.scores[name] = {"same_as": same, "params": params}
        return list(first_of.values())

    def train(self, name: str) -> tuple[Score, bool]:
        """Score a candidate; its score, and whether it was trained now and not kept from before."""
        fresh = not self._is_scored(name, self.once)
        score, _ = self._score(name, self.once)
        if self.goes_on:
            self._begun[name] = score["steps"], self._seconds_of(name) + score["seconds"]
        self.scores.setdefault(name, {"origin": dict(self.candidates[name].origin)})
        self.scores[name] |= score
        return score, fresh

    def begun(self, name: str) -> int:
        """Steps of the candidate's training that the next one goes on from."""
        return self._begun.get(name, (0, 0.0))[0] if self.goes_on else 0

    def _seconds_of(self, name: str) -> float:
        return self._begun.get(name, (0, 0.0))[1] if self.goes_on else 0.0

    def train_all(self) -> list[str]:
        """Score every candidate once; the names of those that are not equal to an earlier one."""
        names = self.different()
        progress = Progress("candidates", self.distinct)
        for name in names:
            score, fresh = self.train(name)
            progress.done(f"{name}, validation AUC {score['val_auc']:.5f}", fresh)
        return names

    def compare(self, names: Iterable[str], incumbent: str) -> None:
        """Note the gain of every candidate over ``incumbent``, by one training of each."""
        for name in names:
            gain, error = self.gain(name, incumbent, twice=False)
            known = None if np.isnan(error) else error
            self.scores[name] |= {"against": incumbent, "gain": gain, "standard_error": known}

    def gain(self, name: str, incumbent: str, *, twice: bool) -> tuple[float, float]:
        """Gain in validation AUC over ``incumbent`` and its standard error, over paired rows.

        With ``twice`` the mean of two trainings is compared, of which the second has another seed.
        """
        trainings = (self.once, self.again) if twice else (self.once,)
        return auc_gain(
            self._logits(name, trainings),
            self._logits(incumbent, trainings),
            self.labels,
            weights=None if (self.weights == 1).all() else self.weights,
        )

    def _logits(self, name: str, trainings: Iterable[Training]) -> Floats:
        return np.stack([self._score(name, training)[1] for training in trainings])

    def _files(self, name: str, training: Training) -> tuple[Path, Path]:
        steps = training.fit.max_steps if self.settings.cost else 0
        length = f"{'-short' if self.short else ''}-steps{steps}" if steps else ""
        stem = f"{name}{length}-seed{training.fit.seed}"
        return self.folder / f"{stem}.json", self.folder / f"{stem}.npy"

    def _hastened(self, fit: FitSettings, policy: Policy) -> FitSettings:
        if not self.short:
            return fit
        factor = haste(settled(fit, policy.num_params))
        return replace(fit, row_lr=factor * fit.row_lr, dense_lr=factor * fit.dense_lr)

    def _is_scored(self, name: str, training: Training) -> bool:
        return ranks().on_first(self._files(name, training)[0].exists)

    def _score(self, name: str, training: Training) -> tuple[Score, Floats]:
        """Validation AUC, size and cost of a candidate trained so, and its validation logits."""
        here, (score, saved) = ranks(), self._files(name, training)
        if not self._is_scored(name, training):
            policy = self.candidates[name].policy
            title = f"{name}, second seed" if training is self.again else name
            changes: dict[str, Any] = dict(self.changes.get(name, {}))
            if self.at_last and name in self.ends:
                changes["max_steps"] = self.ends[name]
            own = replace(training, fit=self._hastened(replace(training.fit, **changes), policy))
            place = self.folder / f"{name}{TRAINING}" if self.goes_on else None
            trained = fit_policy(self.data, policy, own, out=place, title=title)
            if training.model.mlet is None:
                store_(trained.model, policy)  # what is compared is what would be served
            metrics, z, _ = evaluate(trained.model, eval_stream(self.data, "val", policy.columns))
            worth = self._worth(name, trained.model, training)
            seconds = trained.result.seconds - self._seconds_of(name)
            found = {
                "val_auc": metrics.auc,
                "params": policy.num_params,
                "num_bytes": policy.num_bytes,
                "seconds": seconds,
            }
            if self.settings.cost:
                found["steps"] = trained.result.steps
            if self.goes_on:
                found["begun"] = self.begun(name)
            if worth:
                found["worth"] = worth

            def keep() -> None:
                content = io.BytesIO()
                np.save(content, z, allow_pickle=False)
                write_bytes(saved, content.getvalue())
                write_json(score, found)

            here.on_first(keep)
        return here.on_first(lambda: (read_score(score), read_logits(saved)))

    def _worth(self, name: str, model: nn.Module, training: Training) -> dict[str, float]:
        """What every cross of a finalist is worth to its model, in log loss."""
        candidate = self.candidates[name]
        if not (self.at_last and (taken := crosses_of_candidate(candidate))):
            return {}
        policy = candidate.policy
        places = [f.name for f in policy.features]
        shuffled = train_stream(self.data, training.fit, policy.columns, split="val")
        worth = worth_of_features(
            inner_model(model),
            policy.widths,
            shuffled,
            which=[places.index(cross) for cross in taken],
        )
        return dict(zip(taken, worth, strict=True))

    def seconds(self) -> float:
        """Time of all trainings whose scores are kept."""
        return float(sum(score["seconds"] for score in self._kept()))

    def rows(self) -> int:
        """Rows that all trainings read whose scores are kept, where those say their steps."""
        length = self.length()
        return sum(
            length.rows(score.get("steps", 0)) - length.rows(score.get("begun", 0))
            for score in self._kept()
        )

    def _kept(self) -> list[Score]:
        return ranks().on_first(lambda: [read_score(p) for p in sorted(self.folder.glob("*.json"))])

    def forget_trainings(self) -> None:
        """Remove the checkpoints of trainings that no round goes on with."""

        def remove() -> None:
            for place in self.folder.glob(f"*{TRAINING}"):
                shutil.rmtree(place)

        ranks().on_first(remove)

    def beside(
        self,
        candidates: Sequence[Candidate],
        folder: str,
        changes: Mapping[str, Mapping[str, float]],
    ) -> Contest:
        """Trainings at rates that are being chosen, in a folder of this contest."""
        place = self.folder / folder
        return Contest(self.data, candidates, self.settings, self.training, place, changes)

    def length(self) -> Length:
        """The length of one whole training."""
        return whole_length(self.data, self.settings.shortened(self.training))

    def first_to_beat(self, names: Sequence[str]) -> str:
        """The first candidate, or one of both kinds with a better mean AUC of two trainings."""
        winner = names[0]
        for name in names:
            if self.candidates[name].of_both_kinds:
                gain = self.gain(name, winner, twice=True)[0]
                self.scores[name]["gain_over_first"] = gain
                winner = name if gain > 0 else winner
        return winner

    def best_of(self, rivals: Sequence[str], incumbent: str) -> str:
        """The rival that beats ``incumbent`` clearly, else the incumbent.

        Where there is no limit, it must do so on the mean of two trainings as well.
        """
        limit = self.settings.standard_errors
        self.compare(rivals, incumbent)
        if any(self.scores[name]["standard_error"] is None for name in rivals):
            self._say_undecided(incumbent)
            return incumbent
        for name in sorted(rivals, key=lambda n: -self.scores[n]["gain"]):
            if self.scores[name]["gain"] <= limit * self.scores[name]["standard_error"]:
                continue
            if self.settings.cost:
                return name
            gain, error = self.gain(name, incumbent, twice=True)
            self.scores[name] |= {"gain_of_two": gain, "standard_error_of_two": error}
            if gain > limit * error:
                return name
        return incumbent

    def _say_undecided(self, incumbent: str) -> None:
        positives = int(self.labels.sum())
        if ranks().first:
            log.warning(
                "the validation split has %d positive and %d negative rows, too few to decide: %s "
                "is kept because nothing can beat it, not because it is better; prepare the data "
                "with a larger share of validation rows",
                positives,
                self.labels.size - positives,
                incumbent,
            )


def whole_length(data: DataSet, training: Training) -> Length:
    """The length of one training, for all processes together."""
    fit, stream = training.fit, train_stream(data, training.fit)
    rows = data.schema.num_rows["train"]
    return Length(fit.epochs, len(stream), rows, fit.batch_size, fit.max_steps)
