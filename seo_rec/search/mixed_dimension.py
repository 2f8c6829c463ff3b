"""Mixed dimension: widths by popularity, without any training.

"Mixed Dimension Embeddings with Application to Memory-Efficient Recommendation Systems".
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from seo_rec.data.dataset import DataSet
from seo_rec.search.found import Found
from seo_rec.search.space import SpaceSettings, open_space, require
from seo_rec.train import Training


@dataclass(frozen=True)
class MixedDimensionSettings(SpaceSettings):
    """Settings of mixed dimensions: popular features are wider.

    Args:
        alpha: 0 gives all features one width; 1 gives all features equally many parameters.
    """

    alpha: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.alpha <= 1, "alpha", self.alpha, "0 to 1")


def mixed_dimension(
    data: DataSet, settings: MixedDimensionSettings, training: Training, out: Path | None = None
) -> Found:
    """``d_f = lambda * p_f^alpha`` with the popularity ``p_f = (ids per row of data) / n_f``.

    ``n_f`` is the number of rows of the feature's table: the fewer rows share the lookups, the more
    often each is read. Without a budget lambda gives the most popular feature ``max_dim``, and
    widths are rounded, 1 at least; with one, lambda is the largest that fits
    (:meth:`Space.fill <seo_rec.search.space.Space.fill>`). The projections to one width that the
    paper adds are left to the backbone's first layer, which sees the widths side by side.

    Raises:
        PolicyError: the budget is below one column of every feature.
    """
    started = time.perf_counter()
    space = open_space(data, settings, training.fit.seed)
    reads = [max(c.lookups_per_row, 1e-9) for c in space.schema.features]
    weights = [(k / n) ** settings.alpha for k, n in zip(reads, space.rows, strict=True)]
    if settings.amount:
        space.require_columns(settings.amount)
        most = [settings.max_dim] * len(weights)
        dims = space.fill(weights, settings.amount, most)
    else:
        dims = [max(1, round(settings.max_dim * w / max(weights))) for w in weights]
    policy = space.policy(
        dims, settings.amount, space.origin("mixed-dimension", dims, asdict(settings))
    )
    record = {"weights": dict(zip(space.names, weights, strict=True))}
    return Found(policy, None, time.perf_counter() - started, 0, record)
