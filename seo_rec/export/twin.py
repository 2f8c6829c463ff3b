"""The serving twin: the served function in plain aten, for ``torch.export`` and what follows it.

A trained model looks rows up by FBGEMM and by kernels of its own, which cannot leave Python. The
twin gathers stored rows in their types of storage and computes the same. It knows two kinds of
features: those with at most one id per row, whose ids stand in one matrix, and the others, whose
ids come one after another with the number of the row that each belongs to.

Letters: B rows, R rows or ids, C columns, S columns and crosses, V ids, K lookups, D a width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from seo_rec.export.addresses import Addresses, Blocks
from seo_rec.export.hashes import crossed, digests
from seo_rec.export.stored import Group, Stored
from seo_rec.policy import Feature, Policy
from seo_rec.policy.entries import FULL_BITS
from seo_rec.serve.layout import BACKBONE_WEIGHTS_FILE, EMBEDDINGS_FILE, table_places
from seo_rec.serve.package import Array
from seo_rec.serve.signature import Signature

_EXAMPLE_ROWS = 5  # 0 and 1 would be taken for constants


class Twin(nn.Module):
    """``logits_B = backbone(dense_BN, x_BE)`` of ids, as a package serves it.

    Args:
        policy: With the types of storage.
        stored: The tensors of ``embeddings.safetensors``.
        backbone: The trained one.
        signature: Which inputs there are.
    """

    def __init__(
        self,
        policy: Policy,
        stored: Mapping[str, Array],
        backbone: nn.Module,
        signature: Signature,
    ) -> None:
        super().__init__()
        self.signature = signature
        self.rows = Stored(stored)
        features = {f.name: f for f in policy.features}
        single = [features[name] for name in signature.single]
        optional = signature.optional
        self.single = (
            Block(policy, single, signature.columns, self.rows, optional) if single else None
        )
        self.ragged = nn.ModuleList(
            Block(policy, [features[name]], None, self.rows) for name in signature.ragged
        )
        self.projections = nn.ParameterDict()
        for i, f in enumerate(policy.features):
            if f.project is not None:
                weight = torch.from_numpy(stored[f"project.{i}"].copy())
                self.projections[str(i)] = nn.Parameter(weight, requires_grad=False)
        self.order = [f.name for f in policy.features]
        self.run = self._run(signature.single)
        self.backbone = copy.deepcopy(backbone).eval().requires_grad_(False)

    def sources(self) -> dict[str, tuple[str, str]]:
        """Of every number of a package's files, by its name here: the file and the tensor."""
        found = {f"rows.{key}": (EMBEDDINGS_FILE, name) for name, key in self.rows.keys.items()}
        for key in self.projections:
            found[f"projections.{key}"] = (EMBEDDINGS_FILE, f"project.{key}")
        weights = [*self.backbone.named_parameters(), *self.backbone.named_buffers()]
        return found | {f"backbone.{n}": (BACKBONE_WEIGHTS_FILE, n) for n, _ in weights}

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The logits, float32 (B,), of the inputs that the signature names, in its order."""
        given = dict(zip(self.signature.names, inputs, strict=True))
        first = inputs[0]
        dense_BN = given.get("dense")
        if dense_BN is None:
            dense_BN = torch.zeros(first.shape[0], 0, device=first.device)
        return self.backbone(dense_BN, self._embed(given, dense_BN))

    def _run(self, single: Sequence[str]) -> bool:
        """Whether the features of the matrix stand side by side in ``x_BE``, without maps."""
        if not single:
            return False
        start = self.order.index(single[0])
        places = range(start, start + len(single))
        together = list(single) == [self.order[i] for i in places if i < len(self.order)]
        return together and not any(str(i) in self.projections for i in places)

    def _embed(self, given: Mapping[str, torch.Tensor], dense_BN: torch.Tensor) -> torch.Tensor:
        parts: dict[str, torch.Tensor] = {}
        if self.single is not None and self.run:
            pieces = self.single.pieces(given["ids"])
            first = self.signature.single[0]
            parts[first] = torch.cat(pieces, dim=1) if len(pieces) > 1 else pieces[0]
        elif self.single is not None:
            vectors = self.single(given["ids"])
            parts = dict(zip(self.signature.single, vectors, strict=True))
        for i, (name, block) in enumerate(zip(self.signature.ragged, self.ragged, strict=True)):
            (x_VD,) = block(given[f"bag{i}_ids"][:, None])
            zeros = torch.zeros(
                dense_BN.shape[0], x_VD.shape[1], dtype=x_VD.dtype, device=x_VD.device
            )
            parts[name] = zeros.index_add(0, given[f"bag{i}_rows"], x_VD)
        joined = []
        for i, name in enumerate(self.order):
            if name not in parts:
                continue  # it is in the piece that came before it
            x_BD = parts[name]
            if str(i) in self.projections:
                x_BD = nn.functional.linear(x_BD, self.projections[str(i)])
            joined.append(x_BD)
        return torch.cat(joined, dim=1) if len(joined) > 1 else joined[0]


def example_inputs(
    signature: Signature,
) -> tuple[tuple[torch.Tensor, ...], list[dict[int, Any]]]:
    """Inputs of a twin for ``torch.export``, and which of their sizes may be any."""
    rows = torch.export.Dim("rows")
    tensors, shapes = [], []
    for name in signature.names:
        if name == "dense":
            tensors.append(torch.zeros(_EXAMPLE_ROWS, signature.num_dense))
            shapes.append({0: rows})
        elif name == "ids":
            size = _EXAMPLE_ROWS, len(signature.columns)
            tensors.append(torch.zeros(size, dtype=torch.int64))
            shapes.append({0: rows})
        else:
            tensors.append(torch.zeros(_EXAMPLE_ROWS, dtype=torch.int64))
            shapes.append({0: torch.export.Dim(f"ids_of_{name.partition('_')[0]}")})
    return tuple(tensors), shapes


class Block(nn.Module):
    """The combined vector of every id, for features whose ids stand side by side.

    Args:
        policy: Of the package.
        features: Features whose ids are in the matrix.
        columns: What the matrix of ids holds; None for one column of a feature's own ids.
        stored: The tables.
        optional: Columns whose ids may be -1, for none; the vector of such a feature is 0 then.
    """

    def __init__(
        self,
        policy: Policy,
        features: Sequence[Feature],
        columns: Sequence[str] | None,
        stored: Stored,
        optional: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.policy, self.features = policy, list(features)
        self.may_lack = any(set(f.columns) & set(optional) for f in features)
        self.stored = [stored]  # in a list, so that it is not a module of this one too
        self.crosses: list[tuple[int, list[list[int]]]] = []
        self.slots = self._slots(columns)
        reads = [(f, k) for f in features for k in f.all_lookups]
        self.lookups = [k for _, k in reads]
        self.digested = [f for f in features if f.id_bits != FULL_BITS]
        at = self._width(columns)
        index_slots = {f.name: at + i for i, f in enumerate(self.digested)}
        self.addresses = Addresses(policy, reads, self.slots, index_slots, stored)
        self.groups = self._groups(policy)
        self.blocks = Blocks(policy, reads, self.slots, stored)
        slots = [self.slots[f.name] for f, _ in reads]
        self.register_buffer("slot_of_lookup", torch.tensor(slots, dtype=torch.int64))

    def _slots(self, columns: Sequence[str] | None) -> dict[str, int]:
        """Where the ids of each feature are in the matrix with the crosses behind its columns."""
        if columns is None:
            return {f.name: 0 for f in self.features}
        slots = {f.name: columns.index(f.columns[0]) for f in self.features if not f.is_cross}
        place = len(columns)
        crosses = [f for f in self.features if f.is_cross]
        for size in sorted({len(f.columns) for f in crosses}):
            alike = [f for f in crosses if len(f.columns) == size]
            parts = [[columns.index(f.columns[j]) for f in alike] for j in range(size)]
            self.crosses.append((size, parts))
            slots |= {f.name: place + i for i, f in enumerate(alike)}
            place += len(alike)
        return slots

    def _width(self, columns: Sequence[str] | None) -> int:
        """Columns of the matrix, crosses included; digests stand behind them."""
        return 1 if columns is None else len(columns) + sum(len(p[0]) for _, p in self.crosses)

    def _groups(self, policy: Policy) -> list[Group]:
        places = table_places(policy)
        members: dict[str, list[int]] = {}
        for i, k in enumerate(self.lookups):
            if k.address != "blocks":
                members.setdefault(places[k.table].tensor, []).append(i)
        groups = []
        for tensor, found in members.items():
            place = places[self.lookups[found[0]].table]
            groups.append(Group(tensor, tuple(found), place.dim, place.dtype))
        for i, group in enumerate(groups):
            first = [places[self.lookups[k].table].first for k in group.lookups]
            self.register_buffer(f"first_{i}", torch.tensor(first))
            self.register_buffer(f"chosen_{i}", torch.tensor(self.addresses.places(group.lookups)))
        return groups

    def _read(self, ids_RC: torch.Tensor) -> tuple[list[torch.Tensor], dict[int, torch.Tensor]]:
        """Of each group float32 (R, K, D); of each lookup of blocks float32 (R, D)."""
        ids = [ids_RC]
        for _, parts in self.crosses:
            ids.append(crossed(ids_RC, parts))
        matrix = torch.cat(ids, dim=1) if len(ids) > 1 else ids_RC
        if self.digested:
            chosen = [self.slots[f.name] for f in self.digested]
            matrix = torch.cat([matrix, digests(matrix[:, chosen])], dim=1)
        found = []
        if self.groups:
            rows = self.addresses(matrix)
            for i, group in enumerate(self.groups):
                chosen = self.addresses.places(group.lookups)
                rows_RK = rows
                if chosen != list(range(self.addresses.width)):
                    rows_RK = rows.index_select(1, self.get_buffer(f"chosen_{i}"))
                first = self.get_buffer(f"first_{i}")
                if any(
                    table_places(self.policy)[self.lookups[k].table].first for k in group.lookups
                ):
                    rows_RK = rows_RK + first
                found.append(self.stored[0].read(rows_RK, group))
        return found, self.blocks(matrix)

    def _present(self, ids_RC: torch.Tensor) -> torch.Tensor:
        """float32 (R, S): 1 where there is an id, else 0; for every column, then every cross."""
        there_RC = (ids_RC >= 0).float()
        present = [there_RC]
        for _, parts in self.crosses:
            both = there_RC[:, parts[0]]
            for columns in parts[1:]:
                both = both * there_RC[:, columns]
            present.append(both)
        return torch.cat(present, dim=1) if len(present) > 1 else there_RC

    def pieces(self, ids_RC: torch.Tensor) -> list[torch.Tensor]:
        """The features' vectors, in one piece where they lie side by side already."""
        if not self._in_one_piece():
            return self(ids_RC)
        found, _ = self._read(ids_RC.clamp(min=0) if self.may_lack else ids_RC)
        rows_RKD = found[0]
        if self.may_lack:
            present_RK = self._present(ids_RC).index_select(1, self.get_buffer("slot_of_lookup"))
            rows_RKD = rows_RKD * present_RK[..., None]
        return [rows_RKD.flatten(1)]

    def _in_one_piece(self) -> bool:
        """Whether the rows of the only group, side by side, are the features' vectors."""
        plain = all(f.combine == "concat" or len(f.all_lookups) == 1 for f in self.features)
        plain = plain and not any(f.weights for f in self.features)
        return plain and len(self.groups) == 1 and not self.blocks.places

    def forward(self, ids_RC: torch.Tensor) -> list[torch.Tensor]:
        """Of each feature float32 (R, D)."""
        if not self.may_lack:
            return self._combined(*self._read(ids_RC))
        combined = self._combined(*self._read(ids_RC.clamp(min=0)))
        present_RS = self._present(ids_RC)
        slots = [self.slots[f.name] for f in self.features]
        pairs = zip(combined, slots, strict=True)
        return [x_RD * present_RS[:, slot, None] for x_RD, slot in pairs]

    def _combined(
        self, found: list[torch.Tensor], blocks: dict[int, torch.Tensor]
    ) -> list[torch.Tensor]:
        vectors: dict[int, torch.Tensor] = dict(blocks)
        for group, rows in zip(self.groups, found, strict=True):
            for j, lookup in enumerate(group.lookups):
                vectors[lookup] = rows[:, j]
        combined, i = [], 0
        for f in self.features:
            mine = [vectors[i + j] for j in range(len(f.lookups))]
            i += len(f.lookups)
            factors = None
            if f.weights is not None:
                factors, i = vectors[i], i + 1
            combined.append(_joined(f, mine, factors))
        return combined


def _joined(
    f: Feature, vectors: Sequence[torch.Tensor], factors: torch.Tensor | None
) -> torch.Tensor:
    if f.combine == "concat":
        return torch.cat(list(vectors), dim=1) if len(vectors) > 1 else vectors[0]
    total = vectors[0] if factors is None else vectors[0] * factors[:, :1]
    for j, vector in enumerate(vectors[1:], start=1):
        if f.combine == "mul":
            total = total * vector
        else:
            total = total + (vector if factors is None else vector * factors[:, j : j + 1])
    return total
