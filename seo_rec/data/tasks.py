"""What one process does of a preparation by many: tasks that can be done in any process, and again.

The tasks are of these kinds, in this order:

    cut     a raw file into pieces
    hash    a raw file: its SHA-256
    read    a piece: parse and encode its rows
    measure the numbers of some training rows, where a rule needs them
    count   the training ids of some pieces
    merge   the counts of one column, prune them, write the vocabulary
    write   one shard of a split

A row's split follows from its number among all rows, so ``count`` and ``write`` begin when all
pieces are read. Every file is written under another name first, and its bytes depend on the raw
files and the settings alone; it does no harm if two processes do one task.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seo_rec.data.numeric import Fit
from seo_rec.data.pieces import cut
from seo_rec.data.rawfile import BadRows, Intake, Piece, Problem, file_sha256
from seo_rec.data.shards import ShardWriter
from seo_rec.data.sketch import DistinctSketch
from seo_rec.data.tally import flat_ids, positives
from seo_rec.data.vocabulary import IdCounter, write_vocabulary
from seo_rec.data.work import Task, Work
from seo_rec.files import checksum, write_json
from seo_rec.schema import DataError


class _PieceIntake(Intake):
    """Keeps the bad rows of a piece; whether they are too many is known when all are read."""

    def __init__(self, bad_rows: BadRows, piece: Piece) -> None:
        super().__init__(bad_rows, piece)
        self.problems: list[Problem] = []

    def reject(self, problem: Problem) -> None:
        self.problems.append(problem)
        if self.bad_rows.action == "error" or len(self.problems) > self.bad_rows.max_bad:
            raise _Stopped


class _Stopped(Exception):
    """No more rows of a piece need to be read, because of the bad rows before."""


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    yield temporary
    os.replace(temporary, path)


def _move(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, place)


class Job(Work):
    """A preparation as each of its processes sees it: its tasks in order, and how they are done."""

    _abandoned = False

    def abandon(self) -> None:
        """End what other threads of this process read of raw files, without a record of it."""
        self._abandoned = True

    def _go_on(self) -> None:
        if self._abandoned:
            raise CancelledError

    def perform(self, task: Task) -> None:
        """Do a task, unless it has been done.

        Raises:
            CancelledError: The job was abandoned.
            DataError: A raw file is missing or damaged.
            OSError: The system refuses a file.
        """
        if not self.is_done(task):
            write_json(self.place(task), getattr(self, f"_{task.kind}")(task.number))

    def stages(self) -> Iterator[list[Task]]:
        """Lists of tasks; those in one list can be done at once, after the lists before it."""

        def tasks(kind: str, number: int) -> list[Task]:
            return [Task(kind, i) for i in range(number)]

        files = len(self.source.paths)
        yield tasks("cut", files)
        yield [*tasks("hash", files), *tasks("read", len(self.pieces))]
        if self.source.numeric:
            yield tasks("measure", len(self.training_shards))
        counts, writes = tasks("count", len(self.groups)), tasks("write", len(self.shards))
        merges = tasks("merge", len(self.embedded))
        if self.pruning.is_active:  # rows are written with the ids that stay
            yield counts
            yield merges
            yield writes
        else:
            yield sorted([*writes, *counts], key=self.rows_of_task, reverse=True)
            yield merges

    # ---- the tasks -------------------------------------------------------------------------

    def _cut(self, number: int) -> dict[str, Any]:
        assert self.source.quoted is not None
        path = self.source.paths[number]
        pieces = cut(path, self.source.quoted(path), between=self._go_on)
        entries = [asdict(piece) for piece in pieces]
        return {"pieces": [{k: v for k, v in p.items() if k != "path"} for p in entries]}

    def _hash(self, number: int) -> dict[str, Any]:
        intake = Intake()
        file_sha256(self.source.paths[number], intake, between=self._go_on)
        return dict(intake.sources[0])

    def _read(self, number: int) -> dict[str, Any]:
        piece = self.pieces[number]
        intake = _PieceIntake(self.bad_rows, piece)
        rows, stopped, error = 0, False, None
        schema = self.source.arrow_schema()
        with (
            _new_file(self.work / "rows" / f"{number}.arrow") as path,
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, schema) as writer,
        ):
            try:
                for table in self.source.read(intake):
                    rows += table.num_rows
                    writer.write_table(table)
            except _Stopped:
                stopped = True
            except DataError as fault:
                error = str(fault)
        problems = [{**asdict(p), "path": None} for p in intake.problems]
        found = {"rows": rows, "lines": intake.lines_read, "problems": problems}
        return {**found, "stopped": stopped, "error": error}

    def _measure(self, number: int) -> dict[str, Any]:
        fits = {name: Fit(plan) for name, plan in self.source.numeric.items()}
        for table in self.rows_of_shard("train", number, list(fits)):
            for name, fit in fits.items():
                fit.add(table[name].to_numpy())
        return {name: fit.measured() for name, fit in fits.items()}

    def _count(self, number: int) -> dict[str, Any]:
        counters = {
            name: IdCounter() if self.pruning.counted else DistinctSketch()
            for name in self.embedded
        }
        for piece in self.groups[number]:
            for table in self.rows(piece, "train", 0, sys.maxsize, self.embedded):
                for name, counter in counters.items():
                    counter.add(flat_ids(table[name]))
        arrays: dict[str, Any] = {}
        for column, counter in enumerate(counters.values()):
            if isinstance(counter, DistinctSketch):
                arrays[f"ids{column}"], arrays[f"counts{column}"] = counter.hashes, counter.total
            else:
                arrays[f"ids{column}"], arrays[f"counts{column}"] = counter.result()
        with _new_file(self.work / "counts" / f"{number}.npz") as path, path.open("wb") as file:
            np.savez(file, **arrays)
        return {}

    def _merge(self, number: int) -> dict[str, Any]:
        counter, sketch = IdCounter(), DistinctSketch()
        for group in range(len(self.groups)):
            with np.load(self.work / "counts" / f"{group}.npz") as arrays:
                ids, counts = arrays[f"ids{number}"], arrays[f"counts{number}"]
            if self.pruning.counted:
                counter.add_counted(ids, counts)
            else:
                sketch.merge(ids, int(counts))
        if not self.pruning.counted:
            return {"distinct": sketch.distinct(), "lookups": sketch.total, "files": {}}
        name = self.embedded[number]
        ids, counts, kept = self.pruning.vocabulary(name, *counter.result())
        if kept is not None:
            with _new_file(self.work / "kept" / f"{number}.npy") as path, path.open("wb") as file:
                np.save(file, kept)
        scratch = self.work / f"vocabulary-{number}-{os.getpid()}"
        scratch.mkdir(parents=True, exist_ok=True)
        written = write_vocabulary(scratch, name, ids, counts)
        files = {written.relative_to(scratch).as_posix(): checksum(written)}
        _move(written, self.work / "data" / written.relative_to(scratch))
        shutil.rmtree(scratch, ignore_errors=True)
        return {"distinct": len(ids), "lookups": int(counts.sum()), "files": files}

    def _write(self, number: int) -> dict[str, Any]:
        split, shard = self.shards[number]
        rows = positive = 0
        scratch = self.work / f"shard-{number}-{os.getpid()}"
        shutil.rmtree(scratch, ignore_errors=True)
        schema = self.source.final_schema(self.finish.final_columns)
        with ShardWriter(scratch, schema) as writer:
            for table in self.rows_of_shard(split, shard):
                rows += table.num_rows
                positive += positives(table[self.source.label])
                changed = self.finish.is_needed
                writer.write(self.finish.finished(table, schema) if changed else table)
        (written,) = scratch.iterdir()
        entry = checksum(written)
        name = f"{split}/part-{shard:05d}.parquet"
        _move(written, self.work / "data" / name)
        shutil.rmtree(scratch, ignore_errors=True)
        counted = {"split": split, "rows": rows, "positives": positive}
        return {**counted, "files": {name: entry}}

    # ---- bad rows --------------------------------------------------------------------------

    def intake(self) -> Intake:
        """The account of all pieces that one process would have kept; needs all ``hash`` tasks.

        Raises:
            DataError: A row or a file is bad; it is the one that one process would have met first.
        """
        intake, lines, before = Intake(self.bad_rows), 0, None
        for number, piece in enumerate(self.pieces):
            if not self.is_done(Task("read", number)):
                break  # the tasks stopped at an error, which is in a record before this one
            found = self.record("read", number)
            lines = lines if piece.path == before else 0
            shift = lines if piece.start and piece.line == 1 else 0
            for problem in found["problems"]:
                row = Problem(**{**problem, "path": piece.path, "line": problem["line"] + shift})
                intake.reject(row)
            if found["error"]:
                self._raise_again(replace(piece, line=piece.line + shift), found["error"])
            lines, before = lines + found["lines"], piece.path
        for number in range(len(self.source.paths)):
            intake.sources.append(self.record("hash", number))
        return intake

    def stops(self, number: int) -> bool:
        """Whether nothing behind this piece needs to be read; the piece has been read."""
        found = self.record("read", number)
        return bool(found["error"] or found["stopped"])

    def _raise_again(self, piece: Piece, said: str) -> None:
        """Read a bad piece once more, now that the number of its first line is known."""
        for _ in self.source.read(Intake(self.bad_rows, piece)):
            pass
        raise DataError(said)
