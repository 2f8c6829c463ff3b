"""The search model of SEO: one shared table cut into chunks, and the attention over them.

Letters: B batch, F features, C chunks of the shared table (N' in the paper), D width of a chunk.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from seo_rec.data.dataset import DataSet
from seo_rec.methods import lookup_seed, provenance
from seo_rec.policy import Feature, Lookup, Policy, Table, split_rows
from seo_rec.policy.allowance import without_unset
from seo_rec.schema import Schema
from seo_rec.search.held_out import Cooling, HeldOut, HeldOutStep
from seo_rec.search.seo.settings import SeoSettings
from seo_rec.train import FitSettings


def search_space(schema: Schema, settings: SeoSettings, seed: int = 0) -> Policy:
    """The search model's tables: C chunks of ``budget_rows`` rows, every feature reads them all.

    With ``adjust_hash_buckets`` the rows shrink so that the search model holds P floats too.
    """
    C, D = settings.num_chunks, settings.chunk_dim
    rows = [settings.budget_rows] * C
    if settings.adjust_hash_buckets:
        rows = split_rows(settings.params, [D] * C, [1.0] * C)
    shared = settings.chunk_hashing == "shared"
    features = tuple(
        Feature(
            column.name,
            tuple(
                Lookup(f"chunk{i}", "hash", lookup_seed(seed, column.name, 0 if shared else i))
                for i in range(C)
            ),
        )
        for column in schema.features
    )
    tables = tuple(Table(f"chunk{i}", r, D) for i, r in enumerate(rows))
    origin = provenance(schema, "seo-search", seed=seed, **without_unset(asdict(settings)))
    return Policy(tables, features, provenance=origin)


class Attention(nn.Module):
    """The gate of the search: chunks scaled by one softmax over all features and chunks.

    ``alpha_{f,i} = exp(L_{f,i} / tau) / sum_{f',j} exp(L_{f',j} / tau)`` (equation 1), the
    embedding is ``Concat_{f,i}(alpha_{f,i} C_i(x_f))`` (equation 2); with a down projection P of
    shape (F C, M) it is ``P^T`` times the (F C, D) matrix of scaled chunks.

    Args:
        num_features, num_chunks, chunk_dim: F, C, D.
        scale_to_mean_one: multiply alpha by F C.
        projected: M, or None for no down projection.
        temperature: tau; assign to ``temperature`` to change it.
    """

    def __init__(
        self,
        num_features: int,
        num_chunks: int,
        chunk_dim: int,
        scale_to_mean_one: bool = True,
        projected: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.shape = (num_features, num_chunks)
        self.chunk_dim = chunk_dim
        self.scale = float(num_features * num_chunks) if scale_to_mean_one else 1.0
        self.temperature = temperature
        self.logits = nn.Parameter(torch.zeros(self.shape))
        self.projection: nn.Parameter | None = None
        if projected is not None:
            pool = num_features * num_chunks
            self.projection = nn.Parameter(torch.randn(pool, projected) / math.sqrt(pool))

    def alpha(self) -> torch.Tensor:
        """Attention of every chunk, (F, C), summing to one."""
        return torch.softmax(self.logits.flatten() / self.temperature, 0).view(self.shape)

    def widths(self, policy: Policy) -> tuple[int, ...]:
        """Widths of the parts of the output: M chunks, or every feature's C chunks."""
        if self.projection is not None:
            return (self.chunk_dim,) * self.projection.shape[1]
        return policy.widths

    def scales(self) -> torch.Tensor | None:
        """What each chunk is multiplied by, (F C), unless a projection follows: then None."""
        return self._scales() if self.projection is None else None

    def _scales(self) -> torch.Tensor:
        return self.alpha().view(-1) * self.scale

    def forward(self, lookups_BE: torch.Tensor) -> torch.Tensor:
        chunks = lookups_BE.view(lookups_BE.shape[0], -1, self.chunk_dim)
        weights = self._scales()
        if self.projection is None:
            return (chunks * weights[:, None]).flatten(1)
        mixed = torch.einsum("bkd,km->bmd", chunks, self.projection * weights[:, None])
        return mixed.flatten(1)


def make_gate(schema: Schema, settings: SeoSettings, seed: int = 0) -> Attention:
    """The attention over ``search_space(schema, settings)``; the same seed, the same projection."""
    F = len(schema.features)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 2_000_003)
        return Attention(
            F,
            settings.num_chunks,
            settings.chunk_dim,
            settings.attention_scale == "mean-one",
            settings.chosen(F) if settings.use_down_projection else None,
            settings.temperature,
        )


def gate_optimizers(
    gate: Attention, settings: SeoSettings, dense_lr: float
) -> dict[str, torch.optim.Optimizer]:
    """Adam for what the training rows train in the gate: the projection, and maybe the logits."""
    groups: list[dict[str, Any]] = []
    if settings.search_split == "train":
        groups.append({"params": [gate.logits], "lr": settings.logit_lr})
    if gate.projection is not None:
        groups.append({"params": [gate.projection], "lr": dense_lr})
    return {"gate": torch.optim.Adam(groups)} if groups else {}


def temperature_at(settings: SeoSettings, step: int, total_steps: int) -> float:
    """tau after ``step`` steps: from ``temperature`` geometrically to ``temperature_end``."""
    start, end = settings.temperature, settings.temperature_end
    if end is None:
        return start
    return start * (end / start) ** min(1.0, step / max(1, total_steps))


def logit_step(
    gate: Attention,
    settings: SeoSettings,
    data: DataSet,
    fit_settings: FitSettings,
    steps_per_epoch: int,
) -> HeldOutStep:
    """After each training step of the search: the temperature, and held-out steps of the logits.

    With ``search_split="held-out"`` each training step after the warm-up is followed by one Adam
    step on the logits alone, on a batch of held-out rows; with ``"train"`` the logits move with
    the other weights and this only sets the temperature.
    """
    total = fit_settings.epochs * steps_per_epoch
    held_out = HeldOut(data, fit_settings) if settings.search_split == "held-out" else None
    return HeldOutStep(
        [gate.logits],
        settings.logit_lr,
        held_out,
        after=settings.warmup_epochs * steps_per_epoch,
        cooling=Cooling(gate, lambda step: temperature_at(settings, step, total)),
    )
