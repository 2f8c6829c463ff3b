"""What came out of a training: its scores, its record, and what to say about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from seo_rec.data.dataset import DataSet
from seo_rec.environment import stamp
from seo_rec.methods import inner_policy
from seo_rec.metrics import LabelsMetrics, Metrics, RegressionMetrics, without_rows
from seo_rec.model import ModelSettings
from seo_rec.policy import Allowance, Policy, allowance_of
from seo_rec.runs import Run, SearchCost, command_line, describe, precision_note, types_of
from seo_rec.runs.records import BINARY_METRICS
from seo_rec.schema import REGRESSION
from seo_rec.settings import settled
from seo_rec.train import FitResult, FitSettings, Trained, Training, eval_stream, evaluate, store_


@dataclass(frozen=True)
class Scores:
    """Metrics of the model whose quality counts.

    Args:
        val: On the validation rows.
        test: On the test rows; NaN where there are none.
        as_served: Whether rows were stored in the types of the policy before they were scored.
    """

    val: Metrics | RegressionMetrics
    test: Metrics | RegressionMetrics
    as_served: bool


def scores_of(
    model: nn.Module, data: DataSet, policy: Policy, trained: Trained, as_trained: bool = True
) -> Scores:
    """Validation and test metrics, of the rows as they are stored to be served.

    Validation rows are scored again where the model is served in other types than it was trained
    in, or was trained with other rows (``as_trained`` is False).
    """
    as_served, val = store_(model, policy), trained.result.val
    if (as_served and types_of(policy) != "float32") or not as_trained:
        val, _, _ = evaluate(model, eval_stream(data, "val", policy.columns))
    test = without_rows(val)
    if data.schema.num_rows.get("test"):
        test, _, _ = evaluate(model, eval_stream(data, "test", policy.columns))
    return Scores(val, test, as_served)


def record_of(
    data: DataSet,
    policy: Policy,
    training: Training,
    trained: Trained,
    scores: Scores,
    *,
    method: str,
    budget: int | Allowance | None,
    search: SearchCost | None,
) -> Run:
    val, test = scores.val, scores.test
    asked = None if budget is None else allowance_of(budget)
    result, cost = trained.result, search or SearchCost()
    stored = stored_policy(policy, training.model).num_params
    return Run(
        data=data.schema.dataset,
        data_fingerprint=data.fingerprint,
        method=method,
        seed=training.fit.seed,
        budget=None if asked is None or asked.in_bytes else asked.amount,
        embedding_params=policy.num_params,
        **_measured(val, test),
        epochs=result.epochs,
        steps=result.steps,
        seconds_per_epoch=result.seconds_per_epoch,
        seconds=result.seconds,
        search_seconds=cost.seconds,
        search_peak_bytes=cost.peak_bytes,
        policy=describe(policy),
        command=command_line(),
        environment=stamp(),
        num_bytes=policy.num_bytes,
        note=precision_note(policy, scores.as_served),
        budget_bytes=asked.amount if asked is not None and asked.in_bytes else None,
        precision=types_of(policy) if scores.as_served else "float32",
        still_improving=still_improving(result, training.fit),
        table_update=settled(training.fit, stored).table_update,
    )


def _measured(
    val: Metrics | RegressionMetrics, test: Metrics | RegressionMetrics
) -> dict[str, Any]:
    """The fields of :class:`Run` that say how good the model is."""
    if isinstance(val, RegressionMetrics) and isinstance(test, RegressionMetrics):
        return {
            **dict.fromkeys(BINARY_METRICS, float("nan")),
            "task": REGRESSION,
            "val_mse": val.mse,
            "val_r2": val.r2,
            "test_mse": test.mse,
            "test_mae": test.mae,
            "test_r2": test.r2,
        }
    assert isinstance(val, Metrics) and isinstance(test, Metrics)
    return {
        **_by_label(val, test),
        "val_auc": val.auc,
        "val_logloss": val.log_loss,
        "test_auc": test.auc,
        "test_logloss": test.log_loss,
        "test_normalized_entropy": test.normalized_entropy,
        "test_calibration": test.calibration,
    }


def _by_label(val: Metrics, test: Metrics) -> dict[str, Any]:
    """The field of :class:`Run` with the metrics of each of several labels."""
    if not isinstance(val, LabelsMetrics) or not isinstance(test, LabelsMetrics):
        return {}
    names = {"auc": "auc", "log_loss": "logloss", "calibration": "calibration"}
    return {
        "labels": {
            label: {
                f"{split}_{names[key]}": value
                for split, found in (("val", val), ("test", test))
                for key, value in found.by_label[label].items()
                if key in names
            }
            for label in val.by_label
        }
    }


def stored_policy(policy: Policy, model: ModelSettings) -> Policy:
    """The policy with the widths that are trained."""
    return policy if model.mlet is None else inner_policy(policy, model.mlet)


def worse_than_label_rate(val: Metrics | RegressionMetrics) -> str | None:
    """A warning where the validation loss is above the one of the mean label, or None.

    A model that gives every row the label rate p has the log loss -p ln p - (1 - p) ln(1 - p). One
    that gives every row the mean label has an R2 of 0.
    """
    if isinstance(val, RegressionMetrics):
        if not val.r2 < 0:
            return None
        return (
            f"the validation R2 {val.r2:.5g} is worse than the 0 of a model that gives every row "
            "the mean label; lower --lr, or scale numeric columns that are not scaled yet (seo-rec "
            "prepare table --numeric-transform standard or log)"
        )
    if not val.normalized_entropy > 1:
        return None
    entropy = val.log_loss / val.normalized_entropy
    return (
        f"the validation log loss {val.log_loss:.5g} is worse than the {entropy:.5g} of a model "
        "that gives every row the label rate; if it was still falling, train longer (--epochs), "
        "else lower --lr, or scale numeric columns that are not scaled yet (seo-rec prepare table "
        "--numeric-transform standard or log)"
    )


def still_improving(result: FitResult, settings: FitSettings) -> bool:
    """Whether a training ended at its limit of epochs while it still improved on validation rows.

    It did if the last of two or more epochs was the best one.
    """
    ended_by_epochs = result.epochs == settings.epochs and not settings.max_steps
    return ended_by_epochs and 1 < result.epochs == result.best_epoch + 1
