"""Quality of finished trainings by group: which rows a model serves well, and which it harms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from seo_rec.data.dataset import DataSet
from seo_rec.group_metrics import (
    Members,
    gauc,
    group_qualities,
    members_of,
    overall,
)
from seo_rec.runs.groups import BY_FREQUENCY, BY_ID, GroupReport, GroupTable
from seo_rec.schema import DataError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]

LISTED = 50  # groups of a column that stand by themselves, the largest
ROWS = 65_536  # read at a time
MISSING = "missing"
UNSEEN = "unseen"
OTHERS = "{} others"
# training rows that hold an id, where a band begins; about half a decade wide
BAND_STARTS = tuple(k * 10**e for e in range(9) for k in (1, 3))


@dataclass(frozen=True)
class Grouping:
    """Which groups quality is measured in; every name is a feature of the prepared data.

    Args:
        group: Features for GAUC, which has a value for each row, such as the user.
        by: Features whose ids make the groups of a table.
        by_frequency: Features whose ids make bands by the number of training rows that hold them.
    """

    group: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    by_frequency: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.group or self.by or self.by_frequency)

    def check(self, data: DataSet) -> None:
        """Refuse names before a model is scored.

        Raises:
            DataError: A name is not a feature, a feature of lists is named for GAUC, or there is
                not one label of 0 and 1.
        """
        if self:
            data.require_binary("quality by group")
        kinds = {c.name: c.kind for c in data.schema.features}
        for option, names in self._by_option().items():
            if unknown := [name for name in names if name not in kinds]:
                raise DataError(
                    f"{option} {unknown[0]}: not a feature of {data.path}; allowed: "
                    f"{', '.join(kinds)}"
                )
            if twice := [name for name in names if names.count(name) > 1]:
                raise DataError(f"{option} names {twice[0]} more than once; allowed: each once")
        if lists := [name for name in self.group if kinds[name] == "multivalent"]:
            single = [name for name, kind in kinds.items() if kind == "categorical"]
            raise DataError(
                f"--group {lists[0]}: a row has a list of its ids, and GAUC needs one group for "
                f"each row; allowed: {', '.join(single)}; --by takes lists"
            )

    def _by_option(self) -> Mapping[str, Sequence[str]]:
        return {"--group": self.group, "--by": self.by, "--by-frequency": self.by_frequency}

    def is_in(self, report: GroupReport) -> bool:
        """Whether everything that is asked for has been measured."""
        tables = {(table.column, table.kind) for table in report.tables}
        wanted = {(name, BY_ID) for name in self.by}
        wanted |= {(name, BY_FREQUENCY) for name in self.by_frequency}
        return {*self.group} <= {entry.column for entry in report.gauc} and wanted <= tables


def frequency_bands(counts: Ints) -> tuple[Ints, tuple[str, ...]]:
    """The band of each count, and the names of all bands.

    Bands begin at 0 (``unseen``), 1, 3, 10, 30, 100 and so on.

    Args:
        counts: Training rows that hold an id, int64 (ids,).
    """
    between = [f"{a:,} to {b - 1:,}" for a, b in pairwise(BAND_STARTS)]
    names = (UNSEEN, *between, f"{BAND_STARTS[-1]:,} or more")
    return np.searchsorted(np.array(BAND_STARTS), counts, side="right"), names


class _Column:
    """One feature of a split in file order: its ids, end to end, and their number in each row."""

    def __init__(self, data: DataSet, split: str, name: str) -> None:
        self.data, self.name = data, name
        stream = data.stream(split, batch_size=ROWS, columns=[name])
        bags = [batch.sparse[name] for batch in stream]
        self.values = np.concatenate([b.values().numpy() for b in bags])
        self.lengths = np.concatenate([b.lengths().numpy() for b in bags]).astype(np.int64)

    @cached_property
    def ids(self) -> Members:
        """A group for each id."""
        return members_of(self.values, self.lengths, str, MISSING)

    def bands(self) -> Members:
        """A group for each band of frequency."""
        known, counts = self.data.counts(self.name)
        found = np.zeros(self.values.size, np.int64)
        if known.size:
            place = np.minimum(np.searchsorted(known, self.values), known.size - 1)
            found = np.where(known[place] == self.values, counts[place], 0)
        bands, names = frequency_bands(found)
        return members_of(bands, self.lengths, names.__getitem__, MISSING)


def quality_by_group(
    data: DataSet, split: str, logits: Floats, labels: Floats, grouping: Grouping
) -> GroupReport:
    """Quality of one model on a split, by the groups of ``grouping``.

    The columns are read in this process, whatever the number of processes that scored the rows.
    Rows count by their weights, where the data have them.

    Args:
        data: The data set.
        split: The split.
        logits, labels: Of all its rows in file order.
        grouping: The groups.

    Raises:
        DataError: See :meth:`Grouping.check`.
    """
    grouping.check(data)
    weights = None if data.schema.weight is None else data.labels_and_weights(split)[1]
    names = dict.fromkeys((*grouping.group, *grouping.by, *grouping.by_frequency))
    columns = {name: _Column(data, split, name) for name in names}
    tables = [(name, BY_ID, columns[name].ids) for name in grouping.by]
    tables += [(name, BY_FREQUENCY, columns[name].bands()) for name in grouping.by_frequency]
    return GroupReport(
        data.fingerprint,
        split,
        overall(logits, labels, weights),
        tuple(gauc(logits, labels, columns[name].ids, name, weights) for name in grouping.group),
        tuple(_table(logits, labels, *table, weights) for table in tables),
    )


def _table(
    logits: Floats, labels: Floats, name: str, kind: str, members: Members, weights: Floats | None
) -> GroupTable:
    count = len(members.names)
    if kind == BY_ID:
        members = members.largest(LISTED, OTHERS)
    return GroupTable(name, kind, count, group_qualities(logits, labels, members, weights))
