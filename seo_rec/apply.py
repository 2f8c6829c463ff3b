"""From a searched policy to the compact model of SEO's second stage, at an exact budget.

Both strategies change the number of rows of every table so that the model holds ``params``
floats (SEO, section 3.2, ``adjust_hash_buckets``, mandatory for the applier).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from seo_rec.policy import Feature, Lookup, Policy, PolicyError, Table, split_rows


def exact(policy: Policy, params: int) -> Policy:
    """Keep the searched slots and seeds; rescale the rows of hashed tables to the budget.

    Args:
        policy: each feature's chosen chunks.
        params: everything that is stored. Tables that are not read by hash have the rows that
            their ids need, and keep them; projections, codes and flat arrays stay what they are.

    Raises:
        PolicyError: the budget is below one row of every hashed table and all that stays.
    """
    origin = {"apply": "exact", "params": params, "of": dict(policy.provenance)}
    stay = {k.table for f in policy.features for k in f.all_lookups if k.address != "hash"}
    hashed = tuple(t for t in policy.tables if t.name not in stay)
    besides = policy.num_params - sum(t.num_rows * t.dim for t in hashed)
    smallest = besides + sum(t.dim for t in hashed)
    if params < smallest:
        raise PolicyError(
            f"a budget of {params} parameters; {besides} of this policy cannot shrink (rows by id, "
            f"codes, flat arrays, projections), the smallest feasible budget is {smallest}"
        )
    fitted = {t.name: t for t in _fit_rows(hashed, params - besides)} if hashed else {}
    tables = tuple(fitted.get(t.name, t) for t in policy.tables)
    return replace(policy, tables=tables, provenance=origin)


def round_robin(policy: Policy, params: int, *, slots: int | None = None) -> Policy:
    """Keep each feature's number of chunks; deal the slots in turn, feature after feature.

    With four slots, a feature of 2 chunks takes slots 1, 2 and the next one, of 3, takes 3, 4, 1
    (SEO, section 3.2). The j-th lookup of a feature keeps its seed.

    Args:
        policy: each feature's chosen chunks, all of one width.
        params: floats of all tables together.
        slots: number of chunk tables (default: as many as the policy has, and at least the
            largest number of chunks of a feature, so that no feature reads a slot twice).

    Raises:
        PolicyError: tables of different widths, fewer slots than a feature needs, or a budget
            below one row of every slot.
    """
    if any(k.address != "hash" for f in policy.features for k in f.all_lookups):
        raise PolicyError("round robin moves lookups between tables; only hash lookups can move")
    if special := [f.name for f in policy.features if f.weights or f.project]:
        raise PolicyError(
            f"round robin deals chunks; features {special} have importance weights or a projection"
        )
    widths = {t.dim for t in policy.tables}
    if len(widths) > 1:
        raise PolicyError(
            f"round robin deals chunks of one width, the policy has tables of {sorted(widths)}"
        )
    most = max(len(f.lookups) for f in policy.features)
    slots = max(len(policy.tables), most) if slots is None else slots
    if slots < most:
        raise PolicyError(f"{slots} slots, but a feature needs {most}; allowed: {most} or more")
    slots = min(slots, policy.num_lookups)
    names = [f"chunk{i}" for i in range(slots)]
    features, turn = [], 0
    for f in policy.features:
        lookups = tuple(
            Lookup(names[(turn + j) % slots], k.address, k.seed) for j, k in enumerate(f.lookups)
        )
        turn += len(lookups)
        features.append(Feature(f.name, lookups, f.combine))
    dim = widths.pop()
    tables = _fit_rows(tuple(Table(n, 1, dim) for n in names), params)
    origin = {"apply": "round-robin", "params": params, "of": dict(policy.provenance)}
    return replace(policy, tables=tables, features=tuple(features), provenance=origin)


STRATEGIES: dict[str, Callable[[Policy, int], Policy]] = {
    "exact": exact,
    "round-robin": round_robin,
}


def _fit_rows(tables: tuple[Table, ...], params: int) -> tuple[Table, ...]:
    dims = [t.dim for t in tables]
    rows = split_rows(params, dims, [float(d) for d in dims])
    return tuple(replace(t, num_rows=r) for t, r in zip(tables, rows, strict=True))
