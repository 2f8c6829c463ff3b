"""Mean and standard deviation of numbers that come block by block.

Sums of floating-point numbers depend on how the numbers are divided. Where several processes
measure the rows that one would, all cut them at the same places
(:class:`seo_rec.data.numeric.Fit`), and the blocks are merged in the order of the rows, so that the
figures are equal to the last bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Block(NamedTuple):
    """What is measured of some numbers: their number, mean, squared deviations, least and most."""

    size: int
    mean: float
    squares: float
    least: float
    most: float


def block_of(numbers: npt.NDArray[np.float64]) -> Block:
    """The figures of one number or more."""
    mean = float(numbers.mean())
    squares = float(np.square(numbers - mean).sum())
    return Block(numbers.size, mean, squares, float(numbers.min()), float(numbers.max()))


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
        if numbers.size:
            self.merge(block_of(numbers))

    def merge(self, block: Block) -> None:
        """Count a block in that has been measured."""
        total, gap = self.count + block.size, block.mean - self.mean
        self._squares += block.squares
        self._squares += gap * gap * self.count * block.size / total
        self.mean += gap * block.size / total
        self.count = total
        self._least = min(self._least, block.least)
        self._most = max(self._most, block.most)

    @property
    def std(self) -> float:
        """The standard deviation of the population; 0 of no numbers, and of equal ones."""
        if not self._least < self._most:  # a mean is rounded, so the sum of squares may not be 0
            return 0.0
        return float(np.sqrt(self._squares / self.count))
