"""Points in time, as they are written in tables: numbers, epochs and ISO dates."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

TIME_FIX = "give a number, or a date as in 2026-11-27 or 2026-11-27T09:30:00"


def time_of(cell: str) -> float | None:
    """The number by which a text is put in order of time; None if it is no time.

    A number is itself, a date is the seconds from 1970-01-01 in UTC; a date without a time zone
    counts as UTC.
    """
    cell = cell.strip()
    try:
        number = float(cell)
    except ValueError:
        return date_of(cell)
    return number if math.isfinite(number) and "_" not in cell else None


def date_of(cell: str) -> float | None:
    """Seconds from 1970-01-01 in UTC to an ISO date that has separators; None for other text."""
    if not ("-" in cell[1:] or "/" in cell):
        return None
    try:
        parsed = datetime.fromisoformat(cell.replace("/", "-"))
    except ValueError:
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def times(column: Any) -> npt.NDArray[np.float64]:
    """The times of a column (text, numbers, dates or timestamps), NaN where there is none.

    Args:
        column: An Arrow array; seconds from 1970-01-01 stand for dates and timestamps.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind, t = array.type, pa.types
    if t.is_dictionary(kind):
        values = np.append(times(array.dictionary), np.nan)
        places = pc.fill_null(array.indices, len(values) - 1).to_numpy(zero_copy_only=False)
        return values[places]
    if t.is_date(kind):
        array, kind = array.cast(pa.timestamp("s")), pa.timestamp("s")
    if t.is_timestamp(kind):
        per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
        whole = array.cast(pa.int64())
        known = pc.fill_null(whole, 0).to_numpy(zero_copy_only=False)
        seconds = known / per_second
        seconds[array.is_null().to_numpy(zero_copy_only=False)] = np.nan
        return seconds
    if t.is_integer(kind) or t.is_floating(kind) or t.is_decimal(kind):
        numbers = pc.fill_null(array.cast(pa.float64(), safe=False), np.nan)
        found: npt.NDArray[np.float64] = numbers.to_numpy(zero_copy_only=False)
        return np.where(np.isfinite(found), found, np.nan)
    if t.is_null(kind):
        return np.full(len(array), np.nan)
    texts = array.cast(pa.binary()).to_pylist()
    known_texts = [None if x is None else time_of(x.decode("utf-8", "replace")) for x in texts]
    return np.array([np.nan if x is None else x for x in known_texts], np.float64)


def days_as_seconds(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Seconds from 1970-01-01 to days written as 20261127; NaN for numbers that are none.

    Args:
        numbers: Any numbers; days are from 1900 to 2100.
    """
    inside = (numbers >= 1900_00_00) & (numbers <= 2100_12_31) & (np.floor(numbers) == numbers)
    whole = np.where(inside, numbers, 0).astype(np.int64)
    year, month, day = whole // 10_000, whole // 100 % 100, whole % 100
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (day - 1)
    real = inside & (month >= 1) & (month <= 12) & (days.astype("datetime64[M]") == months)
    return np.where(real, days.astype(np.int64) * 86_400.0, np.nan)


def day_of(seconds: float) -> str:
    """The date, in UTC, of so many seconds from 1970-01-01."""
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
