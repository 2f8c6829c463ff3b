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
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from seo_rec.batch import Batch
from seo_rec.data.read_ahead import ReadAhead
from seo_rec.data.row_groups import Ints, Rows, decode, find_row_groups, gather
from seo_rec.data.row_order import (
    STATE_VERSION,
    chosen_features,
    default_window,
    permutation,
    require_same_order,
)
from seo_rec.schema import SCHEMA_FILE, DataError, Schema

if TYPE_CHECKING:
    from seo_rec.data.dataset import DataSet

CACHES = ("auto", "memory", "none")
CACHE_LIMIT_BYTES = 1 << 30


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
        data: the opened data set.
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
        DataError: an argument or a shard is not as described above.
    """

    def __init__(
        self,
        data: DataSet,
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

        self.schema: Schema = data.schema
        self.split = split
        self.features = chosen_features(self.schema, columns, str(data.path / SCHEMA_FILE))
        self._columns = self.features  # that are decoded
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.shuffle, self.seed = shuffle, seed
        self.window = default_window(self.schema) if window is None else window
        self.read_ahead = read_ahead

        data.verify(split, rank=rank, world_size=world_size)
        self._groups = find_row_groups(data.path, self.schema, split)
        self._group_rows: Ints = np.array([g.num_rows for g in self._groups], dtype=np.int64)
        self.num_rows = int(self._group_rows.sum())
        self._numeric = tuple(c.name for c in self.schema.numeric)
        self.offset = self.schema.logit_offset if split == "train" else 0.0

        global_batch = batch_size * world_size
        self._full_batches, rest = divmod(self.num_rows, global_batch)
        if drop_last and not self._full_batches:
            raise DataError(
                f"{data.path / split}: {self.num_rows} rows do not fill one global batch of "
                f"{batch_size} x {world_size} rows, and drop_last=True drops the rest; use a "
                "smaller batch_size or drop_last=False"
            )
        self._num_batches = self._full_batches + (1 if rest and not drop_last else 0)
        self._last_rows = (rank * rest // world_size, (rank + 1) * rest // world_size)
        self._last_mean_rows = rest / world_size

        self.cached = cache == "memory" or (
            cache == "auto" and self._decoded_bytes() <= CACHE_LIMIT_BYTES
        )
        self._decoded: dict[int, Rows] = {}
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
        require_same_order(
            state,
            mine,
            f"split {self.split!r} of {self.schema.dataset!r} with {self.num_rows} rows in "
            f"{len(self._groups)} row groups",
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
        ahead = ReadAhead(windows, self.read_ahead) if self.read_ahead else None
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

    def _cut(self, rows: Rows, sizes: Sequence[int]) -> Iterator[Batch]:
        """Batches of the given sizes from the front of ``rows``; here is the consumer's cost."""
        keys = list(self.features)
        dense_BN, labels_B = torch.from_numpy(rows.dense_BN), torch.from_numpy(rows.labels_B)
        weights_B = None if rows.weights_B is None else torch.from_numpy(rows.weights_B)
        labels_BT = None if rows.labels_BT is None else torch.from_numpy(rows.labels_BT)
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
            yield Batch(
                dense_BN[start:stop],
                sparse,
                labels_B[start:stop],
                weights_B=None if weights_B is None else weights_B[start:stop],
                offset=self.offset,
                labels_BT=None if labels_BT is None else labels_BT[start:stop],
            )

    def _one_each(self, size: int) -> torch.Tensor:
        """Lengths of a batch in which every bag has one id; shared by the batches of one size."""
        if size not in self._ones:
            self._ones[size] = torch.ones(len(self.features) * size, dtype=torch.int32)
        return self._ones[size]

    # ---- producer side -------------------------------------------------------------------

    def _windows(self, epoch: int, step: int) -> Iterator[tuple[Rows, list[int]]]:
        """This rank's rows from ``step`` on, a window at a time, with the sizes of the batches.

        Windows before ``step`` are skipped by arithmetic on row counts, without decoding. Rows
        that do not fill a batch are carried into the next window.
        """
        global_batch = self.batch_size * self.world_size
        first, end = step * global_batch, min(self.num_rows, len(self) * global_batch)
        order = np.arange(len(self._groups))
        if self.shuffle:
            order = permutation(len(self._groups), self.seed, epoch)
        weighted = self.schema.weight is not None
        labels = len(self.schema.labels)
        carry = Rows.none(len(self.features), len(self._numeric), weighted, labels)
        above = 0
        for number, at in enumerate(range(0, len(order), self.window)):
            members = order[at : at + self.window]
            below, above = above, above + int(self._group_rows[members].sum())
            mine = self._owned(max(below, first), min(above, end)) - below
            if not mine.size:
                continue
            if self.shuffle:
                mine = permutation(above - below, self.seed, epoch, number)[mine]
            parts = [carry, *(self._row_group(int(m)) for m in members)]
            kept = carry.num_rows
            rows = gather(parts, np.concatenate([np.arange(kept), mine + kept]))
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

    def _row_group(self, number: int) -> Rows:
        rows = self._decoded.get(number)
        if rows is None:
            schema = self.schema
            rows = self._made(
                decode(
                    self._groups[number],
                    self._columns,
                    self._numeric,
                    schema.label,
                    schema.weight,
                    schema.label_kind,
                    schema.more_labels,
                )
            )
            if self.cached:
                self._decoded[number] = rows
        return rows

    def _made(self, rows: Rows) -> Rows:
        """The features of batches, made of the decoded columns; here they are the same."""
        return rows

    def _decoded_bytes(self) -> int:
        """Size of the columns read, decoded: ids 8 bytes, lengths, dense and labels 4."""
        labels = len(self.schema.labels)
        labels += labels if labels > 1 else 0  # the first one is kept by itself, too
        total = self.num_rows * 4 * (len(self._numeric) + labels + (self.schema.weight is not None))
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
