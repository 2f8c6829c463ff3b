"""Train one model, in one process or over all of them, and evaluate it."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from seo_rec.data.stream import Stream
from seo_rec.embed.quantize import BITS, quantize_tables_
from seo_rec.environment import stamp
from seo_rec.files import write_json
from seo_rec.metrics import Metrics
from seo_rec.model import ModelSettings, RecModel, build_model
from seo_rec.plan import rates_of
from seo_rec.policy import Policy
from seo_rec.recipes.folders import (
    POLICY_FILE,
    RESULT_FILE,
    RUN_FILE,
    Run,
    RunError,
    SearchCost,
    command_line,
    describe,
    open_run,
)
from seo_rec.recipes.sharding import check_plan, shard
from seo_rec.recipes.weights import digest, load_weights
from seo_rec.schema import Schema, read_schema
from seo_rec.train import (
    BEST_FOLDER,
    Checkpoints,
    FitResult,
    FitSettings,
    evaluate,
    fit,
    load_tensors,
    make_optimizers,
    ranks,
)
from seo_rec.train.state import State, weights_of

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

EVAL_BATCH = 8192
COLLAPSED_FOLDER = "collapsed"  # best weights of a run with MLET, as one layer


@dataclass(frozen=True)
class Trained:
    """A trained model in memory (sharded, if several processes trained it), and its outcome."""

    model: nn.Module
    result: FitResult


def train_model(
    data: Path,
    policy: Policy,
    model_settings: ModelSettings,
    settings: FitSettings,
    out: Path | None = None,
    title: str = "train",
    plan: Path | None = None,
    weights: Path | None = None,
) -> Trained:
    """Train the model of ``policy`` on ``data``; the returned model has its best weights.

    Every process of a launch calls this. ``plan`` is the plan to shard by; by default one is made
    for the machines that are there. ``weights`` is the file of a search to go on from. With MLET
    neither can be given, and the model returned still has two layers.
    """
    schema = read_schema(data)
    _check_features(schema, policy)
    _check_mlet(model_settings, plan, weights)
    train, val = streams(data, policy, settings)
    whole = build_model(policy, len(train.schema.numeric), model_settings, settings.seed)
    if weights:
        load_weights(whole, weights)
    model = shard(whole, settings, plan, rates_of(schema))
    optimizers = optimizers_of(model, settings)
    return Trained(model, fit(model, train, val, optimizers, settings, out, title=title))


def train(
    data: Path,
    policy: Policy,
    out: Path,
    model_settings: ModelSettings,
    settings: FitSettings,
    *,
    method: str = "policy",
    resume: bool = False,
    budget: int = 0,
    search: SearchCost | None = None,
    plan: Path | None = None,
    weights: Path | None = None,
) -> Run:
    """Train ``policy`` in the run folder ``out`` and read the test split once.

    With MLET ``best/`` holds the two layers of the tables and ``collapsed/`` the one they make,
    which is what :func:`load_trained` reads.

    Raises:
        PlanError: ``plan`` is not for this policy, this optimizer or these processes.
        RunError: ``out`` holds another run, or a run and ``resume`` is False.
    """
    schema = read_schema(data)
    _check_features(schema, policy)
    _check_mlet(model_settings, plan, weights)
    asked = {
        "kind": "train",
        "data": str(data),
        "data_fingerprint": schema.fingerprint,
        "num_dense": len(schema.numeric),
        "method": method,
        "policy": policy.to_json(),
        "model": model_settings.as_json(),
        "fit": asdict(settings),
    }
    if weights:
        asked["weights"] = digest(weights)
    here = ranks()

    def begin() -> Run | None:
        if plan is not None:
            check_plan(plan, policy, settings, here)
        open_run(out, asked, resume)
        if (out / RESULT_FILE).exists():
            return Run(**json.loads((out / RESULT_FILE).read_text()))
        policy.save(out / POLICY_FILE)
        return None

    if finished := here.on_first(begin):
        return finished
    trained = train_model(data, policy, model_settings, settings, out, method, plan, weights)
    model = trained.model
    if model_settings.mlet is not None:
        num_dense = len(schema.numeric)
        here.on_first(lambda: _collapse(out, policy, num_dense, model_settings))
        if here.world_size == 1:
            single = replace(model_settings, mlet=None)
            model = _load(out / COLLAPSED_FOLDER, policy, num_dense, single).to(here.device)
    metrics, _, _ = evaluate(model, eval_stream(data, "test", policy))
    run = Run(
        data=schema.dataset,
        data_fingerprint=schema.fingerprint,
        method=method,
        seed=settings.seed,
        budget=budget or policy.num_params,
        embedding_params=policy.num_params,
        val_auc=trained.result.val.auc,
        val_logloss=trained.result.val.log_loss,
        test_auc=metrics.auc,
        test_logloss=metrics.log_loss,
        test_normalized_entropy=metrics.normalized_entropy,
        test_calibration=metrics.calibration,
        epochs=trained.result.epochs,
        steps=trained.result.steps,
        seconds_per_epoch=trained.result.seconds_per_epoch,
        seconds=trained.result.seconds,
        search_seconds=search.seconds if search else 0.0,
        search_peak_bytes=search.peak_bytes if search else 0,
        policy=describe(policy),
        command=command_line(),
        environment=stamp(),
    )

    def finish() -> Run:
        write_json(out / RESULT_FILE, asdict(run))
        return run

    return here.on_first(finish)


def load_trained(run: Path) -> RecModel:
    """The model of a finished training run, whole, with its best weights.

    However many processes wrote it, one reads it.

    Raises:
        CheckpointError: the weights are damaged.
        RunError: the folder is not a finished training run.
    """
    if not (run / RESULT_FILE).exists() or not Checkpoints(run / BEST_FOLDER).steps():
        raise RunError(f"{run}: not a finished training run; `seo-rec train --resume` finishes it")
    asked = json.loads((run / RUN_FILE).read_text())
    settings = ModelSettings.from_json(asked["model"])
    folder = run / (BEST_FOLDER if settings.mlet is None else COLLAPSED_FOLDER)
    single = replace(settings, mlet=None)
    return _load(folder, Policy.load(run / POLICY_FILE), asked["num_dense"], single)


def _load(folder: Path, policy: Policy, num_dense: int, settings: ModelSettings) -> RecModel:
    """The model of the newest weights in ``folder``."""
    model = build_model(policy, num_dense, settings, seed=0)
    saved = Checkpoints(folder)
    load_tensors(saved.open(saved.steps()[-1]), _weights(model))
    return model


def _collapse(out: Path, policy: Policy, num_dense: int, settings: ModelSettings) -> None:
    """Save the best model of a run with MLET with tables of one layer."""
    single = _load(out / BEST_FOLDER, policy, num_dense, settings).collapsed()
    step = Checkpoints(out / BEST_FOLDER).steps()[-1]
    Checkpoints(out / COLLAPSED_FOLDER, keep=1).save(step, _weights(single), {})


def _weights(model: nn.Module) -> State:
    return {f"model.{name}": value for name, value in weights_of(model).items()}


def _check_mlet(settings: ModelSettings, plan: Path | None, weights: Path | None) -> None:
    """ValueError if what a file says of tables of one layer is to be used with two."""
    given = [option for option, path in (("plan", plan), ("weights", weights)) if path]
    if settings.mlet is not None and given:
        raise ValueError(
            f"{' and '.join(given)} with MLET, which trains tables of width {settings.mlet.dim}; "
            "allowed: without MLET only, a plan is made for what is trained"
        )


def evaluate_run(run: Path, data: Path, split: str) -> Metrics:
    """Metrics of a finished training run on a split of ``data``.

    Raises:
        RunError: the folder is not a finished training run, or ``data`` has other numeric columns.
    """
    return _evaluate_run(run, load_trained(run), data, split)


def evaluate_quantized(run: Path, data: Path, split: str, bits: int) -> dict[str, float]:
    """As :func:`evaluate_run`, with the tables quantized; also the bytes of the embeddings.

    Raises:
        RunError: as :func:`evaluate_run`.
        ValueError: ``bits`` are not 8.
    """
    if bits not in BITS:
        raise ValueError(f"tables of {bits} bits; allowed: {', '.join(map(str, BITS))}")
    model = load_trained(run)
    quantized, full = quantize_tables_(model.embedding)
    return {
        **asdict(_evaluate_run(run, model, data, split)),
        "bits": bits,
        "embedding_bytes": quantized,
        "embedding_bytes_float32": full,
    }


def _evaluate_run(run: Path, model: RecModel, data: Path, split: str) -> Metrics:
    return evaluate(model.to(ranks().device), stream_of(run, data, split))[0]


def stream_of(run: Path, data: Path, split: str) -> Stream:
    """:func:`eval_stream` for the model of a finished training run.

    Raises:
        DataError: ``data`` lacks a feature.
        RunError: ``data`` has other numeric columns.
    """
    stream = eval_stream(data, split, Policy.load(run / POLICY_FILE))
    wanted, found = json.loads((run / RUN_FILE).read_text())["num_dense"], stream.schema.numeric
    if wanted != len(found):
        raise RunError(f"{run} was trained on {wanted} numeric columns and {data} has {len(found)}")
    return stream


def labels_of(data: Path, split: str) -> Floats:
    """Labels of a split in file order, float32 (rows,)."""
    any_feature = read_schema(data).features[0].name
    stream = Stream(data, split, batch_size=EVAL_BATCH, columns=[any_feature])
    return np.concatenate([batch.labels_B.numpy() for batch in stream])


def optimizers_of(model: nn.Module, settings: FitSettings) -> dict[str, torch.optim.Optimizer]:
    return make_optimizers(
        model, settings.row_optimizer, settings.row_lr, settings.dense_lr, settings.row_l2
    )


def streams(data: Path, policy: Policy, settings: FitSettings) -> tuple[Stream, Stream]:
    """This process's share of the training rows, shuffled, and of the validation rows.

    Raises:
        ValueError: the batch cannot be shared out evenly.
    """
    here = ranks()
    train = Stream(
        data,
        "train",
        batch_size=here.share(settings.batch_size, "batch_size"),
        shuffle=True,
        seed=settings.seed,
        rank=here.rank,
        world_size=here.world_size,
        columns=[f.name for f in policy.features],
    )
    return train, eval_stream(data, "val", policy)


def eval_stream(data: Path, split: str, policy: Policy) -> Stream:
    """This process's share of a split, in file order."""
    here = ranks()
    return Stream(
        data,
        split,
        batch_size=max(1, EVAL_BATCH // here.world_size),
        rank=here.rank,
        world_size=here.world_size,
        columns=[f.name for f in policy.features],
    )


def _check_features(schema: Schema, policy: Policy) -> None:
    known = {c.name for c in schema.features}
    accounted = {f.name for f in policy.features} | set(policy.dropped)
    if unknown := sorted({f.name for f in policy.features} - known):
        raise RunError(f"the policy serves features {unknown} that the data lacks: {sorted(known)}")
    if silent := sorted(known - accounted):
        raise RunError(
            f"the policy says nothing about features {silent}; serve them or list them as dropped"
        )
