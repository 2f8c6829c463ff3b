"""The search itself: grow the model, read its gates, write the policy."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from seo_rec.data.dataset import DataSet
from seo_rec.policy import PolicyError
from seo_rec.search.dimgrow.gates import mean_reads
from seo_rec.search.dimgrow.growth import Growth, make_optimizers
from seo_rec.search.dimgrow.model import GrowingModel
from seo_rec.search.dimgrow.schedule import KEPT, Answer, DimGrowStep
from seo_rec.search.dimgrow.settings import DimGrowSettings, check_adapt, check_fit
from seo_rec.search.dimgrow.weights import found_weights
from seo_rec.search.found import Found, embedding_bytes
from seo_rec.search.held_out import HeldOut
from seo_rec.search.space import open_space
from seo_rec.train import Training, eval_stream, fit, ranks, train_stream


def _start(data: DataSet, settings: DimGrowSettings, training: Training) -> Growth:
    """The model with one column of each feature, and its optimizers."""
    check_fit(training.fit)
    check_adapt(settings.adapt, training.model.backbone)
    space = open_space(data, settings, training.fit.seed)
    space.require_columns(settings.amount)
    F = len(space.names)
    if 0 < settings.total_dims < F:
        raise PolicyError(f"total_dims {settings.total_dims}; allowed: {F}, one per feature")
    torch.manual_seed(training.fit.seed)
    model = GrowingModel(space, settings, training.model).to(ranks().device)
    model.reads = mean_reads(model.remap, space.rows, train_stream(data, training.fit))
    for i in range(F):
        model.allocate(i)
    model.used = [[0] for _ in range(F)]
    return Growth(model, settings, make_optimizers(model, training.fit))


def dimgrow(
    data: DataSet, settings: DimGrowSettings, training: Training, out: Path | None = None
) -> Found:
    """Search widths by growing them; ``d_f = |{k: g_fk > 0.5}|``, features with none are dropped.

    Raises:
        CheckpointError: the newest checkpoint of ``out`` is damaged, or another process searches
            there.
        PolicyError: one column of every feature exceeds a limit, or no gate ended above 0.5.
        ValueError: settings that do not go together, or the search in ``out`` is past ``max_steps``
            and was not evaluated there.
        Preempted: SIGTERM came; with ``out``, a checkpoint has been written.
    """
    growth = _start(data, settings, training)
    model, space, optimizers = growth.model, growth.model.space, growth.optimizers
    held_out = HeldOut(data, training.fit) if settings.gate_split == "held-out" else None
    step = DimGrowStep(growth, held_out)
    train, val = train_stream(data, training.fit), eval_stream(data, "val")
    by_fit = {n: o for n, o in optimizers.items() if n != "gate" or held_out is None}
    # its best epoch is by AUC, as its widths are; a mean of weights would not know new columns
    alone = replace(training.fit, average=0.0, keep_by="auc")
    result = fit(model, train, val, by_fit, alone, out=out, after_step=step, title="dimgrow")
    trained, answer = time.perf_counter(), step.answer
    assert answer is not None
    _require_some(answer, settings, result.steps)
    kept = dims = answer.kept
    if settings.amount and settings.fill:
        most = [settings.max_dim] * len(kept)
        dims = space.fill([float(d) for d in kept], settings.amount, most)
    params = settings.amount if settings.fill else 0
    policy = space.policy(dims, params, space.origin("dimgrow", dims, asdict(settings)))
    record = {
        "found": dict(zip(space.names, kept, strict=True)),
        "gates": dict(zip(space.names, answer.gates, strict=True)),
        "gates_of_epoch": answer.epoch,
        "allocated": dict(zip(space.names, model.allocated, strict=True)),
        "steps": result.steps,
        "history": step.history,
        "events": growth.events,
    }
    weights = step.best_weights
    if settings.gates_of == "last":
        weights = found_weights(model, step.kept_columns())
    # neither wider, nor with more rows than were grown
    as_grown = dims == kept and space.allowance.of(policy) == space.size(dims)
    columns = [d.values_V for own in model.columns for d in own]  # type: ignore[attr-defined]
    return Found(
        policy,
        answer.val_auc,
        result.seconds + time.perf_counter() - trained,
        embedding_bytes(columns, [optimizers["rows"]]),
        record,
        weights if as_grown else {},
    )


def _require_some(answer: Answer, settings: DimGrowSettings, steps: int) -> None:
    """PolicyError if no column of any feature is kept."""
    if any(answer.kept):
        return
    early = f", and gates_of best took epoch {answer.epoch}" if settings.gates_of == "best" else ""
    raise PolicyError(
        f"no gate of the search ended above {KEPT}: alpha {settings.alpha} is too strong for these "
        f"data, or {steps} steps were too few{early}; lower alpha"
    )
