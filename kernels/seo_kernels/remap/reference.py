"""The definition of ``remap``, in plain PyTorch.

Letters: F features, V ids, K lookups, W row numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

LOW_32 = 0xFFFFFFFF
FIRST_FACTOR = -0x00AE502812AA7333
SECOND_FACTOR = -0x3B314601E57A13AD


def mix(x: torch.Tensor) -> torch.Tensor:
    """Two rounds of xor-shift-multiply modulo 2^64; the shifts repeat the sign bit.

    Args:
        x: int64, any shape.
    """
    x = (x ^ (x >> 33)) * FIRST_FACTOR
    x = (x ^ (x >> 29)) * SECOND_FACTOR
    return x ^ (x >> 32)


def hash_rows(
    ids: torch.Tensor, seeds: torch.Tensor | int, num_rows: torch.Tensor | int
) -> torch.Tensor:
    """Row numbers ``floor((mix(id xor seed) mod 2^32) * num_rows / 2^32)``.

    Args:
        ids: int64, any shape, not negative.
        seeds, num_rows: numbers, or int64 tensors that broadcast against ``ids``; seeds not
            negative, rows at most 2^31, or 2^32 for the hash itself, in [-2^31, 2^31).

    Returns:
        int64 in [0, num_rows), of the broadcast shape.
    """
    return ((mix(ids ^ seeds) & LOW_32) * num_rows) >> 32


def remap(
    ids_V: torch.Tensor,
    starts: Sequence[int],
    features: Sequence[int],
    seeds_K: torch.Tensor,
    rows_K: torch.Tensor,
    shifts_K: torch.Tensor | None = None,
) -> torch.Tensor:
    """See :func:`seo_kernels.remap`."""
    sizes = [starts[f + 1] - starts[f] for f in features]
    if len(set(sizes)) == 1:  # as many ids of every feature: the lookups are rows of a matrix
        ids = torch.stack([ids_V[starts[f] : starts[f + 1]] for f in features])
        rows = hash_rows(ids, seeds_K[:, None], rows_K[:, None])
        return (rows if shifts_K is None else rows + shifts_K[:, None]).view(-1)
    count = torch.tensor(sizes, dtype=torch.int64, device=ids_V.device)
    ids_W = torch.cat([ids_V[starts[f] : starts[f + 1]] for f in features] or [ids_V[:0]])
    rows_W = hash_rows(ids_W, seeds_K.repeat_interleave(count), rows_K.repeat_interleave(count))
    return rows_W if shifts_K is None else rows_W + shifts_K.repeat_interleave(count)
