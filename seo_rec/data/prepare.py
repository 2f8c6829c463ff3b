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
import numpy.typing as npt
import pyarrow as pa

from seo_rec.data.integrity import file_checksums
from seo_rec.data.progress import ProgressBar
from seo_rec.data.rawfile import BadRows, Intake
from seo_rec.data.shards import ShardWriter, large_columns, large_numbers, read_shards
from seo_rec.data.split import Split
from seo_rec.data.tokens import MISSING, MISSING_RULES, OUT_OF_VOCABULARY, TOKEN_RULE, Ids
from seo_rec.data.vocabulary import IdCounter, Pruning, prune, write_vocabulary
from seo_rec.files import new_folder
from seo_rec.schema import BINARY, REGRESSION, SPLITS, Column, DataError, Schema, write_schema

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
        label_kind: ``binary`` or ``regression``.
        findings: more entries for ``schema.options``, asked for when all rows were read.
    """

    dataset: str
    columns: tuple[tuple[str, str], ...]
    label: str
    paths: tuple[Path, ...]
    read: Callable[[Intake], Iterator[Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    findings: Callable[[], Mapping[str, Any]] = dict
    label_kind: str = BINARY

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
    """Write ``source`` as a prepared data set at ``out``.

    Raises:
        DataError: bad input; nothing is left at ``out``.
        FileExistsError: ``out`` exists and is not an empty folder.
    """
    pruning.require_columns(source.embedded)
    intake = Intake(bad_rows)
    with new_folder(out) as folder, ProgressBar(progress) as bar:
        work = folder / ".work"
        splits = work / "splits" if pruning.is_active else folder
        tally = _Tally(source)
        with ExitStack() as stack:
            tables = _first_pass(source, intake, bar, stack)
            if split.rule == "temporal":
                num_rows = _spool(tables, source, work / "rows")
                tables = _second_pass(work / "rows", num_rows, bar, stack)
            else:
                num_rows = None
            _divide(tables, source, split, splits, tally, num_rows)
        shutil.rmtree(work / "rows", ignore_errors=True)
        _require_training_rows(source, split, tally, intake)
        vocabularies, kept = _vocabularies(source, pruning, tally)
        if kept:
            bar.begin("prune", sum(tally.num_rows.values()))
            _prune_splits(source, kept, splits, folder, bar)
        elif splits != folder:
            for name in SPLITS:
                (splits / name).rename(folder / name)
        shutil.rmtree(work, ignore_errors=True)
        for name, (ids, counts) in vocabularies.items():
            write_vocabulary(folder, name, ids, counts)
        schema = _schema(source, split, pruning, intake, tally, vocabularies)
        schema = replace(schema, files=file_checksums(folder))
        write_schema(folder, schema)
        numeric = [column.name for column in schema.numeric]
        if large := large_columns(islice(read_shards(folder / "train"), 1), numeric):
            log.warning("%s", large_numbers(large))
    return schema


def require_missing_rule(missing: str) -> None:
    """DataError unless ``missing`` is one of the rules for missing categorical values."""
    if missing not in MISSING_RULES:
        raise DataError(f"missing rule is {missing!r}; allowed: {', '.join(MISSING_RULES)}")


class _Tally:
    """Row, label and id counts of the splits as they are written."""

    def __init__(self, source: Source) -> None:
        self.num_rows = dict.fromkeys(SPLITS, 0)
        self.positives = dict.fromkeys(SPLITS, 0)
        self.targets = {name: _Spread() for name in SPLITS}
        self.counters = {name: IdCounter() for name in source.embedded}
        self._label, self._kind = source.label, source.label_kind

    def add(self, split: str, table: Any) -> None:
        self.num_rows[split] += table.num_rows
        labels = table[self._label].to_numpy().astype(np.float64)
        if self._kind == REGRESSION:
            self.targets[split].add(labels)
        else:
            self.positives[split] += int(labels.sum())
        if split == "train":
            for name, counter in self.counters.items():
                counter.add(_flat_ids(table[name]))


class _Spread:
    """Mean and standard deviation of numbers that come in parts (Chan, Golub and LeVeque)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0
        self.least, self.most = np.inf, -np.inf

    def add(self, numbers: npt.NDArray[np.float64]) -> None:
        """Count these numbers in, at least one."""
        mean, count = float(numbers.mean()), numbers.size
        total, apart = self.count + count, mean - self.mean
        self.squares += float(((numbers - mean) ** 2).sum())
        self.squares += apart**2 * self.count * count / total
        self.mean += apart * count / total
        self.count = total
        self.least = min(self.least, float(numbers.min()))
        self.most = max(self.most, float(numbers.max()))

    @property
    def std(self) -> float:
        """The standard deviation (of the population); 0 of no numbers, and of equal ones."""
        if not self.least < self.most:  # a mean is rounded, so the sum of squares may not be 0
            return 0.0
        return float(np.sqrt(self.squares / self.count))


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


def _require_training_rows(source: Source, split: Split, tally: _Tally, intake: Intake) -> None:
    if tally.num_rows["train"] == 0:
        raise DataError(
            f"{source.dataset}: no rows in the train split of {sum(tally.num_rows.values())} rows "
            f"({intake.num_bad} skipped as bad); give more rows or other fractions than "
            f"{split.shares}"
        )


def _vocabularies(
    source: Source, pruning: Pruning, tally: _Tally
) -> tuple[dict[str, tuple[Ids, Ids]], dict[str, Ids]]:
    """Final (ids, counts) by column, and the ids kept in the pruned columns."""
    vocabularies: dict[str, tuple[Ids, Ids]] = {}
    kept_ids: dict[str, Ids] = {}
    for name in source.embedded:
        ids, counts = tally.counters.pop(name).result()
        kept = pruning.kept(name, ids, counts)
        if kept is not None:
            kept_ids[name] = kept
            stays = np.isin(ids, kept, assume_unique=True)
            rest = int(counts[~stays].sum())
            ids, counts = ids[stays], counts[stays]
            if rest:
                place = int(np.searchsorted(ids, OUT_OF_VOCABULARY))
                ids = np.insert(ids, place, OUT_OF_VOCABULARY)
                counts = np.insert(counts, place, rest)
        vocabularies[name] = ids, counts
    return vocabularies, kept_ids


def _prune_splits(
    source: Source, kept: Mapping[str, Ids], splits: Path, folder: Path, bar: ProgressBar
) -> None:
    rows = 0
    for split in SPLITS:
        with ShardWriter(folder / split, source.arrow_schema()) as writer, ExitStack() as stack:
            for table in _ahead(read_shards(splits / split), stack):
                for name, ids in kept.items():
                    place = table.schema.get_field_index(name)
                    table = table.set_column(
                        place, table.schema.field(place), _pruned(table[name], ids)
                    )
                writer.write(table)
                rows += table.num_rows
                bar.update(rows, rows)
        shutil.rmtree(splits / split)


def _pruned(column: Any, kept: Ids) -> Any:
    array = pa.concat_arrays(column.chunks)
    if pa.types.is_list(array.type):
        values = pa.array(prune(array.values.to_numpy(), kept))
        return pa.ListArray.from_arrays(array.offsets, values)
    null = array.is_null().to_numpy(zero_copy_only=False)
    ids = prune(array.fill_null(0).to_numpy(), kept)
    return pa.array(ids, mask=null) if null.any() else pa.array(ids)


def _flat_ids(column: Any) -> Ids:
    """All ids of a categorical or multivalent column, nulls left out."""
    parts = []
    for chunk in column.chunks:
        values = chunk.flatten() if pa.types.is_list(chunk.type) else chunk
        parts.append((values.drop_null() if values.null_count else values).to_numpy())
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _schema(
    source: Source,
    split: Split,
    pruning: Pruning,
    intake: Intake,
    tally: _Tally,
    vocabularies: Mapping[str, tuple[Ids, Ids]],
) -> Schema:
    columns = []
    for name, kind in source.columns:
        if kind == "numeric":
            columns.append(Column(name, kind))
        else:
            ids, counts = vocabularies[name]
            lookups = float(counts.sum() / tally.num_rows["train"])
            columns.append(Column(name, kind, len(ids), lookups))
    return Schema(
        dataset=source.dataset,
        columns=tuple(columns),
        label=source.label,
        num_rows=tally.num_rows,
        label_rate={
            name: tally.positives[name] / rows if rows else 0.0
            for name, rows in tally.num_rows.items()
        }
        if source.label_kind == BINARY
        else {name: spread.mean for name, spread in tally.targets.items()},
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
        versions={
            "python": platform.python_version(),
            **{wheel: _version(wheel) for wheel in ("seo-rec", "numpy", "pyarrow")},
        },
        label_kind=source.label_kind,
        label_std={}
        if source.label_kind == BINARY
        else {name: spread.std for name, spread in tally.targets.items()},
    )


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
