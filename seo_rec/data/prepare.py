"""Raw rows to a prepared data set: split, count, prune, write (the format: ``schema.py``).

Every source (``movielens``, ``criteo``, ``avazu``, ``table``, ``synthetic``) hands over a
:class:`Source`; :func:`prepare` streams it. Memory holds a few blocks and the distinct ids with
their counts, never the rows:

    pass 1  read, encode (a second thread) -> split -> shards, counting training ids
    pass 2  temporal split only: the rows must be counted before they can be divided
    pass 3  pruned vocabularies only: ids outside the kept set -> out of vocabulary

The folder appears at its place only when all of it is written.
"""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seo_rec.data.integrity import file_checksums
from seo_rec.data.progress import ProgressBar
from seo_rec.data.publish import published
from seo_rec.data.rawfile import BadRows, Intake
from seo_rec.data.shards import ShardWriter, large_columns, large_numbers, read_shards
from seo_rec.data.sketch import DistinctSketch
from seo_rec.data.split import Split
from seo_rec.data.tokens import MISSING, MISSING_RULES, TOKEN_RULE, Ids
from seo_rec.data.vocabulary import IdCounter, Pruning, prune, write_vocabulary
from seo_rec.files import new_folder
from seo_rec.schema import SPLITS, Column, DataError, Schema, write_schema

log = logging.getLogger(__name__)

ARROW_TYPES: Mapping[str, Any] = {
    "categorical": pa.int64(),
    "multivalent": pa.list_(pa.int64()),
    "numeric": pa.float32(),
}
_AHEAD = 2


@dataclass(frozen=True)
class Source:
    """Encoded rows to come, and what to say about them.

    Args:
        columns: (name, kind) in model order, without the label.
        paths: the raw files, for the progress bar.
        read: yields tables that hold ``columns`` and the label in this order, typed as in
            :func:`arrow_schema`; files, bytes and bad rows are accounted in the Intake.
        options: everything that shaped the rows, for ``schema.options``.
        findings: more entries for ``schema.options``, asked for when all rows were read.
        quoted: the delimiter of a text file with a header and quoted cells, or None for a file
            without both. A source that has this can be read in pieces by several processes.
    """

    dataset: str
    columns: tuple[tuple[str, str], ...]
    label: str
    paths: tuple[Path, ...]
    read: Callable[[Intake], Iterator[Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    findings: Callable[[], Mapping[str, Any]] = dict
    quoted: Callable[[Path], str | None] | None = None

    @property
    def categorical(self) -> tuple[str, ...]:
        """Names of the columns that hold one id per row."""
        return tuple(name for name, kind in self.columns if kind == "categorical")

    @property
    def embedded(self) -> tuple[str, ...]:
        """Names of the columns that hold ids."""
        return tuple(name for name, kind in self.columns if kind != "numeric")

    def arrow_schema(self) -> Any:
        return pa.schema(
            [(name, ARROW_TYPES[kind]) for name, kind in self.columns]
            + [(self.label, pa.float32())]
        )


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
    intake = Intake(bad_rows)
    with published(out) as local, new_folder(local) as folder, ProgressBar(progress) as bar:
        work = folder / ".work"
        splits = work / "splits" if pruning.is_active else folder
        tally = _Tally(source, pruning)
        with ExitStack() as stack:
            tables = _first_pass(source, intake, bar, stack)
            if split.rule == "temporal":
                num_rows = _spool(tables, source, work / "rows")
                tables = _second_pass(work / "rows", num_rows, bar, stack)
            else:
                num_rows = None
            _divide(tables, source, split, splits, tally, num_rows)
        shutil.rmtree(work / "rows", ignore_errors=True)
        require_training_rows(source, split, tally.num_rows, intake)
        kept = _write_vocabularies(source, pruning, tally, folder)
        if kept:
            bar.begin("prune", sum(tally.num_rows.values()))
            _prune_splits(source, kept, splits, folder, bar)
        elif splits != folder:
            for name in SPLITS:
                (splits / name).rename(folder / name)
        shutil.rmtree(work, ignore_errors=True)
        counted = Counted(tally.num_rows, tally.positives, tally.sizes)
        schema = schema_of(source, split, pruning, intake, counted)
        schema = replace(schema, files=file_checksums(folder))
        finish(folder, schema)
    return schema


def finish(folder: Path, schema: Schema) -> None:
    """Write ``schema.json``, which completes a data set, and warn of large numbers."""
    write_schema(folder, schema)
    numeric = [column.name for column in schema.numeric]
    if large := large_columns(islice(read_shards(folder / "train"), 1), numeric):
        log.warning("%s", large_numbers(large))


def require_missing_rule(missing: str) -> None:
    """DataError unless ``missing`` is one of the rules for missing categorical values."""
    if missing not in MISSING_RULES:
        raise DataError(f"missing rule is {missing!r}; allowed: {', '.join(MISSING_RULES)}")


@dataclass(frozen=True)
class Counted:
    """What was counted: rows and positive labels by split; distinct ids and all ids by column."""

    num_rows: Mapping[str, int]
    positives: Mapping[str, int]
    sizes: Mapping[str, tuple[int, int]]


class _Tally:
    """Row, label and id counts of the splits as they are written."""

    def __init__(self, source: Source, pruning: Pruning) -> None:
        self.num_rows = dict.fromkeys(SPLITS, 0)
        self.positives = dict.fromkeys(SPLITS, 0)
        kind = IdCounter if pruning.counted else DistinctSketch
        self.counters: dict[str, IdCounter | DistinctSketch] = {
            name: kind() for name in source.embedded
        }
        self.sizes: dict[str, tuple[int, int]] = {}
        self._label = source.label

    def add(self, split: str, table: Any) -> None:
        self.num_rows[split] += table.num_rows
        self.positives[split] += positives(table[self._label])
        if split == "train":
            for name, counter in self.counters.items():
                counter.add(flat_ids(table[name]))


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


def _second_pass(folder: Path, num_rows: int, bar: ProgressBar, stack: ExitStack) -> Iterator[Any]:
    bar.begin("split", num_rows)
    rows = 0
    for table in _ahead(read_shards(folder), stack):
        rows += table.num_rows
        bar.update(rows, rows)
        yield table


def _spool(tables: Iterator[Any], source: Source, folder: Path) -> int:
    with ShardWriter(folder, source.arrow_schema()) as writer:
        for table in tables:
            writer.write(table)
    return writer.num_rows


def _divide(
    tables: Iterator[Any],
    source: Source,
    split: Split,
    folder: Path,
    tally: _Tally,
    num_rows: int | None,
) -> None:
    schema = source.arrow_schema()
    first = 0
    with ExitStack() as stack:
        writers = [stack.enter_context(ShardWriter(folder / name, schema)) for name in SPLITS]
        for table in tables:
            place = split.assign(first, table.num_rows, num_rows)
            first += table.num_rows
            for index, name in enumerate(SPLITS):
                chosen = np.flatnonzero(place == index)
                if len(chosen):
                    part = table if len(chosen) == len(place) else table.take(pa.array(chosen))
                    writers[index].write(part)
                    tally.add(name, part)


def require_training_rows(
    source: Source, split: Split, num_rows: Mapping[str, int], intake: Intake
) -> None:
    """DataError unless the train split has rows."""
    if num_rows["train"] == 0:
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
        counter = tally.counters.pop(name)
        if isinstance(counter, DistinctSketch):
            tally.sizes[name] = counter.distinct(), counter.total
            continue
        ids, counts, kept = pruning.vocabulary(name, *counter.result())
        tally.sizes[name] = len(ids), int(counts.sum())
        write_vocabulary(folder, name, ids, counts)
        if kept is not None:
            kept_ids[name] = kept
    return kept_ids


def _prune_splits(
    source: Source, kept: Mapping[str, Ids], splits: Path, folder: Path, bar: ProgressBar
) -> None:
    rows = 0
    for split in SPLITS:
        with ShardWriter(folder / split, source.arrow_schema()) as writer, ExitStack() as stack:
            for table in _ahead(read_shards(splits / split), stack):
                writer.write(pruned(table, kept))
                rows += table.num_rows
                bar.update(rows, rows)
        shutil.rmtree(splits / split)


def pruned(table: Any, kept: Mapping[str, Ids]) -> Any:
    """``table`` with the out-of-vocabulary id for ids that are not among the ``kept`` ones."""
    for name, ids in kept.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), _pruned(table[name], ids))
    return table


def positives(labels: Any) -> int:
    """The number of labels that are 1."""
    return int(labels.to_numpy().sum(dtype=np.float64))


def _pruned(column: Any, kept: Ids) -> Any:
    array = pa.concat_arrays(column.chunks)
    if pa.types.is_list(array.type):
        values = pa.array(prune(array.values.to_numpy(), kept))
        return pa.ListArray.from_arrays(array.offsets, values)
    null = array.is_null().to_numpy(zero_copy_only=False)
    ids = prune(array.fill_null(0).to_numpy(), kept)
    return pa.array(ids, mask=null) if null.any() else pa.array(ids)


def flat_ids(column: Any) -> Ids:
    """All ids of a categorical or multivalent column, nulls left out."""
    parts = []
    for chunk in column.chunks:
        values = chunk.flatten() if pa.types.is_list(chunk.type) else chunk
        parts.append((values.drop_null() if values.null_count else values).to_numpy())
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def schema_of(
    source: Source, split: Split, pruning: Pruning, intake: Intake, counted: Counted
) -> Schema:
    """The schema of a prepared data set, without the checksums of its files."""
    columns = []
    for name, kind in source.columns:
        if kind == "numeric":
            columns.append(Column(name, kind))
        else:
            distinct, lookups = counted.sizes[name]
            columns.append(Column(name, kind, distinct, lookups / counted.num_rows["train"]))
    return Schema(
        dataset=source.dataset,
        columns=tuple(columns),
        label=source.label,
        num_rows=counted.num_rows,
        label_rate={
            name: counted.positives[name] / rows if rows else 0.0
            for name, rows in counted.num_rows.items()
        },
        split=split.to_json(),
        sources=tuple(intake.sources),
        options={
            **source.options,
            **source.findings(),
            "token_rule": TOKEN_RULE,
            "missing_id": MISSING,
            "vocabulary": pruning.to_json(),
            "bad_rows": {
                "action": intake.bad_rows.action,
                "skipped": intake.num_bad,
                "examples": intake.examples,
            },
        },
        versions=versions(),
    )


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


def column_kinds(
    categorical: Sequence[str], multivalent: Sequence[str], numeric: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """(name, kind) of numeric, categorical and multivalent columns, in this order."""
    return (
        tuple((name, "numeric") for name in numeric)
        + tuple((name, "categorical") for name in categorical)
        + tuple((name, "multivalent") for name in multivalent)
    )
