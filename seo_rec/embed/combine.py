"""From the looked-up vectors of every feature to its part of ``x_BE``.

Letters: B batch, V bags of one id each (see :func:`one_id_bags`), E sum of widths, D a width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from seo_rec.policy import Feature, Policy


def combines_ids(feature: Feature) -> bool:
    """Whether the vectors of each id are combined before the ids of a bag are summed.

    Sums and products do not commute: the product of two sums is not the sum of the products. For
    ``concat`` and ``sum`` the order makes no difference, and the tables sum the bags.
    """
    return feature.combine == "weighted_sum" or (
        feature.combine == "mul" and len(feature.lookups) > 1
    )


def one_id_bags(lengths_FB: torch.Tensor) -> bool:
    """Whether features that combine ids must be looked up in bags of one id each.

    Args:
        lengths_FB: bag lengths of the features of which :func:`combines_ids` holds.
    """
    return bool((lengths_FB > 1).any())


class Combine(nn.Module):
    """Joins the lookups of every feature as the policy says; see :class:`seo_rec.policy.Feature`.

    ``x_f[b] = sum_{i in bag(b, f)} w_i * combine_k(v_k(i))``, zeros for an empty bag. Where the
    tables have summed the bags already, that is ``combine_k(sum_i w_i * v_k(i))``.

    Args:
        policy: the features and their lookups.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.features = policy.features
        self.per_id = [f.name for f in policy.features if combines_ids(f)]
        # Of each feature its lookups: whether of blocks, and the width.
        self.reads = [
            [(k.address == "blocks", policy.lookup_width(k)) for k in f.all_lookups]
            for f in policy.features
        ]
        self.widths = {
            kind: [width for reads in self.reads for of_blocks, width in reads if of_blocks == kind]
            for kind in (False, True)
        }

    def forward(
        self,
        rows_VE: torch.Tensor | None,
        blocks_BE: torch.Tensor | None,
        features: KeyedJaggedTensor,
    ) -> torch.Tensor:
        """``x_BE`` of the lookups side by side.

        Args:
            rows_VE: vectors of all lookups of tables, those of a feature's importance weights
                after its others; V is B, or more where :func:`one_id_bags` holds here or in
                another process.
            blocks_BE: vectors of all lookups of blocks.
            features: the batch of ids that was looked up.
        """
        batch = features.stride()
        bags = {name: features[name] for name in self.per_id}
        split = bool(bags) and one_id_bags(torch.stack([b.lengths() for b in bags.values()]))
        joined = []
        # the gradient of a split is written once, that of a slice is as wide as its source
        parts = {
            of_blocks: source.split(self.widths[of_blocks], dim=1)
            for of_blocks, source in ((False, rows_VE), (True, blocks_BE))
            if source is not None
        }
        taken = {False: 0, True: 0}
        for f, reads in zip(self.features, self.reads, strict=True):
            vectors = []
            for of_blocks, _ in reads:
                vectors.append(parts[of_blocks][taken[of_blocks]])
                taken[of_blocks] += 1
            if f.name in bags:
                combined = _product(vectors) if f.weights is None else _weighted(vectors)
                joined.append(_sum_bags(combined, bags[f.name], split))
                continue
            vectors = [v[:batch] for v in vectors]
            if f.combine == "sum":
                joined.append(torch.stack(vectors, dim=1).sum(1))
            else:
                joined += vectors
        return torch.cat(joined, dim=1)


def _product(vectors: Sequence[torch.Tensor]) -> torch.Tensor:
    total = vectors[0]
    for vector in vectors[1:]:
        total = total * vector
    return total


def _weighted(vectors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of all but the last, which holds their factors."""
    *vectors, factors = vectors
    total = vectors[0] * factors[:, :1]
    for j, vector in enumerate(vectors[1:], start=1):
        total = total + vector * factors[:, j : j + 1]
    return total


def _sum_bags(vectors_VD: torch.Tensor, bags: JaggedTensor, split: bool) -> torch.Tensor:
    """Weighted sums (B, D) of the vectors of each bag's ids.

    Args:
        vectors_VD: of each id in turn if ``split``, else of each bag, which has one id or none.
    """
    lengths, weights = bags.lengths(), bags.weights_or_none()
    if not split:
        vectors_VD = vectors_VD[: len(lengths)]
        if weights is None:
            return vectors_VD  # empty bags are zeros, and so are products and sums of zeros
        factors = torch.zeros(len(lengths), dtype=vectors_VD.dtype, device=vectors_VD.device)
        factors = factors.masked_scatter(lengths > 0, weights.to(vectors_VD.dtype))
        return vectors_VD * factors[:, None]
    bag_of = torch.repeat_interleave(lengths)
    vectors = vectors_VD[: len(bag_of)]
    if weights is not None:
        vectors = vectors * weights[:, None]
    sums = torch.zeros(len(lengths), vectors.shape[1], dtype=vectors.dtype, device=vectors.device)
    return sums.index_add(0, bag_of, vectors)


class Project(nn.Module):
    """``x_f -> x_f W_f^T`` with a learnt ``W_f`` (no bias) for some features; the others pass.

    Args:
        keys: module names of the features.
        widths: what they come with.
        targets: what they leave with; None for those that pass.
        device: where the maps are made.
    """

    def __init__(
        self,
        keys: Sequence[str],
        widths: Sequence[int],
        targets: Sequence[int | None],
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.keys, self.widths = list(keys), list(widths)
        self.linear = nn.ModuleDict(
            {
                key: nn.Linear(width, target, bias=False, device=device)
                for key, width, target in zip(keys, widths, targets, strict=True)
                if target is not None
            }
        )

    @property
    def num_params(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def forward(self, x_BE: torch.Tensor) -> torch.Tensor:
        """float32 (B, sum of widths) -> (B, sum of targets)."""
        parts = zip(self.keys, x_BE.split(self.widths, dim=1), strict=True)
        return torch.cat(
            [self.linear[key](part) if key in self.linear else part for key, part in parts], dim=1
        )
