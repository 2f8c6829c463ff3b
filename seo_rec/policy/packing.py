"""Vocabularies and codes as strings: compressed, and unpacked no further than is stated."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

from seo_rec.policy.entries import (
    FULL_BITS,
    MAX_ROWS,
    SHORT_BITS,
    Codes,
    Ids,
    PolicyError,
    id_bytes,
)
from seo_rec.policy.strict_json import integer, json_object, string

_KINDS = {FULL_BITS: "<i8", SHORT_BITS: "<u4"}  # of the differences between ids


def pack_ids(ids: Ids, id_bits: int = FULL_BITS) -> str:
    deltas = np.diff(ids, prepend=np.int64(0)).astype(_KINDS[id_bits])
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


def unpack_ids(packed: Any, most: int, where: str, id_bits: int = FULL_BITS) -> Ids:
    most = max(most, 1)
    more = f"{most} ids, the rows of the largest table less one"
    try:
        data = _unpacked(string(packed, where), id_bytes(id_bits) * most, more)
        ids: Ids = np.cumsum(np.frombuffer(data, dtype=_KINDS[id_bits]), dtype=np.int64)
    except (ValueError, zlib.error) as error:
        if isinstance(error, PolicyError):
            raise
        raise PolicyError(f"{where}: not packed ids ({error})") from error
    return ids


def unpack_codes(entry: Any, where: str) -> Codes:
    c = json_object(entry, {"size", "rows"}, where)
    size = integer(c["size"], f"{where}.size")
    if not 1 <= size <= MAX_ROWS:
        raise PolicyError(f"{where}: size {size}; allowed: 1 to {MAX_ROWS}")
    try:
        data = _unpacked(string(c["rows"], f"{where}.rows"), 4 * size, f"{size} codes")
        codes: Codes = np.frombuffer(data, dtype="<i4").astype(np.int32)
    except (ValueError, zlib.error) as error:
        if isinstance(error, PolicyError):
            raise
        raise PolicyError(f"{where}: not packed codes ({error})") from error
    if codes.size != size:
        raise PolicyError(f"{where}: not packed codes ({codes.size} of {size})")
    return codes
