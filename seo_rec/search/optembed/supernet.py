"""The supernet: tables whose rows and columns are masked, and how they are trained.

Letters: B batch, F features, V rows of a table, D full width, E = F D.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from seo_rec.batch import Batch
from seo_rec.model import RecModel
from seo_rec.search.evolution import Candidate
from seo_rec.search.optembed.gates import sparsity, unit_step
from seo_rec.search.optembed.settings import OptEmbedSettings
from seo_rec.search.space import Space
from seo_rec.settings import settled
from seo_rec.train import FitSettings, ranks
from seo_rec.train.after_step import AfterStep
from seo_rec.train.optimizers import DENSE_OPTIMIZERS, ROW_OPTIMIZERS
from seo_rec.train.replicas import SharedDraws, place_of
from seo_rec.train.state import State

Kept = list[npt.NDArray[np.bool_]]


class Supernet(nn.Module):
    """``Batch -> (loss, logits_B)`` of tables whose rows and columns are masked.

    In training the loss has ``alpha`` times the sparsity term in it, and widths are drawn for every
    sample and feature. In evaluation all columns count, or as many as ``dims`` says.

    Args:
        model: of all features at width D, with its initial weights.
        space: rows of every feature.
        settings: of the search.
        draws: of the widths in training.

    Attributes:
        kept: rows that count, once that is decided; until then the thresholds say.
        dims: a width of every feature, once that is decided.
    """

    def __init__(
        self, model: RecModel, space: Space, settings: OptEmbedSettings, draws: SharedDraws
    ) -> None:
        super().__init__()
        self.space, self.settings = space, settings
        self.embedding, self.backbone = model.embedding, model.backbone
        F = len(space.names)
        self.thresholds_F = nn.Parameter(torch.zeros(F), requires_grad=settings.prunes)
        self.kept: list[torch.Tensor] | None = None
        self.dims: Candidate | None = None
        self.draws = draws

    @property
    def tables(self) -> list[nn.Parameter]:
        """Weights (V, D) of every feature."""
        bags = self.embedding.ebc.embedding_bags
        return [bags[key].weight for key in self.embedding.table_keys]

    def freeze(self, kept: Kept) -> list[int]:
        """Count these rows from now on, whatever the thresholds; the features that have some.

        A shared row of zeros does not count.
        """
        masks = [torch.from_numpy(rows.copy()) for rows in kept]
        if self.settings.zeros:
            for mask_V in masks:
                mask_V[0] = False
        self.kept = [mask_V.to(self.thresholds_F.device) for mask_V in masks]
        return [i for i, mask_V in enumerate(masks) if bool(mask_V.any())]

    def margins(self, feature: int) -> torch.Tensor:
        """``|e_v|_1 - t_f`` of every row of a feature, (V,)."""
        norms_V = self.tables[feature].abs().sum(1)
        return norms_V - self.thresholds_F[feature]

    def row_mask(self, feature: int) -> torch.Tensor:
        """One for the rows that count, (V,); row 0, of the unknown ids, is as ``pruned`` says."""
        if self.kept is not None:
            return self.kept[feature].to(self.thresholds_F.dtype)
        mask_V = unit_step(self.margins(feature))
        first = torch.full_like(mask_V[:1], float(self.settings.pruned == "shared"))
        return torch.cat([first, mask_V[1:]])

    def masked_table(self, feature: int) -> torch.Tensor:
        """``m_v e_v``, and with ``pruned="shared"`` ``(1 - m_v) e_0`` more, (V, D)."""
        table_VD = self.tables[feature]
        if not self.settings.prunes:
            return table_VD
        mask_V1 = self.row_mask(feature)[:, None]
        masked_VD = table_VD * mask_V1
        if self.settings.pruned == "zero":
            return masked_VD
        return masked_VD + table_VD[:1] * (1 - mask_V1)

    def embed(self, sparse: KeyedJaggedTensor) -> torch.Tensor:
        """The masked rows of every sample, bags summed, all columns: x_BE."""
        batched = self.embedding.batched
        assert batched is not None
        tables = [self.masked_table(i) for i in range(len(self.space.names))]
        x_BE: torch.Tensor = batched(tables, self.embedding.remap(sparse))
        return x_BE

    def drawn_widths(self, batch: Batch) -> torch.Tensor:
        """Widths from 1 to D of every sample and feature, int64 (B, F), on the CPU; padding: 1."""
        place = place_of(batch, ranks())
        shape = (place.total, len(self.space.names))
        widths_BF = self.draws.integers(1, self.settings.max_dim + 1, shape)
        padding = len(batch.labels_B) - place.rows
        own_BF = widths_BF[place.first : place.stop]
        return functional.pad(own_BF, (0, 0, 0, padding), value=1) if padding else own_BF

    def column_mask(self, widths: torch.Tensor) -> torch.Tensor:
        """Ones for the first columns: int64 (..., F) to float32 (..., E)."""
        columns_D = torch.arange(self.settings.max_dim, device=widths.device)
        return (columns_D < widths[..., None]).float().flatten(-2)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        x_BE, s = self.embed(batch.sparse), self.settings
        if self.training and s.narrows:
            x_BE = x_BE * self.column_mask(self.drawn_widths(batch).to(x_BE.device))
        elif self.dims is not None:
            x_BE = x_BE * self.column_mask(torch.tensor(self.dims, device=x_BE.device))
        logits_B = self.backbone(batch.dense_BN, x_BE)
        loss = batch.loss(logits_B)
        if self.training and s.prunes and s.alpha:
            loss = loss + s.alpha * sparsity(self.thresholds_F)
        return loss, logits_B


class KeptDraws(AfterStep):
    """Keeps in checkpoints where the draws of the widths stand."""

    def __init__(self, draws: SharedDraws) -> None:
        self.draws = draws

    def tensors(self) -> State:
        """See :meth:`SharedDraws.tensors`."""
        return self.draws.tensors()

    def load(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what :meth:`tensors` gave."""
        self.draws.load(tensors)


def make_optimizers(model: Supernet, f: FitSettings) -> dict[str, torch.optim.Optimizer]:
    """``rows`` and ``dense`` as for any model, and SGD for the thresholds."""
    f = settled(f, 0)
    make = ROW_OPTIMIZERS[f.row_optimizer]
    optimizers: dict[str, torch.optim.Optimizer] = {
        "rows": make(model.tables, f.row_lr, f.row_l2),
        "dense": DENSE_OPTIMIZERS[f.dense_optimizer](model.backbone.parameters(), f.dense_lr),
    }
    if model.settings.prunes:
        lr = model.settings.threshold_lr
        optimizers["thresholds"] = torch.optim.SGD([model.thresholds_F], lr=lr)
    return optimizers
