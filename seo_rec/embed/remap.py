"""From feature ids to table rows: every lookup of every feature of a batch in one pass.

Letters: B batch, F features, K lookups, V ids.
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from seo_kernels.remap import remap
from seo_rec.embed.combine import combines_ids, one_id_bags
from seo_rec.policy import Feature, Lookup, Policy
from seo_rec.policy.addresses import FIRST_FACTOR, LOW_32, SECOND_FACTOR
from seo_rec.policy.entries import DIGEST_SEED, FULL_BITS


def mix_(x: torch.Tensor) -> torch.Tensor:
    """Scramble int64 values in place, so that every low output bit depends on every input bit.

    Two rounds of xor-shift-multiply modulo 2^64; equal on every device and machine. The shifts
    repeat the sign bit, so x and ~x give the same: ids and seeds must not be negative.
    """
    x.bitwise_xor_(x >> 33).mul_(FIRST_FACTOR)
    x.bitwise_xor_(x >> 29).mul_(SECOND_FACTOR)
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
    return (mix_(ids ^ seeds).bitwise_and_(LOW_32) * num_rows) >> 32


def vocabulary_rows(ids: torch.Tensor, vocabulary: torch.Tensor) -> torch.Tensor:
    """1 + rank of each id in the sorted ``vocabulary``; 0 for ids that are not in it."""
    if vocabulary.numel() == 0:
        return torch.zeros_like(ids)
    rank = torch.searchsorted(vocabulary, ids).clamp_(max=vocabulary.numel() - 1)
    return torch.where(vocabulary[rank] == ids, rank + 1, 0)


def lookup_key(feature: Feature, index: int) -> str:
    """Name of a feature's lookup in the KeyedJaggedTensor that reaches the tables."""
    return f"{feature.name}:{index}"


def row_lookups(policy: Policy) -> list[tuple[str, int, Lookup]]:
    """Every lookup of a table: its key, the number of its feature, and itself.

    They come in the order of the policy, a feature's importance weights after its other lookups.
    """
    return [
        (lookup_key(f, j) if k is not f.weights else f"{f.name}:weights", i, k)
        for i, f in enumerate(policy.features)
        for j, k in enumerate(f.all_lookups)
        if k.address != "blocks"
    ]


def chosen(features: KeyedJaggedTensor, names: list[str]) -> KeyedJaggedTensor:
    """The features of these names, in this order.

    Weights of ids that need a gradient are cut out by PyTorch: the backward pass of FBGEMM's
    permutation on GPUs fails where features are left out.
    """
    keys = features.keys()
    order = [keys.index(n) for n in names]
    weights = features.weights_or_none()
    if weights is None or not weights.requires_grad:
        return features.permute(order)
    ends = features.offset_per_key()
    found = KeyedJaggedTensor(
        keys=keys,
        values=features.values(),
        lengths=features.lengths(),
        offsets=features.offsets(),
        stride=features.stride(),
    ).permute(order)
    return KeyedJaggedTensor(
        keys=found.keys(),
        values=found.values(),
        weights=torch.cat([weights[ends[i] : ends[i + 1]] for i in order]),
        lengths=found.lengths(),
        offsets=found.offsets(),
        stride=features.stride(),
    )


def hashed_rows(lookup: Lookup, num_rows: int) -> int:
    """Into how many rows a lookup of a table of ``num_rows`` hashes ids, if it does."""
    if lookup.address == "codes" and lookup.modulus:
        return lookup.modulus
    return lookup.unknown_rows if lookup.address == "id" else num_rows


def reads_digests(feature: Feature, lookup: Lookup) -> bool:
    """Whether the digest of an id takes its place in a lookup (``id_bits`` 32)."""
    return lookup.uses_index and feature.id_bits != FULL_BITS


def addressed_rows(
    lookup: Lookup,
    num_rows: int,
    ids: torch.Tensor,
    vocabulary: torch.Tensor | None = None,
    codes: torch.Tensor | None = None,
    hashed: torch.Tensor | None = None,
) -> torch.Tensor:
    """The row of every id in a lookup of a table; see :class:`seo_rec.policy.Lookup`.

    Args:
        lookup: what to do.
        num_rows: of its table.
        ids: int64, any shape; digests where the lookup reads them (:func:`reads_digests`).
        vocabulary: sorted ids (or digests), where the lookup uses its index.
        codes: rows by base row, for the address ``codes``.
        hashed: the hashes of the ids with the lookup's seed into :func:`hashed_rows`, where they
            are known already.
    """
    into = hashed_rows(lookup, num_rows)
    if lookup.uses_index:
        assert vocabulary is not None
        base = vocabulary_rows(ids, vocabulary)
    else:
        base = hash_rows(ids, lookup.seed, into) if hashed is None else hashed
    if lookup.unknown_rows > 1:
        unknown = hash_rows(ids, lookup.seed, into) if hashed is None else hashed
        return torch.where(base > 0, base + (lookup.unknown_rows - 1), unknown)
    if lookup.address == "remainder":
        return base % lookup.modulus
    if lookup.address == "quotient":
        return torch.div(base, lookup.modulus, rounding_mode="floor") % num_rows
    if lookup.address == "codes":
        assert codes is not None
        return codes.index_select(0, base.reshape(-1)).view(base.shape).long()
    return base


class Remap(nn.Module):
    """``KJT[features] -> KJT[lookups]``: one key per lookup of a table, rows instead of ids.

    Keys come in the order in which the lookups stand in the policy, so that reading them in
    order gives ``x_BE`` already concatenated. :func:`seo_kernels.remap.remap` does the hashing.

    Where a feature combines the vectors of each id (:func:`combines_ids`) and a bag of it holds
    several, its ids come in bags of one, and all keys are filled up with empty bags to the same
    number of them. Its weights are left to :class:`Combine`.

    Args:
        policy: the features served and their lookups.

    Raises:
        KeyError: the batch lacks a feature of the policy.
    """

    seeds_K: torch.Tensor
    rows_K: torch.Tensor

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.names = [f.name for f in policy.features]
        found = row_lookups(policy)
        self.keys = [key for key, _, _ in found]
        self.feature_of = [i for _, i, _ in found]
        self.lookups = [k for _, _, k in found]
        features = policy.features
        self.digested = {n for n, (_, i, k) in enumerate(found) if reads_digests(features[i], k)}
        self.not_hashed = [k for k, x in enumerate(self.lookups) if x.address != "hash"]
        self.per_id = [i for i, f in enumerate(policy.features) if combines_ids(f)]
        self.unweighted = [k for k, i in enumerate(self.feature_of) if i in self.per_id]

        def buffer(name: str, values: list[int]) -> None:
            tensor = torch.tensor(values, dtype=torch.int64, device="cpu")  # not meta
            self.register_buffer(name, tensor, persistent=False)

        buffer("feature_K", self.feature_of)
        buffer("seeds_K", self._seeds())
        self.table_rows = [policy.table(k.table).num_rows for k in self.lookups]
        into = [hashed_rows(k, r) for k, r in zip(self.lookups, self.table_rows, strict=True)]
        into = [LOW_32 + 1 if n in self.digested else r for n, r in enumerate(into)]
        buffer("rows_K", into)
        for i in {i for _, i, k in found if k.uses_index}:
            ids = torch.from_numpy(policy.vocabularies[self.names[i]].astype(np.int64))
            self.register_buffer(f"vocabulary_{i}", ids, persistent=False)
        self.code_names = list(policy.codes)
        for i, name in enumerate(self.code_names):
            codes = torch.from_numpy(policy.codes[name].copy())
            self.register_buffer(f"codes_{i}", codes, persistent=False)
        self._ones = torch.empty(0, dtype=torch.int32)

    def _seeds(self) -> list[int]:
        """The seed of the hash of every lookup; of the digest, where the lookup reads that."""
        return [DIGEST_SEED if n in self.digested else k.seed for n, k in enumerate(self.lookups)]

    @torch.no_grad()
    def readdress(self, policy: Policy) -> None:
        """Take over seeds and codes from now on.

        Args:
            policy: It differs from the present one in the seeds of lookups and in codes alone.
        """
        self.lookups = [k for _, _, k in row_lookups(policy)]
        self.seeds_K.copy_(torch.tensor(self._seeds(), dtype=torch.int64))
        for i, name in enumerate(self.code_names):
            self.get_buffer(f"codes_{i}").copy_(torch.from_numpy(policy.codes[name].copy()))

    def forward(self, features: KeyedJaggedTensor, same_bags: bool = False) -> KeyedJaggedTensor:
        """``KJT[features] -> KJT[lookups]``.

        Args:
            features: ids.
            same_bags: whether all processes of the default group call this at once and go on with
                as many bags as the one that has most, as an exchange between them may need.
        """
        features = self._select(features)
        stride, lengths = features.stride(), features.lengths()
        split, bags = self._num_bags(features, same_bags)
        single = features.values().numel() == lengths.numel() and bool((lengths == 1).all())
        if single and bags == stride:
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
        return self._bags(features, split, bags)

    def _num_bags(self, features: KeyedJaggedTensor, same_bags: bool) -> tuple[bool, int]:
        """Whether ids come in bags of one, and how many bags there are then."""
        bags = features.stride()
        if not self.per_id:
            return False, bags
        split = one_id_bags(features.lengths().view(len(self.names), -1)[self.per_id])
        if split:
            ends = features.offset_per_key()
            bags = max(bags, *(ends[i + 1] - ends[i] for i in self.per_id))
        if same_bags:
            most = torch.tensor(bags, device=features.device())
            torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
            bags = int(most)
        return split, bags

    def _select(self, features: KeyedJaggedTensor) -> KeyedJaggedTensor:
        keys = features.keys()
        if keys == self.names:
            return features
        if missing := [n for n in self.names if n not in keys]:
            raise KeyError(f"the batch lacks features {missing}; it has {keys}")
        return chosen(features, self.names)

    def _single(self, ids_FB: torch.Tensor) -> torch.Tensor:
        """Rows (K, B) when every bag holds exactly one id."""
        F, B = ids_FB.shape
        starts = [i * B for i in range(F + 1)]
        rows_KB = self._hashed(ids_FB.reshape(-1), starts).view(len(self.keys), B)
        for k in self.not_hashed:
            rows_KB[k] = self._rows(k, ids_FB[self.feature_of[k]], rows_KB[k])
        return rows_KB

    def _hashed(self, ids_V: torch.Tensor, starts: list[int]) -> torch.Tensor:
        """Hashes of all lookups, one after the other; ``starts``: where features begin in ids."""
        return remap(ids_V, starts, self.feature_of, self.seeds_K, self.rows_K)

    def _rows(self, k: int, ids: torch.Tensor, hashed: torch.Tensor) -> torch.Tensor:
        """Rows of lookup number ``k``, which is not by hash alone; ``hashed``: its hashes."""
        lookup = self.lookups[k]
        vocabulary = codes = known = None
        if k in self.digested:
            ids = hashed & LOW_32  # the hash into 2^32 rows is the digest, with a sign
        else:
            known = hashed
        if lookup.uses_index:
            vocabulary = self.get_buffer(f"vocabulary_{self.feature_of[k]}")
        if lookup.address == "codes":
            codes = self.get_buffer(f"codes_{self.code_names.index(lookup.codes)}")
        return addressed_rows(lookup, self.table_rows[k], ids, vocabulary, codes, known)

    def _bags(self, features: KeyedJaggedTensor, split: bool, bags: int) -> KeyedJaggedTensor:
        """The general case: any number of ids in a bag, none included."""
        ids = features.values()
        ends = features.offset_per_key()
        spans = [(ends[i], ends[i + 1]) for i in self.feature_of]
        rows_V = self._hashed(ids, ends)
        starts = list(accumulate((b - a for a, b in spans), initial=0))
        for k in self.not_hashed:
            (a, b), (c, d) = spans[k], (starts[k], starts[k + 1])
            rows_V[c:d] = self._rows(k, ids[a:b], rows_V[c:d])
        lengths_FB = features.lengths().view(len(self.names), -1)
        if bags > lengths_FB.shape[1]:
            lengths_FB = functional.pad(lengths_FB, (0, bags - lengths_FB.shape[1]))
        if split:
            lengths_FB = lengths_FB.clone()
            for i in self.per_id:
                lengths_FB[i] = torch.arange(bags, device=ids.device) < ends[i + 1] - ends[i]
        weights = features.weights_or_none()
        if weights is not None:
            pieces = [weights[a:b] for a, b in spans]
            for k in self.unweighted:
                pieces[k] = torch.ones_like(pieces[k])
            weights = torch.cat(pieces)
        return KeyedJaggedTensor(
            keys=self.keys,
            values=rows_V,
            lengths=lengths_FB.index_select(0, self.get_buffer("feature_K")).view(-1),
            weights=weights,
            stride=lengths_FB.shape[1],
        )

    def _repeat_weights(self, features: KeyedJaggedTensor) -> torch.Tensor | None:
        weights = features.weights_or_none()
        if weights is None:
            return None
        weights_FB = weights.view(len(self.names), -1)
        weights_KB = weights_FB.index_select(0, self.get_buffer("feature_K"))
        if self.unweighted:
            weights_KB[self.unweighted] = 1.0
        return weights_KB.view(-1)
