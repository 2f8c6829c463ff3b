"""``block_bag`` in Triton: forward, backward by atomic addition, backward by sorting.

A program takes a tile of BAGS bags times BLOCKS neighbouring blocks of SIZE floats and walks the
bags' ids in step. Ids are hashed once per block, not once per float; neighbouring blocks write
neighbouring columns. Places in x_BE and in the floats are int64: both may pass 2^31. Where all of
them are multiples of UNIT floats, a thread moves so many at a time; the compiler is told, because
it cannot see it.

Letters: B bags of one feature, F features, V ids, K blocks, E floats of an output row, N floats,
P pairs of an id and a block.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from seo_kernels.remap.kernel import hash_rows
from seo_kernels.remap.reference import hash_rows as hash_rows_reference

TILE = 1024  # floats of a program, chosen with WARPS on an H100 (docs/LOG.md) ...
SINGLES = 512  # ... or so many, where every float has an address of its own
WARPS = 2
TINY = tl.constexpr(1e-30)  # a scale below this may have rounded its block's output to nothing
LINE = 32  # floats of the 128 bytes that a GPU moves at once
VECTOR = 4  # floats of the largest load of one thread


@triton.jit
def _bounds(offsets_ptr, feature_J, bag_B, B, inside_BJ):
    """First id and number of ids of bags under blocks; zero ids outside of the tile."""
    at_BJ = feature_J[None, :] * B + bag_B[:, None]
    first_BJ = tl.load(offsets_ptr + at_BJ, mask=inside_BJ, other=0)
    end_BJ = tl.load(offsets_ptr + at_BJ + 1, mask=inside_BJ, other=0)
    return first_BJ, end_BJ - first_BJ


@triton.jit
def _forward(
    flat_ptr,
    scales_ptr,
    ids_ptr,
    offsets_ptr,
    table_ptr,
    weights_ptr,
    out_ptr,
    B,
    K,
    E,
    HAS_SCALES: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr,
    BAGS: tl.constexpr,
    BLOCKS: tl.constexpr,
    SIZE: tl.constexpr,
    UNIT: tl.constexpr,
):
    bag_B = tl.program_id(0).to(tl.int64) * BAGS + tl.arange(0, BAGS)
    block_J = tl.program_id(1).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    is_J = block_J < K
    feature_J = tl.load(table_ptr + block_J, mask=is_J, other=0)
    seed_J = tl.load(table_ptr + K + block_J, mask=is_J, other=0)
    count_J = tl.load(table_ptr + 2 * K + block_J, mask=is_J, other=1)
    start_J = tl.load(table_ptr + 3 * K + block_J, mask=is_J, other=0)
    stride_J = tl.load(table_ptr + 4 * K + block_J, mask=is_J, other=0)
    width_J = tl.multiple_of(tl.load(table_ptr + 5 * K + block_J, mask=is_J, other=0), (UNIT,))
    column_J = tl.load(table_ptr + 6 * K + block_J, mask=is_J, other=0)
    inside_BJ = (bag_B < B)[:, None] & is_J[None, :]
    first_BJ, num_BJ = _bounds(offsets_ptr, feature_J, bag_B, B, inside_BJ)
    z = tl.arange(0, SIZE)
    is_JZ = z[None, :] < width_J[:, None]
    sum_BJZ = tl.zeros((BAGS, BLOCKS, SIZE), dtype=out_ptr.dtype.element_ty)
    longest = tl.max(tl.max(num_BJ, axis=1), axis=0)
    for i in range(longest):
        read_BJ = i < num_BJ
        id_BJ = tl.load(ids_ptr + first_BJ + i, mask=read_BJ, other=0)
        row_BJ = hash_rows(id_BJ, seed_J[None, :], count_J[None, :])
        at_BJ = tl.multiple_of(start_J[None, :] + stride_J[None, :] * row_BJ, (UNIT, UNIT))
        mask_BJZ = read_BJ[:, :, None] & is_JZ[None, :, :]
        part_BJZ = tl.load(flat_ptr + at_BJ[:, :, None] + z[None, None, :], mask=mask_BJZ, other=0)
        if HAS_WEIGHTS:
            w_BJ = tl.load(weights_ptr + first_BJ + i, mask=read_BJ, other=0)
            part_BJZ = part_BJZ * w_BJ[:, :, None]
        sum_BJZ += part_BJZ
    if HAS_SCALES:
        s_J = tl.load(scales_ptr + block_J, mask=is_J, other=0)
        sum_BJZ = sum_BJZ * s_J[None, :, None]
    to_BJ = tl.multiple_of(bag_B[:, None] * E + column_J[None, :], (UNIT, UNIT))
    mask_BJZ = inside_BJ[:, :, None] & is_JZ[None, :, :]
    tl.store(out_ptr + to_BJ[:, :, None] + z[None, None, :], sum_BJZ, mask=mask_BJZ)


@triton.jit
def _backward(
    grad_ptr,
    x_ptr,
    flat_ptr,
    scales_ptr,
    ids_ptr,
    offsets_ptr,
    table_ptr,
    weights_ptr,
    grad_flat_ptr,
    grad_scales_ptr,
    B,
    K,
    E,
    HAS_SCALES: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr,
    HAS_X: tl.constexpr,
    TO_FLAT: tl.constexpr,
    TO_SCALES: tl.constexpr,
    BAGS: tl.constexpr,
    BLOCKS: tl.constexpr,
    SIZE: tl.constexpr,
    UNIT: tl.constexpr,
):
    """Gradient of the floats by atomic addition; of the scales as one partial sum per tile.

    The forward gave ``x = scale * pool``, so the pool is looked up again only where there is no x
    or the scale is tiny.
    """
    bag_B = tl.program_id(0).to(tl.int64) * BAGS + tl.arange(0, BAGS)
    block_J = tl.program_id(1).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    is_J = block_J < K
    feature_J = tl.load(table_ptr + block_J, mask=is_J, other=0)
    seed_J = tl.load(table_ptr + K + block_J, mask=is_J, other=0)
    count_J = tl.load(table_ptr + 2 * K + block_J, mask=is_J, other=1)
    start_J = tl.load(table_ptr + 3 * K + block_J, mask=is_J, other=0)
    stride_J = tl.load(table_ptr + 4 * K + block_J, mask=is_J, other=0)
    width_J = tl.multiple_of(tl.load(table_ptr + 5 * K + block_J, mask=is_J, other=0), (UNIT,))
    column_J = tl.load(table_ptr + 6 * K + block_J, mask=is_J, other=0)
    inside_BJ = (bag_B < B)[:, None] & is_J[None, :]
    first_BJ, num_BJ = _bounds(offsets_ptr, feature_J, bag_B, B, inside_BJ)
    z = tl.arange(0, SIZE)
    is_JZ = z[None, :] < width_J[:, None]
    from_BJ = tl.multiple_of(bag_B[:, None] * E + column_J[None, :], (UNIT, UNIT))
    mask_BJZ = inside_BJ[:, :, None] & is_JZ[None, :, :]
    g_BJZ = tl.load(grad_ptr + from_BJ[:, :, None] + z[None, None, :], mask=mask_BJZ, other=0)
    scaled_BJZ = g_BJZ
    if HAS_SCALES:
        s_J = tl.load(scales_ptr + block_J, mask=is_J, other=0)
        scaled_BJZ = g_BJZ * s_J[None, :, None]
    inner_BJ = tl.zeros((BAGS, BLOCKS), dtype=grad_ptr.dtype.element_ty)
    longest = tl.max(tl.max(num_BJ, axis=1), axis=0)
    again_J = is_J
    if HAS_X:
        again_J = is_J & (tl.abs(s_J) < TINY)
        from_x_BJZ = mask_BJZ & (is_J & (again_J == 0))[None, :, None]
        x_BJZ = tl.load(x_ptr + from_BJ[:, :, None] + z[None, None, :], mask=from_x_BJZ, other=0)
        inner_BJ = tl.sum(x_BJZ * g_BJZ, axis=2) / tl.where(again_J, 1, s_J)[None, :]
        if not TO_FLAT:
            longest = tl.where(tl.max(again_J.to(tl.int32), axis=0) > 0, longest, 0)
    for i in range(longest):
        read_BJ = i < num_BJ
        id_BJ = tl.load(ids_ptr + first_BJ + i, mask=read_BJ, other=0)
        row_BJ = hash_rows(id_BJ, seed_J[None, :], count_J[None, :])
        at_BJ = tl.multiple_of(start_J[None, :] + stride_J[None, :] * row_BJ, (UNIT, UNIT))
        at_BJZ = at_BJ[:, :, None] + z[None, None, :]
        mask_BJZ = read_BJ[:, :, None] & is_JZ[None, :, :]
        if HAS_WEIGHTS:
            w_BJ = tl.load(weights_ptr + first_BJ + i, mask=read_BJ, other=0)
        if TO_FLAT:
            add_BJZ = scaled_BJZ
            if HAS_WEIGHTS:
                add_BJZ = scaled_BJZ * w_BJ[:, :, None]
            tl.atomic_add(grad_flat_ptr + at_BJZ, add_BJZ, mask=mask_BJZ, sem="relaxed")
        if TO_SCALES:
            part_BJZ = tl.load(flat_ptr + at_BJZ, mask=mask_BJZ & again_J[None, :, None], other=0)
            product_BJ = tl.sum(part_BJZ * g_BJZ, axis=2)
            if HAS_WEIGHTS:
                product_BJ = product_BJ * w_BJ
            inner_BJ += product_BJ
    if TO_SCALES:
        to_J = grad_scales_ptr + tl.program_id(0).to(tl.int64) * K + block_J
        tl.store(to_J, tl.sum(inner_BJ, axis=0), mask=is_J)


@triton.jit
def _backward_weights(
    grad_ptr,
    flat_ptr,
    scales_ptr,
    ids_ptr,
    offsets_ptr,
    table_ptr,
    ends_ptr,
    grad_weights_ptr,
    B,
    K,
    E,
    HAS_SCALES: tl.constexpr,
    BAGS: tl.constexpr,
    BLOCKS: tl.constexpr,
    SIZE: tl.constexpr,
    UNIT: tl.constexpr,
):
    """Gradient of the weights of a feature's ids: a sum over its blocks, in order."""
    bag_B = tl.program_id(0).to(tl.int64) * BAGS + tl.arange(0, BAGS)
    feature = tl.program_id(1).to(tl.int64)
    first_block = tl.load(ends_ptr + feature)
    end_block = tl.load(ends_ptr + feature + 1)
    is_B = bag_B < B
    first_B = tl.load(offsets_ptr + feature * B + bag_B, mask=is_B, other=0)
    num_B = tl.load(offsets_ptr + feature * B + bag_B + 1, mask=is_B, other=0) - first_B
    z = tl.arange(0, SIZE)
    for i in range(tl.max(num_B, axis=0)):
        read_B = i < num_B
        id_B = tl.load(ids_ptr + first_B + i, mask=read_B, other=0)
        inner_B = tl.zeros((BAGS,), dtype=grad_ptr.dtype.element_ty)
        for k in range(first_block, end_block, BLOCKS):
            block_J = k + tl.arange(0, BLOCKS)
            is_J = block_J < end_block
            seed_J = tl.load(table_ptr + K + block_J, mask=is_J, other=0)
            count_J = tl.load(table_ptr + 2 * K + block_J, mask=is_J, other=1)
            start_J = tl.load(table_ptr + 3 * K + block_J, mask=is_J, other=0)
            stride_J = tl.load(table_ptr + 4 * K + block_J, mask=is_J, other=0)
            width_J = tl.load(table_ptr + 5 * K + block_J, mask=is_J, other=0)
            width_J = tl.multiple_of(width_J, (UNIT,))
            column_J = tl.load(table_ptr + 6 * K + block_J, mask=is_J, other=0)
            row_BJ = hash_rows(id_B[:, None], seed_J[None, :], count_J[None, :])
            at_BJ = tl.multiple_of(start_J[None, :] + stride_J[None, :] * row_BJ, (UNIT, UNIT))
            from_BJ = tl.multiple_of(bag_B[:, None] * E + column_J[None, :], (UNIT, UNIT))
            is_JZ = z[None, :] < width_J[:, None]
            mask_BJZ = read_B[:, None, None] & is_JZ[None, :, :]
            at_BJZ = at_BJ[:, :, None] + z[None, None, :]
            from_BJZ = from_BJ[:, :, None] + z[None, None, :]
            part_BJZ = tl.load(flat_ptr + at_BJZ, mask=mask_BJZ, other=0)
            g_BJZ = tl.load(grad_ptr + from_BJZ, mask=mask_BJZ, other=0)
            product_BJ = tl.sum(part_BJZ * g_BJZ, axis=2)
            if HAS_SCALES:
                s_J = tl.load(scales_ptr + block_J, mask=is_J, other=0)
                product_BJ = product_BJ * s_J[None, :]
            inner_B += tl.sum(product_BJ, axis=1)
        tl.store(grad_weights_ptr + first_B + i, inner_B, mask=read_B)


@triton.jit
def _sum_runs(
    grad_ptr,
    ends_ptr,
    from_ptr,
    width_ptr,
    factor_ptr,
    out_ptr,
    SIZE: tl.constexpr,
):
    """Row u of the output: the sum over the run's pairs, in order, of what their bags got."""
    u = tl.program_id(0).to(tl.int64)
    z = tl.arange(0, SIZE)
    total = tl.zeros((SIZE,), dtype=grad_ptr.dtype.element_ty)
    for p in range(tl.load(ends_ptr + u), tl.load(ends_ptr + u + 1)):
        at = tl.load(from_ptr + p)
        mask = z < tl.load(width_ptr + p)
        g = tl.load(grad_ptr + at + z, mask=mask, other=0)
        total += g * tl.load(factor_ptr + p)
    tl.store(out_ptr + u * SIZE + z, total)


def _shape(block: int, unit: int) -> dict[str, int]:
    """Tile of a program: whole lines of neighbouring blocks, then as many bags as fit.

    UNIT: so many floats are read and written at a time, at most.
    """
    size = triton.next_power_of_2(max(1, block))
    blocks = max(1, LINE // size)
    tile = TILE if size > 1 else SINGLES
    bags = max(1, tile // (blocks * size))
    return {"BAGS": bags, "BLOCKS": blocks, "SIZE": size, "UNIT": math.gcd(unit, VECTOR)}


def forward(
    flat_N: Tensor,
    scales_K: Tensor | None,
    ids_V: Tensor,
    offsets: Tensor,
    table: Tensor,
    num_features: int,
    width: int,
    block: int,
    unit: int,
    weights_V: Tensor | None,
) -> Tensor:
    """See :func:`seo_kernels.block_bag`."""
    B, K = (offsets.numel() - 1) // num_features, table.shape[1]
    x_BE = flat_N.new_empty(B, width)
    if x_BE.numel():
        shape = _shape(block, unit)
        grid = (triton.cdiv(B, shape["BAGS"]), triton.cdiv(K, shape["BLOCKS"]))
        flat_N = flat_N.contiguous()
        _forward[grid](
            flat_N,
            flat_N if scales_K is None else scales_K.contiguous(),
            ids_V.contiguous(),
            offsets.contiguous(),
            table.contiguous(),
            flat_N if weights_V is None else weights_V.contiguous(),
            x_BE,
            B,
            K,
            width,
            HAS_SCALES=scales_K is not None,
            HAS_WEIGHTS=weights_V is not None,
            **shape,
            num_warps=WARPS,
        )
    return x_BE


def backward(
    grad_BE: Tensor,
    x_BE: Tensor | None,
    flat_N: Tensor,
    scales_K: Tensor | None,
    ids_V: Tensor,
    offsets: Tensor,
    table: Tensor,
    num_features: int,
    block: int,
    unit: int,
    weights_V: Tensor | None,
    sort: bool,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the floats, the scales and the weights of the ids; empty where not needed."""
    (B, E), K = grad_BE.shape, table.shape[1]
    grad_BE, flat_N, table = grad_BE.contiguous(), flat_N.contiguous(), table.contiguous()
    ids_V, offsets = ids_V.contiguous(), offsets.contiguous()
    needs_flat, needs_scales, needs_weights = needs
    shape = _shape(block, unit)
    tiles = triton.cdiv(B, shape["BAGS"])
    grad_N = flat_N.new_zeros(flat_N.numel() if needs_flat else 0)
    grad_TK = flat_N.new_empty((tiles, K) if needs_scales else (0, 0))
    grad_V = flat_N.new_zeros(ids_V.numel() if needs_weights else 0)
    if grad_BE.numel() == 0:
        return grad_N, grad_TK.sum(0), grad_V
    scales = flat_N if scales_K is None else scales_K.contiguous()
    weights = flat_N if weights_V is None else weights_V.contiguous()
    if needs_flat and sort:
        pairs = _pairs(scales_K, ids_V, offsets, table, num_features, E, weights_V)
        _add_sorted(grad_BE, grad_N, *pairs, size=shape["SIZE"])
    if needs_scales or (needs_flat and not sort):
        has_x = needs_scales and x_BE is not None and scales_K is not None
        _backward[(tiles, triton.cdiv(K, shape["BLOCKS"]))](
            grad_BE,
            x_BE.contiguous() if x_BE is not None else grad_BE,
            flat_N,
            scales,
            ids_V,
            offsets,
            table,
            weights,
            grad_N,
            grad_TK,
            B,
            K,
            E,
            HAS_SCALES=scales_K is not None,
            HAS_WEIGHTS=weights_V is not None,
            HAS_X=has_x,
            TO_FLAT=needs_flat and not sort,
            TO_SCALES=needs_scales,
            **shape,
            num_warps=WARPS,
        )
    if needs_weights:
        features = torch.arange(num_features + 1, device=table.device)
        ends = torch.searchsorted(table[0].contiguous(), features)
        _backward_weights[(tiles, num_features)](
            grad_BE,
            flat_N,
            scales,
            ids_V,
            offsets,
            table,
            ends,
            grad_V,
            B,
            K,
            E,
            HAS_SCALES=scales_K is not None,
            **shape,
            num_warps=WARPS,
        )
    return grad_N, grad_TK.sum(0), grad_V


def _pairs(
    scales_K: Tensor | None,
    ids_V: Tensor,
    offsets: Tensor,
    table: Tensor,
    num_features: int,
    E: int,
    weights_V: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of every (block, id): first float read, place in grad_BE, width, factor; sorted by float."""
    feature_K, seed_K, count_K, start_K, stride_K, width_K, column_K = table
    B = (offsets.numel() - 1) // num_features
    ends = offsets[::B]
    sizes = ends[feature_K + 1] - ends[feature_K]
    block_P = torch.arange(table.shape[1], device=table.device).repeat_interleave(sizes)
    place_P = torch.arange(block_P.numel(), device=table.device)
    id_P = place_P - (sizes.cumsum(0) - sizes)[block_P] + ends[feature_K][block_P]
    rows_P = hash_rows_reference(ids_V[id_P], seed_K[block_P], count_K[block_P])
    at_P, order = (start_K[block_P] + stride_K[block_P] * rows_P).sort(stable=True)
    block_P, id_P = block_P[order], id_P[order]
    bag_P = torch.searchsorted(offsets, id_P, right=True) - 1
    from_P = (bag_P % B) * E + column_K[block_P]
    factor_P = torch.ones(1, device=table.device) if scales_K is None else scales_K[block_P]
    if weights_V is not None:
        factor_P = factor_P * weights_V[id_P]
    return at_P, from_P, width_K[block_P], factor_P.expand(block_P.shape).contiguous()


def _add_sorted(
    grad_BE: Tensor,
    grad_N: Tensor,
    at_P: Tensor,
    from_P: Tensor,
    width_P: Tensor,
    factor_P: Tensor,
    size: int,
) -> None:
    """Add to ``grad_N`` in an order that depends on nothing but the batch.

    Pairs that start at one float are summed by one program in their order. Runs that start at
    different floats may overlap (ROBE), so the sums are added a column at a time: within a
    column no two of them meet.
    """
    if at_P.numel() == 0:
        return
    start_U, count_U = torch.unique_consecutive(at_P, return_counts=True)
    ends = torch.nn.functional.pad(count_U.cumsum(0), (1, 0))
    sums_UZ = grad_BE.new_empty(start_U.numel(), size)
    _sum_runs[(start_U.numel(),)](grad_BE, ends, from_P, width_P, factor_P, sums_UZ, SIZE=size)
    z = torch.arange(size, device=grad_N.device)
    if bool((start_U.diff() >= size).all()) and int(start_U[-1]) + size <= grad_N.numel():
        grad_N[start_U[:, None] + z] = sums_UZ
        return
    # Sums are zero beyond the width of a run, and there the array may end.
    inside = torch.searchsorted(start_U, grad_N.numel() - z).tolist()
    for column, n in enumerate(inside):
        grad_N[start_U[:n] + column] += sums_UZ[:n, column]
