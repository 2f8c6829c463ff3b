"""Initial rows of tables as a function of (seed, table, row, column), made where they are stored.

No process needs a whole table, and a plan does not change the weights that a training starts from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

IN_STEP = 8  # float32 numbers that one step of the counter of numpy's Philox gives
AT_ONCE = 2**20  # floats made before they are copied to their place


@dataclass(frozen=True)
class InitialRows:
    """Uniform numbers for the rows of tables, from the counter-based generator Philox 4x64.

    Float number ``n = row * width + column`` of a table is ``low + (high - low) u_n``, where u is
    the sequence of ``numpy.random.Philox`` (as 24-bit float32 numbers in [0, 1)) with the key
    (seed, the first 8 bytes of the SHA-256 of the table's name).

    Args:
        seed: 0 to 2^64 - 1.
        ranges: Low and high by table.
    """

    seed: int
    ranges: Mapping[str, tuple[float, float]]

    def fill(
        self, table: str, width: int, piece: torch.Tensor, row: int = 0, column: int = 0
    ) -> None:
        """Write the initial values of a part of a table, in place.

        Args:
            table: Its name.
            width: The columns of the whole table.
            piece: The part, 2-D.
            row, column: Where it begins in the table.
        """
        rows, columns = piece.shape
        low, high = self.ranges[table]
        at_once = max(1, AT_ONCE // width)

        def make(first: int) -> None:
            some = min(at_once, rows - first)
            numbers = self._numbers(table, (row + first) * width, some * width)
            block = numbers.reshape(some, width)[:, column : column + columns]
            values = torch.from_numpy(np.ascontiguousarray(block))
            with torch.no_grad():
                piece[first : first + some].copy_(values.mul_(high - low).add_(low))

        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            list(threads.map(make, range(0, rows, at_once)))

    def _numbers(self, table: str, first: int, count: int) -> np.ndarray:
        """``u_first .. u_(first + count - 1)``."""
        name = int.from_bytes(hashlib.sha256(table.encode()).digest()[:8], "little")
        step, skipped = divmod(first, IN_STEP)
        bits = np.random.Philox(key=[self.seed, name], counter=[step, 0, 0, 0])
        return np.random.Generator(bits).random(skipped + count, dtype=np.float32)[skipped:]
