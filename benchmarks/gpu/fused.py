"""FBGEMM's updates within the backward pass against their definitions in float64.

Letters: V rows of a table, D its width, B bags, L ids of a bag, T tables.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
    ComputeDevice,
    EmbeddingLocation,
    PoolingMode,
)
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
    UserEnabledConfigDefinition,
)
from torch import Tensor

from benchmarks.gpu.lines import Lines, Run, check, forbidden, note

V, D, B, L, T = 50, 8, 40, 3, 2
STEPS, LR, EPS = 5, 0.1, 1e-8
LIMIT = 1e-5  # of the largest weight
Update = Callable[[Tensor, Tensor, Tensor], None]


def _sgd(weight_VD: Tensor, gradient_VD: Tensor, state_VD: Tensor) -> None:
    weight_VD -= LR * gradient_VD


def _adagrad(weight_VD: Tensor, gradient_VD: Tensor, state_VD: Tensor) -> None:
    state_VD += gradient_VD.square()
    weight_VD -= LR * gradient_VD / (state_VD.sqrt() + EPS)


def _rowwise_adagrad(weight_VD: Tensor, gradient_VD: Tensor, state_VD: Tensor) -> None:
    state_VD += gradient_VD.square().mean(1, keepdim=True)
    weight_VD -= LR * gradient_VD / (state_VD.sqrt() + EPS)


UPDATES: dict[str, Update] = {
    "EXACT_SGD": _sgd,
    "EXACT_ADAGRAD": _adagrad,
    "EXACT_ROWWISE_ADAGRAD": _rowwise_adagrad,
}


def updates(run: Run) -> Lines:
    """Five steps of every optimizer on tables whose rows are read several times in a batch."""
    for name, update in UPDATES.items():
        try:
            tables = make_tables(name, [(V, D)] * T, run.device)
        except Exception as error:
            yield forbidden(f"fused {name}", f"{type(error).__name__}: {error}".splitlines()[0])
            continue
        yield check(f"fused {name}", apart(tables, update, run.device), LIMIT)
    if run.device.type == "cuda":  # FBGEMM has no Adam for a CPU
        yield from lazy_adam(run.device)


def lazy_adam(device: torch.device) -> Lines:
    """Whether FBGEMM's Adam that counts the updates of every row is the optimizer ``lazy_adam``.

    Where it passes, ``lazy_adam`` can be fused too: an entry more in ``seo_rec.embed.fused``.
    """
    try:
        by_row = UserEnabledConfigDefinition(use_rowwise_bias_correction=True)
        tables = make_tables("ADAM", [(V, D)] * T, device, extra_optimizer_config=by_row)
        found = apart(tables, _lazy_adam(), device)
    except Exception as error:
        yield forbidden("fused ADAM", f"{type(error).__name__}: {error}".splitlines()[0])
        return
    yield note("fused ADAM", f"{found:.2g} from lazy_adam in largest weights (same: <= {LIMIT:g})")


def _lazy_adam() -> Update:
    """The definition of ``lazy_adam``: moments and bias of the rows that were read."""
    moments: dict[int, list[Tensor]] = {}

    def update(weight_VD: Tensor, gradient_VD: Tensor, state_VD: Tensor) -> None:
        kept = moments.setdefault(id(weight_VD), [torch.zeros_like(weight_VD) for _ in range(3)])
        first_VD, second_VD, counts_VD = kept
        read = (gradient_VD != 0).any(1)
        g_UD = gradient_VD[read]
        counts_VD[read] += 1
        first_VD[read] = 0.9 * first_VD[read] + 0.1 * g_UD
        second_VD[read] = 0.999 * second_VD[read] + 0.001 * g_UD.square()
        t_UD = counts_VD[read]
        second_UD = (second_VD[read] / (1 - 0.999**t_UD)).sqrt() + EPS
        weight_VD[read] -= LR * first_VD[read] / (1 - 0.9**t_UD) / second_UD

    return update


def make_tables(
    optimizer: str,
    shapes: list[tuple[int, int]],
    device: torch.device,
    table_of: list[int] | None = None,
    extra_optimizer_config: UserEnabledConfigDefinition | None = None,
) -> SplitTableBatchedEmbeddingBagsCodegen:
    """FBGEMM's tables with an update in the backward pass, on a device or in host memory.

    Args:
        optimizer: a name of ``EmbOptimType``.
        shapes: rows and width of every table.
        device: of the tables.
        table_of: the table of every lookup; None: one lookup of each.
        extra_optimizer_config: of FBGEMM.
    """
    cuda = device.type == "cuda"
    where = EmbeddingLocation.DEVICE if cuda else EmbeddingLocation.HOST
    compute = ComputeDevice.CUDA if cuda else ComputeDevice.CPU
    return SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, dim, where, compute) for rows, dim in shapes],
        feature_table_map=table_of,
        optimizer=getattr(EmbOptimType, optimizer),
        learning_rate=LR,
        eps=EPS,
        pooling_mode=PoolingMode.SUM,
        device=device,
        extra_optimizer_config=extra_optimizer_config,
    )


def apart(
    tables: SplitTableBatchedEmbeddingBagsCodegen, update: Update, device: torch.device
) -> float:
    """The largest distance from the definition after the steps, in largest weights."""
    draw = torch.Generator().manual_seed(1)
    weights = [torch.randn(V, D, generator=draw, dtype=torch.float64) for _ in range(T)]
    states = [torch.zeros_like(w) for w in weights]
    for mine, weight in zip(tables.split_embedding_weights(), weights, strict=True):
        mine.data.copy_(weight)
    offsets = torch.arange(0, T * B * L + 1, L)
    for _ in range(STEPS):
        ids = torch.randint(0, V, (T * B * L,), generator=draw)
        gradient_BE = torch.randn(B, T * D, generator=draw, dtype=torch.float64)
        x_BE = tables(ids.to(device), offsets.to(device))
        x_BE.backward(gradient_BE.to(device, torch.float32))
        for t, (weight, state) in enumerate(zip(weights, states, strict=True)):
            of_bag = gradient_BE[:, t * D : (t + 1) * D].repeat_interleave(L, 0)
            sums = torch.zeros_like(weight).index_add(0, ids.view(T, -1)[t], of_bag)
            update(weight, sums, state)
    return max(
        float((mine.detach().cpu().double() - weight).abs().max() / weight.abs().max())
        for mine, weight in zip(tables.split_embedding_weights(), weights, strict=True)
    )
