"""From feature ids to table rows: every lookup of every feature of a batch in one pass.

Letters: B batch, F features, K lookups, V ids.
"""

from __future__ import annotations

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from seo_rec.policy import Feature, Policy

_LOW_32 = 0xFFFFFFFF


def mix_(x: torch.Tensor) -> torch.Tensor:
    """Scramble int64 values in place, so that every low output bit depends on every input bit.

    Two rounds of xor-shift-multiply modulo 2^64; equal on every device and machine. The shifts
    repeat the sign bit, so x and ~x give the same: ids and seeds must not be negative.
    """
    x.bitwise_xor_(x >> 33).mul_(-0x00AE502812AA7333)
    x.bitwise_xor_(x >> 29).mul_(-0x3B314601E57A13AD)
    return x.bitwise_xor_(x >> 32)


def hash_rows(
    ids: torch.Tensor, seeds: torch.Tensor | int, num_rows: torch.Tensor | int
) -> torch.Tensor:
    """Row numbers ``floor((mix(id xor seed) mod 2^32) * num_rows / 2^32)``.

    Args:
        ids: int64, any shape.
        seeds, num_rows: numbers, or int64 tensors that broadcast against ``ids``; rows < 2^31.

    Returns:
        int64 in [0, num_rows), of the broadcast shape.
    """
    return (mix_(ids ^ seeds).bitwise_and_(_LOW_32) * num_rows) >> 32


def vocabulary_rows(ids: torch.Tensor, vocabulary: torch.Tensor) -> torch.Tensor:
    """1 + rank of each id in the sorted ``vocabulary``; 0 for ids that are not in it."""
    if vocabulary.numel() == 0:
        return torch.zeros_like(ids)
    rank = torch.searchsorted(vocabulary, ids).clamp_(max=vocabulary.numel() - 1)
    return torch.where(vocabulary[rank] == ids, rank + 1, 0)


def lookup_key(feature: Feature, index: int) -> str:
    """Name of a feature's lookup in the KeyedJaggedTensor that reaches the tables."""
    return f"{feature.name}:{index}"


class Remap(nn.Module):
    """``KJT[features] -> KJT[lookups]``: one key per (feature, lookup), rows instead of ids.

    Keys come in the order in which the lookups stand in the policy, so that reading them in
    order gives ``x_BE`` already concatenated. Lookups of one feature with equal seeds are
    hashed once.

    Args:
        policy: the features served and their lookups.

    Raises:
        KeyError: the batch lacks a feature of the policy.
    """

    seeds_K1: torch.Tensor
    rows_K1: torch.Tensor

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.names = [f.name for f in policy.features]
        self.keys = [lookup_key(f, j) for f in policy.features for j in range(len(f.lookups))]
        self.num_lookups = [len(f.lookups) for f in policy.features]
        lookups = [k for f in policy.features for k in f.lookups]
        self.feature_of = [i for i, f in enumerate(policy.features) for _ in f.lookups]
        self.by_id = [k for k, lookup in enumerate(lookups) if lookup.address == "id"]
        hashes = [(i, k.seed) for i, k in zip(self.feature_of, lookups, strict=True)]
        unique = list(dict.fromkeys(hashes))
        self.num_hashes = len(unique)

        def buffer(name: str, values: list[int], column: bool) -> None:
            tensor = torch.tensor(values, dtype=torch.int64, device="cpu")  # not meta
            tensor = tensor[:, None] if column else tensor
            self.register_buffer(name, tensor, persistent=False)

        buffer("feature_H", [i for i, _ in unique], column=False)
        buffer("seeds_H1", [seed for _, seed in unique], column=True)
        buffer("hash_K", [unique.index(h) for h in hashes], column=False)
        buffer("feature_K", self.feature_of, column=False)
        buffer("seeds_K1", [k.seed for k in lookups], column=True)
        buffer("rows_K1", [policy.table(k.table).num_rows for k in lookups], column=True)
        for i, f in enumerate(policy.features):
            if any(k.address == "id" for k in f.lookups):
                ids = torch.from_numpy(policy.vocabularies[f.name].copy())
                self.register_buffer(f"vocabulary_{i}", ids, persistent=False)
        self._ones = torch.empty(0, dtype=torch.int32)

    def forward(self, features: KeyedJaggedTensor) -> KeyedJaggedTensor:
        features = self._select(features)
        stride, lengths = features.stride(), features.lengths()
        if features.values().numel() == lengths.numel() and bool((lengths == 1).all()):
            rows = self._single(features.values().view(len(self.names), stride))
            if self._ones.numel() != rows.numel() or self._ones.device != rows.device:
                self._ones = torch.ones(rows.numel(), dtype=torch.int32, device=rows.device)
            return KeyedJaggedTensor(
                keys=self.keys,
                values=rows.view(-1),
                lengths=self._ones,
                weights=self._repeat_weights(features),
                stride=stride,
            )
        return self._bags(features)

    def _select(self, features: KeyedJaggedTensor) -> KeyedJaggedTensor:
        keys = features.keys()
        if keys == self.names:
            return features
        if missing := [n for n in self.names if n not in keys]:
            raise KeyError(f"the batch lacks features {missing}; it has {keys}")
        return features.permute([keys.index(n) for n in self.names])

    def _single(self, ids_FB: torch.Tensor) -> torch.Tensor:
        """Rows (K, B) when every bag holds exactly one id."""
        mixed_HB = mix_(ids_FB.index_select(0, self.get_buffer("feature_H")) ^ self._seeds_H1)
        mixed_HB.bitwise_and_(_LOW_32)
        if self.num_hashes == len(self.keys):
            rows_KB = mixed_HB.mul_(self.rows_K1).bitwise_right_shift_(32)
        else:
            rows_KB = mixed_HB.index_select(0, self.get_buffer("hash_K"))
            rows_KB = rows_KB.mul_(self.rows_K1).bitwise_right_shift_(32)
        for k in self.by_id:
            i = self.feature_of[k]
            rows_KB[k] = vocabulary_rows(ids_FB[i], self.get_buffer(f"vocabulary_{i}"))
        return rows_KB

    @property
    def _seeds_H1(self) -> torch.Tensor:
        return self.get_buffer("seeds_H1")

    def _bags(self, features: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """The general case: any number of ids in a bag, none included."""
        ids = features.values()
        ends = features.offset_per_key()
        spans = [(ends[i], ends[i + 1]) for i in self.feature_of]
        sizes = torch.tensor([b - a for a, b in spans], device=ids.device)
        ids_V = torch.cat([ids[a:b] for a, b in spans])
        seeds_V = self.seeds_K1[:, 0].repeat_interleave(sizes)
        rows_V = hash_rows(ids_V, seeds_V, self.rows_K1[:, 0].repeat_interleave(sizes))
        starts = [0, *sizes.cumsum(0).tolist()]
        for k in self.by_id:
            a, b = starts[k], starts[k + 1]
            vocabulary = self.get_buffer(f"vocabulary_{self.feature_of[k]}")
            rows_V[a:b] = vocabulary_rows(ids_V[a:b], vocabulary)
        lengths = features.lengths().view(len(self.names), -1)
        weights = features.weights_or_none()
        return KeyedJaggedTensor(
            keys=self.keys,
            values=rows_V,
            lengths=lengths.index_select(0, self.get_buffer("feature_K")).view(-1),
            weights=None if weights is None else torch.cat([weights[a:b] for a, b in spans]),
            stride=features.stride(),
        )

    def _repeat_weights(self, features: KeyedJaggedTensor) -> torch.Tensor | None:
        weights = features.weights_or_none()
        if weights is None:
            return None
        weights_FB = weights.view(len(self.names), -1)
        return weights_FB.index_select(0, self.get_buffer("feature_K")).view(-1)
