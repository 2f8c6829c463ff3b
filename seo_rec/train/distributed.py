"""From a model in every process to one model sharded over all of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ModuleSharder

from seo_rec.embed import table_key
from seo_rec.model import RecModel
from seo_rec.plan import (
    LANES,
    Placement,
    PlanError,
    check_placements,
    is_fused,
    sharding_plan,
)
from seo_rec.policy import Policy
from seo_rec.train.optimizers import FUSED
from seo_rec.train.ranks import Ranks
from seo_rec.train.state import Sharded, weights_of

log = logging.getLogger(__name__)


def kernels(placements: tuple[Placement, ...], row_optimizer: str, row_l2: float) -> dict[str, str]:
    """``fused`` or ``dense`` for every table: fused where FBGEMM does the same mathematics.

    Raises:
        PlanError: row-wise Adagrad with a table that is cut by columns. Each cut would keep its
            own accumulator of a row, the mean of its own columns only.
    """
    names: dict[str, str] = {}
    for p in placements:
        widths = {s.columns for s in p.shards}
        columns = len({s.column for s in p.shards})
        if row_optimizer == "rowwise_adagrad" and columns > 1:
            raise PlanError(
                f"table {p.table!r} is cut into {columns} blocks of columns, and row-wise Adagrad "
                "keeps one number per row of the whole table; use a plan without column cuts "
                "(`seo-rec plan --row-optimizer rowwise_adagrad`), or --optimizer adagrad"
            )
        fused = [is_fused(p.kind, width, row_optimizer, row_l2) for width in widths]
        names[p.table] = "fused" if widths and all(fused) else "dense"
    return names


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
) -> DistributedModelParallel:
    """Shard the tables of ``model`` as placed, replicate the rest; the weights stay what they are.

    Args:
        model: the same in every process (made with one seed).
        placements: of every table of ``model.embedding.stored``.
        ranks: the processes; the process group must be up.
        row_optimizer, row_lr, row_l2: of the tables; decide what FBGEMM updates in the backward.

    Raises:
        PlanError: the placements do not fit the policy, the ranks, the optimizer or the device.
    """
    policy = model.embedding.stored
    check_placements(policy, placements, ranks.world_size)
    check_widths(policy, placements, ranks.device.type)
    kernel_of = kernels(placements, row_optimizer, row_l2)
    full = {name: t.detach().clone() for name, t in model.state_dict().items()}
    bags = model.embedding.ebc.embedding_bags
    for table, kernel in kernel_of.items():
        if kernel == "fused":
            # The import compiles eight optimizers of TorchScript, which one process never needs.
            from torch.distributed.optim import (
                _apply_optimizer_in_backward as apply_optimizer_in_backward,
            )

            optimizer, settings = FUSED[row_optimizer]
            # TorchRec adds keys to the settings, so every table gets its own
            apply_optimizer_in_backward(
                optimizer, bags[table_key(table)].parameters(), {"lr": row_lr, **settings}
            )
    torchrec_log = logging.getLogger("torchrec.distributed.utils")
    level = torchrec_log.level
    torchrec_log.setLevel(logging.ERROR)  # one notice per table that dense kernels have no cache
    try:
        sharded = DistributedModelParallel(
            model,
            device=ranks.device,
            plan=sharding_plan(placements, kernel_of, ranks.device.type, ranks.local_size),
            sharders=[_sharder()],
        )
    finally:
        torchrec_log.setLevel(level)
    _copy_weights(full, sharded)
    return sharded


def _sharder() -> ModuleSharder[nn.Module]:
    return EmbeddingBagCollectionSharder()


@torch.no_grad()
def _copy_weights(full: dict[str, torch.Tensor], sharded: nn.Module) -> None:
    """Each shard gets its part of the whole weight; on CPU TorchRec leaves fresh random ones."""
    for name, value in weights_of(sharded).items():
        if not isinstance(value, Sharded):
            value.copy_(full[name])
            continue
        for piece in value.pieces:
            (row, column), (rows, columns) = piece.offsets, piece.tensor.shape
            piece.tensor.copy_(full[name][row : row + rows, column : column + columns])
