"""Train one policy in a run folder, and read the test split once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from seo_rec.apply import default_budget
from seo_rec.data.crosses import reading_columns
from seo_rec.data.dataset import DataSet, require_opened
from seo_rec.embed.tables import table_key
from seo_rec.files import write_json
from seo_rec.model import ModelSettings
from seo_rec.multi_task import MultiTask
from seo_rec.policy import Allowance, Policy
from seo_rec.policy.allowance import BYTES
from seo_rec.recipes.continuing import Continued, carried_lines
from seo_rec.recipes.evaluation import load_model, named_weights
from seo_rec.recipes.id_counts import first_counts, write_counts
from seo_rec.recipes.outcome import record_of, scores_of, stored_policy, worse_than_label_rate
from seo_rec.recipes.searching import signed
from seo_rec.runs import Run, SearchCost, claim_run, precision_note
from seo_rec.runs.layout import (
    BEST_FOLDER,
    COLLAPSED_FOLDER,
    COUNTS_FILE,
    POLICY_FILE,
    RESULT_FILE,
    TRAINED_FILE,
)
from seo_rec.schema import REGRESSION, SPLITS, DataError, document_digest
from seo_rec.search import find
from seo_rec.settings import LARGEST_DENSE, Regression, settled
from seo_rec.train import (
    Checkpoints,
    Start,
    Trained,
    Training,
    agree,
    check_plan,
    check_policy_fits,
    check_start,
    check_storage,
    fit_policy,
    ranks,
    require_memory,
    weights_digest,
    with_storage,
)
from seo_rec.train.earlier import Earlier, mean_starts_anew
from seo_rec.train.unknown_rows import served_weights
from seo_rec.train.warm_start import BAGS

log = logging.getLogger(__name__)
progress = logging.getLogger("seo_rec.progress")
OWN_BUDGET = 0  # a run's budget is the one that its policy was made for


def method_policy(
    method: str,
    data: DataSet,
    params: int | Allowance,
    dim: int = 16,
    *,
    seed: int = 0,
    changes: Mapping[str, Any] | None = None,
) -> Policy:
    """The policy of a method that trains nothing to find it, as a comparison gives it.

    Args:
        method: A name of :mod:`seo_rec.search.registry`.
        data: The data set, which may have crosses (:func:`seo_rec.data.crosses.with_crosses`).
        params: The budget in floats, or an allowance, which may be in bytes and has a precision; a
            method whose size follows from the data reads the precision alone.
        dim: Width of a feature's embedding.
        seed: Of the hash functions.
        changes: Other values of the method's settings, by name.

    Raises:
        PolicyError: The budget is infeasible.
        ValueError: An unknown method or setting, or a method that has to be searched.
    """
    require_opened(data, "method_policy")
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
    return reading_columns(signed(found.policy, entry, settings, found), data)


def train(
    data: DataSet,
    policy: Policy,
    out: Path | str,
    training: Training,
    *,
    method: str = "policy",
    resume: bool = False,
    budget: int | Allowance | None = OWN_BUDGET,
    search: SearchCost | None = None,
    start: Start | None = None,
    following: Continued | None = None,
) -> Run:
    """Train ``policy`` in the run folder ``out`` and read the test split once, if it has rows.

    With MLET ``best/`` holds the two layers of the tables and ``collapsed/`` the one they make;
    with candidates ``best/`` holds their rows and ``collapsed/`` what is served without them. The
    latter is what :func:`seo_rec.recipes.load_trained` reads.

    Args:
        data: The data set.
        policy: Which tables there are.
        out: The run folder.
        training: The model and how it is trained.
        method: Who decided the policy, for reports.
        resume: Whether ``out`` may hold this run already.
        budget: Parameters or bytes that were asked for; None for a method whose size follows from
            the data, ``OWN_BUDGET`` for the one that the policy was made for.
        search: What finding the policy took.
        start: A plan and initial weights.
        following: The earlier run to go on from, whose policy is ``policy``.

    Raises:
        DataError: There are no training or validation rows, or validation rows of one label only.
        DisagreementError: The processes of this launch ask for different things.
        PlanError: The plan is not for this policy, this optimizer or these processes.
        RunError: ``out`` holds another run, or this one and ``resume`` is False.
        TooLargeError: The tables do not fit into memory.
    """
    require_opened(data, "train")
    out = Path(out)
    start = start or Start()
    if following is not None:
        anew = mean_starts_anew(following.earlier.mean_anew, training.fit, out)
        start = replace(start, earlier=replace(following.earlier, mean_anew=anew))
    trained_policy = policy if following is None else following.trained
    training = with_storage(for_label(training, data, start.earlier), policy, start, out)
    check_start(training, start)
    check_storage(policy, training)
    here, asked = ranks(), asked_for(data, policy, training, method, start, trained_policy)
    agree({**asked, "params": policy.num_params}, out=out, plan=start.plan)
    check_before(data, trained_policy, training)

    def begin() -> Run | None:
        if start.plan is not None:
            check_plan(start.plan, policy, training.fit, here)
        claim_run(out, asked, resume)
        if (out / RESULT_FILE).exists():
            return Run.read(out / RESULT_FILE)
        save_policies(out, policy, trained_policy)
        counts = first_counts(data, policy) if following is None else following.counts
        if counts:
            write_counts(out / COUNTS_FILE, counts)
        data.check_numbers()
        return None

    if finished := here.on_first(begin):
        return finished
    stored = stored_policy(policy, training.model).num_params
    if here.first and stored > LARGEST_DENSE:
        chosen = settled(training.fit, stored).table_update
        progress.info("tables of %s parameters: %s", f"{stored:,}", chosen)
    settings = as_policy(training, policy, trained_policy)
    trained = fit_policy(data, trained_policy, settings, out=out, title=method, start=start)
    for line in carried_lines(trained.carried) if here.first else ():
        progress.info("%s: %s", out, line)
    model = served_model(trained, out, policy, data.num_numeric, training.model, trained_policy)
    scores = scores_of(model, data, policy, trained, as_trained=trained_policy == policy)
    if budget == OWN_BUDGET:
        budget = own_budget(policy)
    run = record_of(
        data, policy, training, trained, scores, method=method, budget=budget, search=search
    )

    def finish() -> Run:
        write_json(out / RESULT_FILE, run.to_json())
        if worse := worse_than_label_rate(trained.result.val):
            log.warning("%s: %s", out, worse)
        return run

    return here.on_first(finish)  # every process reports what rank 0 measured and wrote


def check_before(data: DataSet, policy: Policy, training: Training) -> None:
    """Refuse, before a folder is opened, what cannot be trained; warn of what misleads."""
    here = ranks()
    data.require_rows("train", "val")
    splits = [name for name in SPLITS if data.schema.num_rows.get(name)]
    data.verify(*splits, rank=here.rank, world_size=here.world_size)
    tasks = training.model.multi_task
    data.check_validation(warn=here.first, kept=None if tasks is None else tasks.kept)
    check_policy_fits(data, policy)
    require_memory(stored_policy(policy, training.model), training.fit, here)
    if here.world_size > 1 and here.first and (note := precision_note(policy, False)):
        log.warning("note: %s", note)


def asked_for(
    data: DataSet,
    policy: Policy,
    training: Training,
    method: str,
    start: Start,
    trained: Policy | None = None,
) -> dict[str, Any]:
    """Everything that decides a training, for its ``run.json``.

    ``trained`` is the policy with rows of candidates, if there are any.
    """
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
    asked |= {"weights": weights_digest(start.weights)} if start.weights else {}
    if trained is not None and trained != policy:
        asked["trained_policy"] = document_digest(trained.to_json())
    if start.earlier is None:
        return asked
    more = {"mean_anew": True} if start.earlier.mean_anew else {}
    return asked | {"earlier": start.earlier.digest} | more


def save_policies(out: Path, policy: Policy, trained: Policy) -> None:
    """Write ``policy.json``, which is served, and the policy that is trained if it is another."""
    policy.save(out / POLICY_FILE)
    if trained != policy:
        trained.save(out / TRAINED_FILE)


def as_policy(training: Training, policy: Policy, trained: Policy) -> Training:
    """The optimizer that the policy would have without the rows of candidates."""
    if trained == policy:
        return training
    stored = stored_policy(policy, training.model).num_params
    return replace(training, fit=settled(training.fit, stored))


def served_model(
    trained: Trained,
    out: Path,
    policy: Policy,
    num_dense: int,
    settings: ModelSettings,
    trained_policy: Policy | None = None,
) -> nn.Module:
    """The model whose test quality counts.

    With MLET it is the one-layer model, and with candidates the one without their rows; it is
    saved. Several processes score the two layers of MLET, whose outputs are the same.
    """
    here, held = ranks(), trained_policy or policy
    if settings.mlet is None and held == policy:
        return trained.model
    here.on_first(lambda: _collapse(out, policy, held, num_dense, settings))
    if here.world_size > 1 and held == policy:
        return trained.model
    single = replace(settings, mlet=None)
    return load_model(out / COLLAPSED_FOLDER, policy, num_dense, single).to(here.device)


def _collapse(
    out: Path, policy: Policy, trained: Policy, num_dense: int, settings: ModelSettings
) -> None:
    """Save the best model as it is served: tables of one layer, without rows of candidates."""
    best = load_model(out / BEST_FOLDER, trained, num_dense, settings)
    weights = named_weights(best if settings.mlet is None else best.collapsed())
    keys = {f"model.{BAGS}{table_key(t.name)}.weight": t.name for t in policy.tables}
    step = Checkpoints(out / BEST_FOLDER).steps()[-1]
    served = served_weights(weights, policy, trained, keys)
    Checkpoints(out / COLLAPSED_FOLDER, keep=1).save(step, served, {})


def own_budget(policy: Policy) -> int | Allowance:
    """The budget that a policy was made for, or else the floats that it holds."""
    made_for = policy.budget
    if made_for is not None and made_for.params is None and made_for.num_bytes is not None:
        return Allowance(made_for.num_bytes, BYTES)
    return default_budget(policy)


def for_label(training: Training, data: DataSet, earlier: Earlier | None = None) -> Training:
    """The training with the loss and the scale of the data's label.

    A model that goes on from an earlier run keeps the scale of that run, since its backbone
    predicts on it.

    Args:
        training: The training that is asked for.
        data: The data set.
        earlier: The run to go on from, if there is one.

    Raises:
        DataError: All training rows have one label.
        ValueError: A weight of positive rows, or the log loss as the measure of the best epoch, for
            a label that is not 0 or 1; settings of several labels for data of one, or of labels
            that the data lack.
    """
    schema, tasks = data.schema, training.model.multi_task
    if schema.more_labels:
        tasks = (tasks or MultiTask()).of(schema.labels)
        return replace(training, model=replace(training.model, multi_task=tasks))
    if tasks is not None:
        raise ValueError(
            f"settings of several labels (--label-weights, --sharing, --shared, --experts, "
            f"--keep-label), and {data.path} has the label {schema.label!r} alone; leave them out"
        )
    if schema.label_kind != REGRESSION:
        return training
    if training.fit.keep_by != "auc":
        raise ValueError(
            f"keep_by {training.fit.keep_by} with a regression label, of which the epoch with the "
            "best validation R2 is kept; leave --keep-by out"
        )
    if earlier is not None and (known := earlier.training.model.regression) is not None:
        return replace(training, model=replace(training.model, regression=known))
    mean, std = schema.label_rate.get("train"), schema.label_std.get("train")
    if mean is None or not std:
        raise DataError(
            f"{data.path}: all training rows have one label, so there is nothing to learn; "
            "prepare data with another label"
        )
    scale = Regression(mean, std)
    return replace(training, model=replace(training.model, regression=scale))
