"""Which batch and L2 suit a data set: the figures behind ``--batch-size auto`` and ``--l2 auto``.

    python -m benchmarks.accuracy.defaults --data DATA --params 80000 --batches 512 2048 --l2 0 1e-3

The policy is ``multi-size``; the other settings are the defaults. Only validation rows are read. A
line has both metrics after every epoch, from which ``--keep-by`` was decided, too. docs/tuning.md
has the tables.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.command import make_parser, set_up
from benchmarks.record import append, path_of, recorded_fit
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.recipes import method_policy
from seo_rec.runs.layout import METRICS_FILE
from seo_rec.settings import FitSettings, Training
from seo_rec.train import fit_policy

RECORD = path_of("defaults")


def measured(data: DataSet, params: int, fit: FitSettings) -> dict[str, Any]:
    """One training: what it is of, and AUC and log loss of the validation rows by epoch."""
    policy = method_policy("multi-size", data, params, seed=fit.seed)
    with TemporaryDirectory() as folder:
        fit_policy(data, policy, Training(fit=fit), out=Path(folder))
        lines = (Path(folder) / METRICS_FILE).read_text().splitlines()
    epochs = [line for line in map(json.loads, lines) if line["event"] == "epoch"]
    return {
        "benchmark": "defaults",
        "data": data.schema.dataset,
        "data_fingerprint": data.fingerprint,
        "train_rows": data.schema.num_rows["train"],
        "params": params,
        "fit": recorded_fit(fit),
        "val_auc": [e["val_auc"] for e in epochs],
        "val_logloss": [e["val_log_loss"] for e in epochs],
    }


def main() -> None:
    parser = make_parser(__doc__, RECORD, threads=1)
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--params", type=int, required=True)
    parser.add_argument("--batches", nargs="+", type=int, default=[2048])
    parser.add_argument("--l2", nargs="+", type=float, default=[0.0, 1e-3])
    parser.add_argument("--l2-on", default="auto")
    parser.add_argument("--rates", nargs="+", type=float, default=[2e-3])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    environment, data = set_up(args.threads), open_data(args.data)
    for batch, l2, rate in product(args.batches, args.l2, args.rates):
        fit = FitSettings(
            batch_size=batch,
            row_l2=l2,
            l2_on=args.l2_on,
            row_lr=rate,
            dense_lr=rate,
            seed=args.seed,
        )
        line = {**measured(data, args.params, fit), "environment": environment}
        best = max(range(len(line["val_auc"])), key=lambda i: line["val_auc"][i])
        print(
            f"batch {batch}, L2 {l2:g}, rate {rate:g}: validation AUC {line['val_auc'][best]:.5f}, "
            f"log loss {line['val_logloss'][best]:.5f}, epoch {best + 1} of {len(line['val_auc'])}",
            flush=True,
        )
        if args.record:
            append(RECORD, line)


if __name__ == "__main__":
    main()
