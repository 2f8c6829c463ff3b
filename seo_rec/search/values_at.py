"""The settings of searches that follow from a budget."""

from __future__ import annotations

from typing import Any, Protocol

from seo_rec.policy import Allowance
from seo_rec.search.dimgrow import adapt_of
from seo_rec.search.space import require
from seo_rec.train import Training


class ValuesAt(Protocol):
    """Says which settings of a method follow from the budget.

    Args:
        budget: In parameters (floats) or in bytes, and the precision of stored rows.
        dim: Width of a feature's embedding, in floats.
        training: Of the models that are trained.
        in_comparison: See :meth:`seo_rec.search.registry.Method.settings_at`.
    """

    def __call__(
        self, budget: Allowance, dim: int, training: Training, in_comparison: bool
    ) -> dict[str, Any]: ...


def plain_at(
    budget: Allowance, dim: int, training: Training, in_comparison: bool
) -> dict[str, Any]:
    return {**budget.to_json(), "dim": dim}


def space_at(
    budget: Allowance, dim: int, training: Training, in_comparison: bool, *, room: int = 2
) -> dict[str, Any]:
    """The budget and the widest table: ``room * dim`` floats in a comparison, else ``dim``."""
    return {**budget.to_json(), "max_dim": room * dim if in_comparison else dim}


def dimgrow_at(
    budget: Allowance, dim: int, training: Training, in_comparison: bool
) -> dict[str, Any]:
    adapt = adapt_of(training.model.backbone)
    return {**space_at(budget, dim, training, in_comparison), "adapt": adapt}


def seo_at(budget: Allowance, dim: int, training: Training, in_comparison: bool) -> dict[str, Any]:
    rows, values = budget.amount // budget.row(dim), budget.to_json()
    if not rows or (not budget.in_bytes and budget.amount % dim):
        allowed = "a row of" if budget.in_bytes else "a multiple of"
        raise ValueError(f"a budget of {budget}; allowed: {allowed} dim {dim}")
    values.pop("params", None)  # budget_rows says it
    return {**values, "budget_rows": rows, "dim": dim}


def two_level_at(
    budget: Allowance, dim: int, training: Training, in_comparison: bool
) -> dict[str, Any]:
    """Half of the columns for every id with a row, the other half for the most frequent ones."""
    require(dim > 1, "dim of two-level", dim, "2 or more")
    return {**budget.to_json(), "dim": dim - dim // 2, "hot_dim": dim // 2}
