"""Everything that is claimed of GPUs, checked and measured on this machine in ten minutes.

    python -m benchmarks.gpu [--device cuda|cpu] [--minutes 10] [--only PART ...] [--record]

Takes the torch, TorchRec and FBGEMM that are installed, says which they are and what they do not
allow. Every part runs in processes of its own, which are ended when their time is over, so that one
that hangs takes no time from the others; what it had found by then is kept. If the libraries do not
load, nothing else is tried; with ``--stop`` nothing is after the first failure. ``--device cpu``
runs all of it in small sizes with gloo in place of NCCL: that shows that the script works, and
nothing about GPUs. Ends with 1 if a check failed, or a part did not come to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.command import leave_nothing
from benchmarks.record import Line, append, path_of, read

RECORD = path_of("gpu")
ROOT = Path(__file__).parents[2]
GRACE_S = 2.0  # that processes have to end when they are asked to


@dataclass(frozen=True)
class Part:
    """What runs, for how many seconds at most, and in how many processes."""

    name: str
    seconds: float
    ranks: int = 1


# Checks before measurements, the most telling first; together ten minutes on one GPU.
ONE_RANK = (
    Part("versions", 40),
    Part("against-torchrec", 50),
    Part("unsharded", 40),
    Part("plans", 75),
    Part("pipelines", 45),
    Part("fused", 30),
    Part("rows", 30),
    Part("tests", 60),
    Part("kernels", 50),
    Part("fetch", 40),
    Part("tiles", 45),
    Part("sizes", 45),
    Part("methods", 50),
)
SEVERAL = (("plans", 60.0), ("pipelines", 45.0))  # in N, 2, 3, ... processes


def planned(devices: int, only: Sequence[str]) -> list[Part]:
    """The parts in order: those of several ranks come before the measurements."""
    worlds = dict.fromkeys([devices, *range(2, devices)] if devices > 1 else [])
    several = [Part(name, s, n) for n in worlds for name, s in SEVERAL]
    checks = [p.name for p in ONE_RANK].index("kernels")
    together = [Part("methods", 60, n) for n in worlds if n == devices]
    parts = [*ONE_RANK[:checks], *several, *ONE_RANK[checks:], *together]
    return [p for p in parts if not only or p.name in only]


def command_of(part: Part, device: str, file: Path) -> list[str]:
    """What each process of a part runs."""
    small = ["--small"] if device == "cpu" else []
    module = "benchmarks.gpu.part"
    return [sys.executable, "-m", module, part.name, str(file), "--device", device, *small]


def run_part(command: Sequence[str], ranks: int, seconds: float, file: Path) -> str:
    """``done``, ``out of time`` or ``ended with N``; what the processes print is in a log.

    Args:
        command: of each of the processes.
        ranks: how many there are.
        seconds: after which they are ended.
        file: of the lines of the part; the log stands beside it.
    """
    port = _free_port()
    path = [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]
    log = file.with_suffix(".log")
    processes = []
    with log.open("w") as output:
        for rank in range(ranks):
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, path)),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "LOCAL_WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            processes.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        try:
            return _wait(processes, time.monotonic() + seconds)
        finally:
            _end(processes)


def _wait(processes: list[subprocess.Popen[bytes]], deadline: float) -> str:
    while time.monotonic() < deadline:
        ended = [p.poll() for p in processes]
        if failed := [status for status in ended if status]:
            return f"ended with {failed[0]}"
        if None not in ended:
            return "done"
        time.sleep(0.05)
    return "out of time"


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """End what still runs, with all that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        end = time.monotonic() + GRACE_S
        while any(p.poll() is None for p in processes) and time.monotonic() < end:
            time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def text_of(line: Line) -> str:
    """One line for a person."""
    sign = line["kind"] if "passed" not in line else "ok" if line["passed"] else "FAILED"
    figure = ""
    if line.get("value") is not None:
        limit = f" (limit {line['limit']:g})" if line.get("limit") is not None else ""
        goal = f" (goal {line['goal']:g})" if line.get("goal") is not None else ""
        figure = f" {line['value']:.4g} {line.get('unit', '')}{limit}{goal}".rstrip()
    return f"  {sign}: {line['name']}{figure}{': ' + line['text'] if line.get('text') else ''}"


def machine() -> tuple[int, Line]:
    """The number of GPUs and the stamp of this machine, asked in a process of its own.

    A process that asks holds memory of a GPU, and some machines allow one process on each.
    """
    code = (
        "import json, torch; from seo_rec.environment import stamp; "
        "print(json.dumps([torch.cuda.device_count(), stamp()]))"
    )
    asked = [sys.executable, "-c", code]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    devices, found = json.loads(done.stdout.splitlines()[-1])
    return devices, found


def run_all(
    parts: Sequence[Part],
    device: str,
    seconds: float,
    folder: Path,
    environment: Line,
    stop: bool = False,
) -> list[Line]:
    """The lines of all parts, each with its part, ranks and how it ended.

    Args:
        parts: in the order in which they run.
        device: ``cuda`` or ``cpu``.
        seconds: of all parts together.
        folder: for the lines and the log of every part.
        environment: the stamp of this machine.
        stop: end after the first part that failed; after ``versions`` in any case.
    """
    started, lines = time.monotonic(), list[Line]()
    common = {"benchmark": "gpu", "device": device, "environment": environment}
    for number, part in enumerate(parts):
        left = seconds - (time.monotonic() - started)
        file = folder / f"{number}-{part.name}.jsonl"
        began = time.monotonic()
        ended = "no time left"
        if left > 1:
            command = command_of(part, device, file)
            ended = run_part(command, part.ranks, min(left, part.seconds), file)
        spent = time.monotonic() - began
        whole = {"kind": "part", "name": part.name, "text": f"{ended}, {spent:.0f} s"}
        found = [*read(file), {**whole, "passed": ended == "done"}]
        print(f"{part.name}, {part.ranks} rank{'s' * (part.ranks > 1)}", flush=True)
        passed = sum(x["kind"] == "check" and x["passed"] for x in found)
        if passed:
            print(f"  checks that passed: {passed}", flush=True)
        for line in found:
            if not (line["kind"] == "check" and line["passed"]):
                print(text_of(line), flush=True)
            lines.append({**common, "part": part.name, "world_size": part.ranks, **line})
        if ended not in ("done", "no time left"):
            print(*file.with_suffix(".log").read_text().splitlines()[-12:], sep="\n", flush=True)
        failed = next((x["name"] for x in found if x.get("passed") is False), "")
        if failed and (stop or part.name == "versions"):
            left = len(parts) - number - 1
            print(f"stopped at {part.name} ({failed}); {left} parts were not run", flush=True)
            break
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [p.name for p in ONE_RANK]
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=10.0, help="of all parts together")
    parser.add_argument("--only", nargs="+", choices=names, default=[], metavar="PART")
    parser.add_argument("--stop", action="store_true", help="at the first failure")
    parser.add_argument("--record", action="store_true", help=f"append to {RECORD.name}")
    parser.add_argument("--out", type=Path, help="folder that keeps the lines and logs of parts")
    options = parser.parse_args(arguments)
    leave_nothing()
    devices, environment = machine()
    devices = 2 if options.device == "cpu" else devices
    if not devices:
        parser.error("PyTorch finds no GPU here; --device cpu shows that the script works")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        parts = planned(devices, options.only)
        seconds = 60 * options.minutes
        lines = run_all(parts, options.device, seconds, folder, environment, options.stop)
    for line in lines if options.record else ():
        append(RECORD, line)
    failed = [line["name"] for line in lines if line.get("passed") is False]
    missed = [line["name"] for line in lines if line.get("reached") is False]
    kinds = [line["kind"] for line in lines]
    print(
        f"{kinds.count('check')} checks, {len(failed)} failed; {kinds.count('forbidden')} not "
        f"allowed here; goals missed: {', '.join(missed) or 'none'}"
    )
    print(json.dumps({"failed": failed}))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
