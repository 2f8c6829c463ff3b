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

from seo_rec.data.completion import finish, versions
from seo_rec.data.integrity import file_checksums
from seo_rec.data.progress import ProgressBar
from seo_rec.data.row_groups import RowGroup, decode, find_row_groups
from seo_rec.data.sketch import DistinctSketch
from seo_rec.data.tally import Counted
from seo_rec.data.tokens import TOKEN_RULE
from seo_rec.data.vocabulary import VOCABULARY_FOLDER, IdCounter, Pruning, write_vocabulary
from seo_rec.documents import read_object
from seo_rec.places import require_local
from seo_rec.schema import DIGEST, SCHEMA_FILE, SPLITS, Column, DataError, Schema

OUTLINE = {"version": int, "dataset": str, "label": str, "columns": list, "options": dict}
NUMERIC_RULE = "as it is; missing: 0"


@dataclass(frozen=True)
class Outline:
    """What the writer of the rows says about them.

    Args:
        label: The column of labels.
        dataset: A name.
        columns: (name, kind) in model order; None means the order of the files, by types.
        options: Further entries for ``options`` of the schema.
    """

    label: str
    dataset: str
    columns: tuple[tuple[str, str], ...] | None
    options: Mapping[str, Any]


def import_folder(
    folder: Path | str, *, label: str | None = None, counted: bool = True, progress: bool = False
) -> Schema:
    """Verify the rows in ``folder`` and complete it to a prepared data set.

    Args:
        folder: With ``train/part-*.parquet``, perhaps ``val`` and ``test``, and perhaps an outline
            in ``schema.json``.
        label: The column of labels; None means the one of the outline, or ``label``.
        counted: Whether ids are counted and vocabularies written.
        progress: Whether to draw a bar on a terminal.

    Returns:
        The schema that was written.

    Raises:
        DataError: A file or a row is not in the format; the message says where.
    """
    require_local(folder)
    folder = Path(folder)
    outline = _outline(folder, label)
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
    draft = _schema(
        outline, columns, Counted(rows, {}, dict.fromkeys(counters, (0, 0))), {}, counted
    )
    positives = _positives(folder, draft, counters, progress)
    sizes = {}
    for name, counter in counters.items():
        if isinstance(counter, IdCounter):
            ids, counts = counter.result()
            write_vocabulary(folder, name, ids, counts)
            sizes[name] = len(ids), int(counts.sum())
        else:
            sizes[name] = counter.distinct(), counter.total
    tally = Counted(rows, positives, sizes)
    schema = _schema(outline, columns, tally, file_checksums(folder), counted)
    finish(folder, schema)
    return schema


def _positives(
    folder: Path, draft: Schema, counters: Mapping[str, Any], progress: bool
) -> dict[str, int]:
    """Check all rows, count the training ids, and return the positive labels of each split."""
    positives = dict.fromkeys(SPLITS, 0)
    with ProgressBar(progress) as bar:
        for split, total in draft.num_rows.items():
            bar.begin(split, total)
            done = 0
            for group in find_row_groups(folder, draft, split) if total else []:
                positives[split] += _count(group, draft, counters if split == "train" else {})
                done += group.num_rows
                bar.update(done, done)
    return positives


def _require_vocabularies_of(names: Sequence[str], place: Path) -> None:
    there = sorted(p.name for p in place.glob("*"))
    if left := [name for name in there if name not in {f"{n}.parquet" for n in names}]:
        raise DataError(f"{place}: {', '.join(left[:3])} belong to no column; remove them")


def _outline(folder: Path, label: str | None) -> Outline:
    path = folder / SCHEMA_FILE
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name the folder with train/part-*.parquet")
    if not path.exists():
        return Outline(label or "label", "imported", None, {})
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
    named = label or found.get("label", "label")
    return Outline(named, found.get("dataset", "imported"), columns, found.get("options", {}))


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
    if outline.label not in fields.names:
        raise DataError(
            f"{path}: no column {outline.label!r} of labels; the columns are "
            f"{', '.join(fields.names)}; name it with --label"
        )
    if outline.columns is not None:
        return outline.columns
    return tuple((f.name, _kind(path, f)) for f in fields if f.name != outline.label)


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


def _count(group: RowGroup, schema: Schema, counters: Mapping[str, Any]) -> int:
    """Check the rows of a group, count their ids, and return the number of positive labels."""
    names = [column.name for column in schema.features]
    rows = decode(group, names, [column.name for column in schema.numeric], schema.label)
    for name, bags in zip(names, rows.bags, strict=True):
        if name in counters:
            counters[name].add(bags.values)
    return int(rows.labels_B.sum(dtype=np.float64))


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
        label=outline.label,
        num_rows=tally.num_rows,
        label_rate={s: tally.positives.get(s, 0) / max(1, n) for s, n in tally.num_rows.items()},
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
