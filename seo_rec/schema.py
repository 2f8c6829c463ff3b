"""What a prepared data set is: its columns, splits and where it came from (``schema.json``).

A data set on disk is a folder::

    DATA/schema.json
    DATA/train/part-00000.parquet ...   DATA/val/...   DATA/test/...
    DATA/vocabulary/<column>.parquet    (id, count) of the training split, sorted by id
    DATA/kept/<column>.parquet          ids that stay, where earlier data pruned the column

``schema.json`` lists size and SHA-256 of the other files (``files``), and has a SHA-256 of its own
content (``sha256``): of the document without that key, as compact JSON with sorted keys.

In the parquet shards a categorical column is ``int64`` (null = missing, an empty bag), a
multivalent column is ``list<int64>``, a numeric column is ``float32`` without nulls and the
label is ``float32``: in {0, 1}, or any finite number where ``label_kind`` is ``regression``; so are
more labels of 0 and 1. A column of weights is ``float32``, a column of times ``float64``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seo_rec.files import read_json, write_json
from seo_rec.folders import but_is
from seo_rec.places import place

SCHEMA_VERSION = 1
SCHEMA_FILE = "schema.json"
SPLITS = ("train", "val", "test")
# of a schema's options
VALUE_RULES = ("numeric_rule", "numeric_columns", "missing", "token_rule", "embed_numeric")
BINARY, REGRESSION = "binary", "regression"
LABEL_KINDS = (BINARY, REGRESSION)
QUALITY_NAMES = {BINARY: "AUC", REGRESSION: "R2"}  # what models are compared by; more is better
LOSS_NAMES = {BINARY: "log loss", REGRESSION: "squared error"}
KINDS = ("categorical", "multivalent", "numeric")
DIGEST = "sha256"
LISTED_FILE = re.compile(r"(train|val|test|vocabulary|kept)/[^/\0]+\.parquet")
HEX_DIGEST = re.compile(r"[0-9a-f]{64}")


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
    """Columns in model order, row counts, split rule and origin of a prepared data set.

    ``files`` maps the path of every shard and vocabulary to its size and SHA-256; it is empty for
    data sets of earlier releases. ``time`` and ``weight`` name two more columns of the shards,
    where there are any: the time of a row (float64: a number, or seconds from 1970-01-01) and its
    weight (float32, 0 or more, 1 on average over the training rows). ``label_rate`` is the mean
    label of each split. ``label_kind`` and ``label_std``, the standard deviation of the label in
    each split, stand in the document of a ``regression`` label alone. ``more_labels`` names further
    labels of 0 and 1, for a model of several labels, and ``more_label_rates`` has the mean of each
    in each split; both stand in the document of such data alone.
    """

    dataset: str
    columns: tuple[Column, ...]
    label: str
    num_rows: Mapping[str, int]
    label_rate: Mapping[str, float]
    split: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[Mapping[str, Any], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    time: str | None = None
    weight: str | None = None
    label_kind: str = BINARY
    label_std: Mapping[str, float] = field(default_factory=dict)
    more_labels: tuple[str, ...] = ()
    more_label_rates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.label_kind not in LABEL_KINDS:
            raise DataError(f"label_kind is {self.label_kind!r}; allowed: {', '.join(LABEL_KINDS)}")
        if self.more_labels and self.label_kind != BINARY:
            raise DataError(f"several labels are {self.label_kind}; allowed: {BINARY}")
        names = [c.name for c in self.columns] + [*self.labels, *self.more]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise DataError(f"column names must be unique; seen more than once: {twice}")

    @property
    def more(self) -> tuple[str, ...]:
        """The columns of the shards that are neither read by a model nor the label."""
        return tuple(name for name in (self.weight, self.time) if name is not None)

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns of labels; one, unless the data are for a model of several labels."""
        return (self.label, *self.more_labels)

    @property
    def label_rates(self) -> dict[str, Mapping[str, float]]:
        """The mean of each label in each split, by the name of the label."""
        return {self.label: self.label_rate, **self.more_label_rates}

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

    @property
    def logit_offset(self) -> float:
        """-ln(w) where each negative training row was kept with probability w, else 0."""
        rate = self.options.get("negative_rate", 1.0)
        return -math.log(rate) if rate != 1.0 else 0.0

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
        identity.pop("files", None)
        text = json.dumps(identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """The document of ``schema.json``, without its own SHA-256."""
        document = {"version": SCHEMA_VERSION, **json.loads(json.dumps(asdict(self)))}
        optional = ("files", "time", "weight", "more_labels", "more_label_rates")
        for name in optional:  # data sets without them keep their fingerprint
            if not document[name]:
                del document[name]
        if self.label_kind == BINARY:
            del document["label_kind"], document["label_std"]
        return document

    @classmethod
    def from_json(cls, doc: Mapping[str, Any], where: str = "schema") -> Schema:
        """Parse a ``schema.json`` document.

        Raises:
            DataError: A key, a type, the version or the SHA-256 is wrong; the message says which.
        """
        if not isinstance(doc, Mapping):
            raise DataError(f"{where}: must be an object, got {type(doc).__name__}")
        doc = dict(doc)
        digest = doc.pop(DIGEST, None)
        if digest is not None and digest != document_digest(doc):
            raise DataError(
                f"{where}: damaged or edited: its {DIGEST} is not the one of its content; restore "
                f"the file or run `seo-rec prepare` again (or remove {DIGEST!r} after an edit)"
            )
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
        _check_values(doc, where)
        try:
            doc["columns"] = tuple(Column(**c) for c in doc["columns"])
        except (TypeError, DataError) as error:
            raise DataError(f"{where}: bad column entry: {error}") from error
        doc["sources"] = tuple(doc.get("sources", ()))
        doc["more_labels"] = tuple(doc.get("more_labels", ()))
        return cls(**doc)


def other_rules(known: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """In which rules of preparation two data sets differ, in one line; "" if in none.

    Args:
        known: The rules of the data that a model was trained on.
        found: The rules of the data at hand.
    """
    said = []
    for rule, there in known.items():
        here = found.get(rule)
        if there == here:
            continue
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            names = sorted(n for n in {*there, *here} if there.get(n) != here.get(n))
            said.append(f"{rule}: other numbers for {', '.join(names)}")
        else:
            said.append(f"{rule}: {there!r:.80} there, {here!r:.80} here")
    return "; ".join(said)


def document_digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON document as compact JSON with sorted keys."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_schema(data: Path | str, schema: Schema) -> None:
    """Write ``DATA/schema.json`` with the SHA-256 of its content."""
    document = schema.to_json()
    write_json(Path(data) / SCHEMA_FILE, {**document, DIGEST: document_digest(document)})


def _check_values(doc: Mapping[str, Any], where: str) -> None:
    """DataError unless every value of a schema document has its type and shape."""

    def need(good: bool, name: str, allowed: str, value: Any) -> None:
        if not good:
            raise DataError(f"{where}: {name} is {value!r:.60}; allowed: {allowed}")

    def of_kind(name: str, kind: type, allowed: str) -> None:
        need(isinstance(doc.get(name, kind()), kind), name, allowed, doc.get(name))

    for name in ("dataset", "label", "label_kind"):
        of_kind(name, str, "a string")
    for name in ("time", "weight"):
        good = doc.get(name) is None or (isinstance(doc[name], str) and doc[name] != "")
        need(good, name, "the name of a column", doc.get(name))
    objects = ("num_rows", "label_rate", "label_std", "split", "options", "versions", "files")
    for name in (*objects, "more_label_rates"):
        of_kind(name, dict, "an object")
    for name in ("columns", "sources", "more_labels"):
        of_kind(name, list, "a list")
    for source in doc.get("sources", ()):
        need(isinstance(source, dict), "an entry of sources", "an object", source)
    for split, rows in doc["num_rows"].items():
        need(_is_whole(rows), f"num_rows of {split!r}", "a whole number, 0 or more", rows)
    for split, rate in doc["label_rate"].items():
        if doc.get("label_kind") == REGRESSION:
            good = type(rate) in (int, float) and math.isfinite(rate)
            need(good, f"label_rate of {split!r}", "a number", rate)
        else:
            need(_is_share(rate), f"label_rate of {split!r}", "0 to 1", rate)
    more = doc.get("more_labels", [])
    for name in more:
        need(
            isinstance(name, str) and name != "", "one of more_labels", "the name of a column", name
        )
    rates = doc.get("more_label_rates", {})
    need(
        sorted(rates) == sorted(more), "more_label_rates", "one entry for each label", sorted(rates)
    )
    for name, by_split in rates.items():
        good = isinstance(by_split, dict) and all(_is_share(r) for r in by_split.values())
        need(good, f"more_label_rates of {name!r:.60}", "0 to 1 by split", by_split)
    for split, std in doc.get("label_std", {}).items():
        need(_is_number(std), f"label_std of {split!r}", "a number, 0 or more", std)
    for column in doc["columns"]:
        what = "bad column entry: a column"
        need(isinstance(column, dict), what, "an object", column)
        need(isinstance(column.get("name"), str), f"{what}'s name", "a string", column.get("name"))
        size, lookups = column.get("vocab_size"), column.get("lookups_per_row", 1.0)
        need(size is None or type(size) is int, f"{what}'s vocab_size", "a whole number", size)
        need(_is_number(lookups), f"{what}'s lookups_per_row", "a number, 0 or more", lookups)
    rate = doc.get("options", {}).get("negative_rate", 1.0)
    need(_is_number(rate) and 0 < rate <= 1, "negative_rate", "above 0, up to 1", rate)
    for name, entry in doc.get("files", {}).items():
        good = isinstance(entry, dict) and set(entry) == {"bytes", "sha256"}
        good = good and LISTED_FILE.fullmatch(name) is not None and _is_whole(entry["bytes"])
        good = good and HEX_DIGEST.fullmatch(str(entry["sha256"])) is not None
        need(good, f"files entry {name!r:.60}", "a file of the data set, its bytes, sha256", entry)


def _is_whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _is_share(value: Any) -> bool:
    return _is_number(value) and value <= 1


def read_schema(data: Path | str) -> Schema:
    """Read ``DATA/schema.json``; DataError if the folder is not a prepared data set."""
    data = place(data)
    path = data / SCHEMA_FILE
    if not path.is_file():
        found = f"so this is not a prepared data set{but_is(data)}"
        found = found if data.exists() else "since there is no such folder"
        raise DataError(
            f"{data}: no {SCHEMA_FILE} here, {found}; `seo-rec prepare` makes one of raw files"
        )
    try:
        doc = read_json(path)
    except ValueError as error:
        raise DataError(str(error)) from error
    return Schema.from_json(doc, where=str(path))
