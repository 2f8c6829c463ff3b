"""What ``docs/policy-format.md`` says, in Python's own integers; no code of the product."""

from __future__ import annotations

from collections.abc import Sequence

MULTIPLIERS = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)
MISSING = 2**62 - 1


def signed(x: int) -> int:
    """The int64 with the low 64 bits of ``x``."""
    x &= 2**64 - 1
    return x - 2**64 if x >= 2**63 else x


def reference_mix(x: int) -> int:
    """``x ^= x >> 33; x *= A; x ^= x >> 29; x *= B; x ^= x >> 32`` on int64."""
    for shift, multiplier in zip((33, 29), MULTIPLIERS, strict=True):
        x = signed((x ^ (x >> shift)) * multiplier)
    return x ^ (x >> 32)


def reference_hash(value: int, seed: int, num_rows: int) -> int:
    return ((reference_mix(value ^ seed) % 2**32) * num_rows) // 2**32


def digest(value: int) -> int:
    """What a vocabulary of 32 bits has in place of an id."""
    return reference_mix(value ^ 0x3243F6A8885A308D) % 2**32


def cross_id(ids: Sequence[int]) -> int:
    """The id of a cross: a mix of its columns' ids in order, or the missing id."""
    if MISSING in ids:
        return MISSING
    h = 0x1E3779B97F4A7C15 + len(ids)
    for i in ids:
        h = reference_mix(h ^ i) % 2**63
    return 2**62 + h % 2**62
