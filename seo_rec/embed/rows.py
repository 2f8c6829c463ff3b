"""Embeddings: ``Columns -> Remap -> EmbeddingBagCollection -> gate or Combine -> Project``.

Letters: B batch, K lookups, D one lookup's width, E sum of widths.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from torch import nn
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from seo_kernels import Blocks, chunk_bag, chunk_blocks, native
from seo_kernels.pages import ask_for_large_pages
from seo_kernels.row_bag import HALVES, Reads, RowLayout, read_rows
from seo_rec.embed.combine import Combine, Project, combines_ids
from seo_rec.embed.cross import Columns, needs_columns
from seo_rec.embed.flat import FlatArrays
from seo_rec.embed.initial import InitialRows
from seo_rec.embed.mlet import Factors
from seo_rec.embed.remap import Remap, row_lookups
from seo_rec.embed.sparse import SparseTables, TablePart
from seo_rec.methods import Mlet, inner_policy
from seo_rec.policy import Policy
from seo_rec.settings import INIT_SCALE

IN_ONE_PASS = ("cuda", "cpu")  # devices where ChunkBag is used; a CPU needs its C library
IN_FOURS = ("cuda",)  # devices where FBGEMM reads four floats at a time, from multiples of four
DATA_TYPES = {"float32": DataType.FP32, "float16": DataType.FP16, "bfloat16": DataType.BF16}
_MODULES = nn.ModuleDict()  # only to ask which names it takes


class Gate(Protocol):
    """What a search puts between the looked-up rows and the backbone, in place of ``Combine``."""

    def widths(self, policy: Policy) -> tuple[int, ...]:
        """Widths of the parts of the gate's output, in order."""
        ...

    def __call__(self, lookups_BE: torch.Tensor) -> torch.Tensor: ...


@runtime_checkable
class ScalingGate(Gate, Protocol):
    """A gate that may do no more than multiply each lookup by a number of its own."""

    def scales(self) -> torch.Tensor | None:
        """These numbers, (K,); None where the gate does more."""
        ...


def table_key(table: str) -> str:
    """The name of a table's module: its own, unless ``nn.ModuleDict`` refuses that one.

    Column names such as ``type``, ``items`` and ``user.id`` are good table names and no module
    names; they are quoted after a prefix, one to one.
    """
    if "." not in table and not table.startswith("quoted-") and not hasattr(_MODULES, table):
        return table
    return "quoted-" + table.replace("%", "%25").replace(".", "%2E")


def table_configs(
    policy: Policy, init_scale: float = INIT_SCALE, storage: str = "float32"
) -> list[EmbeddingBagConfig]:
    """The policy's tables as TorchRec configs; the features of a table are lookup keys."""
    readers: dict[str, list[str]] = {t.name: [] for t in policy.tables}
    for key, _, lookup in row_lookups(policy):
        readers[lookup.table].append(key)
    start = initial_ranges(policy, init_scale)
    return [
        EmbeddingBagConfig(
            name=table_key(t.name),
            num_embeddings=t.num_rows,
            embedding_dim=t.dim,
            feature_names=readers[t.name],
            pooling=PoolingType.SUM,
            weight_init_min=start[t.name][0],
            weight_init_max=start[t.name][1],
            data_type=DATA_TYPES[storage],
        )
        for t in policy.tables
    ]


def initial_ranges(policy: Policy, init_scale: float) -> dict[str, tuple[float, float]]:
    """Where the weights of each table start: uniform in this range.

    Ranges are such that every feature's vector starts with the variance of a plain row, that of
    [-init_scale, init_scale]. The k factors of a product start wider: variances multiply. The k
    importance weights of an id start around 1 / sqrt(k), and apart, so that ids with the same rows
    do not start alike.
    """
    ranges = {t.name: (-init_scale, init_scale) for t in policy.tables}
    for f in policy.features:
        if f.combine == "mul":
            for k in f.lookups:
                # the map of a projection starts with a third of the variance that keeps lengths
                product = init_scale * (1 if f.project is None else math.sqrt(3.0))
                wide = math.sqrt(3.0) * (product / math.sqrt(3.0)) ** (1 / len(f.lookups))
                ranges[k.table] = (-wide, wide) if len(f.lookups) > 1 else ranges[k.table]
    for f in policy.features:
        if f.weights is not None:
            mean = 1 / math.sqrt(len(f.lookups))
            ranges[f.weights.table] = (0.5 * mean, 1.5 * mean)
    return ranges


class PolicyEmbedding(nn.Module):
    """The embeddings of any policy: rows of tables, and of flat arrays where it has some.

    ``x_f[b] = W_f sum_{i in bag(b, f)} w_i * combine_k(v_k(i))``, side by side for all features f;
    an empty bag gives zeros. Where ``combine`` is ``concat`` or ``sum``, the tables sum the bags
    before it, which is the same; W_f is there where the feature has a ``project``.

    ``ebc`` holds the tables (``DistributedModelParallel`` shards it), ``flat`` the arrays,
    ``project`` the maps W; the latter two are None where the policy has none. With ``mlet`` the
    tables of ``ebc`` are the first of two layers, ``factors`` is the second, and ``stored`` is the
    policy with their widths; without it, ``stored`` is ``policy``.

    ``columns`` makes the features' ids of those of the data's columns; it is None where every
    feature reads the one column of its own name.

    An unsharded collection of tables that are read by hash alone is looked up by
    :class:`ChunkBag`, a :class:`ScalingGate` included; ``chunks`` is None for other policies.

    Args:
        policy: tables, features and lookups.
        gate: applied to the concatenated lookups in place of ``Combine``; see :class:`Gate`.
        init_scale: weights start uniform in [-init_scale, init_scale].
        device: where the tables are made (``meta`` for planning).
        weighted: whether a sharded collection reads the weights of ids; an unsharded one always
            does.
        mlet: trains the tables as two layers; :meth:`collapsed` makes them one.
        seed: of the tables' initial rows (:class:`InitialRows`); None draws one from torch.
        tables_on_meta: leave the tables without memory; ``distribute`` makes their shards.
        storage: the type of the tables' weights, one of :data:`seo_rec.settings.STORAGES`; with
            another one than float32 only :class:`SparseTables` train them.
    """

    def __init__(
        self,
        policy: Policy,
        gate: Gate | None = None,
        init_scale: float = INIT_SCALE,
        device: torch.device | None = None,
        weighted: bool = False,
        mlet: Mlet | None = None,
        seed: int | None = None,
        tables_on_meta: bool = False,
        storage: str = "float32",
    ) -> None:
        super().__init__()
        self.policy, self.storage = policy, storage
        self.stored = policy if mlet is None else inner_policy(policy, mlet)
        self.columns = Columns(policy) if needs_columns(policy) else None
        self.remap = Remap(policy)
        self.lookup_keys = self.remap.keys  # a pipeline puts a wrapper without keys in its place
        self.table_keys = [table_key(t.name) for t in policy.tables]
        if seed is None:
            seed = int(torch.randint(2**62, (1,), device="cpu"))
        self.initial = InitialRows(seed, initial_ranges(policy, init_scale))
        self.ebc = EmbeddingBagCollection(
            tables=table_configs(self.stored, init_scale, storage),
            is_weighted=weighted,
            device=torch.device("meta"),  # torch would fill the tables with other numbers
        )
        if not tables_on_meta and (device is None or device.type != "meta"):
            self._make_tables(device)
        self.factors = None if mlet is None else Factors(policy, mlet, self.table_keys, device)
        self.flat = FlatArrays(policy, init_scale, device) if policy.arrays else None
        self.gate = gate
        plain = _all_concat(policy) and not (policy.arrays and policy.tables)
        self.combine = None if plain else Combine(policy)
        self.project = None if _no_project(policy) else _project(policy, device)
        self.batched = TableBatched(self.stored) if policy.tables else None
        self.chunks = ChunkBag(self.stored) if policy.tables and _by_hash(policy) else None
        self.sparse: SparseTables | None = None
        self.sparse_shards: list[SparseTables] = []
        if gate is not None and (
            policy.arrays
            or mlet is not None
            or not _no_project(policy)
            or any(map(combines_ids, policy.features))
        ):
            raise ValueError(
                "a gate takes the place of combine and project, and sees rows; give it a policy "
                "without flat arrays and projections, whose features have combine 'concat' or "
                "'sum', and no MLET"
            )

    def _make_tables(self, device: torch.device | None) -> None:
        for t, key in zip(self.stored.tables, self.table_keys, strict=True):
            weight = torch.empty(t.num_rows, t.dim, dtype=_type_of(self.storage), device=device)
            ask_for_large_pages(weight)
            self.initial.fill(t.name, t.dim, weight)
            self.ebc.embedding_bags[key].weight = nn.Parameter(weight)
        self.ebc._device = weight.device if self.stored.tables else torch.device("cpu")

    @property
    def dims(self) -> tuple[int, ...]:
        """Widths of the parts of ``x_BE``; their sum is E."""
        return self.policy.widths if self.gate is None else self.gate.widths(self.policy)

    def forward(self, features: KeyedJaggedTensor) -> torch.Tensor:
        """``KJT[columns] -> x_BE`` float32 (B, E)."""
        if self.columns is not None:
            features = self.columns(features)
        rows_VE = scales_K = None
        if self.sparse is not None:
            rows_VE = self._look_up_sparsely(features, self.sparse)
        elif self.storage == "float32" and self.chunks is not None and self._in_one_pass(features):
            if self.gate is not None and isinstance(self.gate, ScalingGate):
                scales_K = self.gate.scales()
            rows_VE = self.chunks(self._tables(), features, scales_K)
        elif self.batched is not None:
            rows_VE = self._look_up(features, self.batched)
        if self.factors is not None:
            rows_VE = self.factors(rows_VE)
        if self.gate is not None:
            assert rows_VE is not None
            return self.gate(rows_VE) if scales_K is None else rows_VE
        blocks_BE = None if self.flat is None else self.flat(features)
        if self.combine is not None:
            x_BE = self.combine(rows_VE, blocks_BE, features)
        else:
            x_BE = rows_VE if blocks_BE is None else blocks_BE
        return x_BE if self.project is None else self.project(x_BE)

    def keep_sparse_gradients(self) -> SparseTables:
        """From now on the backward pass keeps the gradients of the rows read, not of the tables.

        For an unsharded embedding, whose tables :class:`seo_rec.train.SparseRows` then updates.
        """
        index = {t.name: i for i, t in enumerate(self.stored.tables)}
        table_of = [index[k.table] for _, _, k in row_lookups(self.stored)]
        parts = [TablePart(key) for key in self.table_keys]
        self.sparse = SparseTables(self._tables(), table_of, parts=parts)
        return self.sparse

    def readdress(self, policy: Policy) -> None:
        """Read rows as ``policy`` says from now on, which a search changes while it trains.

        For an unsharded embedding without MLET whose tables are not read by hash alone.

        Args:
            policy: It differs from the present one in the seeds of lookups and in codes alone.
        """
        assert self.chunks is None and self.factors is None
        self.policy = self.stored = policy
        self.remap.readdress(policy)

    @torch.no_grad()
    def collapsed(self) -> PolicyEmbedding:
        """The same outputs from tables of one layer; for an unsharded embedding."""
        state = {n: v for n, v in self.state_dict().items() if not n.startswith("factors.")}
        if self.factors is not None:
            for key in self.table_keys:
                name = f"ebc.embedding_bags.{key}.weight"
                state[name] = self.factors.collapsed(key, state[name])
        with torch.random.fork_rng(devices=[]):
            single = PolicyEmbedding(self.policy, weighted=self.ebc.is_weighted(), seed=0)
        single.load_state_dict(state)
        return single.to(next(iter(state.values())).device)

    def _in_one_pass(self, features: KeyedJaggedTensor) -> bool:
        """Whether :class:`ChunkBag` is used: unsharded, with the policy's features in order."""
        device = features.device().type
        return (
            type(self.ebc) is EmbeddingBagCollection
            and device in IN_ONE_PASS
            and (device != "cpu" or native.missing() is None)
            and features.keys() == self.remap.names
        )

    def _tables(self) -> list[torch.Tensor]:
        bags = self.ebc.embedding_bags
        return [bags[key].weight for key in self.table_keys]

    def _look_up_sparsely(self, features: KeyedJaggedTensor, tables: SparseTables) -> torch.Tensor:
        lookups = self.remap(features)
        return tables.look_up(
            lookups.values(), bag_offsets(lookups), lookups.weights_or_none(), lookups.stride()
        )

    def _look_up(self, features: KeyedJaggedTensor, batched: TableBatched) -> torch.Tensor:
        if type(self.ebc) is EmbeddingBagCollection:
            return batched(self._tables(), self.remap(features))
        # sharded by TorchRec: keys come back in the order of the plan
        return _in_order(self.ebc(self.remap(features, True)), self.lookup_keys)


class TableBatched(nn.Module):
    """All lookups of an unsharded collection in one FBGEMM call, in the policy's order.

    TorchRec's own unsharded collection runs one ``embedding_bag`` and one full dense gradient per
    (table, feature) pair; ``benchmarks/speed/step.py`` measures both. On devices of
    :data:`IN_FOURS` the rows that FBGEMM reads are filled up with zeros to multiples of four
    floats, which are not returned; the parameters stay as wide as the policy says.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.exact = _Layout(policy, 1)
        self.fours = _Layout(policy, 4) if any(t.dim % 4 for t in policy.tables) else None
        index = {t.name: i for i, t in enumerate(policy.tables)}
        table_of = [index[k.table] for _, _, k in row_lookups(policy)]
        self.layout = RowLayout(table_of, [t.dim for t in policy.tables])
        self._offsets = torch.empty(0, dtype=torch.int64)

    def forward(self, weights: list[torch.Tensor], lookups: KeyedJaggedTensor) -> torch.Tensor:
        """``x_BE`` = pooled rows of every lookup side by side, float32 (B, E)."""
        of_16_bits = weights[0].dtype in HALVES
        if not torch.is_grad_enabled() and (of_16_bits or not weights[0].is_cuda):
            return self._read(weights, lookups)
        if of_16_bits:
            raise RuntimeError(
                f"a gradient of whole tables of {weights[0].dtype}; allowed: the gradients of the "
                "rows that were read (keep_sparse_gradients, which make_optimizers calls)"
            )
        filled = self.fours if weights[0].device.type in IN_FOURS else None
        if filled is None:
            return self._look_up(self.exact, weights, lookups)
        padded = [nn.functional.pad(w, (0, -w.shape[1] % 4)) for w in weights]
        return self._look_up(filled, padded, lookups).index_select(1, filled.columns)

    def _read(self, weights: list[torch.Tensor], lookups: KeyedJaggedTensor) -> torch.Tensor:
        """The same without gradients: the tables are read where they are, not copied together."""
        tables = [w.detach() for w in weights]
        bags, factors = bag_offsets(lookups), lookups.weights_or_none()
        return read_rows(
            tables, self.layout, Reads(lookups.values(), bags, factors, lookups.stride())
        )

    def _look_up(
        self, layout: _Layout, weights: list[torch.Tensor], lookups: KeyedJaggedTensor
    ) -> torch.Tensor:
        return torch.ops.fbgemm.dense_embedding_codegen_lookup_function(
            dev_weights=_one_after_the_other(weights),
            weights_offsets=layout.weights_offsets,
            D_offsets=layout.dim_offsets,
            total_D=layout.total_dim,
            max_D=layout.max_dim,
            hash_size_cumsum=layout.row_offsets,
            total_hash_size_bits=layout.row_bits,
            indices=lookups.values(),
            offsets=self._bag_offsets(lookups),
            pooling_mode=int(PoolingMode.SUM),
            indice_weights=lookups.weights_or_none(),
            feature_requires_grad=None,
            output_dtype=SparseType.FP32.as_int(),
            mixed_D=layout.mixed,
        )

    def _bag_offsets(self, lookups: KeyedJaggedTensor) -> torch.Tensor:
        offsets, values = bag_offsets(lookups), lookups.values()
        if offsets is not None:
            return offsets
        if self._offsets.numel() != values.numel() + 1 or self._offsets.device != values.device:
            self._offsets = torch.arange(values.numel() + 1, device=values.device)
        return self._offsets


def bag_offsets(lookups: KeyedJaggedTensor) -> torch.Tensor | None:
    """Where the bags of all lookups begin, int64 (K * B + 1); None where each holds one id."""
    lengths = lookups.lengths()
    if lookups.values().numel() == lengths.numel() and bool((lengths == 1).all()):
        return None
    return torch.ops.fbgemm.asynchronous_complete_cumsum(lengths.long())


class _Layout(nn.Module):
    """Where FBGEMM finds tables that lie one after the other, and what it writes.

    Args:
        policy: its tables and lookups, in order.
        multiple: rows begin at, and are as long as, multiples of so many floats.
    """

    weights_offsets: torch.Tensor
    dim_offsets: torch.Tensor
    row_offsets: torch.Tensor
    columns: torch.Tensor  # of the output: those that are a table's own

    def __init__(self, policy: Policy, multiple: int) -> None:
        super().__init__()
        index = {t.name: i for i, t in enumerate(policy.tables)}
        order = [index[k.table] for _, _, k in row_lookups(policy)]
        own = [t.dim for t in policy.tables]
        dims = [-(-d // multiple) * multiple for d in own]
        rows = [t.num_rows for t in policy.tables]
        starts = _running_sum([r * d for r, d in zip(rows, dims, strict=True)])
        row_starts = _running_sum(rows)
        dim_starts = _running_sum([dims[t] for t in order])
        self.total_dim = dim_starts[-1]
        self.max_dim = max(dims)
        self.row_bits = max(1, row_starts[-1]).bit_length()
        self.mixed = len(set(dims)) > 1
        columns = [s + c for s, t in zip(dim_starts, order, strict=False) for c in range(own[t])]

        def buffer(name: str, values: Sequence[int], dtype: torch.dtype) -> None:
            tensor = torch.tensor(values, dtype=dtype, device="cpu")  # not meta
            self.register_buffer(name, tensor, persistent=False)

        buffer("weights_offsets", [starts[t] for t in order], torch.int64)
        buffer("dim_offsets", dim_starts, torch.int32)
        buffer("row_offsets", [*(row_starts[t] for t in order), row_starts[-1]], torch.int64)
        buffer("columns", columns, torch.int64)


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


def _type_of(storage: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, storage)
    return found


def _one_after_the_other(weights: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([w.view(-1) for w in weights]) if len(weights) > 1 else weights[0].view(-1)


def _by_hash(policy: Policy) -> bool:
    """Whether tables are read by hash alone, in bags that they may sum."""
    hashed = all(k.address == "hash" for _, _, k in row_lookups(policy))
    return hashed and not any(map(combines_ids, policy.features))


def _all_concat(policy: Policy) -> bool:
    return all(
        f.combine != "weighted_sum" and (f.combine == "concat" or len(f.lookups) == 1)
        for f in policy.features
    )


def _no_project(policy: Policy) -> bool:
    return all(f.project is None for f in policy.features)


def _project(policy: Policy, device: torch.device | None) -> Project:
    keys = [table_key(f.name) for f in policy.features]
    widths = [policy.combined_width(f) for f in policy.features]
    return Project(keys, widths, [f.project for f in policy.features], device)


def _running_sum(values: Sequence[int]) -> list[int]:
    total = [0]
    for v in values:
        total.append(total[-1] + v)
    return total


@torch.fx.wrap  # type: ignore[untyped-decorator]
def _in_order(pooled: KeyedTensor, keys: list[str]) -> torch.Tensor:
    values = pooled.values()
    found, widths = tuple(pooled.keys()), tuple(pooled.length_per_key())
    order = _order(found, widths, tuple(keys), values.device)
    return values if order is None else _Permute.apply(values, *order)


@functools.lru_cache(maxsize=64)  # a model asks for the same one in every step
def _order(
    found: tuple[str, ...], widths: tuple[int, ...], keys: tuple[str, ...], device: torch.device
) -> tuple[int, torch.Tensor, torch.Tensor] | None:
    """How to bring the keys ``found`` into the order of ``keys``; None if they are in it.

    Returns:
        Columns that always stay together, and in units of them, which one comes to each place and
        to which place each one goes.
    """
    if found == keys:
        return None
    unit = math.gcd(*widths)
    starts = dict(zip(found, _running_sum(widths), strict=False))
    sizes = dict(zip(found, widths, strict=True))
    places = [n // unit for k in keys for n in range(starts[k], starts[k] + sizes[k], unit)]
    there = torch.tensor(places, device="cpu")
    assert len(places) == sum(widths) // unit, "the tables give other lookups than the policy's"
    return unit, there.to(device), torch.argsort(there).to(device)


class _Permute(torch.autograd.Function):
    """Blocks of columns in another order.

    The gradient is the opposite permutation, which reads and writes every number once; that of
    ``index_select`` would add into zeros, as if a column could be taken twice.
    """

    @staticmethod
    def forward(
        ctx: Any, x_BE: torch.Tensor, unit: int, there: torch.Tensor, back: torch.Tensor
    ) -> torch.Tensor:
        ctx.unit, ctx.back = unit, back
        return _take(x_BE, unit, there)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return _take(gradients[0], ctx.unit, ctx.back), None, None, None


def _take(x_BE: torch.Tensor, unit: int, blocks: torch.Tensor) -> torch.Tensor:
    return x_BE.reshape(len(x_BE), x_BE.shape[1] // unit, unit).index_select(1, blocks).flatten(1)
