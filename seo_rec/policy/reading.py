"""The JSON form of a policy and its strict reading. ``docs/policy-format.md`` is the spec.

Versions 1 to 3 are read too. They lack keys that came later: version 1 has only ``hash`` and
``id`` lookups, 1 and 2 lack the budget, types of storage, columns and rows for unknown ids, and all
lack the bits of ids. A policy whose ids all have 64 bits is written as version 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from seo_rec.policy.entries import (
    ADDRESS_FIELDS,
    FULL_BITS,
    ID_BITS,
    MAX_BUDGET,
    MAX_ROWS,
    Array,
    Budget,
    Codes,
    Feature,
    Ids,
    Lookup,
    PolicyError,
    Table,
)
from seo_rec.policy.packing import unpack_codes, unpack_ids
from seo_rec.policy.strict_json import integer, items, json_object, kind, string

FORMAT = "seo-rec-policy"
VERSION = 4

_KEYS = {"format", "version", "tables", "features", "dropped", "vocabularies", "provenance"}
_FEATURE_KEYS = {"name", "combine", "lookups"}
# Keys that a version added to the version before it, by the kind of object.
_ADDED_KEYS: dict[int, dict[str, set[str]]] = {
    1: {},
    2: {"document": {"arrays", "codes"}, "feature": {"project", "weights"}},
    3: {
        "document": {"budget", "decision"},
        "feature": {"columns"},
        "table": {"dtype"},
        "array": {"dtype"},
    },
    4: {"feature": {"id_bits"}},
}
_ADDRESS_FIELDS: dict[int, dict[str, tuple[str, ...]]] = {
    1: {"hash": ("seed",), "id": ("seed",)},
    2: {**ADDRESS_FIELDS, "id": ()},
    3: ADDRESS_FIELDS,
    4: ADDRESS_FIELDS,
}


@dataclass(frozen=True)
class Parts:
    """What a policy is made of, as read; not yet checked as a whole."""

    tables: tuple[Table, ...]
    arrays: tuple[Array, ...]
    features: tuple[Feature, ...]
    dropped: tuple[str, ...]
    vocabularies: Mapping[str, Ids]
    codes: Mapping[str, Codes]
    provenance: Mapping[str, Any]
    budget: Budget | None
    decision: Mapping[str, Any] | None


def read_parts(document: Any, where: str) -> Parts:
    """The parts of a policy's JSON form; unknown keys and versions are refused."""
    version = _version(document, where)
    doc = json_object(document, _KEYS | _added("document", version), where)
    tables = [_table(entry, at, version) for at, entry in items(doc, "tables", where)]
    features = tuple(_feature(entry, at, version) for at, entry in items(doc, "features", where))
    dropped = tuple(string(name, at) for at, name in items(doc, "dropped", where))
    arrays = []
    codes: dict[str, Codes] = {}
    if version >= 2:
        arrays = [_array(entry, at, version) for at, entry in items(doc, "arrays", where)]
        codes = {
            name: unpack_codes(packed, f"{where}: codes[{name!r}]")
            for name, packed in _free_object(doc["codes"], f"{where}: codes").items()
        }
    packed_ids = _free_object(doc["vocabularies"], f"{where}: vocabularies")
    if version < 3:  # these may hold vocabularies that no lookup uses
        used = {f.name for f in features if any(k.uses_index for k in f.all_lookups)}
        packed_ids = {name: packed for name, packed in packed_ids.items() if name in used}
    most = most_ids(tables, features, codes)
    bits = {f.name: f.id_bits for f in features}
    vocabularies = {
        name: unpack_ids(
            packed, most, f"{where}: vocabularies[{name!r}]", bits.get(name, FULL_BITS)
        )
        for name, packed in packed_ids.items()
    }
    provenance = _free_object(doc["provenance"], f"{where}: provenance")
    decision = None
    if version < 3:
        budget = _budget_of_search(provenance)
    else:
        budget = _budget(doc["budget"], f"{where}: budget")
        if doc["decision"] is not None:
            decision = _free_object(doc["decision"], f"{where}: decision")
    return Parts(
        tuple(tables),
        tuple(arrays),
        features,
        dropped,
        vocabularies,
        codes,
        provenance,
        budget,
        decision,
    )


def _version(document: Any, where: str) -> int:
    """The version of a document of this format; the newest, if it lacks the keys that say so."""
    if not isinstance(document, dict) or not {"format", "version"} <= set(document):
        return VERSION
    name, version = document["format"], document["version"]
    if name != FORMAT or type(version) is not int or version not in _ADDED_KEYS:
        raise PolicyError(
            f"{where}: format {name!r} version {version!r}; "
            f"this release reads {FORMAT!r} versions 1 to {VERSION}"
        )
    return version


def _added(what: str, version: int) -> set[str]:
    """Keys of an object that this version has and version 1 had not."""
    return {key for v in range(1, version + 1) for key in _ADDED_KEYS[v].get(what, ())}


def _free_object(value: Any, at: str) -> dict[str, Any]:
    """A JSON object whose keys are not prescribed."""
    if not isinstance(value, dict):
        raise PolicyError(f"{at} must be an object, got {kind(value)}")
    return value


def _table(entry: Any, at: str, version: int) -> Table:
    t = json_object(entry, {"name", "num_rows", "dim"} | _added("table", version), at)
    return Table(
        string(t["name"], f"{at}.name"),
        integer(t["num_rows"], f"{at}.num_rows"),
        integer(t["dim"], f"{at}.dim"),
        string(t.get("dtype", "float32"), f"{at}.dtype"),
    )


def _array(entry: Any, at: str, version: int) -> Array:
    a = json_object(entry, {"name", "size"} | _added("array", version), at)
    return Array(
        string(a["name"], f"{at}.name"),
        integer(a["size"], f"{at}.size"),
        string(a.get("dtype", "float32"), f"{at}.dtype"),
    )


def _feature(entry: Any, at: str, version: int) -> Feature:
    f = json_object(entry, _FEATURE_KEYS | _added("feature", version), at)
    name = string(f["name"], f"{at}.name")
    combine = string(f["combine"], f"{at}.combine")
    lookups = tuple(_lookup(item, place, version) for place, item in items(f, "lookups", at, "."))
    project = weights = None
    if version >= 2:
        if f["project"] is not None:
            project = integer(f["project"], f"{at}.project")
        if f["weights"] is not None:
            weights = _lookup(f["weights"], f"{at}.weights", version)
    columns: tuple[str, ...] = (name,)
    if version >= 3:
        columns = tuple(string(item, place) for place, item in items(f, "columns", at, "."))
        if not columns:
            raise PolicyError(f"{at}.columns: names no column; allowed: one or more")
    id_bits = FULL_BITS
    if version >= 4:
        id_bits = integer(f["id_bits"], f"{at}.id_bits")
        if id_bits not in ID_BITS:
            raise PolicyError(f"{at}.id_bits: {id_bits}; allowed: 64, 32")
    return Feature(name, lookups, combine, project, weights, columns, id_bits)


def _lookup(entry: Any, at: str, version: int) -> Lookup:
    """The keys of a lookup are those that its address uses; in version 1 always a seed too."""
    if not isinstance(entry, dict):
        raise PolicyError(f"{at}: must be an object, got {kind(entry)}")
    if "address" not in entry:
        raise PolicyError(f"{at}: missing keys ['address']")
    address = string(entry["address"], f"{at}.address")
    allowed = _ADDRESS_FIELDS[version]
    if address not in allowed:
        raise PolicyError(f"{at}: address {address!r}; allowed: {', '.join(allowed)}")
    fields = allowed[address]
    k = json_object(entry, {"table", "address", *fields}, at)
    table = string(k["table"], f"{at}.table")
    numbers = {n: integer(k[n], f"{at}.{n}") for n in fields if n != "codes"}
    if version == 1 and address == "id":
        return Lookup(table, address)  # it ignores the seed that it has
    return Lookup(
        table,
        address,
        numbers.get("seed", 0),
        numbers.get("modulus", 0),
        numbers.get("block", 0),
        numbers.get("width", 0),
        string(k["codes"], f"{at}.codes") if "codes" in fields else "",
        numbers.get("unknown_rows", 1),
    )


def _budget(value: Any, at: str) -> Budget | None:
    if value is None:
        return None
    b = json_object(value, {"params", "num_bytes"}, at)
    params, num_bytes = (
        None if b[name] is None else integer(b[name], f"{at}.{name}")
        for name in ("params", "num_bytes")
    )
    try:
        return Budget(params, num_bytes)
    except PolicyError as error:
        raise PolicyError(f"{at}: {error}") from error


def _budget_of_search(provenance: Mapping[str, Any]) -> Budget | None:
    """The budget of SEO's search, which wrote it into the provenance before version 3.

    Other policies of these versions are as large as what they were made for.
    """
    if provenance.get("method") != "seo-search" or "apply" in provenance:
        return None
    arguments = provenance.get("arguments")
    told = arguments if isinstance(arguments, dict) else {}
    rows, dim = told.get("budget_rows"), told.get("dim")
    if type(rows) is not int or type(dim) is not int or not 1 <= rows * dim <= MAX_BUDGET:
        return None
    return Budget(rows * dim)


def most_ids(tables: list[Table], features: tuple[Feature, ...], codes: Mapping[str, Codes]) -> int:
    """How many ids a vocabulary can use: what a reader need not unpack more than."""
    rows = {t.name: t.num_rows for t in tables}
    told = [
        rows.get(k.table, 0) * k.modulus
        for f in features
        for k in f.all_lookups
        if k.address == "quotient"
    ]
    most = max([*rows.values(), *told, *(c.size for c in codes.values())], default=0)
    return min(max(most - 1, 0), MAX_ROWS)


# ---- writing -------------------------------------------------------------------------------


def table_json(t: Table) -> dict[str, Any]:
    return {"name": t.name, "num_rows": t.num_rows, "dim": t.dim, "dtype": t.dtype}


def array_json(a: Array) -> dict[str, Any]:
    return {"name": a.name, "size": a.size, "dtype": a.dtype}


def lookup_json(k: Lookup) -> dict[str, Any]:
    fields = {name: getattr(k, name) for name in ADDRESS_FIELDS[k.address]}
    return {"table": k.table, "address": k.address, **fields}


def version_of(features: Iterable[Feature]) -> int:
    """The version in which a policy of these features is written, the oldest that has its keys."""
    return VERSION if any(f.id_bits != FULL_BITS for f in features) else VERSION - 1


def feature_json(f: Feature, version: int = VERSION) -> dict[str, Any]:
    bits = {"id_bits": f.id_bits} if version >= 4 else {}
    return {
        "name": f.name,
        "columns": list(f.columns),
        "combine": f.combine,
        "lookups": [lookup_json(k) for k in f.lookups],
        "project": f.project,
        "weights": None if f.weights is None else lookup_json(f.weights),
        **bits,
    }


def budget_json(budget: Budget | None) -> dict[str, Any] | None:
    if budget is None:
        return None
    return {"params": budget.params, "num_bytes": budget.num_bytes}
