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
    """

    rule: str = "random"
    seed: int = 42
    fractions: tuple[float, float, float] | None = None

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
        if shares[0] == 0:
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
        train, val, _ = self.shares
        index = np.arange(first, first + num, dtype=np.uint64)
        if self.rule == "random":
            start = splitmix64(np.array([self.seed], np.uint64))
            place = (splitmix64(start + index) >> np.uint64(11)).astype(np.float64) / 2**53
            bounds = np.array([train, train + val])
        else:
            assert total is not None
            place = index.astype(np.float64)
            bounds = np.array([round(train * total), round((train + val) * total)], np.float64)
        # Rounding must not open a test split that was given no share.
        bounds[1] = np.inf if self.shares[2] == 0 else bounds[1]
        return np.searchsorted(bounds, place, side="right").astype(np.int8)

    def to_json(self) -> dict[str, Any]:
        rule: dict[str, Any] = {"rule": self.rule, "fractions": [float(f) for f in self.shares]}
        if self.rule == "random":
            rule["seed"] = self.seed
        return rule


def splitmix64(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The hash of the generator of this name: a bijection of 64 bits whose results look random."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
