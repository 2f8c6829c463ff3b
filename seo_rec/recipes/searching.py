"""Search a policy: attentions, candidates, and the run-off between them."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seo_rec import apply
from seo_rec.data.stream import Stream
from seo_rec.environment import stamp
from seo_rec.files import write_bytes, write_json
from seo_rec.metrics import auc_gain
from seo_rec.model import ModelSettings, build_model
from seo_rec.plan import rates_of
from seo_rec.policy import Policy
from seo_rec.recipes import trivial
from seo_rec.recipes.folders import (
    POLICY_FILE,
    RESULT_FILE,
    SEARCH_FILE,
    command_line,
    open_run,
)
from seo_rec.recipes.sharding import shard
from seo_rec.recipes.training import (
    Floats,
    eval_stream,
    labels_of,
    optimizers_of,
    streams,
    train_model,
)
from seo_rec.schema import Schema, read_schema
from seo_rec.search import seo
from seo_rec.search.space import fits_by_id
from seo_rec.train import FitSettings, evaluate, fit, ranks

log = logging.getLogger(__name__)
RULE = 4  # of a run-off's candidates and winner; a change of it is another search


@dataclass(frozen=True)
class RunOff:
    """How a search chooses between its candidates, on validation rows.

    The first policy to beat is the plain one of ``dim / chunk_dim`` lookups per feature; or one of
    both kinds (:func:`seo_rec.recipes.trivial.both`) where that fits and has the better mean AUC of
    two trainings. The margin in standard errors exists because the best of many candidates is
    partly the luckiest.

    Args:
        epochs: Each candidate is trained for at most so many epochs.
        standard_errors: A candidate replaces the plain policy if its AUC is higher by so many
            errors.
        chunk_dims: Widths of chunks that are searched besides the width chunk_dim.
        trivial_lookups: Lookups per feature of the further plain policies that are candidates.
        by_id: Whether narrow tables with a row for every training id are candidates, where they
            fit.
    """

    epochs: int = 20
    standard_errors: float = 2.0
    chunk_dims: tuple[int, ...] = (8, 4)
    trivial_lookups: tuple[int, ...] = (2, 4, 8)
    by_id: bool = True

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
        "model": model_settings.as_json(),
        "fit": asdict(fit_settings),
    }
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
    folder = out / f"attention-{settings.chunk_dim}-seed{fit_settings.seed}-{key}"
    here = ranks()
    found = here.on_first(lambda: _found(folder, asked))
    space = seo.search_space(schema, settings, fit_settings.seed)
    if found:
        return Searched(space, **{**found, "alpha": torch.tensor(found["alpha"])})
    gate = seo.make_gate(schema, settings, fit_settings.seed)
    whole = build_model(space, len(schema.numeric), model_settings, fit_settings.seed, gate)
    train, val = streams(data, space, fit_settings)
    model = shard(whole, fit_settings, rates=rates_of(schema))
    optimizers = optimizers_of(model, fit_settings)
    optimizers |= seo.gate_optimizers(gate, settings, fit_settings.dense_lr)
    held_out = None
    if settings.search_split == "held-out":
        held_out = Stream(
            data,
            "val",
            batch_size=train.batch_size,
            shuffle=True,
            seed=fit_settings.seed,
            rank=here.rank,
            world_size=here.world_size,
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
    test, _, _ = evaluate(model, eval_stream(data, "test", space))
    searched = Searched(
        space,
        gate.alpha().detach().cpu(),
        result.val.auc,
        test.auc,
        result.seconds,
        result.seconds_per_epoch,
    )
    record = {k: getattr(searched, k) for k in Searched.__dataclass_fields__ if k != "space"}
    record["alpha"] = searched.alpha.tolist()
    here.on_first(lambda: write_json(folder / RESULT_FILE, record))
    return searched


def _found(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a finished search in ``folder`` came to; claims the folder otherwise."""
    open_run(folder, asked, resume=True)
    result = folder / RESULT_FILE
    return json.loads(result.read_text()) if result.exists() else None


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
    schema, seed = read_schema(data), fit_settings.seed
    policies = trivial.by_chunks(schema, settings, run_off.trivial_lookups, seed)
    if run_off.by_id:
        policies |= trivial.both(data, settings, seed) | trivial.by_id(data, settings, seed)
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
        if run_off.by_id and fits_by_id(schema, settings.params):
            policies[f"seo-{width}-by-id"] = seo.by_id(data, found.alpha, of_width, seed)
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
    is taken (already at the budget): a trivial one, unless another one is clearly better there
    (:class:`RunOff`). ``attentions`` is where searches of attention are kept, for several callers
    to share (default: a folder in ``out``).

    Raises:
        RunError: ``out`` holds another run, or a run and ``resume`` is False.
    """
    attentions = attentions or out / "attentions"
    check_search(read_schema(data), settings, fit_settings, run_off)
    asked = {
        "kind": "search",
        "data": str(data),
        "data_fingerprint": read_schema(data).fingerprint,
        "seo": asdict(settings),
        "model": model_settings.as_json(),
        "fit": asdict(fit_settings),
        "run_off": {**asdict(run_off), "rule": RULE} if run_off else None,
    }
    here = ranks()

    def begin() -> bool:
        open_run(out, asked, resume)
        return (out / POLICY_FILE).exists() and (out / SEARCH_FILE).exists()

    if here.on_first(begin):
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
    if policy.dropped and here.first:
        log.warning("the policy drops %s", ", ".join(policy.dropped))
    policy = replace(policy, provenance={**policy.provenance, "winner": winner})

    def finish() -> None:
        policy.save(out / POLICY_FILE)
        record = {"winner": winner, "run_off": scores, "dataset": read_schema(data).dataset}
        write_json(out / SEARCH_FILE, {**record, **_record(searches, out)})

    here.on_first(finish)
    return policy


def _record(searches: Mapping[int, Searched], out: Path) -> dict[str, Any]:
    """What ``search.json`` says of the searches behind a policy, and what it all cost."""
    trained = [json.loads(p.read_text())["seconds"] for p in (out / "scores").glob("*.json")]
    return {
        "seconds": sum(s.seconds for s in searches.values()) + sum(trained),
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
    }


def check_search(
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
        raise ValueError("total_chunks is for a search without run-off (run_off=none)")
    for width in _widths(settings, run_off):
        of_width = replace(settings, chunk_dim=width)
        seo.check_total(F, of_width.num_chunks, of_width.chosen(F), settings.min_chunks)


def check_space(
    schema: Schema, settings: seo.SeoSettings, run_off: RunOff | None, seed: int
) -> None:
    """PolicyError if the budget has no room for what a search trains, whatever it finds."""
    widths = [settings.chunk_dim] if run_off is None else _widths(settings, run_off)
    for width in widths:
        seo.search_space(schema, replace(settings, chunk_dim=width, total_chunks=None), seed)
    if run_off is not None:
        trivial.by_chunks(schema, settings, run_off.trivial_lookups, seed)


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
    The first to beat (:class:`RunOff`) wins unless another trivial one, and then a searched one,
    beats the winner so far by ``standard_errors`` of the paired difference, and does so still on
    the mean of two trainings when both are trained once more with another seed.
    """
    here = ranks()
    scored = out.parent / "scores"
    here.on_first(lambda: scored.mkdir(parents=True, exist_ok=True))
    short = replace(fit_settings, epochs=min(run_off.epochs, fit_settings.epochs))
    labels = labels_of(data, "val")
    scores: dict[str, dict[str, Any]] = {}
    seen: dict[Policy, str] = {}
    for name, policy in policies.items():
        if policy in seen:
            scores[name] = {"same_as": seen[policy], "params": policy.num_params}
            continue
        seen[policy] = name
        here.on_first(partial(policy.save, out / f"{name}.json"))
        scores[name], _ = _score(data, name, policy, model_settings, short, scored)

    def logits(name: str, trainings: Sequence[FitSettings]) -> Floats:
        kept = [_score(data, name, policies[name], model_settings, t, scored)[1] for t in trainings]
        return np.stack(kept)

    def gain(name: str, incumbent: str, *trainings: FitSettings) -> tuple[float, float]:
        return auc_gain(logits(name, trainings), logits(incumbent, trainings), labels)

    names = list(seen.values())
    other_seed = replace(short, seed=short.seed + 7919)
    winner = names[0]
    for other in [n for n in names if n.startswith(trivial.BOTH)]:
        scores[other]["gain_over_first"] = gain(other, winner, short, other_seed)[0]
        winner = other if scores[other]["gain_over_first"] > 0 else winner
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
            found, error = gain(name, incumbent, short, other_seed)
            scores[name] |= {"gain_of_two": found, "standard_error_of_two": error}
            if found > run_off.standard_errors * error:
                winner = name
                break
    if here.first:
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
    here = ranks()
    stem = f"{name}-seed{settings.seed}"
    score, saved = folder / f"{stem}.json", folder / f"{stem}.npy"
    if not here.on_first(score.exists):
        trained = train_model(data, policy, model_settings, settings, title=name)
        metrics, z, _ = evaluate(trained.model, eval_stream(data, "val", policy))
        seconds = trained.result.seconds
        found = {"val_auc": metrics.auc, "params": policy.num_params, "seconds": seconds}

        def keep() -> None:
            content = io.BytesIO()
            np.save(content, z, allow_pickle=False)
            write_bytes(saved, content.getvalue())
            write_json(score, found)
            log.info("candidate %s: validation AUC %.5f", stem, metrics.auc)

        here.on_first(keep)
    return here.on_first(
        lambda: (json.loads(score.read_text()), np.load(saved, allow_pickle=False))
    )
