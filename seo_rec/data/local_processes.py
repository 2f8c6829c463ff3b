"""Processes of this machine that take one task of a preparation after the other.

They are forks of a server, a process that imports the libraries once and runs nothing else, so that
no thread of Arrow is copied. The server begins when :class:`LocalProcesses` is entered, and ends
when it is left, unless it ran before. While it imports, this process reads pieces, and a thread of
it cuts the first file and takes its checksum.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import (
    CancelledError,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import takewhile
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
FORK_SERVER = "forkserver"
# Arrow imports pandas, if it is installed, with the first array that it makes.
LIBRARIES = ("pandas", "pyarrow.compute", "pyarrow.csv", "pyarrow.parquet")
IN_THREAD = ("cut", "hash")  # kinds of which a thread of this process does the first task
MEANWHILE = ("read",)  # kinds, all of short tasks, that this process does until others can


class LostProcessError(DataError):
    """Processes were killed too often; the work folder is kept."""


_job: Job | None = None  # of a process that was started here


class LocalProcesses:
    """Processes of this machine, which are started here and take one task after the other."""

    def __init__(self, job: Job, make: Callable[[], Source], processes: int) -> None:
        self._job, self._processes = job, processes
        threads = max(1, len(os.sched_getaffinity(0)) // processes)
        rules = (job.split, job.pruning, job.bad_rows)
        self._arguments = (dict(os.environ), threads, make, job.work, *rules)
        self._opening: Future[ProcessPoolExecutor] | None = None
        # one task at a time, whatever is tried again; the processes do not wait for it
        self._thread = ThreadPoolExecutor(1, "prepare-first-file")
        self._opener = ThreadPoolExecutor(1, "prepare-processes")
        self._own_server = False

    def __enter__(self) -> LocalProcesses:
        self._own_server = start_server(self._job.source)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._job.abandon()
        self._end()
        self._thread.shutdown(cancel_futures=True)
        self._opener.shutdown(cancel_futures=True)
        if self._own_server:
            stop_server()

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
        left, futures = list(tasks), dict[Future[None], Task]()
        if left[0].kind in IN_THREAD:
            task = left.pop(0)
            futures[self._thread.submit(self._job.perform, task)] = task
        number = before
        for task in self._meanwhile(left):
            self._job.perform(task)
            left.remove(task)
            number += 1
            done(number)
            if self._is_last(task):
                self._stop(futures)
                return False
        if left:
            pool = self._opened().result()
            futures |= {pool.submit(_perform, task): task for task in left}
        stopped = False
        for future in as_completed(futures):
            with suppress(CancelledError):
                future.result()
                number += 1
                done(number)
                if self._is_last(futures[future]):
                    stopped = True
                    self._stop(futures)
        return not stopped

    def _meanwhile(self, tasks: Sequence[Task]) -> Iterator[Task]:
        """Those of the tasks that this process does before the others are there, one by one."""
        if tasks:
            opening = self._opened()
            mine = [task for task in tasks if task.kind in MEANWHILE]
            yield from takewhile(lambda _: not opening.done(), mine)

    def _is_last(self, task: Task) -> bool:
        """Whether no task after this one, which is done, is needed: its piece is bad."""
        return task.kind == "read" and self._job.stops(task.number)

    def _stop(self, futures: Iterable[Future[None]]) -> None:
        """End the tasks of this process, and begin none that waits."""
        self._job.abandon()
        for future in futures:
            future.cancel()

    def _opened(self) -> Future[ProcessPoolExecutor]:
        """The processes, once the first of them is there."""
        if self._opening is None:
            self._opening = self._opener.submit(self._open)
        return self._opening

    def _open(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context(FORK_SERVER if has_fork_server() else "spawn")
        pool = ProcessPoolExecutor(self._processes, context, _start, self._arguments)
        pool.submit(os.getpid).result()
        return pool

    def _end(self) -> None:
        opening, self._opening = self._opening, None
        if opening is not None and opening.exception() is None:
            pool = opening.result()
            processes = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()
            for process in processes:
                process.join()


def has_fork_server() -> bool:
    """Whether the system can start processes by a server; Windows cannot."""
    return FORK_SERVER in multiprocessing.get_all_start_methods()


def start_server(source: Source) -> bool:
    """Start the server that processes are forked from, unless it runs; it is not waited for.

    A server that was started earlier may lack the module of the source. Its processes then import
    it.

    Returns:
        Whether it was started here.
    """
    if not has_fork_server():
        return False
    from multiprocessing import forkserver

    before = _server_id()
    forkserver.set_forkserver_preload(preloaded(source))
    forkserver.ensure_running()
    return _server_id() != before


def stop_server() -> None:
    """End the server that was started here; the next process that needs one starts another.

    Python itself ends it with the program only, and has no public name for this.
    """
    from multiprocessing import forkserver

    number = _server_id()
    assert number is not None
    os.kill(number, signal.SIGTERM)  # it may still be importing
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


def _server_id() -> int | None:
    """The number of the server's process, None before one is started."""
    from multiprocessing import forkserver

    number: int | None = vars(forkserver._forkserver)["_forkserver_pid"]
    return number


def preloaded(source: Source) -> list[str]:
    """Names of the modules that the server imports, none of which starts a thread of Arrow."""
    there = [m for m in (source.read.__module__, "seo_rec.cli.main") if m in sys.modules]
    return [*LIBRARIES, __name__, *(m for m in there if m.startswith("seo_rec."))]


def _start(
    environment: Mapping[str, str],
    threads: int,
    make: Callable[[], Source],
    work: Path,
    split: Split,
    pruning: Pruning,
    bad_rows: BadRows,
) -> None:
    """The first thing that a process does."""
    global _job
    os.environ.clear()  # the server may be older than a variable
    os.environ.update(environment)
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
