"""How numbers reach a model: as they are, by their logarithm, standardised, or as categories.

What a rule needs to know of the data (mean, standard deviation, quantiles, whether values are
missing) is measured on the training rows alone, and stored with the rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from seo_rec.data.split import splitmix64
from seo_rec.data.spread import Block, Spread, block_of
from seo_rec.schema import DataError, Schema

Numbers = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

TRANSFORMS = ("none", "log", "standard", "quantiles")
MISSING_NUMBERS = ("indicator", "zero")
BUCKETS = 32
BLOCK_ROWS = 16_384  # training rows that are measured together
SAMPLED = 200_000  # values of a column at most, of which quantiles are computed
INDICATOR = " is missing"  # ends the name of the column that says so
BY_COLUMN = "by column, in numeric_columns"  # numeric_rule of a schema that has the rules there
_LARGEST = float(np.finfo(np.float32).max)
_DIGITS = 9  # of a mean and a deviation, so that the order of sums cannot be seen in them


@dataclass(frozen=True)
class NumericRule:
    """What becomes of the numbers x of one column; computed in float64, rounded to float32.

    ``none``: x. ``log``: sign(x) ln(1 + abs(x)). ``standard``: (x - mean) / scale. In all three a
    missing number is 0. ``quantiles``: the number of ``bounds`` that are at most x, as a category.

    Args:
        rule: One of :data:`TRANSFORMS`.
        mean: Of ``standard``.
        scale: Of ``standard``, above 0.
        bounds: Of ``quantiles``, ascending.
        indicator: Whether a second column is 1 where the number is missing, and 0 elsewhere.
    """

    rule: str = "none"
    mean: float = 0.0
    scale: float = 1.0
    bounds: tuple[float, ...] = ()
    indicator: bool = False

    def __post_init__(self) -> None:
        if self.rule not in TRANSFORMS:
            raise DataError(f"numeric rule {self.rule!r}; allowed: {', '.join(TRANSFORMS)}")
        if not math.isfinite(self.mean) or not (math.isfinite(self.scale) and self.scale > 0):
            raise DataError(
                f"numeric rule standard has mean {self.mean} and scale {self.scale}; allowed: "
                "finite numbers, the scale above 0"
            )
        pairs = zip(self.bounds, self.bounds[1:], strict=False)
        if not all(map(math.isfinite, self.bounds)) or any(a >= b for a, b in pairs):
            raise DataError("the bounds of numeric rule quantiles are not finite and ascending")
        if self.indicator and self.rule == "quantiles":
            raise DataError("numeric rule quantiles has no indicator; a missing number has an id")

    @property
    def is_bucket(self) -> bool:
        """Whether numbers become categories."""
        return self.rule == "quantiles"

    def values(self, numbers: Numbers) -> Floats:
        """The model's numbers, float32 (B,); ``numbers`` has NaN where they are missing."""
        return transformed(numbers, self.rule, self.mean, self.scale)

    def buckets(self, numbers: Numbers) -> tuple[Ids, npt.NDArray[np.bool_]]:
        """The categories, int64 (B,), and where the number is missing."""
        found = np.searchsorted(np.array(self.bounds, np.float64), numbers, side="right")
        return found.astype(np.int64), np.isnan(numbers)

    def to_json(self) -> dict[str, Any]:
        """The rule as ``schema.json`` and packages keep it."""
        document: dict[str, Any] = {"rule": self.rule}
        if self.rule == "standard":
            document |= {"mean": self.mean, "scale": self.scale}
        if self.rule == "quantiles":
            return document | {"bounds": list(self.bounds)}
        return document | {"indicator": self.indicator}

    @classmethod
    def from_json(cls, document: Any, where: str) -> NumericRule:
        """Read a rule strictly; DataError says what is wrong, and where."""
        if not isinstance(document, Mapping) or not isinstance(document.get("rule"), str):
            raise DataError(f"{where}: must be an object with a rule")
        rule = document["rule"]
        keys = {"rule"} | ({"bounds"} if rule == "quantiles" else {"indicator"})
        keys |= {"mean", "scale"} if rule == "standard" else set()
        if set(document) != keys:
            raise DataError(f"{where}: has the keys {sorted(document)}; needed: {sorted(keys)}")
        bounds = document.get("bounds", [])
        if not isinstance(bounds, list):
            raise DataError(f"{where}: bounds must be a list")
        numbers = [document.get("mean", 0.0), document.get("scale", 1.0), *bounds]
        if not all(type(x) in (int, float) for x in numbers):
            raise DataError(f"{where}: mean, scale and bounds must be numbers")
        if not isinstance(document.get("indicator", False), bool):
            raise DataError(f"{where}: indicator must be true or false")
        try:
            mean, scale, *rest = (float(x) for x in numbers)
            return cls(rule, mean, scale, tuple(rest), document.get("indicator", False))
        except (DataError, OverflowError) as error:
            raise DataError(f"{where}: {error}") from error


def transformed(
    numbers: Numbers, rule: str, mean: float | Numbers, scale: float | Numbers
) -> Floats:
    """The model's numbers by ``none``, ``log`` or ``standard``; see :class:`NumericRule`.

    Args:
        numbers: float64 of any shape, with NaN where they are missing.
        rule: The rule.
        mean: Of ``standard``, for all numbers or of a shape that fits theirs.
        scale: Of ``standard``, likewise.

    Returns:
        float32 of the same shape.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        if rule == "log":
            numbers = np.sign(numbers) * np.log1p(np.abs(numbers))
        elif rule == "standard":
            numbers = np.clip((numbers - mean) / scale, -_LARGEST, _LARGEST)
    return np.nan_to_num(numbers, nan=0.0).astype(np.float32)


def rules_of(schema: Schema) -> dict[str, NumericRule]:
    """The rules of a data set by raw numeric column; empty if one fixed rule holds for all.

    Raises:
        DataError: The rules cannot be read.
    """
    if schema.options.get("numeric_rule") != BY_COLUMN:
        return {}
    entries = schema.options.get("numeric_columns")
    if not isinstance(entries, dict):
        raise DataError("numeric_columns of the prepared data is no object; prepare them again")
    return {
        name: NumericRule.from_json(entry, f"numeric_columns of {name!r}")
        for name, entry in entries.items()
    }


@dataclass(frozen=True)
class NumericPlan:
    """Which rule a column gets once its training rows are known.

    Args:
        transform: One of :data:`TRANSFORMS`.
        missing: ``indicator`` adds a column where training rows miss values, ``zero`` adds none.
        buckets: Categories of ``quantiles``, 2 or more.
    """

    transform: str = "standard"
    missing: str = "indicator"
    buckets: int = BUCKETS

    def __post_init__(self) -> None:
        if self.transform not in TRANSFORMS:
            allowed = ", ".join(TRANSFORMS)
            raise DataError(f"numeric transform is {self.transform!r}; allowed: {allowed}")
        if self.missing not in MISSING_NUMBERS:
            allowed = ", ".join(MISSING_NUMBERS)
            raise DataError(f"numeric missing rule is {self.missing!r}; allowed: {allowed}")
        if not 2 <= self.buckets <= 10_000:
            raise DataError(f"buckets is {self.buckets}; allowed: 2 to 10000")

    @property
    def is_fixed(self) -> bool:
        """Whether the rule follows from no data."""
        return self.transform in ("none", "log") and self.missing == "zero"


@dataclass
class Fit:
    """Measures a column of training rows, block by block, in bounded memory.

    A block has :data:`BLOCK_ROWS` rows, however the rows come, and the last one fewer. Rows that
    are measured apart, from a multiple of so many on, so give the same figures (:meth:`measured`,
    :meth:`merge`), quantiles excepted.

    Quantiles are exact up to :data:`SAMPLED` values; beyond, they are the quantiles of rows chosen
    by a hash of their number.
    """

    plan: NumericPlan
    missing: int = 0
    blocks: list[Block] = field(default_factory=list)
    rows: int = 0
    _pending: list[Numbers] = field(default_factory=list)
    _kept: list[tuple[Numbers, npt.NDArray[np.uint64]]] = field(default_factory=list)
    _limit: int = 2**64 - 1

    def add(self, numbers: Numbers) -> None:
        """Measure more rows; NaN where a number is missing."""
        if self.plan.transform == "quantiles":
            self._keep(numbers)
        self.missing += int(np.isnan(numbers).sum())
        while len(numbers):
            room = BLOCK_ROWS - self.rows % BLOCK_ROWS
            self._pending.append(numbers[:room].copy())  # a slice would keep all rows in memory
            self.rows += len(numbers[:room])
            numbers = numbers[room:]
            if self.rows % BLOCK_ROWS == 0:
                self._measure()

    def _measure(self) -> None:
        """Measure the rows of the block that is pending, if there are any."""
        rows = np.concatenate(self._pending) if self._pending else np.zeros(0)
        self._pending = []
        if len(known := rows[~np.isnan(rows)]):
            self.blocks.append(block_of(known))

    def measured(self) -> dict[str, Any]:
        """JSON values of what was measured, for :meth:`merge`."""
        self._measure()
        return {"missing": self.missing, "blocks": [list(block) for block in self.blocks]}

    def merge(self, measured: Mapping[str, Any]) -> None:
        """Count in the rows behind those that have been measured."""
        self.missing += measured["missing"]
        self.blocks += [Block(*block) for block in measured["blocks"]]

    def rule(self) -> NumericRule:
        """The rule that these rows give."""
        plan = self.plan
        if plan.transform == "quantiles":
            return NumericRule("quantiles", bounds=self._bounds())
        indicator = plan.missing == "indicator" and self.missing > 0
        if plan.transform != "standard":
            return NumericRule(plan.transform, indicator=indicator)
        self._measure()
        spread = Spread()
        for block in self.blocks:
            spread.merge(block)
        mean, scale = _rounded(spread.mean), _rounded(spread.std)
        return NumericRule("standard", mean, scale or 1.0, indicator=indicator)

    def _keep(self, numbers: Numbers) -> None:
        first = np.uint64(self.rows)
        places = splitmix64(first + np.arange(len(numbers), dtype=np.uint64))
        chosen = ~np.isnan(numbers) & (places <= np.uint64(self._limit))
        self._kept.append((numbers[chosen], places[chosen]))
        while sum(len(values) for values, _ in self._kept) > SAMPLED:
            self._limit //= 2
            below = [places <= np.uint64(self._limit) for _, places in self._kept]
            self._kept = [(v[b], p[b]) for (v, p), b in zip(self._kept, below, strict=True)]

    def _bounds(self) -> tuple[float, ...]:
        values = np.concatenate([v for v, _ in self._kept]) if self._kept else np.zeros(0)
        if not len(values):
            return ()
        shares = np.arange(1, self.plan.buckets) / self.plan.buckets
        bounds = np.unique(np.quantile(values, shares, method="inverted_cdf"))
        # nothing is below a bound that is the least value
        return tuple(float(b) for b in bounds if b > values.min())


def _rounded(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")
