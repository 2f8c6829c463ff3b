"""Embeddings: ``Columns -> Remap -> EmbeddingBagCollection -> gate or Combine -> Project``.

Letters: B batch, K lookups, D one lookup's width, E sum of widths.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from seo_kernels import native
from seo_kernels.pages import ask_for_large_pages
from seo_rec.embed.batched import TableBatched, bag_offsets
from seo_rec.embed.chunks import ChunkBag
from seo_rec.embed.combine import Combine, Project, combines_ids
from seo_rec.embed.cross import Columns, needs_columns
from seo_rec.embed.flat import FlatArrays
from seo_rec.embed.fused import FusedTables
from seo_rec.embed.initial import InitialRows
from seo_rec.embed.mlet import Factors
from seo_rec.embed.order import Permute, order_of
from seo_rec.embed.remap import Remap, row_lookups
from seo_rec.embed.sparse import SparseTables, TableLookups, TablePart
from seo_rec.embed.tables import initial_ranges, table_configs, table_key
from seo_rec.methods import Mlet, inner_policy
from seo_rec.policy import Policy
from seo_rec.settings import INIT_SCALE

IN_ONE_PASS = ("cuda", "cpu")  # devices where ChunkBag is used; a CPU needs its C library


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
        self.sparse: TableLookups | None = None
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
        parts = [TablePart(key) for key in self.table_keys]
        self.sparse = found = SparseTables(self._tables(), self._table_of(), parts=parts)
        return found

    def update_in_backward(self, optimizer: str, eps: float, device: torch.device) -> FusedTables:
        """From now on the backward pass updates the rows read, in tables on the device.

        For an unsharded embedding; its parameters are parts of what FBGEMM holds.

        Args:
            optimizer: ``sgd``, ``adagrad`` or ``rowwise_adagrad``.
            eps: See :class:`FusedTables`.
            device: Where the tables are from now on.
        """
        weights = [w.detach() for w in self._tables()]
        self.sparse = found = FusedTables(
            weights, self._table_of(), optimizer, eps=eps, device=device
        )
        for key, weight in zip(self.table_keys, found.weights, strict=True):
            self.ebc.embedding_bags[key].weight = nn.Parameter(weight)
        return found

    def _table_of(self) -> list[int]:
        """Of every lookup, the number of its table."""
        index = {t.name: i for i, t in enumerate(self.stored.tables)}
        return [index[k.table] for _, _, k in row_lookups(self.stored)]

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

    def _look_up_sparsely(self, features: KeyedJaggedTensor, tables: TableLookups) -> torch.Tensor:
        lookups = self.remap(features)
        return tables.look_up(
            lookups.values(), bag_offsets(lookups), lookups.weights_or_none(), lookups.stride()
        )

    def _look_up(self, features: KeyedJaggedTensor, batched: TableBatched) -> torch.Tensor:
        if type(self.ebc) is EmbeddingBagCollection:
            return batched(self._tables(), self.remap(features))
        # sharded by TorchRec: keys come back in the order of the plan
        return _in_order(self.ebc(self.remap(features, True)), self.lookup_keys)


def _type_of(storage: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, storage)
    return found


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


@torch.fx.wrap  # type: ignore[untyped-decorator]
def _in_order(pooled: KeyedTensor, keys: list[str]) -> torch.Tensor:
    values = pooled.values()
    found, widths = tuple(pooled.keys()), tuple(pooled.length_per_key())
    order = order_of(found, widths, tuple(keys), values.device)
    return values if order is None else Permute.apply(values, *order)
