"""How many distinct ids there are, estimated in a fixed amount of memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from seo_rec.data.split import splitmix64
from seo_rec.data.tokens import Ids

SIZE = 16_384
_RANGE = 2.0**64


class DistinctSketch:
    """The k smallest hashes of the ids: ``distinct = (k - 1) / u_k`` with u_k the k-th in [0, 1].

    The standard error is about 1 / sqrt(k - 2), which is 0.8 % for k = 16,384, and below k distinct
    ids the number is exact. The result depends on the set of ids alone, neither on their order nor
    on how often they come, so sketches of parts can be merged without loss (Bar-Yossef et al.,
    "Counting distinct elements in a data stream", RANDOM 2002; Beyer et al., SIGMOD 2007).

    Args:
        size: k, the number of hashes that are kept.

    Attributes:
        total: The number of ids that were added, with repetitions.
        hashes: The smallest distinct hashes, ascending, at most k.
    """

    def __init__(self, size: int = SIZE) -> None:
        self.total = 0
        self.hashes: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._size = size

    def add(self, ids: Ids) -> None:
        """Add the ids of one block."""
        self.total += len(ids)
        self._keep(splitmix64(ids.astype(np.int64, copy=False).view(np.uint64)))

    def merge(self, hashes: npt.NDArray[np.uint64], total: int) -> None:
        """Add what another sketch of the same size has seen."""
        self.total += total
        self._keep(hashes)

    def distinct(self) -> int:
        """The number of distinct ids, exact below k and an estimate from there."""
        if len(self.hashes) < self._size:
            return len(self.hashes)
        return round((self._size - 1) / (float(self.hashes[-1]) / _RANGE))

    def _keep(self, hashes: npt.NDArray[np.uint64]) -> None:
        if len(self.hashes) == self._size:  # most blocks: few hashes are small enough
            hashes = hashes[hashes < self.hashes[-1]]
        if len(hashes):
            both = np.unique(np.concatenate([self.hashes, hashes]))
            self.hashes = both[: self._size].copy()
