"""``block_bag``: pooled lookups of runs of consecutive floats, side by side in one output row.

Chunks of tables (:func:`seo_kernels.chunk_bag`) and blocks of a flat array
(:func:`seo_kernels.robe_bag`) differ only in where a block may start, so one op serves both.

Letters: B bags of one feature, F features, V ids, K blocks, E floats of an output row, N floats.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seo_kernels import native
from seo_kernels.block_bag import reference
from seo_kernels.block_bag.blocks import Blocks, blocks

__all__ = ["Blocks", "block_bag", "blocks"]


def block_bag(
    flat_N: Tensor | list[Tensor],
    ids_V: Tensor,
    offsets: Tensor,
    blocks: Blocks,
    scales_K: Tensor | None = None,
    weights_V: Tensor | None = None,
    deterministic: bool = False,
) -> Tensor:
    """Every block of every bag, pooled and scaled, in the block's columns of the output.

    ``x[b, column_k : column_k + width_k] = s_k sum_{v in bag(feature_k, b)} w_v
    flat[at : at + width_k]`` with ``at = start_k + stride_k * hash_rows(id_v, seed_k, count_k)``.

    Args:
        flat_N: the parameters; float32 runs the fast kernels, other types the reference. A list
            of tensors of any shapes stands for their floats one after the other, a block reads
            from one of them; on a CPU they are read where they are, else copied.
        ids_V: int64, feature after feature, bag after bag, not negative.
        offsets: (F * B + 1), bag b of feature f is ``ids_V[offsets[i] : offsets[i + 1]]`` with
            i = f B + b.
        blocks: what is read; its table is on the device of ``flat_N``.
        scales_K: s, one factor per block; None for ones.
        weights_V: w, one factor per id; None for ones.
        deterministic: on a GPU, sort instead of adding atomically in the backward; also chosen by
            ``torch.use_deterministic_algorithms``. On a CPU the sums have one order anyway, for
            any number of threads.

    Returns:
        (B, E) of the type of ``flat_N``; empty bags give zeros. Gradients reach ``flat_N``,
        ``scales_K`` and ``weights_V``.

    Raises:
        ValueError: shapes or types do not fit; on a CPU also offsets and blocks that would read
            outside of the tensors (a GPU does not look).
    """
    offsets = offsets.to(torch.int64)
    if isinstance(flat_N, list):
        parts = flat_N if len(flat_N) > 1 else [flat_N[0].reshape(-1)]
    else:
        parts = [flat_N]
    if _calls_c(parts):
        shape = (blocks.num_features, blocks.width)
        return _InC.apply(scales_K, ids_V, offsets, blocks.table, *shape, weights_V, *parts)
    return _block_bag(
        _one_after_the_other(parts),
        scales_K,
        ids_V,
        offsets,
        blocks.table,
        blocks.num_features,
        blocks.width,
        blocks.block,
        blocks.unit,
        weights_V,
        deterministic or torch.are_deterministic_algorithms_enabled(),
    )


class _InC(torch.autograd.Function):
    """The same in C without the dispatcher, whose ways from and to Python take longer than C."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, scales_K, ids_V, offsets, table, num_features, width, weights_V, *parts
    ):
        first = parts[0] if len(parts) == 1 else parts[0].view(-1)
        _check(first, scales_K, ids_V, offsets, table, num_features, weights_V)
        x_BE = native.BlockLookup(
            parts, scales_K, ids_V, offsets, table, num_features, width, weights_V
        ).forward()
        kept_BE = x_BE if ctx.needs_input_grad[0] else None
        ctx.save_for_backward(kept_BE, scales_K, ids_V, offsets, table, weights_V, *parts)
        ctx.num_features = num_features
        return x_BE

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BE):  # type: ignore[no-untyped-def]
        x_BE, scales_K, ids_V, offsets, table, weights_V, *parts = ctx.saved_tensors
        of_scales, *_, of_weights = ctx.needs_input_grad[:7]
        needs = (any(ctx.needs_input_grad[7:]), of_scales, of_weights)
        read = (parts, scales_K, ids_V, offsets, table, ctx.num_features)
        grads = _backward_in_c(grad_BE, x_BE, *read, weights_V, needs)
        of_N, of_K, of_V = (g if need else None for g, need in zip(grads, needs, strict=True))
        of_parts = [None] * len(parts)
        if of_N is not None:
            pieces = of_N.split([part.numel() for part in parts])
            of_parts = [g.view_as(part) for g, part in zip(pieces, parts, strict=True)]
        return of_K, None, None, None, None, None, of_V, *of_parts


@torch.library.custom_op("seo_kernels::block_bag", mutates_args=(), device_types="cpu")
def _block_bag(
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
    sort: bool,
) -> Tensor:
    """See :func:`block_bag`; ``block`` and ``unit`` are those of :class:`Blocks`, for Triton."""
    _check(flat_N, scales_K, ids_V, offsets, table, num_features, weights_V)
    if not _runs_in_c(flat_N):
        return reference.forward(
            flat_N, scales_K, ids_V, offsets, table, num_features, width, weights_V
        )
    lookup = native.BlockLookup(
        [flat_N], scales_K, ids_V, offsets, table, num_features, width, weights_V
    )
    return lookup.forward()


@_block_bag.register_kernel("cuda")
def _(
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
    sort: bool,
) -> Tensor:
    _check(flat_N, scales_K, ids_V, offsets, table, num_features, weights_V)
    if not _runs_in_triton(flat_N):
        return reference.forward(
            flat_N, scales_K, ids_V, offsets, table, num_features, width, weights_V
        )
    from seo_kernels.block_bag import kernel

    return kernel.forward(
        flat_N, scales_K, ids_V, offsets, table, num_features, width, block, unit, weights_V
    )


@_block_bag.register_fake
def _(
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
    sort: bool,
) -> Tensor:
    return flat_N.new_empty((offsets.shape[0] - 1) // num_features, width)


@torch.library.custom_op("seo_kernels::block_bag_backward", mutates_args=(), device_types="cpu")
def _backward(
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
    needs_flat: bool,
    needs_scales: bool,
    needs_weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the floats, the scales and the weights of the ids; empty where not needed.

    ``x_BE``, what the forward gave, is read for the gradient of the scales; None looks it up again.
    """
    needs = (needs_flat, needs_scales, needs_weights)
    if _runs_in_c(flat_N):
        return _backward_in_c(
            grad_BE, x_BE, [flat_N], scales_K, ids_V, offsets, table, num_features, weights_V, needs
        )
    grads = reference.backward(
        grad_BE, flat_N, scales_K, ids_V, offsets, table, num_features, weights_V
    )
    return _kept(grads, needs)


@_backward.register_kernel("cuda")
def _(
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
    needs_flat: bool,
    needs_scales: bool,
    needs_weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    needs = (needs_flat, needs_scales, needs_weights)
    if not _runs_in_triton(flat_N):
        grads = reference.backward(
            grad_BE, flat_N, scales_K, ids_V, offsets, table, num_features, weights_V
        )
        return _kept(grads, needs)
    from seo_kernels.block_bag import kernel

    return kernel.backward(
        grad_BE,
        x_BE,
        flat_N,
        scales_K,
        ids_V,
        offsets,
        table,
        num_features,
        block,
        unit,
        weights_V,
        sort,
        needs,
    )


@_backward.register_fake
def _(
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
    needs_flat: bool,
    needs_scales: bool,
    needs_weights: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        flat_N.new_empty(flat_N.shape[0] if needs_flat else 0),
        flat_N.new_empty(table.shape[1] if needs_scales else 0),
        flat_N.new_empty(ids_V.shape[0] if needs_weights else 0),
    )


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    flat_N, scales_K, ids_V, offsets, table, num_features, _, block, unit, weights_V, sort = inputs
    x_BE = output if scales_K is not None and scales_K.requires_grad else None
    ctx.save_for_backward(x_BE, flat_N, scales_K, ids_V, offsets, table, weights_V)
    ctx.settings = num_features, block, unit, sort


def _autograd(ctx, grad_BE):  # type: ignore[no-untyped-def]
    *tensors, weights_V = ctx.saved_tensors
    num_features, block, unit, sort = ctx.settings
    needs = [ctx.needs_input_grad[i] for i in (0, 1, 9)]
    grads = _backward(grad_BE, *tensors, num_features, block, unit, weights_V, sort, *needs)
    of_N, of_K, of_V = (g if need else None for g, need in zip(grads, needs, strict=True))
    return of_N, of_K, None, None, None, None, None, None, None, of_V, None


_block_bag.register_autograd(_autograd, setup_context=_setup_context)


def _backward_in_c(
    grad_BE: Tensor,
    x_BE: Tensor | None,
    parts: Sequence[Tensor],
    scales_K: Tensor | None,
    ids_V: Tensor,
    offsets: Tensor,
    table: Tensor,
    num_features: int,
    weights_V: Tensor | None,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    lookup = native.BlockLookup(
        parts, scales_K, ids_V, offsets, table, num_features, grad_BE.shape[1], weights_V
    )
    of_flat, of_scales, of_weights = needs
    grad_BE = grad_BE.contiguous()
    grad_N = lookup.backward(grad_BE) if of_flat else grad_BE.new_empty(0)
    grad_K, grad_V = grad_BE.new_empty(0), grad_BE.new_empty(0)
    if of_scales or of_weights:
        grad_K, grad_V = lookup.backward_scales(grad_BE, x_BE, of_weights)
    return _kept((grad_N, grad_K, grad_V), needs)


def _one_after_the_other(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts]) if len(parts) > 1 else parts[0]


def _calls_c(parts: Sequence[Tensor]) -> bool:
    """Whether these are plain tensors that the C kernels read, and nothing traces the call."""
    return not torch.compiler.is_compiling() and all(
        type(part) in (Tensor, torch.nn.Parameter)
        and part.device.type == "cpu"
        and _runs_in_c(part)
        for part in parts
    )


def _runs_in_c(flat_N: Tensor) -> bool:
    return flat_N.dtype == torch.float32 and native.library() is not None


def _runs_in_triton(flat_N: Tensor) -> bool:
    return flat_N.dtype in (torch.float32, torch.float64)


def _kept(
    grads: tuple[Tensor, Tensor, Tensor], needs: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """An op returns tensors only: an empty one stands for a gradient that nobody asked for."""
    of_N, of_K, of_V = (g if n else g.new_empty(0) for g, n in zip(grads, needs, strict=True))
    return of_N, of_K, of_V


def _check(
    flat_N: Tensor,
    scales_K: Tensor | None,
    ids_V: Tensor,
    offsets: Tensor,
    table: Tensor,
    num_features: int,
    weights_V: Tensor | None,
) -> None:
    if flat_N.dim() != 1 or not flat_N.is_floating_point():
        raise ValueError(f"flat_N is {flat_N.dtype} with {flat_N.dim()} dimensions; floats, one")
    for name, tensor, size in (
        ("scales_K", scales_K, table.shape[1]),
        ("weights_V", weights_V, ids_V.numel()),
    ):
        if tensor is not None and (tensor.dtype, tensor.shape) != (flat_N.dtype, (size,)):
            raise ValueError(
                f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}; "
                f"it must be {flat_N.dtype} like flat_N, of shape ({size},)"
            )
    for name, tensor in (
        ("ids_V", ids_V),
        ("offsets", offsets),
        ("table", table),
        ("scales_K", scales_K),
        ("weights_V", weights_V),
    ):
        if tensor is not None and tensor.device != flat_N.device:
            raise ValueError(f"{name} is on {tensor.device}; flat_N is on {flat_N.device}")
    if ids_V.dtype != torch.int64 or ids_V.dim() != 1:
        raise ValueError(f"ids_V is {ids_V.dtype} with {ids_V.dim()} dimensions; int64 with one")
    if num_features < 1 or offsets.numel() < 1 or (offsets.numel() - 1) % num_features:
        raise ValueError(
            f"{offsets.numel()} offsets are not one more than a multiple of {num_features} features"
        )
    if table.dtype != torch.int64 or table.dim() != 2 or table.shape[0] != 7:
        raise ValueError(f"table is {table.dtype} of shape {tuple(table.shape)}; int64 (7, K)")
