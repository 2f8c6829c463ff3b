"""Ids that come and go: one budget of hashed tables, trained online, over days of a stream.

    python -m benchmarks.accuracy.churn --record    # runs of 5 to 44 s each, and searches
    python -m benchmarks.accuracy.churn --scenarios own --enter 0.3,0.05 --vanish 0.1 --seeds 1

The stream is the synthetic world with churn (``seo_rec.data.synthetic.Churn``): ``SCENARIOS`` says
how many ids of its columns enter and vanish from day to day. Progressive validation: a day is
scored by the model as it stood the evening before, then trained on, once, in its order. What is
known beforehand is the first ``first_days``: the tables' rows (where they go by vocabularies), the
policy that SEO searches, and the ids of ``collisionless-first``. Scores count from the day after.

``collisionless-first`` and ``collisionless-all`` (which knows the ids of the whole stream
beforehand) are references; their size is their own. Everything else has ``params`` floats.

Worlds and finished runs are kept in ``--out`` and not made twice, nor is what the record holds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.command import make_parser, set_up
from benchmarks.record import Line, Records, path_of, stamp
from seo_rec import recipes
from seo_rec.batch import Batch
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.split import Split
from seo_rec.data.synthetic import Churn, synthetic
from seo_rec.metrics import binary_metrics
from seo_rec.model import ModelSettings, RecModel, build_model
from seo_rec.policy import Policy
from seo_rec.runs import command_line, describe
from seo_rec.search import find
from seo_rec.search.seo import SeoSearch
from seo_rec.settings import FitSettings, Training
from seo_rec.train import make_optimizers

RECORD = path_of("churn")
IDENTITY = ("what",)

WORLD: dict[str, Any] = {
    "strong": 4, "weak": 2, "noise": 2, "numeric": 0, "strong_vocab": 1000, "weak_vocab": 100,
    "noise_vocab": 2000, "rank": 2, "signal": 2.5, "zipf": 1.0,
}  # fmt: skip
SCENARIOS = {
    "still": ((0.0,), (0.0,)),
    "steady": ((0.1,), (0.1,)),
    "uneven": ((0.15, 0.02), (0.02, 0.15)),
}
METHODS = (
    "separate",
    "separate-cardinality",
    "monolithic",
    "multi-size",
    "multi-size-4",
    "seo-rr",
    "seo-rr-4",
    "collisionless-first",
    "collisionless-all",
)
CHUNK_DIMS = {"seo-rr": 8, "seo-rr-4": 4}
DIM = 16
MODEL = ModelSettings(hidden=(128, 64))


@dataclass(frozen=True)
class Protocol:
    """``params``: floats of the tables; ``lr``: Adam's, of tables and backbone;
    ``search_epochs``: of SEO's search over the first days, at most."""

    days: int = 16
    first_days: int = 4
    rows_per_day: int = 32_768
    batch_size: int = 512
    params: int = 16_000
    lr: float = 2e-3
    search_epochs: int = 8

    def __post_init__(self) -> None:
        if not 1 < self.first_days < self.days:
            raise ValueError(f"first_days {self.first_days}; allowed: 2 to {self.days - 1}")
        if self.rows_per_day % self.batch_size:
            raise ValueError(
                f"rows_per_day {self.rows_per_day}; allowed: multiples of {self.batch_size}"
            )
        if self.params % DIM:
            raise ValueError(f"params {self.params}; allowed: multiples of {DIM}")


# ---- the stream ------------------------------------------------------------------------------


def worlds(what: Line, folder: Path) -> tuple[DataSet, DataSet]:
    """The data sets of the first days (split at random) and of all days (in order)."""
    protocol = Protocol(**what["protocol"])
    found = []
    for name, days, split in (
        ("first", protocol.first_days, Split()),
        ("stream", protocol.days, Split("temporal", fractions=(1.0, 0.0, 0.0))),
    ):
        data = folder / name
        if not data.exists():
            synthetic(
                data,
                rows=days * protocol.rows_per_day,
                seed=what["seed"],
                churn=Churn(days, tuple(what["enter"]), tuple(what["vanish"])),
                split=split,
                **what["world"],
            )
        found.append(open_data(data))
    return found[0], found[1]


def days_of(data: DataSet, policy: Policy, protocol: Protocol) -> Iterator[list[Batch]]:
    """The batches of one day after the other."""
    names = [f.name for f in policy.features]
    batches = iter(data.stream("train", batch_size=protocol.batch_size, columns=names))
    per_day = protocol.rows_per_day // protocol.batch_size
    while day := list(islice(batches, per_day)):
        yield day


# ---- one run ---------------------------------------------------------------------------------


def policy_of(what: Line, first: DataSet, stream: DataSet, folder: Path) -> Policy:
    """The policy of a method, from what is known after the first days."""
    protocol, seed, method = Protocol(**what["protocol"]), what["seed"], what["method"]
    if method in CHUNK_DIMS:
        rows, chunk_dim = protocol.params // DIM, CHUNK_DIMS[method]
        settings = SeoSearch(rows, DIM, chunk_dim, run_off=None, apply="round-robin")
        fit = FitSettings(
            epochs=protocol.search_epochs,
            batch_size=protocol.batch_size,
            row_lr=protocol.lr,
            dense_lr=protocol.lr,
            seed=seed,
        )
        return find("seo-rr").decide(first, settings, Training(MODEL, fit), folder).policy
    kind, _, known = method.partition("-")
    if kind == "collisionless":
        data = {"first": first, "all": stream}[known]
        return recipes.method_policy(kind, data, 0, DIM, seed=seed)
    return recipes.method_policy(method, first, protocol.params, DIM, seed=seed)


def online(stream: DataSet, policy: Policy, protocol: Protocol, seed: int) -> Line:
    """AUC and log loss of every day, scored before it is trained on."""
    model = build_model(policy, 0, MODEL, seed)
    optimizers = make_optimizers(model, "adam", protocol.lr, protocol.lr).values()
    aucs, losses = [], []
    for batches in days_of(stream, policy, protocol):
        labels = np.concatenate([batch.labels_B.numpy() for batch in batches])
        metrics = binary_metrics(score(model, batches), labels)
        aucs.append(metrics.auc)
        losses.append(metrics.log_loss)
        model.train()
        for batch in batches:
            for optimizer in optimizers:
                optimizer.zero_grad()
            model(batch)[0].backward()
            for optimizer in optimizers:
                optimizer.step()
    return {"auc": aucs, "log_loss": losses}


def score(model: RecModel, batches: Sequence[Batch]) -> np.ndarray[Any, Any]:
    model.eval()
    with torch.no_grad():
        return np.concatenate([model(batch)[1].numpy() for batch in batches])


def one(what: Line, out: Path) -> Line:
    """Make the world, the policy and the run of one line of the record."""
    folder = out / f"{what['scenario']}-{what['seed']}-{_digest(what)}"
    first, stream = worlds(what, folder)
    started = time.perf_counter()
    policy = policy_of(what, first, stream, folder / "searches")
    search_seconds = time.perf_counter() - started
    started = time.perf_counter()
    by_day = online(stream, policy, Protocol(**what["protocol"]), what["seed"])
    truth = stream.schema.options["truth"]["days"]
    return {
        "what": what,
        **by_day,
        "bayes_auc": truth["bayes_auc"],
        "bayes_log_loss": truth["bayes_log_loss"],
        "params": policy.num_params,
        "policy": describe(policy),
        "policy_seconds": search_seconds,
        "seconds": time.perf_counter() - started,
        "command": command_line(),
        "environment": stamp(),
    }


def _digest(what: Line) -> str:
    world = {k: v for k, v in what.items() if k != "method"}
    return hashlib.sha256(json.dumps(world, sort_keys=True).encode()).hexdigest()[:8]


def wanted(options: argparse.Namespace) -> Iterator[Line]:
    """What to run, seed after seed."""
    protocol = replace(
        Protocol(), days=options.days, rows_per_day=options.rows_per_day, params=options.params
    )
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for scenario in options.scenarios:
            own = (options.enter, options.vanish)
            enter, vanish = SCENARIOS.get(scenario, own)
            for method in options.methods:
                yield {
                    "scenario": scenario,
                    "enter": list(enter),
                    "vanish": list(vanish),
                    "method": method,
                    "seed": seed,
                    "protocol": asdict(protocol),
                    "world": WORLD,
                }


def shares(text: str) -> tuple[float, ...]:
    return tuple(float(share) for share in text.split(","))


def counted(line: Line, key: str) -> float:
    """The mean of a metric over the days that count."""
    return float(np.mean(line[key][line["what"]["protocol"]["first_days"] :]))


def main(arguments: Sequence[str] | None = None) -> None:
    default = Protocol()
    parser = make_parser(__doc__, RECORD, out="runs/churn")
    parser.add_argument("--scenarios", nargs="*", default=list(SCENARIOS), help="or `own`")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--enter", type=shares, default=(0.1,), help="of `own`: shares a day")
    parser.add_argument("--vanish", type=shares, default=(0.1,), help="of `own`: shares a day")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--days", type=int, default=default.days)
    parser.add_argument("--rows-per-day", type=int, default=default.rows_per_day)
    parser.add_argument("--params", type=int, default=default.params, help="budget in floats")
    options = parser.parse_args(arguments)
    if unknown := [s for s in options.scenarios if s not in (*SCENARIOS, "own")]:
        parser.error(f"scenarios {unknown}; allowed: {', '.join((*SCENARIOS, 'own'))}")
    set_up(options.threads)
    recorded = Records(RECORD, IDENTITY, writes=options.record)
    kept = Records(options.out / "runs.jsonl", IDENTITY)
    for what in wanted(options):
        asked = {"what": what}
        line = recorded.find(asked) or kept.find(asked) or kept.add(one(what, options.out))
        if not recorded.find(asked):
            recorded.add(line)
        print(
            f"{what['scenario']:8} {what['seed']} {what['method']:21} {line['params']:8,} "
            f"AUC {counted(line, 'auc'):.4f} of {counted(line, 'bayes_auc'):.4f}, log loss "
            f"{counted(line, 'log_loss'):.4f}, {line['seconds']:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
