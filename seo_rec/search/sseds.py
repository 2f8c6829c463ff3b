"""SSEDS: widths by one look at the gradients of a trained full-width model.

"Single-shot Embedding Dimension Search in Recommender System".
Letters: B batch, F features, D full width, E = F D.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.model import RecModel, build_model
from seo_rec.plan import rates_of
from seo_rec.policy import Policy
from seo_rec.search.found import Found, table_bytes
from seo_rec.search.space import Space, SpaceSettings, open_space, require
from seo_rec.train import (
    Training,
    eval_stream,
    fit,
    inner_model,
    optimizers_of,
    ranks,
    ready,
    shard,
    share_stream,
    train_stream,
)

SPLITS = ("val", "train")


@dataclass(frozen=True)
class SsedsSettings(SpaceSettings):
    """Settings of SSEDS: keep the columns whose gradients matter most.

    Args:
        keep: Share of the columns that is kept if there is no budget, above 0 to 1.
        min_dim: Columns that every feature keeps; 0 allows that a feature is dropped.
        split: Rows whose gradients are compared: val or train.
        batches: Batches of these rows that are read; 0 reads all.
    """

    keep: float = 0.1
    min_dim: int = 1
    split: str = "val"
    batches: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.keep <= 1, "keep", self.keep, "above 0, to 1")
        allowed = f"0 to max_dim {self.max_dim}"
        require(0 <= self.min_dim <= self.max_dim, "min_dim", self.min_dim, allowed)
        require(self.split in SPLITS, "split", self.split, ", ".join(SPLITS))
        require(self.batches >= 0, "batches", self.batches, "0 or more")


class ColumnMask(nn.Module):
    """The gate: every column of every feature times a mask of ones, which is never trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mask_E = torch.ones(width, device=ranks().device)

    def widths(self, policy: Policy) -> tuple[int, ...]:
        return policy.widths

    def forward(self, lookups_BE: torch.Tensor) -> torch.Tensor:
        return lookups_BE * self.mask_E if self.mask_E.requires_grad else lookups_BE


def saliency(model: RecModel, gate: ColumnMask, stream: Stream, batches: int = 0) -> torch.Tensor:
    """``s_e = mean over batches of |dL / dm_e|`` at ``m = 1``, float64 (E,); the sum is one.

    Several processes call this at once, each with its share of every batch.

    At ``m = 1`` the gradient of a mask is that of the embeddings times the embeddings, summed over
    the batch, ``sum_b x_be dL/dx_be``: the change of the loss if the column went away, to first
    order.
    """
    model.eval()
    here = ranks()
    gate.mask_E.requires_grad_(True)
    total = torch.zeros_like(gate.mask_E, dtype=torch.float64)
    for batch in islice(ready(stream, here), batches or None):
        loss, _ = model(batch.to(here.device))
        (gradient,) = torch.autograd.grad(loss, [gate.mask_E])
        total += here.mean_(gradient).abs()
    gate.mask_E.requires_grad_(False)
    return (total / total.sum().clamp(min=1e-300)).cpu()


def choose(space: Space, scores_FD: torch.Tensor, settings: SsedsSettings) -> list[int]:
    """Widths by one ranking of all columns: the best share, or the best that fit the budget."""
    rows = scores_FD.tolist()
    if settings.amount:
        return space.best_columns(rows, settings.amount, settings.min_dim)
    columns = max(1, round(settings.keep * scores_FD.numel()))
    forced = settings.min_dim * len(rows)
    level = Space(space.schema, (1,) * len(rows), {}, space.seed)  # every column costs one
    return level.best_columns(rows, max(columns, forced), settings.min_dim)


def sseds(
    data: DataSet, settings: SsedsSettings, training: Training, out: Path | None = None
) -> Found:
    """Train a model of full width, score its columns once, keep the best.

    Raises:
        PolicyError: the budget is below ``min_dim`` columns of every feature.
    """
    f = training.fit
    space = open_space(data, settings, f.seed)
    space.require_columns(settings.amount, max(1, settings.min_dim))
    F, D = len(space.names), settings.max_dim
    train, val = train_stream(data, f), eval_stream(data, "val")
    gate = ColumnMask(F * D)
    whole = space.policy([D] * F)
    built = build_model(whole, data.num_numeric, training.model, f.seed, gate)
    model = shard(built, f, rates=rates_of(data.schema))
    optimizers = optimizers_of(model, f)
    result = fit(model, train, val, optimizers, f, out=out, title="sseds")
    trained = time.perf_counter()
    looked_at = share_stream(data, settings.split, f.batch_size)
    scores_FD = saliency(inner_model(model), gate, looked_at, settings.batches).view(F, D)
    dims = choose(space, scores_FD, settings)
    policy = space.policy(dims, settings.amount, space.origin("sseds", dims, asdict(settings)))
    peak = table_bytes(model, optimizers)
    record = {"saliency": dict(zip(space.names, scores_FD.tolist(), strict=True))}
    seconds = result.seconds + time.perf_counter() - trained  # those before a resume as well
    return Found(policy, result.val.quality, seconds, peak, record)
