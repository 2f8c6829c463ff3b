"""Multi-rank tests without paying for the imports again: ranks are forked from this process."""

from __future__ import annotations

import faulthandler
import gc
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any

import sklearn.metrics  # noqa: F401  before the fork, so that the ranks find it imported
import torch
import torch.distributed as dist
import torchrec.distributed  # noqa: F401  likewise

from patience import PATIENCE

STACKS_AFTER = 0.5  # seconds that a hanging rank has to write its stack
GATHER = 0.02  # seconds in which ranks that fail together are heard before one is blamed


class RankError(AssertionError):
    """A rank raised, died or did not finish in time; the message holds its traceback."""


def told(action: Callable[[], Any]) -> tuple[str, str, float]:
    """Type and text of what ``action`` raised, and after how many seconds."""
    started = time.monotonic()
    try:
        action()
    except Exception as error:
        return type(error).__name__, str(error), time.monotonic() - started
    return "", "", time.monotonic() - started


def run_ranks(
    fn: Callable[..., Any], world_size: int, *args: object, timeout: float = PATIENCE
) -> list[Any]:
    """``[fn(*args) on rank r for r in range(world_size)]``, in a gloo group on this machine.

    Every rank is a fork of this process: ``fn`` may be a closure, ``args`` are not copied, and
    the random state of every rank is this process's. ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK`` and
    ``LOCAL_WORLD_SIZE`` are set; torch uses one thread.

    Args:
        fn: runs after the process group is made; what it returns must be picklable.
        world_size: number of ranks, 1 or more.
        args: arguments of ``fn``.
        timeout: seconds until all ranks are killed; also the timeout of a collective.

    Returns:
        What ``fn`` returned, by rank.

    Raises:
        RankError: with the traceback of the rank that failed first, or the stacks of all ranks
            that had not finished in time. No rank outlives the call.
    """
    context = get_context("fork")
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        pipes, ranks = [], []
        try:
            for rank in range(world_size):
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(
                    target=_rank, args=(fn, args, rank, world_size, Path(folder), timeout, theirs)
                )
                process.start()
                theirs.close()
                pipes.append(ours)
                ranks.append(process)
            return _collect(pipes, ranks, deadline, timeout, Path(folder))
        finally:
            for process in ranks:
                process.kill()
                process.join()
            for pipe in pipes:
                pipe.close()


def _collect(
    pipes: list[Any], ranks: list[Any], deadline: float, timeout: float, folder: Path
) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(ranks):
        waiting = [p for i, p in enumerate(pipes) if i not in results]
        ready = connection.wait(waiting, max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RankError(_stacks(ranks, results, timeout, folder))
        time.sleep(GATHER)
        failed: list[tuple[float, str]] = []
        for pipe in connection.wait(waiting, 0):
            rank = pipes.index(pipe)
            try:
                at, value, error = pickle.loads(pipe.recv_bytes())
            except EOFError:
                ranks[rank].join()
                at, value = float("-inf"), None  # whatever its peers say came of this
                error = f"ended without a word, exit code {ranks[rank].exitcode}"
            if error:
                failed.append((at, f"rank {rank} of {len(ranks)}: {error}"))
            results[rank] = pickle.loads(value) if value is not None else None
        if failed:  # the others only lost their peer
            raise RankError(min(failed)[1])
    for process in ranks:
        process.join(max(0.0, deadline - time.monotonic()))
    return [results[rank] for rank in range(len(ranks))]


def _stacks(ranks: list[Any], results: dict[int, Any], timeout: float, folder: Path) -> str:
    late = [rank for rank in range(len(ranks)) if rank not in results]
    for rank in late:
        if ranks[rank].is_alive() and (folder / f"stack-{rank}").exists():
            os.kill(ranks[rank].pid, signal.SIGUSR1)
    time.sleep(STACKS_AFTER)
    parts = [f"ranks {late} of {len(ranks)} did not finish in {timeout} s"]
    for rank in late:
        stack = folder / f"stack-{rank}"
        text = stack.read_text() if stack.exists() else "not started"
        parts.append(f"rank {rank}:\n{text.partition(' in _rank')[0]}")
    return "\n".join(parts)


def _rank(
    fn: Callable[..., Any],
    args: tuple[object, ...],
    rank: int,
    world_size: int,
    folder: Path,
    timeout: float,
    pipe: Any,
) -> None:
    """One rank; everything it does ends up in the pipe."""
    gc.freeze()  # sessions and pools of the parent have no threads here, and may not be taken down
    value, error = None, ""
    with (folder / f"stack-{rank}").open("w") as stack:
        faulthandler.register(signal.SIGUSR1, file=stack)
        try:
            os.environ.update(
                RANK=str(rank),
                WORLD_SIZE=str(world_size),
                LOCAL_RANK=str(rank),
                LOCAL_WORLD_SIZE=str(world_size),
                OMP_NUM_THREADS="1",
                GLOO_SOCKET_IFNAME="lo",
            )
            torch.set_num_threads(1)
            dist.init_process_group(
                "gloo",
                init_method=f"file://{folder / 'store'}",
                rank=rank,
                world_size=world_size,
                timeout=timedelta(seconds=timeout),
            )
            value = pickle.dumps(fn(*args))  # plain pickle: a tensor's bytes, no shared memory
        except BaseException:
            error = traceback.format_exc()
        pipe.send_bytes(pickle.dumps((time.monotonic(), value, error)))
        if not error and dist.is_initialized():
            dist.barrier()  # nobody leaves while a peer still needs it
            dist.destroy_process_group()
        faulthandler.unregister(signal.SIGUSR1)
