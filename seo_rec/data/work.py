"""The work folder of a preparation by many processes, and what follows from its records.

All processes see the folder::

    records/<kind>-<number>.json   what a task has found; it is there once the task is done
    rows/<number>.arrow            encoded rows of a piece of the raw files
    counts/<number>.npz            training ids of some pieces and their counts, or their sketches
    kept/<number>.npy              the ids of a pruned column that stay
    data/                          the prepared data set
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seo_rec.data.completion import versions
from seo_rec.data.finishing import Finish
from seo_rec.data.numeric import Fit
from seo_rec.data.rawfile import BadRows, Piece
from seo_rec.data.shards import SHARD_ROWS
from seo_rec.data.source import Source
from seo_rec.data.split import Split
from seo_rec.data.tokens import Ids
from seo_rec.data.vocabulary import Pruning
from seo_rec.files import read_json
from seo_rec.schema import SPLITS, document_digest

COUNT_ROWS = SHARD_ROWS // 2  # of the pieces whose ids one task counts, about


@dataclass(frozen=True)
class Task:
    """A task by its kind and its number among the tasks of this kind."""

    kind: str
    number: int


class Work:
    """A preparation as each of its processes sees it.

    Args:
        source: Where rows come from.
        work: The work folder.
        split: How rows are divided.
        pruning: Which ids stay.
        bad_rows: What to do with rows that cannot be read.
    """

    def __init__(
        self, source: Source, work: Path, split: Split, pruning: Pruning, bad_rows: BadRows
    ) -> None:
        self.source, self.work = source, work
        self.split, self.pruning, self.bad_rows = split, pruning, bad_rows

    # ---- records -------------------------------------------------------------------------

    def place(self, task: Task) -> Path:
        """The record of a task."""
        return self.work / "records" / f"{task.kind}-{task.number}.json"

    def is_done(self, task: Task) -> bool:
        """Whether a task has been done, by any process."""
        return self.place(task).exists()

    def record(self, kind: str, number: int) -> dict[str, Any]:
        """What a task has found."""
        found: dict[str, Any] = read_json(self.place(Task(kind, number)))
        return found

    def request(self) -> str:
        """A hash of everything that the result depends on."""
        stats = [path.stat() for path in self.source.paths]
        asked = {
            "source": [self.source.dataset, self.source.columns, self.source.label],
            "options": self.source.options,
            "numeric": {name: asdict(plan) for name, plan in self.source.numeric.items()},
            "files": [
                [str(path.absolute()), stat.st_size, stat.st_mtime_ns]
                for path, stat in zip(self.source.paths, stats, strict=True)
            ],
            "split": self.split.to_json(),
            "pruning": self.pruning.to_json(),
            "bad rows": asdict(self.bad_rows),
            "versions": versions(),
        }
        return document_digest(asked)

    # ---- what follows from the records -----------------------------------------------------

    @cached_property
    def pieces(self) -> list[Piece]:
        """The pieces of all raw files, in order; needs all ``cut`` tasks."""
        return [
            Piece(path, **piece)
            for number, path in enumerate(self.source.paths)
            for piece in self.record("cut", number)["pieces"]
        ]

    @cached_property
    def first_rows(self) -> list[int]:
        """The number of the first row of each piece, and of all rows; needs all ``read`` tasks."""
        rows = [self.record("read", number)["rows"] for number in range(len(self.pieces))]
        return list(accumulate(rows, initial=0))

    @cached_property
    def split_rows(self) -> dict[str, list[int]]:
        """By split, how many of its rows come before each piece, and how many there are."""
        total, before = self.first_rows[-1], {name: [0] for name in SPLITS}
        for first, last in zip(self.first_rows, self.first_rows[1:], strict=False):
            sizes = np.bincount(self.split.assign(first, last - first, total), minlength=3)
            for name, size in zip(SPLITS, sizes.tolist(), strict=True):
                before[name].append(before[name][-1] + size)
        return before

    @cached_property
    def groups(self) -> list[range]:
        """The pieces whose ids are counted by one task."""
        groups, start = [], 0
        for piece in range(len(self.pieces)):
            last = piece == len(self.pieces) - 1
            if last or self.first_rows[piece + 1] - self.first_rows[start] >= COUNT_ROWS:
                groups.append(range(start, piece + 1))
                start = piece + 1
        return groups

    @cached_property
    def shards(self) -> list[tuple[str, int]]:
        """(split, number of the shard in it) of every shard."""
        return [
            (name, number)
            for name in SPLITS
            for number in range(max(1, -(-self.split_rows[name][-1] // SHARD_ROWS)))
        ]

    def rows_of_task(self, task: Task) -> int:
        """The training rows whose ids a task counts, or the rows of the shard that it writes."""
        if task.kind == "count":
            group, before = self.groups[task.number], self.split_rows["train"]
            return before[group.stop] - before[group.start]
        split, shard = self.shards[task.number]
        return min(SHARD_ROWS, self.split_rows[split][-1] - shard * SHARD_ROWS)

    @property
    def training_shards(self) -> list[int]:
        """The numbers of the shards of training rows, which are measured one by one."""
        return [number for split, number in self.shards if split == "train"]

    @cached_property
    def finish(self) -> Finish:
        """What becomes of the rows; needs all ``measure`` tasks, and ``merge`` if ids are cut."""
        fits = {name: Fit(plan) for name, plan in self.source.numeric.items()}
        for number in self.training_shards if fits else ():
            found = self.record("measure", number)
            for name, fit in fits.items():
                fit.merge(found[name])
        rules = {name: fit.rule() for name, fit in fits.items()}
        return Finish(self.source.columns, self._kept, rules)

    @cached_property
    def _kept(self) -> dict[str, Ids]:
        found = {name: self.work / "kept" / f"{i}.npy" for i, name in enumerate(self.embedded)}
        return {name: np.load(path) for name, path in found.items() if path.exists()}

    @property
    def embedded(self) -> tuple[str, ...]:
        """Names of the columns that hold ids."""
        return self.source.embedded

    # ---- rows -----------------------------------------------------------------------------

    def rows_of_shard(
        self, split: str, shard: int, columns: Sequence[str] | None = None
    ) -> Iterator[Any]:
        """Tables of the rows of a shard, in their order."""
        before = self.split_rows[split]
        first = shard * SHARD_ROWS
        last = min(first + SHARD_ROWS, before[-1])
        for piece in range(max(0, bisect_right(before, first) - 1), len(self.pieces)):
            if before[piece] >= last:
                break
            start = max(0, first - before[piece])
            yield from self.rows(piece, split, start, last - before[piece], columns)

    def rows(
        self, piece: int, split: str, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> Iterator[Any]:
        """Tables of the rows of a piece that belong to a split, the ``start``-th to the last."""
        row, done, total = self.first_rows[piece], 0, self.first_rows[-1]
        with pa.memory_map(str(self.work / "rows" / f"{piece}.arrow")) as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                if done >= stop:
                    return
                batch = reader.get_batch(number)
                batch = batch if columns is None else batch.select(list(columns))
                place = self.split.assign(row, batch.num_rows, total)
                row += batch.num_rows
                chosen = np.flatnonzero(place == SPLITS.index(split))
                inside = chosen[max(0, start - done) : stop - done]
                done += len(chosen)
                if len(inside) == batch.num_rows:
                    yield pa.table(batch)
                elif len(inside):
                    yield pa.table(batch.take(pa.array(inside)))

    def written(self) -> tuple[dict[str, int], dict[str, int], dict[str, Mapping[str, Any]]]:
        """Rows and positives by split, and the entries of ``files``; needs all ``write`` tasks."""
        rows, positive = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
        files: dict[str, Mapping[str, Any]] = {}
        for number in range(len(self.shards)):
            found = self.record("write", number)
            split = found.pop("split")
            rows[split] += found.pop("rows")
            positive[split] += found.pop("positives")
            files |= found["files"]
        return rows, positive, files
