"""A data set whose rows another program has written: verified, counted and completed in place.

docs/prepared-format.md has the format. Every row of ``train/part-*.parquet``, and of ``val`` and
``test``, is checked. Then the vocabularies are written, and at last ``schema.json``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seo_rec.data.completion import finish, rates, versions
from seo_rec.data.integrity import file_checksums
from seo_rec.data.progress import ProgressBar
from seo_rec.data.row_groups import RowGroup, Rows, decode, find_row_groups
from seo_rec.data.sketch import DistinctSketch
from seo_rec.data.spread import Spread
from seo_rec.data.tally import Counted
from seo_rec.data.tokens import TOKEN_RULE
from seo_rec.data.vocabulary import VOCABULARY_FOLDER, IdCounter, Pruning, write_vocabulary
from seo_rec.documents import read_object
from seo_rec.places import require_local
from seo_rec.schema import BINARY, DIGEST, SCHEMA_FILE, SPLITS, Column, DataError, Schema

OUTLINE = {
    "version": int,
    "dataset": str,
    "label": str,
    "more_labels": list,
    "label_kind": str,
    "columns": list,
    "options": dict,
}
NUMERIC_RULE = "as it is; missing: 0"


@dataclass(frozen=True)
class Outline:
    """What the writer of the rows says about them.

    Args:
        labels: The columns of labels, the first one first.
        kind: What the label is, ``binary`` or ``regression``.
        dataset: A name.
        columns: (name, kind) in model order; None means the order of the files, by types.
        options: Further entries for ``options`` of the schema.
    """

    labels: tuple[str, ...]
    kind: str
    dataset: str
    columns: tuple[tuple[str, str], ...] | None
    options: Mapping[str, Any]


def import_folder(
    folder: Path | str,
    *,
    label: str | Sequence[str] | None = None,
    task: str | None = None,
    counted: bool = True,
    progress: bool = False,
) -> Schema:
    """Verify the rows in ``folder`` and complete it to a prepared data set.

    Args:
        folder: With ``train/part-*.parquet``, perhaps ``val`` and ``test``, and perhaps an outline
            in ``schema.json``.
        label: The column of labels, or several for a model of several labels; None means those of
            the outline, or ``label``.
        task: ``binary`` or ``regression``, which says what the label is; None means what the
            outline says, or ``binary``.
        counted: Whether ids are counted and vocabularies written.
        progress: Whether to draw a bar on a terminal.

    Returns:
        The schema that was written.

    Raises:
        DataError: A file or a row is not in the format; the message says where.
    """
    require_local(folder)
    folder = Path(folder)
    outline = _outline(folder, (label,) if isinstance(label, str) else tuple(label or ()), task)
    shards = {split: _shards(folder, split) for split in SPLITS}
    if not shards["train"]:
        raise DataError(f"{folder / 'train'}: no part-*.parquet is here; write the rows there")
    columns = _columns(shards["train"][0], outline)
    names = [name for name, _ in columns]
    _require_vocabularies_of(names, folder / VOCABULARY_FOLDER)
    kind = IdCounter if counted else DistinctSketch
    counters = {name: kind() for name, column in columns if column != "numeric"}
    rows = _footer_rows(shards)
    if not rows["train"]:
        raise DataError(f"{folder / 'train'}: there are no rows; write some")
    no_sizes, none = dict.fromkeys(counters, (0, 0)), dict.fromkeys(SPLITS, 0)
    more = dict.fromkeys(outline.labels[1:], none)
    nothing = Counted(rows, none, no_sizes, dict.fromkeys(SPLITS, Spread()), more)
    draft = _schema(outline, columns, nothing, {}, counted)
    targets = _targets(folder, draft, counters, progress)
    sizes = {}
    for name, counter in counters.items():
        if isinstance(counter, IdCounter):
            ids, counts = counter.result()
            write_vocabulary(folder, name, ids, counts)
            sizes[name] = len(ids), int(counts.sum())
        else:
            sizes[name] = counter.distinct(), counter.total
    positives = {
        name: {split: found.positives[at] for split, found in targets.items()}
        for at, name in enumerate(outline.labels)
    }
    spreads = {split: found.spread for split, found in targets.items()}
    more = {name: positives[name] for name in outline.labels[1:]}
    tally = Counted(rows, positives[outline.labels[0]], sizes, spreads, more)
    schema = _schema(outline, columns, tally, file_checksums(folder), counted)
    finish(folder, schema)
    return schema


class _Targets:
    """The labels of a split: how many of each are 1, and mean and deviation of the first."""

    def __init__(self, number: int) -> None:
        self.positives, self.spread = [0] * number, Spread()

    def add(self, rows: Rows) -> None:
        self.spread.add(rows.labels_B.astype(np.float64))
        every = rows.labels_B[:, None] if rows.labels_BT is None else rows.labels_BT
        for at, label_B in enumerate(every.T):
            self.positives[at] += int(label_B.sum(dtype=np.float64))


def _targets(
    folder: Path, draft: Schema, counters: Mapping[str, Any], progress: bool
) -> dict[str, _Targets]:
    """Check all rows, count the training ids, and return what the labels of each split are."""
    targets = {split: _Targets(len(draft.labels)) for split in SPLITS}
    with ProgressBar(progress) as bar:
        for split, total in draft.num_rows.items():
            bar.begin(split, total)
            done = 0
            for group in find_row_groups(folder, draft, split) if total else []:
                targets[split].add(_count(group, draft, counters if split == "train" else {}))
                done += group.num_rows
                bar.update(done, done)
    return targets


def _require_vocabularies_of(names: Sequence[str], place: Path) -> None:
    there = sorted(p.name for p in place.glob("*"))
    if left := [name for name in there if name not in {f"{n}.parquet" for n in names}]:
        raise DataError(f"{place}: {', '.join(left[:3])} belong to no column; remove them")


def _outline(folder: Path, labels: tuple[str, ...], task: str | None) -> Outline:
    path = folder / SCHEMA_FILE
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name the folder with train/part-*.parquet")
    if not path.exists():
        return Outline(labels or ("label",), task or BINARY, "imported", None, {})
    try:
        found = read_object(path, {}, OUTLINE)
    except ValueError as error:
        raise DataError(str(error)) from error
    if DIGEST in found:
        raise DataError(
            f"{path}: the data set is complete; check it with `seo-rec prepare verify`, or remove "
            "the file to import the folder again"
        )
    if unknown := sorted(set(found) - set(OUTLINE)):
        raise DataError(
            f"{path}: unknown keys {unknown[:3]} of an outline; allowed: {', '.join(OUTLINE)}"
        )
    columns = None
    if "columns" in found:
        columns = tuple(_entry(path, column) for column in found["columns"])
    if not labels:
        more = found.get("more_labels", [])
        labels = (found.get("label", "label"), *(_name(path, name) for name in more))
    kind = task or found.get("label_kind", BINARY)
    dataset = found.get("dataset", "imported")
    return Outline(labels, kind, dataset, columns, found.get("options", {}))


def _name(path: Path, name: Any) -> str:
    if not isinstance(name, str):
        raise DataError(f"{path}: a label is {name!r:.60}; allowed: the name of a column")
    return name


def _entry(path: Path, column: Any) -> tuple[str, str]:
    good = isinstance(column, dict) and set(column) == {"name", "kind"}
    if not good or not all(isinstance(value, str) for value in column.values()):
        raise DataError(f"{path}: a column is {column!r:.60}; allowed: its name and its kind")
    size = None if column["kind"] == "numeric" else 0
    Column(column["name"], column["kind"], size)  # checks the kind
    return column["name"], column["kind"]


def _shards(folder: Path, split: str) -> list[Path]:
    """The shards of a split; those of other names get the next names, in the order of theirs."""
    place = folder / split
    there = sorted(place.glob("*.parquet"))
    named = [path for path in there if path.name.startswith("part-")]
    others = [path for path in there if not path.name.startswith(("part-", ".", "_"))]
    number = 0
    for path in others:
        while (target := place / f"part-{number:05d}.parquet").exists():
            number += 1
        os.rename(path, target)
        named.append(target)
    return sorted(named)


def _columns(path: Path, outline: Outline) -> tuple[tuple[str, str], ...]:
    """(name, kind) of the columns without the label."""
    try:
        fields = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet ({error}); write it again") from error
    for label in outline.labels:
        if label not in fields.names:
            raise DataError(
                f"{path}: no column {label!r} of labels; the columns are "
                f"{', '.join(fields.names)}; name it with --label"
            )
    if outline.columns is not None:
        return outline.columns
    return tuple((f.name, _kind(path, f)) for f in fields if f.name not in outline.labels)


def _kind(path: Path, field: Any) -> str:
    if field.type == pa.int64():
        return "categorical"
    if field.type == pa.float32():
        return "numeric"
    if (pa.types.is_list(field.type) or pa.types.is_large_list(field.type)) and (
        field.type.value_type == pa.int64()
    ):
        return "multivalent"
    raise DataError(
        f"{path}: column {field.name!r} is {field.type}; allowed: int64 (categorical), list<int64> "
        "(multivalent), float32 (numeric); cast it"
    )


def _footer_rows(shards: Mapping[str, list[Path]]) -> dict[str, int]:
    rows = dict.fromkeys(shards, 0)
    for split, paths in shards.items():
        for path in paths:
            try:
                rows[split] += pq.read_metadata(path).num_rows
            except (pa.ArrowException, OSError) as error:
                raise DataError(
                    f"{path}: not readable as Parquet ({error}); write it again"
                ) from error
    return rows


def _count(group: RowGroup, schema: Schema, counters: Mapping[str, Any]) -> Rows:
    """The rows of a group, checked; their ids are counted."""
    names = [column.name for column in schema.features]
    numeric = [column.name for column in schema.numeric]
    kind, more = schema.label_kind, schema.more_labels
    rows = decode(group, names, numeric, schema.label, label_kind=kind, more_labels=more)
    for name, bags in zip(names, rows.bags, strict=True):
        if name in counters:
            counters[name].add(bags.values)
    return rows


def _schema(
    outline: Outline,
    columns: tuple[tuple[str, str], ...],
    tally: Counted,
    files: Mapping[str, Mapping[str, Any]],
    counted: bool,
) -> Schema:
    entries = []
    for name, kind in columns:
        if kind == "numeric":
            entries.append(Column(name, kind))
        else:
            distinct, lookups = tally.sizes[name]
            entries.append(Column(name, kind, distinct, lookups / tally.num_rows["train"]))
    return Schema(
        dataset=outline.dataset,
        columns=tuple(entries),
        label=outline.labels[0],
        num_rows=tally.num_rows,
        label_rate=rates(tally.positives, tally.num_rows)
        if outline.kind == BINARY
        else {split: spread.mean for split, spread in tally.targets.items()},
        label_kind=outline.kind,
        label_std={}
        if outline.kind == BINARY
        else {split: spread.std for split, spread in tally.targets.items()},
        more_labels=outline.labels[1:],
        more_label_rates={
            name: rates(positive, tally.num_rows) for name, positive in tally.more_positives.items()
        },
        split={"rule": "imported"},
        sources=tuple(
            {"name": name, **entry}
            for name, entry in files.items()
            if not name.startswith(VOCABULARY_FOLDER)
        ),
        options={
            "missing": "empty",
            "numeric_rule": NUMERIC_RULE,
            "token_rule": TOKEN_RULE,
            **outline.options,
            "vocabulary": Pruning(counted=counted).to_json(),
        },
        versions=versions(),
        files=files,
    )
