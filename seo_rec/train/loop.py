"""``fit``: the one training loop of methods, searches and appliers."""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from seo_rec.data.stream import Stream
from seo_rec.files import finite, write_text
from seo_rec.metrics import (
    LabelsMetrics,
    Metrics,
    RegressionMetrics,
    labels_metrics,
    metrics_of,
)
from seo_rec.multi_task import MultiTask
from seo_rec.runs.layout import BEST_FOLDER, BOARD_FOLDER, CHECKPOINTS_FOLDER, METRICS_FILE
from seo_rec.schema import QUALITY_NAMES, REGRESSION
from seo_rec.settings import FitSettings
from seo_rec.train.average import WeightAverage
from seo_rec.train.checkpoint import (
    Checkpoints,
    Saved,
    claimed,
    load_tensors,
    rng_states,
    set_rng_states,
)
from seo_rec.train.lost_ranks import loss_said
from seo_rec.train.progress import EpochLines
from seo_rec.train.ranks import Ranks, ranks, ranks_of
from seo_rec.train.schedule import set_learning_rates, total_steps
from seo_rec.train.sparse_rows import sparse_rows
from seo_rec.train.state import (
    State,
    copy_into,
    drop_caches,
    local_tensors,
    make_room,
    optimizer_state,
    weights_of,
)
from seo_rec.train.steps import Step, make_steps, ready

log = logging.getLogger(__name__)

SYNC_EVERY = 20  # steps between looks at the losses of a GPU, each of which waits for it
LOWER = (
    "lower the learning rates (--lr; in Python row_lr and dense_lr), warm up (--warmup-steps), or "
    "prepare numeric columns of large values with --numeric-transform standard or log"
)
NOT_EVALUATED = Metrics(*(float("nan"),) * 4, num_rows=0)
SEED_STEP = 1_000_033  # between the dropout seeds of two ranks


class Preempted(RuntimeError):
    """The run was told to stop (SIGTERM) and did; the message says whether it can go on."""


@dataclass
class Progress:
    """Where a run stands; part of every checkpoint.

    ``changed_epoch``: the last epoch after which the search said that it still changed.
    ``best_auc``: the AUC of the best epoch, or R2 of a regression label, or minus its log loss
    where that says what is best.
    """

    epoch: int = 0
    step: int = 0
    best_auc: float = float("-inf")
    best_epoch: int = -1
    best_step: int = -1
    changed_epoch: int = -1
    loss_sum: float = 0.0
    loss_rows: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    seconds_per_epoch: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class FitResult:
    """Outcome of a run: validation metrics of the weights that it ends with, and the cost.

    ``seconds_per_epoch`` is the median training time of an epoch, evaluation not included;
    ``seconds`` is all time spent, that of sessions before a resume included.
    """

    val: Any  # Metrics, or RegressionMetrics of a regression label
    best_epoch: int
    epochs: int
    steps: int
    seconds_per_epoch: float
    seconds: float


class AfterStep:
    """What a search adds to the training loop; this one adds nothing. Override what is needed."""

    @property
    def calls_model(self) -> bool:
        """Whether the step runs the model, which then cannot work batches ahead."""
        return False

    @property
    def keeps_best(self) -> bool:
        """Whether ``fit`` keeps the weights of the best epoch and ends with them.

        Otherwise it ends with the weights of the last epoch, and no best ones are written.
        """
        return True

    def __call__(self, model: nn.Module, step: int) -> None:
        """The search's own update, after training step number ``step``."""

    def after_epoch(self, metrics: Metrics) -> bool:
        """Called after each evaluation; whether the search still changed.

        If it did, the patience starts anew, as it does after a better AUC.
        """
        return False

    def tensors(self) -> State:
        """The tensors of the search's state that are neither the model's nor an optimizer's."""
        return {}

    def values(self) -> dict[str, Any]:
        """The plain values of the search's state, for JSON."""
        return {}

    def before_load(self, values: Mapping[str, Any]) -> None:
        """Make the parameters that a checkpoint holds and the model lacks, before it is loaded.

        Args:
            values: What :meth:`values` gave when the checkpoint was written.
        """

    def load(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what ``tensors`` and ``values`` gave; the model has been loaded."""


@contextmanager
def _without_autograd_notice() -> Iterator[None]:
    """torch says that FBGEMM's dense lookup may not be differentiable; the tests show it is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fbgemm::dense_embedding", category=UserWarning)
        yield


@_without_autograd_notice()
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
        _require_loss_of(model, self.regression)
        self.multi_task = multi_task_of(model)
        _require_labels(self.multi_task, train)
        self.quality = QUALITY_NAMES[train.schema.label_kind]
        self.lines = EpochLines(title, settings.epochs, self.ranks.first, self.quality)
        self.started = time.perf_counter()
        self.mean = WeightAverage(model, settings.average, optimizers)
        self.folder = _RunFolder(out, settings.keep, self.ranks) if out else None
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
            if self.val is not None and np.isnan(metrics.quality):
                raise ValueError(
                    f"the {self.val.split} split has {self.val.num_rows} rows of one label only, "
                    f"so it has no {self.quality} to stop at; prepare the data with a larger share "
                    "of validation rows"
                )
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
            log.info("%s epoch %d: %s", self.title, state.epoch + 1, _one_line(record))
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
            self.folder.best.save(self.state.step, _named("model", weights_of(self.model)), values)
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
            load_tensors(saved, _named("model", weights), self.ranks)
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
        tensors = {
            **_named("model", weights_of(self.model)),
            **_named("optimizer", optimizer_state(self.model, self.optimizers)),
            **_named("average", self.mean.state),
            **_named("after_step", self.after_step.tensors()),
            **rng_states(self.ranks),
        }
        values: dict[str, Any] = {
            "progress": asdict(self.state),
            "stream": _position(self.train, self.done),
            "after_step": self.after_step.values(),
        }
        if self.earlier_steps:
            values["earlier_steps"] = self.earlier_steps
        if self.kept_val:
            values["val"] = asdict(self.kept_val)
        self.folder.checkpoints.save(self.state.step, tensors, values)

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
        self.after_step.before_load(saved.values["after_step"])
        state_sizes = _named_in(saved, "optimizer")
        after = {
            name: torch.zeros(size, dtype=dtype)
            for name, (size, dtype) in saved.sizes.items()
            if name.startswith("after_step.")
        }
        # fewer ranks may have written it, or ranks without a GPU
        rng = {n: state for n, state in rng_states(self.ranks).items() if n in saved.sizes}
        into = {
            **_named("model", weights_of(self.model)),
            **_named("optimizer", make_room(self.model, self.optimizers, state_sizes)),
            **(means := _named("average", self.mean.room(_named_in(saved, "average")))),
            **after,
            **rng,
        }
        load_tensors(saved, into, self.ranks)
        drop_caches(self.model)
        set_rng_states(rng, self.ranks)
        self.train.load_state_dict(saved.values["stream"])
        tensors = {n.removeprefix("after_step."): t for n, t in after.items()}
        self.after_step.load(tensors, saved.values["after_step"])
        self.state = saved.record(Progress, "progress")
        self.earlier_steps = int(saved.values.get("earlier_steps", 0))
        steps = self.earlier_steps + self.state.step
        for optimizer in sparse_rows(self.optimizers):
            optimizer.steps = steps
        read = {n.removeprefix("average."): t for n, t in means.items()}
        self.mean.loaded(read, steps)
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


def score_of(metrics: Metrics | RegressionMetrics, keep_by: str) -> float:
    """What the best epoch has most of: AUC or R2, or minus the log loss.

    Args:
        metrics: On validation rows.
        keep_by: Of the settings; ``logloss`` is for labels of 0 and 1.
    """
    if keep_by == "logloss" and isinstance(metrics, Metrics):
        return -metrics.log_loss
    return float(metrics.quality)


def evaluate(
    model: nn.Module, stream: Stream
) -> tuple[Any, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Metrics, logits and labels of the rows that are left in ``stream``, in stream order.

    Metrics are :class:`Metrics`, or :class:`RegressionMetrics` where the label is regression; the
    logits are then the numbers that are predicted.

    With several processes each scores its share, and every one gets all logits and labels: the
    metrics are those of the merged scores, exact and equal on all ranks.

    Of a model of several labels the metrics are :class:`LabelsMetrics`, and the logits and labels
    are those of the label that decides.

    Raises:
        FloatingPointError: a logit is not finite.
    """
    z, y, w = score(model, stream)
    if (tasks := multi_task_of(model)) is not None:
        kept = tasks.number_kept
        return labels_metrics(z, y, w, tasks), z[:, kept], y[:, kept]
    return metrics_of(stream.schema.label_kind, z, y, w), z, y


def score(
    model: nn.Module, stream: Stream
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Logits, labels and weights of the rows that are left in ``stream``, in stream order.

    Logits and labels are of shape (rows,), or (rows, T) of a model of T labels. A row weighs what
    the data say, or 1. Where each negative row was kept with probability w, a
    negative row weighs 1/w times as much: it stands for the rows that were dropped, so that
    weighted metrics are estimates for all rows.

    Raises:
        FloatingPointError: a logit is not finite.
    """
    model.eval()
    here = ranks_of(model)
    scored: list[tuple[np.ndarray[Any, Any], ...]] = []
    with (
        torch.no_grad(),
        tqdm(
            desc=f"evaluate {stream.split}",
            total=stream.num_rows,
            unit="examples",
            unit_scale=True,
            leave=False,
            disable=None if here.first else True,
        ) as bar,
    ):
        for batch in ready(stream, here):
            logits_B = model(batch.to(here.device))[1][: batch.num_rows]
            labels = batch.labels_BT if logits_B.dim() == 2 else batch.labels_B
            assert labels is not None
            others = (labels, batch.row_weights)
            scored.append((logits_B.cpu().numpy(), *(x[: batch.num_rows].numpy() for x in others)))
            bar.update(batch.num_rows * here.world_size)
    in_order = [part for step in zip(*here.gather(scored), strict=True) for part in step]
    empty = (np.zeros(0, np.float32),) * 3
    z, y, w = (np.concatenate([part[i] for part in in_order or [empty]]) for i in range(3))
    if not np.isfinite(z).all():
        raise FloatingPointError(
            f"{int((~np.isfinite(z)).sum())} of {z.size} logits are not finite; {LOWER}"
        )
    if stream.offset:
        w = np.where(y == 0, w * np.float32(np.exp(stream.offset)), w)
    return z, y, w


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """Within the block SIGTERM sets the event instead of ending the process.

    Schedulers send it some time before they take the machine away. Outside the main thread no
    handler can be set, and the event stays unset.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def multi_task_of(model: nn.Module) -> MultiTask | None:
    """What the labels of a model share and count; None for a model of one label."""
    found: MultiTask | None = getattr(_inner(model), "multi_task", None)
    return found


def _inner(model: nn.Module) -> Any:
    """The model itself, without what shares it out over processes."""
    inner: Any = model
    while isinstance(getattr(inner, "module", None), nn.Module):
        inner = inner.module
    return inner


def _require_labels(tasks: MultiTask | None, stream: Stream) -> None:
    """ValueError unless the model has a tower for each label of the data, in their order."""
    has = stream.schema.labels if tasks is None else tasks.labels
    if (tasks is None and len(has) > 1) or tuple(has) != stream.schema.labels:
        built = "one label" if tasks is None else f"the labels {', '.join(has)}"
        raise ValueError(
            f"a model of {built}, and data with the labels {', '.join(stream.schema.labels)}; "
            "train a model that was built for the labels of the data"
        )


def _require_loss_of(model: nn.Module, regression: bool) -> None:
    """ValueError unless the model has the loss of the label: a search may have one of its own."""
    if bool(getattr(_inner(model), "regression", False)) is not regression:
        kinds = ("binary", "regression") if regression else ("regression", "binary")
        raise ValueError(
            f"a model of a {kinds[0]} label and data of a {kinds[1]} label; train a model that was "
            "built for the label of the data"
        )


def _position(stream: Stream, done: int) -> dict[str, int]:
    """The state of ``stream`` after ``done`` steps of the epoch in which it was entered.

    A pipeline takes batches before they are trained on, so the stream itself may be ahead.
    """
    state = stream.state_dict()
    ahead_of_epoch = state["step"] == 0 and done > 0  # it has handed out its last batch
    epoch = state["epoch"] - (1 if ahead_of_epoch else 0)
    whole = done == len(stream)
    return {**state, "epoch": epoch + 1 if whole else epoch, "step": 0 if whole else done}


def first_values(stream: Stream, earlier_steps: int) -> dict[str, Any]:
    """The plain values of a checkpoint from which :func:`fit` starts at step 0.

    Args:
        stream: Over the training rows, not entered yet.
        earlier_steps: The steps that the weights and the running mean have behind them.
    """
    return {
        "progress": asdict(Progress()),
        "stream": stream.state_dict(),
        "after_step": {},
        "earlier_steps": earlier_steps,
    }


def _named(prefix: str, state: State) -> State:
    return {f"{prefix}.{name}": value for name, value in state.items()}


def _named_in(saved: Saved, prefix: str) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and type of the saved tensors of a kind, by their names without the kind."""
    start = f"{prefix}."
    return {n.removeprefix(start): size for n, size in saved.sizes.items() if n.startswith(start)}


def _one_line(record: Mapping[str, Any]) -> str:
    keys = ("train_loss", "val_auc", "val_log_loss", "val_r2", "val_mse", "examples_per_s")
    return ", ".join(f"{k} {record[k]:.5g}" for k in keys if k in record)


class _RunFolder:
    """Files of a run: checkpoints, best weights, metrics.jsonl, TensorBoard events."""

    def __init__(self, out: Path, keep: int, ranks: Ranks) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.ranks = ranks
        background = ranks.world_size > 1
        self.checkpoints = Checkpoints(out / CHECKPOINTS_FOLDER, keep, ranks, background)
        # the newest checkpoint may still name the best weights before the newest
        self.best = Checkpoints(out / BEST_FOLDER, 2, ranks)
        self.events = out / METRICS_FILE
        self.board_folder = out / BOARD_FOLDER
        self._board: Any = None

    def drop_after(self, step: int) -> None:
        """Forget what was written after the checkpoint that the run resumes from."""
        self.checkpoints.drop_after(step)
        self.best.drop_after(step)
        if self.ranks.first and self.events.exists():
            lines = self.events.read_text().splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            write_text(self.events, "".join(f"{line}\n" for line in kept))

    def log(self, record: Mapping[str, Any]) -> None:
        if not self.ranks.first:
            return
        with self.events.open("a") as stream:
            stream.write(json.dumps(finite(record)) + "\n")
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.board_folder), purge_step=record["step"])
        for key, value in record.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{record['event']}/{key}", value, record["step"])
        self._board.flush()

    def close(self) -> None:
        """Wait for what is being written; a launch may train hundreds of models."""
        self.checkpoints.close()
        if self._board is not None:
            self._board.close()
            self._board = None


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):  # a line cut short by a kill
        return float("inf")
