"""The definition of ``chunk_bag``, in plain PyTorch, a chunk at a time.

Equation 2 of "Shared Embedding Optimization" writes a feature's embedding as its chunks, each
scaled by its attention, side by side; what is looked up here is all of them in one row of x_BE.

Letters: B bags of one feature, F features, V ids, K lookups (chosen chunks), D floats of a chunk,
E floats of an output row, R rows of a chunk table.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seo_kernels.remap.reference import hash_rows


def chunk_bag(
    tables: Sequence[Tensor],
    ids_V: Tensor,
    offsets: Tensor,
    num_features: int,
    lookups: Sequence[tuple[int, int, int]],
    attention_K: Tensor | None = None,
    weights_V: Tensor | None = None,
) -> Tensor:
    """``x[b] = Concat_k(a_k sum_{v in bag(f_k, b)} w_v T_k[hash_rows(id_v, seed_k, R_k)])``.

    Args:
        tables: (R, D), each of a size of its own.
        ids_V: int64, feature after feature, bag after bag.
        offsets: (F * B + 1), the bounds of the bags.
        num_features: F.
        lookups: table, feature and seed of each chosen chunk.
        attention_K, weights_V: a and w; None for ones.

    Returns:
        (B, E).
    """
    B = (offsets.numel() - 1) // num_features
    parts = []
    for k, (table, feature, seed) in enumerate(lookups):
        bounds = offsets[feature * B : (feature + 1) * B + 1]
        ids = ids_V[bounds[0] : bounds[-1]]
        rows_VD = tables[table][hash_rows(ids, seed, tables[table].shape[0])]
        if weights_V is not None:
            rows_VD = rows_VD * weights_V[bounds[0] : bounds[-1], None]
        bag_V = torch.arange(B, device=ids.device).repeat_interleave(bounds.diff())
        part_BD = rows_VD.new_zeros(B, rows_VD.shape[1]).index_add(0, bag_V, rows_VD)
        parts.append(part_BD if attention_K is None else attention_K[k] * part_BD)
    return torch.cat(parts, 1)
