"""No search: one width for all features, the reference of every search of widths."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from seo_rec.data.dataset import DataSet
from seo_rec.search.found import Found
from seo_rec.search.space import SpaceSettings, open_space
from seo_rec.train import Training


@dataclass(frozen=True)
class NoSearchSettings(SpaceSettings):
    """Settings of no-search: one width for all features, or the largest widths that fit.

    Args:
        max_dim: Width of all features; with a budget they are at most so wide.
    """


def no_search(
    data: DataSet, settings: NoSearchSettings, training: Training, out: Path | None = None
) -> Found:
    """``d_f = d`` for every feature f; trains nothing.

    With a budget ``d = floor(params / sum of rows)``, and one more for the features of fewest rows
    as long as that fits.

    Raises:
        PolicyError: the budget is below one column of every feature.
    """
    started = time.perf_counter()
    space = open_space(data, settings, training.fit.seed, settings.max_dim)
    dims = [settings.max_dim] * len(space.names)
    if settings.amount:
        space.require_columns(settings.amount)
        F, widths = len(space.names), range(1, settings.max_dim + 1)
        width = max(w for w in widths if w == 1 or space.size([w] * F) <= settings.amount)
        dims = [width] * F
        left = settings.amount - space.size(dims)
        for i in sorted(range(len(dims)), key=lambda i: (space.rows[i], i)):
            if width < settings.max_dim and (cost := space.column(i, width)) <= left:
                dims[i] += 1
                left -= cost
    policy = space.policy(dims, settings.amount, space.origin("no-search", dims, asdict(settings)))
    return Found(policy, None, time.perf_counter() - started, 0, {})
