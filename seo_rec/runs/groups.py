"""Quality by group, as a finished training keeps it in ``groups.json``.

The file is written by ``seo-rec eval`` and ``seo-rec compare`` when they are told which groups to
look at, and read by reports::

    {"version": 1, "data_fingerprint": "...", "split": "test",
     "all": QUALITY, "gauc": [{"column", "gauc", "groups", "used_groups", "used_rows"}, ...],
     "tables": [{"column", "kind", "num_groups", "groups": [QUALITY, ...]}, ...]}

A QUALITY has the fields of :class:`GroupQuality`; a number that is undefined is null.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seo_rec.documents import as_record, read_object
from seo_rec.files import finite, write_json
from seo_rec.runs.layout import GROUPS_FILE

GROUPS_VERSION = 1
BY_ID, BY_FREQUENCY = "id", "frequency"


@dataclass(frozen=True)
class GroupQuality:
    """Quality of one model on the rows of one group.

    Args:
        name: The id that the rows share, or the band of frequency that their ids lie in.
        rows: Number of rows. Where rows have weights, the other figures count by these.
        label_rate: Mean label.
        auc: NaN where all rows have one label.
        log_loss: Mean log loss in nats.
        calibration: Mean predicted probability over the mean label; NaN without a positive row.
        calibration_error: The expected calibration error; see :mod:`seo_rec.group_metrics`.
    """

    name: str
    rows: int
    label_rate: float
    auc: float
    log_loss: float
    calibration: float
    calibration_error: float


@dataclass(frozen=True)
class GroupTable:
    """Quality for every group of one column.

    Args:
        column: The feature whose ids make the groups.
        kind: ``id``, a group for each id, or ``frequency``, a group for each band of frequency.
        num_groups: Number of groups before small ones were put together.
        groups: Bands in rising order, or ids by falling number of rows.
    """

    column: str
    kind: str
    num_groups: int
    groups: tuple[GroupQuality, ...]


@dataclass(frozen=True)
class GroupAuc:
    """The AUC within groups, averaged over the groups of one column (GAUC).

    Args:
        column: The feature whose ids make the groups.
        gauc: Mean AUC of the groups that have both labels, weighted by their rows.
        groups: Number of groups.
        used_groups: Number of groups with both labels.
        used_rows: Number of rows in these.
    """

    column: str
    gauc: float
    groups: int
    used_groups: int
    used_rows: int


@dataclass(frozen=True)
class GroupReport:
    """Everything that was measured by group on one split.

    Args:
        data_fingerprint: Of the data set.
        split: The split.
        all: Quality on all rows.
        gauc: One entry for each column that was asked for.
        tables: One entry for each column that was asked for.
    """

    data_fingerprint: str
    split: str
    all: GroupQuality
    gauc: tuple[GroupAuc, ...] = ()
    tables: tuple[GroupTable, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The document of ``groups.json``; an undefined number is None."""
        document: dict[str, Any] = finite({"version": GROUPS_VERSION, **asdict(self)})
        return document

    def save(self, run: Path) -> None:
        """Write ``groups.json`` in the folder of a training, in place of an earlier one."""
        write_json(run / GROUPS_FILE, self.to_json())

    @classmethod
    def read(cls, path: Path) -> GroupReport:
        """Read a ``groups.json``.

        Raises:
            ValueError: The file is damaged or of another version; the message is one line.
        """
        hints = {"version": int, "data_fingerprint": str, "split": str, "all": dict}
        document = read_object(path, {**hints, "gauc": list, "tables": list})
        if document["version"] != GROUPS_VERSION:
            raise ValueError(
                f"{path}: version {document['version']}; this release reads {GROUPS_VERSION}; "
                "evaluate the run again"
            )
        return cls(
            document["data_fingerprint"],
            document["split"],
            _quality(document["all"], path),
            tuple(as_record(GroupAuc, _numbers(e), path) for e in document["gauc"]),
            tuple(_table(entry, path) for entry in document["tables"]),
        )


def _table(entry: Any, path: Path) -> GroupTable:
    table = as_record(_Table, entry, path)
    groups = tuple(_quality(group, path) for group in table.groups)
    return GroupTable(table.column, table.kind, table.num_groups, groups)


@dataclass(frozen=True)
class _Table:
    """A :class:`GroupTable` as JSON has it."""

    column: str
    kind: str
    num_groups: int
    groups: list[Any]


def _quality(entry: Any, path: Path) -> GroupQuality:
    return as_record(GroupQuality, _numbers(entry), path)


def _numbers(entry: Any) -> Any:
    """NaN in place of None, which is how JSON says it."""
    if not isinstance(entry, dict):
        return entry
    return {name: math.nan if value is None else value for name, value in entry.items()}
