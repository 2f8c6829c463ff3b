"""From an attention to rows and widths: a table per feature, for its most frequent ids."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from seo_rec.data.crosses import CrossedData
from seo_rec.data.dataset import DataSet
from seo_rec.methods import water_filled
from seo_rec.policy import Policy
from seo_rec.search.by_counts import counts_of
from seo_rec.search.seo.settings import SeoSettings


def divided(data: DataSet, alpha: torch.Tensor, settings: SeoSettings, seed: int = 0) -> Policy:
    """The attention divides the budget: :func:`seo_rec.methods.water_filled`.

    A read of feature f is worth ``F sum_i alpha_{f,i}``, which is 1 on average over the features.
    A feature is ``dim``, ``dim / 2`` or ``dim / 4`` wide.

    Args:
        data: The data set.
        alpha: Attention, (F, C), summing to one.
        settings: The budget and ``dim``.
        seed: Is recorded.

    Raises:
        PolicyError: The budget has no room for the shared row of every feature.
    """
    worth = (alpha.sum(1) * alpha.shape[0]).tolist()
    return _filled(data, worth, settings, "seo-divide", seed)


def by_worth(data: DataSet, worth: Sequence[float], settings: SeoSettings, seed: int = 0) -> Policy:
    """What features are worth to the search model divides the budget, as in :func:`divided`.

    A feature that is worth nothing, or less, keeps the row that all of its ids share.

    Args:
        data: The data set.
        worth: Of every feature (:func:`seo_rec.search.worth.worth_of_features`).
        settings: The budget and ``dim``.
        seed: Is recorded.

    Raises:
        PolicyError: The budget has no room for the shared row of every feature.
    """
    return _filled(data, [max(0.0, w) for w in worth], settings, "seo-worth", seed)


def by_worth_with_crosses(
    wide: CrossedData, worth: Sequence[float], settings: SeoSettings, seed: int = 0
) -> tuple[Policy, tuple[str, ...]] | None:
    """The division of :func:`by_worth` over columns and crosses together.

    A cross that is worth nothing, or whose ids get no rows, is left out.

    Args:
        wide: The data with all proposed crosses.
        worth: Of every column and then of every cross, in the order of the schema.
        settings: The budget and ``dim``.
        seed: Is recorded.

    Returns:
        The policy, and the names of its crosses; None where no cross gets rows.

    Raises:
        PolicyError: The budget has no room for the shared row of every feature.
    """
    known = dict(zip([c.name for c in wide.schema.features], worth, strict=True))
    taken = tuple(c for c in wide.crosses if known[c.name] > 0)
    while taken:
        part = wide.only(taken)
        policy = by_worth(part, [known[c.name] for c in part.schema.features], settings, seed)
        with_rows = tuple(c for c in taken if len(policy.vocabularies[c.name]))
        if with_rows == taken:
            return policy, tuple(c.name for c in taken)
        taken = with_rows
    return None


def _filled(
    data: DataSet, worth: Sequence[float], settings: SeoSettings, method: str, seed: int
) -> Policy:
    return water_filled(
        data.schema,
        counts_of(data, settings.id_bits),
        settings.allowance,
        [max(1, settings.dim // part) for part in (1, 2, 4)],
        {c.name: w for c, w in zip(data.schema.features, worth, strict=True)},
        method=method,
        seed=seed,
    )
