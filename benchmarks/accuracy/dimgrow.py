r"""DimGrow against its baselines, its memory, and what shuffling costs.

    python -m benchmarks.accuracy.dimgrow widths --data data/ml-1m-erase --record
    python -m benchmarks.accuracy.dimgrow memory --data data/ml-1m --record
    python -m benchmarks.accuracy.dimgrow shuffle --record

``widths``: every search, then its policy trained from scratch, in the manner of the ERASE
protocol as the authors' code uses it: Adam 1e-3 without a mean of the weights, patience 2, at most
100 epochs, a wide and deep model whose deep part is 64-32-16 with dropout 0.2, 16 columns per
feature at most. The batch is 2,048, theirs 256 (``--batch-size``), which would take hours more.
Their labels and split of MovieLens-1M are those of

    seo-rec prepare movielens-1m --raw ml-1m --rating-rule ge-4 --fractions 0.7,0.2,0.1 \
        --seed 43 --out data/ml-1m-erase

and ours have neither time nor title nor genre. The plan is 33 runs, three seeds each of no search
at full width, DimGrow without a budget, and DimGrow, SSEDS and no search at 10, 20 and 50 % of the
parameters of full width. ``--methods`` adds AutoDim (at its own size) and mixed dimension (at
shares). ``--set alpha=1e-3`` sets DimGrow; such runs have rows of their own. Everything in the
record is shown, in tables for every data set and way of training.

``memory``: the most that columns, gradients and Adam's moments take while DimGrow searches, with
at most 1, 16 and 32 columns, beside a supernet of that width (SSEDS). Counted from tensors: beside
what else a process holds they are too small to be seen from outside.

``shuffle``: CPU seconds of one shuffle of B x D numbers, and the same over ``D B log2 B``.

All parts can be stopped and started again: what ``--out`` or the record holds is not run twice.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.command import make_parser, set_up
from benchmarks.record import Line, Records, as_read_again, path_of, recorded_fit, stamp
from seo_rec import recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.model import ModelSettings
from seo_rec.policy import PolicyError
from seo_rec.runs import Run
from seo_rec.schema import Schema
from seo_rec.search import Found, find
from seo_rec.search.changes import with_changes
from seo_rec.search.dimgrow import shuffle_columns
from seo_rec.settings import FitSettings, Training

RECORD = path_of("dimgrow")
IDENTITY = ("part", "what")
MODEL = ModelSettings(backbone="wide-deep", hidden=(64, 32, 16), dropout=0.2)
FIT = FitSettings(epochs=100, patience=2, batch_size=2048, row_lr=1e-3, dense_lr=1e-3, average=0.0)
OWN_SIZE = ("no-search", "dimgrow", "autodim")
SHARED = ("dimgrow", "sseds", "no-search", "mixed-dimension")
METHODS = tuple(dict.fromkeys((*OWN_SIZE, *SHARED)))
PLAN_METHODS, PLAN_SHARES, PLAN_SEEDS = ("no-search", "dimgrow", "sseds"), (0.1, 0.2, 0.5), 3
SPACE: dict[str, Any] = {"max_dim": 16, "address": "id"}  # of every search of `widths`


def keep(records: Records, part: str, what: Line, found: Line) -> None:
    """Print and record what came out of one run."""
    line = records.add({"part": part, "what": what, **found, "environment": stamp()})
    print(json.dumps(line, sort_keys=True), flush=True)


def cases(methods: Sequence[str], shares: Sequence[float]) -> list[tuple[str, float]]:
    """Method and share of the full size, 0 for its own."""
    found = [(method, 0.0) for method in OWN_SIZE if method in methods]
    return found + [(method, share) for share in shares for method in SHARED if method in methods]


def settings_of(method: str, changes: Mapping[str, Any]) -> Any:
    """The settings of a search with some values changed."""
    return with_changes(find(method).settings(), changes)


def changes_of(texts: Sequence[str]) -> dict[str, Any]:
    """``name=value`` texts as values by name; a value is JSON, or else a text."""
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def of_data(schema: Schema) -> dict[str, Any]:
    """What tells data sets apart, for a line and its reader."""
    return {
        "dataset": schema.dataset,
        "data": schema.fingerprint,
        "rating_rule": schema.options.get("rating_rule"),
        "split": dict(schema.split),
    }


def changed(what: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings of a search that are neither its defaults nor common to all searches here."""
    default = as_read_again(asdict(find(what["method"]).settings()))
    return tuple(
        f"{name}={value}"
        for name, value in sorted(as_read_again(what["settings"]).items())
        if name not in (*SPACE, "params") and value != default.get(name)
    )


def widths(options: argparse.Namespace, records: Records) -> None:
    """Search and train every method, at its own size and at shares of the full one."""
    data = open_data(options.data)
    equal = find("no-search")
    whole = equal.decide(data, settings_of("no-search", SPACE), Training(MODEL, FIT)).policy
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        fit = replace(FIT, seed=seed, batch_size=options.batch_size, epochs=options.epochs)
        for method, share in cases(options.methods, options.shares):
            own = changes_of(options.set) if method == "dimgrow" else {}
            params = int(share * whole.num_params)
            settings = settings_of(method, {**SPACE, **own, "params": params})
            what = {
                **of_data(data.schema),
                "method": method,
                "share": share,
                "seed": seed,
                "settings": asdict(settings),
                "fit": recorded_fit(fit),
                "model": MODEL.as_json(),
            }
            if records.find({"part": "widths", "what": what}):
                continue
            try:
                found, run = search_and_train(what, data, settings, fit, options.out)
            except PolicyError as error:  # the others go on
                print(f"{method}, share {share}, seed {seed}: {error}", flush=True)
                continue
            policy = found.policy
            names = (f.name for f in policy.features)
            found_dims = dict(zip(names, policy.widths, strict=True))
            line = {
                "test_auc": run.test_auc,
                "test_logloss": run.test_logloss,
                "val_auc": run.val_auc,
                "epochs": run.epochs,
                "params": policy.num_params,
                "share_of_full": policy.num_params / whole.num_params,
                "total_dims": sum(found_dims.values()),
                "dims": found_dims,
                "dropped": list(policy.dropped),
                "search_seconds": found.seconds,
                "search_peak_bytes": found.peak_bytes,
                "train_seconds": run.seconds,
            }
            keep(records, "widths", what, line)


def search_and_train(
    what: Mapping[str, Any], data: DataSet, settings: Any, fit: FitSettings, out: Path
) -> tuple[Found, Run]:
    """The two runs behind a line, as far as they are done."""
    method, training = what["method"], Training(MODEL, fit)
    names = [what["data"], method, what["share"], f"seed{fit.seed}", fit.batch_size, fit.epochs]
    folder = out / "-".join(map(str, [*names, *changed(what)]))
    found = recipes.search(method, data, folder / "search", settings, training, resume=True)
    run = recipes.train(data, found.policy, folder / "run", training, method=method, resume=True)
    return found, run


def memory(options: argparse.Namespace, records: Records) -> None:
    """Peak memory of a search at several maximal widths, each in a process of its own."""
    schema = open_data(options.data).schema
    for method in ("dimgrow", "sseds"):
        for max_dim in (1, 16, 32):
            what = {
                "data": schema.fingerprint,
                "method": method,
                "max_dim": max_dim,
                "steps": options.steps,
                "set": options.set,
            }
            if records.find({"part": "memory", "what": what}):
                continue
            command = [sys.executable, "-m", "benchmarks.accuracy.dimgrow", "one-search"]
            command += ["--data", str(options.data), "--method", method]
            command += ["--max-dim", str(max_dim), "--steps", str(options.steps)]
            command += ["--threads", str(options.threads), "--set", *options.set]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            keep(records, "memory", what, {**found, "dataset": schema.dataset})


def one_search(options: argparse.Namespace) -> None:
    """Search in this process and print its memory."""
    fit = FitSettings(epochs=1000, patience=1000, batch_size=2048, average=0.0)
    fit = replace(fit, max_steps=options.steps)
    own = changes_of(options.set) if options.method == "dimgrow" else {}
    settings = settings_of(options.method, {"address": "id", "max_dim": options.max_dim, **own})
    data, training = open_data(options.data), Training(fit=fit)
    found = find(options.method).decide(data, settings, training)
    line = {
        "peak_bytes": found.peak_bytes,
        "process_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "dims": found.record.get("found") or found.policy.provenance["dims"],
        "allocated": found.record.get("allocated"),
        "seconds": found.seconds,
    }
    print(json.dumps(line, sort_keys=True))


def shuffle(options: argparse.Namespace, records: Records) -> None:
    """CPU seconds of one shuffle: the least of seven rounds, and their median."""
    for B in (256, 1024, 4096, 16384, 65536):
        for D in (8, 64):
            what = {"rows": B, "columns": D, "threads": options.threads}
            if records.find({"part": "shuffle", "what": what}):
                continue
            x_BD = torch.randn(B, D)
            shuffle_columns(x_BD)
            rounds = []
            for _ in range(7):
                calls = max(1, 2**18 // (B * D))
                started = time.process_time()
                for _ in range(calls):
                    shuffle_columns(x_BD)
                rounds.append((time.process_time() - started) / calls)
            per_unit = min(rounds) / (D * B * math.log2(B))
            line = {
                "seconds": min(rounds),
                "median_seconds": median(rounds),
                "nanoseconds_per_DBlogB": 1e9 * per_unit,
            }
            keep(records, "shuffle", what, line)


def main() -> None:
    parser = make_parser(__doc__, RECORD, out="runs/dimgrow")
    parser.add_argument("part", choices=("widths", "memory", "shuffle", "one-search"))
    parser.add_argument("--data", type=Path, help="prepared data set")
    parser.add_argument("--seeds", type=int, default=PLAN_SEEDS)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=FIT.batch_size)
    parser.add_argument(
        "--epochs", type=int, default=FIT.epochs, help="at most, of search and training"
    )
    parser.add_argument(
        "--shares", type=float, nargs="*", default=PLAN_SHARES, help="of the full size, in `widths`"
    )
    parser.add_argument("--steps", type=int, default=600, help="of a search in `memory`")
    parser.add_argument("--set", nargs="*", default=[], help="settings of DimGrow, as alpha=1e-3")
    parser.add_argument(
        "--methods", nargs="*", choices=METHODS, default=PLAN_METHODS, help="of `widths`"
    )
    parser.add_argument("--method", default="dimgrow", help="of one-search")
    parser.add_argument("--max-dim", type=int, default=16, help="of one-search")
    options = parser.parse_args()
    if options.part != "shuffle" and options.data is None:
        parser.error(f"{options.part} needs --data")
    if options.part == "widths" and options.set and "dimgrow" not in options.methods:
        parser.error("--set is for dimgrow, which is not among --methods")
    if options.part == "one-search":
        torch.set_num_threads(options.threads)
        one_search(options)
        return
    try:
        settings_of("dimgrow", {**SPACE, **changes_of(options.set)})
    except ValueError as error:
        parser.error(str(error))
    records = Records(RECORD if options.record else None, IDENTITY)
    set_up(options.threads)
    {"widths": widths, "memory": memory, "shuffle": shuffle}[options.part](options, records)


if __name__ == "__main__":
    main()
