"""Encoded rows to come: what every reader of raw files hands over to ``prepare``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seo_rec.data.numeric import NumericPlan, NumericRule
from seo_rec.data.rawfile import Intake
from seo_rec.data.roles import GROUP, PLACE
from seo_rec.data.split import Split, uniform
from seo_rec.data.tokens import MISSING_RULES, TOKEN_RULE
from seo_rec.schema import BINARY, DataError

ARROW_TYPES: Mapping[str, Any] = {
    "categorical": pa.int64(),
    "multivalent": pa.list_(pa.int64()),
    "numeric": pa.float32(),
}

_NEGATIVES = 0x6E656761  # makes another seed than the one of the split


@dataclass(frozen=True)
class Figures:
    """What earlier data measured, and later data are prepared with.

    Args:
        rules: What becomes of the numbers of each numeric column, if the rules are by column.
        mean_weight: The mean by which weights are divided.
        fingerprint: The fingerprint of the earlier data.
    """

    rules: Mapping[str, NumericRule]
    mean_weight: float
    fingerprint: str


@dataclass(frozen=True)
class Source:
    """Encoded rows to come, and what to say about them.

    Args:
        dataset: the name of the data set, as ``schema.json`` keeps it.
        columns: (name, kind) in model order, without the label.
        label: the column of the label.
        paths: the raw files, for the progress bar.
        read: yields tables that hold ``columns`` and the label in this order, typed as in
            :func:`arrow_schema`; files, bytes and bad rows are accounted in the Intake.
        options: everything that shaped the rows, for ``schema.options``.
        findings: more entries for ``schema.options``, asked for when all rows were read.
        numeric: how numbers are transformed, by numeric column; ``read`` yields the numbers of
            these as float64, NaN where they are missing. Others are as the model gets them.
        time: the column of times (float64), by which a temporal split is made.
        weight: the column of the weights of rows (float32).
        group: the column whose ids ``read`` yields as :data:`GROUP`; a random split keeps the
            rows of a group together.
        quoted: the delimiter of a text file with a header and quoted cells, or None for a file
            without both. A source that has this can be read in pieces by several processes.
        label_kind: ``binary`` or ``regression``, which says what the label is.
        more_labels: the columns of further labels, of 0 and 1.
        negative_rate: each negative training row is kept with this probability.
        placed: what says the split of each row, which ``read`` yields as :data:`PLACE`; None if
            the split rule does.
        token_rule: how values become ids, of :data:`seo_rec.data.tokens.TOKEN_RULES`.
        figures: The figures of earlier data, which take the place of measuring training rows.
    """

    dataset: str
    columns: tuple[tuple[str, str], ...]
    label: str
    paths: tuple[Path, ...]
    read: Callable[[Intake], Iterator[Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    findings: Callable[[], Mapping[str, Any]] = dict
    quoted: Callable[[Path], str | None] | None = None
    numeric: Mapping[str, NumericPlan] = field(default_factory=dict)
    time: str | None = None
    weight: str | None = None
    group: str | None = None
    negative_rate: float = 1.0
    label_kind: str = BINARY
    more_labels: tuple[str, ...] = ()
    placed: Mapping[str, Any] | None = None
    figures: Figures | None = None
    token_rule: str = TOKEN_RULE

    @property
    def categorical(self) -> tuple[str, ...]:
        """Names of the columns that hold one id per row."""
        return tuple(name for name, kind in self.columns if kind == "categorical")

    @property
    def embedded(self) -> tuple[str, ...]:
        """Names of the columns that hold ids."""
        return tuple(name for name, kind in self.columns if kind != "numeric")

    def arrow_schema(self) -> Any:
        """Of the rows as they are divided."""
        fields = [
            (name, pa.float64() if name in self.numeric else ARROW_TYPES[kind])
            for name, kind in self.columns
        ]
        return pa.schema([*fields, *self._others()])

    @property
    def is_measured(self) -> bool:
        """Whether rows are changed by what the training rows hold."""
        return bool(self.numeric or self.weight)

    @property
    def needs_one_process(self) -> str | None:
        """Why several processes cannot prepare it; None if they can."""
        reasons = {
            "its format is read as a whole": self.quoted is None,
            "earlier data say which figures and ids are used (--like)": self.figures is not None,
            "quantiles are measured on all training rows (other --numeric-transform are not)": (
                any(plan.transform == "quantiles" for plan in self.numeric.values())
            ),
            "weights are divided by their mean": self.weight is not None,
            "rows are put in order of time": self.time is not None,
            "a group decides where rows go": self.group is not None,
            "a column or files decide where rows go": self.placed is not None,
            "negatives are sampled": self.negative_rate < 1,
            "labels may be any numbers": self.label_kind != BINARY,
            "it has several labels": bool(self.more_labels),
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    def spool_schema(self) -> Any:
        """Of the rows as they are read."""
        fields = list(self.arrow_schema())
        fields += [pa.field(PLACE, pa.int8())] if self.placed else []
        fields += [pa.field(GROUP, pa.int64())] if self.group else []
        return pa.schema(fields)

    def final_schema(self, columns: tuple[tuple[str, str], ...]) -> Any:
        """Of the rows of a prepared data set with these columns."""
        return pa.schema([*((name, ARROW_TYPES[kind]) for name, kind in columns), *self._others()])

    def _others(self) -> list[tuple[str, Any]]:
        fields = [(name, pa.float32()) for name in (self.label, *self.more_labels)]
        fields += [(self.weight, pa.float32())] if self.weight else []
        return fields + ([(self.time, pa.float64())] if self.time else [])


@dataclass
class Assign:
    """Which split each row goes to.

    Args:
        source: Says whether a column, a file or a group decides.
        split: The rule otherwise.
        num_rows: Of all splits, where the rule needs it.
        ends: The times at which validation and test begin, where time decides.
    """

    source: Source
    split: Split
    num_rows: int | None = None
    ends: tuple[float, float] | None = None

    def __call__(self, table: Any, first: int) -> npt.NDArray[np.int8]:
        """0 (train), 1 (val) or 2 (test) for the rows of ``table``, the first of which is given."""
        if self.source.placed is not None:
            places: npt.NDArray[np.int8] = table[PLACE].to_numpy()
            return places
        if self.source.group is not None:
            return self.split.by_hash(table[GROUP].to_numpy().view(np.uint64))
        if self.ends is not None:
            return self.split.by_time(table[self.source.time].to_numpy(), self.ends)
        return self.split.assign(first, table.num_rows, self.num_rows)

    def is_dropped(
        self, table: Any, first: int, place: npt.NDArray[np.int8]
    ) -> npt.NDArray[np.bool_]:
        """Which negative training rows are left out, by a hash of their number."""
        rows = np.arange(first, first + table.num_rows, dtype=np.uint64)
        draws = uniform(rows, self.split.seed ^ _NEGATIVES)
        negative = (place == 0) & (table[self.source.label].to_numpy() == 0)
        return negative & (draws >= self.source.negative_rate)

    def to_json(self) -> dict[str, Any]:
        """The entry of ``schema.json``."""
        if self.source.placed is not None:
            return dict(self.source.placed)
        rule = self.split.to_json()
        if self.source.group is not None:
            rule["group"] = self.source.group
        if self.ends is not None:
            rule["time"] = self.source.time
            rule["starts"] = [end if math.isfinite(end) else None for end in self.ends]
        return rule


def require_missing_rule(missing: str) -> None:
    """DataError unless ``missing`` is one of the rules for missing categorical values."""
    if missing not in MISSING_RULES:
        raise DataError(f"missing rule is {missing!r}; allowed: {', '.join(MISSING_RULES)}")


def column_kinds(
    categorical: Sequence[str], multivalent: Sequence[str], numeric: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """(name, kind) of numeric, categorical and multivalent columns, in this order."""
    return (
        tuple((name, "numeric") for name in numeric)
        + tuple((name, "categorical") for name in categorical)
        + tuple((name, "multivalent") for name in multivalent)
    )
