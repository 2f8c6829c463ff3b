"""OptEmbed's Tables 3 and 4 on our data: which part does what, and whether to train again.

    python -m benchmarks.accuracy.optembed --data data/ml-1m --record

For every backbone and seed: the original model (a row of 16 for every training id), and OptEmbed
with rows and widths (``full``), rows alone (``rows``, the paper's OptEmbed-E) and widths alone
(``dims``, OptEmbed-D). Of each variant the masked supernet as it is (before), and its policy
trained again (after), from scratch or from the initial weights of its supernet (``--start``). All
models have the same hidden layers, batch of 2,048, learning rate, L2 and patience; a supernet has 5
epochs at most, the models of the tables 20. The best epoch is chosen on validation rows and
test rows are read once. Sparsity is 1 - floats / floats of the original.

The plan is 36 runs: three seeds of ``original`` and ``full`` with every backbone, and of ``rows``
and ``dims`` with DeepFM and DCN. ``--backbones`` or ``--variants`` take some of them; given both,
every pair of them is run. The page shows all that is recorded, a table per data set and settings.

Not as in the paper: the data (its Criteo, Avazu and KDD12 have millions of ids, MovieLens-1M has
13,000), width 16 for 64, fewer generations and epochs, no batch normalisation; ``alpha`` and the
learning rate of the thresholds were chosen on validation rows, once for all (docs/LOG.md).

Runs go to ``--out`` and lines to the record; no run that is in either is repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.command import make_parser, set_up
from benchmarks.record import Line, Records, as_read_again, path_of, recorded_fit, stamp
from seo_rec import recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.metrics import Metrics
from seo_rec.model import ModelSettings
from seo_rec.policy import PolicyError
from seo_rec.runs.layout import WEIGHTS_FILE, WORK_FOLDER
from seo_rec.schema import Schema
from seo_rec.search.no_search import NoSearchSettings, no_search
from seo_rec.search.optembed import OptEmbedSettings, search_supernet
from seo_rec.settings import FitSettings, Training
from seo_rec.train import Start, eval_stream, evaluate

RECORD = path_of("optembed")
IDENTITY = ("what",)
BACKBONES = ("deepfm", "dcn", "fnn", "ipnn")
VARIANTS = ("original", "full", "rows", "dims")
PLAN = (  # backbone and variant
    *product(BACKBONES, ("original", "full")),
    *product(("deepfm", "dcn"), ("rows", "dims")),
)
PLAN_SEEDS = 3
STARTS = {"scratch": "none", "initial": "initial"}
OF_SEARCH = ("search_epochs", "start", "alpha", "threshold_lr", "generations")
WIDTH = 16


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
            what |= {"fit": recorded_fit(fit), "model": ModelSettings(backbone=backbone).as_json()}
            if variant != "original":
                what |= {name: getattr(options, name) for name in OF_SEARCH}
                what["set"] = asdict(settings_of(variant, options))
            found.append(as_read_again(what))
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


def one(what: Line, data: DataSet, options: argparse.Namespace) -> Line:
    """Search and train one cell, as far as it is not done yet."""
    model, fit = ModelSettings(backbone=what["backbone"]), FitSettings(**what["fit"])
    training = Training(model, fit)
    folder = options.out / folder_of(what)
    whole = no_search(data, NoSearchSettings(max_dim=WIDTH), training).policy
    line: Line = {"what": what}
    policy, search = whole, folder / "search"
    if what["variant"] != "original":
        settings = settings_of(what["variant"], options)
        shorter = Training(model, replace(fit, epochs=what["search_epochs"]))
        found = recipes.search("optembed", data, search, settings, shorter, resume=True)
        searched = search_supernet(data, settings, shorter, search / WORK_FOLDER)
        line["supernet"] = {
            split: scores(evaluate(searched.model, eval_stream(data, split))[0])
            for split in ("val", "test")
        }
        line |= {"search_seconds": found.seconds, "record": found.record}
        policy = found.policy
    weights = search / WEIGHTS_FILE
    run = recipes.train(
        data,
        policy,
        folder / "run",
        training,
        method=what["variant"],
        resume=True,
        start=Start(weights=weights if weights.exists() else None),
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


def parser() -> argparse.ArgumentParser:
    usual = FitSettings()
    parser = make_parser(__doc__, RECORD, out="runs/optembed")
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
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
    return parser


def main() -> None:
    options = parser().parse_args()
    set_up(options.threads)
    records = Records(RECORD if options.record else None, IDENTITY)
    data = open_data(options.data)
    for what in cells(options, data.schema):
        if records.find({"what": what}):
            continue
        try:
            line = one(what, data, options)
        except PolicyError as error:  # the others go on
            print(
                f"{what['backbone']}, {what['variant']}, seed {what['seed']}: {error}", flush=True
            )
            continue
        records.add({**line, "environment": stamp()})
        print(json.dumps({k: v for k, v in line.items() if k != "record"}), flush=True)


if __name__ == "__main__":
    main()
