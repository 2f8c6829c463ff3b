"""Mean and standard deviation of numbers that come block by block."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class Spread:
    """Mean and standard deviation, merged block by block as in Chan, Golub and LeVeque (1979).

    With n numbers of mean m before and k numbers of mean b in a block, the sum of squared
    deviations grows by that of the block and by ``(b - m)^2 n k / (n + k)``.
    """

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0
        self._least, self._most = np.inf, -np.inf

    def add(self, numbers: npt.NDArray[np.float64]) -> None:
        """Count a block of numbers in; it may be empty."""
        if not numbers.size:
            return
        mean, count = float(numbers.mean()), numbers.size
        total, gap = self.count + count, mean - self.mean
        self._squares += float(np.square(numbers - mean).sum())
        self._squares += gap * gap * self.count * count / total
        self.mean += gap * count / total
        self.count = total
        self._least = min(self._least, float(numbers.min()))
        self._most = max(self._most, float(numbers.max()))

    @property
    def std(self) -> float:
        """The standard deviation of the population; 0 of no numbers, and of equal ones."""
        if not self._least < self._most:  # a mean is rounded, so the sum of squares may not be 0
            return 0.0
        return float(np.sqrt(self._squares / self.count))
