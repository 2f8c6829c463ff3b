"""Rows in training alone for ids that a vocabulary leaves out: candidates for a later vocabulary.

A policy with candidates has the rows of the policy that is served, and one row more for each id
that is counted outside of a vocabulary. When the model is served, the mean of these rows is the
row of unknown ids. Serving therefore takes the bytes of the policy, and an id that is admitted on
a later day goes on with the row that it had as a candidate.

Letters: R rows of a table that is served, V ids, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from seo_rec.policy.addresses import rows_of_known
from seo_rec.policy.entries import Feature, Ids, Lookup
from seo_rec.policy.policy import Policy
from seo_rec.policy.renewal import DecayedCounts, renewable_features

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LeftOut:
    """Where the rows of a served table are in the table that was trained.

    Args:
        rows_R: For every served row its row in the trained table.
        candidates: For every row of unknown ids that candidates read when the model is served, the
            rows of these candidates in the trained table.
    """

    rows_R: Ids
    candidates: Mapping[int, Ids]


def candidate_features(policy: Policy) -> tuple[str, ...]:
    """The features whose left-out ids can have rows in training.

    Their vocabulary can be renewed, their lookups by index are all by ``id``, and nothing else
    reads the tables of these lookups, whose number of rows differs in training.
    """
    readers: dict[str, set[tuple[str, str, int, int]]] = {}
    for f in policy.features:
        for k in f.all_lookups:
            readers.setdefault(k.table, set()).add((f.name, k.address, k.unknown_rows, k.seed))
    features = {f.name: f for f in policy.features}
    return tuple(
        name
        for name in renewable_features(policy)
        if all(k.address == "id" and len(readers[k.table]) == 1 for k in _by_index(features[name]))
    )


def _by_index(feature: Feature) -> list[Lookup]:
    return [k for k in feature.all_lookups if k.uses_index]


def with_candidates(policy: Policy, counted: DecayedCounts) -> Policy:
    """The policy to train, with a row for every counted id outside of a vocabulary.

    Args:
        policy: What is served.
        counted: Decayed counts, as :func:`seo_rec.policy.renewal.bounded` leaves them: at most as
            many ids outside of a vocabulary as in it, and 1,024 more.

    Returns:
        The same features and lookups with larger vocabularies and tables.
    """
    vocabularies, more = dict(policy.vocabularies), dict[str, int]()
    features = {f.name: f for f in policy.features}
    for name in candidate_features(policy):
        if name not in counted:
            continue
        vocabulary = policy.vocabularies[name]
        wider = np.union1d(vocabulary, counted[name][0])
        if len(wider) == len(vocabulary):
            continue
        vocabularies[name] = wider
        for k in _by_index(features[name]):
            more[k.table] = len(vocabularies[name]) - len(vocabulary)
    tables = tuple(replace(t, num_rows=t.num_rows + more.get(t.name, 0)) for t in policy.tables)
    if not more:
        return policy
    return replace(policy, tables=tables, vocabularies=vocabularies, budget=None)


def left_out(served: Policy, trained: Policy) -> dict[str, LeftOut]:
    """By table whose sizes differ, where its served rows are in the trained table."""
    found = {}
    rows = {t.name: t.num_rows for t in trained.tables}
    after = {f.name: f for f in trained.features}
    for f in served.features:
        own = served.vocabularies.get(f.name, np.zeros(0, np.int64))
        for k in f.all_lookups:
            if rows[k.table] == served.table(k.table).num_rows or k.table in found:
                continue
            ids = np.setdiff1d(trained.vocabularies[f.name], own, assume_unique=True)
            trained_rows = rows_of_known(trained, after[f.name], k, ids)
            unknown = rows_of_known(served, f, k, ids)
            rows_R = np.arange(served.table(k.table).num_rows)
            rows_R[rows_of_known(served, f, k, own)] = rows_of_known(trained, after[f.name], k, own)
            candidates = {int(u): trained_rows[unknown == u] for u in np.unique(unknown)}
            found[k.table] = LeftOut(rows_R, candidates)
    return found
