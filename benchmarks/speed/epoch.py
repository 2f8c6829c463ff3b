"""What does an epoch of each method cost, as a ratio to the monolithic one (SEO, Table 3)?

    python -m benchmarks.speed.epoch [--data data/ml-1m] [--record]

All methods hold the same number of floats, 6000 x 16 (but the search models without adjusted
buckets, as in the paper, which hold twice as many), read by chunks of width 8, and
train the MLP 256, 128 with ``seo_rec.train.fit`` as a user's run does. A round trains every method
for one epoch, one after the other, and the next round starts with another one. Measured is the
training time of an epoch as ``fit`` reports it: batches from the stream, hashing, forward,
backward, Adam, the running mean of the weights, and in a search the attention and its Adam; not the
evaluation after it, nor decoding parquet for the first time (warm-up rounds).

    separate, monolithic (MSE), multi-size   at one budget; multi-size reads two chunks per feature
    applier, uneven                          4/4/1/1/1/1 chunks: the two largest features read
                                             all four; exact or dealt by round robin
    applier, trivial                         two chunks for every feature; exact keeps two tables,
                                             round robin deals four slots
    search, P=no|yes B=no|yes                down projection; buckets adjusted to the budget

The paper's ratios (MovieLens-1M, its hardware; 131.8 s for MSE) stand beside ours.
Goals: an applier's epoch at most 1.1 times the monolithic one's, and at most the separate one's
(which the paper's own applier misses, at 1.08).
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import torch

from benchmarks.command import set_up
from benchmarks.pages import speed
from benchmarks.record import append, path_of
from benchmarks.speed.rounds import (
    LR,
    Contestant,
    Fit,
    data_set,
    describe_data,
    in_rounds,
    ratio,
    rounds_parser,
    spread,
    uneven_policy,
)
from seo_rec import apply, methods
from seo_rec.data.dataset import DataSet
from seo_rec.policy import Policy
from seo_rec.schema import Schema
from seo_rec.search import seo
from seo_rec.train import FitSettings

RECORD = path_of("epoch")
BASE = "monolithic"
# Seconds per epoch in SEO's Table 3, MovieLens-1M; its applier is dealt by round robin.
PAPER = {
    "separate": 99.3,
    BASE: 131.8,
    "applier, uneven, round robin": 107.3,
    "search, P=no B=no": 97.2,
    "search, P=no B=yes": 173.6,
    "search, P=yes B=no": 109.0,
    "search, P=yes B=yes": 142.2,
}
GOAL_APPLIER = 1.1
GOAL_SEPARATE = 1.0


def policies(schema: Schema, settings: seo.SeoSettings) -> dict[str, Policy]:
    """The methods of Table 3 at one budget, by their names in the printed table."""
    params, dim = settings.params, settings.dim
    uneven = uneven_policy(schema, settings)
    space = seo.search_space(schema, settings)
    flat = torch.zeros(len(space.features), settings.num_chunks)
    each = dim // settings.chunk_dim
    trivial = seo.select(space, flat, len(space.features) * each, min_chunks=each)
    slots = settings.num_chunks
    return {
        "separate": methods.separate(schema, params, dim),
        BASE: methods.monolithic(schema, params, dim),
        "multi-size": methods.multi_size(schema, params, dim, lookups=each),
        "applier, uneven, exact": apply.exact(uneven, params),
        "applier, uneven, round robin": apply.round_robin(uneven, params, slots=slots),
        "applier, trivial, exact": apply.exact(trivial, params),
        "applier, trivial, round robin": apply.round_robin(trivial, params, slots=slots),
    }


def search_model(name: str, data: DataSet, settings: seo.SeoSettings, fit: FitSettings) -> Fit:
    """The model of SEO's first stage with its attention and its optimizers."""
    gate = seo.make_gate(data.schema, settings)
    return Fit(
        name,
        data,
        seo.search_space(data.schema, settings),
        fit,
        gate,
        seo.gate_optimizers(gate, settings, fit.dense_lr),
        seo.logit_step(gate, settings, data, fit, steps_per_epoch=1),
    )


class Epoch:
    """A contestant whose unit is the epoch."""

    def __init__(self, fit: Fit) -> None:
        self.name, self.fit = fit.name, fit

    def step_seconds(self) -> float:
        return self.fit.epoch_seconds()


def compared(seconds: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Ratios to the monolithic epoch, and of appliers to separate, with goals and the paper's."""
    out: dict[str, dict[str, Any]] = {}

    def add(above: str, below: str, goal: float | None) -> None:
        numbers = ratio(seconds[above], seconds[below])
        known = above in PAPER and below in PAPER
        out[f"{above} / {below}"] = {
            **numbers,
            "paper": round(PAPER[above] / PAPER[below], 2) if known else None,
            "goal": goal,
            "met": None if goal is None else numbers["median"] <= goal,
        }

    appliers = [name for name in seconds if name.startswith("applier")]
    for name in seconds:
        if name != BASE:
            add(name, BASE, GOAL_APPLIER if name in appliers else None)
    for name in appliers:
        add(name, "separate", GOAL_SEPARATE)
    return out


def main() -> None:
    args = rounds_parser(__doc__, RECORD, rounds=9).parse_args()
    environment = set_up(args.threads)
    fit = FitSettings(epochs=1, batch_size=args.batch, row_lr=LR, dense_lr=LR)
    settings = seo.SeoSettings()
    with data_set(args.data, args.rows) as data:
        made = policies(data.schema, settings)
        fits = [Fit(name, data, policy, fit) for name, policy in made.items()]
        for down, adjust in itertools.product((False, True), repeat=2):
            variant = replace(settings, use_down_projection=down, adjust_hash_buckets=adjust)
            yes = {False: "no", True: "yes"}
            name = f"search, P={yes[down]} B={yes[adjust]}"
            fits.append(search_model(name, data, variant, fit))
        contestants: list[Contestant] = [Epoch(f) for f in fits]
        seconds = in_rounds(contestants, args.rounds, args.warmup)
        record: dict[str, Any] = {
            "benchmark": "epoch",
            **describe_data(data, args.data is None),
            "batch": args.batch,
            "rounds": args.rounds,
            "embedding_params": {f.name: f.model.embedding.policy.num_params for f in fits},
            "lookups": {f.name: f.model.embedding.policy.num_lookups for f in fits},
            "seconds_per_epoch": {name: spread(values) for name, values in seconds.items()},
            "ratios": compared(seconds),
        }
    line = {**record, "environment": environment}
    print(*speed.epochs([line]), sep="\n")
    if args.record:
        append(RECORD, line)


if __name__ == "__main__":
    main()
