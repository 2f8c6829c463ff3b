"""What every feature is worth to a trained model, on validation rows.

Breiman, Random Forests, Machine Learning 45 (2001), section 10: permutation importance.

Letters: B rows of a batch, E the sum of the widths of all features.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import torch

from seo_rec.batch import Batch
from seo_rec.model import RecModel
from seo_rec.train import ranks, ready

ROWS = 8192  # that are read at least, where the split has so many


@torch.no_grad()
def worth_of_features(
    model: RecModel, widths: Sequence[int], batches: Iterable[Batch], rows: int = ROWS
) -> list[float]:
    """``w_f = mean_b loss(x_b with x_bf of another row) - loss(x_b)``, in the unit of the loss.

    The embedding of feature f of row b is replaced by the one of row ``b - B // 2`` of the same
    batch, cyclically. A feature that the model does not use has a worth near 0, on either side.
    Processes of one launch call this together, each with its share of every batch.

    Args:
        model: Trained; it stays as it is, but for the mode of evaluation.
        widths: Columns of every feature in the output of the model's embedding, in its order.
        batches: Rows that the weights have not seen, in random order.
        rows: Batches are read until they have so many rows together.

    Returns:
        Of every feature its worth.
    """
    model.eval()
    here, read = ranks(), 0
    total = torch.zeros(len(widths), dtype=torch.float64)
    ends = list(itertools.accumulate(widths))
    for batch in ready(batches, here):
        batch = batch.to(here.device)
        x_BE = model.embedding(batch.sparse)
        loss = model.loss(batch, model.backbone(batch.dense_BN, x_BE))
        other_BE = x_BE.roll(x_BE.shape[0] // 2, 0)
        worth = []
        for end, width in zip(ends, widths, strict=True):
            part = slice(end - width, end)
            changed_BE = x_BE.clone()
            changed_BE[:, part] = other_BE[:, part]
            worth.append(model.loss(batch, model.backbone(batch.dense_BN, changed_BE)) - loss)
        size = round(batch.mean_rows * here.world_size)
        total += here.mean_(torch.stack(worth)).double().cpu() * size
        read += size
        if read >= rows:
            break
    found: list[float] = (total / max(1, read)).tolist()
    return found
