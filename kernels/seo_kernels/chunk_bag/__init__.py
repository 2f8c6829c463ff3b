"""``chunk_bag``: the lookup of SEO in one pass over the batch.

It takes the place of remapping, looking up, regrouping and multiplying: ids are hashed where they
are used, and each chunk is scaled and written where it belongs in the output.

Letters: B bags of one feature, F features, V ids, K lookups (chosen chunks), E floats of an output
row, N floats.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from seo_kernels.block_bag import Blocks, block_bag, blocks

__all__ = ["chunk_bag", "chunk_blocks"]


def chunk_blocks(
    rows: Sequence[int],
    dims: Sequence[int],
    lookups: Sequence[tuple[int, int, int]],
    num_features: int,
) -> Blocks:
    """The chosen chunks of all features, for chunk tables that lie one after the other.

    Args:
        rows, dims: of every table, in the order in which they lie in ``flat_N``.
        lookups: table, feature and seed of each chosen chunk; features rise.
        num_features: F.

    Raises:
        ValueError: a number is out of range.
    """
    starts = [0]
    for r, d in zip(rows, dims, strict=True):
        starts.append(starts[-1] + r * d)
    tables = [table for table, _, _ in lookups]
    widths = [dims[t] for t in tables]
    return blocks(
        features=[feature for _, feature, _ in lookups],
        seeds=[seed for _, _, seed in lookups],
        counts=[rows[t] for t in tables],
        starts=[starts[t] for t in tables],
        strides=widths,
        widths=widths,
        num_features=num_features,
    )


def chunk_bag(
    flat_N: Tensor | list[Tensor],
    ids_V: Tensor,
    offsets: Tensor,
    blocks: Blocks,
    attention_K: Tensor | None = None,
    weights_V: Tensor | None = None,
    deterministic: bool = False,
) -> Tensor:
    """``x[b] = Concat_k(a_k sum_{v in bag(f_k, b)} w_v T_k[hash_rows(id_v, seed_k, rows_k)])``.

    Args:
        flat_N: the chunk tables, one after the other, or the list of them.
        ids_V, offsets, weights_V, deterministic: see :func:`seo_kernels.block_bag`.
        blocks: from :func:`chunk_blocks`.
        attention_K: a, the attention of each lookup; None for ones (after the search).

    Returns:
        (B, E). Gradients reach the tables, the attention and the weights.
    """
    return block_bag(flat_N, ids_V, offsets, blocks, attention_K, weights_V, deterministic)
