"""The definition of ``block_bag`` and of its gradients, in plain PyTorch, for any float type.

Letters: B bags of one feature, F features, V ids, K blocks, J blocks of a group, Z floats of a
block, E floats of an output row, N floats.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from seo_kernels.block_bag.blocks import COLUMN, FEATURE, WIDTH
from seo_kernels.remap.reference import hash_rows


class Group(NamedTuple):
    """Neighbouring blocks of one feature and one width, for all ids of the feature."""

    blocks: slice  # of K
    columns: slice  # of E
    ids: slice  # of V
    bag_V: Tensor  # of [0, B)
    floats_VJZ: Tensor  # of [0, N)


def groups(ids_V: Tensor, offsets: Tensor, table: Tensor, num_features: int) -> Iterator[Group]:
    B = (offsets.numel() - 1) // num_features
    bag_V = torch.arange(B * num_features, device=ids_V.device) % max(B, 1)
    bag_V = bag_V.repeat_interleave(offsets.diff())
    rows = table.tolist()
    ends = offsets[::B].tolist() if B else [0] * (num_features + 1)
    kinds = zip(rows[FEATURE], rows[WIDTH], strict=True)
    first = 0
    for (feature, Z), members in groupby(kinds):
        blocks = slice(first, first + len(list(members)))
        first = blocks.stop
        _, seed_J, count_J, start_J, stride_J, _, _ = table[:, blocks]
        ids = slice(ends[feature], ends[feature + 1])
        row_VJ = hash_rows(ids_V[ids, None], seed_J, count_J)
        floats_VJZ = (start_J + row_VJ * stride_J)[:, :, None]
        floats_VJZ = floats_VJZ + torch.arange(Z, device=ids_V.device)
        column = rows[COLUMN][blocks.start]
        columns = slice(column, column + Z * (blocks.stop - blocks.start))
        yield Group(blocks, columns, ids, bag_V[ids], floats_VJZ)


def forward(
    flat_N: Tensor,
    scales_K: Tensor | None,
    ids_V: Tensor,
    offsets: Tensor,
    table: Tensor,
    num_features: int,
    width: int,
    weights_V: Tensor | None,
) -> Tensor:
    """See :func:`seo_kernels.block_bag`."""
    B = (offsets.numel() - 1) // num_features
    x_BE = flat_N.new_zeros(B, width)
    for group in groups(ids_V, offsets, table, num_features):
        parts_VJZ = flat_N[group.floats_VJZ]
        if scales_K is not None:
            parts_VJZ = parts_VJZ * scales_K[group.blocks, None]
        if weights_V is not None:
            parts_VJZ = parts_VJZ * weights_V[group.ids, None, None]
        x_BE[:, group.columns] = x_BE[:, group.columns].index_add(
            0, group.bag_V, parts_VJZ.flatten(1)
        )
    return x_BE


def backward(
    grad_BE: Tensor,
    flat_N: Tensor,
    scales_K: Tensor | None,
    ids_V: Tensor,
    offsets: Tensor,
    table: Tensor,
    num_features: int,
    weights_V: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the floats (N), of the scales (K) and of the weights of the ids (V).

    With ``p = flat[block k of id v]`` and ``g`` = the gradient of what block k wrote for v's bag:
    ``d flat = sum s_k w_v g``, ``d s_k = sum_v w_v <g, p>``, ``d w_v = sum_k s_k <g, p>``.
    """
    grad_N = torch.zeros_like(flat_N)
    grad_K = flat_N.new_zeros(table.shape[1])
    grad_V = flat_N.new_zeros(ids_V.numel())
    ones = flat_N.new_ones(())
    for group in groups(ids_V, offsets, table, num_features):
        at = group.floats_VJZ
        s_J = ones if scales_K is None else scales_K[group.blocks]
        w_V1 = ones if weights_V is None else weights_V[group.ids, None]
        g_VJZ = grad_BE[:, group.columns][group.bag_V].view(at.shape)
        inner_VJ = (g_VJZ * flat_N[at]).sum(2)
        grad_N.index_add_(0, at.flatten(), (g_VJZ * (s_J * w_V1).unsqueeze(-1)).flatten())
        grad_K[group.blocks] = (inner_VJ * w_V1).sum(0)
        grad_V[group.ids] += (inner_VJ * s_J).sum(1)
    return grad_N, grad_K, grad_V
