"""Gated columns: the shuffled values behind a gate, the penalty, the mean of a column.

Letters: B batch, D columns in use over all features, V rows of a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from seo_rec.batch import Batch
from seo_rec.embed.remap import Remap
from seo_rec.train import ranks
from seo_rec.train.replicas import summed


def shuffle_columns(x_BD: torch.Tensor) -> torch.Tensor:
    """Every column in an order of its own, by sorting random numbers: O(D B log B); no gradient."""
    order_DB = torch.rand(x_BD.T.shape, device=x_BD.device).argsort(dim=1)
    return x_BD.detach().T.gather(1, order_DB).T


def gated(x_BD: torch.Tensor, shuffled_BD: torch.Tensor, g_D: torch.Tensor) -> torch.Tensor:
    """``g x + (1 - g) stop_gradient(P x)`` (equation 1)."""
    return g_D * x_BD + (1 - g_D) * shuffled_BD.detach()


def penalty(g_D: torch.Tensor, places_D: torch.Tensor) -> torch.Tensor:
    """``sum |g_k| / (k + 1)``, k = 1, 2, ... the place of a column within its feature."""
    return (g_D.abs() / (places_D + 1)).sum()


@torch.no_grad()
def mean_reads(remap: Remap, rows: Sequence[int], batches: Iterable[Batch]) -> list[torch.Tensor]:
    """How often a row of data reads each row of a table, on average: float64 (V,) by feature.

    The mean of a column over the rows of data is the product of its values with these numbers.

    Args:
        remap: From ids to rows of tables.
        rows: V of every feature.
        batches: The rows of data, or this process's share of them; padding reads nothing.
    """
    here, total = ranks(), 0
    counts = [torch.zeros(n, dtype=torch.float64, device=here.device) for n in rows]
    for batch in batches:
        total += batch.num_rows
        lookups = remap(batch.to(here.device).sparse)
        ids, weights, ends = lookups.values(), lookups.weights_or_none(), lookups.offset_per_key()
        for i, n in enumerate(rows):
            span = slice(ends[i], ends[i + 1])
            part = None if weights is None else weights[span].double()
            counts[i] += torch.bincount(ids[span], part, minlength=n)
    of_all = summed(torch.tensor(float(total), dtype=torch.float64, device=here.device), here)
    return [summed(count, here) / of_all for count in counts]
