"""Row embeddings: ``Remap -> EmbeddingBagCollection -> gate -> Combine``.

Letters: B batch, K lookups, D one lookup's width, E sum of widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from seo_rec.embed.remap import Remap, lookup_key
from seo_rec.policy import Policy

INIT_SCALE = 0.01
_MODULES = nn.ModuleDict()  # only to ask which names it takes


class Gate(Protocol):
    """What a search puts between the looked-up vectors and ``Combine``."""

    def widths(self, policy: Policy) -> tuple[int, ...]:
        """Widths of the parts of the gate's output, in order."""
        ...

    def __call__(self, lookups_BE: torch.Tensor) -> torch.Tensor: ...


def table_key(table: str) -> str:
    """The name of a table's module: its own, unless ``nn.ModuleDict`` refuses that one.

    Column names such as ``type``, ``items`` and ``user.id`` are good table names and no module
    names; they are quoted after a prefix, one to one.
    """
    if "." not in table and not table.startswith("quoted-") and not hasattr(_MODULES, table):
        return table
    return "quoted-" + table.replace("%", "%25").replace(".", "%2E")


def table_configs(policy: Policy, init_scale: float = INIT_SCALE) -> list[EmbeddingBagConfig]:
    """The policy's tables as TorchRec configs; the features of a table are lookup keys."""
    readers: dict[str, list[str]] = {t.name: [] for t in policy.tables}
    for f in policy.features:
        for j, lookup in enumerate(f.lookups):
            readers[lookup.table].append(lookup_key(f, j))
    return [
        EmbeddingBagConfig(
            name=table_key(t.name),
            num_embeddings=t.num_rows,
            embedding_dim=t.dim,
            feature_names=readers[t.name],
            pooling=PoolingType.SUM,
            weight_init_min=-init_scale,
            weight_init_max=init_scale,
        )
        for t in policy.tables
    ]


class RowEmbedding(nn.Module):
    """Embeddings made of table rows, for any policy.

    ``x_BE[b] = Combine_f(Concat_k(sum_{i in bag(b, f)} w_i * T_k[row_k(i)]))``: each lookup pools
    the rows of a bag by (weighted) sum, an empty bag gives zeros.

    Args:
        policy: tables, features and lookups.
        gate: applied to the concatenated lookups before ``Combine``; see :class:`Gate`.
        init_scale: weights start uniform in [-init_scale, init_scale].
        device: where the tables are made (``meta`` for planning).
        weighted: whether a sharded collection reads the weights of ids; an unsharded one always
            does.
    """

    def __init__(
        self,
        policy: Policy,
        gate: Gate | None = None,
        init_scale: float = INIT_SCALE,
        device: torch.device | None = None,
        weighted: bool = False,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.remap = Remap(policy)
        self.lookup_keys = self.remap.keys  # a pipeline puts a wrapper without keys in its place
        self.table_keys = [table_key(t.name) for t in policy.tables]
        self.ebc = EmbeddingBagCollection(
            tables=table_configs(policy, init_scale), is_weighted=weighted, device=device
        )
        if device is None or device.type != "meta":
            for bag in self.ebc.embedding_bags.values():
                nn.init.uniform_(bag.weight, -init_scale, init_scale)
        self.gate = gate
        self.combine = None if _all_concat(policy) else SumOrConcat(policy)
        self.batched = TableBatched(policy)

    @property
    def dims(self) -> tuple[int, ...]:
        """Widths of the parts of ``x_BE``; their sum is E."""
        return self.policy.widths if self.gate is None else self.gate.widths(self.policy)

    def forward(self, features: KeyedJaggedTensor) -> torch.Tensor:
        """``KJT[features] -> x_BE`` float32 (B, E)."""
        lookups = self.remap(features)
        if type(self.ebc) is EmbeddingBagCollection:
            bags = self.ebc.embedding_bags
            weights = [bags[key].weight for key in self.table_keys]
            x_BE = self.batched(weights, lookups)
        else:  # sharded by TorchRec: keys come back in the order of the plan
            x_BE = _in_order(self.ebc(lookups), self.lookup_keys)
        if self.gate is not None:
            return self.gate(x_BE)
        return x_BE if self.combine is None else self.combine(x_BE)


class TableBatched(nn.Module):
    """All lookups of an unsharded collection in one FBGEMM call, in the policy's order.

    TorchRec's own unsharded collection runs one ``embedding_bag`` and one full dense gradient per
    (table, feature) pair; ``benchmarks/step.py`` measures both.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        index = {t.name: i for i, t in enumerate(policy.tables)}
        order = [index[k.table] for f in policy.features for k in f.lookups]
        dims = [t.dim for t in policy.tables]
        rows = [t.num_rows for t in policy.tables]
        starts = _running_sum([r * d for r, d in zip(rows, dims, strict=True)])
        row_starts = _running_sum(rows)
        self.total_dim = sum(dims[t] for t in order)
        self.max_dim = max(dims)
        self.row_bits = max(1, row_starts[-1]).bit_length()
        self.mixed = len(set(dims)) > 1

        def buffer(name: str, values: Sequence[int], dtype: torch.dtype) -> None:
            tensor = torch.tensor(values, dtype=dtype, device="cpu")  # not meta
            self.register_buffer(name, tensor, persistent=False)

        buffer("weights_offsets", [starts[t] for t in order], torch.int64)
        buffer("dim_offsets", _running_sum([dims[t] for t in order]), torch.int32)
        buffer("row_offsets", [*(row_starts[t] for t in order), row_starts[-1]], torch.int64)
        self._offsets = torch.empty(0, dtype=torch.int64)

    def forward(self, weights: list[torch.Tensor], lookups: KeyedJaggedTensor) -> torch.Tensor:
        """``x_BE`` = pooled rows of every lookup side by side, float32 (B, E)."""
        flat = torch.cat([w.view(-1) for w in weights]) if len(weights) > 1 else weights[0].view(-1)
        return torch.ops.fbgemm.dense_embedding_codegen_lookup_function(
            dev_weights=flat,
            weights_offsets=self.get_buffer("weights_offsets"),
            D_offsets=self.get_buffer("dim_offsets"),
            total_D=self.total_dim,
            max_D=self.max_dim,
            hash_size_cumsum=self.get_buffer("row_offsets"),
            total_hash_size_bits=self.row_bits,
            indices=lookups.values(),
            offsets=self._bag_offsets(lookups),
            pooling_mode=int(PoolingMode.SUM),
            indice_weights=lookups.weights_or_none(),
            feature_requires_grad=None,
            output_dtype=SparseType.FP32.as_int(),
            mixed_D=self.mixed,
        )

    def _bag_offsets(self, lookups: KeyedJaggedTensor) -> torch.Tensor:
        lengths, values = lookups.lengths(), lookups.values()
        if values.numel() == lengths.numel() and bool((lengths == 1).all()):
            if self._offsets.numel() != values.numel() + 1 or self._offsets.device != values.device:
                self._offsets = torch.arange(values.numel() + 1, device=values.device)
            return self._offsets
        return torch.ops.fbgemm.asynchronous_complete_cumsum(lengths.long())


class SumOrConcat(nn.Module):
    """``Combine`` for policies in which some feature adds its lookups instead of joining them."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.parts = [
            (f.combine, [policy.table(k.table).dim for k in f.lookups]) for f in policy.features
        ]

    def forward(self, lookups_BE: torch.Tensor) -> torch.Tensor:
        joined, start = [], 0
        for combine, dims in self.parts:
            part = lookups_BE[:, start : start + sum(dims)]
            start += sum(dims)
            if combine == "sum":
                part = part.reshape(part.shape[0], len(dims), dims[0]).sum(1)
            joined.append(part)
        return torch.cat(joined, dim=1)


def _all_concat(policy: Policy) -> bool:
    return all(f.combine == "concat" or len(f.lookups) == 1 for f in policy.features)


def _running_sum(values: Sequence[int]) -> list[int]:
    total = [0]
    for v in values:
        total.append(total[-1] + v)
    return total


@torch.fx.wrap  # type: ignore[untyped-decorator]
def _in_order(pooled: KeyedTensor, keys: list[str]) -> torch.Tensor:
    starts = dict(zip(pooled.keys(), pooled.offset_per_key(), strict=False))
    sizes = dict(zip(pooled.keys(), pooled.length_per_key(), strict=True))
    columns = torch.cat([torch.arange(starts[k], starts[k] + sizes[k]) for k in keys])
    values: torch.Tensor = pooled.values().index_select(1, columns.to(pooled.values().device))
    return values
