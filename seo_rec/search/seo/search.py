"""The search ``seo``: an attention, the policies that it gives, and the choice between them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from seo_rec import apply
from seo_rec.data.crosses import CrossedData
from seo_rec.data.dataset import DataSet
from seo_rec.policy import Policy, stored_types
from seo_rec.runs.layout import ATTENTIONS_FOLDER, SCORES_FOLDER
from seo_rec.search.found import Found
from seo_rec.search.progress import Progress, say
from seo_rec.search.run_off import (
    ROOM_FOR_ALL,
    SHORT_RULE,
    Candidate,
    RunOff,
    Shape,
    attention_epochs,
    by_chunks,
    crossed_candidates,
    has_few_steps,
    has_short_finals,
    plain_candidates,
    proposed,
    run_off,
    whole_length,
)
from seo_rec.search.run_off.schedule import Length
from seo_rec.search.seo.attention import search_space
from seo_rec.search.seo.division import divided
from seo_rec.search.seo.searched import Searched, asked_of, key_of, search_attention
from seo_rec.search.seo.selection import by_id, check_total, select
from seo_rec.search.seo.settings import SeoSearch, SeoSettings
from seo_rec.search.seo.types_of_rows import by_counts, in_other_types, with_crosses_by_worth
from seo_rec.search.space import fits_by_id
from seo_rec.train import Training, ranks, require_memory

log = logging.getLogger(__name__)


def seo(
    data: DataSet,
    settings: SeoSearch,
    training: Training,
    out: Path | None = None,
    wide: CrossedData | None = None,
) -> Found:
    """Search an attention, and choose the policy by it, or in a run-off against plain policies.

    Without a run-off the policy is the paper's: the top chunks of the attention, applied as
    ``settings.apply`` says. With one, candidates and plain policies are trained and the best on
    validation rows is taken: a plain one, unless another one is clearly better there
    (:class:`~seo_rec.search.run_off.RunOff`). The paper's own policy is kept beside the winner.

    Args:
        data: The data set.
        settings: The attention and the choice.
        training: The search model and the candidates, and how they are trained.
        out: Folder from which an interrupted search goes on; None keeps nothing.
        wide: The data with proposed crosses: policies with the first of them are candidates of a
            run-off, and what is found is about the columns of these data.

    Raises:
        PolicyError: The budget is too small for a candidate, or no chunks can be chosen.
        ValueError: Settings that do not go together (:func:`check_seo`).
    """
    check_seo(data, settings, training)
    if out is None:
        with TemporaryDirectory() as scratch:
            return seo(data, settings, training, Path(scratch), wide)
    if settings.run_off is None:
        return _search_alone(data, settings, training, out)
    length = whole_length(data, settings.run_off.shortened(training))
    settings = _with_room(settings, length, training)
    assert settings.run_off is not None
    attending = attention_training(settings, training)
    candidates, searches = _candidates(data, settings, attending, out, wide)
    if wide is not None:
        shape = _shape(settings, training.fit.seed)
        candidates += crossed_candidates(wide, shape, by_id=settings.run_off.by_id)
        data = wide
    per_attention = replace(length, epochs=attending.fit.epochs).whole
    # another attention gives other candidates of the same names, which have scores of their own
    scores = out / SCORES_FOLDER / key_of(asked_of("run-off", data, settings.to_json(), training))
    spent = per_attention * len(searches)
    outcome = run_off(data, candidates, settings.run_off, training, scores, spent)
    own = searches[settings.chunk_dim]
    policy = outcome.winner.policy
    types = {"precision": ", ".join(stored_types(policy))} if settings.decides_precision else {}
    return Found(
        policy=policy,
        val_auc=outcome.scores[outcome.winner.name]["val_auc"],
        seconds=sum(s.seconds for s in searches.values()) + outcome.seconds,
        peak_bytes=settings.search_bytes,
        record={
            "run_off": outcome.scores,
            "searches": _attentions_record(searches),
            **({"halving": outcome.rounds} if outcome.rounds else {}),
        },
        winner=outcome.winner.name,
        decision={**outcome.decision, **types},
        candidates={c.name: c.policy for c in candidates if c.name in outcome.last},
        searched=paper_policy(own, settings, "exact"),
    )


def _with_room(settings: SeoSearch, length: Length, training: Training) -> SeoSearch:
    """The settings; with room for whole trainings of all candidates, where these have few steps."""
    off = settings.run_off
    if off is None or not _is_in_full(off, length, training):
        return settings
    say(
        f"a training has {length.steps} steps, too few for rounds to rank candidates by: every "
        "candidate and attention is trained in full, which exceeds run_off.cost "
        f"(run_off.in_full=false keeps to {off.cost:g} times one training)"
    )
    return replace(settings, run_off=replace(off, cost=max(off.cost, ROOM_FOR_ALL)))


def _is_in_full(off: RunOff, length: Length, training: Training) -> bool:
    return bool(off.cost and off.in_full and has_few_steps(length, training.fit))


def rule_of_short(data: DataSet, settings: SeoSearch, training: Training) -> dict[str, int]:
    """The rule of a search whose rounds of finalists are few; nothing of other searches.

    It is counted apart from :meth:`RunOff.to_json`'s, which all searches with a limit have.
    """
    off = settings.run_off
    if off is None or not off.cost:
        return {}
    length = whole_length(data, off.shortened(training))
    if _is_in_full(off, length, training) or not has_short_finals(length, training.fit):
        return {}
    return {"short_rule": SHORT_RULE}


def _search_alone(data: DataSet, settings: SeoSearch, training: Training, out: Path) -> Found:
    searched = search_attention(data, settings.attention, training, out / ATTENTIONS_FOLDER)
    if settings.apply == "divide":
        policy = divided(data, searched.alpha, settings, training.fit.seed)
    else:
        policy = paper_policy(searched, settings, settings.apply)
    return Found(
        policy=policy,
        val_auc=searched.val_auc,
        seconds=searched.seconds,
        peak_bytes=settings.search_bytes,
        record={"searches": _attentions_record({settings.chunk_dim: searched})},
        decision={"kind": "attention", "against": None, "gain": None, "standard_error": None},
    )


def paper_policy(searched: Searched, settings: SeoSettings, strategy: str) -> Policy:
    """The paper's policy: the chosen chunks, applied by a strategy, or not at all (``none``)."""
    total = settings.chosen(searched.alpha.shape[0])
    chosen = select(searched.space, searched.alpha, total, settings.min_chunks)
    if strategy == "none":
        return settings.allowance.typed(chosen)
    return apply.STRATEGIES[strategy](chosen, settings.allowance)


def _candidates(
    data: DataSet,
    settings: SeoSearch,
    training: Training,
    out: Path,
    wide: CrossedData | None = None,
) -> tuple[list[Candidate], dict[int, Searched]]:
    """The policies of the run-off: plain ones, and those selected from searches of each width.

    With proposed crosses the attention of the last width reads them, too, so that they have a worth
    beside the columns.
    """
    assert settings.run_off is not None
    schema, seed, by_rows = data.schema, training.fit.seed, settings.run_off.by_id
    limited, shape = settings.run_off.cost > 0, _shape(settings, seed)
    counted = limited and by_rows and settings.run_off.frequent  # rows by counts of ids
    candidates = plain_candidates(data, shape, settings.run_off)
    if limited:
        often = settings.run_off.frequent
        candidates += proposed(data, shape, by_id=by_rows, frequent=often)
    searches: dict[int, Searched] = {}
    widths = chunk_widths(settings)
    progress = Progress("attentions", len(widths))
    for width in widths:
        of_width = replace(settings.attention, chunk_dim=width, total_chunks=None)
        reads_crosses = wide is not None and width == widths[-1] and counted
        read = wide if wide is not None and reads_crosses else data
        found = search_attention(read, of_width, training, out / ATTENTIONS_FOLDER)
        if wide is not None and reads_crosses:
            candidates += with_crosses_by_worth(wide, found.worth, of_width, seed)
            found = found.on_columns(data, of_width, seed)
        searches[width] = found
        progress.done(f"chunks of {width}, validation AUC {found.val_auc:.5f}")
        total = of_width.chosen(len(schema.features))
        for least in sorted({0, settings.min_chunks}):
            chosen = select(found.space, found.alpha, total, least)
            for name in ["exact"] if limited else apply.STRATEGIES:
                strategy = apply.STRATEGIES[name]
                policy = strategy(chosen, settings.allowance)
                origin = {"chunk_dim": width, "min_chunks": least, "apply": name}
                label = f"seo-{width}-min{least}-{name}"
                candidates.append(Candidate(label, policy, True, origin))
        if counted:
            candidates += by_counts(data, found.alpha, found.worth, of_width, seed)
        if by_rows and fits_by_id(schema, settings.allowance):
            policy = by_id(data, found.alpha, of_width, seed)
            candidates.append(Candidate(f"seo-{width}-by-id", policy, True, {"chunk_dim": width}))
        if settings.run_off.divide:
            policy, origin = divided(data, found.alpha, of_width, seed), {"chunk_dim": width}
            candidates.append(Candidate(f"seo-{width}-divide", policy, True, origin))
    if settings.decides_precision:
        found = searches[settings.chunk_dim]
        rules = settings.run_off
        candidates += in_other_types(data, found.alpha, found.worth, settings, rules, seed)
    return candidates, searches


def _shape(settings: SeoSettings, seed: int) -> Shape:
    return Shape(settings.allowance, settings.dim, settings.chunk_dim, settings.search_dim, seed)


def attention_training(settings: SeoSearch, training: Training) -> Training:
    """How the attentions are trained: shorter, where the whole search has a limit."""
    off, fit = settings.run_off, training.fit
    if off is None or not off.cost:
        return training
    whole = off.shortened(training).fit.epochs
    epochs = attention_epochs(whole, len(chunk_widths(settings)), off.cost)
    return replace(training, fit=replace(fit, epochs=epochs))


def _attentions_record(searches: Mapping[int, Searched]) -> dict[str, Any]:
    """What ``search.json`` says of every attention, by the width of its chunks."""
    return {
        str(width): {
            "features": [f.name for f in s.space.features],
            "attention": s.alpha.tolist(),
            "val_auc": s.val_auc,
            "seconds": s.seconds,
            "seconds_per_epoch": s.seconds_per_epoch,
            "worth": None if s.worth is None else list(s.worth),
        }
        for width, s in searches.items()
    }


def chunk_widths(settings: SeoSearch) -> Sequence[int]:
    """Chunk widths that are searched: the settings' own first, then others that divide."""
    more = settings.run_off.chunk_dims if settings.run_off else ()
    widths = dict.fromkeys((settings.chunk_dim, *more))
    return [w for w in widths if settings.dim % w == 0 and settings.search_dim % w == 0]


def check_seo(data: DataSet, settings: SeoSearch, training: Training) -> None:
    """Refuse before the training what would fail, or be ignored, after it.

    Raises:
        PolicyError: So many chunks cannot be chosen.
        ValueError: The logits would never be trained, or types would be compared that several
            processes do not store.
    """
    if settings.decides_precision and ranks().world_size > 1:
        raise ValueError(
            f"precision auto in {ranks().world_size} processes, which compare rows of float32; "
            "allowed: one process, or the name of a type"
        )
    epochs = attention_training(settings, training).fit.epochs
    if settings.search_split == "held-out" and settings.warmup_epochs >= epochs:
        raise ValueError(
            f"warmup_epochs {settings.warmup_epochs} of {epochs} epochs: the logits would never be "
            f"trained; allowed with held-out: 0 to {epochs - 1}"
        )
    F = len(data.schema.features)
    for width in chunk_widths(settings):
        of_width = replace(settings.attention, chunk_dim=width)
        check_total(F, of_width.num_chunks, of_width.chosen(F), settings.min_chunks)


def require_space(data: DataSet, settings: SeoSearch, training: Training) -> None:
    """Refuse what cannot be searched, whatever the search would find.

    Raises:
        PolicyError: The budget has no room for what the search trains.
        TooLargeError: The tables that it trains do not fit into memory.
    """
    seed = training.fit.seed
    for width in chunk_widths(settings):
        of_width = replace(settings.attention, chunk_dim=width, total_chunks=None)
        space = search_space(data.schema, of_width, seed)
        require_memory(space, training.fit, ranks(), search="seo")
    if settings.run_off is not None:
        by_chunks(data.schema, _shape(settings, seed), settings.run_off.trivial_lookups)
    if settings.apply == "divide" or (settings.run_off and settings.run_off.divide):
        F = len(data.schema.features)
        divided(data, torch.full((F, 1), 1 / F), settings, seed)
