"""All lookups of tables that are read by hash alone in one pass of a kernel.

Letters: B batch, K lookups, E sum of widths.
"""

from __future__ import annotations

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from seo_kernels import Blocks, chunk_bag, chunk_blocks
from seo_rec.embed.remap import row_lookups
from seo_rec.policy import Policy


class ChunkBag(nn.Module):
    """All lookups of an unsharded collection in one pass of :func:`seo_kernels.chunk_bag`.

    It takes the place of :class:`Remap`, :class:`TableBatched` and the product with the scales of a
    gate: ids are hashed where they are used, no row number and no unscaled vector is stored.

    Args:
        policy: its tables are read by hash alone, and pooled before anything is combined.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        index = {t.name: i for i, t in enumerate(policy.tables)}
        made = chunk_blocks(
            [t.num_rows for t in policy.tables],
            [t.dim for t in policy.tables],
            [(index[k.table], i, k.seed) for _, i, k in row_lookups(policy)],
            len(policy.features),
        )
        self.register_buffer("table", made.table, persistent=False)
        self.shape = (made.num_features, made.width, made.block, made.unit)

    def forward(
        self,
        weights: list[torch.Tensor],
        features: KeyedJaggedTensor,
        scales_K: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``x_BE`` = pooled and scaled rows of every lookup side by side, float32 (B, E)."""
        return chunk_bag(
            weights,
            features.values(),
            features.offsets(),
            Blocks(self.get_buffer("table"), *self.shape),
            scales_K,
            features.weights_or_none(),
        )
