"""What is the answer of ``torchx run components/seo.py:search`` worth on its own data?

    python -m benchmarks.accuracy.planted [--seeds 5] [--record]

The component searches planted data by default: 30,000 rows, ten of sixteen columns noise, 4,800
floats. Here every seed makes its own data of this kind, the default search runs on it with the
settings of the component, and its answer and the plain policies are trained in full with the same
settings. Figures are of test rows, in one thread. Runs go to ``--out`` and are found again there,
unfinished ones too; ``--record`` adds the lines that the record does not have yet.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.command import make_parser, set_up
from benchmarks.record import Line, Records, outcome, path_of
from seo_rec import recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.synthetic import synthetic
from seo_rec.planted import PLANTED_FIT, PLANTED_PARAMS, PLANTED_ROWS, PLANTED_WORLD
from seo_rec.recipes.crossing import AUTO
from seo_rec.runs import Run, describe
from seo_rec.schema import SCHEMA_FILE
from seo_rec.search import find
from seo_rec.settings import Training

RECORD = path_of("planted")
IDENTITY = ("rows", "data_fingerprint", "params", "seed", "method", "rule", "crosses")
ANSWER = "seo"
PLAIN = ("multi-size", "monolithic", "multi-size-4", "multi-size-8", "separate", "frequent")
DIM = 16


def training_of(seed: int) -> Training:
    """The settings of the component, with a seed."""
    return Training(fit=PLANTED_FIT).with_seed(seed)


def planted_data(rows: int, seed: int, out: Path) -> DataSet:
    """Data of the component's kind, made if they are not there."""
    folder = out / f"planted-{rows}-seed{seed}"
    if not (folder / SCHEMA_FILE).exists():
        synthetic(folder, rows=rows, seed=seed, **PLANTED_WORLD)
    return open_data(folder)


def asked_of(data: DataSet, rows: int, method: str, seed: int) -> Line:
    """What a line is of; of an answer also the rule of the run-off, and the option of crosses."""
    settings = find(ANSWER).settings_at(PLANTED_PARAMS, DIM, training_of(seed))
    return {
        "rows": rows,
        "data_fingerprint": data.fingerprint,
        "params": PLANTED_PARAMS,
        "seed": seed,
        "method": method,
        "rule": settings.run_off.to_json()["rule"] if method == ANSWER else None,
        "crosses": AUTO if method == ANSWER else None,
    }


def measured(data: DataSet, asked: Line, out: Path) -> Line:
    """Search, where the method is the search, and train the policy in full."""
    seed, method, training = asked["seed"], asked["method"], training_of(asked["seed"])
    folder = out / f"{data.path.name}-{method}"
    told: Line = {}
    if method == ANSWER:
        settings = find(method).settings_at(PLANTED_PARAMS, DIM, training)
        place = folder.with_name(f"{folder.name}-search")
        found = recipes.search(method, data, place, settings, training, resume=True, crosses=AUTO)
        policy, halving = found.policy, found.record["halving"]
        read = (halving["rows"] + halving["elsewhere"]) / halving["one_training"]
        told = {"winner": found.winner, "trainings": round(read, 3)}
    else:
        policy = recipes.method_policy(method, data, PLANTED_PARAMS, DIM, seed=seed)
    run: Run = recipes.train(data, policy, folder, training, method=method, resume=True)
    return {**outcome(run), **asked, **told, "tables": describe(policy)}


def main() -> None:
    parser = make_parser(__doc__, RECORD, "runs/planted")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=PLANTED_ROWS)
    parser.add_argument("--methods", nargs="*", default=[ANSWER, *PLAIN], help="some only")
    args = parser.parse_args()
    set_up(args.threads)
    records = Records(RECORD, IDENTITY, {"crosses": None}, writes=args.record)
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        data = planted_data(args.rows, seed, args.out)
        for method in args.methods:
            asked = asked_of(data, args.rows, method, seed)
            line = records.find(asked) or records.add(measured(data, asked, args.out))
            print(
                f"seed {seed} {method:14s} validation AUC {line['val_auc']:.5f}, test AUC "
                f"{line['test_auc']:.5f}  {line.get('winner', '')}",
                flush=True,
            )


if __name__ == "__main__":
    main()
