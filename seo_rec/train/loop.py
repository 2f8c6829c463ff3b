"""``fit``: the one training loop of methods, searches and appliers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from seo_rec.data.stream import Stream
from seo_rec.metrics import LabelsMetrics, Metrics, RegressionMetrics
from seo_rec.schema import QUALITY_NAMES, REGRESSION
from seo_rec.settings import FitSettings
from seo_rec.train.after_step import AfterStep
from seo_rec.train.average import WeightAverage
from seo_rec.train.checkpoint import claimed, load_tensors
from seo_rec.train.evaluation import (
    LOWER,
    NOT_EVALUATED,
    evaluate,
    multi_task_of,
    require_labels,
    require_loss_of,
    require_quality,
    score_of,
)
from seo_rec.train.lost_ranks import loss_said
from seo_rec.train.outputs import RunFiles
from seo_rec.train.parts import Parts, earlier_steps_of
from seo_rec.train.progress import EpochLines, figures_in
from seo_rec.train.ranks import ranks, ranks_of
from seo_rec.train.run_state import FitResult, Progress, named, position
from seo_rec.train.saved import Saved
from seo_rec.train.schedule import set_learning_rates, total_steps
from seo_rec.train.state import (
    copy_into,
    drop_caches,
    local_tensors,
    weights_of,
)
from seo_rec.train.steps import Step, make_steps, without_autograd_notice
from seo_rec.train.stopping import Preempted, stop_signal

log = logging.getLogger(__name__)
SYNC_EVERY = 20  # steps between looks at the losses of a GPU, each of which waits for it
SEED_STEP = 1_000_033  # between the dropout seeds of two ranks


@without_autograd_notice()
def fit(
    model: nn.Module,
    train: Stream,
    val: Stream | None,
    optimizers: Mapping[str, torch.optim.Optimizer],
    settings: FitSettings,
    *,
    out: Path | None = None,
    after_step: AfterStep | None = None,
    title: str = "train",
    first: Saved | None = None,
) -> FitResult:
    """Train ``model`` and leave it with the weights of its best validation epoch.

    A search whose ``after_step.keeps_best`` is False leaves it with those of the last epoch.

    One process trains a :class:`RecModel`; several train what :func:`distribute` made of it, each
    with its share of the streams. N steps equal k steps, a kill, a resume and N - k steps, bit for
    bit on CPU with the same number of processes. With ``out``, a run found there is resumed,
    ``metrics.jsonl``, TensorBoard events, ``checkpoints/`` and ``best/`` are written.

    Args:
        model: trained in place, on the device where it is.
        train, val: streams over the training and validation split. Without ``val`` nothing is
            evaluated, all epochs are run, and the model ends with the weights of the last one.
        optimizers: each steps once per batch.
        settings: see :class:`FitSettings`.
        out: folder of the run, or None to write nothing.
        after_step: called after each optimizer step; see :class:`AfterStep`.
        title: words before the progress bar.
        first: what a run without checkpoints goes on from, with ``out``.

    Raises:
        CheckpointError: the newest checkpoint of ``out`` is damaged, or one cannot be written, or
            another process trains the run in ``out``.
        ValueError: the run in ``out`` is past ``max_steps`` and has no evaluated weights to end
            with, or ``average`` is set for a search that ends with its last weights.
        FloatingPointError: the loss is not finite.
        LostRankError: another rank was killed, failed or does not answer in time.
        Preempted: SIGTERM came; with ``out``, a checkpoint has been written.
    """
    run: _Fit | None = None
    at_step = loss_said(lambda: f"at step {run.state.step}" if run else "")
    with at_step, stop_signal() as stop, claimed(out, ranks()):
        run = _Fit(
            model,
            train,
            val,
            optimizers,
            settings,
            out=out,
            after_step=after_step,
            title=title,
            stop=stop,
        )
        run.resume(first)
        while not run.finished():
            run.epoch()
        return run.result()


class _Fit:
    """One call of :func:`fit`: what it was given, and where it stands."""

    def __init__(
        self,
        model: nn.Module,
        train: Stream,
        val: Stream | None,
        optimizers: Mapping[str, torch.optim.Optimizer],
        settings: FitSettings,
        *,
        out: Path | None,
        after_step: AfterStep | None,
        title: str,
        stop: threading.Event,
    ) -> None:
        self.model, self.train, self.val, self.optimizers = model, train, val, optimizers
        self.settings, self.title, self.stop = settings, title, stop
        self.after_step = after_step or AfterStep()
        self.ranks = ranks_of(model)
        torch.manual_seed(settings.seed + SEED_STEP * self.ranks.rank)
        self.state = Progress()
        self.earlier_steps = 0  # of the run that this one goes on from
        self.regression = train.schema.label_kind == REGRESSION
        require_loss_of(model, self.regression)
        self.multi_task = multi_task_of(model)
        require_labels(self.multi_task, train)
        self.quality = QUALITY_NAMES[train.schema.label_kind]
        self.lines = EpochLines(title, settings.epochs, self.ranks.first, self.quality)
        self.started = time.perf_counter()
        self.mean = WeightAverage(model, settings.average, optimizers)
        self.parts = Parts(model, optimizers, self.mean, self.after_step, train, self.ranks)
        self.folder = RunFiles(out, settings.keep, self.ranks) if out else None
        self.best: list[torch.Tensor] = []
        # of the weights to end with, unless they are in best/
        self.kept_val: Metrics | RegressionMetrics | None = None
        self.done = 0  # steps of the stream's epoch
        if settings.average and not self.after_step.keeps_best:
            raise ValueError(
                f"average {settings.average} with a search that ends with the weights of its last "
                "step; allowed: 0, because it keeps no running mean"
            )
        alone = not self.after_step.calls_model
        self.steps = make_steps(model, optimizers, self.ranks, alone, settings.clip_norm)
        self.sync_every = 1 if self.ranks.device.type == "cpu" else SYNC_EVERY

    def finished(self) -> bool:
        state, settings = self.state, self.settings
        stale = state.epoch - 1 - max(state.best_epoch, state.changed_epoch)
        done = state.epoch >= settings.epochs or (state.epoch > 0 and stale >= settings.patience)
        return done or (settings.max_steps > 0 and state.step >= settings.max_steps)

    def epoch(self) -> None:
        """Train to the end of the epoch, evaluate, keep what the run may end with."""
        state = self.state
        seconds = self._train_epoch()
        state.seconds_per_epoch.append(seconds)
        with self.mean.applied():
            metrics = NOT_EVALUATED if self.val is None else evaluate(self.model, self.val)[0]
            if self.val is not None:
                require_quality(metrics, self.val)
            if not self.after_step.keeps_best:
                self.kept_val = metrics
            score = score_of(metrics, self.settings.keep_by)
            if self.val is None or score > state.best_auc or state.best_epoch < 0:
                state.best_auc, state.best_epoch = score, state.epoch
                state.best_step = state.step
                if self.after_step.keeps_best:
                    self._keep_best(metrics)
            if self.after_step.after_epoch(metrics):
                state.changed_epoch = state.epoch
        record = {
            "event": "epoch",
            "epoch": state.epoch,
            "step": state.step,
            "train_loss": state.loss_sum / max(1, state.loss_rows),
            **({f"val_{k}": v for k, v in asdict(metrics).items()} if self.val else {}),
            "seconds": seconds,
            "examples_per_s": state.loss_rows / seconds,
        }
        if self.ranks.first:
            log.info("%s epoch %d: %s", self.title, state.epoch + 1, figures_in(record))
        if self.val:
            self.lines.after(state.epoch, metrics.quality)
        state.epoch += 1
        state.loss_sum, state.loss_rows, state.epoch_seconds = 0.0, 0, 0.0
        if self.folder:
            self.folder.log(record)
        self.checkpoint()

    def _train_epoch(self) -> float:
        """The steps that are left of the epoch; its training seconds."""
        state, settings, train = self.state, self.settings, self.train
        self.model.train()
        self.done, ahead = train.step, list[Step]()
        started = time.perf_counter() - state.epoch_seconds
        self.lines.begin(state.epoch + state.loss_rows / train.num_rows)
        with tqdm(
            total=train.num_rows,
            unit="ex",
            unit_scale=True,
            disable=None if self.ranks.first else True,
            leave=False,
            desc=f"{self.title} epoch {state.epoch + 1}/{settings.epochs}",
            initial=state.loss_rows,
        ) as bar:
            self._set_learning_rates()
            for step in self.steps(train):
                state.step, self.done = state.step + 1, self.done + 1
                self.mean.update(self.earlier_steps + state.step)
                self.after_step(self.model, state.step)
                ahead.append(step)
                last = state.step == settings.max_steps
                due = settings.checkpoint_every and state.step % settings.checkpoint_every == 0
                if len(ahead) == self.sync_every or due or last or self.done == len(train):
                    stop = self._account(ahead)
                    bar.update(sum(s.rows for s in ahead))
                    self.lines.within(state.epoch, state.loss_rows / train.num_rows)
                    ahead.clear()
                    # the last step of an epoch is saved after its evaluation
                    if (due or stop) and self.done < len(train) and not last:
                        state.epoch_seconds = time.perf_counter() - started
                        self.checkpoint()
                    if stop and self.done < len(train):
                        self._leave()
                if last:
                    break
                self._set_learning_rates()
        return time.perf_counter() - started

    def _set_learning_rates(self) -> None:
        total = total_steps(self.settings, len(self.train))
        set_learning_rates(self.optimizers, self.state.step, self.settings, total)

    def _account(self, steps: list[Step]) -> bool:
        """Add up and log the losses of steps; whether a rank was told to stop.

        Raises:
            FloatingPointError: a loss is not finite; on every rank.
        """
        asked = torch.tensor(float(self.stop.is_set()), device=self.ranks.device)
        *losses, stop = self.ranks.mean_(torch.stack([*(s.loss for s in steps), asked])).tolist()
        for i, (value, step) in enumerate(zip(losses, steps, strict=True)):
            if not np.isfinite(value):
                raise FloatingPointError(f"the training loss became {value}; {LOWER}")
            self.state.loss_sum += value * step.rows
            self.state.loss_rows += step.rows
            number = self.state.step - len(steps) + 1 + i
            if self.folder and number % self.settings.log_every == 0:
                self.folder.log({"event": "step", "step": number, "train_loss": value})
        return bool(stop > 0)

    def _keep_best(self, metrics: Metrics | RegressionMetrics) -> None:
        if self.folder:
            self.folder.checkpoints.wait()  # it may name best weights that are dropped now
            values = {"val": asdict(metrics)}
            self.folder.best.save(self.state.step, named("model", weights_of(self.model)), values)
        else:
            self.best = [t.clone() for t in local_tensors(weights_of(self.model))]
            self.kept_val = metrics

    def result(self) -> FitResult:
        """Put the best weights back if they were kept, and say how it went."""
        weights, kept_val = weights_of(self.model), self.kept_val
        if self.folder:
            self.folder.close()
        if self.folder and self.after_step.keeps_best:
            saved = self.folder.best.open(self.state.best_step)
            kept_val = saved.record(self._metrics_kind, "val")
            load_tensors(saved, named("model", weights), self.ranks)
        elif self.after_step.keeps_best:
            copy_into(weights, self.best)
        drop_caches(self.model)
        assert kept_val is not None
        return FitResult(
            kept_val,
            self.state.best_epoch,
            self.state.epoch,
            self.state.step,
            float(np.median(self.state.seconds_per_epoch)),
            self._spent(),
        )

    @property
    def _metrics_kind(self) -> type[Metrics | RegressionMetrics]:
        if self.val is None:
            return Metrics  # of nothing
        if self.regression:
            return RegressionMetrics
        return Metrics if self.multi_task is None else LabelsMetrics

    def _spent(self) -> float:
        return time.perf_counter() - self.started

    # ---- checkpoints -----------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Save everything that the next step depends on."""
        if not self.folder:
            return
        self.state.seconds = self._spent()
        values: dict[str, Any] = {
            "progress": asdict(self.state),
            "stream": position(self.train, self.done),
            "after_step": self.after_step.values(),
        }
        if self.earlier_steps:
            values["earlier_steps"] = self.earlier_steps
        if self.kept_val:
            values["val"] = asdict(self.kept_val)
        self.folder.checkpoints.save(self.state.step, self.parts.tensors(), values)

    def resume(self, first: Saved | None) -> None:
        """Go on from the newest checkpoint, or else from ``first``, if there is one."""
        if not self.folder:
            return
        saved = self.folder.checkpoints.latest() or first
        if saved:
            with saved.fitting():
                self._restore(saved)
            if self.ranks.first and saved is not first:
                log.info(
                    "resumed %s at epoch %d, step %d",
                    saved.folder,
                    self.state.epoch,
                    self.state.step,
                )
        within = self.state.loss_rows > 0  # the epoch has begun and was not evaluated
        unevaluated = self.state.best_epoch < 0 or (within and not self.after_step.keeps_best)
        if self.finished() and unevaluated:
            raise ValueError(
                f"epochs is {self.settings.epochs}, max_steps is {self.settings.max_steps} and the "
                f"run stands at step {self.state.step}, within an epoch that was not evaluated, so "
                f"it has no weights to end with; allowed: a max_steps of more than "
                f"{self.state.step}, or 0, and more epochs than {self.state.epoch}"
            )
        self.folder.drop_after(self.state.step)

    def _restore(self, saved: Saved) -> None:
        self.parts.load(saved)
        self.state = saved.record(Progress, "progress")
        self.earlier_steps = earlier_steps_of(saved)
        kind = self._metrics_kind
        self.kept_val = saved.record(kind, "val") if "val" in saved.values else None
        self.started = time.perf_counter() - self.state.seconds

    def _leave(self) -> None:
        if self.folder:
            self.folder.checkpoints.wait()
            raise Preempted(
                f"SIGTERM at step {self.state.step}; a checkpoint was written, --resume goes on"
            )
        raise Preempted(f"SIGTERM at step {self.state.step}; nothing of this training was saved")
