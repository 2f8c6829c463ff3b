"""The gradient of a shared row, split into what its id, its feature and other features give.

Section 4.2 of "Unified Embedding" (Coleman et al., NeurIPS 2023), equations 2 to 5. The model is
one layer over hashed rows, ``z = sum_t <theta_t, E[h_t(x_t)]>``, and r = sigmoid(z) - y is the
derivative of a row's log loss by z. The gradient of the row that id u of feature t reads is the sum
of three parts::

    true   theta_t  sum of r over the rows of data with x_t = u                           (3)
    intra  theta_t  sum of r over the rows with x_t = w, w != u, h_t(w) = h_t(u)          (4)
    inter  sum over s != t of theta_s  sum of r over the rows with h_s(x_s) = h_t(u)      (5)

The first two point along theta_t. The third one has a part along theta_t, which the feature sees,
and a part across it, which leaves ``<theta_t, e>`` as it is. If the theta turn orthogonal, nothing
of it is left along theta_t.

Letters: B batch, T features, D width, V ids of a feature, K ids of all features, M rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from seo_rec import methods
from seo_rec.analysis.orthogonality import SingleLayer, single_layer, streams_of
from seo_rec.analysis.vocabularies import Vocabularies, only, vocabularies_of
from seo_rec.batch import Batch
from seo_rec.data.dataset import DataSet
from seo_rec.model import RecModel
from seo_rec.policy.addresses import lookup_rows
from seo_rec.report import charts
from seo_rec.train import FitSettings, fit, optimizers_of

Sums = Mapping[str, npt.NDArray[np.float64]]
PARTS = ("true", "intra", "inter", "inter_along")
DASH = {"true": "-", "intra": "-", "inter": "-", "inter_along": "--"}
SAID = {"true": "true", "intra": "intra-feature", "inter": "inter-feature",
        "inter_along": "inter-feature, along the weights"}  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """The parts of the gradients of all ids, float64 (K, D), feature by feature."""

    true_KD: npt.NDArray[np.float64]
    intra_KD: npt.NDArray[np.float64]
    inter_KD: npt.NDArray[np.float64]
    along_KD: npt.NDArray[np.float64]


@dataclass(frozen=True)
class GradientSizes:
    """Root mean squares of the norms of the parts, over all ids.

    Args:
        rows: Rows of the shared table.
        seed: Of weights, hashes and the order of rows.
        when: Before the first step (start) or with the best weights (end).
        ids_per_row: Ids of all features over ``rows``.
        true, intra, inter: Of the parts of the gradient of the mean log loss.
        inter_along: Of the component of the inter-feature part along the weights of the feature.
        val_auc: Of the trained model.
    """

    rows: int
    seed: int
    when: str
    ids_per_row: float
    true: float
    intra: float
    inter: float
    inter_along: float
    val_auc: float


@torch.no_grad()
def residual_sums(model: RecModel, batches: Iterable[Batch], vocabularies: Vocabularies) -> Sums:
    """``sum (sigmoid(z) - y) / N`` over the rows of data that hold an id, by feature (V,).

    Bags count an id as often as it stands in them. Ids outside of the vocabulary are left out.

    Args:
        model: Gives logits.
        batches: The N rows of data.
        vocabularies: Sorted ids of every feature, and their counts.
    """
    sums = {name: np.zeros(len(ids)) for name, (ids, _) in vocabularies.items()}
    total = 0
    for batch in batches:
        residuals_B = (torch.sigmoid(model(batch)[1].double()) - batch.labels_B.double()).cpu()
        total += batch.num_rows
        lengths_TB = batch.sparse.lengths().view(len(batch.sparse.keys()), -1).cpu()
        values, ends = batch.sparse.values().cpu().numpy(), batch.sparse.offset_per_key()
        for t, name in enumerate(batch.sparse.keys()):
            if name not in sums:
                continue
            ids, mine = vocabularies[name][0], values[ends[t] : ends[t + 1]]
            weights = residuals_B.repeat_interleave(lengths_TB[t]).numpy()
            at = np.minimum(np.searchsorted(ids, mine), len(ids) - 1)
            known = ids[at] == mine
            sums[name] += np.bincount(at[known], weights[known], len(ids))
    return {name: of_ids / max(1, total) for name, of_ids in sums.items()}


def gradient_parts(
    sums: Sums,
    rows: Mapping[str, npt.NDArray[np.int64]],
    theta: Mapping[str, npt.NDArray[np.float64]],
    num_rows: int,
) -> Parts:
    """Equations 3 to 5 for every id of every feature; the first three parts add up to the gradient.

    Args:
        sums: Of the residuals, by feature (V,); see :func:`residual_sums`.
        rows: The row of the shared table that every id reads, by feature (V,).
        theta: The weights of every feature, (D,), none of them zero.
        num_rows: M.
    """
    of_rows = {t: np.bincount(rows[t], sums[t], num_rows) for t in sums}
    whole_MD = np.sum([np.outer(of_rows[t], theta[t]) for t in sums], axis=0)
    found = []
    for t, of_ids in sums.items():
        of_feature = of_rows[t][rows[t]]
        inter_VD = whole_MD[rows[t]] - np.outer(of_feature, theta[t])
        unit = theta[t] / np.linalg.norm(theta[t])
        true_VD, intra_VD = np.outer(of_ids, theta[t]), np.outer(of_feature - of_ids, theta[t])
        found.append((true_VD, intra_VD, inter_VD, np.outer(inter_VD @ unit, unit)))
    return Parts(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def gradients(
    data: DataSet,
    rows: Sequence[int],
    dim: int,
    seeds: int,
    features: Sequence[str],
    settings: FitSettings,
) -> Iterator[GradientSizes]:
    """Train one layer over a shared table of every size; the parts before and after.

    All theta start in one direction, the worst case, as in :func:`orthogonality`.

    Args:
        data: A prepared data set.
        rows: Rows of the shared table, a model for each number.
        dim: Width of an embedding, in floats.
        seeds: Number of seeds; the first one is the settings' own.
        features: Names of the features; none takes all.
        settings: How the models are trained.

    Raises:
        ValueError: An unknown feature, fewer than two, or numbers below 1.
    """
    if not rows or min(*rows, dim, seeds) < 1:
        raise ValueError(f"rows {rows}, dim {dim}, seeds {seeds}; allowed: 1 or more each")
    data.require_binary("analyze gradients")
    schema = only(data.schema, features)
    names = [c.name for c in schema.features]
    if len(names) < 2:
        raise ValueError(f"features {names}; allowed: 2 or more, which share a table")
    known = vocabularies_of(data, schema)
    for i in range(seeds):
        of_seed = replace(settings, seed=settings.seed + i)
        for n in rows:
            policy = methods.monolithic(schema, n * dim, dim, seed=of_seed.seed)
            streams = streams_of(data, names, of_seed)
            model = single_layer(policy, of_seed.seed)
            places = {
                f.name: lookup_rows(policy, f, f.lookups[0], known[f.name][0])
                for f in policy.features
                if f.name in known
            }
            before = parts_of(model, streams["train"], known, places, n)
            streams["train"].set_epoch(0)
            made, title = optimizers_of(model, of_seed), f"{n:,} rows"
            result = fit(model, streams["train"], streams["val"], made, of_seed, title=title)
            after = parts_of(model, streams["train"], known, places, n)
            for when, parts in (("start", before), ("end", after)):
                yield _sizes(parts, n, of_seed.seed, when, result.val.auc)


def _sizes(parts: Parts, rows: int, seed: int, when: str, auc: float) -> GradientSizes:
    true, intra, inter, along = (
        float(np.sqrt(np.square(part_KD).sum(1).mean()))
        for part_KD in (parts.true_KD, parts.intra_KD, parts.inter_KD, parts.along_KD)
    )
    ids_per_row = len(parts.true_KD) / rows
    return GradientSizes(rows, seed, when, ids_per_row, true, intra, inter, along, auc)


def parts_of(
    model: RecModel,
    batches: Iterable[Batch],
    vocabularies: Vocabularies,
    rows: Mapping[str, npt.NDArray[np.int64]],
    num_rows: int,
) -> Parts:
    """The parts of the gradients of a single-layer model over one table, for these rows of data."""
    layer = model.backbone
    assert isinstance(layer, SingleLayer)
    theta_TD = layer.theta_TD.detach().double().cpu().numpy()
    names = [f.name for f in model.embedding.policy.features]
    theta = {name: theta_TD[t] for t, name in enumerate(names) if name in rows}
    was_training = model.training
    sums = residual_sums(model.eval(), batches, vocabularies)
    model.train(was_training)
    return gradient_parts(sums, rows, theta, num_rows)


# ---- picture -----------------------------------------------------------------------------


def figure_of_gradients(found: Sequence[GradientSizes]) -> Figure:
    """Sizes of the parts over the number of rows, before training and after, means over seeds."""
    mark = charts.marks(PARTS)
    with matplotlib.rc_context(charts.STYLE):
        drawn = Figure(figsize=(9.4, 3.8), layout="constrained")
        axes = drawn.subplots(1, 2)
        for ax, when, title in zip(axes, ("start", "end"), ("first step", "trained"), strict=True):
            lines = [g for g in found if g.when == when]
            sizes = sorted({g.rows for g in lines})
            for part in PARTS:
                values = [np.mean([getattr(g, part) for g in lines if g.rows == n]) for n in sizes]
                m = mark[part]
                ax.plot(
                    sizes, values, m.marker, linestyle=DASH[part], color=m.colour, label=SAID[part]
                )
            charts.size_axis(ax, set(sizes), label_width=0.2)
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.yaxis.set_minor_formatter(NullFormatter())
            ax.set_title(title)
            ax.set_xlabel("rows of the shared table (logarithmic)")
        axes[0].set_ylabel("norm of the part (root mean square)")
        lines, labels = axes[1].get_legend_handles_labels()
        drawn.legend(lines, labels, loc="outside lower center", ncols=len(PARTS), frameon=False)
        return drawn
