"""What do tables of int8 and int4 cost, at equal rows and at equal bytes?

    python -m benchmarks.accuracy.precision --data data/ml-1m [--seeds 3] [--record]

The policy is ``multi-size-4``, whose rows have four floats. Three sizes fill the same bytes, each
in a type of its own: a row takes 16 bytes in float32, 8 in int8 and 6 in int4, so 384,000 bytes
hold 96,000, 192,000 or 256,000 floats. Every model is trained in float32 and evaluated on the test
split in all three types, which shows what rounding costs at equal rows. At equal bytes every size
is read in its own type. A training takes about two minutes for MovieLens-1M on one core. Runs go to
``--out`` and are found again there, unfinished ones too; ``--record`` adds the lines that the
record does not have yet.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.command import make_parser, set_up
from benchmarks.record import Line, Records, outcome, path_of
from seo_rec import recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.settings import FitSettings, Training

RECORD = path_of("precision")
IDENTITY = ("dataset", "data_fingerprint", "bytes", "precision", "seed", "epochs_at_most", "row_l2")
ROW_BYTES = {"float32": 16, "int8": 8, "int4": 6}  # of four floats
DIM, METHOD = 16, "multi-size-4"


def params_of(num_bytes: int, precision: str) -> int:
    """The floats whose rows fill so many bytes in a type."""
    return num_bytes // ROW_BYTES[precision] * 4


def asked_of(data: DataSet, num_bytes: int, precision: str, seed: int, fit: FitSettings) -> Line:
    """What a line is of: the size that fills so many bytes in a type, and its training."""
    return {
        "dataset": data.schema.dataset,
        "data_fingerprint": data.fingerprint,
        "bytes": num_bytes,
        "precision": precision,
        "seed": seed,
        "epochs_at_most": fit.epochs,
        "row_l2": fit.row_l2,
    }


def measured(data: DataSet, asked: Line, fit: FitSettings, out: Path) -> Line:
    """Train what is asked for, and evaluate it in all types; ``out`` is the folder of the runs."""
    seed, precision, num_bytes = asked["seed"], asked["precision"], asked["bytes"]
    policy = recipes.method_policy(METHOD, data, params_of(num_bytes, precision), DIM, seed=seed)
    folder = out / f"{asked['dataset']}-{num_bytes}-{precision}-{seed}"
    training = Training(fit=fit).with_seed(seed)
    run = recipes.train(data, policy, folder, training, method=METHOD, resume=True)
    served = {p: recipes.evaluate_served(folder, data, "test", p).to_json() for p in ROW_BYTES}
    return {
        **outcome(run),
        **asked,
        "served": {
            p: {name: x[name] for name in ("auc", "log_loss", "num_bytes")}
            for p, x in served.items()
        },
    }


def main() -> None:
    parser = make_parser(__doc__, RECORD, "runs/precision")
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--bytes", type=int, default=384_000, help="of the rows that are served")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--l2", type=float, default=4e-4)
    args = parser.parse_args()
    set_up(args.threads)
    data = open_data(args.data)
    records = Records(RECORD, IDENTITY, writes=args.record)
    fit = FitSettings(epochs=args.epochs, row_l2=args.l2)
    for seed in range(args.seeds):
        for precision in ROW_BYTES:
            asked = asked_of(data, args.bytes, precision, seed, fit)
            line = records.find(asked) or records.add(measured(data, asked, fit, args.out))
            found = ", ".join(f"{p} {x['auc']:.6f}" for p, x in line["served"].items())
            print(f"seed {seed}, {line['embedding_params']:,} floats: {found}", flush=True)


if __name__ == "__main__":
    main()
