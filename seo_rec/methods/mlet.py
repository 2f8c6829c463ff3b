"""MLET: tables trained as two layers of a wider inner dimension, and served as one.

Letters: n rows of a table, d its width, k the inner dimension.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from seo_rec.policy import Policy, PolicyError

log = logging.getLogger(__name__)

LEAST_WEIGHT = 0.25  # of the first updates; with one layer their weight is 1
SUFFIX = "+mlet"  # of a method's name: the same policy, trained so


@dataclass(frozen=True)
class Mlet:
    """How tables are trained as two layers; every method with tables of rows can be trained so.

    ``W = W1 W2`` for each table, W1 (n, k) looked up and W2 (k, d) applied to what was found. By
    Theorem 1 a small step moves W along ``u_i v_j^T`` as far as one layer would, times
    ``sigma_1(i)^2 + sigma_2(j)^2``, where W1 starts near 0 and ``sigma^2`` of W2 is ``k std^2`` in
    the mean: a small ``std`` slows the training down, a large one makes it diverge.

    Deng et al., Enhancing Cross-Category Learning in Recommendation Systems with Multi-Layer
    Embedding Training, sections 3 and 4: 0.25 for DLRM and 0.5 for other models.

    Args:
        dim: MLET: inner dimension of tables that are trained as two layers, above their width.
        std: MLET: standard deviation of the weights of the second layer at the start.
    """

    dim: int
    std: float = 0.25

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"MLET's inner dimension is {self.dim}; allowed: 1 or more")
        if not 0 < self.std < float("inf"):
            raise ValueError(f"MLET's std is {self.std}; allowed: above 0")

    @property
    def first_weight(self) -> float:
        """``k std^2``, the mean weight of the first updates by Theorem 1."""
        return self.dim * self.std**2


def two_layer_tables(policy: Policy) -> tuple[str, ...]:
    """The tables that MLET trains as two layers: all except tables of importance weights."""
    weights = {f.weights.table for f in policy.features if f.weights is not None}
    return tuple(t.name for t in policy.tables if t.name not in weights)


def inner_policy(policy: Policy, mlet: Mlet) -> Policy:
    """``policy`` with the tables W1 that training holds: k wide where they have two layers.

    Warns of settings with which the method cannot do what it is for.

    Raises:
        PolicyError: the policy has no table of rows, or multiplies rows of a table of importance
            weights with others.
    """
    wide = two_layer_tables(policy)
    if not wide:
        raise PolicyError(
            "MLET trains tables of rows as two layers and the policy has none; give it a method "
            "whose features read rows"
        )
    if mlet.first_weight < LEAST_WEIGHT:
        log.warning(
            "MLET: the first updates of the embeddings are %.2g times as large as with one layer "
            "(inner dimension %d, std %g; Theorem 1); raise std (the paper has 0.25 and 0.5)",
            mlet.first_weight,
            mlet.dim,
            mlet.std,
        )
    if narrow := [t.name for t in policy.tables if t.name in wide and t.dim > mlet.dim]:
        log.warning(
            "MLET: an inner dimension of %d is less than the width of tables %s, whose rows it "
            "confines to %d dimensions; give a larger one",
            mlet.dim,
            ", ".join(narrow[:3]) + (", ..." if len(narrow) > 3 else ""),
            mlet.dim,
        )
    tables = tuple(replace(t, dim=mlet.dim) if t.name in wide else t for t in policy.tables)
    features = tuple(  # vectors that are added may differ in width before W2; no table cares
        replace(f, combine="concat") if f.combine == "sum" else f for f in policy.features
    )
    return replace(policy, tables=tables, features=features)
