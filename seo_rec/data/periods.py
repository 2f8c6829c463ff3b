"""A prepared data set cut into hours, days, weeks or runs of rows, each a data set of its own.

A replay goes through them in order. Rows of all splits become training rows of their period, with
the ids and numbers that they have, so that all periods follow the rules of the whole data set.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seo_rec.data.completion import versions
from seo_rec.data.dataset import DataSet, Ids
from seo_rec.data.integrity import file_checksums
from seo_rec.data.parquet import open_parquet
from seo_rec.data.shards import ShardWriter, read_shards
from seo_rec.data.sketch import DistinctSketch
from seo_rec.data.spread import Spread
from seo_rec.data.tally import flat_ids
from seo_rec.data.time_order import in_order
from seo_rec.data.times import days_as_seconds
from seo_rec.data.vocabulary import IdCounter, write_kept, write_vocabulary
from seo_rec.documents import read_object
from seo_rec.files import new_folder, write_json
from seo_rec.schema import REGRESSION, SPLITS, DataError, Schema, write_schema

PERIODS_FILE = "periods.json"
SECONDS = {"hour": 3600, "day": 86_400, "week": 7 * 86_400}
BY = (*SECONDS, "rows")
MONDAY = 4 * 86_400  # seconds from 1970-01-01, a Thursday, to a Monday
DATES = (1e8, 4.2e9)  # seconds from 1970-01-01: 1973 to 2103; other numbers are no dates
IN_ORDER = ("temporal", "files")  # split rules by which train, val and test follow each other

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Periods:
    """How a data set is cut.

    Args:
        by: ``hour``, ``day`` or ``week`` by the column of times, in UTC, a week from Monday; or
            ``rows``.
        rows: How many rows a period has, by ``rows``; the last period may have fewer.
    """

    by: str
    rows: int = 0

    def __post_init__(self) -> None:
        if self.by not in BY:
            raise ValueError(f"--by {self.by}; allowed: {', '.join(BY)}")
        if self.by == "rows" and self.rows < 1:
            raise ValueError(
                f"--by rows with --rows {self.rows}; give the rows of a step, 1 or more, as in "
                "--by rows --rows 100000"
            )
        if self.by != "rows" and self.rows:
            raise ValueError(
                f"--rows {self.rows} with --by {self.by} would be ignored; leave it out, or give "
                "--by rows"
            )

    def numbers(self, times: Numbers, first: int) -> npt.NDArray[np.int64]:
        """The number of the period of each row.

        Args:
            times: The times of the rows, seconds from 1970-01-01 or days written as 20261127; only
                their number counts by rows.
            first: The number of the first of these rows.
        """
        if self.by == "rows":
            return np.arange(first, first + len(times)) // self.rows
        times = np.where(times < DATES[0], days_as_seconds(times), times)
        shift = -MONDAY if self.by == "week" else 0
        return np.floor((times + shift) / SECONDS[self.by]).astype(np.int64)

    def name(self, number: int) -> str:
        """The name of a period: 2024-01-31T09, 2024-01-31, 2024-W05, or rows-1."""
        if self.by == "rows":
            return f"rows-{number + 1}"
        shift = MONDAY if self.by == "week" else 0
        start = datetime.fromtimestamp(number * SECONDS[self.by] + shift, UTC)
        if self.by == "week":
            year, week, _ = start.isocalendar()
            return f"{year}-W{week:02d}"
        return start.strftime("%Y-%m-%dT%H" if self.by == "hour" else "%Y-%m-%d")

    def to_json(self, data: DataSet) -> dict[str, Any]:
        """What decides the periods of a data set."""
        return {"data_fingerprint": data.fingerprint, "by": self.by, "rows": self.rows}


def cut(data: DataSet, out: Path, periods: Periods) -> list[Path]:
    """Cut ``data`` into ``out/<period>``, or find the same periods there already.

    Args:
        data: The data set. Its rows are put in order of time if it has a column of times.
        out: The folder to make; it appears when all periods are complete.
        periods: How it is cut.

    Returns:
        The folders of the periods, in order; periods without rows are left out.

    Raises:
        DataError: The data set has no times, or none that tell such periods apart; its rows have
            lost their order; all rows are in one period; or ``out`` has other periods.
    """
    wanted = periods.to_json(data)
    if (out / PERIODS_FILE).exists():
        there = read_object(out / PERIODS_FILE, {"names": list, **_types(wanted)})
        if differing := [key for key, value in wanted.items() if there[key] != value]:
            raise DataError(
                f"{out} holds other periods (they differ in {', '.join(differing)}); choose "
                "another --out"
            )
        return [out / str(name) for name in there["names"]]
    times = _times(data, periods)
    kept = {c.name: data.kept(c.name) if _counts_ids(data) else None for c in data.schema.features}
    with new_folder(out) as folder:
        work = folder / ".work"
        names = [
            _write(period, data, folder, periods, kept)
            for period in _consecutive(_ordered(data, times, work), data, periods)
        ]
        shutil.rmtree(work, ignore_errors=True)
        write_json(folder / PERIODS_FILE, {**wanted, "names": names})
    return [out / name for name in names]


def _types(document: dict[str, Any]) -> dict[str, Any]:
    return {key: type(value) for key, value in document.items()}


# ---- which rows, in which order --------------------------------------------------------------


def _times(data: DataSet, periods: Periods) -> Numbers | None:
    """The times of all rows, split by split; None if there are none. DataError if they misfit."""
    schema, splits = data.schema, _splits(data)
    if schema.options.get("negative_rate", 1.0) < 1 and splits != ["train"]:
        raise DataError(
            f"{data.path}: negatives of the training rows alone were left out, so rows of other "
            "splits cannot be trained on; prepare it with --fractions 1,0,0"
        )
    data.verify(*splits)
    total = sum(schema.num_rows[split] for split in splits)
    if periods.by == "rows" and total <= periods.rows:
        raise DataError(
            f"{data.path}: {total:,} rows, and --rows {periods.rows} makes one step of them, so a "
            "replay would score nothing; give fewer rows"
        )
    if schema.time is None:
        if periods.by != "rows":
            raise DataError(
                f"{data.path}: no column of times, which --by {periods.by} needs; prepare the "
                "table with --split temporal --time COLUMN, or give --by rows --rows N"
            )
        if len(splits) > 1 and schema.split.get("rule") not in IN_ORDER:
            raise DataError(
                f"{data.path}: its rows were divided by the rule "
                f"{schema.split.get('rule', 'unknown')!r}, so their order is lost; prepare it with "
                "--split temporal, or with all rows in one split (--fractions 1,0,0)"
            )
        return None
    parts = [t[schema.time].to_numpy() for s in splits for t in read_shards(data.path / s)]
    times: Numbers = np.concatenate(parts)
    _require_resolution(data, times, periods)
    return times


def _splits(data: DataSet) -> list[str]:
    return [split for split in SPLITS if data.schema.num_rows.get(split)]


def _require_resolution(data: DataSet, times: Numbers, periods: Periods) -> None:
    """DataError unless the times are dates that tell such periods apart."""
    if periods.by == "rows":
        return
    where = f"{data.path}: the times in column {data.schema.time!r}"
    first, last = float(times.min()), float(times.max())
    are_days = bool(np.isfinite(days_as_seconds(times)).all())
    if not are_days and not (DATES[0] <= first and last < DATES[1]):
        raise DataError(
            f"{where} are numbers from {first:.10g} to {last:.10g}, and --by {periods.by} needs "
            "dates, days as 20261127 or seconds from 1970-01-01; prepare the table with such a "
            "column, or give --by rows --rows N"
        )
    if periods.by == "hour" and (are_days or not (times % SECONDS["day"]).any()):
        raise DataError(
            f"{where} are whole days, so hours are unknown; allowed: --by day, week or rows"
        )
    begins, ends = periods.numbers(np.array([first, last]), 0).tolist()
    if begins == ends:
        raise DataError(
            f"{where} are all in {periods.name(begins)}, so a replay would score nothing; allowed: "
            "shorter periods, or --by rows --rows N"
        )


def _ordered(data: DataSet, times: Numbers | None, work: Path) -> Iterator[Any]:
    """All rows in order of time, or as they lie if they have no times."""

    def rows() -> Iterator[Any]:
        for split in _splits(data):
            yield from read_shards(data.path / split)

    if times is None or bool((times[1:] >= times[:-1]).all()):
        yield from rows()
        return
    schema = _fields(data)
    with ShardWriter(work / "rows", schema) as writer:
        for table in rows():
            writer.write(table)
    assert data.schema.time is not None
    yield from in_order(work / "rows", schema, data.schema.time, times)


def _consecutive(
    tables: Iterator[Any], data: DataSet, periods: Periods
) -> Iterator[tuple[int, Iterator[Any]]]:
    """The number of each period and its tables; a period is read to its end before the next."""
    cutting = _Cutting(tables, data.schema.time, periods)
    while (number := cutting.next_number()) is not None:
        yield number, cutting.of(number)


class _Cutting:
    """Tables in order, cut where a period ends."""

    def __init__(self, tables: Iterator[Any], time: str | None, periods: Periods) -> None:
        self.tables, self.time, self.periods = tables, time, periods
        self.left: Any = None
        self.numbers: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self.first = 0

    def next_number(self) -> int | None:
        """The period of the next row; None after the last one."""
        while self.left is None or not self.left.num_rows:
            self.left = next(self.tables, None)
            if self.left is None:
                return None
            size = self.left.num_rows
            times = self.left[self.time].to_numpy() if self.time else np.zeros(size)
            self.numbers = self.periods.numbers(times, self.first)
            self.first += size
        return int(self.numbers[0])

    def of(self, number: int) -> Iterator[Any]:
        """The rows of a period, which comes next."""
        while self.next_number() == number:
            size = int(np.searchsorted(self.numbers, number, side="right"))
            part = self.left.slice(0, size)
            self.left, self.numbers = self.left.slice(size), self.numbers[size:]
            yield part


# ---- one period ------------------------------------------------------------------------------


def _write(
    period: tuple[int, Iterator[Any]],
    data: DataSet,
    out: Path,
    periods: Periods,
    kept: Mapping[str, Ids | None],
) -> str:
    """Write one period as a prepared data set and return its name."""
    number, tables = period
    name, whole, fields = periods.name(number), data.schema, _fields(data)
    folder = out / name
    folder.mkdir()
    kind = IdCounter if _counts_ids(data) else DistinctSketch
    counters = {c.name: kind() for c in whole.features}
    labels = {label: Spread() for label in whole.labels}
    with ShardWriter(folder / "train", fields) as writer:
        for table in tables:
            writer.write(table)
            for column, counter in counters.items():
                counter.add(flat_ids(table[column]))
            for label, spread in labels.items():
                spread.add(table[label].to_numpy().astype(np.float64))
    for split in ("val", "test"):
        with ShardWriter(folder / split, fields):
            pass
    sizes = {c: _ids(folder, c, counter, kept[c]) for c, counter in counters.items()}
    made = _schema(data, periods, name, labels, sizes)
    write_schema(folder, replace(made, files=file_checksums(folder)))
    return name


def _fields(data: DataSet) -> Any:
    """The Arrow schema of the shards."""
    first = min((data.path / _splits(data)[0]).glob("part-*.parquet"))
    with open_parquet(first) as file:
        return file.schema_arrow


def _counts_ids(data: DataSet) -> bool:
    return (data.schema.options.get("vocabulary") or {}).get("counted_on", "train") is not None


def _ids(
    folder: Path, column: str, counter: IdCounter | DistinctSketch, kept: Ids | None
) -> tuple[int, int]:
    """Write the vocabulary of a column, and return its numbers of distinct ids and of all ids."""
    if isinstance(counter, DistinctSketch):
        return counter.distinct(), counter.total
    ids, counts = counter.result()
    write_vocabulary(folder, column, ids, counts)
    if kept is not None:
        write_kept(folder, column, kept)
    return len(ids), int(counts.sum())


def _schema(
    data: DataSet,
    periods: Periods,
    name: str,
    labels: Mapping[str, Spread],
    sizes: Mapping[str, tuple[int, int]],
) -> Schema:
    whole = data.schema
    rows = labels[whole.label].count
    columns = [
        c if c.kind == "numeric" else replace(c, vocab_size=distinct, lookups_per_row=total / rows)
        for c in whole.columns
        for distinct, total in [sizes.get(c.name, (0, 0))]
    ]

    def only_train(value: float) -> dict[str, float]:
        return {"train": value, "val": 0.0, "test": 0.0}

    # a mean that is merged from blocks is rounded, and a share is at most 1
    means = {label: min(1.0, s.mean) for label, s in labels.items()}
    if whole.label_kind == REGRESSION:
        means = {label: s.mean for label, s in labels.items()}
    std = only_train(labels[whole.label].std) if whole.label_kind == REGRESSION else {}
    return replace(
        whole,
        columns=tuple(columns),
        num_rows={"train": rows, "val": 0, "test": 0},
        label_rate=only_train(means[whole.label]),
        label_std=std,
        more_label_rates={label: only_train(means[label]) for label in whole.more_labels},
        split={"rule": "period", "period": name, **periods.to_json(data)},
        versions=versions(),
    )
