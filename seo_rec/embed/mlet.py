"""MLET's second layer: see :class:`seo_rec.methods.Mlet`.

Letters: V bags, E sum of the widths of all lookups, n rows, k inner dimension, d width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from seo_rec.embed.remap import row_lookups
from seo_rec.methods import Mlet, two_layer_tables
from seo_rec.policy import Policy


class Factors(nn.Module):
    """``x W2`` for every lookup, W2 that of its table; tables of one layer pass.

    It stands right behind the lookup, where a bag's rows are summed: ``(sum_i w_i W1[i]) W2 =
    sum_i w_i (W1 W2)[i]``, and an empty bag gives zeros. What the policy does with the rows
    (products, weighted sums, projections) comes after it.

    Args:
        policy: as it is served.
        mlet: k, and the standard deviation of the initial W2.
        keys: the module names of the policy's tables.
        device: where the factors are made.
    """

    def __init__(
        self, policy: Policy, mlet: Mlet, keys: Sequence[str], device: torch.device | None = None
    ) -> None:
        super().__init__()
        wide = two_layer_tables(policy)
        key_of = dict(zip([t.name for t in policy.tables], keys, strict=True))
        self.linear = nn.ModuleDict(
            {
                key_of[t.name]: nn.Linear(mlet.dim, t.dim, bias=False, device=device)
                for t in policy.tables
                if t.name in wide
            }
        )
        for weight in self.linear.parameters():
            nn.init.normal_(weight, std=mlet.std)
        read = [k.table for _, _, k in row_lookups(policy)]
        self.reads = [key_of[name] for name in read]
        self.widths = [mlet.dim if name in wide else policy.table(name).dim for name in read]

    def forward(self, inner_VE: torch.Tensor) -> torch.Tensor:
        """Rows of W1 of all lookups side by side -> rows of W."""
        parts = zip(self.reads, inner_VE.split(self.widths, dim=1), strict=True)
        return torch.cat(
            [self.linear[key](x_VD) if key in self.linear else x_VD for key, x_VD in parts], dim=1
        )

    def collapsed(self, key: str, inner_nk: torch.Tensor) -> torch.Tensor:
        """The table of one layer, ``W1 W2`` (n, d), or what is given if it has one already."""
        return self.linear[key](inner_nk) if key in self.linear else inner_nk
