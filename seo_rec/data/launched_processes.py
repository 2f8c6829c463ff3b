"""Processes that a launcher has started and that prepare one data set on a shared file system."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from seo_rec.data.tasks import Job
from seo_rec.data.work import Task
from seo_rec.files import one_line, read_json, write_json
from seo_rec.schema import SCHEMA_FILE, DataError, Schema, read_schema

WAIT = 0.1  # seconds between two looks at what other ranks have done


class SaidByFirstError(DataError):
    """Rank 0 has failed, and its message says why."""


class LaunchedProcesses:
    """This process among those of a launcher, which see each other's files and nothing else."""

    def __init__(self, job: Job, rank: int, world_size: int, attempt: str) -> None:
        self._job, self._rank, self._world_size = job, rank, world_size
        name = hashlib.sha256(attempt.encode()).hexdigest()[:16]
        self._opened, self._failed = (job.work / f"{what}-{name}.json" for what in ("open", "end"))
        self._stops = job.work / "stops"

    def __enter__(self) -> LaunchedProcesses:
        """Rank 0: forget the errors of an earlier start, and let the others begin."""
        for old in [*self._job.work.glob("open-*.json"), *self._job.work.glob("end-*.json")]:
            old.unlink()
        for stop in self._stops.glob("*"):
            self._job.place(Task("read", int(stop.name))).unlink(missing_ok=True)
            stop.unlink()
        write_json(self._opened, self._job.request())
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Rank 0: say that it has failed, or wait for ranks that have not even begun."""
        if error is not None:
            write_json(self._failed, one_line(error))
        while error is None and any(not p.exists() for p in self._arrivals()):
            time.sleep(WAIT)

    def run(self, tasks: Sequence[Task], done: Callable[[int], None]) -> None:
        """Do the tasks of this rank and wait for the others, or up to a bad piece.

        Raises:
            DataError: Another rank has failed.
        """
        for task in tasks[self._rank :: self._world_size]:
            if self._is_behind_stop(task):
                break
            self._job.perform(task)
            if task.kind == "read" and self._job.stops(task.number):
                self._stops.mkdir(exist_ok=True)
                (self._stops / str(task.number)).touch()
        left = list(tasks)
        while left := [t for t in left if not self._job.is_done(t) and not self._is_behind_stop(t)]:
            self._require_others()
            done(len(tasks) - len(left))
            time.sleep(WAIT)

    def follow(self, out: Path) -> Schema:
        """A rank above 0: do its tasks, and wait until rank 0 has finished.

        Raises:
            DataError: Another rank has failed.
        """
        request = self._job.request()
        while not self._opened.exists():
            time.sleep(WAIT)
        if read_json(self._opened) != request:
            raise DataError(
                "rank 0 was asked for another data set or sees other raw files; give all ranks the "
                "same command on a shared file system"
            )
        write_json(self._arrivals()[self._rank - 1], self._rank)
        try:
            for stage in self._job.stages():
                self.run(stage, lambda _: None)
                if any(self._is_behind_stop(task) for task in stage):
                    break
        except Exception as error:
            if self._opened.exists() and not self._failed.exists():
                write_json(self._failed, one_line(error))
                raise
        while self._opened.exists() and not self._failed.exists():
            time.sleep(WAIT)
        if not (self._job.work / "request.json").exists():  # rank 0 has removed the folder, and a
            shutil.rmtree(self._job.work, ignore_errors=True)  # task of this rank has made it again
        if not (out / SCHEMA_FILE).exists():
            raise SaidByFirstError("rank 0 has stopped, and says why")
        return read_schema(out)

    def _arrivals(self) -> list[Path]:
        """What each rank above 0 writes when it begins."""
        folder = self._job.work / "arrived" / self._opened.stem
        return [folder / f"{rank}.json" for rank in range(1, self._world_size)]

    def _is_behind_stop(self, task: Task) -> bool:
        """Whether a piece before the one of this task was bad."""
        return task.kind == "read" and any(
            int(stop.name) < task.number for stop in self._stops.glob("*")
        )

    def _require_others(self) -> None:
        if self._failed.exists():
            raise DataError(f"another rank has failed: {read_json(self._failed)}")
        if not self._opened.exists():
            raise SaidByFirstError("rank 0 has stopped, and says why")
