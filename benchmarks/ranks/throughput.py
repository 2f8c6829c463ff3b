"""How many examples per second does training take in, where does a step's time go, what bounds it?

    python -m benchmarks.ranks.throughput                                     # one process
    python -m torch.distributed.run --standalone --nproc_per_node=2 -m benchmarks.ranks.throughput
    torchx run components/seo.py:benchmark -j 1x2

Three questions; without an option the first one:

    (default)           every method at equal parameters: examples/s, stages of a step, bytes of
                        each exchange, memory. With several ranks each method is also trained whole
                        on rank 0 while the others wait (``alone``), and whole on every rank at once
                        with nothing exchanged (``apart``): what is lost between alone and apart is
                        the machine's, between apart and sharded the exchange's
    --plans             the same policy on our plan and on TorchRec's, the skewed policy among them
    --against-torchrec  our embedding (hash, tables, regroup) beside TorchRec's collection with the
                        same tables, plan and optimizer (fused by FBGEMM where it can) on row
                        numbers that were hashed beforehand, and ours on the same row numbers; with
                        one rank ours is not sharded, as in ``seo-rec train``

Everything that is compared takes turns within one run: a repeat is a few steps of one model, then
of the next one, and so on, in a new order each time; ranks start together, and the slowest rank's
time counts. A goal counts as missed, and the command exits with 1, if it lies outside the interval.
``step`` is the loop that ``seo-rec train`` runs (TorchRec's pipelines for sharded models);
``stages`` are further steps, one stage after the other (benchmarks/speed/stages.py).
Ids are drawn before; with ``--data`` they come from a prepared data set. Ratios are medians over
repeats of a repeat's own ratio, with a 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.command import leave_nothing
from benchmarks.pages.throughput import by_date, latest, plot, section
from benchmarks.ranks.trainees import FED_ROWS, HASHED, THEIRS, TORCHREC, Recipe, Trainee
from benchmarks.ranks.turns import cpu_of, in_turns, line_of, ratio_line, slowest
from benchmarks.ranks.workload import (
    METHODS,
    SKEWED,
    data_batches,
    make_policy,
    zipf_batches,
    zipf_schema,
)
from benchmarks.record import Line, path_of, read, replace_all, stamp
from benchmarks.speed.rounds import spread
from seo_rec.data.dataset import open_data
from seo_rec.files import write_bytes
from seo_rec.plan import rates_of
from seo_rec.policy import Policy
from seo_rec.process import quiet_libraries, run_and_leave
from seo_rec.schema import Schema
from seo_rec.settings import FitSettings, settled
from seo_rec.train import Ranks, launched, topology_here
from seo_rec.train.optimizers import ROW_OPTIMIZERS, inner_model
from seo_rec.train.state import Piece, Sharded, weights_of

RECORD = path_of("throughput")
GOALS_TORCHREC = {"embedding": 1.10, "training step": 1.0}  # from the same row numbers
GOAL_PLAN = 1.0  # TorchRec's plan over ours: no slower


# ---- questions ---------------------------------------------------------------------------


def compare_methods(
    policies: dict[str, Policy], recipe: Recipe, here: Ranks, common: Line, args: Any
) -> list[Line]:
    trainees = []
    for name, policy in policies.items():
        trainees.append(recipe.whole(name, policy, "alone", here))
        if here.world_size > 1:
            apart = replace(trainees[-1], way="apart", active=True)
            apart.forget()  # its repeats are its own
            trainees.append(apart)
            placed = recipe.place(policy, "ours", topology_here(here))
            if isinstance(placed, str):
                raise SystemExit(f"{name}: {placed}")
            trainees.append(recipe.sharded(name, policy, "ours", placed, here))
    in_turns(trainees, here, args.repeats, args.warmup, both(args.steps))
    lines = [line_of(t, here, recipe, common) for t in trainees]
    seconds = {(t.name, t.way): slowest(t, here) for t in trainees}
    for name in policies if here.world_size > 1 else ():
        for what, above, below in (
            ("scaling efficiency", "alone", "ours"),
            ("kept by the machine", "alone", "apart"),
            ("kept by the exchange", "apart", "ours"),
        ):
            pair = seconds[name, above], seconds[name, below]
            lines.append(ratio_line(common, name, what, *pair))
    return lines


def compare_plans(
    policies: dict[str, Policy], recipe: Recipe, here: Ranks, common: Line, args: Any
) -> list[Line]:
    """Raises SystemExit if there is one rank only, or a policy finds no plan."""
    if here.world_size == 1:
        raise SystemExit("--plans compares shards on several ranks; start it with torchrun")
    trainees = []
    for name, policy in policies.items():
        for plan in ("ours", "default"):
            placed = recipe.place(policy, plan, topology_here(here))
            if isinstance(placed, str):
                raise SystemExit(f"{name}: {placed}")
            trainees.append(recipe.sharded(name, policy, plan, placed, here))
    in_turns(trainees, here, args.repeats, args.warmup, both(args.steps))
    lines = [line_of(t, here, recipe, common) for t in trainees]
    seconds = {(t.name, t.way): slowest(t, here) for t in trainees}
    placements = {
        (t.name, t.way): None if t.placed is None else t.placed.placements for t in trainees
    }
    for name in policies:
        equal = placements[name, "default"] == placements[name, "ours"]
        above, below = seconds[name, "default"], seconds[name, "ours"]
        more = {"goal": f">= {GOAL_PLAN}", "equal_plans": equal}
        lines.append(ratio_line(common, name, "default plan / ours", above, below, **more))
    return lines


def against_torchrec(
    policies: dict[str, Policy], recipe: Recipe, here: Ranks, common: Line, args: Any
) -> list[Line]:
    trainees = []
    for name, policy in policies.items():
        placed = recipe.place(policy, "ours", topology_here(here))
        if isinstance(placed, str):
            raise SystemExit(f"{name}: {placed}")
        made = [recipe.sharded(name, policy, w, placed, here) for w in ("ours", *FED_ROWS)]
        for theirs in made[1:]:
            check_equal(made[0], theirs)
        trainees += made
    in_turns(trainees, here, args.repeats, args.warmup, both(args.steps))
    lines = [line_of(t, here, recipe, common) for t in trainees]
    timed: dict[tuple[str, str, str], dict[str, list[float]]] = {}

    def keep(what: str) -> None:
        for t in trainees:
            timed[what, t.name, t.way] = {"passed": slowest(t, here), "cpu": cpu_of(t, here)}
            t.forget()

    keep("training step")
    in_turns(trainees, here, args.repeats, args.warmup, lambda t: t.embed(args.steps))
    keep("embedding")
    for name in policies:
        pairs = (*(("ours", way) for way in THEIRS), (HASHED, TORCHREC))
        for what, (ours, way), time in itertools.product(
            ("embedding", "training step"), pairs, ("passed", "cpu")
        ):
            mine, other = timed[what, name, ours][time], timed[what, name, way][time]
            more = {
                "part": what,
                "ours": ours,
                "beside": way,
                "time": time,
                "ours_ms": spread(1e3 * s for s in mine),
                "torchrec_ms": spread(1e3 * s for s in other),
            }
            if ours == HASHED:  # the same row numbers for both
                more["goal"] = f"<= {GOALS_TORCHREC[what]}"
            title = f"{what}{ours.removeprefix('ours')} / {way}, {time}"
            lines.append(ratio_line(common, name, title, mine, other, **more))
    return lines


def check_equal(ours: Trainee, theirs: Trainee) -> None:
    """Give both the same tables; SystemExit unless they look up the same vectors."""
    device = ours.ranks.device
    mine, other = inner_model(ours.model).embedding, inner_model(theirs.model).embedding
    to = weights_of(other)
    with torch.no_grad():
        for name, value in weights_of(mine).items():
            _copy(value, to[name])
        x_BE = mine(ours.batches[0].to(device).sparse)
        found = other.ebc(theirs.batches[0].to(device).sparse).to_dict()
        y_BE = torch.cat([found[key] for key in mine.lookup_keys], dim=1)
    if not torch.equal(x_BE, y_BE):
        gap = (x_BE - y_BE).abs().max()
        raise SystemExit(f"{ours.name}: {ours.way} and {theirs.way} differ by {gap}")


def _copy(value: torch.Tensor | Sharded, to: torch.Tensor | Sharded) -> None:
    if isinstance(to, torch.Tensor):
        to = Sharded(to.shape, (Piece(to, (0, 0)),))
    for piece in to.pieces:
        if isinstance(value, Sharded):
            piece.tensor.copy_(value.piece_at(piece.offsets))
        else:
            (row, column), (rows, columns) = piece.offsets, piece.tensor.shape
            piece.tensor.copy_(value[row : row + rows, column : column + columns])


def both(steps: int) -> Callable[[Trainee], None]:
    """Whole steps, then as many in stages."""

    def measure(trainee: Trainee) -> None:
        trainee.train(steps)
        trainee.train_staged(steps)

    return measure


# ---- command -----------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    question = parser.add_mutually_exclusive_group()
    question.add_argument("--plans", action="store_true", help="our plan and TorchRec's")
    question.add_argument("--against-torchrec", action="store_true", help="its collection")
    names = (*METHODS, SKEWED)
    parser.add_argument(
        "--methods", nargs="+", choices=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--data", type=Path, help="prepared data set (default: Zipf ids)")
    parser.add_argument("--zipf", type=float, default=1.05, help="exponent of the ids")
    parser.add_argument("--features", type=int, default=26)
    parser.add_argument("--vocabulary", type=int, default=1_000_000, help="ids of the largest")
    parser.add_argument("--dense", type=int, default=13, help="numeric columns")
    parser.add_argument("--params", type=int, default=1_664_000, help="floats of all tables")
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 128])
    parser.add_argument(
        "--row-optimizer",
        choices=("auto", *sorted(ROW_OPTIMIZERS)),
        default="rowwise_adagrad",
        help="all but adam update the rows of the batch only; auto: what `seo-rec train` takes",
    )
    parser.add_argument("--batch", type=int, default=2048, help="rows of one rank")
    parser.add_argument("--batches", type=int, default=4, help="different ones, in turn")
    parser.add_argument("--steps", type=int, default=4, help="of one repeat")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2, help="repeats that do not count")
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    parser.add_argument(
        "--record", action="store_true", help=f"write to {RECORD.name}; the last run counts"
    )
    parser.add_argument("--out", type=Path, help="folder for throughput.jsonl and throughput.png")
    args = parser.parse_args(arguments)
    if args.row_optimizer == "auto":
        args.row_optimizer = settled(FitSettings(), args.params).row_optimizer
    for name in ("features", "batch", "batches", "steps", "repeats", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}; allowed: 1 or more")
    if args.warmup < 0:
        parser.error(f"--warmup is {args.warmup}; allowed: 0 or more")
    if args.dim % 8:
        parser.error(f"--dim is {args.dim}; allowed: multiples of 8, two chunks of 4")
    return args


def environment_of(here: Ranks) -> Line:
    return {
        **stamp(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "nice": os.nice(0),
        "backend": dist.get_backend() if dist.is_initialized() else None,
        "device": here.device.type,
    }


@contextmanager
def joined(alone_in_group: bool) -> Iterator[Ranks]:
    """The ranks of the launch; a group of one where there is none and ``alone_in_group``."""
    with launched() as here:
        if here.world_size > 1:
            yield here
            return
        if torch.cuda.is_available():
            here = replace(here, device=torch.device("cuda", 0))
        if not alone_in_group:
            yield here
            return
        backend = "cpu:gloo,cuda:nccl" if here.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        try:
            yield here
        finally:
            dist.destroy_process_group()


def run(args: argparse.Namespace, here: Ranks) -> list[Line]:
    """The lines of all measurements; the same on every rank."""
    torch.set_num_threads(args.threads)
    schema: Schema
    if args.data is None:
        schema = zipf_schema(args.features, args.vocabulary, args.dense)
        batches = zipf_batches(schema, args.zipf, args.batch, args.batches, here.rank)
    else:
        data = open_data(args.data)
        schema = data.schema
        batches = data_batches(data, args.batch, args.batches, here)
    recipe = Recipe(
        num_dense=len(schema.numeric),
        hidden=tuple(args.hidden),
        row_optimizer=args.row_optimizer,
        batches=batches,
        rows=args.batch,
        params=args.params,
        dim=args.dim,
        rates=rates_of(schema),
    )
    question = "plans" if args.plans else "torchrec" if args.against_torchrec else "methods"
    defaults = {"methods": METHODS, "plans": (*METHODS, SKEWED), "torchrec": METHODS[:-1]}
    names = args.methods or defaults[question]
    if question == "torchrec" and "search" in names:
        raise SystemExit("--against-torchrec compares plain lookups; the search has a gate")
    policies = {name: make_policy(name, schema, args.params, args.dim) for name in names}
    environment = here.on_first(lambda: environment_of(here))
    if here.first:
        print(json.dumps(environment), flush=True)
    common = {
        "benchmark": "throughput",
        "question": question,
        "world_size": here.world_size,
        "batch": args.batch,
        "row_optimizer": args.row_optimizer,
        "params": args.params,
        "hidden": args.hidden,
        "dim": args.dim,
        "data": schema.dataset if args.data is None else str(args.data),
        "zipf": args.zipf if args.data is None else None,
        "steps": args.steps,
        "repeats": args.repeats,
        "threads": args.threads,
        "environment": environment,
    }
    ask = {"methods": compare_methods, "plans": compare_plans, "torchrec": against_torchrec}
    return ask[question](policies, recipe, here, common, args)


def missed(lines: list[Line]) -> list[str]:
    """The ratios whose whole interval lies beyond their goal."""
    found = []
    for line in (x for x in lines if "goal" in x and not x.get("equal_plans")):
        sign, goal = line["goal"].split()
        if line["low"] > float(goal) if sign == "<=" else line["high"] < float(goal):
            found.append(
                f"{line['policy']}: {line['what']} {line['low']:.3f} to {line['high']:.3f}; "
                f"allowed: {line['goal']}"
            )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    leave_nothing()
    quiet_libraries()
    with joined(args.against_torchrec) as here:
        lines = run(args, here)
        if here.first:
            print(*section(lines), sep="\n")
            for folder in ([RECORD.parent] if args.record else []) + (
                [args.out] if args.out else []
            ):
                path = folder / RECORD.name
                replace_all(path, itertools.chain(*by_date(latest([*read(path), *lines]))))
            if args.out:
                write_bytes(args.out / "throughput.png", plot(lines))
            for text in missed(lines):
                print(text)
        return int(bool(missed(lines)))


if __name__ == "__main__":
    run_and_leave(lambda: sys.exit(main()))
