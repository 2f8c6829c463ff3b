"""From ids to the rows of all lookups, in plain aten.

Letters: R rows or ids, C columns, F features, K lookups, J blocks, W floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from seo_rec.embed.remap import hashed_rows
from seo_rec.export.hashes import folded, hash_each, hash_rows
from seo_rec.export.stored import Stored
from seo_rec.policy import Feature, Lookup, Policy
from seo_rec.policy.addresses import LOW_32, block_seeds
from seo_rec.policy.entries import ID_BITS
from seo_rec.serve.layout import CODES, IDS, IDS_OF, code_order, vocabulary_order

_WAYS = 16  # of the search in a vocabulary: 15 numbers are compared at a time


class Addresses(nn.Module):
    """Rows of all lookups of tables, int64 (R, K): first the hashes, then all other rows."""

    def __init__(
        self,
        policy: Policy,
        reads: Sequence[tuple[Feature, Lookup]],
        slots: Mapping[str, int],
        index_slots: Mapping[str, int],
        stored: Stored,
    ) -> None:
        """Args: ``index_slots``: of features with digests, where these are in the matrix of ids."""
        super().__init__()
        self.policy, self.stored = policy, [stored]

        def slot(f: Feature, k: Lookup) -> int:
            return index_slots.get(f.name, slots[f.name]) if k.uses_index else slots[f.name]

        rows = [(i, f, k) for i, (f, k) in enumerate(reads) if k.address != "blocks"]
        hashed = [(i, f, k) for i, f, k in rows if k.address == "hash"]
        bases = [(i, f, k) for i, f, k in rows if _hashes_besides(k)]
        self.others = [(i, f, k) for i, f, k in rows if k.address != "hash"]
        self.order = [i for i, _, _ in hashed] + [i for i, _, _ in self.others]
        self.width, self.num_hashed = len(self.order), len(hashed)
        self.base_of = {i: len(hashed) + j for j, (i, _, _) in enumerate(bases)}
        slot_of = [slot(f, k) for _, f, k in hashed + bases]
        self.slot_of, self.each = _runs(slot_of)
        tables = [policy.table(k.table).num_rows for _, _, k in hashed + bases]
        into = [hashed_rows(k, n) for (_, _, k), n in zip(hashed + bases, tables, strict=True)]
        self.register_buffer("slots", torch.tensor(self.slot_of, dtype=torch.int64))
        shape = (-1,) if self.each == 1 else (len(self.slot_of), self.each)
        seeds = [k.seed for _, _, k in hashed + bases]
        self.register_buffer("seeds", folded(torch.tensor(seeds, dtype=torch.int64)).view(shape))
        self.same_size = into[0] if len(set(into)) == 1 else None
        self.register_buffer("into", torch.tensor(into, dtype=torch.int64).view(shape))
        names = list(dict.fromkeys(f.name for _, f, k in self.others if k.uses_index))
        parts = []
        for bits in ID_BITS:
            of = [n for n in names if policy.id_bits[n] == bits]
            if of:
                at = [index_slots.get(n, slots[n]) for n in of]
                parts.append(Index(policy, of, at, stored, bits))
        self.indices = nn.ModuleList(parts)
        self.index_names = [n for part in parts for n in part.names]
        starts, start = {}, 0
        for name in code_order(policy):
            starts[name] = start
            start += len(policy.codes[name])
        self.code_starts = starts

    def places(self, lookups: Sequence[int]) -> list[int]:
        """Where the rows of these lookups are among the columns."""
        return [self.order.index(i) for i in lookups]

    def forward(self, ids_RC: torch.Tensor) -> torch.Tensor:
        parts = []
        hashes = None
        if self.slot_of:
            chosen = folded(ids_RC)
            if self.slot_of != list(range(ids_RC.shape[1])):
                chosen = chosen.index_select(1, self.get_buffer("slots"))
            hashes = self._hashes(chosen)
            parts.append(hashes[:, : self.num_hashed] if self.base_of else hashes)
        if not self.others:
            return parts[0]
        found = [part(ids_RC) for part in self.indices]
        index = torch.cat(found, dim=1) if len(found) > 1 else next(iter(found), None)
        plain = [self._plain(k) for _, _, k in self.others]
        if index is not None and all(plain) and self._covered():
            parts.append(index)
        else:
            parts += [self._rows(i, f, k, index, hashes)[:, None] for i, f, k in self.others]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def _hashes(self, ids_RC: torch.Tensor) -> torch.Tensor:
        """int64 (R, K), of ids of which each belongs to ``each`` lookups in a row."""
        into = self.get_buffer("into") if self.same_size is None else self.same_size
        if self.each == 1:
            return hash_rows(ids_RC, self.get_buffer("seeds"), into)
        return hash_each(ids_RC, self.get_buffer("seeds"), into)

    def _covered(self) -> bool:
        """Whether the lookups that are not by hash are one of each index, in their order."""
        return [f.name for _, f, _ in self.others] == self.index_names

    @staticmethod
    def _plain(k: Lookup) -> bool:
        return k.address == "id" and k.unknown_rows == 1

    def _rows(
        self,
        i: int,
        f: Feature,
        k: Lookup,
        index: torch.Tensor | None,
        hashes: torch.Tensor | None,
    ) -> torch.Tensor:
        """int64 (R,) of a lookup that is not by hash alone."""
        if k.uses_index:
            assert index is not None
            base = index[:, self.index_names.index(f.name)]
        else:
            assert hashes is not None
            base = hashes[:, self.base_of[i]]
        if k.address == "codes":
            places = base + self.code_starts[k.codes]
            return self.stored[0].tensor(CODES)[places].long()
        if k.address == "remainder":
            return base % k.modulus
        if k.address == "quotient":
            quotient = torch.div(base, k.modulus, rounding_mode="floor")
            return quotient % self.policy.table(k.table).num_rows
        if k.unknown_rows == 1:
            return base
        assert hashes is not None
        return torch.where(base > 0, base + (k.unknown_rows - 1), hashes[:, self.base_of[i]])


def _runs(slots: Sequence[int]) -> tuple[list[int], int]:
    """Numbers that all stand the same number of times in a row: each one once, and how often."""
    for size in range(len(slots), 1, -1):
        first = list(slots[::size])
        if [x for x in first for _ in range(size)] == list(slots):
            return first, size
    return list(slots), 1


def _hashes_besides(k: Lookup) -> bool:
    """Whether a lookup that is not by hash alone needs a hash."""
    return (k.address == "codes" and bool(k.modulus)) or k.unknown_rows > 1


class Index(nn.Module):
    """The index of every id in its feature's vocabulary, int64 (R, F), by a search of 16 ways.

    All of the features have ids of ``id_bits`` bits; with 32, the matrix has their digests.

    ONNX has no search in a sorted list. With ``step`` a power of 16, one round compares the id
    with 15 numbers of its vocabulary that are ``step`` apart, which leaves a sixteenth.
    """

    def __init__(
        self,
        policy: Policy,
        names: Sequence[str],
        slots: Sequence[int],
        stored: Stored,
        id_bits: int,
    ) -> None:
        super().__init__()
        self.names, self.stored, self.slots = list(names), [stored], list(slots)
        self.tensor = IDS_OF[id_bits][0]
        starts, start = {}, 0
        for name in vocabulary_order(policy, id_bits):
            starts[name] = start
            start += len(policy.vocabularies[name])
        self.num_ids = start
        sizes = [len(policy.vocabularies[n]) for n in names]
        self.rounds = 0
        while _WAYS**self.rounds <= max(sizes):
            self.rounds += 1
        first = torch.tensor([starts[n] for n in names], dtype=torch.int64)
        self.register_buffer("slot", torch.tensor(list(slots), dtype=torch.int64))
        self.register_buffer("first", first)
        self.register_buffer("end", first + torch.tensor(sizes, dtype=torch.int64))
        self.register_buffer("ways", torch.arange(1, _WAYS, dtype=torch.int64))

    def forward(self, ids_RC: torch.Tensor) -> torch.Tensor:
        ids_RF = ids_RC
        if self.slots != list(range(ids_RC.shape[1])):
            ids_RF = ids_RC.index_select(1, self.get_buffer("slot"))
        first, end = self.get_buffer("first"), self.get_buffer("end")
        if not self.num_ids:
            return torch.zeros_like(ids_RF)
        below = first.expand_as(ids_RF)  # the first place whose id is not below, once searched
        for round_ in range(self.rounds - 1, -1, -1):
            places = below[..., None] + (self.get_buffer("ways") * _WAYS**round_ - 1)
            within = places < end[:, None]
            smaller = self._known(places) < ids_RF[..., None]
            below = below + (within & smaller).sum(-1) * _WAYS**round_
        found = (self._known(below) == ids_RF) & (below < end)
        return torch.where(found, below - first + 1, torch.zeros_like(below))

    def _known(self, places: torch.Tensor) -> torch.Tensor:
        """What the vocabularies hold at these places, int64; beyond the end, the last number."""
        found = self.stored[0].tensor(self.tensor)[places.clamp(max=self.num_ids - 1)]
        return found if self.tensor == IDS else found.long() & LOW_32


class Blocks(nn.Module):
    """Vectors of lookups of blocks: of each lookup, by its number, float32 (R, D)."""

    def __init__(
        self,
        policy: Policy,
        reads: Sequence[tuple[Feature, Lookup]],
        slots: Mapping[str, int],
        stored: Stored,
    ) -> None:
        super().__init__()
        self.stored = [stored]
        numbers = {a.name: i for i, a in enumerate(policy.arrays)}
        self.places = [i for i, (_, k) in enumerate(reads) if k.address == "blocks"]
        self.arrays: list[tuple[str, str]] = []
        for i in self.places:
            f, k = reads[i]
            array = policy.arrays[numbers[k.table]]
            self.arrays.append((f"array.{numbers[k.table]}", array.dtype))
            seeds = block_seeds(k)
            floats = torch.arange(k.width)
            self.register_buffer(f"seeds_{i}", folded(torch.tensor(seeds, dtype=torch.int64)))
            self.register_buffer(f"block_{i}", floats // k.block)
            self.register_buffer(f"within_{i}", floats % k.block)
            setattr(self, f"into_{i}", array.size - k.block + 1)
            setattr(self, f"slot_{i}", slots[f.name])

    def forward(self, ids_RC: torch.Tensor) -> dict[int, torch.Tensor]:
        found = {}
        for i, (name, dtype) in zip(self.places, self.arrays, strict=True):
            ids_R1 = folded(ids_RC[:, getattr(self, f"slot_{i}")][:, None])
            first_RJ = hash_rows(ids_R1, self.get_buffer(f"seeds_{i}"), getattr(self, f"into_{i}"))
            places_RW = first_RJ.index_select(1, self.get_buffer(f"block_{i}"))
            places_RW = places_RW + self.get_buffer(f"within_{i}")
            found[i] = self.stored[0].floats(places_RW, name, dtype)
        return found
