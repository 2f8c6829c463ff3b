"""What do tables of 16 bits save in memory, and what does their rounding cost in a step?

    python -m benchmarks.speed.storage [--floats 1e8] [--record]

The step and the batches are of ``benchmarks.speed.size`` ("ours"). Each contestant is trained in a
process of its own, in rounds: the peak is what the process took at most beyond what it had before
its model was made, by the counter of the system; milliseconds of processor time are the median of
the steps, which other work on the machine disturbs less than the time on the clock.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.command import make_parser, set_up
from benchmarks.record import append, path_of
from benchmarks.speed.size import DENSE, LR, batches, policy_of
from seo_rec.model import ModelSettings, build_model
from seo_rec.settings import STORAGES, FitSettings
from seo_rec.train import make_optimizers, ranks
from seo_rec.train.average import WeightAverage
from seo_rec.train.memory import training_bytes
from seo_rec.train.steps import PlainSteps

RECORD = path_of("storage-speed")
WARMUP = 10


def one(storage: str, args: argparse.Namespace) -> dict[str, Any]:
    """Peak bytes of a training, the bytes it says it needs, and processor time of a step."""
    made, policy = batches(args.steps), policy_of(int(args.floats))
    gc.collect()
    before = _resident()
    model = build_model(policy, DENSE, ModelSettings(), 0, storage=storage)
    optimizers = make_optimizers(model, args.optimizer, LR, 2e-3)
    mean = WeightAverage(model, args.average, optimizers)
    seconds, started = [], time.process_time()
    for number, _ in enumerate(PlainSteps(model, optimizers, ranks())(made)):
        mean.update(number + 1)
        seconds.append(time.process_time() - started)
        started = time.process_time()
    with mean.applied():
        pass
    fit = FitSettings(row_optimizer=args.optimizer, average=args.average, storage=storage)
    return {
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before,
        "said_bytes": training_bytes(policy, fit),
        "cpu_ms": 1e3 * statistics.median(seconds[WARMUP:]),
    }


def _resident() -> int:
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = make_parser(__doc__, RECORD, threads=1)
    parser.add_argument("--floats", type=float, default=1e8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--optimizer", default="rowwise_adagrad")
    parser.add_argument("--average", type=float, default=0.0)
    parser.add_argument(
        "--one", choices=STORAGES, help="train this one here, and print its figures"
    )
    args = parser.parse_args()
    if args.one:
        set_up(args.threads)
        print(json.dumps(one(args.one, args)))
        return
    environment = set_up(args.threads)
    found: dict[str, list[dict[str, Any]]] = {storage: [] for storage in STORAGES}
    for number in range(args.rounds):
        for storage in STORAGES[number % 3 :] + STORAGES[: number % 3]:
            command = [sys.executable, "-m", "benchmarks.speed.storage", *sys.argv[1:]]
            done = subprocess.run(
                [*command, "--one", storage], check=True, stdout=subprocess.PIPE, text=True
            )
            found[storage].append(json.loads(done.stdout.splitlines()[-1]))
    for storage, rounds in found.items():
        ratio = statistics.median(
            a["cpu_ms"] / b["cpu_ms"] for a, b in zip(rounds, found["float32"], strict=True)
        )
        print(
            f"{storage}: peak {max(r['peak_bytes'] for r in rounds):,} bytes, said "
            f"{rounds[0]['said_bytes']:,}, {min(r['cpu_ms'] for r in rounds):.2f} ms a step, "
            f"{ratio:.3f} times float32",
            flush=True,
        )
    if args.record:
        line = {
            "benchmark": "storage-speed",
            "floats": int(args.floats),
            "optimizer": args.optimizer,
            "average": args.average,
            "rounds": found,
            "environment": environment,
        }
        append(RECORD, line)


if __name__ == "__main__":
    main()
