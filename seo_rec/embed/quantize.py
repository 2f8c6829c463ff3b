"""Tables of eight bits: every row with a scale and an offset of its own.

Letters: n rows of a table, d its width.
"""

from __future__ import annotations

import torch

from seo_rec.embed.rows import PolicyEmbedding

BITS = (8,)


def quantize_rows(weight_nd: torch.Tensor) -> torch.Tensor:
    """uint8 (n, d + 8): ``round((w - min) / s)`` with ``s = (max - min) / 255``, then s and min.

    FBGEMM's format of a row: d bytes and two float32, as its quantized lookups read it.

    Args:
        weight_nd: float32.
    """
    return torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(weight_nd.contiguous())


def dequantize_rows(stored: torch.Tensor) -> torch.Tensor:
    """float32 (n, d) of what :func:`quantize_rows` gave, off by at most half of a row's s."""
    return torch.ops.fbgemm.Fused8BitRowwiseQuantizedToFloat(stored)


@torch.no_grad()
def quantize_tables_(embedding: PolicyEmbedding) -> tuple[int, int]:
    """Put every table of a whole embedding through eight bits; flat arrays stay as they are.

    The module then computes what a lookup of the quantized rows gives.

    Returns:
        Bytes of all that is stored (tables, arrays, projections, codes) after it and before it.
    """
    quantized = before = 0
    for bag in embedding.ebc.embedding_bags.values():
        stored = quantize_rows(bag.weight)
        bag.weight.copy_(dequantize_rows(stored))
        quantized += stored.numel()
        before += 4 * bag.weight.numel()
    rest = 4 * embedding.policy.num_params - before
    return quantized + rest, before + rest
