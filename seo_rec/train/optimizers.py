"""Optimizers: one for the rows of the tables, one for the dense rest.

FBGEMM has no fused Adam on CPU, and its fused Adam on GPU moves only the rows of a batch. So in
one process every row optimizer is a torch (or TorchRec) optimizer on the tables' dense
gradients: the same mathematics on every device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from seo_rec.model import RecModel

log = logging.getLogger(__name__)

Optimizer = torch.optim.Optimizer
_Make = Callable[[Iterable[nn.Parameter], float, float], Optimizer]

ROW_OPTIMIZERS: dict[str, tuple[_Make, str]] = {
    "adam": (
        lambda p, lr, l2: torch.optim.Adam(p, lr=lr, weight_decay=l2, fused=True),
        "torch.optim.Adam on dense gradients (FBGEMM has no fused Adam on CPU)",
    ),
    "adagrad": (
        lambda p, lr, l2: torch.optim.Adagrad(p, lr=lr, weight_decay=l2, eps=1e-8),
        "torch.optim.Adagrad on dense gradients",
    ),
    "rowwise_adagrad": (
        lambda p, lr, l2: RowWiseAdagrad(p, lr=lr, weight_decay=l2, eps=1e-8),
        "torchrec RowWiseAdagrad on dense gradients: one accumulator per row",
    ),
    "sgd": (
        lambda p, lr, l2: torch.optim.SGD(p, lr=lr, weight_decay=l2),
        "torch.optim.SGD on dense gradients",
    ),
}


def make_optimizers(
    model: RecModel, row_optimizer: str, row_lr: float, dense_lr: float, row_l2: float = 0.0
) -> dict[str, Optimizer]:
    """``{"rows": ..., "dense": ...}``: tables by ``row_optimizer``, all else by Adam.

    ``row_l2`` adds ``row_l2 / 2 * |T|^2`` of every whole table T to the loss, through its gradient.
    The parameters of a gate belong to the search that made it and are left out.

    Raises:
        ValueError: unknown ``row_optimizer``.
    """
    if row_optimizer not in ROW_OPTIMIZERS:
        raise ValueError(f"row optimizer {row_optimizer!r}; allowed: {', '.join(ROW_OPTIMIZERS)}")
    make, description = ROW_OPTIMIZERS[row_optimizer]
    log.info("row optimizer %s: %s", row_optimizer, description)
    tables = list(model.embedding.ebc.parameters())
    dense = list(model.backbone.parameters())
    return {
        "rows": make(tables, row_lr, row_l2),
        "dense": torch.optim.Adam(dense, lr=dense_lr, fused=True),
    }
