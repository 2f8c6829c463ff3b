"""Exact vocabularies: counting ids in bounded memory, pruning them, and their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from seo_rec.data.parquet import open_parquet
from seo_rec.data.tokens import OUT_OF_VOCABULARY, Ids
from seo_rec.places import place
from seo_rec.schema import DataError

Counts = npt.NDArray[Any]  # uint32 or int64

VOCABULARY_FOLDER = "vocabulary"
KEPT_FOLDER = "kept"
_PIECE = 1 << 19  # ids merged at a time

# Unified Embedding (Coleman et al., NeurIPS 2023), tables 3 and 4 of appendix B: per-field
# vocabulary sizes, the out-of-vocabulary id included. The paper's Criteo fields 14..39 are the
# categorical columns C1..C26.
_CRITEO_SIZES = (
    676, 533, 17447, 19995, 180, 13, 9693, 337, 3, 14637, 4378, 17795, 3067,
    26, 6504, 18679, 10, 3102, 1557, 3, 18230, 10, 14, 13079, 56, 10581,
)  # fmt: skip
PRESETS: Mapping[str, Mapping[str, int]] = {
    "unified-criteo": {f"C{i}": size for i, size in enumerate(_CRITEO_SIZES, start=1)},
    "unified-avazu": {
        "hour": 24, "C1": 8, "banner_pos": 8, "site_id": 3317, "site_domain": 3887,
        "site_category": 24, "app_id": 4438, "app_domain": 277, "app_category": 29,
        "device_id": 67767, "device_ip": 163804, "device_model": 6217, "device_type": 6,
        "device_conn_type": 5, "C14": 2309, "C15": 9, "C16": 10, "C17": 405, "C18": 5,
        "C19": 66, "C20": 167, "C21": 56,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Pruning:
    """Which ids keep their identity; all others become the one out-of-vocabulary id.

    Ids are counted in the training split. With ``min_count`` m an id stays if it occurs at
    least m times. With a size K for a column its K - 1 most frequent ids stay (ties: the
    smaller id) and the K-th place is the out-of-vocabulary id. A ``preset`` names a table of
    sizes; ``sizes`` gives them by column, and wins over the preset. If ids are not ``counted``,
    none can be pruned, there are no vocabulary files, and the numbers of distinct ids are
    estimated by :class:`seo_rec.data.sketch.DistinctSketch`. With ``earlier`` nothing is decided by
    counts: it holds, by pruned column, the ids that stayed in earlier data, and these stay.
    """

    min_count: int = 1
    preset: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    counted: bool = True
    earlier: Mapping[str, Ids] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise DataError(f"min-count is {self.min_count}; allowed: 1 (keep all) or more")
        if self.preset is not None and self.preset not in PRESETS:
            raise DataError(
                f"vocabulary preset is {self.preset!r}; allowed: {', '.join(sorted(PRESETS))}"
            )
        for name, size in self.sizes.items():
            if size < 1:
                raise DataError(f"vocabulary size of {name!r} is {size}; allowed: 1 or more")
        if self.is_active and not self.counted:
            raise DataError(
                "ids are pruned by their counts, and --no-vocabulary counts none; leave it out, or "
                "--min-count, --vocabulary-size and --vocabulary-preset"
            )

    @property
    def is_active(self) -> bool:
        return self.min_count > 1 or bool(self.all_sizes)

    @property
    def all_sizes(self) -> dict[str, int]:
        return {**(PRESETS[self.preset] if self.preset else {}), **self.sizes}

    def require_columns(self, names: tuple[str, ...]) -> None:
        """DataError if a size is given for a column that is not categorical here."""
        unknown = sorted(set(self.all_sizes) - set(names))
        if unknown:
            raise DataError(
                f"vocabulary sizes are given for {unknown}, which are not categorical columns "
                f"here; allowed: {', '.join(names)}; choose another preset or remove them"
            )

    def kept(self, name: str, ids: Ids, counts: Ids) -> Ids | None:
        """The ids of column ``name`` that stay, sorted; None if all ids stay for ever."""
        if self.earlier is not None:
            return self.earlier.get(name)
        size = self.all_sizes.get(name)
        if size is None and self.min_count == 1:
            return None
        frequent = counts >= self.min_count
        ids, counts = ids[frequent], counts[frequent]
        if size is not None and len(ids) > size - 1:
            order = np.argsort(-counts, kind="stable")[: size - 1]  # ids are sorted: ties by id
            ids = np.sort(ids[order])
        return ids

    def vocabulary(self, name: str, ids: Ids, counts: Ids) -> tuple[Ids, Ids, Ids | None]:
        """The ids of column ``name`` after pruning, their counts, and what :meth:`kept` returns."""
        kept = self.kept(name, ids, counts)
        if kept is None:
            return ids, counts, None
        stays = np.isin(ids, kept, assume_unique=True)
        rest = int(counts[~stays].sum())
        ids, counts = ids[stays], counts[stays]
        if rest:
            place = int(np.searchsorted(ids, OUT_OF_VOCABULARY))
            ids = np.insert(ids, place, OUT_OF_VOCABULARY)
            counts = np.insert(counts, place, rest)
        return ids, counts, kept

    def to_json(self) -> dict[str, Any]:
        if not self.counted:
            return {"counted_on": None, "vocab_size": "estimated"}
        return {
            "min_count": self.min_count,
            "preset": self.preset,
            "sizes": dict(sorted(self.all_sizes.items())),
            "out_of_vocabulary_id": OUT_OF_VOCABULARY if self.is_active else None,
            "counted_on": "train",
        }


def prune(ids: Ids, kept: Ids) -> Ids:
    """``ids`` with everything outside the sorted ``kept`` replaced by the one OOV id."""
    if len(kept) == 0:
        return np.full_like(ids, OUT_OF_VOCABULARY)
    place = np.minimum(np.searchsorted(kept, ids), len(kept) - 1)
    return np.where(kept[place] == ids, ids, OUT_OF_VOCABULARY)


class IdCounter:
    """Counts of distinct ids, as sorted runs that are merged when sizes are alike.

    Each run is more than four times as long as the next, so an id takes part in O(log V) merges
    and all runs together hold at most 4/3 V entries of 12 bytes, whatever the number of rows.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[Ids, Counts]] = []
        self._total = 0

    def add(self, ids: Ids) -> None:
        """Count the values of one block."""
        if not len(ids):
            return
        ids = np.sort(ids)
        first = np.flatnonzero(_starts(ids))
        self.add_counted(ids[first], np.diff(first, append=len(ids)))

    def add_counted(self, ids: Ids, counts: Counts) -> None:
        """Count distinct ``ids``, which ascend, ``counts`` times each."""
        if not len(ids):
            return
        self._total += int(counts.sum())
        # No count exceeds the total: four bytes are enough until there are 2^32 values.
        self._runs.append((ids, counts.astype(np.uint32 if self._total < 2**32 else np.int64)))
        while len(self._runs) > 1 and len(self._runs[-2][0]) <= 4 * len(self._runs[-1][0]):
            self._merge_last()

    def result(self) -> tuple[Ids, Ids]:
        """All distinct ids, ascending, and their counts."""
        while len(self._runs) > 1:
            self._merge_last()
        if not self._runs:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        ids, counts = self._runs[0]
        return ids, counts.astype(np.int64)

    def _merge_last(self) -> None:
        right, left = self._runs.pop(), self._runs.pop()
        dtype = np.uint32 if self._total < 2**32 else np.int64
        self._runs.append(_merged(left, right, dtype))


def _merged(
    left: tuple[Ids, Counts], right: tuple[Ids, Counts], dtype: type[np.uint32 | np.int64]
) -> tuple[Ids, Counts]:
    """Merge two runs piece by piece, so that only the result takes new memory."""
    ids_left, ids_right = left[0], right[0]
    ids = np.empty(len(ids_left) + len(ids_right), np.int64)
    counts: Counts = np.empty(len(ids), dtype)
    pivots = ids_left[_PIECE::_PIECE]
    ends_left = [*range(_PIECE, len(ids_left), _PIECE), len(ids_left)]
    ends_right = [*np.searchsorted(ids_right, pivots).tolist(), len(ids_right)]
    done = start_left = start_right = 0
    for end_left, end_right in zip(ends_left, ends_right, strict=True):
        piece_left, piece_right = slice(start_left, end_left), slice(start_right, end_right)
        both = np.concatenate([ids_left[piece_left], ids_right[piece_right]])
        order = np.argsort(both, kind="stable")  # two sorted pieces: one linear merge
        both = both[order]
        first = np.flatnonzero(_starts(both))
        sums = np.concatenate([left[1][piece_left], right[1][piece_right]]).astype(dtype)[order]
        ids[done : done + len(first)] = both[first]
        counts[done : done + len(first)] = np.add.reduceat(sums, first, dtype=dtype)
        done += len(first)
        start_left, start_right = end_left, end_right
    ids.resize(done, refcheck=False)
    counts.resize(done, refcheck=False)
    return ids, counts


def _starts(ids: Ids) -> npt.NDArray[np.bool_]:
    """Where a new value starts in sorted ``ids``, which are not empty."""
    new = np.empty(len(ids), bool)
    new[0] = True
    np.not_equal(ids[1:], ids[:-1], out=new[1:])
    return new


def write_vocabulary(data: Path, column: str, ids: Ids, counts: Ids) -> Path:
    """Write ``DATA/vocabulary/<column>.parquet``: (id, count), sorted by id; return its path."""
    folder = data / VOCABULARY_FOLDER
    folder.mkdir(exist_ok=True)
    table = pa.table({"id": pa.array(ids, pa.int64()), "count": pa.array(counts, pa.int64())})
    path = folder / f"{column}.parquet"
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_page_checksum=True)
    return path


def write_kept(data: Path, column: str, ids: Ids) -> Path:
    """Write ``DATA/kept/<column>.parquet``, the ids that stay, ascending; return its path."""
    folder = data / KEPT_FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{column}.parquet"
    table = pa.table({"id": pa.array(ids, pa.int64())})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_page_checksum=True)
    return path


def read_kept(data: Path | str, column: str) -> Ids | None:
    """The ids of a pruned column that stay because earlier data kept them, ascending, int64 (V,).

    Returns:
        None if the data set has no such file, since its own training rows decided.

    Raises:
        DataError: The file is damaged.
    """
    path = place(data) / KEPT_FOLDER / f"{column}.parquet"
    if not path.is_file():
        return None
    try:
        with open_parquet(path) as file:
            ids = _whole_numbers(file.read()["id"], "id")
        if len(ids) and (ids[0] < 0 or not bool((ids[1:] > ids[:-1]).all())):
            raise ValueError("the ids are not 0 or more, ascending and distinct")
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise DataError(
            f"{path}: not a file of kept ids ({error}); run `seo-rec prepare` again"
        ) from error
    return ids


def read_vocabulary(
    data: Path | str, column: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The distinct ids of ``column`` in the training split, ascending, and their counts.

    Returns:
        Two int64 arrays of shape (V,).

    Raises:
        DataError: ``data`` has no vocabulary of that column, or the file is damaged.
    """
    data = place(data)
    folder = data / VOCABULARY_FOLDER
    path = folder / f"{column}.parquet"
    if not path.is_file():
        there = sorted(p.stem for p in folder.glob("*.parquet"))
        if not there:
            raise DataError(
                f"{data}: the ids of column {column!r} are needed, and the data set has no "
                "vocabularies; choose a method that hashes ids, or run `seo-rec prepare` again "
                "without --no-vocabulary"
            )
        raise DataError(
            f"{data}: no vocabulary of column {column!r}; allowed: {', '.join(there) or 'none'}; "
            "name one of these or run `seo-rec prepare` again"
        )
    try:
        with open_parquet(path) as file:
            table = file.read()
        ids, counts = (_whole_numbers(table[name], name) for name in ("id", "count"))
        if len(ids) and (ids[0] < 0 or not bool((ids[1:] > ids[:-1]).all())):
            raise ValueError("the ids are not 0 or more, ascending and distinct")
        if bool((counts < 1).any()):
            raise ValueError("a count is below 1")
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise DataError(
            f"{path}: not a vocabulary file ({error}); run `seo-rec prepare` again"
        ) from error
    return ids, counts


def _whole_numbers(column: Any, name: str) -> npt.NDArray[np.int64]:
    if column.type != pa.int64() or column.null_count:
        raise ValueError(f"column {name!r} is {column.type}; allowed: int64 without nulls")
    numbers: npt.NDArray[np.int64] = column.to_numpy()
    return numbers
