"""An opened data set: its folder, schema, fingerprint, vocabularies and streams.

It is opened once and handed on, so that a process reads ``schema.json`` once however many models it
trains, and every part of a run sees the same data. Importing this module needs no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from seo_rec.data.integrity import Verifier
from seo_rec.data.shards import large_columns, large_numbers, read_shards
from seo_rec.data.tokens import OUT_OF_VOCABULARY
from seo_rec.data.vocabulary import KEPT_FOLDER, read_kept, read_vocabulary
from seo_rec.places import place
from seo_rec.policy.addresses import counted_as
from seo_rec.policy.entries import FULL_BITS
from seo_rec.schema import (
    BINARY,
    REGRESSION,
    SCHEMA_FILE,
    DataError,
    Schema,
    other_rules,
    read_schema,
)

if TYPE_CHECKING:
    from seo_rec.data.stream import Stream

log = logging.getLogger(__name__)

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
FEW_LABELS = 20  # of either label: fewer cannot tell two models apart
LABEL_ROWS = 65_536  # rows read at a time by ``labels``


class DataSet:
    """A prepared data set that has been opened; see :func:`open_data`.

    Args:
        path: The folder, with ``schema.json``.
        schema: Its columns and splits.

    Attributes:
        path: The folder, absolute if :func:`open_data` opened it. Files below it are read when
            they are needed.
        schema: As given.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        self.path, self.schema = path, schema
        self._counted: dict[str, tuple[Ids, Ids]] = {}
        self._digested: dict[str, tuple[Ids, Ids]] = {}
        self._said: set[str] = set()
        self._verifier = Verifier(path, schema)

    def __repr__(self) -> str:
        return f"DataSet({str(self.path)!r}, fingerprint {self.fingerprint})"

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the columns, the splits or the raw files."""
        return self.schema.fingerprint

    @property
    def num_numeric(self) -> int:
        """N, the number of dense columns."""
        return len(self.schema.numeric)

    def require_rules(self, rules: Mapping[str, Any], trained: str) -> None:
        """DataError unless these data were prepared by the same rules as those of a training.

        Args:
            rules: What ``schema.json`` of the training data says of its preparation; a rule that it
                lacks may be any.
            trained: What the message calls the training.
        """
        if said := other_rules(rules, self.schema.preparation):
            raise DataError(
                f"{trained} was trained on values that were prepared by other rules than "
                f"{self.path} ({said}); prepare the data with the same "
                "options, or a table with `seo-rec prepare table --like` the data of the training"
            )

    def verify(self, *splits: str, rank: int = 0, world_size: int = 1) -> None:
        """Compare the shards of these splits with the checksums in ``schema.json``, once.

        Args:
            splits: Their names.
            rank: The number of this process, in [0, world_size).
            world_size: The number of processes that share the work.

        Raises:
            DataError: A shard is damaged, missing or left over.
        """
        self._verifier.splits(splits, rank, world_size)

    def verify_all(self) -> Mapping[str, Mapping[str, Any]]:
        """Compare every file with ``schema.json``, also what was verified before.

        Returns:
            Size and SHA-256 of every file, by its path below the folder.

        Raises:
            DataError: A file is damaged, missing or left over, or there are no checksums.
        """
        return self._verifier.all()

    def require_rows(self, *splits: str, needed_by: str = "training") -> None:
        """DataError unless each of these splits has rows, before hours are spent without them.

        Args:
            splits: Their names.
            needed_by: What needs them, as the message says it.
        """
        rows = self.schema.num_rows
        if empty := [split for split in splits if not rows.get(split)]:
            raise DataError(
                f"{self.path}: split {', '.join(empty)} has no rows; {needed_by} needs "
                f"{', '.join(splits)}; prepare the data with a share for each (--fractions)"
            )

    def require_binary(self, what: str, several: bool = False) -> None:
        """DataError unless there is one label, of 0 and 1.

        Args:
            what: What needs it, as the message begins.
            several: Whether there may be several such labels.
        """
        if self.schema.label_kind != BINARY:
            raise DataError(
                f"{what} needs a label of 0 and 1, and {self.schema.label!r} of {self.path} is a "
                f"{self.schema.label_kind} label; allowed there: train, tune, compare and frontier "
                "with methods that need no search, eval, predict, report, export"
            )
        if self.schema.more_labels and not several:
            raise DataError(
                f"{what} needs one label, and {self.path} has the labels "
                f"{', '.join(self.schema.labels)}; allowed with several: train, replay, tune, "
                "compare and frontier with methods that need no search, drift, eval, predict, "
                "report, export; else prepare one --label"
            )

    def check_validation(self, warn: bool = True, kept: str | None = None) -> None:
        """Look at the labels that models are stopped and chosen by, before hours are spent.

        Args:
            warn: Whether to log a warning where they are too few to tell models apart.
            kept: Of several labels, the one that models are stopped by; None is the first.

        Raises:
            DataError: The validation split has rows of one label only.
        """
        self.require_rows("val")
        if self.schema.label_kind == REGRESSION:
            if not self.schema.label_std.get("val"):
                raise DataError(
                    f"{self.path}: all rows of the validation split have one label, so there is "
                    "no R2 to stop at; prepare the data with a larger share of validation rows "
                    "(--fractions)"
                )
            return
        rows, rates = self.schema.num_rows["val"], self.schema.label_rates
        rate = rates[self.schema.label if kept is None else kept]
        if "val" not in rate:
            raise DataError(f"{self.path}: {SCHEMA_FILE} has no label_rate of the split 'val'")
        positive = round(rate["val"] * rows)
        fewer, label = min((positive, "positive"), (rows - positive, "negative"))
        label += f" {kept!r}" if kept is not None else ""
        found = f"{self.path}: the validation split has {fewer} {label} rows of {rows}"
        fix = "prepare the data with a larger share of validation rows (--fractions)"
        if not fewer:
            raise DataError(f"{found}, so there is no AUC to stop at; {fix}")
        if warn and fewer < FEW_LABELS and found not in self._said:
            self._said.add(found)
            log.warning("%s: its AUC cannot decide between models; %s", found, fix)

    def check_numbers(self) -> None:
        """Log a warning of numeric columns whose numbers are too large for a model, once."""
        numeric = [column.name for column in self.schema.numeric]
        first = islice(read_shards(self.path / "train"), 1)
        if "numbers" not in self._said and (large := large_columns(first, numeric)):
            self._said.add("numbers")
            log.warning("%s: %s", self.path, large_numbers(large))

    def counts(self, feature: str, id_bits: int = FULL_BITS) -> tuple[Ids, Ids]:
        """The training ids of ``feature``, ascending, and how often each occurs there.

        Args:
            feature: Its name.
            id_bits: 32 for digests in place of the ids; ids of one digest are counted as one
                (:func:`seo_rec.policy.addresses.counted_as`).

        Raises:
            DataError: The data set has no vocabulary of that column, or it is damaged.
        """
        if id_bits == FULL_BITS:
            return self._ids_and_counts(feature)
        if feature not in self._digested:
            self._digested[feature] = counted_as(*self._ids_and_counts(feature), id_bits)
        return self._digested[feature]

    def _ids_and_counts(self, feature: str) -> tuple[Ids, Ids]:
        if feature not in self._counted:
            self._verifier.vocabulary(feature)
            self._counted[feature] = read_vocabulary(self.path, feature)
        return self._counted[feature]

    def vocabulary(self, feature: str, id_bits: int = FULL_BITS) -> Ids:
        """The training ids of ``feature``, or with 32 bits their digests, ascending, int64 (V,)."""
        return self.counts(feature, id_bits)[0]

    def kept(self, feature: str) -> Ids | None:
        """The ids of ``feature`` that keep their identity, ascending, int64 (V,).

        Returns:
            None if the vocabulary of the column was not pruned, so that all ids keep theirs.

        Raises:
            DataError: The data set has no vocabulary of that column, or a file is damaged.
        """
        pruning = self.schema.options.get("vocabulary") or {}
        if pruning.get("min_count", 1) <= 1 and feature not in pruning.get("sizes", {}):
            return None
        name = f"{KEPT_FOLDER}/{feature}.parquet"
        if name in self.schema.files:
            self._verifier.file(name)
        if (kept := read_kept(self.path, feature)) is not None:
            return kept
        ids = self.vocabulary(feature)
        return np.ascontiguousarray(ids[ids != OUT_OF_VOCABULARY])

    def vocabularies(
        self, features: Sequence[str] | None = None, id_bits: int = FULL_BITS
    ) -> Mapping[str, Ids]:
        """The training ids (or digests) of these features, or of all, by name."""
        names = [c.name for c in self.schema.features] if features is None else features
        return {name: self.vocabulary(name, id_bits) for name in names}

    def stream(
        self,
        split: str,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        columns: Sequence[str] | None = None,
    ) -> Stream:
        """Batches of a split; see :class:`seo_rec.data.stream.Stream` for the arguments."""
        return self._streams()(
            split,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
            columns=columns,
        )

    def _streams(self) -> Callable[..., Stream]:
        """What makes a stream of a split of these data."""
        from seo_rec.data.stream import Stream

        return partial(Stream, self)

    def labels(self, split: str) -> Floats:
        """The labels of a split in file order, float32 (rows,)."""
        return self.labels_and_weights(split)[0]

    def labels_and_weights(self, split: str) -> tuple[Floats, Floats]:
        """The labels and the weights (1 where there are none) of a split in file order."""
        any_feature = self.schema.features[0].name
        stream = self.stream(split, batch_size=LABEL_ROWS, columns=[any_feature])
        pairs = [(batch.labels_B.numpy(), batch.row_weights.numpy()) for batch in stream]
        labels, weights = zip(*pairs, strict=True)
        return np.concatenate(labels), np.concatenate(weights)


def require_opened(data: object, where: str) -> None:
    """Refuse a path where an opened data set is expected.

    Args:
        data: What was passed.
        where: The function that it was passed to.

    Raises:
        TypeError: It is a path.
    """
    if isinstance(data, str | Path):
        raise TypeError(
            f"{where}: data is the path {str(data)!r}; allowed: an opened data set, such as "
            f"open_data({str(data)!r}) of seo_rec.data.dataset"
        )


def open_data(path: Path | str) -> DataSet:
    """Open the prepared data set in the folder ``path``, or at a URL such as ``s3://bucket/data``.

    Raises:
        DataError: The folder is not a prepared data set; the message says how to make one.
    """
    return DataSet(place(path).absolute(), read_schema(path))
