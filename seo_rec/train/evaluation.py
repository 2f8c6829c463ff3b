"""Scores and metrics of a model on the rows of a stream, in one process or in several.

Letters: B batch, T labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from seo_rec.data.stream import Stream
from seo_rec.metrics import Metrics, RegressionMetrics, labels_metrics, metrics_of
from seo_rec.multi_task import MultiTask
from seo_rec.schema import QUALITY_NAMES
from seo_rec.train.ranks import ranks_of
from seo_rec.train.steps import ready

LOWER = (
    "lower the learning rates (--lr; in Python row_lr and dense_lr), warm up (--warmup-steps), or "
    "prepare numeric columns of large values with --numeric-transform standard or log"
)

NOT_EVALUATED = Metrics(*(float("nan"),) * 4, num_rows=0)


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


def require_labels(tasks: MultiTask | None, stream: Stream) -> None:
    """ValueError unless the model has a tower for each label of the data, in their order."""
    has = stream.schema.labels if tasks is None else tasks.labels
    if (tasks is None and len(has) > 1) or tuple(has) != stream.schema.labels:
        built = "one label" if tasks is None else f"the labels {', '.join(has)}"
        raise ValueError(
            f"a model of {built}, and data with the labels {', '.join(stream.schema.labels)}; "
            "train a model that was built for the labels of the data"
        )


def require_loss_of(model: nn.Module, regression: bool) -> None:
    """ValueError unless the model has the loss of the label: a search may have one of its own."""
    if bool(getattr(_inner(model), "regression", False)) is not regression:
        kinds = ("binary", "regression") if regression else ("regression", "binary")
        raise ValueError(
            f"a model of a {kinds[0]} label and data of a {kinds[1]} label; train a model that was "
            "built for the label of the data"
        )


def require_quality(metrics: Any, stream: Stream) -> None:
    """ValueError if the rows of ``stream`` have one label only: there is no AUC to stop at."""
    if np.isnan(metrics.quality):
        raise ValueError(
            f"the {stream.split} split has {stream.num_rows} rows of one label only, "
            f"so it has no {QUALITY_NAMES[stream.schema.label_kind]} to stop at; prepare the data "
            "with a larger share of validation rows"
        )
