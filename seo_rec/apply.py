"""From a searched policy to the compact model of SEO's second stage, at an exact budget.

Both strategies change the number of rows of every table so that the model fills the budget, in
floats or in bytes (SEO, section 3.2, ``adjust_hash_buckets``, mandatory for the applier). What they
return says so in its ``budget``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

from seo_rec.policy import (
    Allowance,
    Budget,
    Policy,
    PolicyError,
    Table,
    allowance_of,
    row_bytes,
    split_rows,
)


def exact(policy: Policy, params: int | Allowance) -> Policy:
    """Keep the searched slots and seeds; rescale the rows of hashed tables to the budget.

    Args:
        policy: each feature's chosen chunks.
        params: floats of everything that is stored, or an allowance in bytes with the type of
            rows. Tables that are not read by hash have the rows that their ids need, and keep them;
            projections, codes and flat arrays stay what they are.

    Raises:
        PolicyError: the budget is below one row of every hashed table and all that stays.
    """
    allowance = allowance_of(params)
    policy = allowance.typed(policy)
    origin = {"apply": "exact", **allowance.to_json(), "of": dict(policy.provenance)}
    hashed = _hashed(policy)
    fitted = {t.name: t for t in _fit_rows(policy, hashed, hashed, allowance)}
    tables = tuple(fitted.get(t.name, t) for t in policy.tables)
    return replace(policy, tables=tables, provenance=origin, budget=_budget(policy, allowance))


def round_robin(policy: Policy, params: int | Allowance, *, slots: int | None = None) -> Policy:
    """Keep each feature's number of chunks; deal the slots in turn, feature after feature.

    With four slots, a feature of 2 chunks takes slots 1, 2 and the next one, of 3, takes 3, 4, 1
    (SEO, section 3.2). The j-th lookup of a feature keeps its seed. Only hashed lookups are
    dealt: lookups of tables that need a row for every id stay where they are, and a policy that
    has no others is returned as it is.

    Args:
        policy: each feature's chosen chunks, all of one width.
        params: floats of everything that is stored, or an allowance; tables that are not dealt
            keep their size, as in :func:`exact`.
        slots: number of chunk tables (default: as many as the policy has, and at least the
            largest number of chunks of a feature, so that no feature reads a slot twice).

    Raises:
        PolicyError: chunk tables of different widths or types, fewer slots than a feature needs,
            or a budget below one row of every slot and all that stays.
    """
    allowance = allowance_of(params)
    policy = allowance.typed(policy)
    old = _hashed(policy)
    chunks = {t.name for t in old}
    dealt = {f.name: [k.table in chunks for k in f.lookups] for f in policy.features}
    kinds = _kinds(policy, old)
    most = max(map(sum, dealt.values()))
    slots = max(len(old), most) if slots is None else slots
    if slots < most:
        raise PolicyError(f"{slots} slots, but a feature needs {most}; allowed: {most} or more")
    slots = min(slots, sum(map(sum, dealt.values())))
    taken = {t.name for t in policy.tables} - chunks | {a.name for a in policy.arrays}
    free = (name for i in itertools.count() if (name := f"chunk{i}") not in taken)
    names = list(itertools.islice(free, slots))
    turn = itertools.cycle(names)
    features = tuple(
        replace(
            f,
            lookups=tuple(
                replace(k, table=next(turn)) if moves else k
                for k, moves in zip(f.lookups, dealt[f.name], strict=True)
            ),
        )
        for f in policy.features
    )
    chunk_tables = tuple(Table(n, 1, dim, dtype) for n in names for dim, dtype in kinds)
    new = _fit_rows(policy, old, chunk_tables, allowance)
    tables = (*(t for t in policy.tables if t.name not in chunks), *new)
    origin = {"apply": "round-robin", **allowance.to_json(), "of": dict(policy.provenance)}
    budget = _budget(policy, allowance)
    return replace(policy, tables=tables, features=features, provenance=origin, budget=budget)


STRATEGIES: dict[str, Callable[[Policy, int | Allowance], Policy]] = {
    "exact": exact,
    "round-robin": round_robin,
}


def default_budget(policy: Policy) -> int:
    """The floats that a policy was made for: its ``budget``, or else the floats that it holds.

    The result of a search holds another number of floats than it was made for, until it is applied.
    """
    made_for = policy.budget.params if policy.budget else None
    return policy.num_params if made_for is None else made_for


def _budget(policy: Policy, allowance: Allowance) -> Budget | None:
    """The budget of an applied policy; its own, with its bytes, where that has so many floats."""
    params = None if allowance.in_bytes else allowance.amount
    if policy.budget is not None and params and policy.budget.params == params:
        return policy.budget
    return allowance.budget()


def _hashed(policy: Policy) -> tuple[Table, ...]:
    """The tables that are read by hash alone; the others have the rows that their ids need."""
    stay = {k.table for f in policy.features for k in f.all_lookups if k.address != "hash"}
    return tuple(t for t in policy.tables if t.name not in stay)


def _kinds(policy: Policy, chunks: tuple[Table, ...]) -> list[tuple[int, str]]:
    """Width and type of the chunk tables, once if there are any; PolicyError if they differ."""
    names = {t.name for t in chunks}
    if special := [
        f.name
        for f in policy.features
        if (f.weights or f.project) and any(k.table in names for k in f.all_lookups)
    ]:
        raise PolicyError(
            f"round robin deals chunks; features {special} have importance weights or a projection"
        )
    kinds = sorted({(t.dim, t.dtype) for t in chunks})
    if len({dim for dim, _ in kinds}) > 1:
        raise PolicyError(
            "round robin deals chunks of one width, the policy has tables of "
            f"{[dim for dim, _ in kinds]}"
        )
    if len(kinds) > 1:
        raise PolicyError(
            "round robin deals chunks of one dtype, the policy has tables of "
            f"{[dtype for _, dtype in kinds]}"
        )
    return kinds


def _fit_rows(
    policy: Policy, old: tuple[Table, ...], new: tuple[Table, ...], allowance: Allowance
) -> tuple[Table, ...]:
    """``new``, which take the place of the tables ``old``, with rows that fill the budget."""

    def cost(t: Table) -> int:
        return row_bytes(t.dim, t.dtype) if allowance.in_bytes else t.dim

    besides = allowance.of(policy) - sum(t.num_rows * cost(t) for t in old)
    costs = [cost(t) for t in new]
    smallest = besides + sum(costs)
    if allowance.amount < smallest:
        raise PolicyError(
            f"a budget of {allowance}; {besides} of this policy cannot shrink (rows by id, "
            f"codes, flat arrays, projections), the smallest feasible budget is {smallest}"
        )
    rows = split_rows(allowance.amount - besides, costs, list(map(float, costs))) if new else []
    return tuple(replace(t, num_rows=r) for t, r in zip(new, rows, strict=True))
