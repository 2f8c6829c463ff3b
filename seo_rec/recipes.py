"""The named runs: train one model, search a policy, compare methods.

Every run is a folder. ``run.json`` says what was asked, ``result.json`` what came out; a folder
without ``result.json`` is unfinished and is resumed by the same call with ``resume=True``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from seo_rec import apply, methods
from seo_rec.data.stream import Stream
from seo_rec.data.synthetic import synthetic
from seo_rec.data.vocabulary import read_vocabulary
from seo_rec.environment import stamp
from seo_rec.files import append_line, write_json
from seo_rec.metrics import Metrics, auc_gain
from seo_rec.model import ModelSettings, RecModel, build_model
from seo_rec.policy import Policy
from seo_rec.schema import SCHEMA_FILE, Schema, read_schema
from seo_rec.search import seo
from seo_rec.train import FitResult, FitSettings, evaluate, fit, make_optimizers
from seo_rec.train.checkpoint import load_tensors

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

RESULT_FILE = "result.json"
RUN_FILE = "run.json"
POLICY_FILE = "policy.json"
SEARCH_FILE = "search.json"
BEST_FILE = "best.pt"
EVAL_BATCH = 8192


class RunError(RuntimeError):
    """A run folder that cannot be used as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Run:
    """What one trained model came to; one line of ``results.jsonl``."""

    data: str
    data_fingerprint: str
    method: str
    seed: int
    budget: int
    embedding_params: int
    val_auc: float
    val_logloss: float
    test_auc: float
    test_logloss: float
    test_normalized_entropy: float
    test_calibration: float
    epochs: int
    steps: int
    seconds_per_epoch: float
    seconds: float
    search_seconds: float
    policy: str
    command: str
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class Trained:
    """A trained model in memory, with its validation outcome and its cost in seconds."""

    model: RecModel
    result: FitResult
    seconds: float


@dataclass(frozen=True)
class RunOff:
    """How a search chooses between its candidates, on validation data.

    ``epochs``: each candidate is trained for at most this many; ``standard_errors``: a candidate
    must beat the policy it would replace by so many standard errors of the paired difference of
    AUC, because the best of many candidates is partly the luckiest; ``chunk_dims``: widths of
    chunks to search besides the settings' own; ``trivial_lookups``: the trivial policies besides
    the one of ``dim / chunk_dim`` lookups per feature, which is the first to beat.
    """

    epochs: int = 20
    standard_errors: float = 2.0
    chunk_dims: tuple[int, ...] = (8, 4)
    trivial_lookups: tuple[int, ...] = (2, 4, 8)

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.standard_errors < 0:
            raise ValueError(
                f"run-off of epochs {self.epochs} and standard_errors {self.standard_errors}; "
                "allowed: epochs 1 or more, standard_errors 0 or more"
            )
        if any(n < 1 for n in (*self.chunk_dims, *self.trivial_lookups)):
            raise ValueError(
                f"run-off of chunk_dims {self.chunk_dims} and trivial_lookups "
                f"{self.trivial_lookups}; allowed: numbers of 1 or more"
            )


# ---- one model ---------------------------------------------------------------------------


def train_model(
    data: Path,
    policy: Policy,
    model_settings: ModelSettings,
    settings: FitSettings,
    out: Path | None = None,
    title: str = "train",
) -> Trained:
    """Train the model of ``policy`` on ``data``; the returned model has its best weights."""
    started = time.perf_counter()
    _check_features(read_schema(data), policy)
    train, val = _streams(data, policy, settings)
    model = build_model(policy, len(train.schema.numeric), model_settings, settings.seed)
    optimizers = _optimizers(model, settings)
    result = fit(model, train, val, optimizers, settings, out, title=title)
    return Trained(model, result, time.perf_counter() - started)


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
    search_seconds: float = 0.0,
) -> Run:
    """Train ``policy`` in the run folder ``out`` and read the test split once.

    Raises:
        RunError: ``out`` holds another run, or a run and ``resume`` is False.
    """
    schema = read_schema(data)
    _check_features(schema, policy)
    asked = {
        "kind": "train",
        "data": str(data),
        "data_fingerprint": schema.fingerprint,
        "num_dense": len(schema.numeric),
        "method": method,
        "policy": policy.to_json(),
        "model": asdict(model_settings),
        "fit": asdict(settings),
    }
    open_run(out, asked, resume)
    if (out / RESULT_FILE).exists():
        return Run(**json.loads((out / RESULT_FILE).read_text()))
    policy.save(out / POLICY_FILE)
    trained = train_model(data, policy, model_settings, settings, out, title=method)
    test = Stream(data, "test", batch_size=EVAL_BATCH, columns=[f.name for f in policy.features])
    metrics, _, _ = evaluate(trained.model, test)
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
        seconds=trained.seconds,
        search_seconds=search_seconds,
        policy=describe(policy),
        command=command_line(),
        environment=stamp(),
    )
    write_json(out / RESULT_FILE, asdict(run))
    return run


def load_trained(run: Path) -> RecModel:
    """The model of a finished training run, with its best weights.

    Raises:
        RunError: the folder is not a finished training run.
    """
    if not (run / RESULT_FILE).exists() or not (run / BEST_FILE).exists():
        raise RunError(f"{run}: not a finished training run; `seo-rec train --resume` finishes it")
    asked = json.loads((run / RUN_FILE).read_text())
    settings = ModelSettings(**{**asked["model"], "hidden": tuple(asked["model"]["hidden"])})
    model = build_model(Policy.load(run / POLICY_FILE), asked["num_dense"], settings, seed=0)
    model.load_state_dict(load_tensors(run / BEST_FILE)["model"])
    return model


def evaluate_run(run: Path, data: Path, split: str) -> Metrics:
    """Metrics of a finished training run on a split of ``data``.

    Raises:
        RunError: the folder is not a finished training run, or ``data`` has other numeric columns.
    """
    model = load_trained(run)
    columns = [f.name for f in model.embedding.policy.features]
    stream = Stream(data, split, batch_size=EVAL_BATCH, columns=columns)
    wanted, found = json.loads((run / RUN_FILE).read_text())["num_dense"], stream.schema.numeric
    if wanted != len(found):
        raise RunError(f"{run} was trained on {wanted} numeric columns and {data} has {len(found)}")
    return evaluate(model, stream)[0]


# ---- search ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Searched:
    """A searched attention and its search model's quality."""

    space: Policy
    alpha: torch.Tensor
    val_auc: float
    test_auc: float
    seconds: float
    seconds_per_epoch: float


def search_attention(
    data: Path,
    settings: seo.SeoSettings,
    model_settings: ModelSettings,
    fit_settings: FitSettings,
    out: Path,
) -> Searched:
    """SEO stage 1: train the search model; its attention and its own AUC.

    Works in a folder of ``out`` named after what is asked; a result found there is taken, an
    unfinished search is resumed.
    """
    schema = read_schema(data)
    asked = {
        "kind": "attention",
        "data": str(data),
        "data_fingerprint": schema.fingerprint,
        "seo": asdict(settings),
        "model": asdict(model_settings),
        "fit": asdict(fit_settings),
    }
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
    folder = out / f"attention-{settings.chunk_dim}-seed{fit_settings.seed}-{key}"
    open_run(folder, asked, resume=True)
    space = seo.search_space(schema, settings, fit_settings.seed)
    if (folder / RESULT_FILE).exists():
        found = json.loads((folder / RESULT_FILE).read_text())
        return Searched(space, **{**found, "alpha": torch.tensor(found["alpha"])})
    started = time.perf_counter()
    gate = seo.make_gate(schema, settings, fit_settings.seed)
    model = build_model(space, len(schema.numeric), model_settings, fit_settings.seed, gate)
    train, val = _streams(data, space, fit_settings)
    optimizers = _optimizers(model, fit_settings)
    optimizers |= seo.gate_optimizers(gate, settings, fit_settings.dense_lr)
    held_out = None
    if settings.search_split == "held-out":
        held_out = Stream(
            data, "val", batch_size=fit_settings.batch_size, shuffle=True, seed=fit_settings.seed
        )
    logit_step = seo.LogitStep(
        gate,
        settings,
        held_out,
        total_steps=fit_settings.epochs * len(train),
        warmup_steps=settings.warmup_epochs * len(train),
    )
    result = fit(model, train, val, optimizers, fit_settings, folder, logit_step, title="search")
    best_step = min(result.steps, (result.best_epoch + 1) * len(train))
    gate.temperature = logit_step.temperature_at(best_step)  # that of the best weights
    test, _, _ = evaluate(model, Stream(data, "test", batch_size=EVAL_BATCH))
    searched = Searched(
        space,
        gate.alpha().detach(),
        result.val.auc,
        test.auc,
        time.perf_counter() - started,
        result.seconds_per_epoch,
    )
    record = {k: getattr(searched, k) for k in Searched.__dataclass_fields__ if k != "space"}
    write_json(folder / RESULT_FILE, {**record, "alpha": searched.alpha.tolist()})
    return searched


def paper_policy(searched: Searched, settings: seo.SeoSettings, strategy: str) -> Policy:
    """The paper's applier: select from the attention, then ``exact`` or ``round-robin``."""
    total = settings.chosen(searched.alpha.shape[0])
    chosen = seo.select(searched.space, searched.alpha, total, settings.min_chunks)
    return apply.STRATEGIES[strategy](chosen, settings.params)


def candidates(
    data: Path,
    settings: seo.SeoSettings,
    run_off: RunOff,
    model_settings: ModelSettings,
    fit_settings: FitSettings,
    out: Path,
) -> tuple[dict[str, Policy], dict[int, Searched]]:
    """The policies of the run-off: trivial ones, and those selected from searches."""
    schema = read_schema(data)
    policies: dict[str, Policy] = {}
    for k in dict.fromkeys((settings.dim // settings.chunk_dim, *run_off.trivial_lookups)):
        if settings.dim % k == 0:
            policies[f"trivial-{k}x{settings.dim // k}"] = methods.multi_size(
                schema, settings.params, settings.dim, lookups=k, seed=fit_settings.seed
            )
    searches: dict[int, Searched] = {}
    for width in _widths(settings, run_off):
        of_width = replace(settings, chunk_dim=width, total_chunks=None)
        found = search_attention(data, of_width, model_settings, fit_settings, out)
        searches[width] = found
        total = of_width.chosen(len(schema.features))
        for least in sorted({0, settings.min_chunks}):
            chosen = seo.select(found.space, found.alpha, total, least)
            for name, strategy in apply.STRATEGIES.items():
                policies[f"seo-{width}-min{least}-{name}"] = strategy(chosen, settings.params)
    return policies, searches


def search(
    data: Path,
    out: Path,
    settings: seo.SeoSettings,
    model_settings: ModelSettings,
    fit_settings: FitSettings,
    run_off: RunOff | None = None,
    *,
    resume: bool = False,
    attentions: Path | None = None,
) -> Policy:
    """Search a policy and write it to ``out/policy.json``.

    Without ``run_off`` it is the paper's raw policy: the top chunks of the attention, not yet
    applied. With it, candidates and trivial policies are trained and the best on validation data
    is taken (already at the budget): a trivial one, unless a searched one is clearly better
    there. ``attentions`` is where searches of attention are kept, for several callers to share
    (default: a folder in ``out``).

    Raises:
        RunError: ``out`` holds another run, or a run and ``resume`` is False.
    """
    attentions = attentions or out / "attentions"
    _check_search(read_schema(data), settings, fit_settings, run_off)
    asked = {
        "kind": "search",
        "data": str(data),
        "data_fingerprint": read_schema(data).fingerprint,
        "seo": asdict(settings),
        "model": asdict(model_settings),
        "fit": asdict(fit_settings),
        "run_off": asdict(run_off) if run_off else None,
    }
    open_run(out, asked, resume)
    if (out / POLICY_FILE).exists() and (out / SEARCH_FILE).exists():
        return Policy.load(out / POLICY_FILE)
    scores: dict[str, dict[str, Any]] = {}
    if run_off is None:
        found = search_attention(data, settings, model_settings, fit_settings, attentions)
        total = settings.chosen(found.alpha.shape[0])
        policy = seo.select(found.space, found.alpha, total, settings.min_chunks)
        searches, winner = {settings.chunk_dim: found}, "seo"
    else:
        policies, searches = candidates(
            data, settings, run_off, model_settings, fit_settings, attentions
        )
        winner, scores = _run_off(
            data, policies, run_off, model_settings, fit_settings, out / "candidates"
        )
        policy = policies[winner]
    if policy.dropped:
        log.warning("the policy drops %s", ", ".join(policy.dropped))
    policy = replace(policy, provenance={**policy.provenance, "winner": winner})
    policy.save(out / POLICY_FILE)
    write_json(
        out / SEARCH_FILE,
        {
            "winner": winner,
            "run_off": scores,
            "seconds": sum(s.seconds for s in searches.values())
            + sum(json.loads(p.read_text())["seconds"] for p in (out / "scores").glob("*.json")),
            "dataset": read_schema(data).dataset,
            "searches": {
                str(width): {
                    "features": [f.name for f in s.space.features],
                    "attention": s.alpha.tolist(),
                    "val_auc": s.val_auc,
                    "test_auc": s.test_auc,
                    "seconds": s.seconds,
                    "seconds_per_epoch": s.seconds_per_epoch,
                }
                for width, s in searches.items()
            },
            "environment": stamp(),
            "command": command_line(),
        },
    )
    return policy


def _check_search(
    schema: Schema, settings: seo.SeoSettings, fit_settings: FitSettings, run_off: RunOff | None
) -> None:
    """Refuse before the training what would fail, or be ignored, after it."""
    if settings.search_split == "held-out" and settings.warmup_epochs >= fit_settings.epochs:
        raise ValueError(
            f"warmup_epochs {settings.warmup_epochs} of {fit_settings.epochs} epochs: the logits "
            f"would never be trained; allowed with held-out: 0 to {fit_settings.epochs - 1}"
        )
    F = len(schema.features)
    if run_off is None:
        seo.check_total(F, settings.num_chunks, settings.chosen(F), settings.min_chunks)
        return
    if settings.total_chunks is not None:
        raise ValueError("total_chunks is for a search without run-off (--no-run-off)")
    for width in _widths(settings, run_off):
        of_width = replace(settings, chunk_dim=width)
        seo.check_total(F, of_width.num_chunks, of_width.chosen(F), settings.min_chunks)


def _widths(settings: seo.SeoSettings, run_off: RunOff) -> list[int]:
    """Chunk widths that a run-off searches: the settings' own first, then those that divide."""
    widths = dict.fromkeys((settings.chunk_dim, *run_off.chunk_dims))
    return [w for w in widths if settings.dim % w == 0 and settings.search_dim % w == 0]


def budget_of(policy: Policy) -> int:
    """The budget a policy was searched for: its own size, unless it is a raw search result."""
    arguments = policy.provenance.get("arguments", {})
    if policy.provenance.get("method") == "seo-search" and "apply" not in policy.provenance:
        return int(arguments["budget_rows"]) * int(arguments["dim"])
    return policy.num_params


def _run_off(
    data: Path,
    policies: Mapping[str, Policy],
    run_off: RunOff,
    model_settings: ModelSettings,
    fit_settings: FitSettings,
    out: Path,
) -> tuple[str, dict[str, dict[str, Any]]]:
    """Train every candidate, score it on validation rows, and name the winner.

    Equal policies are trained once, and a candidate already scored in ``out`` is not trained again.
    The first trivial policy wins unless another trivial one, and then a searched one, beats the
    winner so far by ``standard_errors`` of the paired difference, and does so again when both are
    trained with another seed.
    """
    scored = out.parent / "scores"
    scored.mkdir(parents=True, exist_ok=True)
    short = replace(fit_settings, epochs=min(run_off.epochs, fit_settings.epochs))
    labels = labels_of(data, "val")
    scores: dict[str, dict[str, Any]] = {}
    seen: dict[Policy, str] = {}
    for name, policy in policies.items():
        if policy in seen:
            scores[name] = {"same_as": seen[policy], "params": policy.num_params}
            continue
        seen[policy] = name
        policy.save(out / f"{name}.json")
        scores[name], _ = _score(data, name, policy, model_settings, short, scored)

    def gain(name: str, incumbent: str, settings: FitSettings) -> tuple[float, float]:
        z, reference = (
            _score(data, n, policies[n], model_settings, settings, scored)[1]
            for n in (name, incumbent)
        )
        return auc_gain(z, reference, labels)

    names = list(seen.values())
    winner = names[0]
    other_seed = replace(short, seed=short.seed + 7919)
    for rivals in (
        [n for n in names if n.startswith("trivial")],
        [n for n in names if not n.startswith("trivial")],
    ):
        incumbent = winner
        for name in rivals:
            found, error = gain(name, incumbent, short)
            scores[name] |= {"against": incumbent, "gain": found, "standard_error": error}
        for name in sorted(rivals, key=lambda n: -scores[n]["gain"]):
            if scores[name]["gain"] <= run_off.standard_errors * scores[name]["standard_error"]:
                continue
            found, error = gain(name, incumbent, other_seed)
            scores[name] |= {"gain_again": found, "standard_error_again": error}
            if found > run_off.standard_errors * error:
                winner = name
                break
    log.info("the run-off chose %s", winner)
    return winner, scores


def _score(
    data: Path,
    name: str,
    policy: Policy,
    model_settings: ModelSettings,
    settings: FitSettings,
    folder: Path,
) -> tuple[dict[str, Any], Floats]:
    """Validation AUC, size and cost of a candidate trained so, and its validation logits."""
    stem = f"{name}-seed{settings.seed}"
    score, saved = folder / f"{stem}.json", folder / f"{stem}.npy"
    if not score.exists():
        trained = train_model(data, policy, model_settings, settings, title=name)
        columns = [f.name for f in policy.features]
        stream = Stream(data, "val", batch_size=EVAL_BATCH, columns=columns)
        metrics, z, _ = evaluate(trained.model, stream)
        np.save(saved, z, allow_pickle=False)
        found = {"val_auc": metrics.auc, "params": policy.num_params, "seconds": trained.seconds}
        write_json(score, found)
        log.info("candidate %s: validation AUC %.5f", stem, metrics.auc)
    return json.loads(score.read_text()), np.load(saved, allow_pickle=False)


def labels_of(data: Path, split: str) -> Floats:
    """Labels of a split in file order, float32 (rows,)."""
    any_feature = read_schema(data).features[0].name
    stream = Stream(data, split, batch_size=EVAL_BATCH, columns=[any_feature])
    return np.concatenate([batch.labels_B.numpy() for batch in stream])


# ---- comparison --------------------------------------------------------------------------


def method_policy(
    method: str, data: Path, params: int, dim: int, chunk_dim: int, seed: int
) -> Policy:
    """The policy of a plain method by its ``compare`` name; the budget is in parameters.

    ``separate``, ``separate-cardinality``, ``monolithic``, ``multi-size`` (``dim / chunk_dim``
    lookups), ``multi-size-K`` (K lookups), ``collisionless`` (its size is its own).

    Raises:
        ValueError: unknown name.
    """
    schema = read_schema(data)
    if method == "separate":
        return methods.separate(schema, params, dim, seed=seed)
    if method == "separate-cardinality":
        return methods.separate(schema, params, dim, rows="cardinality", seed=seed)
    if method == "monolithic":
        return methods.monolithic(schema, params, dim, seed=seed)
    if method == "multi-size":
        if chunk_dim < 1 or dim % chunk_dim:
            raise ValueError(f"chunk_dim {chunk_dim}; allowed: a divisor of dim {dim}")
        return methods.multi_size(schema, params, dim, lookups=dim // chunk_dim, seed=seed)
    if _is_multi_size(method):
        k = int(method.removeprefix("multi-size-"))
        return methods.multi_size(schema, params, dim, lookups=k, seed=seed)
    if method == "collisionless":
        vocabularies = {c.name: read_vocabulary(data, c.name)[0] for c in schema.features}
        return methods.collisionless(schema, dim, vocabularies)
    raise ValueError(f"method {method!r}; allowed: {', '.join(PLAIN_METHODS)}")


def _is_multi_size(method: str) -> bool:
    return method.startswith("multi-size-") and method.removeprefix("multi-size-").isdigit()


PLAIN_METHODS = (
    "separate",
    "separate-cardinality",
    "monolithic",
    "multi-size",
    "multi-size-K",
    "collisionless",
)
SEO_METHODS = {"seo-exact": "exact", "seo-rr": "round-robin"}
METHODS = (*PLAIN_METHODS, *SEO_METHODS, "seo")


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` runs: methods at one budget, each with every seed.

    ``data``: one prepared data set, or several (random splits): seed s uses number s modulo their
    count; ``seeds``: number of seeds, counted from ``first_seed``.
    """

    data: tuple[Path, ...]
    methods: tuple[str, ...]
    settings: seo.SeoSettings
    seeds: int = 5
    first_seed: int = 0
    model: ModelSettings = ModelSettings()
    fit: FitSettings = FitSettings()
    run_off: RunOff = RunOff()


def compare(comparison: Comparison, out: Path) -> list[Run]:
    """Run what is not yet in ``out/results.jsonl``, and return all its lines.

    Resumable: called again with the same ``out`` it goes on where it stopped; more methods and
    seeds may be asked for.

    Raises:
        RunError: ``out`` holds a comparison with other data or settings.
        ValueError: an unknown method.
    """
    if not comparison.methods or comparison.seeds < 1 or not comparison.data:
        raise ValueError(
            f"{len(comparison.methods)} methods, {comparison.seeds} seeds, {len(comparison.data)} "
            "data sets; allowed: 1 or more of each"
        )
    if comparison.first_seed < 0:
        raise ValueError(f"first_seed is {comparison.first_seed}; allowed: 0 or more")
    for method in comparison.methods:
        if method not in METHODS and not _is_multi_size(method):
            raise ValueError(f"method {method!r}; allowed: {', '.join(METHODS)}")
    schema = read_schema(comparison.data[0])
    for run_off in {
        None if m in SEO_METHODS else comparison.run_off
        for m in comparison.methods
        if m == "seo" or m in SEO_METHODS
    }:
        _check_search(schema, comparison.settings, comparison.fit, run_off)
    asked = asdict(comparison)
    for growing in ("methods", "seeds", "first_seed"):
        asked.pop(growing)
    asked |= {
        "kind": "compare",
        "data": [str(d) for d in comparison.data],
        "data_fingerprints": [read_schema(d).fingerprint for d in comparison.data],
    }
    open_run(out, asked, resume=True)
    results = out / "results.jsonl"
    done = {(r.method, r.seed): r for r in read_runs(results)} if results.exists() else {}
    runs: list[Run] = []
    for i in range(comparison.seeds):
        seed = comparison.first_seed + i
        data = comparison.data[seed % len(comparison.data)]
        for method in comparison.methods:
            run = done.get((method, seed))
            if run is None:
                run = _compare_one(comparison, method, data, seed, out)
                append_line(results, json.dumps(asdict(run), sort_keys=True))
            runs.append(run)
            log.info("%s seed %d: test AUC %.5f", method, seed, run.test_auc)
    return runs


def _compare_one(comparison: Comparison, method: str, data: Path, seed: int, out: Path) -> Run:
    settings, fit_settings = comparison.settings, replace(comparison.fit, seed=seed)
    searched = 0.0
    if method == "seo" or method in SEO_METHODS:
        raw = method in SEO_METHODS
        folder = out / "searches" / f"{'seo-raw' if raw else 'seo'}-seed{seed}"
        policy = search(
            data,
            folder,
            settings,
            comparison.model,
            fit_settings,
            None if raw else comparison.run_off,
            resume=True,
            attentions=out / "attentions",
        )
        if raw:
            policy = apply.STRATEGIES[SEO_METHODS[method]](policy, settings.params)
        searched = float(json.loads((folder / SEARCH_FILE).read_text())["seconds"])
    else:
        policy = method_policy(
            method, data, settings.params, settings.dim, settings.chunk_dim, seed
        )
    return train(
        data,
        policy,
        out / "runs" / f"{method}-seed{seed}",
        comparison.model,
        fit_settings,
        method=method,
        resume=True,
        budget=settings.params,
        search_seconds=searched,
    )


# ---- the main job on made-up data ----------------------------------------------------------

DEMO_METHODS = ("separate", "monolithic", "multi-size", "seo-exact", "seo-rr", "seo")


def demo(out: Path, *, quick: bool = False, seed: int = 0) -> list[Run]:
    """Prepare synthetic data, search, apply, train the applier and its rivals at one budget.

    The data have features of very different worth, so that how they share the budget matters.
    Called again it goes on where it stopped. ``quick`` only shows that everything works.
    """
    data = out / f"data-seed{seed}"
    if not (data / SCHEMA_FILE).exists():
        synthetic(data, rows=8_000 if quick else 100_000, seed=seed + 1, progress=True)
    comparison = Comparison(
        data=(data,),
        methods=DEMO_METHODS,
        settings=seo.SeoSettings(budget_rows=500 if quick else 4000),
        seeds=1 if quick else 2,
        first_seed=seed,
        fit=FitSettings(
            epochs=2 if quick else 12,
            patience=4,
            batch_size=512,
            row_lr=1e-3,
            dense_lr=1e-3,
            row_l2=3e-3,
            log_every=50,
        ),
        run_off=RunOff(epochs=1 if quick else 8, chunk_dims=(8,), trivial_lookups=(2, 4)),
    )
    return compare(comparison, out / "compare")


# ---- run folders -------------------------------------------------------------------------


def open_run(out: Path, asked: Mapping[str, Any], resume: bool) -> None:
    """Claim ``out`` for the run described by ``asked``, or find that run there again.

    Raises:
        RunError: the folder holds something else, or the same run and ``resume`` is False.
    """
    path = out / RUN_FILE
    wanted = json.loads(json.dumps(asked))
    if path.exists():
        found = json.loads(path.read_text())
        if differing := sorted(k for k in wanted if found.get(k) != wanted[k]):
            raise RunError(
                f"{out} holds another run (it differs in {', '.join(differing)}); choose another "
                "--out, or call it as before"
            )
        if not resume:
            raise RunError(f"{out} already holds this run; give --resume, or another --out")
    elif out.exists() and any(not p.name.startswith(f".{RUN_FILE}.") for p in out.iterdir()):
        raise RunError(f"{out} exists and is not a run folder; choose another --out")
    write_json(path, wanted)


def read_runs(path: Path) -> list[Run]:
    """The complete lines of a ``results.jsonl``; a line cut short by a kill is left out."""
    runs = []
    for line in path.read_text().splitlines():
        try:
            runs.append(Run(**json.loads(line)))
        except (ValueError, TypeError):
            log.warning("%s: an unreadable line was left out", path)
    return runs


def describe(policy: Policy) -> str:
    """A policy in a few words: tables, and lookups per feature."""
    counts: dict[int, int] = {}
    for f in policy.features:
        counts[len(f.lookups)] = counts.get(len(f.lookups), 0) + 1
    lookups = ", ".join(f"{n} features x {k}" for k, n in sorted(counts.items(), reverse=True))
    sizes = sorted({(t.num_rows, t.dim) for t in policy.tables})
    tables = ", ".join(f"{r}x{d}" for r, d in sizes[:3]) + (", ..." if len(sizes) > 3 else "")
    noun = "table" if len(policy.tables) == 1 else "tables"
    return f"{len(policy.tables)} {noun} ({tables}); {lookups}"


def command_line() -> str:
    """The command that started this process, as a user would type it."""
    spec = sys.modules["__main__"].__spec__
    program = Path(sys.argv[0]).name
    if program in ("seo-rec", "__main__.py"):
        program = "seo-rec"
    elif spec is not None:
        program = f"python -m {spec.name}"
    return " ".join([program, *(shlex.quote(a) for a in sys.argv[1:])])


def _optimizers(model: RecModel, settings: FitSettings) -> dict[str, torch.optim.Optimizer]:
    return make_optimizers(
        model, settings.row_optimizer, settings.row_lr, settings.dense_lr, settings.row_l2
    )


def _streams(data: Path, policy: Policy, settings: FitSettings) -> tuple[Stream, Stream]:
    columns = [f.name for f in policy.features]
    train = Stream(
        data,
        "train",
        batch_size=settings.batch_size,
        shuffle=True,
        seed=settings.seed,
        columns=columns,
    )
    return train, Stream(data, "val", batch_size=EVAL_BATCH, columns=columns)


def _check_features(schema: Schema, policy: Policy) -> None:
    known = {c.name for c in schema.features}
    accounted = {f.name for f in policy.features} | set(policy.dropped)
    if unknown := sorted({f.name for f in policy.features} - known):
        raise RunError(f"the policy serves features {unknown} that the data lacks: {sorted(known)}")
    if silent := sorted(known - accounted):
        raise RunError(
            f"the policy says nothing about features {silent}; serve them or list them as dropped"
        )
