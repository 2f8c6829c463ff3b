"""SEO stage 1: learn which chunks of one shared table each feature should read.

Letters: B batch, F features, C chunks of the shared table (N' in the paper), D width of a chunk.

Readings of "Shared Embedding Optimization: A Two-Stage Approach" that had to be chosen, each an
option of :class:`SeoSettings`:

* Equation 1 makes the mean attention ``1/(F C)``, so equation 2 shrinks every embedding by that
  factor. ``attention_scale="mean-one"`` (default) multiplies by ``F C``, which keeps the scale of
  a model without attention; ``"paper"`` takes the equation as it stands.
* "The chunk indices with the highest attention": one ranking of all ``F C`` entries, cut at
  ``total_chunks`` (default ``F * dim / chunk_dim``, the width the monolithic model reads).
  ``min_chunks`` of each feature's best chunks are taken first; 0 is the plain ranking.
* "M is the target number of chunks of the final model": ``total_chunks``.
* How a value finds its row in a chunk: ``chunk_hashing="shared"`` is one row number for all chunks
  of a value, as in a table that is cut column-wise (Theorem 1 holds to the bit);
  ``"independent"`` (default) hashes each chunk with a seed of its own.
* "Once the search model has converged": the attention is that of the best validation epoch, with
  the running mean of the logits where a mean of the weights is kept; with ``temperature_end`` tau
  falls over the largest number of epochs, and early stopping may end the search before.
* The slots that round robin deals: as many as there are chunk tables in the policy, up to C
  (Definition 1 has D / chunk_dim).
* What trains the logits: ``search_split="train"`` as the other weights, or ``"held-out"``, by
  alternate steps on validation rows after ``warmup_epochs``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seo_rec.batch import Batch
from seo_rec.data.stream import Stream
from seo_rec.methods import lookup_seed, provenance
from seo_rec.policy import Feature, Lookup, Policy, PolicyError, Table, split_rows
from seo_rec.schema import Schema
from seo_rec.search.space import SpaceSettings, open_space
from seo_rec.train.ranks import ranks
from seo_rec.train.state import State
from seo_rec.train.steps import ready


@dataclass(frozen=True)
class SeoSettings:
    """The search space of SEO and how it is searched; the text of this module explains the choices.

    Args:
        budget_rows: Rows of the budget: it is budget_rows x dim parameters.
        dim: Width of the embedding of one feature, in floats.
        chunk_dim: Width of a chunk, in floats.
        search_dim: Width of the table that is searched, in floats.
        total_chunks: Chunks that are chosen over all features; none takes F x dim / chunk_dim.
        min_chunks: Chunks that every feature keeps; 0 allows that a feature loses all.
        use_down_projection: Whether the pool of chunks is projected to total_chunks vectors.
        adjust_hash_buckets: Whether the search model has the size of the budget instead of more.
        chunk_hashing: A hash function for each chunk (independent) or one for all chunks (shared).
        temperature: Temperature of the softmax of the attention at the start.
        temperature_end: Temperature at the end, reached geometrically; none keeps it constant.
        attention_scale: Whether attentions have a mean of one (mean-one) or a sum of one (paper).
        search_split: Rows that train the attention: train, or held-out for validation rows.
        warmup_epochs: Epochs before the steps on held-out rows begin.
        logit_lr: Learning rate of the logits of the attention.
    """

    budget_rows: int = 6000
    dim: int = 16
    chunk_dim: int = 8
    search_dim: int = 32
    total_chunks: int | None = None
    min_chunks: int = 1
    use_down_projection: bool = False
    adjust_hash_buckets: bool = False
    chunk_hashing: str = "independent"
    temperature: float = 1.0
    temperature_end: float | None = None
    attention_scale: str = "mean-one"
    search_split: str = "train"
    warmup_epochs: int = 1
    logit_lr: float = 5e-3

    @property
    def search_bytes(self) -> int:
        """The search table's parameters, their gradients and Adam's two moments."""
        return 4 * 4 * self.budget_rows * self.search_dim

    def __post_init__(self) -> None:
        for name in ("budget_rows", "dim", "chunk_dim", "search_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 1 or more")
        if self.dim % self.chunk_dim or self.search_dim % self.chunk_dim:
            raise ValueError(
                f"dim {self.dim} and search_dim {self.search_dim} must be multiples of "
                f"chunk_dim {self.chunk_dim}"
            )
        for name, allowed in (
            ("chunk_hashing", ("shared", "independent")),
            ("attention_scale", ("mean-one", "paper")),
            ("search_split", ("train", "held-out")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {allowed}")
        if not 0 <= self.min_chunks <= self.num_chunks:
            raise ValueError(
                f"min_chunks is {self.min_chunks}; allowed: 0 to {self.num_chunks}, the chunks of "
                "the search table"
            )
        end = 1.0 if self.temperature_end is None else self.temperature_end
        if not (0 < self.temperature < math.inf and 0 < end < math.inf):
            raise ValueError(
                f"temperature {self.temperature} and temperature_end {end}; allowed: above 0"
            )
        if self.total_chunks is not None and self.total_chunks < 1:
            raise ValueError(f"total_chunks is {self.total_chunks}; allowed: 1 or more, or None")
        if self.warmup_epochs < 0:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}; allowed: 0 or more")
        if not self.logit_lr > 0:
            raise ValueError(f"logit_lr is {self.logit_lr}; allowed: above 0")

    @property
    def num_chunks(self) -> int:
        """C = search_dim / chunk_dim."""
        return self.search_dim // self.chunk_dim

    @property
    def params(self) -> int:
        """P = B_base * D, the floats of the final model's tables."""
        return self.budget_rows * self.dim

    def chosen(self, num_features: int) -> int:
        """M: chunks that ``select`` takes in all."""
        return self.total_chunks or num_features * self.dim // self.chunk_dim


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
    origin = provenance(schema, "seo-search", seed=seed, **asdict(settings))
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


class LogitStep:
    """After each training step of the search: the temperature, and held-out steps of the logits.

    With ``search_split="held-out"`` each training step after the warm-up is followed by one Adam
    step on the logits alone, on a batch of held-out rows; with ``"train"`` the logits move with
    the other weights and this only sets the temperature.

    Args:
        gate: the attention being trained.
        settings: of the search.
        held_out: stream of rows for the logits; endless, epoch after epoch.
        total_steps, warmup_steps: length of the search and of its warm-up.
    """

    def __init__(
        self,
        gate: Attention,
        settings: SeoSettings,
        held_out: Stream | None,
        total_steps: int,
        warmup_steps: int,
    ) -> None:
        self.gate, self.settings, self.held_out = gate, settings, held_out
        self.total_steps, self.warmup_steps = max(1, total_steps), warmup_steps
        self.optimizer = torch.optim.Adam([gate.logits], lr=settings.logit_lr)
        self._batches: Iterator[Batch] = iter(())

    def __call__(self, model: nn.Module, step: int) -> None:
        self.gate.temperature = self.temperature_at(step)
        if self.held_out is None or step <= self.warmup_steps:
            return
        loss, _ = model(self._next())
        (gradient,) = torch.autograd.grad(loss, [self.gate.logits])
        self.gate.logits.grad = ranks().mean_(gradient)
        self.optimizer.step()
        self.gate.logits.grad = None

    def temperature_at(self, step: int) -> float:
        """tau after ``step`` steps: from ``temperature`` geometrically to ``temperature_end``."""
        start, end = self.settings.temperature, self.settings.temperature_end
        if end is None:
            return start
        return start * (end / start) ** min(1.0, step / self.total_steps)

    @property
    def calls_model(self) -> bool:
        return self.held_out is not None

    def _next(self) -> Batch:
        assert self.held_out is not None
        batch = next(self._batches, None)
        if batch is None:
            self._batches = ready(self.held_out, ranks())
            batch = next(self._batches)
        return batch.to(self.gate.logits.device)

    def tensors(self) -> State:
        """Adam's state of the logits, for a checkpoint."""
        return dict(self.optimizer.state[self.gate.logits].items())

    def values(self) -> dict[str, Any]:
        """Temperature and position of the held-out rows, for a checkpoint."""
        held_out = self.held_out.state_dict() if self.held_out else {}
        return {"temperature": self.gate.temperature, "held_out": held_out}

    def load(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what ``tensors`` and ``values`` gave."""
        device = self.gate.logits.device
        self.optimizer.state[self.gate.logits] = {n: t.to(device) for n, t in tensors.items()}
        self.gate.temperature = values["temperature"]
        if self.held_out:
            self.held_out.load_state_dict(values["held_out"])
            self._batches = ready(self.held_out, ranks())


def check_total(F: int, C: int, total: int, min_chunks: int) -> None:
    """PolicyError unless ``total`` of F x C chunks can be chosen, ``min_chunks`` of each."""
    if not max(1, F * min_chunks) <= total <= F * C:
        raise PolicyError(
            f"total_chunks {total}: with {F} features of {C} chunks and min_chunks {min_chunks} "
            f"allowed: {max(1, F * min_chunks)} to {F * C}"
        )


def select(space: Policy, alpha: torch.Tensor, total: int, min_chunks: int = 0) -> Policy:
    """The discrete policy: the ``total`` largest attentions, ties to the lower index.

    The best ``min_chunks`` of every feature are taken first, the rest of ``total`` by the global
    ranking. A feature that loses all its chunks is listed in ``policy.dropped``; a chunk that no
    feature chose disappears.

    Args:
        space: the policy that was searched; its features' lookups are the candidates.
        alpha: attention, (F, C).
        total: M, chunks chosen over all features.
        min_chunks: chunks every feature keeps.

    Raises:
        PolicyError: ``total`` is out of range.
    """
    F, C = alpha.shape
    check_total(F, C, total, min_chunks)
    order = torch.argsort(alpha.flatten(), descending=True, stable=True).tolist()
    best = torch.argsort(alpha, dim=1, descending=True, stable=True)[:, :min_chunks]
    chosen = {f * C + int(i) for f in range(F) for i in best[f]}
    for entry in order:
        if len(chosen) == total:
            break
        chosen.add(entry)
    features = []
    for f, feature in enumerate(space.features):
        kept = tuple(k for i, k in enumerate(feature.lookups) if f * C + i in chosen)
        if kept:
            features.append(replace(feature, lookups=kept))
    read = {k.table for f in features for k in f.lookups}
    served = {f.name for f in features}
    return replace(
        space,
        tables=tuple(t for t in space.tables if t.name in read),
        features=tuple(features),
        dropped=space.dropped + tuple(f.name for f in space.features if f.name not in served),
        provenance={**space.provenance, "total_chunks": total, "min_chunks": min_chunks},
    )


def by_id(data: Path, alpha: torch.Tensor, settings: SeoSettings, seed: int = 0) -> Policy:
    """The attention as widths: a table per feature with a row for every training id.

    Feature f gets ``d_f = floor(lambda * sum_i alpha_{f,i})`` columns, 1 to ``search_dim``, for the
    largest lambda that fits the budget, and then what is left over (:meth:`Space.fill
    <seo_rec.search.space.Space.fill>`, :meth:`Space.policy <seo_rec.search.space.Space.policy>`).
    Rows of chunks cost all features the same; these cost what
    the feature's vocabulary makes them cost.

    Args:
        data: prepared data set.
        alpha: attention, (F, C).

    Raises:
        PolicyError: one column of every feature does not fit.
    """
    space = open_space(data, SpaceSettings(settings.params, settings.search_dim, "id"), seed)
    weights = alpha.sum(1).tolist()
    dims = space.fill(weights, settings.params, [settings.search_dim] * len(weights))
    return space.policy(dims, settings.params, space.origin("seo-by-id", dims, asdict(settings)))
