"""The hash of ids and of crosses in plain aten, for graphs that leave Python.

Letters: R rows or ids, C columns, X crosses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from seo_rec.policy import MISSING_ID
from seo_rec.policy.addresses import CROSS_START, FIRST_FACTOR, LOW_32, LOW_63, SECOND_FACTOR
from seo_rec.policy.entries import DIGEST_SEED

_LOW_62 = 2**62 - 1
_LOW_35 = 2**35 - 1  # what a shift by 29 leaves; a graph of ONNX does without it
_SIGN = -(2**63)
_UNSIGNED = ContextVar("unsigned shifts", default=False)


def folded(x: torch.Tensor) -> torch.Tensor:
    """``x xor (x >> 33)``, the first step of the mix, of numbers that are not negative.

    ``folded(id xor seed) = folded(id) xor folded(seed)``: so it is done once for all seeds.
    """
    return x ^ not_negative(x, 33)


def full_mix(x: torch.Tensor) -> torch.Tensor:
    """The mix of ``docs/policy-format.md``, all 64 bits of it, of numbers that are not negative."""
    x = folded(x) * FIRST_FACTOR
    x = (x ^ (x >> 29)) * SECOND_FACTOR
    return x ^ (x >> 32)


@contextmanager
def unsigned_shifts() -> Iterator[None]:
    """Within the block :func:`hash_rows` takes the form for graphs that shift unsigned numbers.

    That form is for ONNX alone. It multiplies numbers whose sign a compiler of C++ can know, and
    C++ leaves open what a product is that does not fit into 64 bits with a sign.
    """
    token = _UNSIGNED.set(True)
    try:
        yield
    finally:
        _UNSIGNED.reset(token)


def hash_rows(ids: torch.Tensor, seeds: torch.Tensor, num_rows: torch.Tensor | int) -> torch.Tensor:
    """``((mix(id ^ seed) mod 2^32) * num_rows) >> 32``, int64 in [0, num_rows).

    Args:
        ids, seeds: int64, :func:`folded`.
        num_rows: From 1 to 2^31.
    """
    return not_negative(hash_32(ids, seeds) * num_rows, 32)


def digests(ids: torch.Tensor) -> torch.Tensor:
    """The digest of every id, which is not negative; int64 in [0, 2^32), of their shape."""
    seed = torch.full((), DIGEST_SEED, dtype=torch.int64)
    return hash_32(folded(ids), folded(seed))


def hash_32(ids: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    """``mix(id ^ seed) mod 2^32``, int64.

    The last shift of the mix does not repeat the sign bit, which the low 32 bits never see. The
    first one shifts ``w = (id ^ seed) * FIRST_FACTOR`` by 29 and repeats the sign bit, which takes
    three steps on unsigned numbers. Within :func:`unsigned_shifts` the sign bit of the seed is
    changed, so that ``u`` is ``w`` with its sign bit changed, because the factor is odd, and
    ``w ^ (w >> 29) = u ^ ((u >>> 29) + 2^63 - 2^34)``, where ``>>>`` puts in zeros.

    Args:
        ids, seeds: int64, :func:`folded`.
    """
    if _UNSIGNED.get():
        u = (ids ^ (seeds ^ _SIGN)) * FIRST_FACTOR
        x = (u ^ ((not_negative(u, 29) & _LOW_35) + (2**63 - 2**34))) * SECOND_FACTOR
    else:
        w = (ids ^ seeds) * FIRST_FACTOR
        x = (w ^ (w >> 29)) * SECOND_FACTOR
    return (x ^ not_negative(x, 32)) & LOW_32


def hash_each(
    ids_RC: torch.Tensor, seeds: torch.Tensor, num_rows: torch.Tensor | int
) -> torch.Tensor:
    """int64 (R, C * n): :func:`hash_rows` of every id with the n seeds of its column.

    Within :func:`unsigned_shifts` the columns are repeated first. ONNX Runtime stretches an axis of
    length 1 to a few places by a call for each id, which costs as much as four other steps.

    Args:
        ids_RC: int64 (R, C), :func:`folded`.
        seeds: int64 (C, n), :func:`folded`.
        num_rows: From 1 to 2^31; a tensor of the shape of ``seeds``, or one number.
    """
    if not _UNSIGNED.get():
        return hash_rows(ids_RC[..., None], seeds, num_rows).flatten(1)
    columns, times = seeds.shape
    repeated = torch.cat([ids_RC.reshape(-1, 1)] * times, dim=1).reshape(-1, columns * times)
    into = num_rows if isinstance(num_rows, int) else num_rows.flatten()
    return hash_rows(repeated, seeds.flatten(), into)


def not_negative(x: torch.Tensor, by: int) -> torch.Tensor:
    """``x >> by`` where x is not negative or its upper bits do not matter.

    It is another operator than ``>>``, because ONNX, which shifts only unsigned numbers, needs
    three steps for it and five for the other.
    """
    return torch.bitwise_right_shift(x, by)


def crossed(ids_RC: torch.Tensor, parts: Sequence[Sequence[int]]) -> torch.Tensor:
    """int64 (R, X): the ids of crosses; ``parts``: of each place in a cross, the columns."""
    picked = [ids_RC[:, list(columns)] for columns in parts]
    h = torch.full_like(picked[0], CROSS_START + len(parts))
    missing = torch.zeros_like(h, dtype=torch.bool)
    for ids in picked:
        h = full_mix(h ^ ids) & LOW_63
        missing = missing | (ids == MISSING_ID)
    made = (h & _LOW_62) | 2**62
    return torch.where(missing, torch.full_like(made, MISSING_ID), made)
