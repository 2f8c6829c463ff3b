"""Preparing by several processes: who does which task, and what becomes of the result.

The processes are started here (``--processes N``), or by a launcher on one machine or on several
that share a file system (``WORLD_SIZE`` and ``RANK``). Either way they do the tasks of
:mod:`seo_rec.data.tasks`, and the prepared data set is the one that :func:`prepare` writes, byte
for byte. A work folder ``.NAME.parallel.part`` beside the data set holds what is done. After a
killed process the same command goes on with it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from seo_rec.data.completion import finish, require_training_rows, schema_of
from seo_rec.data.launched_processes import LaunchedProcesses
from seo_rec.data.local_processes import LocalProcesses, LostProcessError
from seo_rec.data.prepare import prepare
from seo_rec.data.progress import ProgressBar
from seo_rec.data.publish import published
from seo_rec.data.rawfile import BadRows
from seo_rec.data.source import Assign, Source
from seo_rec.data.split import Split
from seo_rec.data.tally import Counted
from seo_rec.data.tasks import Job
from seo_rec.data.vocabulary import Pruning
from seo_rec.files import (
    free_place,
    full_disk_at,
    kept_folder,
    parallel_folder,
    read_json,
    require_replaceable,
    take_place,
    write_json,
)
from seo_rec.places import is_url
from seo_rec.schema import DataError, Schema


@dataclass(frozen=True)
class Workers:
    """The processes that prepare a data set.

    Args:
        processes: How many are started here. A script that starts any needs ``if __name__ ==
            "__main__":`` around its calls, as with ``multiprocessing``.
        rank: The number of this process among those that a launcher has started.
        world_size: How many a launcher has started; all of them call with the same arguments.
        attempt: Equal in all ranks, and another one when a launcher starts them again.
    """

    processes: int = 1
    rank: int = 0
    world_size: int = 1
    attempt: str = ""

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise DataError(f"processes is {self.processes}; allowed: 1 or more")
        if not 0 <= self.rank < self.world_size:
            raise DataError(
                f"rank is {self.rank}; allowed: 0 to {self.world_size - 1}; start the processes "
                "by a launcher, which sets RANK and WORLD_SIZE"
            )
        if self.processes > 1 and self.world_size > 1:
            raise DataError(
                f"{self.processes} processes are asked for in each of {self.world_size} processes "
                "of a job; leave out --processes, and give the job more processes (-j)"
            )


def prepare_by(
    workers: Workers,
    make: Callable[[], Source],
    out: Path | str,
    *,
    split: Split,
    pruning: Pruning,
    bad_rows: BadRows,
    progress: bool = False,
) -> Schema:
    """Write the rows of ``make()`` as a prepared data set at ``out``, by one process or several.

    Args:
        workers: The processes.
        make: Gives the source; it is pickled for processes that are started here.
        out: The folder to make.
        split: How rows are divided.
        pruning: Which ids stay.
        bad_rows: What to do with rows that cannot be read.
        progress: Whether to draw a bar on a terminal.

    Raises:
        DataError: Bad input; nothing is left at ``out``.
        LostProcessError: Processes were killed; the same call goes on.
        FileExistsError: ``out`` exists and is not an empty folder.
    """
    source = make()
    if workers.processes == workers.world_size == 1:
        return prepare(
            source, out, split=split, pruning=pruning, bad_rows=bad_rows, progress=progress
        )
    if reason := source.needs_one_process:
        raise DataError(
            f"{source.dataset} is prepared by one process, because {reason}; leave out --processes "
            "(in a job: -j 1x1)"
        )
    if is_url(out):
        if workers.world_size > 1:
            raise DataError(
                f"{out}: the processes of a job write to storage that they share; choose another "
                "--out, and copy it afterwards"
            )
        with published(out) as local:
            return prepare_by(
                workers, make, local, split=split, pruning=pruning, bad_rows=bad_rows,
                progress=progress,
            )  # fmt: skip
    pruning.require_columns(source.embedded)
    place = Path(os.path.realpath(out))
    job = Job(source, parallel_folder(place), split, pruning, bad_rows)
    launched = LaunchedProcesses(job, workers.rank, workers.world_size, workers.attempt)
    if workers.rank > 0:
        return launched.follow(place)
    free_place(out)
    is_job = workers.world_size > 1
    group = launched if is_job else LocalProcesses(job, make, workers.processes)
    with (
        full_disk_at(out),
        kept_folder(place),
        _emptied(job, is_job),
        group,
        ProgressBar(progress) as bar,
    ):
        require_replaceable(place, job.work)
        schema = _prepare(job, group, bar)
        take_place(job.work / "data", place, out)
        return schema


def _prepare(job: Job, group: LocalProcesses | LaunchedProcesses, bar: ProgressBar) -> Schema:
    """All tasks, then the schema; the data set is then in the work folder."""
    for stage in job.stages():
        bar.begin(stage[-1].kind, len(stage))
        group.run(stage, lambda done: bar.update(done, done, unit="parts"))
        if stage[-1].kind == "read":
            intake = job.intake()
            num_rows = {name: rows[-1] for name, rows in job.split_rows.items()}
            require_training_rows(job.source, job.split, num_rows, intake)
    sizes = {
        name: (found["distinct"], found["lookups"])
        for name, found in ((n, job.record("merge", i)) for i, n in enumerate(job.embedded))
    }
    rows, positive, files = job.written()
    counted = Counted(rows, positive, sizes)
    assign = Assign(job.source, job.split)
    schema = schema_of(job.source, assign, job.pruning, intake, counted, job.finish)
    for column in range(len(job.embedded)):
        files |= job.record("merge", column)["files"]
    schema = replace(schema, files=files)
    finish(job.work / "data", schema)
    return schema


@contextmanager
def _emptied(job: Job, is_job: bool) -> Iterator[None]:
    """Within the block the work folder holds what was made for this request, at most.

    It is removed at the end, unless processes were killed. A launcher ends processes in order to
    start them again, so in its jobs only bad data end with the folder removed.

    Args:
        job: The preparation.
        is_job: Whether a launcher has started the processes.
    """
    asked, request = job.work / "request.json", job.request()
    try:
        if not asked.exists() or read_json(asked) != request:
            for old in job.work.iterdir():
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            write_json(asked, request)
        yield
    except BaseException as error:
        final = DataError if is_job else BaseException
        if isinstance(error, final) and not isinstance(error, LostProcessError):
            shutil.rmtree(job.work, ignore_errors=True)
        raise
    shutil.rmtree(job.work, ignore_errors=True)
