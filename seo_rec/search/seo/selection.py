"""From an attention to policies: the chosen chunks, or widths of tables with a row per id."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch

from seo_rec.data.dataset import DataSet
from seo_rec.methods.frequent import FrequentSettings, frequent
from seo_rec.policy import Policy, PolicyError
from seo_rec.search.seo.settings import SeoSettings
from seo_rec.search.space import SpaceSettings, open_space


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


def by_frequency(
    data: DataSet, alpha: torch.Tensor, width: int, settings: SeoSettings, seed: int = 0
) -> Policy:
    """Rows for the most frequent ids of the features that the attention prefers.

    Feature f is kept if ``sum_i alpha_{f,i} >= 1 / F``, an even share; the others are dropped.

    Args:
        data: the data set.
        alpha: attention, (F, C).
        width: floats of a row.
        settings: budget and precision.
        seed: salt of the hash functions.

    Raises:
        PolicyError: the budget has no room for a row of each feature that is kept.
    """
    schema, sums = data.schema, alpha.sum(1)
    even = float(sums.mean())
    kept = {c.name for c, s in zip(schema.features, sums.tolist(), strict=True) if s >= even}
    columns = tuple(c for c in schema.columns if c.name in kept)
    counts = {c.name: data.counts(c.name, settings.id_bits) for c in columns}
    part = replace(schema, columns=columns)
    wanted = FrequentSettings(**settings.allowance.to_json(), dim=width)
    policy = frequent(part, counts, wanted, seed=seed)
    dropped = tuple(c.name for c in schema.features if c.name not in kept)
    return replace(policy, dropped=dropped)


def by_id(data: DataSet, alpha: torch.Tensor, settings: SeoSettings, seed: int = 0) -> Policy:
    """The attention as widths: a table per feature with a row for every training id.

    Feature f gets ``d_f = floor(lambda * sum_i alpha_{f,i})`` columns, 1 to ``search_dim``, for the
    largest lambda that fits the budget; further columns use up the rest (:meth:`Space.fill
    <seo_rec.search.space.Space.fill>`, :meth:`Space.policy <seo_rec.search.space.Space.policy>`).
    A row of a chunk costs the same for all features. A column here costs as many floats as the
    vocabulary of the feature has ids.

    Args:
        data: the data set.
        alpha: attention, (F, C).

    Raises:
        PolicyError: one column of every feature does not fit.
    """
    sizes = {"max_dim": settings.search_dim, "address": "id", **settings.allowance.to_json()}
    wanted = SpaceSettings(**sizes)
    space, weights = open_space(data, wanted, seed), alpha.sum(1).tolist()
    dims = space.fill(weights, wanted.amount, [settings.search_dim] * len(weights))
    return space.policy(dims, wanted.amount, space.origin("seo-by-id", dims, asdict(settings)))
