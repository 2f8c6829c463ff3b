"""How often a policy's tables are read, and how unevenly their rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache

from seo_rec.plan.offload import Counts, Popularity
from seo_rec.plan.placement import PlanError
from seo_rec.policy import Policy


def reads_by_table(policy: Policy, rates: Mapping[str, float] | None) -> dict[str, list[float]]:
    """Mean ids per sample of every lookup that reads a table, by table.

    A cross has as many ids as its columns have combinations: its rate is the product of theirs.

    Args:
        policy: features and lookups.
        rates: mean ids per bag by column of the data (None: 1).

    Raises:
        PlanError: a rate is not a number of 0 or more, or a column that the policy reads has none.
    """
    rates = dict.fromkeys(policy.columns, 1.0) if rates is None else rates
    if missing := [c for c in policy.columns if c not in rates]:
        raise PlanError(
            f"no rates for columns {missing}; the data has {sorted(rates)}: give --rates the "
            "data set that the policy was made for"
        )
    for c in policy.columns:
        if not 0 <= rates[c] < math.inf:
            raise PlanError(f"column {c!r} has rate {rates[c]}; allowed: 0 or more ids per bag")
    reads: dict[str, list[float]] = {t.name: [] for t in policy.tables}
    for f in policy.features:
        rate = math.prod(rates[c] for c in f.columns)
        for k in f.all_lookups:
            if k.address != "blocks":  # flat arrays are on every rank, not placed
                reads[k.table].append(rate)
    return reads


def popularities(
    policy: Policy, rates: Mapping[str, float] | None, counts: Counts | None
) -> Callable[[str], Popularity]:
    """The popularity of every table's ids by name, worked out when it is first asked for.

    Rows are taken to be read evenly where the counts of one reader are unknown, and for crosses.

    Args:
        policy: features and lookups.
        rates: mean ids per bag by column of the data (None: 1).
        counts: how often each id of a column occurs; None, or None of a column: unknown.
    """

    @cache
    def of(table: str) -> Popularity:
        rows = policy.table(table).num_rows
        readers = []
        for f in policy.features:
            for _ in [k for k in f.all_lookups if k.address != "blocks" and k.table == table]:
                known = counts(f.columns[0]) if counts and len(f.columns) == 1 else None
                if known is None:
                    return Popularity.even(rows)
                readers.append((known, 1.0 if rates is None else rates[f.columns[0]]))
        return Popularity.of(readers, rows)

    return of
