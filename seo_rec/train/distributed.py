"""From a model in every process to one model sharded over all of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ModuleSharder

from seo_rec.embed import PolicyEmbedding, table_key
from seo_rec.model import RecModel
from seo_rec.plan import (
    CACHED,
    KEY_VALUE,
    LANES,
    UVM_CACHING,
    Placement,
    PlanError,
    check_placements,
    sharding_plan,
    updates_rows,
)
from seo_rec.policy import Policy
from seo_rec.settings import FitSettings, settled
from seo_rec.train.fused_rows import FUSED_ON
from seo_rec.train.optimizers import FUSED, inner_model
from seo_rec.train.ranks import Ranks
from seo_rec.train.sparse_rows import read_shards_sparsely
from seo_rec.train.state import Piece, weights_of

log = logging.getLogger(__name__)


def kernels(
    placements: tuple[Placement, ...],
    row_optimizer: str,
    row_l2: float,
    *,
    device: str = "cpu",
    mean: bool = False,
    l2_by_rows: bool = False,
    storage: str = "float32",
) -> dict[str, str]:
    """How every table is updated: ``sparse``, ``dense``, ``fused``, or by its plan's cached kernel.

    ``sparse`` keeps the rows that were read (:class:`SparseRows`); ``fused`` is FBGEMM's update
    within the backward pass, on CUDA where it is the same mathematics and no mean is kept. A table
    that the plan keeps outside the GPUs has the kernel that the plan says.

    Args:
        placements: Of the tables.
        row_optimizer: Their optimizer.
        row_l2: An L2 penalty of all rows.
        device: ``cpu`` or ``cuda``.
        mean: Whether a running mean of the weights is kept.
        l2_by_rows: Whether an L2 penalty acts on the rows of the batch only.
        storage: The type of the tables' weights.

    Raises:
        PlanError: a table that every process has whole, and an optimizer or a penalty of the rows
            of the batch, or weights of 16 bits.
        PlanError: a table outside the GPUs, and no GPU or an update that FBGEMM cannot fuse, or
            weights of 16 bits.
        PlanError: row-wise Adagrad with a table that is cut by columns. Each cut would keep its
            own accumulator of a row, the mean of its own columns only.
    """
    names: dict[str, str] = {}
    by_rows = "lazy_adam" if row_optimizer == "lazy_adam" else "L2 of read rows" * l2_by_rows
    for p in placements:
        widths = {s.columns for s in p.shards}
        columns = len({s.column for s in p.shards})
        if row_optimizer == "rowwise_adagrad" and columns > 1:
            raise PlanError(
                f"table {p.table!r} is cut into {columns} blocks of columns, and row-wise Adagrad "
                "keeps one number per row of the whole table; use a plan without column cuts "
                "(`seo-rec plan --row-optimizer rowwise_adagrad`), or --optimizer adagrad"
            )
        if not p.shards and by_rows:
            raise PlanError(
                f"table {p.table!r} is on every rank, where every step moves all of its rows, and "
                f"{by_rows} moves those of the batch; take a plan without data-parallel tables, or "
                "another --optimizer or --l2-on"
            )
        if not p.shards and storage != "float32":
            raise PlanError(
                f"table {p.table!r} is on every rank, where its gradient is dense, and --storage "
                f"{storage} needs the gradients of the rows of the batch; take a plan without "
                "data-parallel tables, or --storage float32"
            )
        if p.compute_kernel in CACHED:
            _check_cached(p, row_optimizer, device, mean, bool(row_l2) or l2_by_rows, storage)
            names[p.table] = p.compute_kernel
            continue
        sparse = bool(widths) and updates_rows(p.kind, row_optimizer, row_l2)
        by_torch = mean or l2_by_rows or storage != "float32"
        fused = sparse and device in FUSED_ON and not by_torch and row_optimizer in FUSED
        names[p.table] = "fused" if fused else "sparse" if sparse else "dense"
    return names


def torchrec_kernels(kernel_of: Mapping[str, str]) -> dict[str, str]:
    """TorchRec's kernel of every table: sparse gradients are kept in place of its dense ones."""
    in_backward = ("fused", *CACHED)
    return {t: kernel if kernel in in_backward else "dense" for t, kernel in kernel_of.items()}


def fusable(row_optimizer: str, mean: bool, l2: bool) -> bool:
    """Whether FBGEMM alone can update tables: rows outside the GPU are reached by nobody else."""
    return row_optimizer in FUSED and not mean and not l2


def _check_cached(
    placement: Placement, row_optimizer: str, device: str, mean: bool, l2: bool, storage: str
) -> None:
    where = f"table {placement.table!r} has compute kernel {placement.compute_kernel}"
    if device != "cuda":
        raise PlanError(
            f"{where}, a cache on a GPU of a table that is elsewhere, and this run is on {device}, "
            "whose tables are in main memory in any case; take a plan for this device (`seo-rec "
            "plan --topology 2xcpu`) or run on GPUs"
        )
    if placement.compute_kernel == KEY_VALUE:
        raise PlanError(
            f"{where}, which is planned and not yet trained; take a plan with --compute-kernels "
            f"fused,{UVM_CACHING}"
        )
    if storage != "float32":
        raise PlanError(
            f"{where}, which FBGEMM updates in float32, and --storage is {storage}; take --storage "
            "float32"
        )
    if not fusable(row_optimizer, mean, l2):
        raise PlanError(
            f"{where}, which FBGEMM updates within the backward pass: it takes --optimizer "
            f"{', '.join(sorted(FUSED))}, no running mean (--average 0) and no L2 penalty (--l2 "
            f"0); this run has --optimizer {row_optimizer}"
            f"{', a running mean' * mean}{', an L2 penalty' * l2}"
        )


def check_widths(policy: Policy, placements: Iterable[Placement], device: str) -> None:
    """PlanError if FBGEMM's kernels for ``device`` cannot read these shards or whole tables.

    Those for GPUs read four floats at a time: other widths end in a misaligned address.
    """
    dims = {t.name: t.dim for t in policy.tables}
    widths = {
        (p.table, w) for p in placements for w in [dims[p.table], *(s.columns for s in p.shards)]
    }
    odd = sorted((table, width) for table, width in widths if width % LANES)
    if device == "cuda" and odd:
        table, width = odd[0]
        raise PlanError(
            f"{len(odd)} widths are no multiples of {LANES}, the first one of table {table!r} "
            f"({width}); FBGEMM reads rows on GPUs in fours. Train this policy in one process (its "
            f"tables are filled up there), or take one whose widths are multiples of {LANES}"
        )


def distribute(
    model: RecModel,
    placements: tuple[Placement, ...],
    ranks: Ranks,
    *,
    row_optimizer: str,
    row_lr: float,
    row_l2: float = 0.0,
    l2_on: str = "auto",
    mean: bool = False,
) -> DistributedModelParallel:
    """Shard the tables of ``model`` as placed, replicate the rest; the weights stay what they are.

    Args:
        model: the same in every process (made with one seed).
        placements: of every table of ``model.embedding.stored``.
        ranks: the processes; the process group must be up.
        row_optimizer, row_lr, row_l2, l2_on: of the tables; decide how gradients are kept.
        mean: whether a running mean of the weights is kept.

    Raises:
        PlanError: the placements do not fit the policy, the ranks, the optimizer or the device.
    """
    policy = model.embedding.stored
    chosen = settled(
        FitSettings(
            row_optimizer=row_optimizer,
            row_lr=row_lr,
            row_l2=row_l2,
            l2_on=l2_on,
            storage=model.embedding.storage,
        ),
        policy.num_params,
    )
    row_optimizer, row_lr = chosen.row_optimizer, chosen.row_lr
    check_placements(policy, placements, ranks.world_size)
    check_widths(policy, placements, ranks.device.type)
    kernel_of = kernels(
        placements,
        row_optimizer,
        row_l2 if chosen.l2_on == "all" else 0.0,
        device=ranks.device.type,
        mean=mean,
        l2_by_rows=row_l2 > 0 and chosen.l2_on != "all",
        storage=chosen.storage,
    )
    full = {name: t.detach() for name, t in model.state_dict().items()}
    _fuse(model, kernel_of, row_optimizer, row_lr)
    plan = sharding_plan(
        placements, torchrec_kernels(kernel_of), ranks.device.type, ranks.local_size
    )
    with _without_notices():
        sharded = DistributedModelParallel(
            model, device=ranks.device, plan=plan, sharders=[_sharder()]
        )
    _fill(sharded, full, model.embedding)
    embedding = inner_model(sharded).embedding
    sparse = [table_key(table) for table, kernel in kernel_of.items() if kernel == "sparse"]
    embedding.sparse_shards = read_shards_sparsely(embedding.ebc, sparse)
    return sharded


def _fuse(model: RecModel, kernel_of: Mapping[str, str], row_optimizer: str, row_lr: float) -> None:
    """Let the backward pass update the tables whose kernels have their optimizer fused in."""
    bags = model.embedding.ebc.embedding_bags
    for table, kernel in kernel_of.items():
        if kernel in ("fused", *CACHED):
            # The import compiles eight optimizers of TorchScript, which one process never needs.
            from torch.distributed.optim import (
                _apply_optimizer_in_backward as apply_optimizer_in_backward,
            )

            optimizer, settings = FUSED[row_optimizer]
            # TorchRec adds keys to the settings, so every table gets its own
            apply_optimizer_in_backward(
                optimizer, bags[table_key(table)].parameters(), {"lr": row_lr, **settings}
            )


@contextmanager
def _without_notices() -> Iterator[None]:
    """Within the block TorchRec does not say of every table that dense kernels have no cache."""
    torchrec_log = logging.getLogger("torchrec.distributed.utils")
    level = torchrec_log.level
    torchrec_log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        torchrec_log.setLevel(level)


def _sharder() -> ModuleSharder[nn.Module]:
    return EmbeddingBagCollectionSharder()


@torch.no_grad()
def _fill(sharded: nn.Module, full: Mapping[str, torch.Tensor], embedding: PolicyEmbedding) -> None:
    """Each shard gets its part of the whole weight; on CPU TorchRec leaves fresh random ones.

    A whole table on the meta device was never made: its shards are made where they are.
    """
    tables = {
        f"embedding.ebc.embedding_bags.{table_key(t.name)}.weight": t
        for t in embedding.stored.tables
    }
    for name, value in weights_of(sharded).items():
        whole = Piece(value, (0, 0)) if isinstance(value, torch.Tensor) else None
        for piece in [whole] if whole else value.pieces:  # type: ignore[union-attr]
            if full[name].is_meta:
                t, (row, column) = tables[name], piece.offsets
                embedding.initial.fill(t.name, t.dim, piece.tensor, row, column)
            elif whole:
                piece.tensor.copy_(full[name])
            else:
                (row, column), (rows, columns) = piece.offsets, piece.tensor.shape
                piece.tensor.copy_(full[name][row : row + rows, column : column + columns])
