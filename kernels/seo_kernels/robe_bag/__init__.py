"""``robe_bag``: embeddings made of blocks of one flat array: ROBE-Z, and HashedNet with Z = 1.

Letters: B bags of one feature, F features, V ids, J blocks, Z floats of a block, E floats of an
output row, N floats of the array.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from seo_kernels.block_bag import Blocks, block_bag, blocks

__all__ = ["robe_bag", "robe_blocks"]


def robe_blocks(
    seeds: Sequence[Sequence[int]],
    starts: Sequence[int],
    sizes: Sequence[int],
    dims: Sequence[int],
    block: int,
) -> Blocks:
    """The blocks of every feature's embedding.

    Multiplexed is one array that all features read (``starts`` zero, ``sizes`` N); otherwise each
    feature has a part of its own.

    Args:
        seeds: of each feature, one per block: ``ceil(dim / block)``.
        starts, sizes: the part of the array that each feature reads, in floats.
        dims: width of each feature; its last block may be cut short.
        block: Z.

    Raises:
        ValueError: a number is out of range; a feature's part is shorter than one of its blocks.
    """
    features, first, counts, widths = [], [], [], []
    for f, (own, start, size, dim) in enumerate(zip(seeds, starts, sizes, dims, strict=True)):
        if block < 1 or dim < 1 or len(own) != -(-dim // block):
            raise ValueError(
                f"feature {f} has {len(own)} seeds; dim {dim} in blocks of {block} needs "
                f"{-(-dim // max(1, block))}"
            )
        longest = min(block, dim)
        if size < longest:
            raise ValueError(
                f"feature {f} reads {size} floats; a block of {longest} needs as many at least"
            )
        for j in range(len(own)):
            features.append(f)
            first.append(start)
            counts.append(size - longest + 1)
            widths.append(min(block, dim - j * block))
    return blocks(
        features=features,
        seeds=[seed for own in seeds for seed in own],
        counts=counts,
        starts=first,
        strides=[1] * len(features),
        widths=widths,
        num_features=len(dims),
    )


def robe_bag(
    array_N: Tensor,
    ids_V: Tensor,
    offsets: Tensor,
    blocks: Blocks,
    weights_V: Tensor | None = None,
    deterministic: bool = False,
) -> Tensor:
    """``x[b, (f, i)] = sum_{v in bag(f, b)} w_v A_f[h_{f, floor(i / Z)}(id_v) + i mod Z]``.

    ``h_{f, j}(id) = hash_rows(id, seed_{f, j}, size_f - Z + 1)``: a block lies in one piece.

    Args:
        array_N: all floats; A_f is feature f's part of it.
        ids_V, offsets, weights_V, deterministic: see :func:`seo_kernels.block_bag`.
        blocks: from :func:`robe_blocks`.

    Returns:
        (B, E). Gradients reach the array and the weights.
    """
    return block_bag(array_N, ids_V, offsets, blocks, None, weights_V, deterministic)
