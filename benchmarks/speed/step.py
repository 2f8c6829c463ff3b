"""What does a training step cost against a loop written by hand, TorchRec's module and FuxiCTR?

    python -m benchmarks.speed.step [--data data/ml-1m] [--fuxictr-python PYTHON] [--record]

Every contestant trains on the same rows with batches of 2,048 (the last one is shorter), hidden
layers of 256 and 128, Adam on dense gradients and binary cross entropy. A round trains each of
them for one whole epoch, one after the other, and the next round starts with another one; an
epoch's time by its number of steps is one measurement. The step includes:

    fit             what a user runs, ``seo_rec.train.fit``: Stream (permutation of the rows,
                    gather, hand-over between threads), Remap (hashing), one FBGEMM lookup,
                    forward, backward, Adam, the running mean of the weights, the loop's checks
    fit, no mean    the same with ``average=0``
    plain, *        about twenty lines of PyTorch on row numbers hashed before and held in memory:
                    permutation of the rows, gather, lookup, forward, backward, Adam; no mean.
                    All chunk tables in one weight, read by ``index_select`` or ``F.embedding``, or
                    a weight per chunk table (``index_select``); the fastest one counts
    TorchRec        the plain loop with an unsharded ``EmbeddingBagCollection`` for the lookup
    FuxiCTR, *      FuxiCTR's DNN (one table of width 16 per feature, no hashing) with its trainer;
                    ``benchmarks/speed/fuxictr_dnn.py`` has the ways to feed it. The fastest real
                    loader counts; "ready" leaves loading out

Never included: decoding parquet for the first time (warm-up rounds; the stream then reads its cache
in memory), hashing for the plain loops, evaluation, checkpoints. Goals: ``fit`` at most 1.5 times
the fastest plain loop, and at least 2 times faster than FuxiCTR.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import set_up
from benchmarks.pages import speed
from benchmarks.record import append, path_of
from benchmarks.speed.rivals import (
    Embedding,
    FuxiCTR,
    Hashed,
    OneTable,
    TablePerChunk,
    TorchRec,
    fuxictr,
)
from benchmarks.speed.rounds import (
    LR,
    Contestant,
    Fit,
    data_set,
    describe_data,
    fastest,
    in_rounds,
    ratio,
    rounds_parser,
    spread,
    uneven_policy,
)
from seo_rec import apply
from seo_rec.search import seo
from seo_rec.settings import FitSettings

RECORD = path_of("step")
GOAL_PLAIN = 1.5
GOAL_FUXICTR = 0.5


Goals = dict[str, tuple[str, float | None]]  # ratio -> what is below, and at most


def goals_of(
    seconds: dict[str, list[float]], plain: Sequence[str], rivals: Sequence[FuxiCTR]
) -> Goals:
    """The ratios that are shown; the fastest plain loop and the fastest loader have a goal."""
    best = fastest(seconds, plain)
    goals: Goals = {f"fit / {best}": (best, GOAL_PLAIN), "fit / TorchRec": ("TorchRec", None)}
    if loaders := [r.name for r in rivals if r.way != "ready"]:
        chosen = fastest(seconds, loaders)
        goals[f"fit / {chosen}"] = (chosen, GOAL_FUXICTR)
    for rival in rivals:
        goals.setdefault(f"fit / {rival.name}", (rival.name, None))
    goals[f"fit, no mean / {best}"] = (best, None)
    return goals


def main() -> None:
    parser = rounds_parser(__doc__, RECORD, rounds=9)
    parser.add_argument(
        "--fuxictr-python", type=Path, help="interpreter (see benchmarks/README.md)"
    )
    parser.add_argument(
        "--fuxictr-ways",
        nargs="+",
        default=["npz-1", "npz-1@1", "npz-3", "parquet-3", "ready"],
        help="how FuxiCTR is fed (see benchmarks/speed/fuxictr_dnn.py)",
    )
    args = parser.parse_args()
    environment = set_up(args.threads)
    with data_set(args.data, args.rows) as data:
        settings = seo.SeoSettings()
        policy = apply.exact(uneven_policy(data.schema, settings), settings.params)
        hashed = Hashed.of(data, policy)
        common = {"epochs": 1, "batch_size": args.batch, "row_lr": LR, "dense_lr": LR}
        ours = Fit("fit", data, policy, FitSettings(**common))
        contestants: list[Contestant] = [
            ours,
            OneTable(hashed, policy, args.batch),
            Embedding(hashed, policy, args.batch),
            TablePerChunk(hashed, policy, args.batch),
            TorchRec(hashed, policy, args.batch),
            Fit("fit, no mean", data, policy, FitSettings(**common, average=0.0)),
        ]
        plain = [c.name for c in contestants if isinstance(c, OneTable | TablePerChunk)]
        with fuxictr(
            args.fuxictr_python, data.path, args.batch, args.threads, args.fuxictr_ways
        ) as rivals:
            seconds = in_rounds([*contestants, *rivals], args.rounds, args.warmup)
        record: dict[str, Any] = {
            "benchmark": "step",
            **describe_data(data, args.data is None),
            "batch": args.batch,
            "steps": len(ours.train),
            "lookups": policy.num_lookups,
            "embedding_params": policy.num_params,
            "rounds": args.rounds,
        }
    goals = goals_of(seconds, plain, rivals)
    if rivals:
        names = ("fuxictr", "torch", "embedding_params")
        record["fuxictr"] = {name: rivals[0].details[name] for name in names}
    record["ms_per_step"] = {n: spread(1000 * s for s in v) for n, v in seconds.items()}
    record["ratios"] = {
        name: {**ratio(seconds[name.split(" / ")[0]], seconds[below]), "goal": goal}
        for name, (below, goal) in goals.items()
    }
    if not rivals:
        record["ms_per_step"]["FuxiCTR"] = "not measured"
    line = {**record, "environment": environment}
    print(*speed.step([line]), sep="\n")
    if args.record:
        append(RECORD, line)


if __name__ == "__main__":
    main()
