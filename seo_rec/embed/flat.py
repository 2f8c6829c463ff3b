"""Flat embeddings: blocks of one array of floats, for ROBE-Z and HashedNet.

Letters: B batch, J blocks of a lookup, Z floats of a block, E sum of widths, N floats.
"""

from __future__ import annotations

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from seo_kernels.block_bag import Blocks, block_bag, blocks
from seo_rec.embed.remap import chosen
from seo_rec.policy import Policy
from seo_rec.policy.addresses import block_seeds


class FlatArrays(nn.Module):
    """Every flat array of a policy as one parameter, and every lookup of it in one call.

    ``x[i] = sum_{v in bag} w_v A[h_{floor(i / Z)}(v) + i mod Z]`` for a lookup of blocks of Z
    floats in the array A of size N: ``h_j(v) = hash_rows(v, seed_j, N - Z + 1)``, so that a block
    lies in one piece.

    The parameter is a column: an optimizer that keeps one number per row keeps one per float.

    Args:
        policy: the arrays and their lookups.
        init_scale: floats start uniform in [-init_scale, init_scale].
        device: where the array is made.
    """

    def __init__(
        self, policy: Policy, init_scale: float, device: torch.device | None = None
    ) -> None:
        super().__init__()
        start_of, size = {}, 0
        for a in policy.arrays:
            start_of[a.name] = size
            size += a.size
        self.weight = nn.Parameter(torch.empty(size, 1, device=device))
        self.init_scale = init_scale
        self.reset_parameters()
        read = [(f.name, k) for f in policy.features for k in f.lookups if k.address == "blocks"]
        self.names = list(dict.fromkeys(name for name, _ in read))
        # Each block: its feature, seed, first floats to choose from, start of the array, width.
        found = [
            (
                self.names.index(name),
                seed,
                policy.array(k.table).size - k.block + 1,
                start_of[k.table],
                min(k.block, k.width - j * k.block),
            )
            for name, k in read
            for j, seed in enumerate(block_seeds(k))
        ]
        features, seeds, counts, starts, widths = (
            list(column) for column in zip(*found, strict=True)
        )
        made = blocks(features, seeds, counts, starts, [1] * len(found), widths, len(self.names))
        self.register_buffer("table", made.table, persistent=False)
        self.width, self.widest = made.width, made.block

    def reset_parameters(self) -> None:
        """Also called by TorchRec, where it gives memory to a module made on ``meta``."""
        if self.weight.device.type != "meta":
            nn.init.uniform_(self.weight, -self.init_scale, self.init_scale)

    def forward(self, features: KeyedJaggedTensor) -> torch.Tensor:
        """Ids of features -> vectors of all lookups of blocks side by side, float32 (B, E)."""
        keys = features.keys()
        if keys != self.names:
            if missing := [n for n in self.names if n not in keys]:
                raise KeyError(f"the batch lacks features {missing}; it has {keys}")
            features = chosen(features, self.names)
        read = Blocks(self.get_buffer("table"), len(self.names), self.width, self.widest)
        return block_bag(
            self.weight.view(-1),
            features.values(),
            features.offsets(),
            read,
            None,
            features.weights_or_none(),
        )
