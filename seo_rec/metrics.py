"""Metrics of clicks and of numbers to predict, computed exactly from all scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

from seo_rec.multi_task import MultiTask
from seo_rec.schema import REGRESSION

# sklearn takes most of a second to import, which nothing before the first evaluation needs, so the
# functions that need it import it.


@dataclass(frozen=True)
class Metrics:
    """AUC; mean log loss in nats; log loss over the base rate's entropy; mean score over rate."""

    auc: float
    log_loss: float
    normalized_entropy: float
    calibration: float
    num_rows: int

    @property
    def quality(self) -> float:
        """What trainings stop by and are compared by; more is better."""
        return self.auc


@dataclass(frozen=True)
class LabelsMetrics(Metrics):
    """The metrics of the label that decides; ``by_label`` has those of every label by its name."""

    by_label: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class RegressionMetrics:
    """Mean squared and mean absolute error, in units of the label; R2; NaN without rows."""

    mse: float
    mae: float
    r2: float
    num_rows: int

    @property
    def quality(self) -> float:
        """What trainings stop by and are compared by; more is better."""
        return self.r2


def without_rows(like: Metrics | RegressionMetrics) -> Metrics | RegressionMetrics:
    """The metrics of no rows, NaN each, of the same kind of label."""
    nan = float("nan")
    if isinstance(like, RegressionMetrics):
        return RegressionMetrics(nan, nan, nan, 0)
    if isinstance(like, LabelsMetrics):
        by_label = {name: dict.fromkeys(found, nan) for name, found in like.by_label.items()}
        return LabelsMetrics(nan, nan, nan, nan, 0, by_label)
    return Metrics(nan, nan, nan, nan, 0)


def regression_metrics(
    predicted: npt.NDArray[np.floating],
    labels: npt.NDArray[np.floating],
    weights: npt.NDArray[np.floating] | None = None,
) -> RegressionMetrics:
    """Exact metrics of numbers that were predicted.

    ``r2 = 1 - mse / variance(labels)``; the relative mean squared error is ``1 - r2``. It is NaN
    where all labels are equal. All means, and the variance, are weighted.

    Args:
        predicted, labels: shape (rows,).
        weights: shape (rows,), 0 or more; None weighs all rows alike.
    """
    if labels.size == 0 or (weights is not None and not weights.any()):
        return RegressionMetrics(*(float("nan"),) * 3, num_rows=int(labels.size))
    y = labels.astype(np.float64)
    w = None if weights is None or (weights == 1).all() else weights.astype(np.float64)
    error = predicted.astype(np.float64) - y
    mse = float(np.average(error**2, weights=w))
    variance = float(np.average((y - np.average(y, weights=w)) ** 2, weights=w))
    varies = np.ptp(y if w is None else y[w > 0]) > 0
    mae = float(np.average(np.abs(error), weights=w))
    return RegressionMetrics(mse, mae, 1 - mse / variance if varies else float("nan"), int(y.size))


def metrics_of(
    label_kind: str,
    outputs: npt.NDArray[np.floating],
    labels: npt.NDArray[np.floating],
    weights: npt.NDArray[np.floating] | None = None,
) -> Metrics | RegressionMetrics:
    """The metrics of a label's kind: of logits, or of predicted numbers."""
    if label_kind == REGRESSION:
        return regression_metrics(outputs, labels, weights)
    return binary_metrics(outputs, labels, weights)


def labels_metrics(
    logits: npt.NDArray[np.floating],
    labels: npt.NDArray[np.floating],
    weights: npt.NDArray[np.floating] | None,
    tasks: MultiTask,
) -> LabelsMetrics:
    """The metrics of each of several labels (:func:`binary_metrics`).

    Args:
        logits, labels: shape (rows, T).
        weights: shape (rows,), 0 or more; None weighs all rows alike.
        tasks: The names of the labels, and which one decides.
    """
    found = [binary_metrics(logits[:, t], labels[:, t], weights) for t in range(labels.shape[1])]
    by_label = {name: asdict(m) for name, m in zip(tasks.labels, found, strict=True)}
    return LabelsMetrics(**asdict(found[tasks.number_kept]), by_label=by_label)


def binary_metrics(
    logits: npt.NDArray[np.floating],
    labels: npt.NDArray[np.floating],
    weights: npt.NDArray[np.floating] | None = None,
) -> Metrics:
    """Exact metrics; values that are undefined (one class only) are NaN.

    ``log_loss = mean(log(1 + exp(z)) - y z)``, ``normalized_entropy = log_loss / H(mean(y))``
    (He et al., Practical Lessons from Predicting Clicks on Ads), ``calibration =
    mean(sigmoid(z)) / mean(y)``.

    All means are weighted, and a pair of rows counts in the AUC by the product of its weights.

    Args:
        logits, labels: shape (rows,).
        weights: shape (rows,), 0 or more; None weighs all rows alike.
    """
    from sklearn.metrics import roc_auc_score

    if logits.size == 0 or (weights is not None and not weights.any()):
        return Metrics(*(float("nan"),) * 4, num_rows=int(logits.size))
    z, y = logits.astype(np.float64), labels.astype(np.float64)
    w = None if weights is None or (weights == 1).all() else weights.astype(np.float64)
    log_loss = float(np.average(np.logaddexp(0.0, z) - y * z, weights=w))
    rate = float(np.average(y, weights=w))
    if not 0.0 < rate < 1.0:
        return Metrics(float("nan"), log_loss, float("nan"), float("nan"), int(z.size))
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    scores = np.exp(-np.logaddexp(0.0, -z))
    return Metrics(
        auc=float(roc_auc_score(y, z, sample_weight=w)),
        log_loss=log_loss,
        normalized_entropy=float(log_loss / entropy),
        calibration=float(np.average(scores, weights=w) / rate),
        num_rows=int(z.size),
    )


def auc_gain(
    logits: npt.NDArray[np.floating],
    reference: npt.NDArray[np.floating],
    labels: npt.NDArray[np.floating],
    blocks: int = 20,
    weights: npt.NDArray[np.floating] | None = None,
) -> tuple[float, float]:
    """The AUC of ``logits`` minus the AUC of ``reference``, and its standard error.

    With several trainings of both it is the mean of their gains. The error is the delete-one-block
    jackknife of the gain over ``blocks`` interleaved blocks of rows, so that what both scores share
    cancels, and what the trainings share does not count twice. Where the rows of all blocks but
    one have one label only, there is no AUC, and the error is NaN.

    Args:
        logits, reference: shape (rows,), or (trainings, rows).
        labels: shape (rows,); the rows of all three are the same, in the same order.
        blocks: How many blocks are left out in turn.
        weights: shape (rows,), 0 or more; None weighs all rows alike.
    """
    from sklearn.metrics import roc_auc_score

    pairs = list(zip(np.atleast_2d(logits), np.atleast_2d(reference), strict=True))

    def auc(scores: npt.NDArray[np.floating]) -> float:
        return float(roc_auc_score(labels, scores, sample_weight=weights))

    gain = float(np.mean([auc(z) - auc(r) for z, r in pairs]))
    block = np.arange(labels.size) % blocks
    w = np.ones(labels.size) if weights is None else weights.astype(np.float64)
    if any(np.unique(labels[(w > 0) & (block != b)]).size < 2 for b in range(blocks)):
        return gain, float("nan")
    left_out = np.mean(
        [_left_out(z, labels, w, blocks) - _left_out(r, labels, w, blocks) for z, r in pairs],
        axis=0,
    )
    variance = (blocks - 1) / blocks * float(((left_out - left_out.mean()) ** 2).sum())
    return gain, variance**0.5


def _left_out(
    scores: npt.NDArray[np.floating],
    labels: npt.NDArray[np.floating],
    weights: npt.NDArray[np.floating],
    blocks: int,
) -> npt.NDArray[np.float64]:
    """The AUC without the rows of each block; the scores are sorted once for all blocks."""
    values, place = np.unique(scores, return_inverse=True)

    def weigh(rows: npt.NDArray[np.bool_] | slice) -> npt.NDArray[np.float64]:
        """The weight of negative and of positive rows by their score."""
        y, w, of = labels[rows], weights[rows], place[rows]
        return np.stack([np.bincount(of, w * (y == k), values.size) for k in (0, 1)])

    def auc(negative: npt.NDArray[np.float64], positive: npt.NDArray[np.float64]) -> float:
        below = np.cumsum(negative) - negative / 2  # a tie counts one half
        return float(positive @ below / (negative.sum() * positive.sum()))

    whole, block = weigh(slice(None)), np.arange(labels.size) % blocks
    return np.array([auc(*(whole - weigh(block == b))) for b in range(blocks)])
