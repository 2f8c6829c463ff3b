"""Optimizers: one for the rows of the tables, one for the dense rest.

In one process every row optimizer is a torch (or TorchRec) optimizer on the tables' dense
gradients: the same mathematics on every device. Over several, sharded tables are updated by FBGEMM
within the backward pass ("fused") where that is the same mathematics: Adagrad, row-wise Adagrad and
SGD without weight decay. FBGEMM has no Adam on CPU, its Adam on GPU moves only the rows of a batch,
and its weight decay touches only those: then the sharded tables have dense gradients too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from seo_rec.model import RecModel

log = logging.getLogger(__name__)

Optimizer = torch.optim.Optimizer
_Make = Callable[[Iterable[nn.Parameter], float, float], Optimizer]

ADAGRAD_EPS = 1e-8
ROW_OPTIMIZERS: dict[str, tuple[_Make, str]] = {
    "adam": (
        lambda p, lr, l2: torch.optim.Adam(p, lr=lr, weight_decay=l2, fused=True),
        "torch.optim.Adam on dense gradients (FBGEMM has no fused Adam on CPU)",
    ),
    "adagrad": (
        lambda p, lr, l2: torch.optim.Adagrad(p, lr=lr, weight_decay=l2, eps=ADAGRAD_EPS),
        "torch.optim.Adagrad on dense gradients; fused where tables are sharded",
    ),
    "rowwise_adagrad": (
        lambda p, lr, l2: RowWiseAdagrad(p, lr=lr, weight_decay=l2, eps=ADAGRAD_EPS),
        "torchrec RowWiseAdagrad, one accumulator per row; fused where tables are sharded",
    ),
    "sgd": (
        lambda p, lr, l2: torch.optim.SGD(p, lr=lr, weight_decay=l2),
        "torch.optim.SGD on dense gradients; fused where tables are sharded",
    ),
}
FUSED: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "adagrad": (torch.optim.Adagrad, {"eps": ADAGRAD_EPS}),
    "rowwise_adagrad": (RowWiseAdagrad, {"eps": ADAGRAD_EPS}),
    "sgd": (torch.optim.SGD, {}),
}


def make_optimizers(
    model: nn.Module, row_optimizer: str, row_lr: float, dense_lr: float, row_l2: float = 0.0
) -> dict[str, Optimizer]:
    """``{"rows": ..., "dense": ...}``: tables and flat arrays by ``row_optimizer``, else Adam.

    ``row_l2`` adds ``row_l2 / 2 * |T|^2`` of every whole table T to the loss, through its gradient.
    The parameters of a gate belong to the search that made it and are left out. What a sharded
    model updates within its backward pass comes as ``"fused"``, whose steps only set learning
    rates. The second layers of tables (MLET) come as ``"factors"``: by ``row_optimizer`` at
    ``row_lr`` like the first ones, without L2.

    Args:
        model: a :class:`RecModel`, or what :func:`distribute` made of one.

    Raises:
        ValueError: unknown ``row_optimizer``.
    """
    if row_optimizer not in ROW_OPTIMIZERS:
        raise ValueError(f"row optimizer {row_optimizer!r}; allowed: {', '.join(ROW_OPTIMIZERS)}")
    make, description = ROW_OPTIMIZERS[row_optimizer]
    log.info("row optimizer %s: %s", row_optimizer, description)
    whole = inner_model(model)
    optimizers: dict[str, Optimizer] = {}
    flat = whole.embedding.flat
    stored = [*whole.embedding.ebc.parameters(), *([] if flat is None else flat.parameters())]
    tables = [p for p in stored if not in_backward(p)]
    if tables:
        optimizers["rows"] = make(tables, row_lr, row_l2)
    if isinstance(model, DistributedModelParallel) and model.fused_optimizer.params:
        optimizers["fused"] = model.fused_optimizer
    if whole.embedding.factors is not None:
        optimizers["factors"] = make(whole.embedding.factors.parameters(), row_lr, 0.0)
    project = whole.embedding.project
    maps = [] if project is None else list(project.parameters())
    optimizers["dense"] = torch.optim.Adam(
        [*whole.backbone.parameters(), *maps], lr=dense_lr, fused=True
    )
    return optimizers


def in_backward(parameter: nn.Parameter) -> bool:
    """Whether the parameter is updated within the backward pass and needs no other optimizer."""
    return hasattr(parameter, "_in_backward_optimizers")


def inner_model(model: nn.Module) -> RecModel:
    """The :class:`RecModel` in what :func:`distribute` made of it."""
    found: Any = model
    while not isinstance(found, RecModel):
        found = found.module
    return found
