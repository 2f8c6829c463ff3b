"""What the command lines of benchmarks have in common."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

import torch

from benchmarks.record import Line, stamp
from seo_rec.process import quiet_libraries


def make_parser(
    doc: str | None, record: Path, out: str | None = None, threads: int = 1
) -> argparse.ArgumentParser:
    """A parser with ``--threads`` and ``--record``, and with ``--out`` if runs leave folders.

    Args:
        doc: docstring of the benchmark; its first line is the description.
        record: the file that ``--record`` writes to.
        out: default of ``--out``; None: there is no such option.
        threads: default of ``--threads``.
    """
    parser = argparse.ArgumentParser(description=(doc or "").strip().split("\n")[0])
    if out is not None:
        help_ = "folder of the runs; finished runs in it are not repeated"
        parser.add_argument("--out", type=Path, default=Path(out), help=help_)
    parser.add_argument("--threads", type=int, default=threads, help="CPU threads of a process")
    parser.add_argument("--record", action="store_true", help=f"append to results/{record.name}")
    return parser


def leave_nothing() -> None:
    """From now on SIGTERM, as ``timeout`` sends it, removes temporary folders before the end.

    It raises ``SystemExit`` with the shell's status of the signal, so that ``with`` blocks are left
    as by an error.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def set_up(threads: int) -> Line:
    """Set the threads, silence the libraries' notices, print the environment and return it.

    From then on SIGTERM leaves no temporary folder (:func:`leave_nothing`).
    """
    leave_nothing()
    torch.set_num_threads(threads)
    quiet_libraries()
    environment = stamp()
    print(json.dumps(environment, sort_keys=True), flush=True)
    return environment
