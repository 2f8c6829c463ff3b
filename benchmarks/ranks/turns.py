"""Taking turns, and the lines of ``throughput.jsonl`` that record it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch.distributed as dist

from benchmarks.ranks.traffic import PARTS, Traffic, computed, replicated_bytes
from benchmarks.ranks.trainees import FED_ROWS, Recipe, Trainee
from benchmarks.record import Line
from benchmarks.speed.rounds import ratio, spread
from benchmarks.speed.stages import PHASES, STAGES
from seo_rec.train import Ranks
from seo_rec.train.optimizers import inner_model

# ---- repeats -----------------------------------------------------------------------------


def in_turns(
    trainees: Sequence[Trainee],
    here: Ranks,
    repeats: int,
    warmup: int,
    measure: Callable[[Trainee], None],
) -> None:
    """``measure`` every trainee in every repeat, ranks starting together, in ever new orders.

    Who comes after whom matters (caches, a rank that is still busy), so the orders are drawn; they
    are the same on all ranks and in all runs. What the first ``warmup`` repeats measured is thrown
    away.
    """
    draw = random.Random(0)
    for number in range(-warmup, repeats):
        for trainee in draw.sample(trainees, len(trainees)):
            if here.world_size > 1:
                dist.barrier()
            if trainee.active:
                measure(trainee)
        if number < 0:
            for trainee in trainees:
                trainee.forget()


def slowest(trainee: Trainee, here: Ranks) -> list[float]:
    """Seconds per step of every repeat, on the slowest of the ranks that took part."""
    return np.max([s for s in here.gather(trainee.seconds) if s], axis=0).tolist()


def cpu_of(trainee: Trainee, here: Ranks) -> list[float]:
    """Seconds of processor time per step of every repeat, all ranks and their threads together.

    What other programs do on the machine moves these less than the time that passes.
    """
    return np.sum([s for s in here.gather(trainee.cpu) if s], axis=0).tolist()


def stages_over_ranks(trainee: Trainee, here: Ranks) -> dict[str, dict[str, float]]:
    """Milliseconds of every stage: mean over ranks, and the quickest and slowest rank.

    A rank's figure is its median over repeats. Waiting for another rank counts as exchanging, so
    the quickest rank of an exchange is the one that was waited for.
    """
    found = {}
    everyone = [s for s in here.gather(trainee.stages) if s]
    for stage in STAGES:
        medians = [
            1e3 * float(np.median([one.get(stage, 0.0) for one in stages])) for stages in everyone
        ]
        if any(medians):
            found[stage] = {
                "mean": round(float(np.mean(medians)), 3),
                "min": round(min(medians), 3),
                "max": round(max(medians), 3),
            }
    return found


# ---- lines -------------------------------------------------------------------------------


def line_of(trainee: Trainee, here: Ranks, recipe: Recipe, common: Line) -> Line:
    """The record of one measurement; every rank calls this, and every rank gets it."""
    seconds = slowest(trainee, here)
    taking_part = here.world_size if trainee.way != "alone" else 1
    median = float(np.median(seconds))
    line = {
        **common,
        "kind": "measurement",
        "policy": trainee.name,
        "way": trainee.way,
        "ranks": taking_part,
        "features": len(trainee.policy.features),
        "tables": len(trainee.policy.tables),
        "lookups": trainee.policy.num_lookups,
        "embedding_params": trainee.policy.num_params,
        "ms_per_step": spread(1e3 * s for s in seconds),
        "cpu_ms_per_step": spread(1e3 * s for s in cpu_of(trainee, here)),
        "examples_per_s": {
            "global": round(taking_part * recipe.rows / median),
            "per_rank": round(recipe.rows / median),
        },
        "stages_ms": stages_over_ranks(trainee, here),
        "peak_mb": [round(b / 2**20, 1) for b in here.gather(trainee.peak_bytes)][:taking_part],
    }
    line["stages_sum_ms"] = round(sum(s["mean"] for s in line["stages_ms"].values()), 3)
    if trainee.placed is not None and trainee.way not in FED_ROWS:
        line["estimate_ms"] = {
            "step": trainee.placed.estimate.step_ms,
            "imbalance": trainee.placed.estimate.imbalance,
            **trainee.placed.estimate.phases_ms,
        }
        line["measured_ms"] = embedding_ms(trainee, line["stages_ms"])
        kinds = [p.kind for p in trainee.placed.placements]
        line["sharding"] = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    if trainee.placed is not None and trainee.way not in ("alone", "apart", *FED_ROWS):
        line["bytes"] = exchanged(trainee, here)
    return line


def embedding_ms(trainee: Trainee, stages_ms: Line) -> dict[str, float]:
    """The measured stages as phases of the planner's estimate.

    The exchange of data-parallel tables' gradients is their share, by bytes, of the all-reduce.
    """
    assert trainee.placed is not None
    found = {
        phase: sum(stages_ms.get(s, {"mean": 0.0})["mean"] for s in stages)
        for phase, stages in PHASES.items()
    }
    model, placements = inner_model(trainee.model), trainee.placed.placements
    reduced = replicated_bytes(model, trainee.policy, placements)
    tables = 1 - replicated_bytes(model, trainee.policy, ()) / reduced
    found["gradient_dist"] += tables * stages_ms.get("all-reduce", {"mean": 0.0})["mean"]
    return {phase: round(ms, 3) for phase, ms in found.items()}


def exchanged(trainee: Trainee, here: Ranks) -> list[Line]:
    """Bytes of every exchange on the first batch, by rank; SystemExit if computed is not sent."""
    assert trainee.placed is not None
    whole = inner_model(trainee.model)
    lookups = whole.embedding.remap(trainee.batches[0].to(here.device).sparse)
    expected = computed(
        trainee.policy, trainee.placed.placements, lookups, here.rank, here.world_size
    )
    sent = trainee.sent()
    for part, there in here.gather(_differences(expected, sent)):
        if there:
            raise SystemExit(f"{trainee.name}, {trainee.way}: {part} {there}")
    everyone = here.gather({part: asdict(expected[part]) for part in PARTS})
    replicated = replicated_bytes(whole, trainee.policy, trainee.placed.placements)
    return [{**one, "all_reduce": replicated if here.world_size > 1 else 0} for one in everyone]


def _differences(expected: Traffic, sent: Traffic) -> tuple[str, str]:
    for part in PARTS:
        if expected[part] != sent[part]:
            return part, f"computed {expected[part]}, sent {sent[part]}"
    return "", ""


def ratio_line(
    common: Line, policy: str, what: str, above: list[float], below: list[float], **more: Any
) -> Line:
    return {
        **common,
        "kind": "ratio",
        "policy": policy,
        "what": what,
        **ratio(above, below),
        **more,
    }
