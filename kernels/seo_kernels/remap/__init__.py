"""``remap``: from ids to row numbers, all lookups of all features in one pass.

Letters: F features, V ids, K lookups, W row numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seo_kernels import native
from seo_kernels.remap import reference
from seo_kernels.remap.reference import hash_rows, mix

__all__ = ["hash_rows", "mix", "remap"]


@torch.library.custom_op("seo_kernels::remap", mutates_args=(), device_types="cpu")
def remap(
    ids_V: Tensor,
    starts: Sequence[int],
    features: Sequence[int],
    seeds_K: Tensor,
    rows_K: Tensor,
    shifts_K: Tensor | None = None,
) -> Tensor:
    """Row numbers of every id under every lookup of its feature, lookup after lookup.

    ``rows_W = Concat_k [shift_k + floor((mix(id xor seed_k) mod 2^32) * rows_k / 2^32)
    for id in ids_V[starts[features[k]] : starts[features[k] + 1]]]``

    Args:
        ids_V: int64, feature after feature, not negative.
        starts: F + 1 numbers, where the ids of each feature begin and end.
        features: K numbers in [0, F), the feature that a lookup reads.
        seeds_K: int64, not negative.
        rows_K: int64, in [1, 2^31]; 2^32 gives the hash itself as a number of 32 bits with a sign,
            in [-2^31, 2^31).
        shifts_K: int64, added to the row numbers; None for zeros.

    Returns:
        int64 (W), W = the sum over lookups of the ids of their features; equal to the bit on
        every device.

    Raises:
        ValueError: shapes, types or ``starts`` do not fit together.
    """
    _check(ids_V, starts, features, seeds_K, rows_K, shifts_K)
    if native.library() is None:
        return reference.remap(ids_V, starts, features, seeds_K, rows_K, shifts_K)
    return native.remap(ids_V, starts, features, seeds_K, rows_K, shifts_K)


@remap.register_kernel("cuda")
def _(
    ids_V: Tensor,
    starts: Sequence[int],
    features: Sequence[int],
    seeds_K: Tensor,
    rows_K: Tensor,
    shifts_K: Tensor | None = None,
) -> Tensor:
    from seo_kernels.remap import kernel

    _check(ids_V, starts, features, seeds_K, rows_K, shifts_K)
    shifts_K = None if shifts_K is None else shifts_K.contiguous()
    return kernel.remap(
        ids_V.contiguous(), starts, features, seeds_K.contiguous(), rows_K.contiguous(), shifts_K
    )


@remap.register_fake
def _(
    ids_V: Tensor,
    starts: Sequence[int],
    features: Sequence[int],
    seeds_K: Tensor,
    rows_K: Tensor,
    shifts_K: Tensor | None = None,
) -> Tensor:
    return ids_V.new_empty(sum(starts[f + 1] - starts[f] for f in features))


def _check(
    ids_V: Tensor,
    starts: Sequence[int],
    features: Sequence[int],
    seeds_K: Tensor,
    rows_K: Tensor,
    shifts_K: Tensor | None,
) -> None:
    for name, tensor in (("seeds_K", seeds_K), ("rows_K", rows_K), ("shifts_K", shifts_K)):
        if tensor is not None and (tensor.dtype, tensor.shape) != (torch.int64, (len(features),)):
            raise ValueError(
                f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}; "
                f"it must be int64 of shape ({len(features)},), one number per lookup"
            )
        if tensor is not None and tensor.device != ids_V.device:
            raise ValueError(f"{name} is on {tensor.device}; ids_V is on {ids_V.device}")
    if ids_V.dtype != torch.int64 or ids_V.dim() != 1:
        raise ValueError(f"ids_V is {ids_V.dtype} with {ids_V.dim()} dimensions; int64 with one")
    if not starts or starts[0] < 0 or starts[-1] > ids_V.numel() or list(starts) != sorted(starts):
        raise ValueError(f"starts {list(starts)} must rise from 0 to at most {ids_V.numel()} ids")
    if features and not 0 <= min(features) <= max(features) < len(starts) - 1:
        raise ValueError(f"features {list(features)} must be in [0, {len(starts) - 1})")
