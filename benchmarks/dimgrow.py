r"""DimGrow against its baselines, its memory, and what shuffling costs.

    python -m benchmarks.dimgrow widths --data data/ml-1m --record
    python -m benchmarks.dimgrow memory --data data/ml-1m --record
    python -m benchmarks.dimgrow shuffle --record

``widths``: every search of widths, then its policy trained from scratch, in the manner of the ERASE
protocol as the authors' code uses it: Adam 1e-3 without a mean of the weights, batch 256, patience
2, a wide and deep model whose deep part is 64-32-16 with dropout 0.2, 16 columns per feature at
most. Differences: the columns are those of ``--data`` (for MovieLens neither time nor title nor
genre), and so is its split. Without a budget each search takes the size it likes; ``--shares``
adds DimGrow, SSEDS, mixed dimension and no search at shares of the parameters of width 16. A table
of all that is known at these settings follows: means and standard errors over seeds. Compression
to 10, 20 and 50 % against full width and against no search of the same size:

    python -m benchmarks.dimgrow widths --data data/ml-1m --batch-size 2048 --epochs 12 \
        --set alpha=1e-4 --seeds 3 --methods no-search mixed-dimension dimgrow --record

``memory``: the most that columns, gradients and Adam's moments take while DimGrow searches, with
at most 16 and at most 32 columns, beside a supernet of that width (SSEDS). Counted from tensors;
and as what the process of each search has over that of a search at ``max_dim`` 1.

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
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.environment import append_jsonl, stamp
from seo_rec import recipes
from seo_rec.cli.main import quiet_libraries
from seo_rec.cli.options import settings_of
from seo_rec.model import ModelSettings
from seo_rec.report.comparison import paired_difference, spread
from seo_rec.report.formats import difference, percent, plus_minus
from seo_rec.schema import read_schema
from seo_rec.search import SEARCHES
from seo_rec.search.dimgrow import shuffle_columns
from seo_rec.train import FitSettings

RECORD = Path(__file__).parent / "results" / "dimgrow.jsonl"
MODEL = ModelSettings(backbone="wide-deep", hidden=(64, 32, 16), dropout=0.2)
FIT = FitSettings(epochs=100, patience=2, batch_size=256, row_lr=1e-3, dense_lr=1e-3, average=0.0)
WIDTHS = ("no-search", "dimgrow", "autodim", "sseds")
SHARED = ("dimgrow", "sseds", "mixed-dimension", "no-search")
METHODS = tuple(dict.fromkeys((*WIDTHS, *SHARED)))
# What docs/searches.md shows of `widths`: the second command above.
PAGE = {"batch_size": 2048, "epochs": 12, "set": ["alpha=1e-4"]}
PAGE_METHODS, PAGE_SHARES, PAGE_SEEDS = ("no-search", "mixed-dimension", "dimgrow"), 3, 3


class Records:
    """The lines of the record, and those that are new."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        texts = path.read_text().splitlines() if path and path.exists() else []
        lines = [json.loads(text) for text in texts]
        self.known = {key_of(line): line for line in lines}

    def has(self, part: str, **what: Any) -> bool:
        return key_of({"part": part, "what": what}) in self.known

    def add(self, part: str, what: dict[str, Any], **found: Any) -> None:
        line = {"part": part, "what": what, **found}
        self.known[key_of(line)] = line
        print(json.dumps(line, sort_keys=True), flush=True)
        if self.path:
            append_jsonl(self.path, {**line, "environment": stamp()})


def key_of(line: dict[str, Any]) -> str:
    return json.dumps([line["part"], line["what"]], sort_keys=True)


def widths(options: argparse.Namespace, records: Records) -> None:
    """Search and train every method, at its own size and at shares of the full one."""
    schema = read_schema(options.data)
    full = SEARCHES["no-search"].settings(max_dim=16, address="id")
    whole = SEARCHES["no-search"].run(options.data, full, MODEL, FIT).policy.num_params
    cases = [(method, 0.0) for method in WIDTHS]
    cases += [(method, share) for share in options.shares for method in SHARED]
    cases = [(method, share) for method, share in cases if method in options.methods]
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        fit = replace(FIT, seed=seed, batch_size=options.batch_size, epochs=options.epochs)
        for method, share in cases:
            what = {
                "data": schema.fingerprint,
                "method": method,
                "share": share,
                "seed": seed,
                "batch_size": options.batch_size,
                "epochs": options.epochs,
                "set": options.set if method == "dimgrow" else [],
            }
            if records.has("widths", **what):
                continue
            given = ["max_dim=16", "address=id", *what["set"]]
            settings = settings_of(method, given, int(share * whole) or None)
            folder = options.out / f"{method}-{share}-{seed}-{options.batch_size}-{options.epochs}"
            name = "-".join([folder.name, *options.set] if method == "dimgrow" else [folder.name])
            folder = options.out / name
            found = recipes.search_by(
                method, options.data, folder / "search", settings, MODEL, fit, resume=True
            )
            run = recipes.train(
                options.data, found.policy, folder / "run", MODEL, fit, method=method, resume=True
            )
            dims = {t.name: t.dim for t in found.policy.tables}
            records.add(
                "widths",
                what,
                test_auc=run.test_auc,
                test_logloss=run.test_logloss,
                val_auc=run.val_auc,
                epochs=run.epochs,
                params=found.policy.num_params,
                share_of_full=found.policy.num_params / whole,
                total_dims=sum(dims.values()),
                dims=dims,
                dropped=list(found.policy.dropped),
                search_seconds=found.seconds,
                search_peak_bytes=found.peak_bytes,
                train_seconds=run.seconds,
            )
    print("\n".join(widths_table(options, schema.fingerprint, records)))


def widths_table(options: argparse.Namespace, data: str, records: Records) -> list[str]:
    """What is known of `widths` at these settings, by share and method: mean ± standard error.

    The differences of test AUC are paired by seed: to no search at the same share (at its own
    size: at full width), and to full width.
    """
    found: dict[tuple[float, str], dict[int, dict[str, Any]]] = {}
    for line in records.known.values():
        what = line["what"]
        if line["part"] != "widths":
            continue
        wanted = {"data": data, "batch_size": options.batch_size, "epochs": options.epochs}
        wanted["set"] = options.set if what["method"] == "dimgrow" else []
        if all(what[k] == v for k, v in wanted.items()):
            found.setdefault((what["share"], what["method"]), {})[what["seed"]] = line

    def mean(runs: dict[int, dict[str, Any]], key: str, digits: int) -> str:
        of = spread([line[key] for line in runs.values()])
        return plus_minus(of.mean, of.sd / of.n**0.5, digits)

    def against(runs: dict[int, dict[str, Any]], others: dict[int, dict[str, Any]]) -> str:
        seeds = sorted(set(runs) & set(others))
        if not seeds or runs is others:
            return ""
        pairs = ([of[seed]["test_auc"] for seed in seeds] for of in (runs, others))
        d = paired_difference(*pairs)
        return difference(d.mean, d.standard_error)

    out = [
        "| share | method | seeds | floats | test AUC | − no search, same share | − full width | "
        "search, s | training, s |",
        "|---" * 9 + "|",
    ]
    full = found.get((0.0, "no-search"), {})
    for (share, method), runs in sorted(found.items()):
        out.append(
            f"| {percent(share) if share else 'its own'} | {method} | {len(runs)} | "
            f"{mean(runs, 'params', 0)} | {mean(runs, 'test_auc', 5)} | "
            f"{against(runs, found.get((share, 'no-search'), {}))} | {against(runs, full)} | "
            f"{mean(runs, 'search_seconds', 0)} | {mean(runs, 'train_seconds', 0)} |"
        )
    return out


def page_lines(records: Records | None = None) -> list[str]:
    """Tables in Markdown of `memory`, `shuffle` and `widths`, and how much of the plan they hold.

    Args:
        records: default: the committed ones.
    """
    known = (records or Records(RECORD)).known.values()
    out = ["| search | `max_dim` | steps | columns at the end | peak embedding memory, MB |",
           "|---|---|---|---|---|"]  # fmt: skip
    for line in (x for x in known if x["part"] == "memory"):
        what, allocated = line["what"], line["allocated"]
        columns = sum(allocated.values()) if allocated else what["max_dim"] * len(line["dims"])
        out.append(
            f"| {what['method']} | {what['max_dim']} | {what['steps']} | {columns} | "
            f"{line['peak_bytes'] / 1e6:.2f} |"
        )
    shuffles = [x for x in known if x["part"] == "shuffle"]
    if shuffles:
        least, most = (f([x["nanoseconds_per_DBlogB"] for x in shuffles]) for f in (min, max))
        sizes = sorted((x["what"]["rows"], x["what"]["columns"]) for x in shuffles)
        first, last = (f"{B:,} x {D}" for B, D in (sizes[0], sizes[-1]))
        out += ["", f"One shuffle of B x D numbers takes {least:.1f} to {most:.1f} ns of CPU per "
                f"D B log2 B, from {first} to {last}."]  # fmt: skip
    runs = [x for x in known if x["part"] == "widths" and _on_page(x["what"])]
    cases = sum(m in WIDTHS for m in PAGE_METHODS)
    cases += PAGE_SHARES * sum(m in SHARED for m in PAGE_METHODS)
    for data in dict.fromkeys(x["what"]["data"] for x in runs):
        done = sum(x["what"]["data"] == data for x in runs)
        out += [
            "",
            f"Trained from scratch, {done} of {cases * PAGE_SEEDS} runs (batch "
            f"{PAGE['batch_size']:,}, at most {PAGE['epochs']} epochs; differences of test AUC are "
            "paired by seed):",
            "",
            *widths_table(argparse.Namespace(**PAGE), data, records or Records(RECORD)),
        ]
    return out


def _on_page(what: Mapping[str, Any]) -> bool:
    given = PAGE["set"] if what["method"] == "dimgrow" else []
    wanted = {**PAGE, "set": given}
    return what["method"] in PAGE_METHODS and all(what[k] == v for k, v in wanted.items())


def memory(options: argparse.Namespace, records: Records) -> None:
    """Peak memory of a search at several maximal widths, each in a process of its own."""
    schema = read_schema(options.data)
    for method in ("dimgrow", "sseds"):
        for max_dim in (1, 16, 32):
            what = {
                "data": schema.fingerprint,
                "method": method,
                "max_dim": max_dim,
                "steps": options.steps,
                "set": options.set,
            }
            if records.has("memory", **what):
                continue
            command = [sys.executable, "-m", "benchmarks.dimgrow", "one-search"]
            command += ["--data", str(options.data), "--method", method]
            command += ["--max-dim", str(max_dim), "--steps", str(options.steps)]
            command += ["--threads", str(options.threads), "--set", *options.set]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            records.add("memory", what, **json.loads(done.stdout.splitlines()[-1]))


def one_search(options: argparse.Namespace) -> None:
    """Search in this process and print its memory."""
    fit = FitSettings(epochs=1000, patience=1000, batch_size=2048, average=0.0)
    fit = replace(fit, max_steps=options.steps)
    given = options.set if options.method == "dimgrow" else []
    given = [f"max_dim={options.max_dim}", "address=id", *given]
    settings = settings_of(options.method, given, None)
    found = SEARCHES[options.method].run(options.data, settings, ModelSettings(), fit)
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
            if records.has("shuffle", **what):
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
            records.add(
                "shuffle",
                what,
                seconds=min(rounds),
                median_seconds=median(rounds),
                nanoseconds_per_DBlogB=1e9 * per_unit,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=("widths", "memory", "shuffle", "one-search"))
    parser.add_argument("--data", type=Path, help="prepared data set")
    parser.add_argument("--out", type=Path, default=Path("runs/dimgrow"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=100, help="at most, of search and training")
    parser.add_argument("--shares", type=float, nargs="*", default=[0.1, 0.2, 0.5])
    parser.add_argument("--steps", type=int, default=1000, help="of a search in `memory`")
    parser.add_argument("--set", nargs="*", default=[], help="settings of DimGrow, as alpha=1e-3")
    parser.add_argument(
        "--methods", nargs="*", choices=METHODS, default=METHODS, help="of `widths`"
    )
    parser.add_argument("--method", default="dimgrow", help="of one-search")
    parser.add_argument("--max-dim", type=int, default=16, help="of one-search")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet_libraries()
    if options.part != "shuffle" and options.data is None:
        parser.error(f"{options.part} needs --data")
    if options.part == "one-search":
        one_search(options)
        return
    records = Records(RECORD if options.record else None)
    print(json.dumps(stamp(), sort_keys=True))
    {"widths": widths, "memory": memory, "shuffle": shuffle}[options.part](options, records)


if __name__ == "__main__":
    main()
