"""Do the weights of features that share a table turn away from each other?

Figure 2 of "Unified Embedding" (Coleman et al., NeurIPS 2023): a single layer over one shared
table, ``logit = sum_t <theta_t, e_{h_t(x_t)}>``, without bias and without numeric columns. All
theta_t start in one direction, the worst case; a smaller table has more collisions between
features, and theta_t that are orthogonal make them harmless.

Letters: B batch, T features, D width, N ids of all features, M rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from seo_rec import methods
from seo_rec.analysis.vocabularies import Vocabularies, only, vocabularies_of
from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.embed import PolicyEmbedding
from seo_rec.model import RecModel
from seo_rec.policy import Policy
from seo_rec.policy.addresses import lookup_rows
from seo_rec.report import charts
from seo_rec.train import EVAL_BATCH, FitSettings, fit, optimizers_of

TABLES = ("unified", "separate")
# "separate": a table per feature with as many rows in all, in proportion to the vocabularies


@dataclass(frozen=True)
class OrthogonalitySettings:
    """The models to train: one for every number of rows and every seed.

    Args:
        rows: Rows of all tables together, a model for each number.
        dim: Width of an embedding, in floats.
        seeds: Number of seeds.
        features: Names of the features; none takes all.
        tables: One table for all features (unified), and also a table for each (separate).
    """

    rows: tuple[int, ...]
    dim: int = 32
    seeds: int = 1
    features: tuple[str, ...] = ()
    tables: tuple[str, ...] = ("unified",)

    def __post_init__(self) -> None:
        if not self.rows or min(self.rows) < 1 or self.dim < 2 or self.seeds < 1:
            raise ValueError(
                f"rows {self.rows}, dim {self.dim}, seeds {self.seeds}; allowed: rows and seeds of "
                "1 or more, a width of 2 or more"
            )
        if unknown := [t for t in self.tables if t not in TABLES]:
            raise ValueError(f"tables {unknown}; allowed: {', '.join(TABLES)}")


@dataclass(frozen=True)
class Orthogonality:
    """One trained model: angles in degrees between theta_t, norms of the rows that ids read."""

    tables: str
    rows: int
    seed: int
    ids_per_row: float
    mean_angle: float
    least_angle: float
    largest_angle: float
    mean_norm: float
    mean_square_norm: float
    val_auc: float
    epochs: int
    steps: int
    seconds: float


class SingleLayer(nn.Module):
    """``logits_B = sum_t <theta_t, x_t>``; every theta_t starts as one vector of norm 1."""

    def __init__(self, num_features: int, dim: int, seed: int) -> None:
        super().__init__()
        theta_D = torch.randn(dim, generator=torch.Generator().manual_seed(seed))
        self.theta_TD = nn.Parameter((theta_D / theta_D.norm()).repeat(num_features, 1))

    def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
        return x_BE @ self.theta_TD.flatten()


def angles(theta_TD: torch.Tensor) -> torch.Tensor:
    """Degrees in [0, 180] between all pairs of rows, float64 (T (T - 1) / 2,).

    ``2 atan2(|u - v|, |u + v|)`` of unit vectors u, v: exact for small angles too.

    Raises:
        ValueError: fewer than two rows, or a row of zeros.
    """
    norms_T1 = theta_TD.double().norm(dim=1, keepdim=True)
    if len(theta_TD) < 2 or not bool((norms_T1 > 0).all()):
        raise ValueError(f"{len(theta_TD)} weights; allowed: 2 or more, none of them zero")
    u_TD = theta_TD.double() / norms_T1
    first, second = torch.triu_indices(len(u_TD), len(u_TD), 1)
    apart = (u_TD[first] - u_TD[second]).norm(dim=1)
    together = (u_TD[first] + u_TD[second]).norm(dim=1)
    return torch.rad2deg(2 * torch.atan2(apart, together))


def growth(found: Sequence[Orthogonality]) -> float:
    """Slope of log(mean squared norm) over log(N / M), by least squares: 1 would be O(N / M)."""
    if len({r.rows for r in found}) < 2:
        return math.nan
    x = np.log([r.ids_per_row for r in found])
    y = np.log([r.mean_square_norm for r in found])
    return float(np.polyfit(x, y, 1)[0])


def orthogonality(
    data: DataSet, settings: OrthogonalitySettings, fit_settings: FitSettings
) -> Iterator[Orthogonality]:
    """Train every table size and seed, one after the other.

    Args:
        data: prepared data set.
        settings: what.
        fit_settings: how; its seed is the first one. A seed is of weights, hashes and row order.

    Raises:
        ValueError: an unknown feature, or fewer than two.
        PolicyError: fewer rows than separate tables.
    """
    data.require_binary("analyze orthogonality")
    schema = only(data.schema, settings.features)
    names = [c.name for c in schema.features]
    if len(names) < 2:
        raise ValueError(f"features {names}; allowed: 2 or more, angles are between two")
    vocabularies = vocabularies_of(data, schema)
    for i in range(settings.seeds):
        seed = fit_settings.seed + i
        of_seed = replace(fit_settings, seed=seed)
        streams = streams_of(data, names, of_seed)
        for rows, tables in product(settings.rows, settings.tables):
            params = rows * settings.dim
            if tables == "unified":
                policy = methods.monolithic(schema, params, settings.dim, seed=seed)
            else:
                policy = methods.separate(
                    schema, params, settings.dim, rows="cardinality", seed=seed
                )
            for stream in streams.values():
                stream.set_epoch(0)
            yield _train(policy, tables, rows, vocabularies, streams, of_seed)


def streams_of(data: DataSet, columns: Sequence[str], settings: FitSettings) -> dict[str, Stream]:
    """Training rows in the order of the seed, and validation rows, with these features alone."""
    return {
        split: data.stream(
            split,
            batch_size=settings.batch_size if split == "train" else EVAL_BATCH,
            shuffle=split == "train",
            seed=settings.seed,
            columns=columns,
        )
        for split in ("train", "val")
    }


def single_layer(policy: Policy, seed: int) -> RecModel:
    """A :class:`SingleLayer` over the tables of a policy, with the initial weights of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        embedding = PolicyEmbedding(policy)
    layer = SingleLayer(len(policy.features), policy.widths[0], seed + 1_000_003)
    return RecModel(embedding, layer)


def _train(
    policy: Policy,
    tables: str,
    rows: int,
    vocabularies: Vocabularies,
    streams: dict[str, Stream],
    settings: FitSettings,
) -> Orthogonality:
    model = single_layer(policy, settings.seed)
    embedding, layer = model.embedding, model.backbone
    assert isinstance(layer, SingleLayer)
    optimizers = optimizers_of(model, settings)
    title = f"{tables}, {rows:,} rows"
    result = fit(model, streams["train"], streams["val"], optimizers, settings, title=title)
    degrees = angles(layer.theta_TD.detach())
    norms = _norms(embedding, vocabularies)
    return Orthogonality(
        tables=tables,
        rows=rows,
        seed=settings.seed,
        ids_per_row=sum(len(ids) for ids, _ in vocabularies.values()) / rows,
        mean_angle=float(degrees.mean()),
        least_angle=float(degrees.min()),
        largest_angle=float(degrees.max()),
        mean_norm=float(norms.mean()),
        mean_square_norm=float(norms.square().mean()),
        val_auc=result.val.auc,
        epochs=result.epochs,
        steps=result.steps,
        seconds=result.seconds,
    )


def _norms(embedding: PolicyEmbedding, vocabularies: Vocabularies) -> torch.Tensor:
    """Norms of the rows that at least one training id reads, of all tables."""
    policy = embedding.policy
    norms = []
    for table, key in zip(policy.tables, embedding.table_keys, strict=True):
        used = np.zeros(table.num_rows, bool)
        for f in policy.features:
            for k in f.lookups:
                if k.table == table.name and f.name in vocabularies:
                    used[lookup_rows(policy, f, k, vocabularies[f.name][0])] = True
        weight = embedding.ebc.embedding_bags[key].weight.detach().cpu()
        norms.append(weight[torch.from_numpy(used)].double().norm(dim=1))
    return torch.cat(norms)


# ---- picture -----------------------------------------------------------------------------


def figure(found: Sequence[Orthogonality]) -> Figure:
    """Mean norm of the rows, and mean angle between weights, over the number of rows.

    A bar is one standard error over seeds.
    """
    mark = charts.marks(TABLES)
    with matplotlib.rc_context(charts.STYLE):
        drawn = Figure(figsize=(9.4, 3.8), layout="constrained")
        left, right = drawn.subplots(1, 2)
        for tables in dict.fromkeys(r.tables for r in found):
            line = [r for r in found if r.tables == tables]
            _line(left, line, "mean_norm", mark[tables])
            _line(right, line, "mean_angle", mark[tables])
        for ax in (left, right):
            charts.size_axis(ax, {r.rows for r in found}, label_width=0.2)
            ax.set_xlabel("rows of all tables (logarithmic)")
        left.set_ylim(bottom=0)
        left.set_ylabel("mean norm of a row")
        right.axhline(90, color="#888888", linestyle=":", linewidth=1.2)
        right.set_ylim(-3, 96)
        right.set_ylabel("mean angle between weights (degrees)")
        right.legend(frameon=False)
        return drawn


def _line(ax: Axes, found: Sequence[Orthogonality], of: str, m: charts.Mark) -> None:
    rows = sorted({r.rows for r in found})
    values = [[getattr(r, of) for r in found if r.rows == n] for n in rows]
    errors = [np.std(v, ddof=1) / math.sqrt(len(v)) if len(v) > 1 else 0.0 for v in values]
    ax.errorbar(
        rows,
        [np.mean(v) for v in values],
        yerr=errors,
        fmt=m.marker,
        linestyle=m.dash,
        color=m.colour,
        capsize=3,
        linewidth=1.5,
        label=found[0].tables,
    )
