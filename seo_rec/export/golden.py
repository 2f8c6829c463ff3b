"""Rows to verify a package by: made up, so that a package holds no row of the data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from seo_rec.data.tokens import MISSING
from seo_rec.policy import Feature, Policy
from seo_rec.policy.entries import FULL_BITS
from seo_rec.policy.preimages import as_ids
from seo_rec.serve.bags import Bags, Ids, Inputs
from seo_rec.serve.layout import EXAMPLES
from seo_rec.serve.predictor import example_table
from seo_rec.serve.preparation import Preparation
from seo_rec.serve.preparation_rules import Column

ROWS = 64  # golden rows, the examples among them
MOST_DIGESTS = 1024  # of a vocabulary, of which ids are computed
_LONGEST_BAG = 3


def golden_inputs(
    preparation: Preparation, examples: Mapping[str, list[str | None]], policy: Policy
) -> Inputs:
    """The example rows, and rows of ids of every kind: known, missing, small and any.

    Args:
        preparation: Of the package.
        examples: Raw cells of the first rows.
        policy: Its vocabularies say which ids are known.
    """
    rng = np.random.default_rng(17)
    first = preparation.encode(example_table(preparation, examples))
    rows = ROWS - EXAMPLES
    dense = rng.normal(size=(rows, preparation.num_dense)).astype(np.float32)
    columns = {}
    for c in preparation.embedded:
        alone = [f for f in policy.features if f.columns == (c.name,)]
        known = [_known(policy, f) for f in alone if f.name in policy.vocabularies]
        if c.kept is not None:
            known.append(c.kept)
        columns[c.name] = _joined(first.columns[c.name], _made_up(c, rows, known, rng))
    return Inputs(np.concatenate([first.dense_BN, dense]), columns)


def _known(policy: Policy, f: Feature) -> Ids:
    """Known ids of a feature: all of them, or ids of some of its digests."""
    kept = policy.vocabularies[f.name]
    if f.id_bits == FULL_BITS:
        return kept
    return as_ids(kept[:: -(-len(kept) // MOST_DIGESTS) or 1].astype(np.int64), f.id_bits)


def _made_up(column: Column, rows: int, known: list[Ids], rng: np.random.Generator) -> Bags:
    most = _LONGEST_BAG if column.kind == "multivalent" else 1
    lengths = np.ones(rows, np.int64)
    if not column.is_single:
        lengths = rng.integers(0, most + 1, rows)
    total = int(lengths.sum())
    ids = np.concatenate([k for k in known if len(k)]) if any(map(len, known)) else None
    kinds = np.stack(
        [
            rng.integers(0, 2**63 - 1, total, endpoint=True),
            rng.integers(0, 1000, total),
            np.full(total, MISSING),
            rng.integers(0, 50, total) if ids is None else rng.choice(ids, total),
        ]
    )
    chosen = rng.choice(4, total, p=[0.2, 0.2, 0.1, 0.5])
    return Bags(kinds[chosen, np.arange(total)], None if column.is_single else lengths)


def _joined(first: Bags, second: Bags) -> Bags:
    ids = np.concatenate([first.ids, second.ids])
    if first.lengths is None:
        return Bags(ids)
    return Bags(ids, np.concatenate([first.lengths, second.counts()]))
