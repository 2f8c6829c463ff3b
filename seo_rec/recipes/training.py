"""Train one policy in a run folder, and read the test split once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from seo_rec.apply import default_budget
from seo_rec.data.dataset import DataSet
from seo_rec.environment import stamp
from seo_rec.files import write_json
from seo_rec.methods import inner_policy
from seo_rec.metrics import Metrics, RegressionMetrics
from seo_rec.model import ModelSettings
from seo_rec.policy import Policy
from seo_rec.recipes.evaluation import load_model, named_weights
from seo_rec.recipes.searching import signed
from seo_rec.runs import Run, SearchCost, claim_run, command_line, describe, precision_note
from seo_rec.runs.layout import (
    BEST_FOLDER,
    COLLAPSED_FOLDER,
    POLICY_FILE,
    RESULT_FILE,
)
from seo_rec.runs.records import BINARY_METRICS
from seo_rec.schema import REGRESSION, DataError
from seo_rec.search import find
from seo_rec.settings import LARGEST_DENSE, Regression, settled
from seo_rec.train import (
    Checkpoints,
    FitResult,
    FitSettings,
    Start,
    Trained,
    Training,
    agree,
    check_plan,
    check_policy_fits,
    check_start,
    eval_stream,
    evaluate,
    fit_policy,
    ranks,
    require_memory,
    weights_digest,
)

log = logging.getLogger(__name__)
progress = logging.getLogger("seo_rec.progress")

OWN_BUDGET = 0  # a run's budget is the one that its policy was made for


def method_policy(
    method: str,
    data: DataSet,
    params: int,
    dim: int = 16,
    *,
    seed: int = 0,
    changes: Mapping[str, Any] | None = None,
) -> Policy:
    """The policy of a method that trains nothing to find it, as a comparison gives it.

    Args:
        method: A name of :mod:`seo_rec.search.registry`.
        data: The data set.
        params: The budget; a method whose size follows from the data does not read it.
        dim: Width of a feature's embedding.
        seed: Of the hash functions.
        changes: Other values of the method's settings, by name.

    Raises:
        PolicyError: The budget is infeasible.
        ValueError: An unknown method or setting, or a method that has to be searched.
    """
    entry = find(method)
    if entry.trains:
        raise ValueError(
            f"method {method!r} needs a search; run `seo-rec search --method {method}` and train "
            "its policy with --policy"
        )
    training = Training().with_seed(seed)
    settings = entry.settings_at(params, dim, training, changes, in_comparison=True)
    entry.checked(data, settings, training)
    found = entry.decide(data, settings, training)
    return signed(found.policy, entry, settings, found)


def train(
    data: DataSet,
    policy: Policy,
    out: Path,
    training: Training,
    *,
    method: str = "policy",
    resume: bool = False,
    budget: int | None = OWN_BUDGET,
    search: SearchCost | None = None,
    start: Start | None = None,
) -> Run:
    """Train ``policy`` in the run folder ``out`` and read the test split once.

    With MLET ``best/`` holds the two layers of the tables and ``collapsed/`` the one they make,
    which is what :func:`seo_rec.recipes.load_trained` reads.

    Args:
        data: The data set.
        policy: Which tables there are.
        out: The run folder.
        training: The model and how it is trained.
        method: Who decided the policy, for reports.
        resume: Whether ``out`` may hold this run already.
        budget: Parameters that were asked for; None for a method whose size follows from the data,
            ``OWN_BUDGET`` for the one that the policy was made for.
        search: What finding the policy took.
        start: A plan and initial weights.

    Raises:
        DataError: A split has no rows, or the validation split rows of one label only.
        DisagreementError: The processes of this launch ask for different things.
        PlanError: The plan is not for this policy, this optimizer or these processes.
        RunError: ``out`` holds another run, or this one and ``resume`` is False.
        TooLargeError: The tables do not fit into memory.
    """
    start, training = start or Start(), for_label(training, data)
    check_start(training, start)
    here, asked = ranks(), _asked(data, policy, training, method, start)
    agree({**asked, "params": policy.num_params}, out=out, plan=start.plan)
    _check_before(data, policy, training)

    def begin() -> Run | None:
        if start.plan is not None:
            check_plan(start.plan, policy, training.fit, here)
        claim_run(out, asked, resume)
        if (out / RESULT_FILE).exists():
            return Run.read(out / RESULT_FILE)
        policy.save(out / POLICY_FILE)
        data.check_numbers()
        return None

    if finished := here.on_first(begin):
        return finished
    stored = _stored(policy, training.model).num_params
    if here.first and stored > LARGEST_DENSE:
        chosen = settled(training.fit, stored).table_update
        progress.info("tables of %s parameters: %s", f"{stored:,}", chosen)
    trained = fit_policy(data, policy, training, out=out, title=method, start=start)
    model = _served(trained, out, policy, data.num_numeric, training.model)
    test, _, _ = evaluate(model, eval_stream(data, "test", policy.columns))
    if budget == OWN_BUDGET:
        budget = default_budget(policy)
    run = _run(data, policy, training, trained, test, method=method, budget=budget, search=search)

    def finish() -> Run:
        write_json(out / RESULT_FILE, run.to_json())
        if worse := worse_than_label_rate(trained.result.val):
            log.warning("%s: %s", out, worse)
        return run

    return here.on_first(finish)  # every process reports what rank 0 measured and wrote


def _check_before(data: DataSet, policy: Policy, training: Training) -> None:
    """Refuse, before a folder is opened, what cannot be trained; warn of what misleads."""
    here = ranks()
    data.require_rows("train", "val", "test")
    data.verify("train", "val", "test", rank=here.rank, world_size=here.world_size)
    data.check_validation(warn=here.first)
    check_policy_fits(data, policy)
    require_memory(_stored(policy, training.model), training.fit, here)
    if (note := precision_note(policy)) and here.first:
        log.warning("note: %s", note)


def _asked(
    data: DataSet, policy: Policy, training: Training, method: str, start: Start
) -> dict[str, Any]:
    """Everything that decides a training."""
    asked = {
        "kind": "train",
        "data": str(data.path),
        "data_fingerprint": data.fingerprint,
        "num_dense": data.num_numeric,
        "numeric": [c.name for c in data.schema.numeric],
        "preparation": data.schema.preparation,
        "method": method,
        "policy": policy.to_json(),
        "model": training.model.as_json(),
        "fit": training.fit.as_json(),
    }
    return asked | ({"weights": weights_digest(start.weights)} if start.weights else {})


def _served(
    trained: Trained, out: Path, policy: Policy, num_dense: int, settings: ModelSettings
) -> nn.Module:
    """The model whose test quality counts: with MLET the one-layer model, which is saved."""
    here = ranks()
    if settings.mlet is None:
        return trained.model
    here.on_first(lambda: _collapse(out, policy, num_dense, settings))
    if here.world_size > 1:
        return trained.model
    single = replace(settings, mlet=None)
    return load_model(out / COLLAPSED_FOLDER, policy, num_dense, single).to(here.device)


def _collapse(out: Path, policy: Policy, num_dense: int, settings: ModelSettings) -> None:
    """Save the best model of a run with MLET with tables of one layer."""
    single = load_model(out / BEST_FOLDER, policy, num_dense, settings).collapsed()
    step = Checkpoints(out / BEST_FOLDER).steps()[-1]
    Checkpoints(out / COLLAPSED_FOLDER, keep=1).save(step, named_weights(single), {})


def _run(
    data: DataSet,
    policy: Policy,
    training: Training,
    trained: Trained,
    test: Metrics | RegressionMetrics,
    *,
    method: str,
    budget: int | None,
    search: SearchCost | None,
) -> Run:
    result, cost = trained.result, search or SearchCost()
    stored = _stored(policy, training.model).num_params
    return Run(
        data=data.schema.dataset,
        data_fingerprint=data.fingerprint,
        method=method,
        seed=training.fit.seed,
        budget=budget,
        embedding_params=policy.num_params,
        **_measured(result.val, test),
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
        note=precision_note(policy),
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
        "val_auc": val.auc,
        "val_logloss": val.log_loss,
        "test_auc": test.auc,
        "test_logloss": test.log_loss,
        "test_normalized_entropy": test.normalized_entropy,
        "test_calibration": test.calibration,
    }


def for_label(training: Training, data: DataSet) -> Training:
    """The training with the loss and the scale of the data's label.

    Raises:
        DataError: All training rows have one label.
        ValueError: A weight of positive rows for a label that is not 0 or 1.
    """
    schema = data.schema
    if schema.label_kind != REGRESSION:
        return training
    mean, std = schema.label_rate.get("train"), schema.label_std.get("train")
    if mean is None or not std:
        raise DataError(
            f"{data.path}: all training rows have one label, so there is nothing to learn; "
            "prepare data with another label"
        )
    scale = Regression(mean, std)
    return replace(training, model=replace(training.model, regression=scale))


def _stored(policy: Policy, model: ModelSettings) -> Policy:
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
            "the mean label; lower --lr, or scale the numeric columns (seo-rec prepare table "
            "--numeric-transform log)"
        )
    if not val.normalized_entropy > 1:
        return None
    entropy = val.log_loss / val.normalized_entropy
    return (
        f"the validation log loss {val.log_loss:.5g} is worse than the {entropy:.5g} of a model "
        "that gives every row the label rate; if it was still falling, train longer (--epochs), "
        "else lower --lr, or scale the numeric columns (seo-rec prepare table "
        "--numeric-transform log)"
    )


def still_improving(result: FitResult, settings: FitSettings) -> bool:
    """Whether a training ended at its limit of epochs while its validation AUC (or R2) still rose.

    It did if the last of two or more epochs was the best one.
    """
    ended_by_epochs = result.epochs == settings.epochs and not settings.max_steps
    return ended_by_epochs and 1 < result.epochs == result.best_epoch + 1
