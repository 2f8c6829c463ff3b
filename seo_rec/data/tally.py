"""What is counted while rows are divided into splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from seo_rec.data.finishing import Finish
from seo_rec.data.numeric import Fit
from seo_rec.data.sketch import DistinctSketch
from seo_rec.data.source import Source
from seo_rec.data.spread import Spread
from seo_rec.data.tokens import Ids
from seo_rec.data.vocabulary import IdCounter, Pruning
from seo_rec.schema import REGRESSION, SPLITS, DataError


@dataclass(frozen=True)
class Counted:
    """What was counted: rows and positive labels by split; distinct ids and all ids by column.

    ``targets`` has mean and deviation of the labels by split, where they may be any numbers.
    ``more_positives`` has the positive labels by split of each further label.
    """

    num_rows: Mapping[str, int]
    positives: Mapping[str, int]
    sizes: Mapping[str, tuple[int, int]]
    targets: Mapping[str, Spread] = field(default_factory=dict)
    more_positives: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class Tally:
    """Row, label and id counts of the splits as they are written."""

    def __init__(self, source: Source, pruning: Pruning) -> None:
        self.num_rows = dict.fromkeys(SPLITS, 0)
        self.positives = dict.fromkeys(SPLITS, 0)
        self.more_positives = {name: dict.fromkeys(SPLITS, 0) for name in source.more_labels}
        kind = IdCounter if pruning.counted else DistinctSketch
        self.counters: dict[str, IdCounter | DistinctSketch] = {
            name: kind() for name in source.embedded
        }
        self.sizes: dict[str, tuple[int, int]] = {}
        measured = source.numeric if source.figures is None else {}
        self.fits = {name: Fit(plan) for name, plan in measured.items()}
        self.weights = dict.fromkeys(SPLITS, 0.0)
        self.targets = {name: Spread() for name in SPLITS}
        self._label, self._kind, self._weight = source.label, source.label_kind, source.weight

    def add(self, split: str, table: Any) -> None:
        self.num_rows[split] += table.num_rows
        if self._kind == REGRESSION:
            self.targets[split].add(table[self._label].to_numpy().astype(np.float64))
        else:
            self.positives[split] += positives(table[self._label])
        for name, counts in self.more_positives.items():
            counts[split] += positives(table[name])
        if self._weight:
            self.weights[split] += float(table[self._weight].to_numpy().sum(dtype=np.float64))
        if split == "train":
            for name, counter in self.counters.items():
                counter.add(flat_ids(table[name]))
            for name, fit in self.fits.items():
                fit.add(table[name].to_numpy())

    def finish(self, source: Source, kept: Mapping[str, Ids]) -> Finish:
        """What is left to do with the rows, now that those of training are known."""
        if source.figures is not None:
            rules, mean = source.figures.rules, source.figures.mean_weight
        else:
            rules = {name: fit.rule() for name, fit in self.fits.items()}
            mean = self.weights["train"] / self.num_rows["train"]
        if source.weight and not mean > 0:
            raise DataError(f"all weights of the train split are 0 (column {source.weight!r})")
        return Finish(
            source.columns,
            kept,
            rules,
            str(source.options.get("missing", "token")),
            source.weight,
            mean if source.weight else 1.0,
        )


def positives(labels: Any) -> int:
    """The number of labels that are 1."""
    return int(labels.to_numpy().sum(dtype=np.float64))


def flat_ids(column: Any) -> Ids:
    """All ids of a categorical or multivalent column, nulls left out."""
    parts = []
    for chunk in column.chunks:
        values = chunk.flatten() if pa.types.is_list(chunk.type) else chunk
        parts.append((values.drop_null() if values.null_count else values).to_numpy())
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
