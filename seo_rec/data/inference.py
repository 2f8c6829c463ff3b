"""What the columns of a table are, from a bounded sample of its rows: ids, numbers, lists, dates.

The rules are few, and each decision says which one made it, so that a person can check them at a
glance and name what is wrong. A column that is left out because of what the sample holds is
watched while all rows are read (:class:`Watch`), so that no decision outlives its reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from seo_rec.data.sample import Sample
from seo_rec.data.split import splitmix64
from seo_rec.data.times import date_of, day_of, days_as_seconds
from seo_rec.data.tokens import Ids, categorical_ids, is_text, without_id_in_lists
from seo_rec.schema import DataError

KINDS = ("categorical", "numeric", "multivalent", "drop")
FEWEST_ROWS = 100  # from which "every row has another value" says something
FEW_VALUES = 12  # of whole numbers: these are codes, whatever their name is
LIST_SHARE = 0.05  # of the cells hold the separator
LONG_TEXT = 6.0  # words of a cell on average, from which text is prose
MOST_REPEATS = 0.01  # of the values of a row id; a few rows may be there twice
WATCHED = 20_000  # ids of a column, at most, whose repeats are counted
NAMED = "named by --kind"
MARKED = "numbers with signs or commas; written plainly, as 1234.5, they can be numeric"
_DATES = 1000  # distinct texts that are looked at
_DATED = re.compile(r"(?:19|20)\d\d(-?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])(?!\d)")
_YEAR_LAST = re.compile(r"\d{1,2}([/.-])\d{1,2}\1(?:19|20)\d\d(?!\d)")  # 12/31/2026 23:59
_SIGN = r"(?:[$€£¥₹%]|USD|EUR|GBP)?"
_MARKED = re.compile(  # a number with a sign or with commas
    rf"[-+]?{_SIGN} ?[-+]?(?:\d{{1,3}}(?:[,.' ]\d{{3}})+|\d+)(?:[.,]\d+)? ?{_SIGN}"
)

_BOOLEANS = ({"true", "false"}, {"yes", "no"}, {"t", "f"}, {"y", "n"}, {"0", "1"})


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_ID_WORDS = _words(
    "id ids uid uuid guid code zip zipcode postcode key hash sku isbn asin ip phone tailnum "
    "userid itemid movieid productid adid siteid deviceid sessionid customerid"
)
_NUMBER_WORDS = _words(
    "price amount cost revenue income salary spend budget bid age count cnt counts quantity qty "
    "distance duration delay seconds minutes length width height depth weight size area score "
    "rate ratio percent pct share avg average mean median sum total min max std temperature temp "
    "wind speed elevation altitude latitude longitude lat lon lng views clicks impressions"
)
# magnitudes of the years 2001 to 2033 in seconds, milliseconds, microseconds and nanoseconds
_EPOCHS = {1: "seconds", 1_000: "milliseconds", 1_000_000: "microseconds", 10**9: "nanoseconds"}


@dataclass(frozen=True)
class Decision:
    """What one column is taken for.

    Args:
        name: The column.
        kind: One of :data:`KINDS`.
        what: Id, number, list, date, boolean, constant, row id, or free text.
        reason: Why, in one line.
        distinct: Different values in the sample, without missing ones.
        missing: Share of the rows of the sample without a value.
        examples: A few values.
    """

    name: str
    kind: str
    what: str
    reason: str
    distinct: int = 0
    missing: float = 0.0
    examples: tuple[str, ...] = ()

    def to_json(self) -> dict[str, str]:
        """The entry of ``schema.json``."""
        return {"name": self.name, "kind": self.kind, "what": self.what, "reason": self.reason}


def infer(
    sample: Sample,
    leave_out: Sequence[str],
    kinds: Mapping[str, str] | None = None,
    separator: str = "|",
) -> tuple[Decision, ...]:
    """A decision for every column of the sample but ``leave_out``, in the order of the file.

    Args:
        sample: Rows of the raw files.
        leave_out: Columns that have another part to play, such as the label.
        kinds: Kinds by column, which win over what is inferred.
        separator: Between the values of a cell of text with several.

    Raises:
        DataError: ``kinds`` names a column that is not there, or an unknown kind.
    """
    kinds = dict(kinds or {})
    for name, kind in kinds.items():
        if name not in sample.names:
            raise DataError(f"--kind {name}={kind}: allowed columns: {', '.join(sample.names)}")
        if kind not in KINDS:
            raise DataError(f"--kind {name}={kind}: allowed kinds: {', '.join(KINDS)}")
        if name in leave_out:
            raise DataError(f"--kind {name}={kind}: this column has another part already")
    found = []
    for name in sample.names:
        if name in leave_out:
            continue
        facts = Facts(sample.columns[name])
        decision = _kind_of(name, facts, separator)
        if name in kinds:
            decision = (kinds[name], decision[1], NAMED)
        examples = tuple(facts.example(i) for i in range(min(3, facts.distinct)))
        found.append(Decision(name, *decision, facts.distinct, facts.missing_share, examples))
    return tuple(found)


class Facts:
    """What a sampled column holds.

    Args:
        column: An Arrow chunked array.

    Attributes:
        rows: Number of cells.
        missing: Cells without a value.
        values: The distinct values, the most frequent first.
        numbers: The distinct values as float64, or None if one of them is no number.
        is_text: Whether the values are stored as text.
    """

    def __init__(self, column: Any) -> None:
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks)
        if pa.types.is_dictionary(array.type):
            array = array.cast(array.type.value_type)
        self.type = array.type
        self.rows = len(array)
        self.array = array
        self.is_text = is_text(self.type)
        self.is_flat = not pa.types.is_nested(self.type)
        if self.is_text:
            text = array.cast(pa.large_binary())
            array = pc.if_else(pc.equal(pc.binary_length(text), 0), None, text)
        elif pa.types.is_floating(self.type):
            array = pc.if_else(pc.is_nan(array), None, array)
        self.missing = array.null_count
        if self.is_flat:
            counted = pc.value_counts(array.drop_null())
            order = np.argsort(-counted.field(1).to_numpy(), kind="stable")
            self.values = counted.field(0).take(pa.array(order))
            self.counts = counted.field(1).to_numpy()[order]
        else:
            self.values, self.counts = array.slice(0, 0), np.zeros(0, np.int64)
        self.numbers = self._numbers()

    @property
    def distinct(self) -> int:
        return len(self.values)

    @property
    def missing_share(self) -> float:
        return self.missing / self.rows if self.rows else 0.0

    @property
    def texts(self) -> list[str]:
        """The distinct values as text."""
        if self.is_text:
            return [value.decode("utf-8", "replace") for value in self.values.to_pylist()]
        return [str(value) for value in self.values.to_pylist()]

    def example(self, place: int) -> str:
        value = self.values[place].as_py()
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        return text if text.isprintable() else repr(text)[1:-1]

    def _numbers(self) -> npt.NDArray[np.float64] | None:
        t = pa.types
        if self.is_text:
            try:
                found = self.values.cast(pa.large_string()).cast(pa.float64())
            except (pa.ArrowException, UnicodeDecodeError):
                return None
        elif t.is_integer(self.type) or t.is_floating(self.type) or t.is_decimal(self.type):
            found = self.values.cast(pa.float64(), safe=False)
        else:
            return None
        numbers: npt.NDArray[np.float64] = found.to_numpy(zero_copy_only=False)
        return numbers


Kind = tuple[str, str, str]  # kind, what, reason


def _kind_of(name: str, facts: Facts, separator: str) -> Kind:
    t = pa.types
    if t.is_list(facts.type) or t.is_large_list(facts.type) or t.is_fixed_size_list(facts.type):
        if t.is_nested(facts.type.value_type):
            return "drop", "nested", f"{facts.type} has no use here"
        if without_id_in_lists(facts.array, by_value=True).any():
            return "drop", "numbers", "lists of numbers with decimal places have no use here"
        return "multivalent", "list", f"stored as {facts.type}"
    if t.is_nested(facts.type) or t.is_time(facts.type) or t.is_duration(facts.type):
        return "drop", "other", f"{facts.type} has no use here"
    if not facts.distinct:
        return "drop", "constant", "no row has a value"
    if facts.distinct == 1 and not facts.missing and facts.rows > 1:
        return "drop", "constant", f"every row has {_short(facts.example(0))}"
    words = {word.lower() for word in _WORDS.findall(name)}
    return (
        _boolean(facts)
        or _date(facts, words)
        or _row_id(facts)
        or _number(facts, words)
        or _text(facts, separator)
    )


def _boolean(facts: Facts) -> Kind | None:
    if pa.types.is_boolean(facts.type):
        return "categorical", "boolean", f"stored as {facts.type}"
    if 2 <= facts.distinct <= 6 and {text.lower() for text in facts.texts} in _BOOLEANS:
        *others, last = sorted(facts.texts)
        return "categorical", "boolean", f"holds {', '.join(others)} and {last} only"
    return None


def _date(facts: Facts, words: set[str]) -> Kind | None:
    advice = "later ones have not been seen; --time orders rows by it"
    if pa.types.is_date(facts.type) or pa.types.is_timestamp(facts.type):
        return "drop", "date", f"stored as {facts.type}; {advice}"
    numbers = facts.numbers
    if numbers is None:
        texts = facts.texts[:_DATES] if facts.is_text else [""]
        if all(date_of(text) is not None for text in texts):
            return "drop", "date", f"ISO dates; {advice}"
        if facts.is_text and all(_DATED.match(text) for text in texts):
            return "drop", "date", "begins with a date; later ones have not been seen"
        if facts.is_text and all(_YEAR_LAST.match(text) for text in texts):
            return "drop", "date", f"begins with a date; {advice}, written as 2026-12-31"
        return None
    low, high = float(numbers.min()), float(numbers.max())
    if (
        not np.isfinite(low + high)
        or not (np.floor(numbers) == numbers).all()
        or words & _ID_WORDS
        or facts.distinct < 3
    ):
        return None
    for unit, unit_name in _EPOCHS.items():
        if 1e9 * unit <= low and high < 2e9 * unit:
            days = f"{day_of(low / unit)} to {day_of(high / unit)}"
            return "drop", "date", f"epoch {unit_name}, {days}; {advice}"
    if np.isfinite(days_as_seconds(numbers)).all():
        return "drop", "date", f"numbers as in 20261127; {advice}"
    return None


def _row_id(facts: Facts) -> Kind | None:
    every = facts.distinct == facts.rows >= FEWEST_ROWS
    whole = facts.numbers is None or bool((np.floor(facts.numbers) == facts.numbers).all())
    if every and whole:
        return "drop", "row id", f"each of {facts.rows:,} rows has another value"
    return None


def _number(facts: Facts, words: set[str]) -> Kind | None:
    numbers = facts.numbers
    if numbers is None:
        return None
    if facts.is_text and _leading_zeros(facts):
        return "categorical", "id", "digits with leading zeros"
    if not (np.floor(numbers) == numbers).all():
        return "numeric", "number", "has decimal places"
    if facts.distinct <= FEW_VALUES:
        return "categorical", "id", f"{facts.distinct} whole numbers"
    if hint := sorted(words & _ID_WORDS):
        return "categorical", "id", f"whole numbers, called {hint[0]!r}"
    if hint := sorted(words & _NUMBER_WORDS):
        return "numeric", "number", f"whole numbers, called {hint[0]!r}"
    if (numbers < -1).any():
        return "numeric", "number", "has negative numbers, which ids are not"
    if not facts.is_text and pa.types.is_floating(facts.type) and not facts.missing:
        return "numeric", "number", f"stored as {facts.type}, though no value is missing"
    return "categorical", "id", "whole numbers"


def _text(facts: Facts, separator: str) -> Kind:
    texts = facts.texts
    shares = facts.counts / facts.counts.sum()
    split = np.array([separator in text for text in texts])
    if float(shares[split].sum()) >= LIST_SHARE:
        parts = {part for text in texts for part in text.split(separator) if part}
        if len(parts) < len(texts):
            return "multivalent", "list", f"{len(parts):,} values between {separator!r}"
    words = float(np.average([len(text.split()) for text in texts], weights=facts.counts))
    if words >= LONG_TEXT and facts.distinct > 0.5 * (facts.rows - facts.missing):
        return "drop", "free text", f"{words:.0f} words in a cell on average, few cells alike"
    if facts.numbers is not None:
        return "categorical", "id", "whole numbers"
    return "categorical", "id", MARKED if all(map(_MARKED.fullmatch, texts[:_DATES])) else "text"


def _leading_zeros(facts: Facts) -> bool:
    return any(re.match(r"0[0-9]", text) for text in facts.texts)


def _short(text: str) -> str:
    return repr(text if len(text) <= 24 else text[:21] + "...")


# ---- while all rows are read -------------------------------------------------------------------


class Watch:
    """Sees that columns which were left out for what a sample holds stay so in all rows.

    A constant has one value, and a row id another one in every row. Of row ids the repeats are
    counted among ids chosen by a hash, in bounded memory.

    Args:
        decisions: About all columns.
        rows: Of the sample.
    """

    def __init__(self, decisions: Sequence[Decision], rows: int) -> None:
        left_out = [d for d in decisions if d.kind == "drop" and d.reason != NAMED]
        self._constants = {d.name: d for d in left_out if d.what == "constant"}
        self._row_ids = {d.name: d for d in left_out if d.what == "row id"}
        self._first: dict[str, Any] = {}
        self._sketches = {name: _Repeats() for name in self._row_ids}
        self._rows = rows

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that must be read for it."""
        return (*self._constants, *self._row_ids)

    def see(self, table: Any, path: Path) -> None:
        """Look at more rows; DataError if a decision does not hold for them."""
        for name, decision in self._constants.items():
            for value in table[name].unique().to_pylist():
                value = None if value in ("", b"") or value != value else value
                first = self._first.setdefault(name, value)
                if value != first:
                    shown = value.decode("utf-8", "replace") if type(value) is bytes else value
                    raise self._wrong(decision, path, f"another row holds {shown!r:.40}")
        for name, decision in self._row_ids.items():
            sketch = self._sketches[name]
            sketch.add(categorical_ids(table[name], name, "token").to_numpy())
            if sketch.share > MOST_REPEATS:
                raise self._wrong(decision, path, f"{sketch.share:.0%} of the values repeat")

    def _wrong(self, decision: Decision, path: Path, why: str) -> DataError:
        name = decision.name
        return DataError(
            f"{path}: column {name!r} was left out as a {decision.what}, because "
            f"{decision.reason} in a sample of {self._rows:,} rows, but {why}; say what it is, as "
            f"in --kind {name}=categorical (or numeric, multivalent, drop)"
        )


class _Repeats:
    """The share of values that were seen before, among ids chosen by a hash."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._limit = 2**64 - 1

    @property
    def share(self) -> float:
        """0 while there are too few values to tell."""
        seen = sum(self._counts.values())
        return 1 - len(self._counts) / seen if seen >= FEWEST_ROWS else 0.0

    def add(self, ids: Ids) -> None:
        hashes = splitmix64(ids.view(np.uint64))
        values, counts = np.unique(hashes[hashes <= np.uint64(self._limit)], return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            self._counts[value] = self._counts.get(value, 0) + count
        while len(self._counts) > WATCHED:
            self._limit //= 2
            self._counts = {v: n for v, n in self._counts.items() if v <= self._limit}
