"""The definition of ``robe_bag``, in plain PyTorch, a feature at a time.

ROBE-Z is from "Random Offset Block Embedding Array (ROBE) for CriteoTB Benchmark MLPerf DLRM
Model" (Desai, Chou, Shrivastava, 2022): an embedding is cut into blocks of Z floats, and a hash of
the table, the value and the block's number says where in one array the block begins. Blocks of one
float are HashedNet ("Compressing Neural Networks with the Hashing Trick", Chen et al., 2015),
applied to embeddings.

Two differences from the paper. The hash is the one of :func:`seo_kernels.remap` with a seed for
each table and block, because a product of a 62-bit id modulo a prime does not fit 64 bits. And the
array is not a circle: a block begins in [0, N - Z], so that it always lies in one piece.

Letters: B bags of one feature, F features, V ids, J blocks, Z floats of a block, D floats of a
feature, N floats of the array.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seo_kernels.remap.reference import hash_rows


def robe_bag(
    array_N: Tensor,
    ids_V: Tensor,
    offsets: Tensor,
    seeds: Sequence[Sequence[int]],
    starts: Sequence[int],
    sizes: Sequence[int],
    dims: Sequence[int],
    block: int,
    weights_V: Tensor | None = None,
) -> Tensor:
    """``x[b, (f, i)] = sum_{v in bag(f, b)} w_v A_f[h_{f, floor(i / Z)}(id_v) + i mod Z]``.

    Args:
        array_N: all floats.
        ids_V: int64, feature after feature, bag after bag.
        offsets: (F * B + 1), the bounds of the bags.
        seeds: of each feature, one per block.
        starts, sizes: the part ``A_f`` of the array that each feature reads.
        dims: D of each feature; the last block of a feature may be cut short.
        block: Z.
        weights_V: w; None for ones.

    Returns:
        (B, sum of the dims).
    """
    B = (offsets.numel() - 1) // len(dims)
    parts = []
    for f, D in enumerate(dims):
        bounds = offsets[f * B : (f + 1) * B + 1]
        ids = ids_V[bounds[0] : bounds[-1]]
        Z = min(block, D)
        seed_J = torch.tensor(seeds[f], dtype=torch.int64, device=ids.device)
        first_VJ = starts[f] + hash_rows(ids[:, None], seed_J, sizes[f] - Z + 1)
        floats_VJZ = first_VJ[:, :, None] + torch.arange(Z, device=ids.device)
        rows_VD = array_N[floats_VJZ.flatten(1)[:, :D]]
        if weights_V is not None:
            rows_VD = rows_VD * weights_V[bounds[0] : bounds[-1], None]
        bag_V = torch.arange(B, device=ids.device).repeat_interleave(bounds.diff())
        parts.append(rows_VD.new_zeros(B, D).index_add(0, bag_V, rows_VD))
    return torch.cat(parts, 1)
