"""What a piece of a table costs: TorchRec's estimators, fed with what the policy knows.

TorchRec's planner counts one read per table and sample unless it is told otherwise; a policy's
table is read by as many lookups as chose it, each with its feature's mean bag length.

Letters: B rows of one rank's batch, W ranks, R rows of a table, D width.
"""

from __future__ import annotations

import copy
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torchrec
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import Topology as TorchRecTopology
from torchrec.distributed.planner.constants import HBM_TO_DDR_MEM_BW
from torchrec.distributed.planner.enumerators import get_partition_by_type
from torchrec.distributed.planner.shard_estimators import (
    EmbeddingPerfEstimator,
    EmbeddingStorageEstimator,
)
from torchrec.distributed.planner.types import Shard, ShardingOption
from torchrec.distributed.planner.utils import build_sharder_data_map, sharder_name
from torchrec.distributed.types import CacheParams, ShardingType
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from seo_rec.plan.offload import Cache, Counts, bandwidth
from seo_rec.plan.reads import popularities, reads_by_table
from seo_rec.plan.topology import Topology
from seo_rec.policy import Policy, Table
from seo_rec.policy.dtypes import FLOAT_BYTES

PHASES = ("input_dist", "lookup", "output_dist", "gradient_dist", "update")
# Collectives of a step for every kind of sharding, by phase: lengths and ids, vectors, gradients.
_SHARDED_EXCHANGES = (2, 0, 1, 1, 0)
LANES = 4  # floats that FBGEMM's kernels for GPUs read at a time
_COPIED_EXCHANGES = (0, 0, 0, 1, 0)  # data-parallel tables have one all-reduce
_MACHINE_EXCHANGES = (2, 0, 2, 2, 0)  # vectors are added within a machine, then sent to others
ROW_OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "lazy_adam": torch.optim.Adam,
    "adagrad": torch.optim.Adagrad,
    "rowwise_adagrad": torchrec.optim.RowWiseAdagrad,
    "sgd": torch.optim.SGD,
}
# Passes over a table that an optimizer on dense gradients makes in a step, in table sizes:
# gradient zeroed and filled, read with the weights and states, weights and states written.
_DENSE_PASSES = {"adam": 8.0, "lazy_adam": 8.0, "adagrad": 6.0, "rowwise_adagrad": 5.0, "sgd": 4.0}
_CONCATENATED = 2.0  # passes over a table that is copied behind others: read, and written
# TorchRec takes a backward pass with the update fused into it for two forward passes; on CPU it
# was measured at five (benchmarks/results/throughput.jsonl, Adagrad).
_FUSED_ON_CPU = 2.5
_FEWEST_IDS = 1e-3  # a feature that is nearly always empty still costs its empty bags
RESERVED = 0.15  # of a device, for dense layers, activations, buffers and fragmentation
_TABLE_WISE = ShardingType.TABLE_WISE.value
_DATA_PARALLEL = ShardingType.DATA_PARALLEL.value
_ON_MACHINE = (ShardingType.TABLE_ROW_WISE.value, ShardingType.GRID_SHARD.value)
_ROW_WISE = ShardingType.ROW_WISE.value


def updates_rows(kind: str, row_optimizer: str, row_l2: float) -> bool:
    """Whether an update touches the rows of a batch only; if not, a table has a dense gradient.

    Adam and an L2 penalty of all rows move every row in every step, and a data-parallel table has
    its gradients all-reduced first.

    Args:
        kind: Of sharding.
        row_optimizer: A key of :data:`ROW_OPTIMIZERS`.
        row_l2: L2 penalty of all rows of the tables.
    """
    return row_optimizer != "adam" and not row_l2 and kind != _DATA_PARALLEL


@dataclass(frozen=True)
class Price:
    """Milliseconds of every phase (:data:`PHASES`) and bytes of one piece on its rank.

    ``host`` are bytes that lie outside the device, of a table with a cache.
    """

    phases: tuple[float, ...]
    memory: int
    host: int = 0

    @property
    def ms(self) -> float:
        return sum(self.phases)


class Prices:
    """Prices of pieces of a policy's tables on a topology, worked out once each.

    Args:
        policy: tables and lookups.
        topology: devices.
        batch_size: rows of one rank's batch, B.
        row_optimizer: a key of :data:`ROW_OPTIMIZERS`.
        rates: mean ids per bag by column of the data (None: 1).
        row_l2: weight decay of the tables; above 0, all have dense gradients.
        counts: how often each id of a column occurs, for the hit rates of caches; None, or None of
            a column: unknown, and rows are taken to be read evenly.
        storage: type of the weights of tables, whose states and gradients are float32 in any case;
            times are counted as for float32.
    """

    def __init__(
        self,
        policy: Policy,
        topology: Topology,
        batch_size: int,
        row_optimizer: str,
        rates: Mapping[str, float] | None,
        row_l2: float = 0.0,
        counts: Counts | None = None,
        storage: str = "float32",
    ) -> None:
        self.topology = topology
        self.saved = 4 - FLOAT_BYTES[storage]  # bytes of every float of a table
        self.batch_size = batch_size
        self.row_optimizer = row_optimizer
        self.row_l2 = row_l2
        self.alone = topology.world_size == 1  # then nothing is sharded, and nothing fused
        self.tables = {t.name: t for t in policy.tables}
        self.reads = reads_by_table(policy, rates)
        self.cached: Mapping[str, Cache] = {}
        self._popularity = popularities(policy, rates, counts)
        self._hits: dict[tuple[str, float], float] = {}
        self.arrays = {a.name: a.size for a in policy.arrays}
        target = torchrec_topology(topology)
        self._perf = EmbeddingPerfEstimator(topology=target)
        self._storage = EmbeddingStorageEstimator(topology=target)
        sharder = EmbeddingBagCollectionSharder()
        self._sharders = build_sharder_data_map({sharder_name(sharder.module_type): sharder})
        config = EmbeddingBagConfig(
            name="t", num_embeddings=1, embedding_dim=4, feature_names=["f"]
        )
        self._module = EmbeddingBagCollection(tables=[config], device=torch.device("meta"))
        self._known: dict[tuple[str, str, int, int, Cache | None], Price] = {}

    def with_cache(self, cached: Mapping[str, Cache]) -> Prices:
        """The same prices with these tables outside the devices, and all others within."""
        changed = copy.copy(self)  # what was worked out stays known to both
        changed.cached = cached
        return changed

    def hit_rate(self, table: str) -> float:
        """Of the cache of ``table``; see :meth:`Popularity.hit_rate`."""
        key = table, self.cached[table].load_factor
        if key not in self._hits:
            self._hits[key] = self._popularity(table).hit_rate(key[1])
        return self._hits[key]

    def flat_bytes(self) -> int:
        """Flat arrays on every rank, with states, gradients and the bucket of their exchange."""
        states = {"adam": 2, "lazy_adam": 2, "adagrad": 1}.get(self.row_optimizer, 0)
        return 4 * sum(self.arrays.values()) * (2 + (not self.alone) + states)

    def table_bytes(self, row_optimizer: str) -> int:
        """All tables whole, with states and gradients under another optimizer; no buffers."""
        states = {"adam": 2, "lazy_adam": 2, "adagrad": 1}.get(row_optimizer, 0)
        return sum(
            t.num_rows
            * t.dim
            * (4 * (1 + states + self._copies(_TABLE_WISE, row_optimizer)) - self.saved)
            for t in self.tables.values()
        )

    def _copies(self, kind: str, row_optimizer: str) -> int:
        """Times that a piece is held besides weights and states: gradients, and where else."""
        if self.alone and not updates_rows(kind, row_optimizer, self.row_l2):
            # its gradient, and all tables one after the other for one lookup
            return 1 + (len(self.tables) > 1)
        if kind == _DATA_PARALLEL:  # its gradient, and the bucket of its exchange
            return 2
        return int(not updates_rows(kind, row_optimizer, self.row_l2))

    def exchanges_ms(self, kinds: Iterable[str]) -> tuple[float, ...]:
        """What exchanges cost however little they send, by phase, if ``kinds`` are in the plan."""
        if self.alone:
            return (0.0,) * len(PHASES)
        other = {_DATA_PARALLEL: _COPIED_EXCHANGES} | dict.fromkeys(_ON_MACHINE, _MACHINE_EXCHANGES)
        each = [other.get(k, _SHARDED_EXCHANGES) for k in set(kinds)]
        return tuple(self.topology.exchange_ms * sum(n) for n in zip(*each, strict=True))

    def lookups_per_sample(self, table: str, kind: str) -> float:
        """Rows of ``table`` that one rank reads per sample of the whole batch."""
        return sum(self.reads[table]) / self._sharers(kind)

    def _sharers(self, kind: str) -> int:
        """Ranks that share the reads of a piece; each has its own part of the rows or the batch."""
        if kind in _ON_MACHINE:
            return self.topology.local_size
        return self.topology.world_size if kind in (_ROW_WISE, _DATA_PARALLEL) else 1

    def price(self, table: str, kind: str, rows: int, columns: int) -> Price:
        """Price of a piece of ``rows`` x ``columns`` of ``table``, sharded as ``kind``."""
        key = (table, kind, rows, columns, self.cached.get(table))
        if key not in self._known:
            self._known[key] = self._work_out(self.tables[table], kind, rows, columns)
        return self._known[key]

    def _work_out(self, table: Table, kind: str, rows: int, columns: int) -> Price:
        option = self._option(table, kind, rows, columns, floor=_FEWEST_IDS)
        self._perf.estimate([option], self._sharders)
        perf = option.shards[0].perf
        assert perf is not None
        reads = [max(r, _FEWEST_IDS) for r in self.reads[table.name]]
        # TorchRec lets bags that are empty travel for nothing; pooled vectors travel all the same.
        full = len(reads) / sum(min(1.0, r) for r in reads)
        lookup, update, gradients = perf.fwd_compute, perf.bwd_compute, perf.bwd_comms * full
        size = 4e3 * rows * columns  # bytes, in thousandths: times are milliseconds
        if kind == _DATA_PARALLEL:
            # The kernels of a whole table run on this rank's bags; TorchRec halves their
            # bandwidth, leaves out what narrow rows cost, counts the optimizer as exchange, and
            # sends over the network what stays in one machine.
            whole = self.price(table.name, _TABLE_WISE, rows, columns).phases[1]
            lookup = whole / self.topology.world_size
            update = 2 * lookup
            gradients = size * self.topology.all_reduce
        sparse = updates_rows(kind, self.row_optimizer, self.row_l2)
        if not sparse:
            update += _DENSE_PASSES[self.row_optimizer] * size / self.topology.stream_bandwidth
        elif self.topology.device == "cpu":
            update *= _FUSED_ON_CPU
        fetched, stored = self._transfers(table, rows, columns)
        if self.alone:
            if len(self.tables) > 1 and not sparse:
                lookup += _CONCATENATED * size / self.topology.stream_bandwidth
            phases = (0.0, lookup, 0.0, 0.0, update)
        else:
            outputs = perf.fwd_comms * full
            inputs = perf.input_dist_comms / self._sharers(kind)  # TorchRec sends all ids to each
            phases = (inputs, lookup + fetched, outputs, gradients, update + stored)
        return Price(phases, *self._memory(table, kind, rows, columns))

    def _transfers(self, table: Table, rows: int, columns: int) -> tuple[float, float]:
        """Milliseconds on the bus of a piece of a cached table: rows fetched, and rows stored.

        A row that was not in the cache comes, and one that was changed goes. States of single
        weights have no cache in FBGEMM: they come and go for every row of a batch.
        """
        cache = self.cached.get(table.name)
        if cache is None:
            return 0.0, 0.0
        popularity = self._popularity(table.name)
        reads = sum(self.reads[table.name]) * self.batch_size * self.topology.world_size
        distinct = popularity.distinct(reads)
        missing = min(distinct, reads * (1 - self.hit_rate(table.name)))
        row_ms = 4e3 * columns / bandwidth(cache.kernel, self.topology) * rows / table.num_rows
        states = 2 * distinct if self.row_optimizer == "adagrad" else 0.0
        return missing * row_ms, (missing + states) * row_ms

    def _memory(self, table: Table, kind: str, rows: int, columns: int) -> tuple[int, int]:
        """Bytes on the device and outside: weights, states, dense gradients, ids and vectors."""
        option = self._option(table, kind, rows, columns, floor=1.0)
        option.tensor._optimizer_classes = [ROW_OPTIMIZERS[self.row_optimizer]]
        cache, state = self.cached.get(table.name), 0
        if cache is not None:
            option.compute_kernel = EmbeddingComputeKernel.FUSED_UVM_CACHING.value
            option.cache_params = CacheParams(load_factor=cache.load_factor)
            if self.row_optimizer == "rowwise_adagrad":
                # FBGEMM has one number per row on the device; TorchRec counts those of cached rows
                state = math.ceil(4 * rows * (1 - cache.load_factor))
        self._storage.estimate([option], self._sharders)
        storage = option.shards[0].storage
        assert storage is not None
        copies = self._copies(kind, self.row_optimizer)
        if cache is not None:
            return int(storage.hbm) + state, int(storage.ddr)
        return int(storage.hbm + storage.ddr) + (4 * copies - self.saved) * rows * columns, 0

    def _option(
        self, table: Table, kind: str, rows: int, columns: int, floor: float
    ) -> ShardingOption:
        """One shard in TorchRec's terms; lookups of one rate are one input read several times."""
        counts = Counter(max(r, floor) for r in self.reads[table.name])
        rates = sorted(counts)
        # TorchRec's two kernels differ in bandwidth only; gradients and updates are ours to count
        copied = kind == _DATA_PARALLEL
        kernel = EmbeddingComputeKernel.DENSE if copied else EmbeddingComputeKernel.FUSED
        return ShardingOption(
            name="t",
            tensor=torch.empty(table.num_rows, table.dim, device="meta"),
            module=("", self._module),
            input_lengths=rates,
            num_poolings=[float(counts[r]) for r in rates],
            batch_size=self.batch_size,
            sharding_type=kind,
            partition_by=get_partition_by_type(kind),
            compute_kernel=kernel.value,
            shards=[Shard(size=[rows, columns], offset=[0, 0])],
            is_pooled=True,
        )


def torchrec_topology(topology: Topology) -> TorchRecTopology:
    """The same machines for TorchRec, whose unit is bytes per millisecond."""
    notice = logging.getLogger("torchrec.distributed.planner.types")
    level = notice.level
    notice.setLevel(logging.ERROR)  # it warns of every topology that is not Meta's own
    try:
        cuda = topology.device == "cuda"
        return TorchRecTopology(
            world_size=topology.world_size,
            local_world_size=topology.local_size,
            compute_device=topology.device,
            hbm_cap=topology.memory_bytes if cuda else 0,
            ddr_cap=(topology.host_memory_bytes or None) if cuda else topology.memory_bytes,
            hbm_mem_bw=topology.lookup_bandwidth / 1e3,
            ddr_mem_bw=topology.lookup_bandwidth / 1e3,
            hbm_to_ddr_mem_bw=topology.host_bandwidth / 1e3 or HBM_TO_DDR_MEM_BW,
            intra_host_bw=topology.intra_bandwidth / 1e3,
            inter_host_bw=topology.inter_bandwidth / 1e3,
        )
    finally:
        notice.setLevel(level)
