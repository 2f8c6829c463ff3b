"""Raw rows to a prepared data set: split, count, prune, write (the format: ``schema.py``).

Every source (``movielens``, ``criteo``, ``avazu``, ``table``, ``synthetic``) hands over a
:class:`Source`; :func:`prepare` streams it. Memory holds a few blocks and the distinct ids with
their counts, never the rows:

    pass 1  read, encode (a second thread) -> split -> shards, counting training ids
    pass 2  temporal split only: the rows must be counted, or put in order, to be divided
    pass 3  what needs all training rows (``finishing.py``): pruned vocabularies, scaled numbers

The folder appears at its place only when all of it is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seo_rec.data.completion import finish, require_training_rows, schema_of
from seo_rec.data.finishing import Finish
from seo_rec.data.integrity import file_checksums
from seo_rec.data.progress import ProgressBar
from seo_rec.data.publish import published
from seo_rec.data.rawfile import BadRows, Intake
from seo_rec.data.read_ahead import ReadAhead
from seo_rec.data.shards import ShardWriter, read_shards
from seo_rec.data.sketch import DistinctSketch
from seo_rec.data.source import Assign, Source
from seo_rec.data.split import Split
from seo_rec.data.tally import Counted, Tally
from seo_rec.data.time_order import in_order
from seo_rec.data.tokens import Ids
from seo_rec.data.vocabulary import IdCounter, Pruning, write_kept, write_vocabulary
from seo_rec.files import new_folder
from seo_rec.schema import SPLITS, DataError, Schema

_AHEAD = 2  # blocks


def prepare(
    source: Source,
    out: Path | str,
    *,
    split: Split,
    pruning: Pruning,
    bad_rows: BadRows,
    progress: bool = False,
) -> Schema:
    """Write ``source`` as a prepared data set at ``out``, which may be a URL.

    Raises:
        DataError: bad input; nothing is left at ``out``.
        FileExistsError: ``out`` exists and is not an empty folder.
    """
    pruning.require_columns(source.embedded)
    if source.group and split.rule == "temporal":
        raise DataError("a temporal split cannot keep groups together; leave out one of the two")
    intake = Intake(bad_rows)
    with published(out) as local, new_folder(local) as folder, ProgressBar(progress) as bar:
        work = folder / ".work"
        splits = work / "splits" if pruning.is_active or source.is_measured else folder
        tally = Tally(source, pruning)
        with ExitStack() as stack:
            tables = _first_pass(source, intake, bar, stack)
            assign = Assign(source, split)
            if split.rule == "temporal" and source.placed is None:
                tables = _second_pass(tables, assign, work / "rows", bar, stack)
            _divide(tables, source, assign, splits, tally)
        shutil.rmtree(work / "rows", ignore_errors=True)
        require_training_rows(source, split, tally.num_rows, intake)
        kept = _write_vocabularies(source, pruning, tally, folder)
        last = tally.finish(source, kept)
        if last.is_needed:
            _finish(last, source, splits, folder, bar, sum(tally.num_rows.values()))
            for name, counter in last.counters.items():
                _write_vocabulary(name, counter, pruning, tally, folder)
        elif splits != folder:
            for name in SPLITS:
                (splits / name).rename(folder / name)
        shutil.rmtree(work, ignore_errors=True)
        counted = Counted(
            tally.num_rows, tally.positives, tally.sizes, tally.targets, tally.more_positives
        )
        schema = schema_of(source, assign, pruning, intake, counted, last)
        schema = replace(schema, files=file_checksums(folder))
        finish(folder, schema)
    return schema


def _first_pass(
    source: Source, intake: Intake, bar: ProgressBar, stack: ExitStack
) -> Iterator[Any]:
    total = sum(path.stat().st_size for path in source.paths)
    bar.begin("read", total)
    rows = 0
    for table in _ahead(source.read(intake), stack):
        rows += table.num_rows
        bar.update(intake.bytes_read, rows, intake.bytes_read if total else None)
        yield table
    bar.update(intake.bytes_read, rows, intake.bytes_read if total else None)


def _second_pass(
    tables: Iterator[Any], assign: Assign, folder: Path, bar: ProgressBar, stack: ExitStack
) -> Iterator[Any]:
    """The rows once more, in order of time if there is one, when ``assign`` knows all of them."""
    schema, time = assign.source.spool_schema(), assign.source.time
    times: list[Any] = []
    with ShardWriter(folder, schema) as writer:
        for table in tables:
            writer.write(table)
            if time is not None:
                times.append(table[time].to_numpy())
    assign.num_rows = writer.num_rows
    bar.begin("split", writer.num_rows)
    again = read_shards(folder)
    if time is not None and times:
        all_times = np.concatenate(times)
        assign.ends = assign.split.ends_of(np.sort(all_times))
        again = in_order(folder, schema, time, all_times)
    rows = 0
    for table in _ahead(again, stack):
        rows += table.num_rows
        bar.update(rows, rows)
        yield table


def _divide(
    tables: Iterator[Any], source: Source, assign: Assign, folder: Path, tally: Tally
) -> None:
    schema = source.arrow_schema()
    first = 0
    with ExitStack() as stack:
        writers = [stack.enter_context(ShardWriter(folder / name, schema)) for name in SPLITS]
        for table in tables:
            place = assign(table, first)
            if source.negative_rate < 1:
                place = np.where(assign.is_dropped(table, first, place), -1, place)
            first += table.num_rows
            table = table.select(schema.names)
            for index, name in enumerate(SPLITS):
                chosen = np.flatnonzero(place == index)
                if len(chosen):
                    part = table if len(chosen) == len(place) else table.take(pa.array(chosen))
                    writers[index].write(part)
                    tally.add(name, part)


def _finish(
    last: Finish, source: Source, splits: Path, folder: Path, bar: ProgressBar, rows: int
) -> None:
    bar.begin("finish", rows)
    schema = source.final_schema(last.final_columns)
    with ExitStack() as stack:
        last.run(splits, folder, schema, partial(_ahead, stack=stack), bar.update)


def _write_vocabularies(
    source: Source, pruning: Pruning, tally: Tally, folder: Path
) -> dict[str, Ids]:
    """Write the vocabularies, note their sizes, and return the ids kept in the pruned columns."""
    kept_ids: dict[str, Ids] = {}
    for name in source.embedded:
        kept = _write_vocabulary(name, tally.counters.pop(name), pruning, tally, folder)
        if kept is not None:
            kept_ids[name] = kept
            if pruning.earlier is not None:
                write_kept(folder, name, kept)
    return kept_ids


def _write_vocabulary(
    name: str, counter: IdCounter | DistinctSketch, pruning: Pruning, tally: Tally, folder: Path
) -> Ids | None:
    """Write a vocabulary if ids are counted, note its size, and return the ids kept if pruned."""
    if isinstance(counter, DistinctSketch):
        tally.sizes[name] = counter.distinct(), counter.total
        return None
    ids, counts, kept = pruning.vocabulary(name, *counter.result())
    tally.sizes[name] = len(ids), int(counts.sum())
    if pruning.counted:
        write_vocabulary(folder, name, ids, counts)
    return kept


def _ahead(items: Iterator[Any], stack: ExitStack) -> Iterator[Any]:
    """``items``, produced by a second thread a few steps ahead; ``stack`` stops the thread."""
    ahead = ReadAhead(items, _AHEAD)
    stack.callback(ahead.close)
    return iter(ahead)
