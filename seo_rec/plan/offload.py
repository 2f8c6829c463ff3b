"""Tables larger than the devices: whole in main memory (UVM) or on SSD, a cache of rows on the GPU.

A row that is read and not in the cache crosses the bus, and the row that it displaces goes back,
since training has changed it. How often that happens is the miss rate of the cache.

Letters: P groups of equally popular ids.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torchrec.distributed.planner.constants import SSD_MEM_BW

from seo_rec.plan.placement import CACHED, DENSE, FUSED, KEY_VALUE, UVM_CACHING, PlanError
from seo_rec.plan.topology import Topology

Floats = npt.NDArray[np.float64]
Counts = Callable[[str], npt.NDArray[np.generic] | None]
CHOICES = (FUSED, UVM_CACHING, KEY_VALUE)  # of --compute-kernels; dense follows from the optimizer
DEFAULT_KERNELS = (FUSED, UVM_CACHING)
# FBGEMM updates tables with a cache in the backward pass only; it has no other optimizer of ours.
CACHEABLE = ("adagrad", "rowwise_adagrad", "sgd")
LOAD_FACTORS = (0.8, 0.5, 0.35, 0.2, 0.1, 0.05, 0.02, 0.01)  # tried; 0.2 is TorchRec's default
_HALVINGS = 60


@dataclass(frozen=True)
class Cache:
    """A kernel that keeps a table elsewhere, and the part of its rows that the GPU caches."""

    kernel: str
    load_factor: float


@dataclass(frozen=True)
class Popularity:
    """How unevenly a table is read: ``ids_P`` ids have each the share ``shares_P`` of the reads.

    Args:
        shares_P: of all reads, for one id of the group.
        ids_P: ids in the group; ``shares_P @ ids_P`` is 1.
        rows: rows of the table.
    """

    shares_P: Floats
    ids_P: Floats
    rows: int

    @classmethod
    def even(cls, rows: int) -> Popularity:
        """Every row as often as any other: what is assumed where nothing is known."""
        return cls(np.array([1 / rows]), np.array([float(rows)]), rows)

    @classmethod
    def of(cls, readers: Iterable[tuple[npt.NDArray[np.generic], float]], rows: int) -> Popularity:
        """From how often each id occurs, by reader of the table.

        Args:
            readers: the counts of a column's ids, and the reader's mean ids per bag.
            rows: rows of the table.
        """
        shares, ids = [], []
        total = 0.0
        for counts, rate in readers:
            values, number = np.unique(np.asarray(counts, dtype=np.float64), return_counts=True)
            number, values = number[values > 0], values[values > 0]
            if rate > 0 and values.size:
                shares.append(rate * values / (values @ number))
                ids.append(number.astype(np.float64))
                total += rate
        if not shares:
            return cls.even(rows)
        return cls(np.concatenate(shares) / total, np.concatenate(ids), rows)

    def hit_rate(self, load_factor: float) -> float:
        """Reads of a row that is in the cache, as a part of all reads.

        ``h = sum_i p_i (1 - exp(-p_i T))`` with T from ``sum_i (1 - exp(-p_i T)) = C``, the ids
        that the cache holds: Che's approximation of a cache that gives up what was read longest
        ago (Che, Tung, Wang 2002), FBGEMM's default. Evenly read rows have ``h = load_factor``.

        Args:
            load_factor: rows in the cache over rows of the table. Where several ids share a row,
                a cached row holds all of them.
        """
        held = load_factor * max(self.rows, self.ids_P.sum())
        if held >= self.ids_P.sum():
            return 1.0
        low, high = 0.0, 1.0
        while self._present(high) < held:
            high *= 2
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._present(middle) < held else (low, middle)
        return float((self.ids_P * self.shares_P) @ -np.expm1(-self.shares_P * high))

    def distinct(self, reads: float) -> float:
        """Different rows among so many reads, expected."""
        return min(self._present(reads), float(self.rows))

    def _present(self, reads: float) -> float:
        return float(self.ids_P @ -np.expm1(-self.shares_P * reads))


def bandwidth(kernel: str, topology: Topology) -> float:
    """Bytes per second from where a table is to the device: the host's, or TorchRec's of an SSD."""
    return topology.host_bandwidth if kernel == UVM_CACHING else 1e3 * SSD_MEM_BW


def check_kernels(names: Iterable[str], load_factor: float | None) -> tuple[str, ...]:
    """The compute kernels a plan may use, each once.

    Raises:
        PlanError: an unknown name, no ``fused``, a load factor out of range or without a cache, or
            ``key_value`` where the installed FBGEMM has no such kernel.
    """
    kernels = tuple(dict.fromkeys(names))
    if unknown := [k for k in kernels if k not in CHOICES]:
        more = f" ({DENSE} follows from the optimizer)" if DENSE in unknown else ""
        raise PlanError(f"compute kernels {unknown}; allowed: {', '.join(CHOICES)}{more}")
    if FUSED not in kernels:
        raise PlanError(
            f"compute kernels {', '.join(kernels) or 'none'}; {FUSED} must be among them: tables "
            "are taken out of the memory of the devices only as far as they do not fit"
        )
    if KEY_VALUE in kernels and (lack := lacks_key_value()):
        raise PlanError(
            f"compute kernel {KEY_VALUE!r} keeps tables on SSD, and the installed FBGEMM cannot: "
            f"{lack}. Take {FUSED},{UVM_CACHING}, or plan where FBGEMM has it"
        )
    cached = [k for k in kernels if k in CACHED]
    if load_factor is not None and not 0 < load_factor <= 1:
        raise PlanError(f"cache load factor {load_factor}; allowed: above 0, at most 1")
    if load_factor is not None and not cached:
        raise PlanError(
            f"cache load factor {load_factor} without a kernel that has a cache; add "
            f"{UVM_CACHING} to the compute kernels"
        )
    return kernels


def lacks_key_value() -> str | None:
    """What the installed FBGEMM lacks to keep tables on SSD; None if it lacks nothing."""
    try:
        importlib.import_module("fbgemm_gpu.tbe.ssd")
    except (ImportError, OSError) as error:
        return f"fbgemm_gpu.tbe.ssd cannot be imported ({error})"
    try:
        torch.classes.fbgemm.EmbeddingRocksDBWrapper  # noqa: B018 - the lookup is the question
    except RuntimeError:
        return "it was built without RocksDB (no class EmbeddingRocksDBWrapper)"
    return None
