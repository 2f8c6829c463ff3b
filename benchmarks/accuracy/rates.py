"""At which rate does row-wise Adagrad train large tables as well as Adam at its default rate?

    python -m benchmarks.accuracy.rates --data data/criteo-0 [--params 2000000] [--record]

The policy is ``multi-size-2``. The dense layers keep the default rate of 2e-3; the tables get so
many times as much. Only validation rows are read. ``ADAGRAD_RATE`` in ``seo_rec/settings.py``, by
which ``--optimizer auto`` raises the rate of large tables, is chosen by these lines.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean

from benchmarks.command import make_parser, set_up
from benchmarks.record import append, path_of, recorded_fit
from seo_rec.data.dataset import open_data
from seo_rec.recipes import method_policy
from seo_rec.settings import FitSettings, Training
from seo_rec.train import fit_policy

RECORD = path_of("rates")


def main() -> None:
    parser = make_parser(__doc__, RECORD, threads=2)
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--params", type=int, default=2_000_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--factors", nargs="+", type=float, default=[1, 3, 10, 30, 100])
    args = parser.parse_args()
    environment, data = set_up(args.threads), open_data(args.data)
    adam = FitSettings(row_optimizer="adam", epochs=args.epochs)
    adagrad = replace(adam, row_optimizer="rowwise_adagrad")
    trials = [("adam", 1.0, adam)]
    trials += [
        ("rowwise_adagrad", f, replace(adagrad, row_lr=f * adam.row_lr)) for f in args.factors
    ]
    for optimizer, factor, settings in trials:
        results = []
        for seed in range(args.seeds):
            policy = method_policy("multi-size-2", data, args.params, seed=seed)
            training = Training(fit=settings).with_seed(seed)
            results.append(fit_policy(data, policy, training).result)
        line = {
            "benchmark": "rates",
            "data": data.schema.dataset,
            "data_fingerprint": data.fingerprint,
            "params": args.params,
            "factor": factor,
            "fit": recorded_fit(settings),
            "val_auc": [r.val.auc for r in results],
            "val_logloss": [r.val.log_loss for r in results],
            "epochs": [r.epochs for r in results],
            "environment": environment,
        }
        print(
            f"{optimizer} x {factor:g}: validation AUC {mean(r.val.auc for r in results):.5f}, "
            f"log loss {mean(r.val.log_loss for r in results):.5f}, epochs {line['epochs']}",
            flush=True,
        )
        if args.record:
            append(RECORD, line)


if __name__ == "__main__":
    main()
