"""Parquet shards to batches: seeded order, a share per rank, exact resume, decoding ahead.

Letters: B rows, N dense columns, F features, V ids.

The order of an epoch is a function of (data set, split, shuffle, seed, epoch, window) alone; the
batch size, the number of ranks, the columns read, the read-ahead and the cache do not move a row::

    shuffle=False   file order: shards by number, rows as they lie
    shuffle=True    1. permute all row groups of the split with (seed, epoch)
                    2. cut that list into windows of `window` row groups
                    3. permute the rows of each window with (seed, epoch, window number)

Global batch s is rows [s*G, (s+1)*G) of that order, G = batch_size * world_size, and rank r
takes rows [r*batch_size, (r+1)*batch_size) of it. A last short global batch is split so that
the ranks' shares differ by at most one row (and may be empty), or dropped with `drop_last`.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from seo_rec.batch import Batch
from seo_rec.schema import SCHEMA_FILE, DataError, Schema, read_schema

CACHES = ("auto", "memory", "none")
CACHE_LIMIT_BYTES = 1 << 30
WINDOW_BYTES = 1 << 28
ROW_GROUP_ROWS = 16_384
STATE_VERSION = 1
THREAD_NAME = "seo-rec-stream"

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def _default_window(schema: Schema) -> int:
    """Row groups of ``WINDOW_BYTES`` together, 1 to 64: a function of the columns alone."""
    per_row = sum(8 * max(1.0, c.lookups_per_row) for c in schema.columns) + 4
    return int(min(64, max(1, WINDOW_BYTES // (per_row * ROW_GROUP_ROWS))))


class Stream:
    """Batches of one split of a prepared data set, in a seeded order that can be resumed.

    Laws: the union over ranks of step s's batches is global batch s, whatever the number of
    ranks; every rank has ``len(stream)`` batches per epoch; every row comes once per epoch (less
    the last short batch with ``drop_last``); ``load_state_dict(state_dict())`` at any step
    continues with the same batches, and so does a stream with another ``world_size`` whose
    ``batch_size * world_size`` is the same.

    ``iter(stream)`` runs over the *rest* of the current epoch. Handing out an epoch's last batch
    ends that epoch: the next ``iter`` gives the next one, in a new order. A loop that is left
    early is therefore continued by the next ``iter``; ``set_epoch`` starts afresh. A stream has
    one live iterator; a new one, ``set_epoch`` or ``load_state_dict`` makes the older one raise.

    Cost: the rows are partitioned, not the files. Every rank decodes every row group of the
    columns it reads, and gathers only its own rows. Memory: up to ``read_ahead + 3`` windows of
    a rank's rows, plus one window of all rows while it is decoded; a batch is a view
    of its window where that is possible, so keeping one batch keeps its window.

    Args:
        data: folder of the data set, with ``schema.json``.
        split: ``train``, ``val`` or ``test``.
        batch_size: rows per batch and rank.
        shuffle: file order if False.
        seed: of the order, >= 0.
        window: row groups shuffled together (prepared row groups have 16,384 rows; None: as many
            as hold ``WINDOW_BYTES`` of ids, 64 at most). Files are often sorted, by user or by
            time, so a small window trains on one part of the users after the other. Also the
            unit of decoding.
        rank: this process's number, in [0, world_size).
        world_size: number of processes that share the split.
        drop_last: leave out the last short global batch.
        read_ahead: windows that a background thread decodes ahead; 0 decodes in the caller.
        cache: ``memory`` keeps decoded row groups in this process after their first use, ``none``
            decodes every epoch anew, ``auto`` is ``memory`` if the split's decoded columns
            take at most ``CACHE_LIMIT_BYTES``. The batches are the same.
        columns: features to read, all if None; the others are not decoded. Batches keep
            schema order. Dense columns and the label are always read.

    Raises:
        DataError: an argument, ``schema.json`` or a shard is not as described above.
    """

    def __init__(
        self,
        data: Path | str,
        split: str = "train",
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        window: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        read_ahead: int = 2,
        cache: str = "auto",
        columns: Sequence[str] | None = None,
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
            ("window", 1 if window is None else window, 1),
            ("world_size", world_size, 1),
            ("read_ahead", read_ahead, 0),
        ):
            if value < least:
                raise DataError(f"Stream: {name} is {value}; it must be at least {least}")
        if not 0 <= rank < world_size:
            raise DataError(
                f"Stream: rank is {rank}; with world_size {world_size} it must be in "
                f"[0, {world_size})"
            )
        if cache not in CACHES:
            raise DataError(f"Stream: cache is {cache!r}; allowed: {', '.join(CACHES)}")

        self.schema: Schema = read_schema(data)
        self.split = split
        self.features = _chosen_features(self.schema, columns, str(Path(data) / SCHEMA_FILE))
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.shuffle, self.seed = shuffle, seed
        self.window = _default_window(self.schema) if window is None else window
        self.read_ahead = read_ahead

        self._groups = _row_groups(Path(data), self.schema, split)
        self._group_rows: Ints = np.array([g.num_rows for g in self._groups], dtype=np.int64)
        self.num_rows = int(self._group_rows.sum())
        self._numeric = tuple(c.name for c in self.schema.numeric)

        global_batch = batch_size * world_size
        self._full_batches, rest = divmod(self.num_rows, global_batch)
        if drop_last and not self._full_batches:
            raise DataError(
                f"{Path(data) / split}: {self.num_rows} rows do not fill one global batch of "
                f"{batch_size} x {world_size} rows, and drop_last=True drops the rest; use a "
                "smaller batch_size or drop_last=False"
            )
        self._num_batches = self._full_batches + (1 if rest and not drop_last else 0)
        self._last_rows = (rank * rest // world_size, (rank + 1) * rest // world_size)
        self._last_mean_rows = rest / world_size

        self.cached = cache == "memory" or (
            cache == "auto" and self._decoded_bytes() <= CACHE_LIMIT_BYTES
        )
        self._decoded: dict[int, _Rows] = {}
        self._ones: dict[int, torch.Tensor] = {}
        self._fingerprint = self._data_fingerprint()
        self._epoch, self._step, self._turn = 0, 0, 0

    # ---- the public seam -----------------------------------------------------------------

    def __len__(self) -> int:
        """Batches in a whole epoch; the same on every rank."""
        return self._num_batches

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch, or the next epoch if this one is exhausted."""
        self._turn += 1
        return self._batches(self._turn, self._epoch, self._step)

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to."""
        return self._epoch

    @property
    def step(self) -> int:
        """Batches of this epoch handed out so far, in [0, len(self))."""
        return self._step

    def set_epoch(self, epoch: int) -> None:
        """Go to the first batch of ``epoch``, also when that epoch has begun."""
        if epoch < 0:
            raise DataError(f"Stream.set_epoch: epoch is {epoch}; it must be at least 0")
        self._turn += 1
        self._epoch, self._step = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """Position after the batches *handed out* (not those decoded), the same on every rank."""
        return {
            "version": STATE_VERSION,
            "fingerprint": self._fingerprint,
            "seed": self.seed,
            "shuffle": int(self.shuffle),
            "window": self.window,
            "global_batch": self.batch_size * self.world_size,
            "epoch": self._epoch,
            "step": self._step,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue after the batches that ``state`` counts.

        Raises:
            DataError: the state is of another data set, split, order or global batch size.
        """
        mine = self.state_dict()
        if set(state) != set(mine):
            raise DataError(
                f"Stream.load_state_dict: got keys {sorted(state)}, expected {sorted(mine)}; "
                "pass what Stream.state_dict returned"
            )
        if other := sorted(name for name, value in state.items() if type(value) is not int):
            raise DataError(
                f"Stream.load_state_dict: {other[0]} is {state[other[0]]!r}; it must be a whole "
                "number; pass what Stream.state_dict returned"
            )
        if state["version"] != STATE_VERSION:
            raise DataError(
                f"Stream.load_state_dict: state version {state['version']}; this release reads "
                f"{STATE_VERSION}"
            )
        if state["fingerprint"] != mine["fingerprint"]:
            raise DataError(
                "Stream.load_state_dict: the state belongs to another data set or split (or the "
                f"data was prepared anew); this one is split {self.split!r} of "
                f"{self.schema.dataset!r} with {self.num_rows} rows in {len(self._groups)} row "
                "groups; open the data the run was started with, or start a new run"
            )
        decisive = ("shuffle", "seed", "window") if self.shuffle else ("shuffle",)
        for name in decisive:
            if state[name] != mine[name]:
                raise DataError(
                    f"Stream.load_state_dict: the state has {name}={state[name]}, this stream "
                    f"{name}={mine[name]}, so the batches would differ; open the stream with "
                    f"{name}={state[name]}"
                )
        step, rest = divmod(state["step"] * state["global_batch"], mine["global_batch"])
        if rest:
            raise DataError(
                f"Stream.load_state_dict: {state['step']} batches of {state['global_batch']} rows "
                f"were read, which is not a whole number of batches of {mine['global_batch']} "
                f"(batch_size {self.batch_size} x world_size {self.world_size}); keep "
                f"batch_size * world_size at {state['global_batch']}"
            )
        if state["epoch"] < 0 or not 0 <= step < len(self):
            raise DataError(
                f"Stream.load_state_dict: epoch {state['epoch']}, step {step} is not a position "
                f"in this stream of {len(self)} batches per epoch; it must be in [0, {len(self)})"
            )
        self._turn += 1
        self._epoch, self._step = state["epoch"], step

    # ---- consumer side -------------------------------------------------------------------

    def _batches(self, turn: int, epoch: int, step: int) -> Iterator[Batch]:
        windows = self._windows(epoch, step)
        ahead = _ReadAhead(windows, self.read_ahead) if self.read_ahead else None
        try:
            for rows, sizes in ahead if ahead else windows:
                for batch in self._cut(rows, sizes):
                    if turn != self._turn:
                        raise RuntimeError(
                            "this iterator of Stream is stale: iter(), set_epoch() or "
                            "load_state_dict() was called after it was made; use the new iterator"
                        )
                    self._step += 1
                    if self._step > self._full_batches:
                        batch.mean_rows = self._last_mean_rows
                    if self._step == len(self):
                        self._epoch, self._step = self._epoch + 1, 0
                    yield batch
        finally:
            if ahead:
                ahead.close()

    def _cut(self, rows: _Rows, sizes: Sequence[int]) -> Iterator[Batch]:
        """Batches of the given sizes from the front of ``rows``; here is the consumer's cost."""
        keys = list(self.features)
        dense_BN, labels_B = torch.from_numpy(rows.dense_BN), torch.from_numpy(rows.labels_B)
        ids_FB = None if rows.ids_FB is None else torch.from_numpy(rows.ids_FB)
        values = [torch.from_numpy(bags.values) for bags in rows.bags]
        bounds = list(accumulate(sizes, initial=0))
        if ids_FB is None:
            assert rows.lengths_FB is not None
            lengths_FB = torch.from_numpy(rows.lengths_FB)
            ids = [rows.lengths_FB[:, a:b].sum(axis=1) for a, b in pairwise(bounds)]
            cuts = np.cumsum([np.zeros(len(keys), np.int64), *ids], axis=0).tolist()
        for k, (start, size) in enumerate(zip(bounds, sizes, strict=False)):
            stop = start + size
            if ids_FB is not None:
                values_V = ids_FB[:, start:stop].reshape(-1)
                lengths = self._one_each(size)
                per_key = [size] * len(keys)
            else:
                spans = list(zip(values, cuts[k], cuts[k + 1], strict=True))
                values_V = torch.cat([v[a:b] for v, a, b in spans])
                lengths = lengths_FB[:, start:stop].reshape(-1)
                per_key = [b - a for _, a, b in spans]
            sparse = KeyedJaggedTensor(
                keys=keys,
                values=values_V,
                lengths=lengths,
                stride=size,
                length_per_key=per_key,
                offset_per_key=list(accumulate(per_key, initial=0)),
            )
            yield Batch(dense_BN[start:stop], sparse, labels_B[start:stop])

    def _one_each(self, size: int) -> torch.Tensor:
        """Lengths of a batch in which every bag has one id; shared by the batches of one size."""
        if size not in self._ones:
            self._ones[size] = torch.ones(len(self.features) * size, dtype=torch.int32)
        return self._ones[size]

    # ---- producer side -------------------------------------------------------------------

    def _windows(self, epoch: int, step: int) -> Iterator[tuple[_Rows, list[int]]]:
        """This rank's rows from ``step`` on, a window at a time, with the sizes of the batches.

        Windows before ``step`` are skipped by arithmetic on row counts, without decoding. Rows
        that do not fill a batch are carried into the next window.
        """
        global_batch = self.batch_size * self.world_size
        first, end = step * global_batch, min(self.num_rows, len(self) * global_batch)
        order = np.arange(len(self._groups))
        if self.shuffle:
            order = _permutation(len(self._groups), self.seed, epoch)
        carry = _Rows.none(len(self.features), len(self._numeric))
        above = 0
        for number, at in enumerate(range(0, len(order), self.window)):
            members = order[at : at + self.window]
            below, above = above, above + int(self._group_rows[members].sum())
            mine = self._owned(max(below, first), min(above, end)) - below
            if not mine.size:
                continue
            if self.shuffle:
                mine = _permutation(above - below, self.seed, epoch, number)[mine]
            parts = [carry, *(self._row_group(int(m)) for m in members)]
            kept = carry.num_rows
            rows = _gather(parts, np.concatenate([np.arange(kept), mine + kept]))
            del parts
            sizes, used = [], 0
            while step < len(self) and used + self._size(step) <= rows.num_rows:
                sizes.append(self._size(step))
                used, step = used + sizes[-1], step + 1
            carry = rows.after(used)
            if sizes:
                yield rows, sizes
        if step < len(self):  # only a last batch of which this rank has no row
            yield carry, [0]

    def _size(self, step: int) -> int:
        low, high = self._last_rows
        return self.batch_size if step < self._full_batches else high - low

    def _owned(self, start: int, stop: int) -> Ints:
        """Positions in [start, stop) of the global order that belong to this rank."""
        position = np.arange(start, stop, dtype=np.int64)
        if self.world_size == 1:
            return position
        global_batch = self.batch_size * self.world_size
        last = self._full_batches * global_batch
        low, high = self._last_rows
        in_full = position % global_batch // self.batch_size == self.rank
        in_last = (position >= last + low) & (position < last + high)
        return position[np.where(position < last, in_full, in_last)]

    def _row_group(self, number: int) -> _Rows:
        rows = self._decoded.get(number)
        if rows is None:
            rows = _decode(self._groups[number], self.features, self._numeric, self.schema.label)
            if self.cached:
                self._decoded[number] = rows
        return rows

    def _decoded_bytes(self) -> int:
        """Size of the columns read, decoded: ids 8 bytes, lengths, dense and labels 4."""
        total = self.num_rows * 4 * (len(self._numeric) + 1)
        for column in self.schema.features:
            if column.name not in self.features:
                continue
            if column.kind == "multivalent":
                total += 4 * self.num_rows + 8 * sum(
                    g.num_values(column.name) for g in self._groups
                )
            else:
                total += (8 if column.lookups_per_row == 1.0 else 12) * self.num_rows
        return total

    def _data_fingerprint(self) -> int:
        """63 bits of what the order depends on: the data set, the split and its row groups."""
        layout = [(g.path.name, g.number, g.num_rows) for g in self._groups]
        text = repr((self.schema.fingerprint, self.split, layout))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


# ---- order ---------------------------------------------------------------------------------


def _permutation(size: int, *key: int) -> Ints:
    """A permutation of range(size) that depends on ``key`` alone.

    Sorted raw PCG64 draws: numpy promises the same bits in every release for these, and not for
    ``Generator.permutation``, so a run may be resumed after an upgrade.
    """
    draws = np.random.PCG64(np.random.SeedSequence([len(key), *key])).random_raw(size)
    order = np.argsort(draws)  # several times faster than a stable sort, and equal without ties
    ordered = draws[order]
    if bool((ordered[1:] == ordered[:-1]).any()):
        order = np.argsort(draws, kind="stable")
    return order.astype(np.int64, copy=False)


# ---- decoded rows --------------------------------------------------------------------------


class _Bags(NamedTuple):
    """One feature of some rows: ids end to end, and ids per row (None: one in every row)."""

    values: Ints
    lengths: npt.NDArray[np.int32] | None

    def after(self, start: int) -> _Bags:
        if self.lengths is None:
            return _Bags(self.values[start:], None)
        return _Bags(self.values[self.lengths[:start].sum() :], self.lengths[start:])


@dataclass(frozen=True, slots=True)
class _Rows:
    """Some decoded rows.

    Gathered rows also hold, over the same memory as ``bags``, all ids as one matrix if every
    bag has one id, else all lengths as one matrix: a batch is then cut from it in one slice.
    """

    bags: list[_Bags]
    dense_BN: Floats
    labels_B: Floats
    ids_FB: Ints | None = None
    lengths_FB: npt.NDArray[np.int32] | None = None

    @classmethod
    def none(cls, num_features: int, num_dense: int) -> _Rows:
        bag = _Bags(np.zeros(0, np.int64), None)
        zero = np.zeros((0, num_dense), np.float32)
        ids_FB = np.zeros((num_features, 0), np.int64)
        return cls([bag] * num_features, zero, np.zeros(0, np.float32), ids_FB)

    @property
    def num_rows(self) -> int:
        return len(self.labels_B)

    def after(self, start: int) -> _Rows:
        return _Rows(
            [b.after(start) for b in self.bags],
            self.dense_BN[start:],
            self.labels_B[start:],
            None if self.ids_FB is None else self.ids_FB[:, start:],
            None if self.lengths_FB is None else self.lengths_FB[:, start:],
        )


def _gather(parts: Sequence[_Rows], index: Ints) -> _Rows:
    """The rows ``index`` of the parts laid end to end; always new memory.

    numpy, not torch: its copies stay on this thread and release the interpreter lock, so they
    do not compete with the training step for torch's thread pool.
    """
    features = range(len(parts[0].bags))
    shape = (len(features), len(index))
    single = all(bags.lengths is None for part in parts for bags in part.bags)
    ids_FB = np.empty(shape, np.int64) if single else None
    lengths_FB = None if single else np.ones(shape, np.int32)
    out: list[_Bags] = []
    for f in features:
        bags = [part.bags[f] for part in parts]
        if ids_FB is not None:
            # "clip" only because "raise" makes take() copy through a buffer
            values = np.concatenate([b.values for b in bags])
            np.take(values, index, out=ids_FB[f], mode="clip")
            out.append(_Bags(ids_FB[f], None))
        else:
            assert lengths_FB is not None
            out.append(_gather_bags(bags, index, lengths_FB[f]))
    dense_BN = np.take(np.concatenate([p.dense_BN for p in parts]), index, axis=0)
    labels_B = np.take(np.concatenate([p.labels_B for p in parts]), index)
    return _Rows(out, dense_BN, labels_B, ids_FB, lengths_FB)


def _gather_bags(bags: Sequence[_Bags], index: Ints, picked: npt.NDArray[np.int32]) -> _Bags:
    """The bags ``index`` of one feature; their lengths are written to ``picked`` (full of 1)."""
    values = np.concatenate([b.values for b in bags])
    if all(b.lengths is None for b in bags):
        return _Bags(np.take(values, index), None)
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
    return _Bags(np.take(values, source), picked)


# ---- parquet -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _RowGroup:
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


def _chosen_features(schema: Schema, columns: Sequence[str] | None, where: str) -> tuple[str, ...]:
    names = tuple(c.name for c in schema.features)
    if columns is None:
        return names
    if isinstance(columns, str):
        raise DataError(f"Stream: columns is the string {columns!r}; pass a list of feature names")
    unknown = [c for c in columns if c not in names]
    if unknown or not columns:
        raise DataError(
            f"Stream: columns has {unknown or 'no feature'}; the features of {where} are "
            f"{list(names)} (numeric columns are always read)"
        )
    return tuple(n for n in names if n in columns)


def _row_groups(data: Path, schema: Schema, split: str) -> list[_RowGroup]:
    """Row groups of a split in file order, after checking every shard against the schema."""
    if split not in schema.num_rows:
        raise DataError(
            f"{data / SCHEMA_FILE}: no split {split!r}; this data set has {sorted(schema.num_rows)}"
        )
    paths = sorted((data / split).glob("part-*.parquet"), key=lambda p: (len(p.name), p.name))
    groups: list[_RowGroup] = []
    for path in paths:
        try:
            footer = pq.read_metadata(path)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from error
        _check_columns(path, footer.schema.to_arrow_schema(), schema)
        sizes = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
        groups += [_RowGroup(path, footer, i, n) for i, n in enumerate(sizes) if n]
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
    wanted = {c.name: c.kind for c in schema.columns} | {schema.label: "label"}
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
        else:
            good, allowed = got == pa.float32(), "float32"
        if not good:
            raise DataError(
                f"{path}: column {name!r} is {got}; a {kind} column must be {allowed}; run "
                "`seo-rec prepare` again"
            )


def _decode(group: _RowGroup, features: Sequence[str], numeric: Sequence[str], label: str) -> _Rows:
    """Decode the named columns of one row group; DataError names the file."""
    try:
        with pq.ParquetFile(group.path, metadata=group.footer) as file:
            names = [*features, *numeric, label]
            table = file.read_row_group(group.number, columns=names, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(group.path, error, group.number) from error
    dense_BN = np.empty((group.num_rows, len(numeric)), np.float32)
    for n, name in enumerate(numeric):
        dense_BN[:, n] = _plain(table.column(name), name, group)
    bags = [_bags(table.column(name), name, group) for name in features]
    return _Rows(bags, dense_BN, _plain(table.column(label), label, group))


def _plain(column: Any, name: str, group: _RowGroup) -> Any:
    """A column without nulls as numpy."""
    if column.null_count:
        raise DataError(
            f"{group.path}: row group {group.number}: column {name!r} has {column.null_count} "
            "nulls; only categorical and multivalent columns may; run `seo-rec prepare` again"
        )
    return column.combine_chunks().to_numpy()


def _bags(column: Any, name: str, group: _RowGroup) -> _Bags:
    """A categorical or multivalent column; a null row is an empty bag."""
    array = column.combine_chunks()
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        if not array.null_count:
            return _Bags(array.to_numpy(), None)
        present = array.is_valid().to_numpy(zero_copy_only=False)
        return _Bags(array.drop_null().to_numpy(), present.astype(np.int32))
    ids = array.flatten()  # leaves out what lies under null lists
    lengths = array.value_lengths().fill_null(0).to_numpy().astype(np.int32)
    if ids.null_count:
        raise DataError(
            f"{group.path}: row group {group.number}: column {name!r} has {ids.null_count} nulls "
            "inside its lists; a missing value is a null or empty list; run `seo-rec prepare` again"
        )
    return _Bags(ids.to_numpy(), lengths)


def _unreadable(path: Path, error: Exception, group: int | None = None) -> DataError:
    where = f"{path}: " if group is None else f"{path}: row group {group}: "
    return DataError(
        f"{where}not readable as parquet ({error}); restore the file or run `seo-rec prepare` again"
    )


# ---- decoding ahead ------------------------------------------------------------------------

_Window = tuple[_Rows, list[int]]
_Queue = queue.Queue[_Window | BaseException | None]


class _ReadAhead:
    """Iterate in one background thread, ``depth`` items ahead of the consumer.

    The thread ends when the items do, at ``close``, when this object is collected and at exit of
    the interpreter; it must not hold this object, or the last two would never come.
    """

    def __init__(self, items: Iterator[_Window], depth: int) -> None:
        self._queue: _Queue = queue.Queue(maxsize=depth)
        stop = threading.Event()
        thread = threading.Thread(
            target=_pump, args=(items, self._queue, stop), name=THREAD_NAME, daemon=True
        )
        self.close = weakref.finalize(self, _stop_pump, thread, self._queue, stop)
        thread.start()

    def __iter__(self) -> Iterator[_Window]:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item


def _pump(items: Iterator[_Window], out: _Queue, stop: threading.Event) -> None:
    try:
        for item in items:
            out.put(item)
            if stop.is_set():
                return
        out.put(None)
    except BaseException as error:  # raised again where the batches are asked for
        out.put(error)


def _stop_pump(thread: threading.Thread, waiting: _Queue, stop: threading.Event) -> None:
    stop.set()
    while True:
        while not waiting.empty():  # frees a put() that waits for room
            waiting.get_nowait()
        if thread is threading.current_thread() or not thread.is_alive():
            return
        thread.join(timeout=0.002)
