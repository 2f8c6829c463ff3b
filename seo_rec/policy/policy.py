"""The policy itself: frozen data with counts, a file form and a check."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from seo_rec.files import write_text
from seo_rec.policy.check import check_policy
from seo_rec.policy.dtypes import row_bytes
from seo_rec.policy.entries import (
    Array,
    BagConfig,
    Budget,
    Codes,
    Feature,
    Ids,
    Lookup,
    PolicyError,
    Table,
    id_bytes,
)
from seo_rec.policy.packing import pack_codes, pack_ids
from seo_rec.policy.reading import (
    FORMAT,
    array_json,
    budget_json,
    feature_json,
    read_parts,
    table_json,
    version_of,
)
from seo_rec.policy.strict_json import read_document


@dataclass(frozen=True)
class Policy:
    """Tables and features of a model, and where the decision came from.

    Args:
        tables: every table is read by at least one lookup.
        features: the served features, in the order of their slices in ``x_BE``.
        dropped: columns of the data set that the policy leaves out, by name.
        vocabularies: sorted ids of the features whose lookups use their index
            (see :class:`Lookup`), by feature; for a cross, the mixed ids; where the feature's
            ``id_bits`` are 32, sorted digests from 0 to 2^32 - 1, also int64.
        provenance: method, arguments, data fingerprint, code version; JSON values only.
        codes: int32 rows by base row, for the ``codes`` address; by a name of their own.
        arrays: flat arrays, for the ``blocks`` address.
        budget: what the policy was made for, or None where nobody said.
        decision: who decided, and by how much, for people and reports; JSON values only.

    Two policies are equal if they find the same rows for every id and combine them alike: their
    tables, arrays, features, dropped columns, codes and vocabularies are equal. What they were made
    for, who decided and where they came from does not count.

    Raises:
        PolicyError: two entries share a name, a lookup names an unknown table, a table is never
            read, or a number is out of range.
    """

    tables: tuple[Table, ...]
    features: tuple[Feature, ...]
    dropped: tuple[str, ...] = ()
    vocabularies: Mapping[str, Ids] = field(default_factory=dict, compare=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)
    codes: Mapping[str, Codes] = field(default_factory=dict, compare=False)
    arrays: tuple[Array, ...] = ()
    budget: Budget | None = field(default=None, compare=False)
    decision: Mapping[str, Any] | None = field(default=None, compare=False)
    codes_digest: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_policy(self)
        object.__setattr__(self, "codes_digest", _digest(self.codes))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Policy):
            return NotImplemented
        if any(getattr(self, f.name) != getattr(other, f.name) for f in fields(self) if f.compare):
            return False
        mine, theirs = self.vocabularies, other.vocabularies
        return mine.keys() == theirs.keys() and all(
            mine[name] is theirs[name] or np.array_equal(mine[name], theirs[name]) for name in mine
        )

    def table(self, name: str) -> Table:
        return next(t for t in self.tables if t.name == name)

    def array(self, name: str) -> Array:
        return next(a for a in self.arrays if a.name == name)

    def lookup_width(self, lookup: Lookup) -> int:
        """Floats that ``lookup`` reads per id."""
        return lookup.width if lookup.address == "blocks" else self.table(lookup.table).dim

    def combined_width(self, feature: Feature) -> int:
        """Floats that ``combine`` makes of a feature's lookups, before ``project``."""
        widths = [self.lookup_width(k) for k in feature.lookups]
        return sum(widths) if feature.combine == "concat" else widths[0]

    def width(self, feature: Feature) -> int:
        """Floats that ``feature`` contributes to ``x_BE``."""
        return self.combined_width(feature) if feature.project is None else feature.project

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of every served feature, in order; their sum is E."""
        return tuple(self.width(f) for f in self.features)

    @property
    def num_params(self) -> int:
        """Numbers that must be stored to serve the embeddings, vocabularies excepted.

        Floats of tables (importance weights are in tables), flat arrays and projections; and
        codes, each of the four bytes of a float.
        """
        stored = sum(t.num_rows * t.dim for t in self.tables) + sum(a.size for a in self.arrays)
        projected = sum(f.project * self.combined_width(f) for f in self.features if f.project)
        return stored + projected + sum(int(c.size) for c in self.codes.values())

    @property
    def num_bytes(self) -> int:
        """Bytes that must be stored to serve the embeddings, vocabularies included.

        Rows of tables and flat arrays in their types, with scales and offsets; 4 bytes for every
        number of a projection and for every code, 8 or 4 for every id of a vocabulary.
        """
        rows = sum(t.num_rows * row_bytes(t.dim, t.dtype) for t in self.tables)
        flat = sum(row_bytes(a.size, a.dtype) for a in self.arrays)
        projected = sum(f.project * self.combined_width(f) for f in self.features if f.project)
        codes = sum(int(c.size) for c in self.codes.values())
        bits = self.id_bits
        ids = sum(int(v.size) * id_bytes(bits[n]) for n, v in self.vocabularies.items())
        return rows + flat + 4 * (projected + codes) + ids

    @property
    def id_bits(self) -> dict[str, int]:
        """By feature, the bits of an id in its vocabulary: 64, or 32 for digests."""
        return {f.name: f.id_bits for f in self.features}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the data that the features read, each once, in order of first use."""
        return tuple(dict.fromkeys(c for f in self.features for c in f.columns))

    @property
    def num_lookups(self) -> int:
        """Vectors read per sample of one id per feature, importance weights included."""
        return sum(len(f.all_lookups) for f in self.features)

    def to_json(self) -> dict[str, Any]:
        version, bits = version_of(self.features), self.id_bits
        return {
            "format": FORMAT,
            "version": version,
            "tables": [table_json(t) for t in self.tables],
            "arrays": [array_json(a) for a in self.arrays],
            "features": [feature_json(f, version) for f in self.features],
            "dropped": list(self.dropped),
            "vocabularies": {n: pack_ids(ids, bits[n]) for n, ids in self.vocabularies.items()},
            "codes": {name: pack_codes(codes) for name, codes in self.codes.items()},
            "provenance": dict(self.provenance),
            "budget": budget_json(self.budget),
            "decision": None if self.decision is None else dict(self.decision),
        }

    def save(self, path: Path | str) -> None:
        """Write the policy; the same policy with the same provenance gives the same bytes."""
        text = json.dumps(self.to_json(), indent=1, sort_keys=True, allow_nan=False)
        write_text(path, text + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Policy:
        """Read a policy file of version 1 to 4. PolicyError says what is wrong and where."""
        return cls.from_json(read_document(Path(path)), where=str(path))

    @classmethod
    def from_json(cls, document: Any, where: str = "policy") -> Policy:
        """Build a policy from its JSON form; unknown keys and versions are refused."""
        parts = read_parts(document, where)
        try:
            return cls(
                parts.tables,
                parts.features,
                parts.dropped,
                parts.vocabularies,
                parts.provenance,
                parts.codes,
                parts.arrays,
                parts.budget,
                parts.decision,
            )
        except PolicyError as error:
            raise PolicyError(f"{where}: {error}") from error

    @classmethod
    def from_embedding_bag_configs(
        cls, configs: Iterable[BagConfig], address: str = "id"
    ) -> Policy:
        """The tables of an existing TorchRec model; shared tables stay shared.

        ``id`` reproduces the model. Its ids are row numbers, so a feature whose table has n rows
        gets the vocabulary 1, ..., n - 1: id i reads row i, and row 0 is left for id 0. It also
        serves ids outside [0, n), which TorchRec refuses. A vocabulary takes 8 bytes per row of
        the largest table, shared by all features.

        ``hash`` keeps the tables, takes ids of any size and needs no vocabulary. All lookups have
        one seed: equal ids of features that share a table share a row, as they do in the model.

        Args:
            configs: ``ebc.embedding_bag_configs()`` of the model, in its order. A config without
                feature names is read by the feature of its own name, as in TorchRec.
            address: ``id`` or ``hash``.

        Returns:
            Features in the order of their first table; one in several tables joins their rows side
            by side, in the order of the tables.

        Raises:
            PolicyError: a table is not pooled by sum, or names a feature twice; or what
                :class:`Policy` raises.
        """
        tables: list[Table] = []
        readers: dict[str, list[Table]] = {}
        for config in configs:
            pooling = getattr(config, "pooling", None)
            if pooling is not None and getattr(pooling, "name", pooling) != "SUM":
                raise PolicyError(
                    f"table {config.name!r} has pooling {getattr(pooling, 'name', pooling)}; a "
                    "policy sums bags. If its bags hold one id each, set pooling=SUM: it is the "
                    "same then"
                )
            table = Table(config.name, int(config.num_embeddings), int(config.embedding_dim))
            tables.append(table)
            names = list(config.feature_names) or [config.name]
            if len(set(names)) < len(names):
                raise PolicyError(f"table {config.name!r} names a feature twice: {names}")
            for name in names:
                readers.setdefault(name, []).append(table)
        features = tuple(
            Feature(name, tuple(Lookup(t.name, address) for t in read))
            for name, read in readers.items()
        )
        vocabularies: dict[str, Ids] = {}
        if address == "id":
            row_numbers = np.arange(1, max((t.num_rows for t in tables), default=1), dtype=np.int64)
            for name, read in readers.items():
                vocabularies[name] = row_numbers[: min(t.num_rows for t in read) - 1]
        origin = {"method": "embedding-bag-configs", "arguments": {"address": address}}
        return cls(tuple(tables), features, (), vocabularies, origin)


def _digest(codes: Mapping[str, Codes]) -> str:
    """What makes policies with other codes unequal; the arrays themselves cannot be compared."""
    digest = hashlib.sha256()
    for name in sorted(codes):
        digest.update(f"{name}\x1f{codes[name].size}\x1f".encode("utf-8", "surrogatepass"))
        digest.update(np.ascontiguousarray(codes[name], dtype="<i4").tobytes())
    return digest.hexdigest() if codes else ""
