"""What does it cost in accuracy to keep tables in 16 bits while they are trained?

    python -m benchmarks.accuracy.storage --data data/criteo-0 --params 2000000 [--record]

The policy is ``multi-size-2``, the optimizer row-wise Adagrad at the rate that ``--optimizer auto``
takes. Every storage is trained from the same seeds on the same rows, with the rounding of
``seo-rec train --storage``, which is right on average, and with rounding to the nearest, which the
product does not offer: small updates are lost in it. Updates that round to the nearest run in
PyTorch, the others in the C kernels, so their seconds do not compare.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from unittest import mock

import torch

from benchmarks.command import make_parser, set_up
from benchmarks.record import append, path_of, recorded_fit
from seo_kernels import row_bag
from seo_kernels.row_bag import reference
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.recipes import method_policy
from seo_rec.settings import ADAGRAD_RATE, FitSettings, Training
from seo_rec.train import eval_stream, evaluate, fit_policy

RECORD = path_of("storage")
WAYS = (
    ("float32", "none"),
    ("bfloat16", "stochastic"),
    ("bfloat16", "nearest"),
    ("float16", "stochastic"),
    ("float16", "nearest"),
)


@contextmanager
def rounding_to_the_nearest() -> Iterator[None]:
    """Within the block rows are rounded to the nearest, by the reference in PyTorch."""

    def nearest(values: torch.Tensor, _: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return values.to(dtype)

    with (
        mock.patch.object(reference, "round_randomly", nearest),
        mock.patch.object(row_bag, "_calls_c", return_value=False),
    ):
        yield


def trained(data: DataSet, params: int, fit: FitSettings, nearest: bool) -> dict[str, float]:
    """Validation and test AUC, and the epochs, of one training."""
    policy = method_policy("multi-size-2", data, params, seed=fit.seed)
    with rounding_to_the_nearest() if nearest else mock.patch.dict({}):
        made = fit_policy(data, policy, Training(fit=fit))
    test, _, _ = evaluate(made.model, eval_stream(data, "test", policy.columns))
    return {
        "val_auc": made.result.val.auc,
        "val_logloss": made.result.val.log_loss,
        "test_auc": test.auc,
        "test_logloss": test.log_loss,
        "epochs": made.result.epochs,
        "seconds_per_epoch": made.result.seconds_per_epoch,
    }


def main() -> None:
    parser = make_parser(__doc__, RECORD, threads=1)
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--params", type=int, default=2_000_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--average", type=float, default=0.0)
    parser.add_argument("--optimizer", default="rowwise_adagrad")
    parser.add_argument("--ways", nargs="+", default=["/".join(way) for way in WAYS])
    args = parser.parse_args()
    environment, data = set_up(args.threads), open_data(args.data)
    adagrad = args.optimizer == "rowwise_adagrad"
    for storage, rounding in (way.split("/") for way in args.ways):
        settings = FitSettings(
            epochs=args.epochs,
            row_optimizer=args.optimizer,
            row_lr=FitSettings.row_lr * (ADAGRAD_RATE if adagrad else 1),
            average=args.average,
            storage=storage,
        )
        runs = [
            trained(
                data, args.params, Training(fit=settings).with_seed(s).fit, rounding == "nearest"
            )
            for s in range(args.seeds)
        ]
        line = {
            "benchmark": "storage",
            "data": data.schema.dataset,
            "data_fingerprint": data.fingerprint,
            "params": args.params,
            "rounding": rounding,
            "fit": recorded_fit(settings),
            **{name: [run[name] for run in runs] for name in runs[0]},
            "environment": environment,
        }
        print(
            f"{storage} {rounding}: validation AUC {mean(line['val_auc']):.5f}, test AUC "
            f"{mean(line['test_auc']):.5f}, epochs {line['epochs']}, "
            f"{mean(line['seconds_per_epoch']):.1f} s each",
            flush=True,
        )
        if args.record:
            append(RECORD, line)


if __name__ == "__main__":
    main()
