"""OptEmbed's Tables 3 and 4 on our data: which part does what, and whether to train again.

    python -m benchmarks.optembed --data data/ml-1m --record
    python -m benchmarks.optembed --data data/ml-1m --table        # what is recorded, as a table

For every backbone and seed: the original model (a row of 16 for every training id), and OptEmbed
with rows and widths (``full``), rows alone (``rows``, the paper's OptEmbed-E) and widths alone
(``dims``, OptEmbed-D). Of each variant its policy trained again, from scratch or from the initial
weights of its supernet (``--start``), and the masked supernet as it is. All models have the same
hidden layers, batch of 2,048, epochs at most and patience; the best epoch is chosen on validation
rows and test rows are read once. Sparsity is 1 - floats / floats of the original.

Not as in the paper: the data (its Criteo, Avazu and KDD12 have millions of ids, MovieLens-1M has
13,000), width 16 for 64, fewer generations and epochs, no batch normalisation; ``alpha`` and the
learning rate of the thresholds were chosen on validation rows, once for all (docs/LOG.md).

Runs go to ``--out`` and lines to the record; what is in either is not run twice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from benchmarks.environment import append_jsonl, stamp
from seo_rec import recipes
from seo_rec.cli.main import quiet_libraries
from seo_rec.data.stream import Stream
from seo_rec.metrics import Metrics
from seo_rec.model import ModelSettings
from seo_rec.report.comparison import paired_difference
from seo_rec.report.comparison import spread as spread_of
from seo_rec.report.formats import difference, p_value, percent, plus_minus
from seo_rec.schema import read_schema
from seo_rec.search.no_search import NoSearchSettings, no_search
from seo_rec.search.optembed import OptEmbedSettings, search_supernet
from seo_rec.search.space import EVAL_BATCH
from seo_rec.train import FitSettings, evaluate

RECORD = Path(__file__).parent / "results" / "optembed.jsonl"
BACKBONES = ("deepfm", "dcn", "fnn", "ipnn")
VARIANTS = ("original", "full", "rows", "dims")
STARTS = {"scratch": "none", "initial": "initial"}
WIDTH = 16

Line = dict[str, Any]


def settings_of(variant: str, options: argparse.Namespace) -> OptEmbedSettings:
    """The search of a variant, with what that variant reads."""
    given: dict[str, Any] = {}
    if variant != "dims":
        given |= {"alpha": options.alpha, "threshold_lr": options.threshold_lr}
    if variant != "rows":
        given["generations"] = options.generations
    weights = STARTS[options.start]
    return OptEmbedSettings(max_dim=WIDTH, variant=variant, weights=weights, **given)


def cells(options: argparse.Namespace, fingerprint: str) -> list[Line]:
    """What to run on the data of this fingerprint: one entry per backbone, seed and variant."""
    common = {"data": fingerprint, "epochs": options.epochs, "row_l2": options.row_l2}
    found = []
    for backbone in options.backbones:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for variant in options.variants:
                what = {**common, "backbone": backbone, "seed": seed, "variant": variant}
                if variant != "original":
                    what |= {"start": options.start, "set": asdict(settings_of(variant, options))}
                found.append(what)
    return found


def one(what: Line, options: argparse.Namespace) -> Line:
    """Search and train one cell, or find what is done of it."""
    model = ModelSettings(backbone=what["backbone"])
    fit = FitSettings(epochs=what["epochs"], row_l2=what["row_l2"], seed=what["seed"])
    names = [what["backbone"], what["variant"], what["seed"], what["epochs"], what["row_l2"]]
    folder = options.out / "-".join(str(n) for n in [*names, *sorted(_numbers(what))])
    whole = no_search(options.data, NoSearchSettings(max_dim=WIDTH), model, fit).policy
    line: Line = {"what": what, "data": read_schema(options.data).dataset}
    policy = whole
    if what["variant"] != "original":
        settings = settings_of(what["variant"], options)
        found = recipes.search_by(
            "optembed", options.data, folder / "search", settings, model, fit, resume=True
        )
        searched = search_supernet(options.data, settings, model, fit, folder / "search" / "work")
        line["supernet"] = {
            split: scores(
                evaluate(searched.model, Stream(options.data, split, batch_size=EVAL_BATCH))[0]
            )
            for split in ("val", "test")
        }
        line |= {"search_seconds": found.seconds, "record": found.record}
        policy = found.policy
    weights = folder / "search" / "weights.npz"
    run = recipes.train(
        options.data,
        policy,
        folder / "run",
        model,
        fit,
        method=what["variant"],
        resume=True,
        weights=weights if weights.exists() else None,
    )
    return line | {
        "trained": {
            "val": {"auc": run.val_auc, "log_loss": run.val_logloss},
            "test": {"auc": run.test_auc, "log_loss": run.test_logloss},
        },
        "params": policy.num_params,
        "sparsity": 1 - policy.num_params / whole.num_params,
        "train_epochs": run.epochs,
        "train_seconds": run.seconds,
    }


def _numbers(what: Line) -> Iterable[str]:
    """The settings that tell two searches of one cell apart, for the name of a folder."""
    chosen = what.get("set", {})
    kept = ("alpha", "threshold_lr", "generations", "weights")
    return (f"{name}={chosen[name]}" for name in kept if name in chosen)


def scores(metrics: Metrics) -> dict[str, float]:
    return {"auc": metrics.auc, "log_loss": metrics.log_loss}


# ---- the table ---------------------------------------------------------------------------


def key_of(what: Line) -> str:
    return json.dumps(what, sort_keys=True)


def spread(values: Sequence[float]) -> str:
    """Mean and standard error, which one value has none of."""
    error = f"{stdev(values) / len(values) ** 0.5:.5f}" if len(values) > 1 else "-"
    return f"{mean(values):.5f} {error:>7}"


def table(lines: Sequence[Line], wanted: Sequence[Line]) -> None:
    """Per backbone and variant: means over the seeds; differences are paired by seed."""
    known = {key_of(line["what"]): line for line in lines}
    there = [known[key_of(w)] for w in wanted if key_of(w) in known]
    print(
        f"{'backbone':8} {'variant':8} {'training':8} n {'sparsity':>8} {'floats':>7} "
        f"{'val AUC':>7} {'s.e.':>7} {'test AUC':>8} {'s.e.':>7} {'log loss':>8} {'s.e.':>7} "
        f"{'- orig.':>9} {'s.e.':>7} {'s':>5}"
    )
    for backbone in dict.fromkeys(line["what"]["backbone"] for line in there):
        rows = [line for line in there if line["what"]["backbone"] == backbone]
        original = {
            line["what"]["seed"]: line for line in rows if line["what"]["variant"] == "original"
        }
        for variant in VARIANTS:
            own = [line for line in rows if line["what"]["variant"] == variant]
            for kind, name in (("trained", "again"), ("supernet", "none")):
                having = [line for line in own if kind in line]
                if having:
                    again = "" if variant == "original" else name
                    show(f"{backbone:8} {variant:8} {again:8}", kind, having, original)


def show(name: str, kind: str, lines: Sequence[Line], original: dict[int, Line]) -> None:
    test = [line[kind]["test"] for line in lines]
    gains = [
        line[kind]["test"]["auc"] - original[line["what"]["seed"]]["trained"]["test"]["auc"]
        for line in lines
        if line["what"]["seed"] in original and line["what"]["variant"] != "original"
    ]
    seconds = [
        line.get("search_seconds", 0) + line["train_seconds"] * (kind == "trained")
        for line in lines
    ]
    print(
        f"{name} {len(lines)} {mean(line['sparsity'] for line in lines):8.4f} "
        f"{mean(line['params'] for line in lines):7.0f} "
        f"{spread([line[kind]['val']['auc'] for line in lines])} "
        f"{spread([t['auc'] for t in test]):>16} {spread([t['log_loss'] for t in test]):>16} "
        f"{spread(gains) if gains else '':>17} {mean(seconds):5.0f}"
    )


def page_lines(lines: Sequence[Line] | None = None) -> list[str]:
    """Tables in Markdown by data set and start, and how much of the default plan they hold.

    Args:
        lines: default: the record.
    """
    lines = read() if lines is None else lines
    known = {key_of(line["what"]): line for line in lines}
    names = {line["what"]["data"]: line["data"] for line in lines}
    out: list[str] = []
    for fingerprint, name in names.items():
        for start in STARTS:
            options = parser().parse_args(["--data", name, "--start", start])
            wanted = [key_of(what) for what in cells(options, fingerprint)]
            there = [known[key] for key in wanted if key in known]
            if start != "scratch" and all("start" not in line["what"] for line in there):
                continue
            words = {"scratch": "new weights", "initial": "the supernet's initial weights"}
            out += [
                f"{name}, trained again from {words[start]}, {len(there)} of {len(wanted)} runs:",
                "",
                *_markdown(there),
                "",
            ]
    plan = len(cells(parser().parse_args(["--data", "any"]), ""))
    return out[:-1] or [f"Nothing is recorded yet; the plan has {plan} runs."]


def _markdown(lines: Sequence[Line]) -> list[str]:
    """A row per backbone, variant and kind of model; differences are paired by seed."""
    out = [
        "| backbone | variant | seeds | sparsity | validation AUC | test AUC | log loss "
        "| − original |",
        "|---" * 8 + "|",
    ]
    for backbone in dict.fromkeys(line["what"]["backbone"] for line in lines):
        rows = {
            variant: {
                line["what"]["seed"]: line
                for line in lines
                if line["what"]["backbone"] == backbone and line["what"]["variant"] == variant
            }
            for variant in VARIANTS
        }
        for variant, runs in rows.items():
            for kind, title in (("trained", variant), ("supernet", f"{variant}, its supernet")):
                having = {seed: line for seed, line in runs.items() if kind in line}
                if having:
                    original = {} if variant == "original" else rows["original"]
                    out.append(f"| {backbone} | {title} | {_row(having, kind, original)} |")
    return out


def _row(runs: Mapping[int, Line], kind: str, original: Mapping[int, Line]) -> str:
    def of(split: str, key: str) -> str:
        found = spread_of([line[kind][split][key] for line in runs.values()])
        return plus_minus(found.mean, found.sd)

    seeds = sorted(set(runs) & set(original))
    gain = ""
    if seeds:
        own = [runs[s][kind]["test"]["auc"] for s in seeds]
        d = paired_difference(own, [original[s]["trained"]["test"]["auc"] for s in seeds])
        gain = f"{difference(d.mean, d.standard_error)} (p {p_value(d.p)})"
    share = percent(mean(line["sparsity"] for line in runs.values()))
    cells = (str(len(runs)), share, of("val", "auc"), of("test", "auc"), of("test", "log_loss"))
    return " | ".join((*cells, gain))


def read() -> list[Line]:
    return [json.loads(text) for text in RECORD.read_text().splitlines()] if RECORD.exists() else []


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--backbones", nargs="*", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=5, help="at most, of search and training")
    parser.add_argument("--row-l2", type=float, default=2e-4)
    parser.add_argument("--alpha", type=float, default=OptEmbedSettings.alpha)
    parser.add_argument("--threshold-lr", type=float, default=OptEmbedSettings.threshold_lr)
    parser.add_argument("--generations", type=int, default=6)
    parser.add_argument("--start", choices=STARTS, default="scratch", help="of training again")
    parser.add_argument("--out", type=Path, default=Path("runs/optembed"), help="run folders")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--record", action="store_true", help=f"append to {RECORD.name}")
    parser.add_argument("--table", action="store_true", help="run nothing, show the record")
    return parser


def main() -> None:
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    quiet_libraries()
    wanted = cells(options, read_schema(options.data).fingerprint)
    lines = read() if options.record or options.table else []
    known = {key_of(line["what"]) for line in lines}
    if not options.table:
        print(json.dumps(stamp(), sort_keys=True))
    for what in wanted:
        if options.table or key_of(what) in known:
            continue
        line = one(what, options)
        lines.append(line)
        print(json.dumps({k: v for k, v in line.items() if k != "record"}), flush=True)
        if options.record:
            append_jsonl(RECORD, {**line, "environment": stamp()})
    table(lines, wanted)


if __name__ == "__main__":
    main()
