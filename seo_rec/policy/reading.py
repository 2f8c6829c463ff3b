"""The JSON form of a policy: strict reading, packed numbers. ``docs/policy-format.md`` is the spec.

Version 1 is read too: it has only ``hash`` and ``id`` lookups, and none of the later keys.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seo_rec.policy.entries import (
    ADDRESS_FIELDS,
    MAX_ROWS,
    Array,
    Codes,
    Feature,
    Ids,
    Lookup,
    PolicyError,
    Table,
)

FORMAT = "seo-rec-policy"
VERSION = 2
MAX_FILE_BYTES = 2**30

_KEYS = {"format", "version", "tables", "features", "dropped", "vocabularies", "provenance"}
_FEATURE_KEYS = {"name", "combine", "lookups"}


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


def read_document(path: Path) -> Any:
    """The JSON value of a file; PolicyError names the place of what is no strict JSON."""
    if not path.is_file():
        raise PolicyError(f"{path}: no such policy file; `seo-rec search` writes one")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise PolicyError(f"{path}: {path.stat().st_size} bytes; allowed: {MAX_FILE_BYTES}")
    try:
        return json.loads(
            path.read_text(encoding="utf-8"),
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


def read_parts(document: Any, where: str) -> Parts:
    """The parts of a policy's JSON form; unknown keys and versions are refused."""
    version = document.get("version") if isinstance(document, dict) else None
    new = version != 1 or type(version) is not int
    doc = _object(document, _KEYS | ({"arrays", "codes"} if new else set()), where)
    if doc["format"] != FORMAT or (new and (type(version) is not int or version != VERSION)):
        raise PolicyError(
            f"{where}: format {doc['format']!r} version {version!r}; "
            f"this release reads {FORMAT!r} versions 1 and {VERSION}"
        )
    tables = []
    for at, entry in _entries(doc, "tables", where):
        t = _object(entry, {"name", "num_rows", "dim"}, at)
        name, num_rows = _string(t["name"], f"{at}.name"), _integer(t["num_rows"], f"{at}.num_rows")
        tables.append(Table(name, num_rows, _integer(t["dim"], f"{at}.dim")))
    arrays = []
    for at, entry in _entries(doc, "arrays", where) if new else ():
        a = _object(entry, {"name", "size"}, at)
        arrays.append(Array(_string(a["name"], f"{at}.name"), _integer(a["size"], f"{at}.size")))
    features = tuple(_feature(entry, at, new) for at, entry in _entries(doc, "features", where))
    dropped = tuple(_string(name, at) for at, name in _entries(doc, "dropped", where))
    for key in ("vocabularies", "provenance", *(("codes",) if new else ())):
        if not isinstance(doc[key], dict):
            raise PolicyError(f"{where}: {key} must be an object, got {_kind(doc[key])}")
    codes = {
        name: _unpack_codes(packed, f"{where}: codes[{name!r}]")
        for name, packed in (doc["codes"].items() if new else ())
    }
    most = most_ids(tables, features, codes)
    vocabularies = {
        name: _unpack_ids(packed, most, f"{where}: vocabularies[{name!r}]")
        for name, packed in doc["vocabularies"].items()
    }
    return Parts(
        tuple(tables), tuple(arrays), features, dropped, vocabularies, codes, doc["provenance"]
    )


def _feature(entry: Any, at: str, new: bool) -> Feature:
    f = _object(entry, _FEATURE_KEYS | ({"project", "weights"} if new else set()), at)
    name = _string(f["name"], f"{at}.name")
    combine = _string(f["combine"], f"{at}.combine")
    lookups = tuple(_lookup(item, place, new) for place, item in _entries(f, "lookups", at, "."))
    if not new:
        return Feature(name, lookups, combine)
    project = f["project"]
    if project is not None:
        project = _integer(project, f"{at}.project")
    weights = None if f["weights"] is None else _lookup(f["weights"], f"{at}.weights", new)
    return Feature(name, lookups, combine, project, weights)


def _lookup(entry: Any, at: str, new: bool) -> Lookup:
    """The keys of a lookup are those that its address uses; in version 1 always a seed too."""
    if not isinstance(entry, dict):
        raise PolicyError(f"{at}: must be an object, got {_kind(entry)}")
    if "address" not in entry:
        raise PolicyError(f"{at}: missing keys ['address']")
    address = _string(entry["address"], f"{at}.address")
    allowed = ADDRESS_FIELDS if new else {"hash": ("seed",), "id": ("seed",)}
    if address not in allowed:
        raise PolicyError(f"{at}: address {address!r}; allowed: {', '.join(allowed)}")
    fields = allowed[address]
    k = _object(entry, {"table", "address", *fields}, at)
    table = _string(k["table"], f"{at}.table")
    numbers = {n: _integer(k[n], f"{at}.{n}") for n in fields if n != "codes"}
    if not new and address == "id":
        return Lookup(table, address)  # it ignores the seed that it has
    return Lookup(
        table,
        address,
        numbers.get("seed", 0),
        numbers.get("modulus", 0),
        numbers.get("block", 0),
        numbers.get("width", 0),
        _string(k["codes"], f"{at}.codes") if "codes" in fields else "",
    )


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


def lookup_json(k: Lookup) -> dict[str, Any]:
    fields = {name: getattr(k, name) for name in ADDRESS_FIELDS[k.address]}
    return {"table": k.table, "address": k.address, **fields}


def feature_json(f: Feature) -> dict[str, Any]:
    return {
        "name": f.name,
        "combine": f.combine,
        "lookups": [lookup_json(k) for k in f.lookups],
        "project": f.project,
        "weights": None if f.weights is None else lookup_json(f.weights),
    }


# ---- packed numbers ------------------------------------------------------------------------


def pack_ids(ids: Ids) -> str:
    deltas = np.diff(ids, prepend=np.int64(0)).astype("<i8")
    return _packed(deltas.tobytes())


def pack_codes(codes: Codes) -> dict[str, Any]:
    return {"size": int(codes.size), "rows": _packed(codes.astype("<i4").tobytes())}


def _packed(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw, 6)).decode("ascii")


def _unpacked(packed: str, most_bytes: int, more: str) -> bytes:
    """Unpack at most so many bytes, so that a small file cannot claim all the memory."""
    raw = zlib.decompressobj()
    data = raw.decompress(base64.b64decode(packed, validate=True), most_bytes + 1)
    if not raw.eof or raw.unused_data or len(data) > most_bytes:  # one more byte, to reach the end
        raise ValueError(f"cut short, followed by other bytes, or more than {more}")
    return data


def _unpack_ids(packed: Any, most: int, where: str) -> Ids:
    most = max(most, 1)
    more = f"{most} ids, the rows of the largest table less one"
    try:
        data = _unpacked(_string(packed, where), 8 * most, more)
        ids: Ids = np.cumsum(np.frombuffer(data, dtype="<i8"), dtype=np.int64)
    except (ValueError, zlib.error) as error:
        if isinstance(error, PolicyError):
            raise
        raise PolicyError(f"{where}: not packed ids ({error})") from error
    return ids


def _unpack_codes(entry: Any, where: str) -> Codes:
    c = _object(entry, {"size", "rows"}, where)
    size = _integer(c["size"], f"{where}.size")
    if not 1 <= size <= MAX_ROWS:
        raise PolicyError(f"{where}: size {size}; allowed: 1 to {MAX_ROWS}")
    try:
        data = _unpacked(_string(c["rows"], f"{where}.rows"), 4 * size, f"{size} codes")
        codes: Codes = np.frombuffer(data, dtype="<i4").astype(np.int32)
    except (ValueError, zlib.error) as error:
        if isinstance(error, PolicyError):
            raise
        raise PolicyError(f"{where}: not packed codes ({error})") from error
    if codes.size != size:
        raise PolicyError(f"{where}: not packed codes ({codes.size} of {size})")
    return codes


# ---- strict JSON ---------------------------------------------------------------------------


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


def _entries(doc: dict[str, Any], key: str, where: str, dot: str = ": ") -> list[tuple[str, Any]]:
    """The items of a list, each with its place."""
    at = f"{where}{dot}{key}"
    if not isinstance(doc[key], list):
        raise PolicyError(f"{at}: must be a list, got {_kind(doc[key])}")
    return [(f"{at}[{i}]", item) for i, item in enumerate(doc[key])]


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise PolicyError(f"{where}: must be a string, got {_kind(value)}")
    return value


def _integer(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise PolicyError(f"{where}: must be a whole number, got {_kind(value)} {value!r}")
    return value
