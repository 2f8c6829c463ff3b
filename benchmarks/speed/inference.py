"""How long do the policies of searches take to score, beside plain tables?

    python -m benchmarks.speed.inference --data data/ml-1m --params 96000 --record

OptEmbed's paper compares the time of inference of its pruned tables with the time of other methods.
A pruned table costs a read of a code for every id, and widths of their own cost projections. Every
policy is made at one budget, searches included (with ``--search-epochs``, 1 by default: their time
does not depend on how good they are); ``collisionless`` is the original, a row of 16 floats for
every id. The weights are initial ones, the backbone an MLP of 256 and 128, DCN with ``--backbone``.

Two ways score validation rows as they stand, in one process and on one thread:

    model    the trained model in PyTorch, eager, from a batch of ids
    package  what `seo-rec export` writes, by ONNX Runtime, from ids; hashing is inside

The policies take turns in rounds. The figure of a policy is the median over rounds of the time of
its median call over the original's in the same round, so that other work of the machine, which
slows both, hardly changes it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.command import make_parser, set_up
from benchmarks.pages import inference as page
from benchmarks.pages.inference import ORIGINAL
from benchmarks.record import Line, append, path_of
from seo_rec import recipes
from seo_rec.batch import Batch
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.export import package_parts
from seo_rec.export.preparation import preparation_of
from seo_rec.model import ModelSettings, RecModel, build_model
from seo_rec.policy import Policy
from seo_rec.runs import describe
from seo_rec.search import find
from seo_rec.serve.bags import Bags, Inputs
from seo_rec.serve.predictor import Predictor
from seo_rec.serve.writing import write_package
from seo_rec.settings import FitSettings, Training

RECORD = path_of("inference")
METHODS = ("optembed", "dimgrow", "sseds", "mixed-dimension", "no-search", "multi-size-2",
           "monolithic")  # fmt: skip
DIM = 16
WAYS = ("model", "package")
CALLS = {1: 200, 512: 30}  # rows of a call: calls of a round
Call = Callable[[], Any]
Times = dict[str, dict[str, list[float]]]  # by policy and way


def policy_of(method: str, data: DataSet, options: argparse.Namespace, out: Path) -> Policy:
    """The policy of a method at the budget; a search is short."""
    entry = find(method)
    if not entry.trains:
        return recipes.method_policy(method, data, options.params, DIM)
    fit = FitSettings(epochs=options.search_epochs)
    training = Training(ModelSettings(options.backbone), fit)
    settings = entry.settings_at(options.params, DIM, training, in_comparison=True)
    return recipes.search(method, data, out / method, settings, training, resume=True).policy


def inputs_of(batch: Batch, columns: tuple[str, ...]) -> Inputs:
    """The rows of a batch as a package reads them, without preparation."""
    rows = batch.num_rows
    found = {}
    for name, jagged in batch.sparse.to_dict().items():
        if name in columns:
            found[name] = Bags(jagged.values().numpy(), jagged.lengths().numpy().astype(np.int64))
    return Inputs(batch.dense_BN[:rows].numpy(), found)


def calls_of(policy: Policy, data: DataSet, backbone: str, folder: Path) -> dict[str, Call]:
    """What is timed, by way and number of rows; the two ways are compared first."""
    model: RecModel = build_model(policy, data.num_numeric, ModelSettings(backbone), 0).eval()
    preparation = preparation_of(data, policy.columns)
    about: dict[str, Mapping[str, str]] = {
        key: {} for key in ("data", "metrics", "versions", "model")
    }
    folder.mkdir(parents=True)
    write_package(folder, package_parts(model, preparation, "float32", about, ("onnx",)))
    scorer = Predictor.load(folder, "onnxruntime", 1).scorer
    found: dict[str, Call] = {}
    for rows in CALLS:
        batch = next(iter(data.stream("val", batch_size=rows, columns=policy.columns)))
        inputs = inputs_of(batch, policy.columns)

        def eager(batch: Batch = batch) -> Any:
            with torch.inference_mode():
                return model(batch)[1]

        def packed(inputs: Inputs = inputs) -> Any:
            return scorer.logits(inputs)

        np.testing.assert_allclose(eager().numpy(), packed(), atol=1e-4)
        found |= {f"model {rows}": eager, f"package {rows}": packed}
    return found


def timed(calls: Mapping[str, Mapping[str, Call]], rounds: int) -> Times:
    """Milliseconds of the median call, by policy and way, of every round; policies take turns."""
    names = list(calls)
    found: Times = {n: {w: [] for w in calls[n]} for n in names}
    for turn in range(rounds):
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            for way, call in calls[name].items():
                nanoseconds = []
                for _ in range(CALLS[int(way.split()[1])]):
                    started = time.perf_counter_ns()
                    call()
                    nanoseconds.append(time.perf_counter_ns() - started)
                found[name][way].append(statistics.median(nanoseconds) / 1e6)
    return found


def measure(data: DataSet, options: argparse.Namespace, folder: Path) -> Line:
    """All policies of the command, as a line of the record."""
    names = [ORIGINAL, *(m for m in options.methods if m != ORIGINAL)]
    policies = {name: policy_of(name, data, options, options.out) for name in names}
    calls = {n: calls_of(p, data, options.backbone, folder / n) for n, p in policies.items()}
    times = timed(calls, options.rounds)
    found = {}
    for name, ways in times.items():
        over = {
            way: statistics.median(a / b for a, b in zip(ms, times[ORIGINAL][way], strict=True))
            for way, ms in ways.items()
        }
        found[name] = {
            "policy": describe(policies[name]),
            "params": policies[name].num_params,
            "bytes": policies[name].num_bytes,
            "over_original": {way: round(ratio, 3) for way, ratio in over.items()},
        }
    return {
        "data": data.schema.dataset,
        "data_fingerprint": data.fingerprint,
        "backbone": options.backbone,
        "params": options.params,
        "rounds": options.rounds,
        "policies": found,
    }


def main() -> None:
    parser = make_parser(__doc__, RECORD, out="runs/inference")
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--params", type=int, default=96_000, help="budget in floats")
    parser.add_argument("--methods", nargs="*", default=METHODS, help="beside the original")
    parser.add_argument("--backbone", default="mlp")
    parser.add_argument("--search-epochs", type=int, default=1, help="of searches that train")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    environment = set_up(options.threads)
    with TemporaryDirectory() as folder:
        line = measure(open_data(options.data), options, Path(folder))
    line["environment"] = environment
    print("\n".join(page.region([line])), flush=True)
    if options.record:
        append(RECORD, line)


if __name__ == "__main__":
    main()
