"""What does a dense gradient cost in a step, for every float of an array or of a copied table?

    python -m benchmarks.speed.dense [--floats 3e7] [--threads 2] [--record]

A training warns of flat arrays, and of tables that every process copies, by the time that
:data:`seo_rec.train.optimizers.DENSE_NS` gives a float and a step. This command measures that time:
a gradient set to zero, the row optimizer's step on it, and the running mean of the weights. The
tensor is larger than the caches. Optimizers take turns in rounds. A figure is the median of a
round's steps, in nanoseconds of the clock; the last line is the mean of these medians.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from benchmarks.command import make_parser, set_up
from benchmarks.record import append, path_of
from seo_rec.train.average import WeightAverage
from seo_rec.train.optimizers import DENSE_NS, ROW_OPTIMIZERS

RECORD = path_of("dense")
NAMES = tuple(name for name in ROW_OPTIMIZERS if name != "lazy_adam")  # here it is Adam
WIDTH = 16


class Array(nn.Module):
    """A tensor of so many floats, in rows of 16."""

    def __init__(self, floats: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(floats // WIDTH, WIDTH))


def nanoseconds(name: str, floats: int, steps: int) -> float:
    """Of the clock, for a float and a step: the median of the steps."""
    array = Array(floats)
    optimizer = ROW_OPTIMIZERS[name](array.parameters(), 1e-3, 0.0)
    mean = WeightAverage(array, 0.998)
    array.rows.grad = torch.full_like(array.rows, 1e-3)
    found = []
    for step in range(1, steps + 2):
        started = time.perf_counter_ns()
        array.rows.grad.zero_()
        optimizer.step()
        mean.update(step)
        found.append(time.perf_counter_ns() - started)
    return statistics.median(found[1:]) / array.rows.numel()  # the first one makes the state


def main() -> None:
    parser = make_parser(__doc__, RECORD, threads=2)
    parser.add_argument("--floats", type=float, default=3e7)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    environment = set_up(args.threads)
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    for number in range(args.rounds):
        turn = number % len(NAMES)
        for name in NAMES[turn:] + NAMES[:turn]:
            found[name].append(nanoseconds(name, int(args.floats), args.steps))
    medians = {name: statistics.median(ns) for name, ns in found.items()}
    for name, ns in medians.items():
        print(f"{name}: {ns:.2f} ns per float and step")
    print(f"mean: {statistics.mean(medians.values()):.2f}; the warning counts {DENSE_NS:g}")
    if args.record:
        line = {"floats": int(args.floats), "rounds": found, "environment": environment}
        append(RECORD, {"benchmark": "dense", **line})


if __name__ == "__main__":
    main()
