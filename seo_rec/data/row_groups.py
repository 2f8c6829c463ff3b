"""Row groups of a prepared data set's parquet shards, decoded to arrays of rows.

Letters: B rows, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seo_rec.data.parquet import open_parquet, read_footer
from seo_rec.schema import BINARY, SCHEMA_FILE, DataError, Schema

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Bags(NamedTuple):
    """One feature of some rows: ids end to end, and ids per row (None: one in every row)."""

    values: Ints
    lengths: npt.NDArray[np.int32] | None

    def after(self, start: int) -> Bags:
        """The bags from row ``start`` on, over the same memory."""
        if self.lengths is None:
            return Bags(self.values[start:], None)
        return Bags(self.values[self.lengths[:start].sum() :], self.lengths[start:])


@dataclass(frozen=True, slots=True)
class Rows:
    """Some decoded rows.

    Gathered rows also hold, over the same memory as ``bags``, all ids as one matrix if every
    bag has one id, else all lengths as one matrix: a batch is then cut from it in one slice.
    """

    bags: list[Bags]
    dense_BN: Floats
    labels_B: Floats
    ids_FB: Ints | None = None
    lengths_FB: npt.NDArray[np.int32] | None = None
    weights_B: Floats | None = None
    labels_BT: Floats | None = None  # of data with several labels, the one of labels_B first

    @classmethod
    def none(
        cls, num_features: int, num_dense: int, weighted: bool = False, num_labels: int = 1
    ) -> Rows:
        """No rows at all, of so many columns."""
        bag = Bags(np.zeros(0, np.int64), None)
        zero = np.zeros((0, num_dense), np.float32)
        ids_FB = np.zeros((num_features, 0), np.int64)
        empty = np.zeros(0, np.float32)
        weights_B = empty if weighted else None
        labels_BT = np.zeros((0, num_labels), np.float32) if num_labels > 1 else None
        return cls(
            [bag] * num_features, zero, empty, ids_FB, weights_B=weights_B, labels_BT=labels_BT
        )

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.labels_B)

    def after(self, start: int) -> Rows:
        """The rows from ``start`` on, over the same memory."""
        return Rows(
            [b.after(start) for b in self.bags],
            self.dense_BN[start:],
            self.labels_B[start:],
            None if self.ids_FB is None else self.ids_FB[:, start:],
            None if self.lengths_FB is None else self.lengths_FB[:, start:],
            None if self.weights_B is None else self.weights_B[start:],
            None if self.labels_BT is None else self.labels_BT[start:],
        )


def gather(parts: Sequence[Rows], index: Ints) -> Rows:
    """The rows ``index`` of the parts laid end to end; always new memory.

    numpy, not torch: its copies stay on this thread and release the interpreter lock, so they
    do not compete with the training step for torch's thread pool.
    """
    features = range(len(parts[0].bags))
    shape = (len(features), len(index))
    single = all(bags.lengths is None for part in parts for bags in part.bags)
    ids_FB = np.empty(shape, np.int64) if single else None
    lengths_FB = None if single else np.ones(shape, np.int32)
    out: list[Bags] = []
    for f in features:
        bags = [part.bags[f] for part in parts]
        if ids_FB is not None:
            # "clip" only because "raise" makes take() copy through a buffer
            values = np.concatenate([b.values for b in bags])
            np.take(values, index, out=ids_FB[f], mode="clip")
            out.append(Bags(ids_FB[f], None))
        else:
            assert lengths_FB is not None
            out.append(_gather_bags(bags, index, lengths_FB[f]))
    dense_BN = np.take(np.concatenate([p.dense_BN for p in parts]), index, axis=0)
    labels_B = np.take(np.concatenate([p.labels_B for p in parts]), index)
    weights = [p.weights_B for p in parts if p.weights_B is not None]
    weights_B = np.take(np.concatenate(weights), index) if weights else None
    several = [p.labels_BT for p in parts if p.labels_BT is not None]
    labels_BT = np.take(np.concatenate(several), index, axis=0) if several else None
    return Rows(out, dense_BN, labels_B, ids_FB, lengths_FB, weights_B, labels_BT)


def _gather_bags(bags: Sequence[Bags], index: Ints, picked: npt.NDArray[np.int32]) -> Bags:
    """The bags ``index`` of one feature; their lengths are written to ``picked`` (full of 1)."""
    values = np.concatenate([b.values for b in bags])
    if all(b.lengths is None for b in bags):
        return Bags(np.take(values, index), None)
    lengths = np.concatenate(
        [np.ones(len(b.values), np.int32) if b.lengths is None else b.lengths for b in bags]
    )
    starts = np.cumsum(lengths, dtype=np.int64)
    starts -= lengths
    np.take(lengths, index, out=picked, mode="clip")
    source = np.take(starts, index)
    if lengths.max(initial=0) <= 1:
        source = source[picked.astype(bool)]
    else:
        source -= np.cumsum(picked, dtype=np.int64) - picked
        source = np.repeat(source, picked)
        source += np.arange(len(source))
    return Bags(np.take(values, source), picked)


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group of a shard. The footer is kept: opening the file again need not parse it."""

    path: Path
    footer: Any
    number: int
    num_rows: int

    def num_values(self, column: str) -> int:
        """Leaf values of a column, at least; a missing or empty list counts as one."""
        group = self.footer.row_group(self.number)
        leaves = (group.column(i) for i in range(group.num_columns))
        return sum(c.num_values for c in leaves if c.path_in_schema.split(".")[0] == column)


def find_row_groups(data: Path, schema: Schema, split: str) -> list[RowGroup]:
    """Row groups of a split in file order, after checking every shard against the schema."""
    if split not in schema.num_rows:
        raise DataError(
            f"{data / SCHEMA_FILE}: no split {split!r}; this data set has {sorted(schema.num_rows)}"
        )
    paths = sorted((data / split).glob("part-*.parquet"), key=lambda p: (len(p.name), p.name))
    groups: list[RowGroup] = []
    for path in paths:
        try:
            footer = read_footer(path)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from error
        _check_columns(path, footer.schema.to_arrow_schema(), schema)
        sizes = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
        groups += [RowGroup(path, footer, i, n) for i, n in enumerate(sizes) if n]
    found, expected = sum(g.num_rows for g in groups), schema.num_rows[split]
    if found != expected:
        raise DataError(
            f"{data / split}: {found} rows in {len(paths)} shards (part-*.parquet), but "
            f"{SCHEMA_FILE} says {expected}; shards are missing or left over, run "
            "`seo-rec prepare` again"
        )
    if not groups:
        raise DataError(f"{data / split}: split {split!r} has no rows; choose another split")
    return groups


def _check_columns(path: Path, shard: Any, schema: Schema) -> None:
    """DataError unless the shard has exactly the schema's columns, with their types."""
    wanted = {c.name: c.kind for c in schema.columns} | dict.fromkeys(schema.labels, "label")
    wanted |= {schema.weight: "weight"} if schema.weight else {}
    wanted |= {schema.time: "time"} if schema.time else {}
    missing = [n for n in wanted if n not in shard.names]
    extra = [n for n in shard.names if n not in wanted]
    if missing or extra or len(shard.names) != len(wanted):
        raise DataError(
            f"{path}: the columns do not match {SCHEMA_FILE}: missing {missing}, not in the "
            f"schema {extra}; run `seo-rec prepare` again"
        )
    for name, kind in wanted.items():
        got = shard.field(name).type
        is_list = pa.types.is_list(got) or pa.types.is_large_list(got)
        if kind == "multivalent":
            good, allowed = is_list and got.value_type == pa.int64(), "list<int64>"
        elif kind == "categorical":
            good, allowed = got == pa.int64(), "int64"
        elif kind == "time":
            good, allowed = got == pa.float64(), "float64"
        else:
            good, allowed = got == pa.float32(), "float32"
        if not good:
            raise DataError(
                f"{path}: column {name!r} is {got}; a {kind} column must be {allowed}; run "
                "`seo-rec prepare` again"
            )


def decode(
    group: RowGroup,
    features: Sequence[str],
    numeric: Sequence[str],
    label: str,
    weight: str | None = None,
    label_kind: str = BINARY,
    more_labels: Sequence[str] = (),
) -> Rows:
    """Decode the named columns of one row group; DataError names the file."""
    try:
        with open_parquet(group.path, group.footer) as file:
            beside = [] if weight is None else [weight]
            names = [*features, *numeric, label, *more_labels, *beside]
            table = file.read_row_group(group.number, columns=names, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(group.path, error, group.number) from error
    dense_BN = np.empty((group.num_rows, len(numeric)), np.float32)
    for n, name in enumerate(numeric):
        dense_BN[:, n] = _plain(table.column(name), name, group)
        if not np.isfinite(dense_BN[:, n]).all():
            raise _unfit(group, name, "has NaN or infinite numbers; allowed: finite numbers")
    bags = [_bags(table.column(name), name, group) for name in features]
    for name, bag in zip(features, bags, strict=True):
        if bag.values.min(initial=0) < 0:
            raise _unfit(group, name, f"has the id {bag.values.min()}; allowed: 0 or more")
    labels_B = _plain(table.column(label), label, group)
    more = [_plain(table.column(name), name, group) for name in more_labels]
    for name, values in zip(more_labels, more, strict=True):
        if not bool(((values == 0) | (values == 1)).all()):
            raise _unfit(group, name, "has labels other than 0 and 1")
    if label_kind != BINARY:
        if not np.isfinite(labels_B).all():
            raise _unfit(group, label, "has NaN or infinite labels; allowed: finite numbers")
    elif not bool(((labels_B == 0) | (labels_B == 1)).all()):
        raise _unfit(group, label, "has labels other than 0 and 1")
    weights_B = None if weight is None else _plain(table.column(weight), weight, group)
    if weights_B is not None and not (np.isfinite(weights_B) & (weights_B >= 0)).all():
        raise _unfit(group, str(weight), "has weights that are negative or no numbers")
    labels_BT = np.stack([labels_B, *more], axis=1) if more else None
    return Rows(bags, dense_BN, labels_B, weights_B=weights_B, labels_BT=labels_BT)


def _unfit(group: RowGroup, name: str, what: str) -> DataError:
    return DataError(
        f"{group.path}: row group {group.number}: column {name!r} {what}; restore the file or run "
        "`seo-rec prepare` again"
    )


def _plain(column: Any, name: str, group: RowGroup) -> Any:
    """A column without nulls as numpy."""
    if column.null_count:
        raise DataError(
            f"{group.path}: row group {group.number}: column {name!r} has {column.null_count} "
            "nulls; only categorical and multivalent columns may; run `seo-rec prepare` again"
        )
    return column.combine_chunks().to_numpy()


def _bags(column: Any, name: str, group: RowGroup) -> Bags:
    """A categorical or multivalent column; a null row is an empty bag."""
    array = column.combine_chunks()
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        if not array.null_count:
            return Bags(array.to_numpy(), None)
        present = array.is_valid().to_numpy(zero_copy_only=False)
        return Bags(array.drop_null().to_numpy(), present.astype(np.int32))
    ids = array.flatten()  # leaves out what lies under null lists
    lengths = array.value_lengths().fill_null(0).to_numpy().astype(np.int32)
    if ids.null_count:
        raise DataError(
            f"{group.path}: row group {group.number}: column {name!r} has {ids.null_count} nulls "
            "inside its lists; a missing value is a null or empty list; run `seo-rec prepare` again"
        )
    return Bags(ids.to_numpy(), lengths)


def _unreadable(path: Path, error: Exception, group: int | None = None) -> DataError:
    where = f"{path}: " if group is None else f"{path}: row group {group}: "
    return DataError(
        f"{where}not readable as parquet ({error}); restore the file or run `seo-rec prepare` again"
    )
