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

import importlib.metadata
import logging
import platform
import queue
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seo_rec.data.finishing import Finish
from seo_rec.data.integrity import file_checksums
from seo_rec.data.numeric import BY_COLUMN, Fit
from seo_rec.data.progress import ProgressBar
from seo_rec.data.publish import published
from seo_rec.data.rawfile import BadRows, Intake
from seo_rec.data.shards import ShardWriter, large_columns, large_numbers, read_shards
from seo_rec.data.sketch import DistinctSketch
from seo_rec.data.source import Assign, Source
from seo_rec.data.split import Split
from seo_rec.data.spread import Spread
from seo_rec.data.time_order import in_order
from seo_rec.data.tokens import MISSING, Ids
from seo_rec.data.vocabulary import IdCounter, Pruning, write_kept, write_vocabulary
from seo_rec.files import new_folder
from seo_rec.schema import BINARY, REGRESSION, SPLITS, Column, DataError, Schema, write_schema

log = logging.getLogger(__name__)

_AHEAD = 2


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
        tally = _Tally(source, pruning)
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


def finish(folder: Path, schema: Schema) -> None:
    """Write ``schema.json``, which completes a data set, and warn of large numbers."""
    write_schema(folder, schema)
    numeric = [column.name for column in schema.numeric]
    if large := large_columns(islice(read_shards(folder / "train"), 1), numeric):
        log.warning("%s", large_numbers(large))


@dataclass(frozen=True)
class Counted:
    """What was counted: rows and positive labels by split; distinct ids and all ids by column.

    ``targets`` has mean and deviation of the labels by split, where they may be any numbers.
    ``more_positives`` has the positive labels by split of each further label.
    """

    num_rows: Mapping[str, int]
    positives: Mapping[str, int]
    sizes: Mapping[str, tuple[int, int]]
    targets: Mapping[str, Spread] = field(default_factory=dict)
    more_positives: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class _Tally:
    """Row, label and id counts of the splits as they are written."""

    def __init__(self, source: Source, pruning: Pruning) -> None:
        self.num_rows = dict.fromkeys(SPLITS, 0)
        self.positives = dict.fromkeys(SPLITS, 0)
        self.more_positives = {name: dict.fromkeys(SPLITS, 0) for name in source.more_labels}
        kind = IdCounter if pruning.counted else DistinctSketch
        self.counters: dict[str, IdCounter | DistinctSketch] = {
            name: kind() for name in source.embedded
        }
        self.sizes: dict[str, tuple[int, int]] = {}
        measured = source.numeric if source.figures is None else {}
        self.fits = {name: Fit(plan) for name, plan in measured.items()}
        self.weights = dict.fromkeys(SPLITS, 0.0)
        self.targets = {name: Spread() for name in SPLITS}
        self._label, self._kind, self._weight = source.label, source.label_kind, source.weight

    def add(self, split: str, table: Any) -> None:
        self.num_rows[split] += table.num_rows
        if self._kind == REGRESSION:
            self.targets[split].add(table[self._label].to_numpy().astype(np.float64))
        else:
            self.positives[split] += positives(table[self._label])
        for name, counts in self.more_positives.items():
            counts[split] += positives(table[name])
        if self._weight:
            self.weights[split] += float(table[self._weight].to_numpy().sum(dtype=np.float64))
        if split == "train":
            for name, counter in self.counters.items():
                counter.add(flat_ids(table[name]))
            for name, fit in self.fits.items():
                fit.add(table[name].to_numpy())

    def finish(self, source: Source, kept: Mapping[str, Ids]) -> Finish:
        """What is left to do with the rows, now that those of training are known."""
        if source.figures is not None:
            rules, mean = source.figures.rules, source.figures.mean_weight
        else:
            rules = {name: fit.rule() for name, fit in self.fits.items()}
            mean = self.weights["train"] / self.num_rows["train"]
        if source.weight and not mean > 0:
            raise DataError(f"all weights of the train split are 0 (column {source.weight!r})")
        return Finish(
            source.columns,
            kept,
            rules,
            str(source.options.get("missing", "token")),
            source.weight,
            mean if source.weight else 1.0,
        )


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
    tables: Iterator[Any], source: Source, assign: Assign, folder: Path, tally: _Tally
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


def require_training_rows(
    source: Source, split: Split, num_rows: Mapping[str, int], intake: Intake
) -> None:
    """DataError unless the train split has rows; with the figures of earlier data, any split."""
    needed = num_rows["train"] if source.figures is None else sum(num_rows.values())
    if needed == 0:
        raise DataError(
            f"{source.dataset}: no rows in the train split of {sum(num_rows.values())} rows "
            f"({intake.num_bad} skipped as bad); give more rows or other fractions than "
            f"{split.shares}"
        )


def _write_vocabularies(
    source: Source, pruning: Pruning, tally: _Tally, folder: Path
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
    name: str, counter: IdCounter | DistinctSketch, pruning: Pruning, tally: _Tally, folder: Path
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


def positives(labels: Any) -> int:
    """The number of labels that are 1."""
    return int(labels.to_numpy().sum(dtype=np.float64))


def flat_ids(column: Any) -> Ids:
    """All ids of a categorical or multivalent column, nulls left out."""
    parts = []
    for chunk in column.chunks:
        values = chunk.flatten() if pa.types.is_list(chunk.type) else chunk
        parts.append((values.drop_null() if values.null_count else values).to_numpy())
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def schema_of(
    source: Source,
    assign: Assign,
    pruning: Pruning,
    intake: Intake,
    counted: Counted,
    last: Finish,
) -> Schema:
    """The schema of a prepared data set, without the checksums of its files."""
    columns = []
    for name, kind in last.final_columns:
        if kind == "numeric":
            columns.append(Column(name, kind))
        else:
            distinct, lookups = counted.sizes[name]
            columns.append(
                Column(name, kind, distinct, lookups / max(1, counted.num_rows["train"]))
            )
    rules = {name: rule.to_json() for name, rule in last.rules.items()}
    return Schema(
        dataset=source.dataset,
        columns=tuple(columns),
        label=source.label,
        num_rows=counted.num_rows,
        label_rate=_rates(counted.positives, counted.num_rows)
        if source.label_kind == BINARY
        else {name: spread.mean for name, spread in counted.targets.items()},
        split=assign.to_json(),
        time=source.time,
        weight=source.weight,
        sources=tuple(intake.sources),
        options={
            **source.options,
            **source.findings(),
            **({"like": source.figures.fingerprint} if source.figures else {}),
            **({"numeric_rule": BY_COLUMN, "numeric_columns": rules} if rules else {}),
            **({"mean_weight": last.mean_weight} if source.weight else {}),
            **({"negative_rate": source.negative_rate} if source.negative_rate < 1 else {}),
            "token_rule": source.token_rule,
            "missing_id": MISSING,
            "vocabulary": pruning.to_json(),
            "bad_rows": {
                "action": intake.bad_rows.action,
                "skipped": intake.num_bad,
                "examples": intake.examples,
            },
        },
        versions=versions(),
        label_kind=source.label_kind,
        label_std={}
        if source.label_kind == BINARY
        else {name: spread.std for name, spread in counted.targets.items()},
        more_labels=source.more_labels,
        more_label_rates={
            name: _rates(positive, counted.num_rows)
            for name, positive in counted.more_positives.items()
        },
    )


def _rates(positive: Mapping[str, int], num_rows: Mapping[str, int]) -> dict[str, float]:
    """The share of positive labels by split, 0 where there are no rows."""
    return {name: positive[name] / rows if rows else 0.0 for name, rows in num_rows.items()}


def versions() -> dict[str, str]:
    """The versions of what wrote a data set."""
    wheels = {wheel: _version(wheel) for wheel in ("seo-rec", "numpy", "pyarrow")}
    return {"python": platform.python_version(), **wheels}


def _version(wheel: str) -> str:
    try:
        return importlib.metadata.version(wheel)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _ahead(items: Iterator[Any], stack: ExitStack) -> Iterator[Any]:
    """``items``, produced by a second thread a few steps ahead; ``stack`` stops the thread."""
    slots: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=_AHEAD)
    stopped = threading.Event()

    def put(kind: str, value: Any) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                slots.put((kind, value), timeout=0.1)
                return

    def produce() -> None:
        try:
            for item in items:
                put("item", item)
                if stopped.is_set():
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    def stop() -> None:
        stopped.set()
        thread.join()

    thread = threading.Thread(target=produce, name="prepare-reader", daemon=True)
    thread.start()
    stack.callback(stop)
    while True:
        kind, value = slots.get()
        if kind == "end":
            return
        if kind == "error":
            raise value
        yield value
