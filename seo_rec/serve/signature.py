"""The inputs of the exported graph, and how they are made of prepared rows.

``dense`` float32 (B, N), if there are numeric columns; ``ids`` int64 (B, C) of the categorical
columns, -1 where a row has none; and for each feature that reads a multivalent column, numbered i,
``bag<i>_ids`` and ``bag<i>_rows``, int64 (V,): its ids, and the row that each belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from seo_rec.policy import Policy
from seo_rec.serve.addresses import feature_bags
from seo_rec.serve.bags import Bags, Ids, Inputs
from seo_rec.serve.preparation import Preparation

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Signature:
    """Which inputs a graph has.

    Args:
        num_dense: N, number of dense columns.
        columns: The columns of ``ids``.
        optional: The columns of ``ids`` that may have no id in a row.
        single: Features of such columns, with at most one id in a row, in the order of the policy.
        ragged: The other features, in that order.
    """

    num_dense: int
    columns: tuple[str, ...]
    optional: tuple[str, ...]
    single: tuple[str, ...]
    ragged: tuple[str, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the inputs, in order."""
        names = ["dense"] if self.num_dense or not self.columns else []
        names += ["ids"] if self.columns else []
        for i in range(len(self.ragged)):
            names += [f"bag{i}_ids", f"bag{i}_rows"]
        return tuple(names)

    def feed(self, policy: Policy, inputs: Inputs) -> dict[str, Array]:
        """The inputs of the graph for these rows, by name.

        Raises:
            ValueError: A row has more combinations than a cross may have.
        """
        found: dict[str, Array] = {}
        if "dense" in self.names:
            found["dense"] = np.ascontiguousarray(inputs.dense_BN)
        if self.columns:
            # one call for all columns: at one row, each call costs as much as the graph's steps
            ids = np.concatenate([_one_each(inputs.columns[name]) for name in self.columns])
            found["ids"] = np.ascontiguousarray(ids.reshape(len(self.columns), len(inputs)).T)
        features = {f.name: f for f in policy.features} if self.ragged else {}
        for i, name in enumerate(self.ragged):
            f = features[name]
            bags = feature_bags(f, [inputs.columns[column] for column in f.columns])
            found[f"bag{i}_ids"], found[f"bag{i}_rows"] = bags.ids, bags.rows()
        return found


def _one_each(bags: Bags) -> Ids:
    """int64 (B,): the id of each row, -1 where there is none."""
    if bags.lengths is None:
        return bags.ids
    ids = np.full(len(bags.lengths), -1, np.int64)
    ids[bags.lengths > 0] = bags.ids
    return ids


def signature_of(policy: Policy, preparation: Preparation) -> Signature:
    """The inputs of the graph of a package."""
    categorical = [c for c in preparation.embedded if c.kind == "categorical"]
    single = {c.name for c in categorical}
    features = [f for f in policy.features if set(f.columns) <= single]
    read = {name for f in features for name in f.columns}
    optional = {c.name for c in categorical if not c.is_single} & read
    return Signature(
        num_dense=preparation.num_dense,
        columns=tuple(c.name for c in preparation.embedded if c.name in read),
        optional=tuple(c.name for c in preparation.embedded if c.name in optional),
        single=tuple(f.name for f in features),
        ragged=tuple(f.name for f in policy.features if not set(f.columns) <= single),
    )
