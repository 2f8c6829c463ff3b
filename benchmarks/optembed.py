"""OptEmbed's Tables 3 and 4 on our data: which part does what, and whether to train again.

    python -m benchmarks.optembed --data data/ml-1m --record
    python -m benchmarks.optembed --table        # what is recorded, as tables

For every backbone and seed: the original model (a row of 16 for every training id), and OptEmbed
with rows and widths (``full``), rows alone (``rows``, the paper's OptEmbed-E) and widths alone
(``dims``, OptEmbed-D). Of each variant the masked supernet as it is (before), and its policy
trained again (after), from scratch or from the initial weights of its supernet (``--start``). All
models have the same hidden layers, batch of 2,048, learning rate, L2 and patience; a supernet has 5
epochs at most, what is trained for the tables 20. The best epoch is chosen on validation rows and
test rows are read once. Sparsity is 1 - floats / floats of the original.

The plan is 36 runs: three seeds of ``original`` and ``full`` with every backbone, and of ``rows``
and ``dims`` with DeepFM and DCN. ``--backbones`` or ``--variants`` take some of them; given both,
every pair of them is run. The page shows all that is recorded, a table per data set and settings.

Not as in the paper: the data (its Criteo, Avazu and KDD12 have millions of ids, MovieLens-1M has
13,000), width 16 for 64, fewer generations and epochs, no batch normalisation; ``alpha`` and the
learning rate of the thresholds were chosen on validation rows, once for all (docs/LOG.md).

Runs go to ``--out`` and lines to the record; what is in either is not run twice.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.environment import append_jsonl, stamp
from seo_rec import recipes
from seo_rec.cli.main import quiet_libraries
from seo_rec.data.stream import Stream
from seo_rec.metrics import Metrics
from seo_rec.model import ModelSettings
from seo_rec.policy import PolicyError
from seo_rec.report.comparison import paired_difference, spread
from seo_rec.report.formats import difference, p_value, percent, plus_minus
from seo_rec.schema import Schema, read_schema
from seo_rec.search.no_search import NoSearchSettings, no_search
from seo_rec.search.optembed import OptEmbedSettings, search_supernet
from seo_rec.search.space import EVAL_BATCH
from seo_rec.train import FitSettings, evaluate

RECORD = Path(__file__).parent / "results" / "optembed.jsonl"
BACKBONES = ("deepfm", "dcn", "fnn", "ipnn")
VARIANTS = ("original", "full", "rows", "dims")
PLAN = (  # backbone and variant
    *product(BACKBONES, ("original", "full")),
    *product(("deepfm", "dcn"), ("rows", "dims")),
)
PLAN_SEEDS = 3
STARTS = {"scratch": "none", "initial": "initial"}
WORDS = {"scratch": "new weights", "initial": "the supernet's initial weights"}
OF_SEARCH = ("search_epochs", "start", "alpha", "threshold_lr", "generations")
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


def pairs(backbones: Sequence[str] | None, variants: Sequence[str] | None) -> list[tuple[str, str]]:
    """Backbone and variant: of the plan, of the part of it that is named, or all that are named."""
    if backbones and variants:
        return list(product(backbones, variants))
    return [
        (b, v) for b, v in PLAN if b in (backbones or BACKBONES) and v in (variants or VARIANTS)
    ]


def cells(options: argparse.Namespace, schema: Schema) -> list[Line]:
    """What to run on these data: one entry per seed, backbone and variant.

    Every setting of the search is in the entry of every variant, so that a table is of one.
    """
    common: Line = {"dataset": schema.dataset, "data": schema.fingerprint}
    common["rating_rule"] = schema.options.get("rating_rule")
    found = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        fit = FitSettings(
            epochs=options.epochs,
            batch_size=options.batch_size,
            row_lr=options.lr,
            dense_lr=options.lr,
            row_l2=options.row_l2,
            seed=seed,
        )
        for backbone, variant in pairs(options.backbones, options.variants):
            what = {**common, "backbone": backbone, "variant": variant, "seed": seed}
            what |= {"fit": asdict(fit), "model": ModelSettings(backbone=backbone).as_json()}
            if variant != "original":
                what |= {name: getattr(options, name) for name in OF_SEARCH}
                what["set"] = asdict(settings_of(variant, options))
            found.append(json.loads(json.dumps(what)))
    return found


def folder_of(what: Line) -> str:
    """The name of a cell's folder: its data, and the settings that it reads."""
    fit = what["fit"]
    names = [what["data"], what["backbone"], what["variant"], f"seed{what['seed']}"]
    names += [f"{k}={fit[k]}" for k in ("epochs", "batch_size", "row_lr", "row_l2")]
    if what["variant"] != "original":
        chosen = {**what["set"], "search_epochs": what["search_epochs"]}
        kept = ("search_epochs", "alpha", "threshold_lr", "generations", "weights")
        names += [f"{name}={chosen[name]}" for name in kept]
    return "-".join(map(str, names))


def one(what: Line, options: argparse.Namespace) -> Line:
    """Search and train one cell, or find what is done of it."""
    model, fit = ModelSettings(backbone=what["backbone"]), FitSettings(**what["fit"])
    folder = options.out / folder_of(what)
    whole = no_search(options.data, NoSearchSettings(max_dim=WIDTH), model, fit).policy
    line: Line = {"what": what}
    policy = whole
    if what["variant"] != "original":
        settings = settings_of(what["variant"], options)
        shorter = replace(fit, epochs=what["search_epochs"])
        found = recipes.search_by(
            "optembed", options.data, folder / "search", settings, model, shorter, resume=True
        )
        work = folder / "search" / "work"
        searched = search_supernet(options.data, settings, model, shorter, work)
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


def scores(metrics: Metrics) -> dict[str, float]:
    return {"auc": metrics.auc, "log_loss": metrics.log_loss}


# ---- the tables --------------------------------------------------------------------------


def key_of(what: Line) -> str:
    return json.dumps(what, sort_keys=True)


def training_of(what: Line) -> str:
    """Data set and training settings, which an original shares with several searches."""
    fit = {k: v for k, v in what["fit"].items() if k != "seed"}
    model = {k: v for k, v in what["model"].items() if k not in ("backbone", "interaction")}
    return key_of({"data": [what["dataset"], what["data"]], "fit": fit, "model": model})


def search_of(what: Line) -> str:
    """Settings of the search that all variants of one table share."""
    varied = ("variant", "alpha", "threshold_lr", "generations")
    rest = {k: v for k, v in what["set"].items() if k not in varied}
    return key_of({**{name: what[name] for name in OF_SEARCH}, "set": rest})


def page_lines(lines: Sequence[Line] | None = None) -> list[str]:
    """A table in Markdown for all settings of each data set, and how much of the plan it holds.

    Args:
        lines: default: the record.
    """
    lines = read() if lines is None else lines
    out: list[str] = []
    for training in dict.fromkeys(training_of(x["what"]) for x in lines):
        alike = [x for x in lines if training_of(x["what"]) == training]
        originals = [x for x in alike if x["what"]["variant"] == "original"]
        searched: dict[str, list[Line]] = {}
        for line in alike:
            if line["what"]["variant"] != "original":
                searched.setdefault(search_of(line["what"]), []).append(line)
        for found in searched.values() or [[]]:
            out += [*_table([*originals, *found]), ""]
    return out[:-1] or [f"Nothing is recorded yet; the plan has {len(PLAN) * PLAN_SEEDS} runs."]


def _table(lines: Sequence[Line]) -> list[str]:
    """Lines of one data set and all settings: their title and a row per backbone and variant."""
    runs = [x["what"] for x in lines]
    in_plan = [(x["backbone"], x["variant"]) in PLAN and x["seed"] < PLAN_SEEDS for x in runs]
    more = f" and {len(runs) - sum(in_plan)} more" if not all(in_plan) else ""
    return [
        f"{_title(runs)}; {sum(in_plan)} of {len(PLAN) * PLAN_SEEDS} planned runs{more}:",
        "",
        *_markdown(lines),
    ]


def _title(runs: Sequence[Line]) -> str:
    """The data set, and the settings of these runs."""
    what = runs[-1]  # a search, if there is one
    fit = what["fit"]
    words = [what["dataset"], f"fingerprint `{what['data']}`"]
    words += [f"rating rule `{what['rating_rule']}`"] if what["rating_rule"] else []
    words += [f"at most {fit['epochs']} epochs", f"batch {fit['batch_size']:,}"]
    words += [f"learning rate {fit['row_lr']:g}", f"L2 {fit['row_l2']:g}"]
    usual = {**asdict(FitSettings()), **{k: fit[k] for k in ("seed", "epochs", "batch_size")}}
    usual |= {k: fit[k] for k in ("row_lr", "dense_lr", "row_l2")}
    words += [f"{k} {v}" for k, v in fit.items() if v != usual.get(k)]
    if what["variant"] == "original":
        return ", ".join([*words, "no search"])
    words += [f"a supernet of at most {what['search_epochs']} epochs"]
    words += [f"alpha {what['alpha']:g}", f"thresholds' learning rate {what['threshold_lr']:g}"]
    words += [f"{what['generations']} generations", f"trained again from {WORDS[what['start']]}"]
    default = asdict(OptEmbedSettings(max_dim=WIDTH, weights=STARTS[what["start"]]))
    varied = ("variant", "alpha", "threshold_lr", "generations")
    words += [f"{k} {v}" for k, v in what["set"].items() if k not in varied and v != default.get(k)]
    return ", ".join(words)


def _markdown(lines: Sequence[Line]) -> list[str]:
    """Before: the masked supernet; after: trained again. Differences are paired by seed.

    The evolution's gain is that of the supernet's validation AUC, with the widths of its last
    generation over the best of its first, which are drawn at random.
    """
    out = [
        "| backbone | variant | seeds | floats | sparsity | validation AUC, before | after "
        "| test AUC, before | after | log loss, after | after − before | after − original "
        "| the evolution's gain | search, s | training, s |",
        "|---" * 15 + "|",
    ]
    names = dict.fromkeys(line["what"]["backbone"] for line in lines)
    for backbone in sorted(names, key=BACKBONES.index):
        rows = {
            variant: {
                line["what"]["seed"]: line
                for line in lines
                if line["what"]["backbone"] == backbone and line["what"]["variant"] == variant
            }
            for variant in VARIANTS
        }
        for variant, runs in rows.items():
            if runs:
                cells = _row(runs, {} if variant == "original" else rows["original"])
                out.append(f"| {backbone} | {variant} | {' | '.join(cells)} |")
    return out


def _row(runs: Mapping[int, Line], originals: Mapping[int, Line]) -> list[str]:
    lines, searched = list(runs.values()), all("supernet" in x for x in runs.values())

    def of(kind: str, split: str, key: str) -> str:
        if kind == "supernet" and not searched:
            return ""
        found = spread([line[kind][split][key] for line in lines])
        return plus_minus(found.mean, found.sd)

    def gain(kind: str, others: Mapping[int, Line]) -> str:
        seeds = sorted(set(runs) & set(others))
        if not seeds:
            return ""
        own = [runs[s]["trained"]["test"]["auc"] for s in seeds]
        d = paired_difference(own, [others[s][kind]["test"]["auc"] for s in seeds])
        return f"{difference(d.mean, d.standard_error)} (p {p_value(d.p)})"

    return [
        str(len(runs)),
        f"{mean(x['params'] for x in lines):,.0f}",
        _shares([x["sparsity"] for x in lines]),
        of("supernet", "val", "auc"),
        of("trained", "val", "auc"),
        of("supernet", "test", "auc"),
        of("trained", "test", "auc"),
        of("trained", "test", "log_loss"),
        gain("supernet", runs if searched else {}),
        gain("trained", originals),
        _evolved(lines),
        f"{mean(x['search_seconds'] for x in lines):.0f}" if searched else "",
        f"{mean(x['train_seconds'] for x in lines):.0f}",
    ]


def _shares(values: Sequence[float]) -> str:
    """The mean, and from which to which."""
    text = percent(mean(values))
    if min(values) == max(values):
        return text
    return f"{text} ({percent(min(values))} to {percent(max(values))})"


def _evolved(lines: Sequence[Line]) -> str:
    found = [x["record"].get("generations") for x in lines if "record" in x]
    gains = [scored[-1]["score"] - scored[0]["score"] for scored in found if scored]
    return difference(mean(gains), math.nan) if gains else ""


def read() -> list[Line]:
    return [json.loads(text) for text in RECORD.read_text().splitlines()] if RECORD.exists() else []


def parser() -> argparse.ArgumentParser:
    usual = FitSettings()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="prepared data set")
    parser.add_argument("--backbones", nargs="*", choices=BACKBONES, help="default: the plan's")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, help="default: the plan's")
    parser.add_argument("--seeds", type=int, default=PLAN_SEEDS)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--search-epochs", type=int, default=5, help="of a supernet, at most")
    parser.add_argument("--epochs", type=int, default=20, help="of the other trainings, at most")
    parser.add_argument("--batch-size", type=int, default=usual.batch_size)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--row-l2", type=float, default=2e-5)
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
    read_options = parser()
    options = read_options.parse_args()
    if options.table:
        print("\n".join(page_lines()))
        return
    if options.data is None:
        read_options.error("--data is needed to train")
    torch.set_num_threads(options.threads)
    quiet_libraries()
    lines = read() if options.record else []
    known = {key_of(line["what"]) for line in lines}
    print(json.dumps(stamp(), sort_keys=True))
    for what in cells(options, read_schema(options.data)):
        if key_of(what) in known:
            continue
        try:
            line = one(what, options)
        except PolicyError as error:  # the others go on
            print(
                f"{what['backbone']}, {what['variant']}, seed {what['seed']}: {error}", flush=True
            )
            continue
        lines.append(line)
        print(json.dumps({k: v for k, v in line.items() if k != "record"}), flush=True)
        if options.record:
            append_jsonl(RECORD, {**line, "environment": stamp()})
    print("\n".join(page_lines(lines)))


if __name__ == "__main__":
    main()
