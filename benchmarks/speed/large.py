"""Does `seo-rec train` keep what it promises when the tables have 10^9 floats?

    python -m benchmarks.speed.large [--floats 1e9] [--ranks 1 2] [--storage bfloat16] [--record]

A made-up file in Criteo's format is prepared in a temporary folder and trained on for two epochs by
the command itself, once by one process and once by two that share the tables (gloo):

    start       seconds from the command line to the first epoch, which they leave out
    peak        peak resident memory of the processes together; at most 1.15 times the weights and
                what the optimizer and the running mean keep, and 1.5 GB for each process
    resumed     the same command, stopped by SIGTERM after the first epoch and started again with
                ``--resume``, ends in the same figures to the bit
    eval        ``seo-rec eval`` gives the test AUC of the training to the bit

The command exits with 1 if one of these does not hold, or the start takes 60 seconds or more. With
``--busy``, on a machine that does other work, times are neither recorded nor held to that.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.command import make_parser, set_up
from benchmarks.record import append, path_of
from benchmarks.speed.prepare import write_criteo
from seo_rec.policy import Policy
from seo_rec.settings import STORAGES, FitSettings
from seo_rec.train.memory import training_bytes

RECORD = path_of("large")
METHOD, WIDTH, EPOCHS = "multi-size-4", 16, 2
LONGEST_START = 60.0
SEO_REC = (sys.executable, "-m", "seo_rec")
LAUNCHED = (sys.executable, "-m", "torch.distributed.run", "--standalone")


class Watched:
    """A command, the peak memory of its processes, and the moment of its first epoch's end.

    Args:
        command: The command line.
        metrics: The file to which the training appends a line after every epoch.
        threads: Threads of each process.
    """

    def __init__(self, command: list[str], metrics: Path, threads: int) -> None:
        self.begin = time.perf_counter()
        self.metrics = metrics
        self.first_epoch: float | None = None
        self.peaks: dict[int, int] = {}
        variables = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables
        )

    def wait(self, *, stop_after_first: bool = False) -> int:
        """The exit status; with ``stop_after_first`` SIGTERM is sent after the first epoch."""
        while self.process.poll() is None:
            for pid in _descendants(self.process.pid):
                self.peaks[pid] = max(self.peaks.get(pid, 0), _peak(pid))
            if self.first_epoch is None and epochs_in(self.metrics):
                self.first_epoch = time.perf_counter() - self.begin
                if stop_after_first:
                    self.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        return self.process.returncode

    def require_success(self) -> None:
        """Raises SystemExit with what the command printed if it failed."""
        if self.wait():
            raise SystemExit(self.process.stdout.read() if self.process.stdout else "failed")


def epochs_in(metrics: Path) -> list[dict[str, Any]]:
    """The finished epochs of a training that may still run; losses of steps are left out."""
    if not metrics.exists():
        return []
    whole = [line for line in metrics.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [event for event in map(json.loads, whole) if event["event"] == "epoch"]


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [p for child in thread.read_text().split() for p in _descendants(int(child))]
        except OSError:  # it ended
            continue
    return found


def _peak(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    match = re.search(r"VmHWM:\s+(\d+) kB", text)
    return 1024 * int(match[1]) if match else 0


def measure(
    data: Path, folder: Path, floats: int, ranks: int, threads: int, storage: str = "float32"
) -> dict[str, Any]:
    """Train whole, train with a stop in between, and evaluate."""
    launcher = SEO_REC if ranks == 1 else (*LAUNCHED, f"--nproc_per_node={ranks}", "-m", "seo_rec")

    def command(out: Path, *more: str) -> list[str]:
        asked = ("--method", METHOD, "--params", str(floats), "--dim", str(WIDTH))
        lasting = ("--storage", storage, "--epochs", str(EPOCHS), "--out", str(out))
        return [*launcher, "train", str(data), *asked, *lasting, *more]

    whole = Watched(command(folder / "whole"), folder / "whole" / "metrics.jsonl", threads)
    whole.require_success()
    result = json.loads((folder / "whole" / "result.json").read_text())
    settings = FitSettings(epochs=EPOCHS, storage=storage)
    state = training_bytes(Policy.load(folder / "whole" / "policy.json"), settings)
    first = epochs_in(folder / "whole" / "metrics.jsonl")[0]
    evaluated = json.loads(
        subprocess.run(
            [*SEO_REC, "eval", str(folder / "whole"), str(data)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    shutil.rmtree(folder / "whole")  # a checkpoint is as large as what training keeps
    stopped = Watched(command(folder / "cut"), folder / "cut" / "metrics.jsonl", threads)
    status = stopped.wait(stop_after_first=True)
    done = len(epochs_in(folder / "cut" / "metrics.jsonl"))
    resumed = Watched(command(folder / "cut", "--resume"), folder / "cut" / "none", threads)
    resumed.require_success()
    again = json.loads((folder / "cut" / "result.json").read_text())
    figures = ("val_auc", "val_logloss", "test_auc", "test_logloss")
    assert whole.first_epoch is not None
    return {
        "benchmark": "large",
        "floats": floats,
        "ranks": ranks,
        "threads": threads,
        "storage": storage,
        "start_seconds": whole.first_epoch - first["seconds"],
        "epoch_seconds": result["seconds_per_epoch"],
        "training_bytes": state,
        "peak_bytes": sum(sorted(whole.peaks.values())[-ranks:]),
        "peak_limit": round(1.15 * state + 1.5e9 * ranks),
        "stopped_status": status,
        "stopped_after_epochs": done,
        "resumed_equal": all(result[name] == again[name] for name in figures),
        "eval_equal": evaluated["auc"] == result["test_auc"],
        "test_auc": result["test_auc"],
    }


def missed(line: dict[str, Any]) -> list[str]:
    """What does not hold, in words."""
    return [
        text
        for text, bad in (
            ("the start took a minute or more", (line["start_seconds"] or 0) >= LONGEST_START),
            ("the peak of memory is above its limit", line["peak_bytes"] > line["peak_limit"]),
            ("the resumed run has other figures", not line["resumed_equal"]),
            ("it was not stopped before its end", line["stopped_after_epochs"] >= EPOCHS),
            ("eval gives another figure", not line["eval_equal"]),
        )
        if bad
    ]


def main() -> None:
    parser = make_parser(__doc__, RECORD, threads=len(os.sched_getaffinity(0)))
    parser.add_argument("--floats", type=float, default=1e9, help="floats of the tables")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="processes")
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the made-up file")
    parser.add_argument("--storage", choices=STORAGES, default="float32", help="type of the tables")
    parser.add_argument("--busy", action="store_true", help="leave out times: others work here")
    args = parser.parse_args()
    environment, failed = set_up(args.threads), False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_criteo(folder / "train.txt", args.rows)
        prepared = ("prepare", "criteo", "--raw", str(folder / "train.txt"))
        data = folder / "data"
        subprocess.run([*SEO_REC, *prepared, "--out", str(data)], check=True, capture_output=True)
        for ranks in args.ranks:
            with tempfile.TemporaryDirectory(dir=folder) as runs:
                threads = max(1, args.threads // ranks)
                line = measure(data, Path(runs), round(args.floats), ranks, threads, args.storage)
            if args.busy:
                line |= dict.fromkeys(("start_seconds", "epoch_seconds"))
            print(json.dumps(line), flush=True)
            for text in missed(line):
                print(f"{ranks} processes: {text}", file=sys.stderr)
                failed = True
            if args.record:
                append(RECORD, {**line, "environment": environment})
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
