"""Processes of one machine that prepare together: forks, kills, stops and what they see."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from parallel_rows import COLUMNS, contents, rows_of_files
from seo_rec.data import local_processes, parallel, pieces, rawfile
from seo_rec.data.criteo import criteo_source
from seo_rec.data.local_processes import LostProcessError
from seo_rec.data.parallel import Workers, prepare_by
from seo_rec.data.rawfile import BadRows, Intake
from seo_rec.data.source import Source
from seo_rec.data.split import Split
from seo_rec.data.table import table_source
from seo_rec.data.tasks import Job
from seo_rec.data.vocabulary import Pruning
from seo_rec.data.work import Task
from seo_rec.schema import Schema


def deadly_source(raw: list[Path], deaths: Path) -> Source:
    """The process that reads the fourth file is killed, as often as ``deaths`` has lines."""
    source = table_source(raw, COLUMNS)

    def read(intake: Intake) -> Iterator[Any]:
        left = deaths.read_text().splitlines()
        if intake.piece is not None and intake.piece.path.name == "3.csv" and left:
            deaths.write_text("\n".join(left[1:]))
            os.kill(os.getpid(), signal.SIGKILL)
        yield from source.read(intake)

    from dataclasses import replace

    return replace(source, read=read)


@pytest.mark.slow
def test_a_killed_process_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, deaths, out = rows_of_files(tmp_path), tmp_path / "deaths", tmp_path / "out"
    deaths.write_text("")
    rules: dict[str, Any] = {"split": Split(), "pruning": Pruning(), "bad_rows": BadRows()}
    make = partial(deadly_source, raw, deaths)
    prepare_by(Workers(), make, tmp_path / "one", **rules)

    deaths.write_text("\n".join("123456"))
    monkeypatch.setattr(local_processes, "DEATHS", 2)
    monkeypatch.setattr(local_processes, "MEANWHILE", ())  # or this process is killed
    with pytest.raises(LostProcessError, match="the same command goes on"):
        prepare_by(Workers(2), make, out, **rules)
    work = tmp_path / ".out.parallel.part"
    kept = {p.name: p.stat().st_mtime_ns for p in (work / "records").glob("read-*")}
    assert len(kept) >= 2
    assert not out.exists()

    deaths.write_text("1")  # dies once more, and another process takes its place
    written: dict[str, int] = {}
    inner = parallel.finish

    def finish(folder: Path, schema: Schema) -> None:
        written.update({p.name: p.stat().st_mtime_ns for p in (work / "records").glob("read-*")})
        inner(folder, schema)

    monkeypatch.setattr(parallel, "finish", finish)
    prepare_by(Workers(2), make, out, **rules)
    assert {name: time for name, time in written.items() if name in kept} == kept
    assert contents(out) == contents(tmp_path / "one")
    assert not work.exists()


def telling_source(raw: list[Path], told: Path) -> Source:
    """A source that writes who reads a piece, with which variable, and in which modules."""
    source = table_source(raw, COLUMNS)

    def read(intake: Intake) -> Iterator[Any]:
        if intake.piece is not None:
            said = [os.getpid(), os.getppid(), os.environ.get("SEO_REC_TOLD"), os.getcwd()]
            (told / intake.piece.path.name).write_text(json.dumps(said))
        yield from source.read(intake)

    return replace(source, read=read)


@pytest.mark.parametrize("server", ["own", "earlier", "none"])
def test_processes_are_forks_of_a_server_and_see_what_this_one_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    """Also where the server is older than a variable, and where the system has no such server.

    The server ends with the preparation that started it, and one that ran before goes on.
    """
    raw, told = rows_of_files(tmp_path), tmp_path / "told"
    told.mkdir()
    rules: dict[str, Any] = {"split": Split(), "pruning": Pruning(), "bad_rows": BadRows()}
    prepare_by(Workers(), partial(table_source, raw, COLUMNS), tmp_path / "one", **rules)
    if server == "none":
        monkeypatch.setattr(local_processes, "has_fork_server", lambda: False)
    if server == "earlier":
        assert local_processes.start_server(table_source(raw, COLUMNS))
    monkeypatch.setattr(local_processes, "MEANWHILE", ())
    monkeypatch.chdir(told)
    monkeypatch.setenv("SEO_REC_TOLD", "a")
    prepare_by(Workers(2), partial(telling_source, raw, told), tmp_path / "two", **rules)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    said = [json.loads(path.read_text()) for path in told.iterdir()]
    assert len(said) == len(raw)
    assert {(seen, folder) for _, _, seen, folder in said} == {("a", str(told))}
    (parent,) = {parent for _, parent, _, _ in said}
    assert (parent != os.getpid()) == (server != "none")
    if server == "earlier":
        os.kill(parent, 0)  # it is there
        local_processes.stop_server()
    if server != "none":
        with pytest.raises(ProcessLookupError):
            os.kill(parent, 0)


class SlowSum:
    """A checksum that takes its time for every block in a thread, and counts them."""

    blocks = 0

    def update(self, _: bytes) -> None:
        if threading.current_thread() is not threading.main_thread():
            SlowSum.blocks += 1
            time.sleep(0.01)

    def hexdigest(self) -> str:
        return "0" * 64


@pytest.fixture
def slow_sum(monkeypatch: pytest.MonkeyPatch) -> int:
    """Checksums that a thread takes need about five seconds; returns the blocks of one."""
    monkeypatch.setattr(SlowSum, "blocks", 0)
    monkeypatch.setattr(rawfile, "hashlib", SimpleNamespace(sha256=SlowSum))
    monkeypatch.setattr(rawfile, "_READ_BYTES", 10)
    return 500


@pytest.mark.parametrize("kind", ["hash", "cut"])
def test_a_stop_does_not_wait_for_what_a_thread_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_sum: int, kind: str
) -> None:
    """Of a large file, Ctrl-C would wait for minutes otherwise."""
    raw = tmp_path / "raw.csv"
    raw.write_bytes(b"y,u,t,x,m\n" + b"1,2,3,4,5\n" * (slow_sum - 1))
    make = partial(table_source, [raw], COLUMNS)
    job = Job(make(), tmp_path / "work", Split(), Pruning(), BadRows())
    monkeypatch.setattr(pieces, "PIECE_BYTES", 10)

    def slow_rows(*of: Any) -> Iterator[int]:
        for end in range(20, 5_000, 10):
            SlowSum().update(b"")
            yield end

    monkeypatch.setattr(pieces, "_row_ends", slow_rows)

    def interrupted() -> Iterator[Any]:
        while not SlowSum.blocks:
            time.sleep(0.01)
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(local_processes, "as_completed", lambda _: interrupted())
    with pytest.raises(KeyboardInterrupt), local_processes.LocalProcesses(job, make, 2) as group:
        group.run([Task(kind, 0)], print)
    assert SlowSum.blocks < slow_sum // 2
    assert not job.is_done(Task(kind, 0))


class Here:
    """Does what is submitted at once, in this thread."""

    def __init__(self, job: Job) -> None:
        self.job, self.tasks = job, list[Task]()

    def submit(self, _: Callable[[Task], None], task: Task) -> Future[None]:
        self.tasks.append(task)
        self.job.perform(task)
        done = Future[None]()
        done.set_result(None)
        return done


def opened(pool: object = None) -> Future[Any]:
    """What waits for a pool of processes: it is there, or not yet if there is none."""
    opening = Future[Any]()
    if pool is not None:
        opening.set_result(pool)
    return opening


def test_this_process_reads_while_the_others_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, told = rows_of_files(tmp_path), tmp_path / "told"
    told.mkdir()
    make = partial(telling_source, raw, told)
    job = Job(make(), tmp_path / "work", Split(), Pruning(), BadRows())
    for number in range(len(raw)):
        job.perform(Task("cut", number))
    opening, others = opened(), Here(job)

    def told_of(number: int) -> None:
        if number == 2:
            opening.set_result(others)

    monkeypatch.setattr(local_processes.LocalProcesses, "_opened", lambda _: opening)
    tasks = [Task("read", number) for number in range(len(raw))]
    with local_processes.LocalProcesses(job, make, 2) as group:
        group.run(tasks, told_of)
    assert all(job.is_done(task) for task in tasks)
    assert others.tasks == tasks[2:]


class Pool(Here):
    """The same, and can be ended."""

    _processes = None

    def shutdown(self, **_: Any) -> None:
        pass


def test_a_checksum_that_is_being_taken_does_not_hold_up_processes_that_are_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it taken a second time beside the first."""
    raw = rows_of_files(tmp_path)[:1]
    make = partial(table_source, raw, COLUMNS)
    job = Job(make(), tmp_path / "work", Split(), Pruning(), BadRows())
    job.perform(Task("cut", 0))
    perform, begun, read = job.perform, list[Task](), threading.Event()

    def slow(task: Task) -> None:
        if task.kind == "hash" and not job.is_done(task):
            begun.append(task)
            assert read.wait(10)
        perform(task)

    def opened(_: object) -> Pool:
        if next(times) == 0:
            raise BrokenProcessPool
        return Pool(job)

    def told_of(_: int) -> None:
        if job.is_done(Task("read", 0)):
            read.set()

    times = count()
    monkeypatch.setattr(job, "perform", slow)
    monkeypatch.setattr(local_processes, "MEANWHILE", ())
    monkeypatch.setattr(local_processes.LocalProcesses, "_open", opened)
    with local_processes.LocalProcesses(job, make, 2) as group:
        group.run([Task("hash", 0), Task("read", 0)], told_of)
    assert begun == [Task("hash", 0)]
    assert job.is_done(Task("hash", 0))


@pytest.mark.parametrize("others_are_there", [True, False])
def test_a_bad_row_is_named_before_the_checksum_of_its_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_sum: int, others_are_there: bool
) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_bytes(b"y,u,t,x,m\n2,bad,3,4,5\n" + b"1,2,3,4,5\n" * (slow_sum - 3))
    make = partial(table_source, [raw], COLUMNS)
    job = Job(make(), tmp_path / "work", Split(), Pruning(), BadRows())
    job.perform(Task("cut", 0))
    opening = opened(Here(job) if others_are_there else None)
    monkeypatch.setattr(local_processes.LocalProcesses, "_opened", lambda _: opening)
    with local_processes.LocalProcesses(job, make, 2) as group:
        group.run([Task("hash", 0), Task("read", 0)], print)
    assert job.stops(0)
    assert SlowSum.blocks < slow_sum // 2
    assert not job.is_done(Task("hash", 0))


def test_nothing_that_the_server_imports_starts_a_thread_of_arrow() -> None:
    """A fork has no thread but one, and would wait for the others for ever."""
    source = criteo_source(__file__, embed_numeric=False, missing="token")
    names = local_processes.preloaded(source)
    assert {"seo_rec.data.local_processes", "seo_rec.data.criteo"} <= set(names)
    code = (
        "import pathlib, sys\n"
        f"for name in {names!r}: __import__(name)\n"
        "print([p.joinpath('comm').read_text().strip() "
        "for p in pathlib.Path('/proc/self/task').iterdir()], 'torch' in sys.modules)"
    )
    alone = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **alone},
        check=True,
        capture_output=True,
        text=True,
    )
    threads = [name for name in done.stdout.split("'")[1::2] if name != "jemalloc_bg_thd"]
    assert len(threads) == 1, done.stdout
    assert done.stdout.strip().endswith("False")
