"""Where the pieces of a policy's tables live: a file, and TorchRec's form of it.

Letters: R rows of a table, D its width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharding_spec import EnumerableShardingSpec
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.sharding_plan import placement
from torchrec.distributed.types import (
    CacheParams,
    EmbeddingModuleShardingPlan,
    ParameterSharding,
    ShardingPlan,
    ShardingType,
)

from seo_rec.embed import table_key
from seo_rec.policy import Policy

EMBEDDING_PATH = "embedding.ebc"  # of the collection in a RecModel
KINDS = tuple(kind.value for kind in ShardingType)
FUSED = EmbeddingComputeKernel.FUSED.value
DENSE = EmbeddingComputeKernel.DENSE.value
UVM_CACHING = EmbeddingComputeKernel.FUSED_UVM_CACHING.value
KEY_VALUE = EmbeddingComputeKernel.KEY_VALUE.value
CACHED = (UVM_CACHING, KEY_VALUE)  # whole elsewhere, with a cache of rows on the device
COMPUTE_KERNELS = (FUSED, DENSE, *CACHED)


class PlanError(ValueError):
    """A plan that does not fit its policy or its devices; the message says which table and how."""


@dataclass(frozen=True)
class Shard:
    """Rows [row, row + rows) x columns [column, column + columns) of a table, on one rank."""

    rank: int
    row: int
    column: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Placement:
    """How one table is cut (``kind``: a TorchRec sharding type) and where its shards are.

    A ``data_parallel`` table is whole on every rank and has no shards.

    Args:
        table: its name.
        kind: of sharding.
        shards: the pieces.
        compute_kernel: TorchRec's name: ``fused`` (updates touch the rows of a batch only),
            ``dense`` (a gradient of the whole table), ``fused_uvm_caching`` (the table is in main
            memory, a cache of its rows on the GPU) or ``key_value`` (on SSD, with such a cache).
        cache_load_factor: rows in the cache, as a part of the rows of a shard; None without cache.
    """

    table: str
    kind: str
    shards: tuple[Shard, ...] = ()
    compute_kernel: str = FUSED
    cache_load_factor: float | None = None


def check_placements(policy: Policy, placements: tuple[Placement, ...], world_size: int) -> None:
    """Every table of the policy exactly once, its shards tiling it, on ranks that exist.

    Raises:
        PlanError: The message names the table and says what is wrong with it.
    """
    names = [p.table for p in placements]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise PlanError(f"the plan places tables {twice} more than once")
    known = {t.name for t in policy.tables}
    if set(names) != known:
        raise PlanError(
            f"the plan belongs to another policy: it lacks tables {sorted(known - set(names))} and "
            f"places unknown tables {sorted(set(names) - known)}; make it with `seo-rec plan`"
        )
    for p in placements:
        _check_one(p, policy.table(p.table).num_rows, policy.table(p.table).dim, world_size)


def _check_one(placement: Placement, num_rows: int, dim: int, world_size: int) -> None:
    where = f"table {placement.table!r}"
    if placement.kind not in KINDS:
        raise PlanError(f"{where}: kind {placement.kind!r}; allowed: {', '.join(KINDS)}")
    if (placement.kind == ShardingType.DATA_PARALLEL.value) != (not placement.shards):
        raise PlanError(f"{where}: shards are given if and only if it is not data_parallel")
    _check_kernel(placement, where)
    for s in placement.shards:
        if not 0 <= s.rank < world_size:
            raise PlanError(f"{where}: a shard on rank {s.rank}; allowed: 0 to {world_size - 1}")
        inside = s.row >= 0 and s.row + s.rows <= num_rows
        inside = inside and s.column >= 0 and s.column + s.columns <= dim
        if not inside or s.rows < 0 or s.columns < 1:
            raise PlanError(f"{where}: {s} does not lie within {num_rows} rows x {dim} columns")
    if not placement.shards:
        return
    filled = [s for s in placement.shards if s.rows]  # the last ranks of a row_wise table may not
    by_row = {(s.row, s.rows) for s in filled}
    by_column = {(s.column, s.columns) for s in filled}
    found = {(s.row, s.rows, s.column, s.columns) for s in filled}
    grid = {(*r, *c) for r in by_row for c in by_column}
    tiled = _tiles(by_row, num_rows) and _tiles(by_column, dim)
    if not tiled or found != grid or len(found) != len(filled):
        raise PlanError(f"{where}: its shards do not tile {num_rows} rows x {dim} columns")


def _check_kernel(placement: Placement, where: str) -> None:
    kernel, load = placement.compute_kernel, placement.cache_load_factor
    if kernel not in COMPUTE_KERNELS:
        raise PlanError(
            f"{where}: compute_kernel {kernel!r}; allowed: {', '.join(COMPUTE_KERNELS)}"
        )
    if kernel in CACHED and (load is None or not 0 < load <= 1):
        raise PlanError(f"{where}: cache_load_factor {load}; {kernel} allows above 0, at most 1")
    if kernel not in CACHED and load is not None:
        raise PlanError(
            f"{where}: cache_load_factor {load} with compute_kernel {kernel}, which has no cache"
        )
    if kernel in CACHED and not placement.shards:
        raise PlanError(f"{where}: a data_parallel table cannot be {kernel}; shard it")


def _tiles(spans: set[tuple[int, int]], size: int) -> bool:
    """Whether the spans (start, length) cover [0, size) without overlap."""
    end = 0
    for start, length in sorted(spans):
        if start != end:
            return False
        end += length
    return end == size


def sharding_plan(
    placements: tuple[Placement, ...],
    kernels: Mapping[str, str],
    device: str,
    local_size: int,
    path: str = EMBEDDING_PATH,
) -> ShardingPlan:
    """TorchRec's form of placements, for the collection at ``path`` of a model.

    Args:
        placements: of every table.
        kernels: TorchRec's compute kernel for every table's name; data-parallel ones are dense.
        device: ``cpu`` or ``cuda``.
        local_size: ranks on one host.
        path: name of the EmbeddingBagCollection within the model.
    """
    parameters: dict[str, ParameterSharding] = {}
    for p in placements:
        shards = [
            ShardMetadata(
                shard_offsets=[s.row, s.column],
                shard_sizes=[s.rows, s.columns],
                placement=placement(device, s.rank, local_size),
            )
            for s in p.shards
        ]
        parameters[table_key(p.table)] = ParameterSharding(
            sharding_type=p.kind,
            compute_kernel=kernels[p.table] if shards else EmbeddingComputeKernel.DENSE.value,
            ranks=[s.rank for s in p.shards] if shards else None,
            sharding_spec=EnumerableShardingSpec(shards) if shards else None,
            cache_params=(
                None
                if p.cache_load_factor is None
                else CacheParams(load_factor=p.cache_load_factor)
            ),
        )
    return ShardingPlan({path: EmbeddingModuleShardingPlan(parameters)})
