"""Commands typed on several machines: the ranks of a launch by hand, as forks of this process."""

from __future__ import annotations

import gc
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sklearn.metrics  # noqa: F401  before the fork, so that the ranks find it imported
import torch
import torchrec.distributed  # noqa: F401  likewise

import seo_rec.recipes  # noqa: F401
from patience import PATIENCE
from seo_rec.cli import main as command_line


@dataclass
class Typed:
    """Running commands, one a rank; what each writes to the terminal is in a file."""

    folder: Path
    processes: list[multiprocessing.process.BaseProcess] = field(default_factory=list)

    def ended(self, seconds: float = PATIENCE) -> list[int | None]:
        """The exit status of every rank; negative if a signal ended it, None if it still runs."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def said(self, rank: int) -> list[str]:
        """The lines that a rank has written to stderr."""
        path = self.folder / f"stderr-{rank}"
        return path.read_text().splitlines() if path.exists() else []

    def all_said(self) -> list[str]:
        return [
            line for path in self.folder.glob("stderr-*") for line in path.read_text().splitlines()
        ]

    def pid(self, rank: int) -> int:
        found = self.processes[rank].pid
        assert found is not None
        return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def typed(
    commands: Sequence[Sequence[str] | None], folder: Path, port: int = 0, **environment: str
) -> Iterator[Typed]:
    """Rank r runs ``seo-rec`` with the words ``commands[r]``; None starts no process for it.

    Args:
        commands: Of the ranks, in order.
        folder: For what they write to the terminal.
        port: Where they meet; 0 takes a free one.
        environment: More variables of all ranks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    launch = Typed(folder)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port or free_port())}
    shared |= {"WORLD_SIZE": str(len(commands)), "LOCAL_WORLD_SIZE": str(len(commands))}
    shared |= {"SEO_REC_TIMEOUT_S": "3600", "GLOO_SOCKET_IFNAME": "lo", **environment}
    context = multiprocessing.get_context("fork")
    for rank, words in enumerate(commands):
        if words is not None:
            own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = context.Process(target=_one, args=(list(words), own, folder, rank))
            process.start()
            launch.processes.append(process)
    try:
        yield launch
    finally:
        for process in launch.processes:
            process.kill()
            process.join()


def _one(words: list[str], environment: dict[str, str], folder: Path, rank: int) -> None:
    gc.freeze()  # what the parent holds may have threads, which are not there in a fork
    os.environ.update(environment)
    sys.argv = ["seo-rec", *words]
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = (folder / f"stderr-{rank}").open("w", buffering=1)
    os.dup2(sys.stderr.fileno(), 2)  # what libraries write past Python
    torch.set_num_threads(1)
    command_line.main()
