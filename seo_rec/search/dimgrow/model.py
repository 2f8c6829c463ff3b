"""The model that grows: columns, gates, the adaptation layer and the backbone.

Letters: B batch, D columns in use over all features, V rows of a table, H width of the
adaptation layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from seo_rec.backbones import build_backbone
from seo_rec.batch import Batch
from seo_rec.embed.remap import Remap
from seo_rec.model import ModelSettings
from seo_rec.search.dimgrow.gates import gated, penalty, shuffle_columns
from seo_rec.search.dimgrow.settings import DimGrowSettings
from seo_rec.search.space import Space
from seo_rec.train import ranks, rng_states, set_rng_states
from seo_rec.train.replicas import place_of, rows_of_all


class Dimension(nn.Module):
    """One column of one feature: its values, its row of the adaptation layer, its gate's theta."""

    def __init__(self, num_rows: int, adapt_dim: int, init_scale: float) -> None:
        super().__init__()
        self.values_V = nn.Parameter(torch.empty(num_rows).uniform_(-init_scale, init_scale))
        self.adapt_H = nn.Parameter(torch.randn(adapt_dim) / adapt_dim**0.5)
        self.theta = nn.Parameter(torch.zeros(()))


class GrowingModel(nn.Module):
    """``Batch -> (loss, logits_B)`` of columns, gates, adaptation layer and backbone.

    ``logits = backbone(dense, adapt(Concat_fk(g x + (1 - g) x~)))``; in training the loss has
    ``alpha`` times the penalty in it. While it grows and trains, the model draws its random numbers
    (shuffles, dropout, new columns) from a random state of its own, which goes on from where
    torch's stood after the backbone was made. Other code that draws random numbers therefore does
    not change the search.

    Args:
        space: rows of every feature.
        settings, model_settings: of the search and of its backbone.

    Attributes:
        reads: what :func:`mean_reads` gives for the training rows; evaluation needs them.
    """

    def __init__(
        self, space: Space, settings: DimGrowSettings, model_settings: ModelSettings
    ) -> None:
        super().__init__()
        self.space, self.settings = space, settings
        self.init_scale = model_settings.init_scale
        self.remap = Remap(space.policy([1] * len(space.names)))
        self.columns = nn.ModuleList(nn.ModuleList() for _ in space.names)
        self.used: list[list[int]] = [[] for _ in space.names]
        self.reads: list[torch.Tensor] = []
        self.means_1D: torch.Tensor | None = None  # of the columns, while they are evaluated
        parts = len(space.names) if settings.adapt == "per-feature" else 1
        self.backbone = build_backbone(
            model_settings.backbone,
            len(space.schema.numeric),
            (settings.adapt_dim,) * parts,
            model_settings.hidden,
            model_settings.dropout,
            model_settings.interaction,
        )
        self.random = rng_states(replace(ranks(), rank=0))

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Within the block torch's generators are the model's own, alike in every process."""
        here = replace(ranks(), rank=0)
        with torch.random.fork_rng([here.device] if here.device.type == "cuda" else []):
            set_rng_states(self.random, here)
            yield
            self.random = rng_states(here)

    @property
    def dims(self) -> list[int]:
        """Columns in use of every feature."""
        return [len(u) for u in self.used]

    @property
    def allocated(self) -> list[int]:
        return [len(own) for own in self.columns]  # type: ignore[arg-type]

    def dimension(self, feature: int, column: int) -> Dimension:
        return self.columns[feature][column]  # type: ignore[index,return-value]

    def in_use(self) -> list[Dimension]:
        """The columns in use, feature by feature."""
        return [self.dimension(i, k) for i, own in enumerate(self.used) for k in own]

    def allocate(self, feature: int) -> Dimension:
        """A new column of ``feature``, not in use yet."""
        rows = self.space.rows[feature]
        with self.drawing():
            made = Dimension(rows, self.settings.adapt_dim, self.init_scale)
        made.to(next(self.backbone.parameters()).device)
        self.columns[feature].append(made)  # type: ignore[operator]
        return made

    def gates(self) -> torch.Tensor:
        """Gates of the columns in use, (D,)."""
        return torch.sigmoid(self.settings.tau * torch.stack([d.theta for d in self.in_use()]))

    def places(self) -> torch.Tensor:
        """The place of every column in use within its feature, from 1, (D,)."""
        counted = [k + 1 for own in self.used for k in range(len(own))]
        return torch.tensor(counted, device=self.gates().device)

    def embed(self, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """The columns in use of every row, bags summed, ungated: x_BD."""
        lookups = self.remap(sparse)
        B, ends = lookups.stride(), lookups.offset_per_key()
        ids, weights = lookups.values(), lookups.weights_or_none()
        lengths_FB = lookups.lengths().view(-1, B)
        single = ids.numel() == lengths_FB.numel() and bool((lengths_FB == 1).all())
        row_of = torch.arange(B, device=ids.device)
        found = []
        for i, own in enumerate(self.used):
            span = slice(ends[i], ends[i + 1])
            bag = row_of if single else row_of.repeat_interleave(lengths_FB[i])
            for k in own:
                values = self.dimension(i, k).values_V[ids[span]]
                values = values if weights is None else values * weights[span]
                if not single:
                    values = values.new_zeros(B).index_add(0, bag, values)
                found.append(values)
        return torch.stack(found, dim=1)

    def adapt(self, x_BD: torch.Tensor) -> torch.Tensor:
        """``sum_f x_f W_f`` (B, H), or ``x_f W_f`` side by side (B, F * H) with per-feature."""
        adapt_DH = torch.stack([d.adapt_H for d in self.in_use()])
        if self.settings.adapt == "joint":
            return x_BD @ adapt_DH
        parts = zip(x_BD.split(self.dims, dim=1), adapt_DH.split(self.dims), strict=True)
        return torch.cat([x @ w for x, w in parts], dim=1)

    def train(self, mode: bool = True) -> GrowingModel:
        """Train or evaluate; every evaluation works the means of the columns out anew."""
        self.means_1D = None
        super().train(mode)
        return self

    @torch.no_grad()
    def means(self) -> torch.Tensor:
        """The mean of every column in use over the training rows, (1, D)."""
        assert self.reads, "evaluation needs the reads of the training rows"
        columns = [
            (reads_V, self.dimension(i, k).values_V)
            for i, (reads_V, own) in enumerate(zip(self.reads, self.used, strict=True))
            for k in own
        ]
        return torch.stack([r @ v.double() for r, v in columns]).to(columns[0][1].dtype)[None]

    def other_rows(self, x_BD: torch.Tensor, batch: Batch) -> torch.Tensor:
        """What takes the place of a column as its gate closes, without a gradient.

        In training the values of other rows, of all processes and without padding; in evaluation
        the mean of the training rows.
        """
        if not self.training:
            if self.means_1D is None:
                self.means_1D = self.means()
            return self.means_1D
        here = ranks()
        if here.world_size == 1:
            return shuffle_columns(x_BD)
        place = place_of(batch, here)
        with self.drawing():
            shuffled_RD = shuffle_columns(rows_of_all(x_BD, place, here))
        padding = len(x_BD) - place.rows
        return functional.pad(shuffled_RD[place.first : place.stop], (0, 0, 0, padding))

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        x_BD, g_D = self.embed(batch.sparse), self.gates()
        with self.drawing() if ranks().world_size == 1 else nullcontext():
            other = self.other_rows(x_BD, batch)
            logits_B = self.backbone(batch.dense_BN, self.adapt(gated(x_BD, other, g_D)))
        loss = batch.loss(logits_B)
        if self.training and self.settings.alpha:
            loss = loss + self.settings.alpha * penalty(g_D, self.places())
        return loss, logits_B
