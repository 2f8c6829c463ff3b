"""Where a policy's hash functions come from, and what it records about itself."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

import seo_rec
from seo_rec.policy.allowance import without_unset
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


def settings_provenance(schema: Schema, method: str, settings: Any, seed: int) -> dict[str, Any]:
    """What a policy that a settings class decides records: the settings that are not unset.

    Args:
        schema: Of the data set.
        method: The name of the method.
        settings: A dataclass with an ``allowance``; a budget in bytes takes the place of params.
        seed: Salt of the hash functions.
    """
    told = {**without_unset(asdict(settings)), "seed": seed}
    if settings.allowance.in_bytes:
        del told["params"]
    return provenance(schema, method, **told)
