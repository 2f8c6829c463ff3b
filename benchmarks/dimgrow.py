r"""DimGrow against its baselines, its memory, and what shuffling costs.

    python -m benchmarks.dimgrow widths --data data/ml-1m-erase --record
    python -m benchmarks.dimgrow memory --data data/ml-1m --record
    python -m benchmarks.dimgrow shuffle --record

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

from benchmarks.environment import append_jsonl, stamp
from seo_rec import recipes
from seo_rec.cli.main import quiet_libraries
from seo_rec.cli.options import settings_of
from seo_rec.model import ModelSettings
from seo_rec.policy import PolicyError
from seo_rec.report.comparison import paired_difference, spread
from seo_rec.report.formats import difference, p_value, percent, plus_minus
from seo_rec.schema import Schema, read_schema
from seo_rec.search import SEARCHES, Found
from seo_rec.search.dimgrow import shuffle_columns
from seo_rec.train import FitSettings

RECORD = Path(__file__).parent / "results" / "dimgrow.jsonl"
MODEL = ModelSettings(backbone="wide-deep", hidden=(64, 32, 16), dropout=0.2)
FIT = FitSettings(epochs=100, patience=2, batch_size=2048, row_lr=1e-3, dense_lr=1e-3, average=0.0)
OWN_SIZE = ("no-search", "dimgrow", "autodim")
SHARED = ("dimgrow", "sseds", "no-search", "mixed-dimension")
METHODS = tuple(dict.fromkeys((*OWN_SIZE, *SHARED)))
PLAN_METHODS, PLAN_SHARES, PLAN_SEEDS = ("no-search", "dimgrow", "sseds"), (0.1, 0.2, 0.5), 3
SPACE = {"max_dim": "16", "address": "id"}  # of every search of `widths`

Line = dict[str, Any]


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
        line = json.loads(json.dumps({"part": part, "what": what, **found}))  # as it is read again
        self.known[key_of(line)] = line
        print(json.dumps(line, sort_keys=True), flush=True)
        if self.path:
            append_jsonl(self.path, {**line, "environment": stamp()})


def key_of(line: dict[str, Any]) -> str:
    return json.dumps([line["part"], line["what"]], sort_keys=True)


def cases(methods: Sequence[str], shares: Sequence[float]) -> list[tuple[str, float]]:
    """Method and share of the full size, 0 for its own."""
    found = [(method, 0.0) for method in OWN_SIZE if method in methods]
    return found + [(method, share) for share in shares for method in SHARED if method in methods]


def _given() -> list[str]:
    return [f"{name}={value}" for name, value in SPACE.items()]


def of_data(schema: Schema) -> dict[str, Any]:
    """What tells data sets apart, for a line and its reader."""
    return {
        "dataset": schema.dataset,
        "data": schema.fingerprint,
        "rating_rule": schema.options.get("rating_rule"),
        "split": dict(schema.split),
    }


def changed(what: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings of a search that are neither its defaults nor those of all searches here."""
    default = json.loads(json.dumps(asdict(SEARCHES[what["method"]].settings())))
    return tuple(
        f"{name}={value}"
        for name, value in sorted(json.loads(json.dumps(what["settings"])).items())
        if name not in (*SPACE, "params") and value != default.get(name)
    )


def widths(options: argparse.Namespace, records: Records) -> None:
    """Search and train every method, at its own size and at shares of the full one."""
    schema = read_schema(options.data)
    given = _given()
    full = settings_of("no-search", given, None)
    whole = SEARCHES["no-search"].run(options.data, full, MODEL, FIT).policy.num_params
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        fit = replace(FIT, seed=seed, batch_size=options.batch_size, epochs=options.epochs)
        for method, share in cases(options.methods, options.shares):
            own = options.set if method == "dimgrow" else []
            settings = settings_of(method, [*given, *own], int(share * whole) or None)
            what = {
                **of_data(schema),
                "method": method,
                "share": share,
                "seed": seed,
                "settings": asdict(settings),
                "fit": asdict(fit),
                "model": MODEL.as_json(),
            }
            if records.has("widths", **what):
                continue
            try:
                found, run = search_and_train(what, settings, fit, options)
            except PolicyError as error:  # the others go on
                print(f"{method}, share {share}, seed {seed}: {error}", flush=True)
                continue
            policy = found.policy
            names = (f.name for f in policy.features)
            dims = dict(zip(names, policy.widths, strict=True))
            records.add(
                "widths",
                what,
                test_auc=run.test_auc,
                test_logloss=run.test_logloss,
                val_auc=run.val_auc,
                epochs=run.epochs,
                params=policy.num_params,
                share_of_full=policy.num_params / whole,
                total_dims=sum(dims.values()),
                dims=dims,
                dropped=list(policy.dropped),
                search_seconds=found.seconds,
                search_peak_bytes=found.peak_bytes,
                train_seconds=run.seconds,
            )
    print("\n".join(widths_lines(records)))


def search_and_train(
    what: Mapping[str, Any], settings: Any, fit: FitSettings, options: argparse.Namespace
) -> tuple[Found, recipes.Run]:
    """The two runs behind a line, or what is done of them."""
    method, data = what["method"], options.data
    names = [what["data"], method, what["share"], f"seed{fit.seed}", fit.batch_size, fit.epochs]
    folder = options.out / "-".join(map(str, [*names, *changed(what)]))
    found = recipes.search_by(method, data, folder / "search", settings, MODEL, fit, resume=True)
    run = recipes.train(data, found.policy, folder / "run", MODEL, fit, method=method, resume=True)
    return found, run


def widths_lines(records: Records) -> list[str]:
    """What is known of `widths`, in Markdown: two tables per data set and way of training.

    Lines that do not say their data set and all their settings are of older versions and left out.
    """
    groups: dict[str, list[Line]] = {}
    for line in records.known.values():
        if line["part"] == "widths" and "fit" in line["what"]:
            what = line["what"]
            fit = {k: v for k, v in what["fit"].items() if k != "seed"}
            alike = [what["dataset"], what["data"], fit, what["model"]]
            groups.setdefault(json.dumps(alike, sort_keys=True), []).append(line)
    plan = [
        (*case, seed) for case in cases(PLAN_METHODS, PLAN_SHARES) for seed in range(PLAN_SEEDS)
    ]
    if not groups:
        return [f"Nothing is recorded yet of `widths`; its plan has {len(plan)} runs."]
    out: list[str] = []
    for lines in sorted(groups.values(), key=lambda x: not _as_planned(x[0]["what"])):
        runs = [x["what"] for x in lines]
        done = sum(
            (x["method"], x["share"], x["seed"]) in plan and not changed(x) and _as_planned(x)
            for x in runs
        )
        more = f", and {len(lines) - done} more" if len(lines) > done else ""
        out += [
            f"{_title(runs[0])}. {done} of {len(plan)} planned runs{more}; ± is a standard error, "
            f"differences of test AUC are paired by seed. {capped(lines)}.",
            "",
            *widths_table(lines),
            "",
            "Widths of the features in these policies:",
            "",
            *dims_table(lines),
            "",
        ]
    return out[:-1]


def capped(lines: Sequence[Line]) -> str:
    """How many trainings used all epochs they were given, so that more might have helped."""
    at_limit = sum(line["epochs"] >= line["what"]["fit"]["epochs"] for line in lines)
    return f"{at_limit} of {len(lines)} trainings hit the limit of epochs"


def _as_planned(what: Mapping[str, Any]) -> bool:
    return all(what["fit"][k] == v for k, v in asdict(FIT).items() if k != "seed")


def _title(what: Mapping[str, Any]) -> str:
    fit, fractions = what["fit"], what["split"].get("fractions", ())
    words = [what["dataset"], f"fingerprint `{what['data']}`"]
    words += [f"rating rule `{what['rating_rule']}`"] if what["rating_rule"] else []
    words += [f"split {'/'.join(f'{f:g}' for f in fractions)}"] if fractions else []
    words += [f"batch {fit['batch_size']:,}", f"patience {fit['patience']}"]
    words += [f"at most {fit['epochs']} epochs"]
    said = ("batch_size", "patience", "epochs", "seed")
    usual = asdict(FIT)
    words += [f"{k} {v}" for k, v in fit.items() if k not in said and v != usual.get(k)]
    if what["model"] != json.loads(json.dumps(MODEL.as_json())):
        words += [f"model {json.dumps(what['model'])}"]
    return ", ".join(words)


Key = tuple[float, str, tuple[str, ...]]


def _by_case(lines: Sequence[Line]) -> dict[Key, dict[int, Line]]:
    """Lines by seed, of every share, method and set of changed settings, in order."""
    found: dict[Key, dict[int, Line]] = {}
    for line in lines:
        what = line["what"]
        key = (what["share"], what["method"], changed(what))
        found.setdefault(key, {})[what["seed"]] = line
    return dict(sorted(found.items()))


def _name(key: Key) -> str:
    share, method, settings = key
    return f"{percent(share) if share else 'its own'} | {', '.join([method, *settings])}"


def widths_table(lines: Sequence[Line]) -> list[str]:
    """By share, method and settings: mean ± standard error, of lines of one data set.

    The differences of test AUC are paired by seed: to no search of the same share, and to full
    width, which is no search at its own size.
    """
    found = _by_case(lines)

    def mean(runs: Mapping[int, Line], key: str, digits: int) -> str:
        of = spread([line[key] for line in runs.values()])
        return plus_minus(of.mean, of.sd / of.n**0.5, digits)

    def against(runs: Mapping[int, Line], others: Mapping[int, Line]) -> str:
        seeds = sorted(set(runs) & set(others))
        if not seeds or runs is others:
            return ""
        d = paired_difference(*([of[seed]["test_auc"] for seed in seeds] for of in (runs, others)))
        return f"{difference(d.mean, d.standard_error)} (p {p_value(d.p)})"

    out = [
        "| size | method | seeds | floats | share of full | widths in all | test AUC | log loss "
        "| − no search, same size | − full width | search, s | training, s |",
        "|---" * 12 + "|",
    ]
    full = found.get((0.0, "no-search", ()), {})
    for key, runs in found.items():
        same = found.get((key[0], "no-search", ()), {}) if key[0] else {}
        out.append(
            f"| {_name(key)} | {len(runs)} | {mean(runs, 'params', 0)} | "
            f"{percent(spread([x['share_of_full'] for x in runs.values()]).mean)} | "
            f"{mean(runs, 'total_dims', 1)} | {mean(runs, 'test_auc', 5)} | "
            f"{mean(runs, 'test_logloss', 5)} | {against(runs, same)} | {against(runs, full)} | "
            f"{mean(runs, 'search_seconds', 0)} | {mean(runs, 'train_seconds', 0)} |"
        )
    return out


def dims_table(lines: Sequence[Line]) -> list[str]:
    """The width of every feature, a row per different answer; lines of one data set."""
    features = sorted({name for x in lines for name in (*x["dims"], *x["dropped"])})
    out = [
        f"| size | method | seeds | {' | '.join(features)} |",
        "|---" * (3 + len(features)) + "|",
    ]
    for key, runs in _by_case(lines).items():
        answers: dict[str, list[int]] = {}
        for seed, line in sorted(runs.items()):
            answer = " | ".join(str(line["dims"].get(name, "dropped")) for name in features)
            answers.setdefault(answer, []).append(seed)
        for answer, seeds in answers.items():
            out.append(f"| {_name(key)} | {', '.join(map(str, seeds))} | {answer} |")
    return out


def page_lines(records: Records | None = None) -> list[str]:
    """Tables in Markdown of `memory`, `shuffle` and `widths`, and how much of the plan they hold.

    Args:
        records: default: the committed ones.
    """
    records = records or Records(RECORD)
    out: list[str] = []
    groups: dict[tuple[str, ...], list[Line]] = {}
    for line in records.known.values():
        if line["part"] == "memory":
            groups.setdefault((line["what"]["data"], *line["what"]["set"]), []).append(line)
    for (data, *given), lines in groups.items():
        words = [lines[0].get("dataset"), f"fingerprint `{data}`"]
        words += [f"DimGrow with {', '.join(given)}"] if given else []
        out += [f"{', '.join(filter(None, words))}:", "", *memory_table(lines), ""]
    shuffles = [x for x in records.known.values() if x["part"] == "shuffle"]
    if shuffles:
        least, most = (f([x["nanoseconds_per_DBlogB"] for x in shuffles]) for f in (min, max))
        sizes = sorted((x["what"]["rows"], x["what"]["columns"]) for x in shuffles)
        first, last = (f"{B:,} x {D}" for B, D in (sizes[0], sizes[-1]))
        out += [f"One shuffle of B x D numbers takes {least:.1f} to {most:.1f} ns of CPU per "
                f"D B log2 B, from {first} to {last}.", ""]  # fmt: skip
    return [*out, *widths_lines(records)]


def memory_table(lines: Sequence[Line]) -> list[str]:
    """Lines of one data set."""
    out = ["| search | `max_dim` | steps | columns at the end | peak embedding memory, MB |",
           "|---|---|---|---|---|"]  # fmt: skip
    for line in lines:
        what, allocated = line["what"], line["allocated"]
        columns = sum(allocated.values()) if allocated else what["max_dim"] * len(line["dims"])
        out.append(
            f"| {what['method']} | {what['max_dim']} | {what['steps']} | {columns} | "
            f"{line['peak_bytes'] / 1e6:.2f} |"
        )
    return out


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
            found = json.loads(done.stdout.splitlines()[-1])
            records.add("memory", what, **found, dataset=schema.dataset)


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
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet_libraries()
    if options.part != "shuffle" and options.data is None:
        parser.error(f"{options.part} needs --data")
    if options.part == "widths" and options.set and "dimgrow" not in options.methods:
        parser.error("--set is for dimgrow, which is not among --methods")
    if options.part == "one-search":
        one_search(options)
        return
    try:
        settings_of("dimgrow", [*_given(), *options.set], None)
    except ValueError as error:
        parser.error(str(error))
    records = Records(RECORD if options.record else None)
    print(json.dumps(stamp(), sort_keys=True))
    {"widths": widths, "memory": memory, "shuffle": shuffle}[options.part](options, records)


if __name__ == "__main__":
    main()
