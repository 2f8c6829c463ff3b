"""The policy: which embedding tables exist, and how each feature finds its rows in them.

A policy is plain frozen data with a JSON form (``docs/policy-format.md``). Methods and searches
write it, the applier rewrites it; the embedding module, the planner, the exporter and the
reports read it. Nothing else passes between a search and the training that uses its answer.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from seo_rec.files import write_text

FORMAT = "seo-rec-policy"
VERSION = 1
ADDRESSES = ("hash", "id")
COMBINES = ("concat", "sum")
MAX_SEED = 2**63 - 1
MAX_ROWS = 2**31 - 1
MAX_FILE_BYTES = 2**30

Ids = npt.NDArray[np.int64]


class PolicyError(ValueError):
    """A policy that cannot be built; the message names the entry, what it holds and the fix."""


class BagConfig(Protocol):
    """What is read of TorchRec's ``EmbeddingBagConfig``; ``pooling``, if there, must be SUM."""

    name: str
    num_embeddings: int
    embedding_dim: int
    feature_names: list[str]


@dataclass(frozen=True)
class Table:
    """An embedding table of ``num_rows`` rows of ``dim`` floats."""

    name: str
    num_rows: int
    dim: int


@dataclass(frozen=True)
class Lookup:
    """One row of one table per id.

    ``address`` says how an id becomes a row:

    * ``hash``: ``floor(mix(id, seed) * num_rows / 2^32)``, see :mod:`seo_rec.embed.remap`.
      Two lookups of one id with equal seeds into tables of equal size read the same row number.
    * ``id``: 1 + the rank of the id in the feature's vocabulary; ids not in it read row 0.
    """

    table: str
    address: str = "hash"
    seed: int = 0


@dataclass(frozen=True)
class Feature:
    """A feature's lookups, in the order in which ``combine`` joins them.

    ``concat`` puts the looked-up vectors side by side, ``sum`` adds vectors of equal width.
    """

    name: str
    lookups: tuple[Lookup, ...]
    combine: str = "concat"


@dataclass(frozen=True)
class Policy:
    """Tables and features of a model, and where the decision came from.

    Args:
        tables: every table is read by at least one lookup.
        features: the served features, in the order of their slices in ``x_BE``.
        dropped: features of the data set that the policy leaves out, by name.
        vocabularies: sorted ids of the features that use the ``id`` address.
        provenance: method, arguments, data fingerprint, code version; JSON values only.

    Raises:
        PolicyError: two entries share a name, a lookup names an unknown table, a table is never
            read, or a number is out of range.
    """

    tables: tuple[Table, ...]
    features: tuple[Feature, ...]
    dropped: tuple[str, ...] = ()
    vocabularies: Mapping[str, Ids] = field(default_factory=dict, compare=False)
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        _check(self)

    def table(self, name: str) -> Table:
        return next(t for t in self.tables if t.name == name)

    def width(self, feature: Feature) -> int:
        """Floats that ``feature`` contributes to ``x_BE``."""
        dims = [self.table(lookup.table).dim for lookup in feature.lookups]
        return sum(dims) if feature.combine == "concat" else dims[0]

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of every served feature, in order; their sum is E."""
        return tuple(self.width(f) for f in self.features)

    @property
    def num_params(self) -> int:
        """Floats that must be stored to serve the embeddings (vocabularies are ids, not floats)."""
        return sum(t.num_rows * t.dim for t in self.tables)

    @property
    def num_lookups(self) -> int:
        return sum(len(f.lookups) for f in self.features)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "tables": [{"name": t.name, "num_rows": t.num_rows, "dim": t.dim} for t in self.tables],
            "features": [
                {
                    "name": f.name,
                    "combine": f.combine,
                    "lookups": [
                        {"table": k.table, "address": k.address, "seed": k.seed} for k in f.lookups
                    ],
                }
                for f in self.features
            ],
            "dropped": list(self.dropped),
            "vocabularies": {name: _pack_ids(ids) for name, ids in self.vocabularies.items()},
            "provenance": dict(self.provenance),
        }

    def save(self, path: Path | str) -> None:
        """Write the policy; equal policies give equal bytes."""
        text = json.dumps(self.to_json(), indent=1, sort_keys=True, allow_nan=False)
        write_text(path, text + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Policy:
        """Read a policy file. PolicyError says what is wrong with it and where."""
        path = Path(path)
        if not path.is_file():
            raise PolicyError(f"{path}: no such policy file; `seo-rec search` writes one")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise PolicyError(f"{path}: {path.stat().st_size} bytes; allowed: {MAX_FILE_BYTES}")
        try:
            text = path.read_text(encoding="utf-8")
            document = json.loads(
                text,
                object_pairs_hook=_no_duplicate_keys,
                parse_constant=_no_constant,
                parse_float=_finite,
            )
        except json.JSONDecodeError as error:
            raise PolicyError(
                f"{path}:{error.lineno}:{error.colno}: not valid JSON ({error.msg})"
            ) from error
        except (UnicodeDecodeError, RecursionError) as error:
            raise PolicyError(f"{path}: not a policy file ({type(error).__name__})") from error
        except ValueError as error:
            raise PolicyError(f"{path}: {error}") from error
        return cls.from_json(document, where=str(path))

    @classmethod
    def from_json(cls, document: Any, where: str = "policy") -> Policy:
        """Build a policy from its JSON form; unknown keys and versions are refused."""
        keys = {"format", "version", "tables", "features", "dropped", "vocabularies", "provenance"}
        doc = _object(document, keys, where)
        if doc["format"] != FORMAT or type(doc["version"]) is not int or doc["version"] != VERSION:
            raise PolicyError(
                f"{where}: format {doc['format']!r} version {doc['version']!r}; "
                f"this release reads {FORMAT!r} version {VERSION}"
            )
        tables = []
        for i, entry in enumerate(_list(doc["tables"], f"{where}: tables")):
            t = _object(entry, {"name", "num_rows", "dim"}, f"{where}: tables[{i}]")
            at = f"{where}: tables[{i}]"
            tables.append(
                Table(
                    _string(t["name"], f"{at}.name"),
                    _integer(t["num_rows"], f"{at}.num_rows"),
                    _integer(t["dim"], f"{at}.dim"),
                )
            )
        features = []
        for i, entry in enumerate(_list(doc["features"], f"{where}: features")):
            at = f"{where}: features[{i}]"
            f = _object(entry, {"name", "combine", "lookups"}, at)
            lookups = []
            for j, item in enumerate(_list(f["lookups"], f"{at}.lookups")):
                k = _object(item, {"table", "address", "seed"}, f"{at}.lookups[{j}]")
                lookups.append(
                    Lookup(
                        _string(k["table"], f"{at}.lookups[{j}].table"),
                        _string(k["address"], f"{at}.lookups[{j}].address"),
                        _integer(k["seed"], f"{at}.lookups[{j}].seed"),
                    )
                )
            name = _string(f["name"], f"{at}.name")
            features.append(Feature(name, tuple(lookups), _string(f["combine"], f"{at}.combine")))
        dropped = tuple(
            _string(d, f"{where}: dropped[{i}]")
            for i, d in enumerate(_list(doc["dropped"], f"{where}: dropped"))
        )
        for key in ("vocabularies", "provenance"):
            if not isinstance(doc[key], dict):
                raise PolicyError(f"{where}: {key} must be an object, got {_kind(doc[key])}")
        most_ids = max((t.num_rows - 1 for t in tables), default=0)
        vocabularies = {
            name: _unpack_ids(packed, most_ids, f"{where}: vocabularies[{name!r}]")
            for name, packed in doc["vocabularies"].items()
        }
        try:
            return cls(tuple(tables), tuple(features), dropped, vocabularies, doc["provenance"])
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


def split_rows(budget: int, dims: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Rows for tables of widths ``dims`` so that ``sum(rows * dims)`` fills ``budget`` floats.

    Each table first gets ``max(1, floor(budget * w_i / sum(w) / dim_i))`` rows; what is left
    over goes row by row to the tables furthest below their share, so that less than one row of
    the narrowest table (hence of the widest) is wasted. Where the floors of one row overdraw the
    budget, the tables above them divide what is left in proportion to their weights.

    Raises:
        PolicyError: the budget is smaller than one row of every table, or a weight is negative.
    """
    smallest = sum(dims)
    if budget < smallest:
        raise PolicyError(
            f"a budget of {budget} parameters is less than one row of each of {len(dims)} tables; "
            f"the smallest feasible budget is {smallest}"
        )
    exact = [Fraction(w) for w in weights]
    if min(exact, default=0) < 0 or (exact and not any(exact)):
        raise PolicyError(f"weights {list(weights)}; allowed: 0 or more, and one above 0")
    total = sum(exact)
    shares = [budget * w / total for w in exact]
    rows = [max(1, int(s // d)) for s, d in zip(shares, dims, strict=True)]
    if sum(r * d for r, d in zip(rows, dims, strict=True)) > budget:
        shares = _shares_of_a_row_or_more(budget, dims, exact)
        rows = [int(s // d) for s, d in zip(shares, dims, strict=True)]
    left = budget - sum(r * d for r, d in zip(rows, dims, strict=True))
    while room := [j for j, d in enumerate(dims) if d <= left]:
        i = max(room, key=lambda j: (shares[j] - rows[j] * dims[j], -j))
        rows[i] += 1
        left -= dims[i]
    return rows


def _shares_of_a_row_or_more(
    budget: int, dims: Sequence[int], weights: Sequence[Fraction]
) -> list[Fraction]:
    """Tables whose share is below one row get one row; the others divide the rest by weight."""
    shares = [Fraction(d) for d in dims]
    above, left = list(range(len(dims))), budget
    while True:
        total = sum(weights[j] for j in above)
        below = [j for j in above if left * weights[j] < dims[j] * total]
        if not below:
            break
        above = [j for j in above if j not in below]
        left -= sum(dims[j] for j in below)
    for j in above:
        shares[j] = left * weights[j] / total
    return shares


def _check(policy: Policy) -> None:
    tables: dict[str, Table] = {}
    for t in policy.tables:
        if not t.name or t.name in tables:
            raise PolicyError(f"table name {t.name!r} is empty or used twice; names are unique")
        if not 1 <= t.num_rows <= MAX_ROWS:
            raise PolicyError(
                f"table {t.name!r} has num_rows {t.num_rows}; allowed: 1 to {MAX_ROWS}"
            )
        if not 1 <= t.dim <= 65536:
            raise PolicyError(f"table {t.name!r} has dim {t.dim}; allowed: 1 to 65536")
        tables[t.name] = t
    names: set[str] = set()
    read: set[str] = set()
    for f in policy.features:
        if not f.name or f.name in names:
            raise PolicyError(f"feature name {f.name!r} is empty or used twice; names are unique")
        names.add(f.name)
        if f.combine not in COMBINES:
            raise PolicyError(
                f"feature {f.name!r} has combine {f.combine!r}; allowed: {', '.join(COMBINES)}"
            )
        if not f.lookups:
            raise PolicyError(
                f"feature {f.name!r} has no lookups; give it one or list it under dropped"
            )
        for k in f.lookups:
            if k.table not in tables:
                raise PolicyError(
                    f"feature {f.name!r} looks up table {k.table!r}; tables: {sorted(tables)}"
                )
            if k.address not in ADDRESSES:
                raise PolicyError(
                    f"feature {f.name!r} has address {k.address!r}; allowed: {', '.join(ADDRESSES)}"
                )
            if not 0 <= k.seed <= MAX_SEED:
                raise PolicyError(f"feature {f.name!r} has seed {k.seed}; allowed: 0 to 2^63 - 1")
            if k.address == "id":
                _check_vocabulary(policy, f, tables[k.table])
            read.add(k.table)
        if f.combine == "sum" and len({tables[k.table].dim for k in f.lookups}) > 1:
            raise PolicyError(f"feature {f.name!r} sums vectors of different widths; use concat")
    if unread := sorted(set(tables) - read):
        raise PolicyError(f"tables {unread} are read by no feature; remove them")
    if twice := sorted(names & set(policy.dropped)):
        raise PolicyError(f"features {twice} are both served and dropped")
    if len(set(policy.dropped)) < len(policy.dropped):
        raise PolicyError(f"dropped names a feature twice: {list(policy.dropped)}")
    if not policy.features:
        raise PolicyError("the policy serves no feature")


def _check_vocabulary(policy: Policy, feature: Feature, table: Table) -> None:
    ids = policy.vocabularies.get(feature.name)
    if ids is None:
        raise PolicyError(f"feature {feature.name!r} uses the id address and has no vocabulary")
    if ids.size and not bool(np.all(ids[1:] > ids[:-1])):
        raise PolicyError(f"the vocabulary of feature {feature.name!r} is not sorted and distinct")
    if ids.size + 1 > table.num_rows:
        raise PolicyError(
            f"feature {feature.name!r} has {ids.size} ids and needs {ids.size + 1} rows (row 0 "
            f"serves unknown ids); table {table.name!r} has {table.num_rows}"
        )


def _pack_ids(ids: Ids) -> str:
    deltas = np.diff(ids, prepend=np.int64(0)).astype("<i8")
    return base64.b64encode(zlib.compress(deltas.tobytes(), 6)).decode("ascii")


def _unpack_ids(packed: Any, most_ids: int, where: str) -> Ids:
    """Unpack at most ``most_ids`` ids, so that a small file cannot claim all the memory."""
    most_bytes = 8 * min(max(most_ids, 1), MAX_ROWS)
    try:
        raw = zlib.decompressobj()
        packed = base64.b64decode(_string(packed, where), validate=True)
        data = raw.decompress(packed, most_bytes + 1)  # one more, to reach the end of the stream
        if not raw.eof or raw.unused_data:
            raise ValueError(
                f"cut short, followed by other bytes, or more than {most_bytes // 8} ids, "
                "the rows of the largest table less one"
            )
        ids: Ids = np.cumsum(np.frombuffer(data, dtype="<i8"), dtype=np.int64)
    except (ValueError, zlib.error) as error:
        raise PolicyError(f"{where}: not packed ids ({error})") from error
    return ids


def _no_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen = dict(pairs)
    if len(seen) != len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"key {next(k for k in names if names.count(k) > 1)!r} appears twice")
    return seen


def _no_constant(name: str) -> Any:
    raise ValueError(f"the number {name} is not allowed")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is not allowed")
    return value


def _kind(value: Any) -> str:
    return type(value).__name__


def _object(value: Any, keys: set[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PolicyError(f"{where}: must be an object, got {_kind(value)}")
    if unknown := sorted(set(value) - keys):
        raise PolicyError(f"{where}: unknown keys {unknown}; allowed: {sorted(keys)}")
    if missing := sorted(keys - set(value)):
        raise PolicyError(f"{where}: missing keys {missing}")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise PolicyError(f"{where}: must be a list, got {_kind(value)}")
    return value


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise PolicyError(f"{where}: must be a string, got {_kind(value)}")
    return value


def _integer(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise PolicyError(f"{where}: must be a whole number, got {_kind(value)} {value!r}")
    return value
