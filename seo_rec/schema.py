"""What a prepared data set is: its columns, splits and where it came from (``schema.json``).

A data set on disk is a folder::

    DATA/schema.json
    DATA/train/part-00000.parquet ...   DATA/val/...   DATA/test/...
    DATA/vocabulary/<column>.parquet    (id, count) of the training split, sorted by id

In the parquet shards a categorical column is ``int64`` (null = missing, an empty bag), a
multivalent column is ``list<int64>``, a numeric column is ``float32`` without nulls and the
label is ``float32`` in {0, 1}.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
SCHEMA_FILE = "schema.json"
SPLITS = ("train", "val", "test")
VALUE_RULES = ("numeric_rule", "missing", "token_rule", "embed_numeric")  # of a schema's options
KINDS = ("categorical", "multivalent", "numeric")


class DataError(ValueError):
    """Bad data or a bad data set; the message says what, where, what is allowed and the fix."""


@dataclass(frozen=True)
class Column:
    """One input column.

    ``vocab_size`` is the number of distinct ids in the training split (``None`` for numeric
    columns); ``lookups_per_row`` is the mean bag length (1.0 for a categorical column without
    missing values).
    """

    name: str
    kind: str
    vocab_size: int | None = None
    lookups_per_row: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(
                f"column {self.name!r} has kind {self.kind!r}; allowed: {', '.join(KINDS)}"
            )
        if self.kind != "numeric" and (self.vocab_size is None or self.vocab_size < 0):
            raise DataError(
                f"column {self.name!r} is {self.kind} and needs a vocab_size >= 0, "
                f"got {self.vocab_size}"
            )


@dataclass(frozen=True)
class Schema:
    """Columns in model order, row counts, split rule and origin of a prepared data set."""

    dataset: str
    columns: tuple[Column, ...]
    label: str
    num_rows: Mapping[str, int]
    label_rate: Mapping[str, float]
    split: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[Mapping[str, Any], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [c.name for c in self.columns] + [self.label]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise DataError(f"column names must be unique; seen more than once: {twice}")

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns that are embedded: categorical and multivalent ones, in order."""
        return tuple(c for c in self.columns if c.kind != "numeric")

    @property
    def numeric(self) -> tuple[Column, ...]:
        """The dense columns, in order."""
        return tuple(c for c in self.columns if c.kind == "numeric")

    @property
    def preparation(self) -> dict[str, Any]:
        """The rules by which raw values became numbers and ids; a model needs the same ones."""
        return {rule: self.options[rule] for rule in VALUE_RULES if rule in self.options}

    def vocab_size(self, feature: str) -> int:
        """Number of distinct training ids of ``feature``; KeyError if it is not a feature."""
        for c in self.features:
            if c.name == feature:
                assert c.vocab_size is not None
                return c.vocab_size
        raise KeyError(f"{feature!r} is not a feature; allowed: {[c.name for c in self.features]}")

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change when columns, splits, options or raw files change."""
        identity = self.to_json()
        identity.pop("versions")
        text = json.dumps(identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        return {"version": SCHEMA_VERSION, **json.loads(json.dumps(asdict(self)))}

    @classmethod
    def from_json(cls, doc: Mapping[str, Any], where: str = "schema") -> Schema:
        """Parse a ``schema.json`` document; DataError names the bad key or version."""
        if not isinstance(doc, Mapping):
            raise DataError(f"{where}: must be an object, got {type(doc).__name__}")
        doc = dict(doc)
        version = doc.pop("version", None)
        if version != SCHEMA_VERSION:
            raise DataError(
                f"{where}: schema version {version!r}; this release reads {SCHEMA_VERSION}; "
                "run `seo-rec prepare` again"
            )
        allowed = set(cls.__dataclass_fields__)
        required = {"dataset", "columns", "label", "num_rows", "label_rate"}
        if set(doc) - allowed or required - set(doc):
            raise DataError(
                f"{where}: unknown keys {sorted(set(doc) - allowed)}, "
                f"missing keys {sorted(required - set(doc))}; allowed: {sorted(allowed)}"
            )
        try:
            doc["columns"] = tuple(Column(**c) for c in doc["columns"])
        except TypeError as error:
            raise DataError(f"{where}: bad column entry: {error}") from error
        doc["sources"] = tuple(doc.get("sources", ()))
        return cls(**doc)


def read_schema(data: Path | str) -> Schema:
    """Read ``DATA/schema.json``; DataError if the folder is not a prepared data set."""
    path = Path(data) / SCHEMA_FILE
    if not path.is_file():
        raise DataError(
            f"{data}: no {SCHEMA_FILE} here, so this is not a prepared data set; "
            "make one with `seo-rec prepare`"
        )
    try:
        doc = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a schema file ({error.reason})") from error
    return Schema.from_json(doc, where=str(path))
