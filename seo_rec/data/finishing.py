"""The last pass over prepared rows: what could only be known when all training rows were seen."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seo_rec.data.numeric import INDICATOR, NumericRule
from seo_rec.data.shards import ShardWriter, read_shards
from seo_rec.data.tokens import MISSING, Ids
from seo_rec.data.vocabulary import IdCounter, prune
from seo_rec.schema import SPLITS

Columns = tuple[tuple[str, str], ...]


@dataclass
class Finish:
    """Prunes vocabularies, transforms numbers and scales weights.

    Args:
        columns: (name, kind) in the order of the raw numbers and ids.
        kept: Ids that stay, by column, where the vocabulary is pruned.
        rules: By raw numeric column, what becomes of its numbers.
        missing: ``token`` or ``empty``, for numbers that become categories.
        weight: Name of the column of weights, or None.
        mean_weight: Of the training rows; weights are divided by it.

    Attributes:
        counters: By column whose numbers become categories, the counts of its training ids.
    """

    columns: Columns
    kept: Mapping[str, Ids]
    rules: Mapping[str, NumericRule]
    missing: str = "token"
    weight: str | None = None
    mean_weight: float = 1.0
    counters: dict[str, IdCounter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counters = {name: IdCounter() for name, rule in self.rules.items() if rule.is_bucket}

    @property
    def is_needed(self) -> bool:
        """Whether any row changes."""
        return bool(self.kept or self.rules or self.weight)

    @property
    def final_columns(self) -> Columns:
        """(name, kind) of the finished columns: numeric ones first, indicators behind theirs."""
        numeric: list[tuple[str, str]] = []
        buckets: list[tuple[str, str]] = []
        for name, kind in self.columns:
            rule = self.rules.get(name, NumericRule())
            if kind != "numeric":
                continue
            if rule.is_bucket:
                buckets.append((name, "categorical"))
                continue
            numeric.append((name, kind))
            if rule.indicator:
                numeric.append((name + INDICATOR, "numeric"))
        others = [(name, kind) for name, kind in self.columns if kind != "numeric"]
        return (*numeric, *buckets, *others)

    def run(
        self,
        splits: Path,
        folder: Path,
        schema: Any,
        ahead: Callable[[Iterator[Any]], Iterator[Any]],
        progress: Callable[[int, int], None],
    ) -> None:
        """Write the rows of ``splits``, which are removed, to ``folder``.

        Args:
            splits: A folder with a folder of shards for each split.
            folder: Where the finished ones go.
            schema: The Arrow schema of the finished rows.
            ahead: Reads tables in another thread.
            progress: Told the rows done, twice.
        """
        rows = 0
        for split in SPLITS:
            with ShardWriter(folder / split, schema) as writer:
                for table in ahead(read_shards(splits / split)):
                    done = self.finished(table, schema)
                    if split == "train":
                        for name, counter in self.counters.items():
                            counter.add(done[name].drop_null().to_numpy())
                    writer.write(done)
                    rows += table.num_rows
                    progress(rows, rows)
            shutil.rmtree(splits / split)

    def finished(self, table: Any, schema: Any) -> Any:
        """The finished rows of a table, in the Arrow schema of these."""
        done: dict[str, Any] = {}
        for name in table.column_names:
            column = table[name]
            if name in self.kept:
                done[name] = pruned(column, self.kept[name])
            elif name in self.rules:
                done |= self._numbers(name, column.to_numpy())
            elif name == self.weight:
                scaled = column.to_numpy().astype(np.float64) / self.mean_weight
                done[name] = pa.array(scaled.astype(np.float32))
            else:
                done[name] = column
        return pa.table({name: done[name] for name in schema.names}, schema=schema)

    def _numbers(self, name: str, numbers: Any) -> dict[str, Any]:
        rule = self.rules[name]
        if not rule.is_bucket:
            done = {name: pa.array(rule.values(numbers))}
            if rule.indicator:
                done[name + INDICATOR] = pa.array(np.isnan(numbers).astype(np.float32))
            return done
        ids, null = rule.buckets(numbers)
        if self.missing == "empty":
            return {name: pa.array(ids, mask=null)}
        ids[null] = MISSING
        return {name: pa.array(ids)}


def pruned(column: Any, kept: Ids) -> Any:
    """A column of ids or bags of ids, with ids outside ``kept`` out of vocabulary."""
    array = pa.concat_arrays(column.chunks)
    if pa.types.is_list(array.type):
        values = pa.array(prune(array.values.to_numpy(), kept))
        return pa.ListArray.from_arrays(array.offsets, values)
    null = array.is_null().to_numpy(zero_copy_only=False)
    ids = prune(array.fill_null(0).to_numpy(), kept)
    return pa.array(ids, mask=null) if null.any() else pa.array(ids)
