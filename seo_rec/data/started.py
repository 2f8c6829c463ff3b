"""Processes of this machine that take one task of a preparation after the other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from seo_rec.data.rawfile import BadRows
from seo_rec.data.source import Source
from seo_rec.data.split import Split
from seo_rec.data.tasks import Job
from seo_rec.data.vocabulary import Pruning
from seo_rec.data.work import Task
from seo_rec.schema import DataError

DEATHS = 3  # of processes, one after the other, without a task that is done in between


class LostProcessError(DataError):
    """Processes were killed too often; the work folder is kept."""


_job: Job | None = None  # of a process that was started here


class Started:
    """Processes of this machine, which are started here and take one task after the other."""

    def __init__(self, job: Job, make: Callable[[], Source], processes: int) -> None:
        self._job, self._processes = job, processes
        threads = max(1, len(os.sched_getaffinity(0)) // processes)
        self._arguments = (threads, make, job.work, job.split, job.pruning, job.bad_rows)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Started:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._end()

    def run(self, tasks: Sequence[Task], done: Callable[[int], None]) -> None:
        """Do the tasks, or those up to a bad piece.

        Raises:
            LostProcessError: Processes were killed again and again.
        """
        deaths, before = 0, -1
        while left := [task for task in tasks if not self._job.is_done(task)]:
            try:
                if not self._run(left, len(tasks) - len(left), done):
                    return
            except BrokenProcessPool as error:
                self._end()
                deaths = 1 if len(left) != before else deaths + 1
                before = len(left)
                if deaths >= DEATHS:
                    raise LostProcessError(
                        f"a process was killed {deaths} times at the same task ({left[0].kind} "
                        f"{left[0].number}), as the system does when memory is full; the same "
                        "command goes on from here, also with another --processes"
                    ) from error

    def _run(self, tasks: Sequence[Task], before: int, done: Callable[[int], None]) -> bool:
        """Whether the tasks were done to the last one."""
        futures = {self._opened().submit(_perform, task): task for task in tasks}
        stopped = False
        for number, future in enumerate(as_completed(futures), before + 1):
            with suppress(CancelledError):
                future.result()
                done(number)
                task = futures[future]
                if task.kind == "read" and self._job.stops(task.number):
                    stopped = True
                    _cancel(futures)
        return not stopped

    def _opened(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # a fork would copy Arrow's threads
            self._pool = ProcessPoolExecutor(self._processes, context, _start, self._arguments)
        return self._pool

    def _end(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            processes = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()
            for process in processes:
                process.join()


def _cancel(futures: dict[Future[None], Task]) -> None:
    for future in futures:
        future.cancel()


def _start(
    threads: int,
    make: Callable[[], Source],
    work: Path,
    split: Split,
    pruning: Pruning,
    bad_rows: BadRows,
) -> None:
    """The first thing that a process does."""
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process ends them
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    pa.set_cpu_count(threads)
    _job = Job(make(), work, split, pruning, bad_rows)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _perform(task: Task) -> None:
    assert _job is not None
    _job.perform(task)
