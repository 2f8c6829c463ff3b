"""Where a policy's hash functions come from, and what it records about itself."""

from __future__ import annotations

import hashlib
from typing import Any

import seo_rec
from seo_rec.schema import Schema


def lookup_seed(seed: int, *names: object) -> int:
    """A 63-bit seed that is a fixed function of ``seed`` and ``names``."""
    text = "\x1f".join(str(n) for n in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def provenance(schema: Schema, method: str, **arguments: Any) -> dict[str, Any]:
    """What a policy records about its origin."""
    return {
        "method": method,
        "arguments": arguments,
        "dataset": schema.dataset,
        "data_fingerprint": schema.fingerprint,
        "code_version": seo_rec.__version__,
    }
