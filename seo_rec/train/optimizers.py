"""Optimizers: one for the rows of the tables, one for the dense rest.

Two kinds update tables. ``adam``, and every optimizer whose L2 acts on all rows, works on dense
gradients: torch's (or TorchRec's) own optimizer, whose step costs as much as the tables are large.
The others update the rows that a batch read, by :class:`SparseRows`, in one process and in the
shards of many. On CUDA FBGEMM updates sharded tables within the backward pass ("fused") where no
running mean is kept, and so it does in one process (:class:`FusedRows`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from seo_rec.embed import PolicyEmbedding
from seo_rec.embed.fused import FusedTables
from seo_rec.embed.sparse import SparseTables
from seo_rec.model import RecModel
from seo_rec.settings import LARGEST_DENSE, FitSettings, settled
from seo_rec.train.dense_rows import DenseRowWiseAdagrad
from seo_rec.train.fused_rows import FusedRows
from seo_rec.train.sparse_rows import SparseRows

log = logging.getLogger(__name__)

Optimizer = torch.optim.Optimizer
_Make = Callable[[Iterable[nn.Parameter], float, float], Optimizer]

ADAGRAD_EPS = 1e-8
DENSE_NS = 3.0  # per float and step; `python -m benchmarks.speed.dense` measures it
ROW_OPTIMIZERS: dict[str, _Make] = {
    "adam": lambda p, lr, l2: torch.optim.Adam(p, lr=lr, weight_decay=l2, fused=True),
    "lazy_adam": lambda p, lr, l2: torch.optim.Adam(p, lr=lr, weight_decay=l2, fused=True),
    "adagrad": lambda p, lr, l2: torch.optim.Adagrad(p, lr=lr, weight_decay=l2, eps=ADAGRAD_EPS),
    "rowwise_adagrad": lambda p, lr, l2: DenseRowWiseAdagrad(
        p, lr=lr, weight_decay=l2, eps=ADAGRAD_EPS
    ),
    "sgd": lambda p, lr, l2: torch.optim.SGD(p, lr=lr, weight_decay=l2),
}  # on dense gradients; lazy_adam's are of arrays and factors, whose every float is read
DENSE_OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], float], Optimizer]] = {
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr, fused=True),
    "sgd": lambda p, lr: torch.optim.SGD(p, lr=lr),
    "adagrad": lambda p, lr: torch.optim.Adagrad(p, lr=lr, eps=ADAGRAD_EPS),
}
FUSED: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "adagrad": (torch.optim.Adagrad, {"eps": ADAGRAD_EPS}),
    "rowwise_adagrad": (RowWiseAdagrad, {"eps": ADAGRAD_EPS}),
    "sgd": (torch.optim.SGD, {}),
}


def make_optimizers(
    model: nn.Module,
    row_optimizer: str,
    row_lr: float,
    dense_lr: float,
    row_l2: float = 0.0,
    l2_on: str = "auto",
    dense_optimizer: str = "adam",
) -> dict[str, Optimizer]:
    """Optimizers by what they update: ``rows`` the tables, ``dense`` the rest.

    ``row_l2`` adds ``row_l2 / 2 * |T|^2`` of every whole table T to the loss, through its gradient;
    with another ``l2_on`` than ``all`` only the rows of a batch count. Tables are updated row by
    row (:class:`SparseRows`) unless every step moves all rows.

    Flat arrays, and copies of tables in every process, always have dense gradients; beside sparse
    rows they come as ``arrays``. What a sharded model updates within its backward pass comes as
    ``fused``, whose steps only set learning rates. The second layers of tables (MLET) come as
    ``factors``: by ``row_optimizer`` at ``row_lr`` like the first ones, without L2. The parameters
    of a gate belong to the search that made it and are left out.

    Args:
        model: A :class:`RecModel`, or what :func:`distribute` made of one with these settings.
        row_optimizer, row_lr, row_l2, l2_on: Of the tables; see :func:`settled`.
        dense_lr, dense_optimizer: Of the dense layers, which have no L2 and no momentum.

    Raises:
        ValueError: A setting is not allowed.
    """
    embedding, optimizers = inner_model(model).embedding, dict[str, Optimizer]()
    chosen = settled(
        FitSettings(
            row_optimizer=row_optimizer,
            row_lr=row_lr,
            dense_lr=dense_lr,
            row_l2=row_l2,
            l2_on=l2_on,
            dense_optimizer=dense_optimizer,
            storage=embedding.storage,
        ),
        embedding.stored.num_params,
    )
    make, row_lr = ROW_OPTIMIZERS[chosen.row_optimizer], chosen.row_lr
    sources = sparse_sources(embedding, chosen)
    tables = [p for p in embedding.ebc.parameters() if p.numel() and not in_backward(p)]
    if isinstance(embedding.sparse, FusedTables):
        _check_fused(embedding.sparse, chosen)
        optimizers["rows"], tables = FusedRows(embedding.sparse, tables, row_lr), []
    sparse = [p for p in tables if any(_holds(p, source) for source in sources)]
    if sparse:
        optimizers["rows"] = SparseRows(
            sources,
            sparse,
            optimizer=chosen.row_optimizer,
            lr=row_lr,
            l2=row_l2,
            l2_on=chosen.l2_on,
            seed=embedding.initial.seed,
        )
    whole = [p for p in tables if not any(p is q for q in sparse)]
    whole += [] if embedding.flat is None else list(embedding.flat.parameters())
    if whole:
        optimizers["arrays" if "rows" in optimizers else "rows"] = make(whole, row_lr, row_l2)
    factors = [] if embedding.factors is None else list(embedding.factors.parameters())
    _log_choice(chosen, whole, factors)
    if isinstance(model, DistributedModelParallel) and model.fused_optimizer.params:
        optimizers["fused"] = model.fused_optimizer
    if factors:
        optimizers["factors"] = make(factors, row_lr, 0.0)
    maps = [] if embedding.project is None else list(embedding.project.parameters())
    dense = [*inner_model(model).backbone.parameters(), *maps]
    optimizers["dense"] = DENSE_OPTIMIZERS[chosen.dense_optimizer](dense, dense_lr)
    return optimizers


def optimizers_of(model: nn.Module, settings: FitSettings) -> dict[str, Optimizer]:
    """The optimizers of tables and of dense layers that ``settings`` ask for."""
    return make_optimizers(
        model,
        settings.row_optimizer,
        settings.row_lr,
        settings.dense_lr,
        settings.row_l2,
        settings.l2_on,
        settings.dense_optimizer,
    )


def sparse_sources(embedding: PolicyEmbedding, settings: FitSettings) -> list[SparseTables]:
    """The lookups of an embedding that keep the gradients of the rows read, from now on.

    Args:
        embedding: Whole or sharded.
        settings: Of the training, :func:`settled`.

    Raises:
        ValueError: The model was sharded for an optimizer of rows, and this one moves all rows.
    """
    dense = settings.has_dense_gradients
    if type(embedding.ebc) is not EmbeddingBagCollection:
        if dense and embedding.sparse_shards:
            raise ValueError(
                f"{settings.table_update} for a model that was sharded for an optimizer of the "
                "rows of a batch; give distribute and make_optimizers the same settings"
            )
        return embedding.sparse_shards
    if isinstance(embedding.sparse, FusedTables):
        return []
    embedding.sparse = None  # another optimizer may have kept the rows
    return [embedding.keep_sparse_gradients()] if embedding.policy.tables and not dense else []


def _check_fused(tables: FusedTables, settings: FitSettings) -> None:
    """ValueError unless tables that update themselves do it as the settings say."""
    if settings.row_optimizer != tables.optimizer or settings.row_l2:
        raise ValueError(
            f"{settings.table_update} for tables that {tables.optimizer} without L2 updates within "
            "the backward pass; give shard and make_optimizers the same settings"
        )


def _holds(parameter: nn.Parameter, source: SparseTables) -> bool:
    """Whether tables of the source are the parameter, or lie in it."""
    begin = parameter.data_ptr()
    end = begin + parameter.numel() * parameter.element_size()
    return any(begin <= w.data_ptr() < end for w in source.weights if w.numel())


def _log_choice(
    settings: FitSettings, whole: list[nn.Parameter], factors: list[nn.Parameter]
) -> None:
    """Say how tables are updated, and what else has dense gradients and what that costs."""
    log.info("tables: %s", settings.table_update)
    floats = sum(p.numel() for p in (*whole, *factors))
    if settings.has_dense_gradients or not floats:
        return
    log.log(
        logging.WARNING if floats > LARGEST_DENSE else logging.INFO,
        "%d floats of arrays, of factors, or of tables copied to every process, have dense "
        "gradients: each step passes over all of them, about %.3g ms more",
        floats,
        floats * DENSE_NS / 1e6,
    )
    if whole and (settings.row_optimizer == "lazy_adam" or settings.row_l2):
        log.warning(
            "%s: for the %d floats of arrays that means all of them in every step",
            settings.table_update,
            sum(p.numel() for p in whole),
        )


def in_backward(parameter: nn.Parameter) -> bool:
    """Whether the parameter is updated within the backward pass and needs no other optimizer."""
    return hasattr(parameter, "_in_backward_optimizers")


def inner_model(model: nn.Module) -> RecModel:
    """The :class:`RecModel` in what :func:`distribute` made of it."""
    found: Any = model
    while not isinstance(found, RecModel):
        found = found.module
    return found
