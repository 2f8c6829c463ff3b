"""Which row belongs to train, val or test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seo_rec.schema import DataError

RULES = ("random", "temporal")
RANDOM_FRACTIONS = (0.8, 0.1, 0.1)
TEMPORAL_FRACTIONS = (6 / 7, 1 / 14, 1 / 14)


@dataclass(frozen=True)
class Split:
    """How rows are divided.

    ``random``: row i of the kept rows goes by u_i = splitmix64(splitmix64(seed) + i) / 2^64:
    to train if u_i < f_train, to val if u_i < f_train + f_val, else to test. ``temporal``: the
    first f_train of the rows in file order, then f_val, then the rest; the seed plays no part.

    Args:
        fractions: train, val and test, summing to 1; None means 0.8, 0.1, 0.1 for random and
            6/7, 1/14, 1/14 for temporal.
        trains: Whether training rows are needed, so that train must have a share.
    """

    rule: str = "random"
    seed: int = 42
    fractions: tuple[float, float, float] | None = None
    trains: bool = True

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise DataError(f"split rule is {self.rule!r}; allowed: {', '.join(RULES)}")
        if not 0 <= self.seed < 2**63:
            raise DataError(f"split seed is {self.seed}; allowed: 0 to 2^63 - 1")
        shares = self.shares
        if len(shares) != 3 or min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
            raise DataError(
                f"split fractions are {shares}; allowed: three numbers >= 0 that sum to 1, for "
                "train, val and test, as in 0.8,0.1,0.1"
            )
        if shares[0] == 0 and self.trains:
            raise DataError(f"split fractions are {shares}; the train split must not be empty")

    @property
    def shares(self) -> tuple[float, float, float]:
        """The three fractions in force."""
        if self.fractions is not None:
            return self.fractions
        return RANDOM_FRACTIONS if self.rule == "random" else TEMPORAL_FRACTIONS

    def assign(self, first: int, num: int, total: int | None = None) -> npt.NDArray[np.int8]:
        """0 (train), 1 (val) or 2 (test) for rows ``first`` to ``first + num``.

        ``total`` is the number of all rows, needed by the temporal rule.
        """
        index = np.arange(first, first + num, dtype=np.uint64)
        if self.rule == "random":
            return self.by_hash(index)
        assert total is not None
        train, val, _ = self.shares
        return self._between(index, round(train * total), round((train + val) * total))

    def by_hash(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int8]:
        """0, 1 or 2 for rows by a hash of ``keys``: equal keys go to the same split."""
        train, val, _ = self.shares
        return self._between(uniform(keys, self.seed), train, train + val)

    def by_time(
        self, times: npt.NDArray[np.float64], ends: tuple[float, float]
    ) -> npt.NDArray[np.int8]:
        """0, 1 or 2 for rows before, between and from the two times of :meth:`ends_of`."""
        return self._between(times, *ends)

    def ends_of(self, times: npt.NDArray[np.float64]) -> tuple[float, float]:
        """The times, of all rows and ascending, at which the validation and test rows begin.

        Rows of one time are in one split, so the shares are met as nearly as that allows.
        """
        train, val, _ = self.shares
        places = [round(train * len(times)), round((train + val) * len(times))]
        ends = [float(times[p]) if p < len(times) else float("inf") for p in places]
        return ends[0], ends[1]

    def _between(
        self, place: npt.NDArray[Any], val_from: float, test_from: float
    ) -> npt.NDArray[np.int8]:
        # Rounding must not open a test split that was given no share.
        bounds = np.array([val_from, np.inf if self.shares[2] == 0 else test_from], np.float64)
        return np.searchsorted(bounds, place.astype(np.float64), side="right").astype(np.int8)

    def to_json(self) -> dict[str, Any]:
        rule: dict[str, Any] = {"rule": self.rule, "fractions": [float(f) for f in self.shares]}
        if self.rule == "random":
            rule["seed"] = self.seed
        return rule


def uniform(keys: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), each a hash of a key and the seed."""
    start = splitmix64(np.array([seed], np.uint64))
    return (splitmix64(start + keys) >> np.uint64(11)).astype(np.float64) / 2**53


def splitmix64(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A fixed hash of 64-bit numbers (Steele, Lea and Flood, 2014), each by itself."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
