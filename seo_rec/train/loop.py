"""``fit``: the one training loop of methods, searches and appliers."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

from seo_rec.batch import Batch
from seo_rec.data.stream import Stream
from seo_rec.files import write_text
from seo_rec.metrics import Metrics, binary_metrics
from seo_rec.model import RecModel
from seo_rec.train.checkpoint import Checkpoints, load_tensors, save_tensors
from seo_rec.train.optimizers import ROW_OPTIMIZERS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitSettings:
    """How a model is trained.

    ``epochs``: at most this many; ``patience``: stop after so many epochs without a better
    validation AUC; ``batch_size``: rows; ``row_lr``/``dense_lr``: learning rates;
    ``row_l2``: weight of ``|T|^2 / 2`` of the tables in the loss;
    ``warmup_steps``: the learning rates rise linearly over so many steps;
    ``checkpoint_every``: steps between checkpoints (0: at epoch ends only); ``keep``: checkpoints
    kept; ``log_every``: steps between lines of ``metrics.jsonl``; ``max_steps``: end after so many
    steps, whatever the epoch (0: no limit); ``average``: decay of the running mean of the weights
    that is evaluated and kept, ``a_t = min(average, (1 + t) / (10 + t))`` at step t (0: the weights
    themselves, and no second copy of them in memory).
    """

    epochs: int = 20
    patience: int = 2
    batch_size: int = 2048
    row_optimizer: str = "adam"
    row_lr: float = 2e-3
    dense_lr: float = 2e-3
    row_l2: float = 0.0
    warmup_steps: int = 0
    checkpoint_every: int = 0
    keep: int = 2
    log_every: int = 100
    max_steps: int = 0
    average: float = 0.998
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch_size", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 1 or more")
        for name in ("row_lr", "dense_lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: above 0")
        if not 0 <= self.average < 1:
            raise ValueError(f"average is {self.average}; allowed: 0 <= average < 1")
        if self.row_optimizer not in ROW_OPTIMIZERS:
            raise ValueError(
                f"row_optimizer is {self.row_optimizer!r}; allowed: {', '.join(ROW_OPTIMIZERS)}"
            )
        if self.row_l2 < 0:
            raise ValueError(f"row_l2 is {self.row_l2}; allowed: 0 or more")
        for name in ("warmup_steps", "checkpoint_every", "max_steps", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 or more")


@dataclass
class Progress:
    """Where a run stands; part of every checkpoint."""

    epoch: int = 0
    step: int = 0
    best_auc: float = float("-inf")
    best_epoch: int = -1
    loss_sum: float = 0.0
    loss_rows: int = 0
    epoch_seconds: float = 0.0
    seconds_per_epoch: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class FitResult:
    """Outcome of a run: the best epoch's validation metrics, and the cost.

    ``seconds_per_epoch`` is the median training time of an epoch, evaluation not included.
    """

    val: Metrics
    best_epoch: int
    epochs: int
    steps: int
    seconds_per_epoch: float


class WeightAverage:
    """The running mean of a model's parameters, ``m <- a_t m + (1 - a_t) w`` after step t.

    Args:
        model: its parameters at the start are the first mean.
        decay: upper limit of a_t; 0 keeps no mean and costs nothing.
    """

    def __init__(self, model: RecModel, decay: float) -> None:
        self.decay = decay
        self.values = [p.detach().clone() for p in model.parameters()] if decay else []

    def load(self, values: list[torch.Tensor]) -> None:
        for mine, saved in zip(self.values, values, strict=True):
            mine.copy_(saved)

    def update(self, model: RecModel, step: int) -> None:
        if self.decay:
            share = 1 - min(self.decay, (1 + step) / (10 + step))
            weights = [p.detach() for p in model.parameters()]
            torch._foreach_lerp_(self.values, weights, share)

    @contextmanager
    def applied(self, model: RecModel) -> Iterator[None]:
        """Within the block the model holds the mean; after it, its own weights again."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    def _swap(self, model: RecModel) -> None:
        if self.decay:
            for i, p in enumerate(model.parameters()):
                self.values[i], p.data = p.data, self.values[i]


class AfterStep(Protocol):
    """What a search does after each step: its own update, and its state for checkpoints."""

    def __call__(self, model: RecModel, step: int) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@contextmanager
def _without_autograd_notice() -> Iterator[None]:
    """torch says that FBGEMM's dense lookup may not be differentiable; the tests show it is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fbgemm::dense_embedding", category=UserWarning)
        yield


@_without_autograd_notice()
def fit(
    model: RecModel,
    train: Stream,
    val: Stream,
    optimizers: Mapping[str, torch.optim.Optimizer],
    settings: FitSettings,
    out: Path | None = None,
    after_step: AfterStep | None = None,
    title: str = "train",
) -> FitResult:
    """Train ``model`` and leave it with the weights of its best validation epoch.

    N steps equal k steps, a kill, a resume and N - k steps, bit for bit on CPU. With ``out``, a
    run found there is resumed, ``metrics.jsonl``, TensorBoard events, checkpoints and
    ``best.pt`` are written.

    Args:
        model: trained in place.
        train, val: streams over the training and validation split.
        optimizers: each steps once per batch.
        settings: see :class:`FitSettings`.
        out: folder of the run, or None to write nothing.
        after_step: called after each optimizer step; see :class:`AfterStep`.
        title: words before the progress bar.

    Raises:
        CheckpointError: the newest checkpoint of ``out`` is damaged.
        FloatingPointError: the loss is not finite.
    """
    torch.manual_seed(settings.seed)
    run = _RunFolder(out, settings.keep) if out else None
    state, best = Progress(), None
    mean = WeightAverage(model, settings.average)
    if run:
        if saved := run.checkpoints.latest():
            state = _restore(saved, model, train, optimizers, mean, after_step)
            log.info("resumed %s at epoch %d, step %d", out, state.epoch, state.step)
        run.drop_events_after(state.step)

    def checkpoint() -> None:
        if run:
            run.checkpoints.save(
                state.step, _snapshot(state, model, train, optimizers, mean, after_step)
            )

    while not _finished(state, settings):
        model.train()
        bar = tqdm(
            total=train.num_rows,
            unit="ex",
            unit_scale=True,
            disable=None,
            leave=False,
            desc=f"{title} epoch {state.epoch + 1}/{settings.epochs}",
            initial=state.loss_rows,
        )
        started = time.perf_counter() - state.epoch_seconds
        for batch in train:
            _set_learning_rates(optimizers, state.step, settings.warmup_steps)
            loss = _step(model, batch, optimizers)
            state.step += 1
            mean.update(model, state.step)
            state.loss_sum += loss * batch.num_rows
            state.loss_rows += batch.num_rows
            if after_step:
                after_step(model, state.step)
            bar.update(batch.num_rows)
            if run and state.step % settings.log_every == 0:
                run.log({"event": "step", "step": state.step, "train_loss": loss})
            if state.step == settings.max_steps:
                break
            due = settings.checkpoint_every and state.step % settings.checkpoint_every == 0
            if due and train.step:  # the last step of an epoch is saved after its evaluation
                state.epoch_seconds = time.perf_counter() - started
                checkpoint()
        bar.close()
        seconds = time.perf_counter() - started
        state.seconds_per_epoch.append(seconds)
        with mean.applied(model):
            metrics, _, _ = evaluate(model, val)
            if np.isnan(metrics.auc):
                raise ValueError(
                    f"the {val.split} split has {val.num_rows} rows of one label only, so it has "
                    "no AUC to stop at; prepare the data with a larger share of validation rows"
                )
            improved = metrics.auc > state.best_auc or state.best_epoch < 0
            if improved:
                best = {"model": _copy(model.state_dict()), "val": asdict(metrics)}
        record = {
            "event": "epoch",
            "epoch": state.epoch,
            "step": state.step,
            "train_loss": state.loss_sum / max(1, state.loss_rows),
            **{f"val_{k}": v for k, v in asdict(metrics).items()},
            "seconds": seconds,
            "examples_per_s": state.loss_rows / seconds,
        }
        log.info("%s epoch %d: %s", title, state.epoch + 1, _one_line(record))
        state.epoch += 1
        if improved:
            state.best_auc, state.best_epoch = metrics.auc, state.epoch - 1
            if run and best:
                save_tensors(run.best, best)
                best = None
        state.loss_sum, state.loss_rows, state.epoch_seconds = 0.0, 0, 0.0
        if run:
            run.log(record)
        checkpoint()
    chosen = load_tensors(run.best) if run else best
    assert chosen is not None
    model.load_state_dict(chosen["model"])
    return FitResult(
        Metrics(**chosen["val"]),
        state.best_epoch,
        state.epoch,
        state.step,
        float(np.median(state.seconds_per_epoch)),
    )


def evaluate(
    model: RecModel, stream: Stream
) -> tuple[Metrics, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Metrics, logits and labels of the rows that are left in ``stream``, in stream order.

    Raises:
        FloatingPointError: a logit is not finite.
    """
    model.eval()
    logits: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    with torch.no_grad():
        for batch in stream:
            logits.append(model(batch)[1])
            labels.append(batch.labels_B)
    z = torch.cat(logits).numpy() if logits else np.zeros(0, np.float32)
    y = torch.cat(labels).numpy() if labels else np.zeros(0, np.float32)
    if not np.isfinite(z).all():
        raise FloatingPointError(
            f"{int((~np.isfinite(z)).sum())} of {z.size} logits are not finite; lower row_lr or "
            "dense_lr, or use warmup_steps"
        )
    return binary_metrics(z, y), z, y


def _step(model: RecModel, batch: Batch, optimizers: Mapping[str, torch.optim.Optimizer]) -> float:
    for optimizer in optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    loss, _ = model(batch)
    loss.backward()
    for optimizer in optimizers.values():
        optimizer.step()
    value = loss.item()
    if not np.isfinite(value):
        raise FloatingPointError(
            f"the training loss became {value}; lower row_lr or dense_lr, or use warmup_steps"
        )
    return float(value)


def _finished(state: Progress, settings: FitSettings) -> bool:
    stale = state.epoch - 1 - state.best_epoch
    done = state.epoch >= settings.epochs or (state.epoch > 0 and stale >= settings.patience)
    return done or (settings.max_steps > 0 and state.step >= settings.max_steps)


def _set_learning_rates(
    optimizers: Mapping[str, torch.optim.Optimizer], step: int, warmup_steps: int
) -> None:
    """Linear warm-up from 1/(warmup_steps + 1) of each group's learning rate to all of it."""
    if step > warmup_steps:
        return
    factor = (step + 1) / (warmup_steps + 1)
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def _snapshot(
    state: Progress,
    model: RecModel,
    train: Stream,
    optimizers: Mapping[str, torch.optim.Optimizer],
    mean: WeightAverage,
    after_step: AfterStep | None,
) -> dict[str, Any]:
    return {
        "progress": asdict(state),
        "model": model.state_dict(),
        "optimizers": {name: o.state_dict() for name, o in optimizers.items()},
        "average": mean.values,
        "stream": train.state_dict(),
        "rng": torch.get_rng_state(),
        "after_step": after_step.state_dict() if after_step else {},
    }


def _restore(
    saved: dict[str, Any],
    model: RecModel,
    train: Stream,
    optimizers: Mapping[str, torch.optim.Optimizer],
    mean: WeightAverage,
    after_step: AfterStep | None,
) -> Progress:
    model.load_state_dict(saved["model"])
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(saved["optimizers"][name])
    mean.load(saved["average"])
    train.load_state_dict(saved["stream"])
    torch.set_rng_state(saved["rng"])
    if after_step:
        after_step.load_state_dict(saved["after_step"])
    return Progress(**saved["progress"])


def _copy(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _one_line(record: Mapping[str, Any]) -> str:
    keys = ("train_loss", "val_auc", "val_log_loss", "examples_per_s")
    return ", ".join(f"{k} {record[k]:.5g}" for k in keys)


class _RunFolder:
    """Files of a run: checkpoints, best weights, metrics.jsonl, TensorBoard events."""

    def __init__(self, out: Path, keep: int) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.checkpoints = Checkpoints(out / "checkpoints", keep)
        self.best = out / "best.pt"
        self.events = out / "metrics.jsonl"
        self.board_folder = out / "tensorboard"
        self._board: Any = None

    def drop_events_after(self, step: int) -> None:
        """Forget lines written after the checkpoint that the run resumes from."""
        if self.events.exists():
            lines = self.events.read_text().splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            write_text(self.events, "".join(f"{line}\n" for line in kept))

    def log(self, record: Mapping[str, Any]) -> None:
        with self.events.open("a") as stream:
            stream.write(json.dumps(record) + "\n")
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.board_folder), purge_step=record["step"])
        for key, value in record.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{record['event']}/{key}", value, record["step"])
        self._board.flush()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):  # a line cut short by a kill
        return float("inf")
