"""From the data's columns to the policy's features: crosses, and columns of other names.

Letters: B batch, C columns, F features, V ids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from seo_rec.embed.remap import mix_
from seo_rec.policy import MAX_CROSS_IDS, MISSING_ID, Policy
from seo_rec.policy.addresses import CROSS_START, LOW_63

_LOW_62 = 2**62 - 1
_BIT_62 = 2**62


def cross_ids(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """One id for each combination of ids; the order of the parts matters.

    ``h_0 = START + m; h_j = mix(h_{j-1} xor id_j) mod 2^63; id = 2^62 + h_m mod 2^62`` for m parts,
    with ``START`` from :mod:`seo_rec.policy.addresses` and the mix of the hash
    (:func:`seo_rec.embed.remap.mix_`). Where a part is the id of a missing value, so is the result.

    Args:
        parts: int64 ids in [0, 2^63) of equal shape, one tensor for each column of the cross.

    Returns:
        int64 of that shape: :data:`seo_rec.policy.MISSING_ID`, or in [2^62, 2^63).
    """
    mixed = torch.full_like(parts[0], CROSS_START + len(parts))
    missing = torch.zeros_like(mixed, dtype=torch.bool)
    for ids in parts:
        mixed = mix_(mixed ^ ids).bitwise_and_(LOW_63)
        missing |= ids == MISSING_ID
    return mixed.bitwise_and_(_LOW_62).bitwise_or_(_BIT_62).masked_fill_(missing, MISSING_ID)


def needs_columns(policy: Policy) -> bool:
    """Whether ids do not simply come from the columns of the features' own names."""
    return any(f.columns != (f.name,) for f in policy.features)


class Columns(nn.Module):
    """``KJT[columns] -> KJT[features]``: every feature's bags of ids, crosses included.

    A cross has an id for every combination of one id of each column, in the order of
    ``itertools.product``: the last column's ids change fastest. Its weights are the products of
    theirs. Where a column's bag is empty, so is the cross's.

    Args:
        policy: the features and their columns.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.names = [f.name for f in policy.features]
        self.columns = [list(f.columns) for f in policy.features]

    def forward(self, columns: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """``KJT[columns] -> KJT[features]``, the features in the order of the policy.

        Raises:
            KeyError: the batch lacks a column that a feature reads.
            ValueError: a row has more combinations than a cross may have.
        """
        keys, stride = columns.keys(), columns.stride()
        read = dict.fromkeys(c for names in self.columns for c in names)
        if missing := [c for c in read if c not in keys]:
            raise KeyError(f"the batch lacks columns {missing}; it has {keys}")
        numbers = [[keys.index(c) for c in names] for names in self.columns]
        lengths_CB = columns.lengths().view(len(keys), -1)
        values, weights = columns.values(), columns.weights_or_none()
        if values.numel() == lengths_CB.numel() and bool((lengths_CB == 1).all()):
            shape = (len(keys), stride)
            return KeyedJaggedTensor(
                keys=self.names,
                values=torch.cat(_mixed(values.view(shape), numbers)),
                lengths=lengths_CB.new_ones(len(numbers) * stride),
                weights=None
                if weights is None
                else torch.cat(_times(weights.view(shape), numbers)),
                stride=stride,
            )
        return self._bags(columns, numbers, lengths_CB)

    def _bags(
        self, columns: KeyedJaggedTensor, numbers: list[list[int]], lengths_CB: torch.Tensor
    ) -> KeyedJaggedTensor:
        """The general case: any number of ids in a bag, none included."""
        values, weights = columns.values(), columns.weights_or_none()
        ends, starts_CB = columns.offset_per_key(), columns.offsets()[:-1].view(lengths_CB.shape)
        lengths_FB = self._lengths(numbers, lengths_CB)
        ids, factors = [], []
        for of, lengths_B in zip(numbers, lengths_FB, strict=True):
            if len(of) == 1:
                span = slice(ends[of[0]], ends[of[0] + 1])
                ids.append(values[span])
                if weights is not None:
                    factors.append(weights[span])
                continue
            places = _combinations(lengths_B, lengths_CB[of], starts_CB[of])
            ids.append(cross_ids([values[p] for p in places]))
            if weights is not None:
                factors.append(reduce(torch.mul, [weights[p] for p in places]))
        return KeyedJaggedTensor(
            keys=self.names,
            values=torch.cat(ids),
            lengths=lengths_FB.view(-1).to(lengths_CB.dtype),
            weights=None if weights is None else torch.cat(factors),
            stride=columns.stride(),
        )

    def _lengths(self, numbers: list[list[int]], lengths_CB: torch.Tensor) -> torch.Tensor:
        """int64 (F, B): ids of every feature's bags, the products of those of its columns."""
        found = []
        for of in numbers:
            lengths_B = lengths_CB[of[0]].long()
            for column in of[1:]:  # cut where it is too many, so that no product overflows
                lengths_B = (lengths_B * lengths_CB[column]).clamp_(max=MAX_CROSS_IDS + 1)
            found.append(lengths_B)
        lengths_FB = torch.stack(found)
        crosses = [i for i, of in enumerate(numbers) if len(of) > 1]
        if crosses and bool((lengths_FB[crosses] > MAX_CROSS_IDS).any()):
            self._refuse(numbers, lengths_CB, lengths_FB, crosses)
        return lengths_FB

    def _refuse(
        self,
        numbers: list[list[int]],
        lengths_CB: torch.Tensor,
        lengths_FB: torch.Tensor,
        crosses: list[int],
    ) -> None:
        i = next(i for i in crosses if bool((lengths_FB[i] > MAX_CROSS_IDS).any()))
        row = int((lengths_FB[i] > MAX_CROSS_IDS).nonzero()[0])
        counts = [int(lengths_CB[column, row]) for column in numbers[i]]
        raise ValueError(
            f"feature {self.names[i]!r} crosses columns {self.columns[i]}, whose bags have "
            f"{' x '.join(map(str, counts))} = {math.prod(counts)} combinations in row {row} of "
            f"the batch; allowed: {MAX_CROSS_IDS}. Cut the bags when the data are prepared, or "
            "take this cross out of the policy"
        )


def _mixed(ids_CB: torch.Tensor, numbers: list[list[int]]) -> list[torch.Tensor]:
    """The ids (B) of every feature, where every bag has one."""
    return [ids_CB[of[0]] if len(of) == 1 else cross_ids([ids_CB[i] for i in of]) for of in numbers]


def _times(weights_CB: torch.Tensor, numbers: list[list[int]]) -> list[torch.Tensor]:
    """The weights (B) of every feature, where every bag has one id."""
    return [reduce(torch.mul, [weights_CB[i] for i in of]) for of in numbers]


def _combinations(
    lengths_B: torch.Tensor, lengths_PB: torch.Tensor, starts_PB: torch.Tensor
) -> list[torch.Tensor]:
    """For each of P columns, where in the values its id of every combination (V) is.

    Args:
        lengths_B: combinations of every row.
        lengths_PB, starts_PB: of every column the bags' lengths, and where they begin.
    """
    row_V = torch.repeat_interleave(lengths_B)
    first_B = lengths_B.cumsum(0) - lengths_B
    left_V = torch.arange(len(row_V), device=row_V.device) - first_B[row_V]
    places = []
    for lengths, starts in zip(lengths_PB.flip(0), starts_PB.flip(0), strict=True):
        size_V = lengths[row_V]
        places.append(starts[row_V] + left_V % size_V)
        left_V = torch.div(left_V, size_V, rounding_mode="floor")
    return places[::-1]
