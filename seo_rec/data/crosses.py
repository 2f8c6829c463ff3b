"""A data set with crosses as further columns, for everything that decides about features.

A cross has an id for every combination of ids of its columns (``docs/policy-format.md``). With
crosses as columns of the schema, and with counts of their ids, every method and every search
decides about them as about other columns. The policy that comes of it reads the columns of the data
again: :func:`reading_columns`.

Letters: B rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np

from seo_rec.data.dataset import DataSet, Ids
from seo_rec.data.row_groups import Bags, Rows
from seo_rec.data.stream import Stream
from seo_rec.data.vocabulary import IdCounter
from seo_rec.policy import Policy
from seo_rec.policy.addresses import cross_ids
from seo_rec.policy.entries import FULL_BITS, MAX_COLUMNS
from seo_rec.schema import Column, DataError, Schema

ALL = "all"
COUNT_ROWS = 65_536  # read at a time


@dataclass(frozen=True)
class Cross:
    """Columns whose ids are combined; their order matters.

    Args:
        columns: Two or more categorical columns.
    """

    columns: tuple[str, ...]

    @property
    def name(self) -> str:
        """The columns with asterisks between them, by which commands and policies name it."""
        return "*".join(self.columns)


def read_crosses(text: str, schema: Schema) -> tuple[Cross, ...] | int | str:
    """What an option ``--crosses`` asks for.

    Args:
        text: ``a*b,c*d*e``, a number of crosses, or ``all``.
        schema: Of the data set.

    Returns:
        The crosses that are named, the number of crosses to propose, or :data:`ALL`.

    Raises:
        DataError: The text is none of these, or a cross does not fit the data.
    """
    text = text.strip()
    if text == ALL:
        return ALL
    if re.fullmatch(r"[0-9]{1,9}", text):
        if not int(text):
            raise DataError("--crosses 0; allowed: 1 or more, all, or names as a*b,c*d")
        return int(text)
    parts = [part.strip() for part in text.split(",")]
    crosses = tuple(Cross(tuple(name.strip() for name in part.split("*"))) for part in parts)
    check_crosses(crosses, schema)
    return crosses


def check_crosses(crosses: Sequence[Cross], schema: Schema) -> None:
    """DataError unless the crosses are distinct, of distinct categorical columns of the data."""
    kinds = {c.name: c.kind for c in schema.columns}
    single = [name for name, kind in kinds.items() if kind == "categorical"]
    seen: dict[frozenset[str], str] = {}
    for cross in crosses:
        if not 2 <= len(cross.columns) <= MAX_COLUMNS:
            raise DataError(
                f"cross {cross.name!r} has {len(cross.columns)} column; allowed: 2 to "
                f"{MAX_COLUMNS} with * between them, as {'*'.join(single[:2])}"
            )
        for name in cross.columns:
            if name not in single:
                kind = kinds.get(name)
                got = f"a {kind} column" if kind else "no column of the data"
                raise DataError(
                    f"cross {cross.name!r}: {name!r} is {got}; allowed: columns with one id in a "
                    f"row: {', '.join(single) or 'none in these data'}"
                )
        if len(set(cross.columns)) < len(cross.columns):
            raise DataError(f"cross {cross.name!r} names a column twice; name each once")
        if cross.name in {*kinds, schema.label, *schema.more}:
            raise DataError(
                f"cross {cross.name!r} has the name of a column of the data; give its columns in "
                "another order, or prepare the data with another name of that column"
            )
        same = seen.setdefault(frozenset(cross.columns), cross.name)
        if same != cross.name or crosses.count(cross) > 1:
            raise DataError(
                f"crosses {same!r} and {cross.name!r} are of the same columns; leave one out"
            )


class CrossedStream(Stream):
    """Batches with a further feature for each cross; see :class:`~seo_rec.data.stream.Stream`.

    The order of the rows is the one without crosses. A cross is made once of each row group that
    is kept in memory.

    Args:
        data: The data set without crosses.
        crosses: The further features.
        split: ``train``, ``val`` or ``test``.
        batch_size: Rows per batch and rank.
        shuffle, seed, rank, world_size, cache: As in ``Stream``.
        columns: Columns and names of crosses that batches have, in the order of the schema with
            the crosses last; None: all.
    """

    def __init__(
        self,
        data: DataSet,
        crosses: Sequence[Cross],
        split: str = "train",
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        cache: str = "auto",
        columns: Sequence[str] | None = None,
    ) -> None:
        names = [c.name for c in data.schema.features]
        every = [*names, *(c.name for c in crosses)]
        wanted = every if columns is None else columns
        if unknown := sorted(set(wanted) - set(every)):
            raise DataError(f"Stream: columns has {unknown}; the features are {every}")
        self._crosses = {c.name: c.columns for c in crosses if c.name in wanted}
        read = {*wanted, *chain.from_iterable(self._crosses.values())}
        super().__init__(
            data,
            split,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
            cache=cache,
            columns=[name for name in names if name in read],
        )
        self.features = tuple(name for name in every if name in wanted)

    def _decoded_bytes(self) -> int:
        return super()._decoded_bytes() + 12 * self.num_rows * len(self._crosses)

    def _made(self, rows: Rows) -> Rows:
        bags = dict(zip(self._columns, rows.bags, strict=True))
        for name, columns in self._crosses.items():
            bags[name] = crossed_bags([bags[c] for c in columns])
        return replace(rows, bags=[bags[name] for name in self.features])


def crossed_bags(parts: Sequence[Bags]) -> Bags:
    """The bags of a cross of columns with at most one id in a row; empty where one of them is."""
    if all(part.lengths is None for part in parts):
        return Bags(cross_ids([part.values for part in parts]), None)
    given = [part.lengths > 0 for part in parts if part.lengths is not None]
    present_B = np.logical_and.reduce(given)
    ids = [
        part.values[present_B] if part.lengths is None else part.values[present_B[part.lengths > 0]]
        for part in parts
    ]
    return Bags(cross_ids(ids), present_B.astype(np.int32))


class CrossedData(DataSet):
    """A data set whose schema has a further categorical column for each cross.

    Its counts and streams have the crosses too. :func:`with_crosses` makes it.

    Args:
        whole: The data set without crosses.
        crosses: The further columns, as :func:`check_crosses` allows them.
        counts: Of every cross its training ids, ascending, and how often each occurs.
    """

    def __init__(
        self, whole: DataSet, crosses: Sequence[Cross], counts: Mapping[str, tuple[Ids, Ids]]
    ) -> None:
        rows = max(1, whole.schema.num_rows["train"])
        more = tuple(
            Column(
                c.name,
                "categorical",
                len(counts[c.name][0]),
                int(counts[c.name][1].sum()) / rows,
            )
            for c in crosses
        )
        super().__init__(whole.path, replace(whole.schema, columns=(*whole.schema.columns, *more)))
        self.whole, self.crosses = whole, tuple(crosses)
        self._crossed = dict(counts)
        self._verifier, self._said = whole._verifier, whole._said

    def counts(self, feature: str, id_bits: int = FULL_BITS) -> tuple[Ids, Ids]:
        """As of the data set without crosses, which keeps them for all sets of crosses."""
        if feature not in self._crossed:
            return self.whole.counts(feature, id_bits)
        return super().counts(feature, id_bits)

    def _ids_and_counts(self, feature: str) -> tuple[Ids, Ids]:
        return self._crossed[feature]

    def kept(self, feature: str) -> Ids | None:
        """As of the data set without crosses; all ids of a cross keep their identity."""
        return None if feature in self._crossed else self.whole.kept(feature)

    def _streams(self) -> Callable[..., Stream]:
        """Streams with columns and crosses as features."""
        return partial(CrossedStream, self.whole, self.crosses)

    def only(self, crosses: Sequence[Cross]) -> CrossedData:
        """The same data set with some of its crosses alone."""
        return CrossedData(self.whole, crosses, {c.name: self._crossed[c.name] for c in crosses})


def with_crosses(data: DataSet, crosses: Sequence[Cross]) -> CrossedData:
    """``data`` with these crosses as further columns, in this order after the others.

    One pass over the training rows counts the ids of the crosses.

    Raises:
        DataError: A cross does not fit the data (:func:`check_crosses`).
    """
    check_crosses(crosses, data.schema)
    counters = {c.name: IdCounter() for c in crosses}
    if counters:
        stream = CrossedStream(
            data,
            crosses,
            batch_size=COUNT_ROWS,
            cache="none",
            columns=list(counters),
        )
        for batch in stream:
            for name, counter in counters.items():
                counter.add(batch.sparse[name].values().numpy())
    return CrossedData(data, crosses, {n: c.result() for n, c in counters.items()})


def reading_columns(policy: Policy, data: DataSet) -> Policy:
    """A policy that was decided on data with crosses, as it reads the columns of the data.

    A feature of a cross gets its columns, and the provenance names the crosses. A column whose own
    feature was dropped is not listed as dropped if a cross reads it. The provenance names the data
    set without crosses.

    Args:
        policy: Made for the schema of ``data``.
        data: Any data set; without crosses the policy stays as it is.
    """
    if not isinstance(data, CrossedData):
        return policy
    columns = {c.name: c.columns for c in data.crosses}
    features = tuple(
        replace(f, columns=columns[f.name]) if f.name in columns else f for f in policy.features
    )
    read = {name for f in features for name in f.columns}
    origin = dict(policy.provenance)
    if "data_fingerprint" in origin:
        origin["data_fingerprint"] = data.whole.fingerprint
    taken = [f.name for f in features if f.name in columns]
    return replace(
        policy,
        features=features,
        dropped=tuple(n for n in policy.dropped if n not in columns and n not in read),
        provenance={**origin, "crosses": taken} if taken else origin,
    )
