"""Weights of 16 bits: random numbers by their place, and rounding that is right on average.

This is the definition in PyTorch; the C of ``native`` does the same to the bit.

Letters: U rows, D floats of a row, J blocks of eight floats.
"""

from __future__ import annotations

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)
OF_MEAN = 0x9E3779B97F4A7C15  # to the key of a table: means have other random numbers
IN_BLOCK = 8  # numbers of 16 bits that one step of the counter gives
_LOW = 2**32 - 1
_FACTORS = (0xD2511F53, 0xCD9E8D57)
_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: int) -> tuple[Tensor, ...]:
    """Philox 4x32-10, a counter-based generator of random numbers.

    Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011).

    Args:
        counter: Four words of 32 bits, int64 tensors of one shape, the lowest word first.
        key: 64 bits.

    Returns:
        Four words of 32 random bits, int64.
    """
    x0, x1, x2, x3 = counter
    keys = [key & _LOW, key >> 32 & _LOW]
    for _ in range(_ROUNDS):
        first, second = x0 * _FACTORS[0], x2 * _FACTORS[1]  # 64 bits; the highest one is a sign
        x0, x1, x2, x3 = (
            (second >> 32 & _LOW) ^ x1 ^ keys[0],
            second & _LOW,
            (first >> 32 & _LOW) ^ x3 ^ keys[1],
            first & _LOW,
        )
        keys = [(k + step) & _LOW for k, step in zip(keys, _STEPS, strict=True)]
    return x0, x1, x2, x3


def random_halves(key: int, step: int, rows_U: Tensor, first_column: int, dim: int) -> Tensor:
    """Random numbers of 16 bits, each a function of (key, step, row, column) alone.

    The counter of a block of eight columns is (column // 8, row, step mod 2^32, step // 2^32).

    Args:
        key: 64 bits, of the seed and the table.
        step: The number of the training step.
        rows_U: int64, rows of the whole table.
        first_column: The column of the whole table where this part of it begins.
        dim: D, its columns.

    Returns:
        int64 (U, D), 0 to 2^16 - 1.
    """
    begin, end = first_column // IN_BLOCK, -(-(first_column + dim) // IN_BLOCK)
    blocks = torch.arange(begin, end, device=rows_U.device)
    blocks_UJ, rows_UJ = torch.broadcast_tensors(blocks, rows_U[:, None])
    steps = [torch.full_like(blocks_UJ, step >> shift & _LOW) for shift in (0, 32)]
    words = philox((blocks_UJ, rows_UJ, steps[0], steps[1]), key)
    halves = torch.stack([w >> shift & 0xFFFF for w in words for shift in (0, 16)], dim=2)
    skipped = first_column - begin * IN_BLOCK
    return halves.flatten(1)[:, skipped : skipped + dim]


def round_randomly(values: Tensor, random: Tensor, dtype: torch.dtype) -> Tensor:
    """One of the two neighbours of each value, the nearer one more often: right on average.

    With neighbours ``a <= x <= b`` the result is b with the probability ``(x - a) / (b - a)``, so
    that its mean is x, and x itself where it has 16 bits. The probability is exact for bfloat16 and
    for float16 of at least 2^-14; below, it is a multiple of 2^-16. Infinities stay, values beyond
    the largest float16 become infinite as in IEEE 754, and NaN is NaN.

    Args:
        values: float32.
        random: int64 of the same shape, uniform in 0 to 2^16 - 1.
        dtype: float16 or bfloat16.
    """
    bits = values.contiguous().view(torch.int32).long()
    sign, size = bits >> 16 & 0x8000, bits & 0x7FFFFFFF
    if dtype == torch.bfloat16:
        rounded = torch.where(size < 0x7F800000, size + random >> 16, size >> 16)
        rounded = torch.where(size > 0x7F800000, 0x7FC0, rounded)
    else:
        normal = size + (random >> 3) - 0x38000000 >> 13
        shift = (126 - (size >> 23)).clamp(0, 63)
        whole = (size & 0x7FFFFF) | 0x800000
        small = ((whole << 16) >> shift) + random >> 16
        rounded = torch.where(size >= 0x38800000, normal, small)
        rounded = torch.where(size >= 0x47800000, 0x7C00, rounded)
        rounded = torch.where(size > 0x7F800000, 0x7E00, rounded)
    return (sign | rounded).to(torch.uint16).view(dtype)
