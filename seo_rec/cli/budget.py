"""The budget of a command: given, taken from a policy, or proposed from the data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from seo_rec.cli.options import overridden
from seo_rec.methods.budget import proposed_budget, reason_of_proposal

if TYPE_CHECKING:
    from seo_rec.data.dataset import DataSet
    from seo_rec.policy import Policy


def budget(
    context: typer.Context,
    data: DataSet,
    dim: int,
    params: int | None,
    budget_of: Path | None,
    *,
    whole_rows: bool,
) -> int:
    """The budget of a command in parameters (floats).

    A budget that no option gives is proposed from the data, and a message on stderr says so.

    Args:
        context: The command, which has the options ``--params`` and ``--budget-of``.
        data: The data set, to propose a budget from.
        dim: The value of ``--dim``, in floats.
        params: The value of ``--params``; None if it was not given.
        budget_of: The value of ``--budget-of``; None if it was not given.
        whole_rows: Whether the budget must be whole rows of ``dim``; the budget of a policy is
            rounded down to them.

    Raises:
        ValueError: Both options were given, or the budget is less than one row.
    """
    if budget_of is not None and params is not None:
        idle = overridden(context, ("params", "budget_of"))
        if idle is None:
            raise ValueError("--budget-of and --params both set the budget; give one of them")
        params, budget_of = (None, budget_of) if idle == "params" else (params, None)
    if dim < 1:
        raise ValueError(f"--dim {dim}; allowed: 1 or more")
    if params is not None:
        if params < 0 or (whole_rows and (params < dim or params % dim)):
            allowed = f"a multiple of --dim {dim}" if whole_rows else "0 or more"
            raise ValueError(f"--params {params}; allowed: {allowed}")
        return params
    if budget_of is not None:
        return _of_policy(budget_of, dim, whole_rows)
    proposed = proposed_budget(data.schema, dim)
    typer.echo(
        f"budget: {proposed:,} parameters ({4 * proposed:,} bytes), "
        f"{reason_of_proposal(data.schema)}; --params sets it",
        err=True,
    )
    return proposed


def _of_policy(path: Path, dim: int, whole_rows: bool) -> int:
    from seo_rec.apply import default_budget
    from seo_rec.policy import Policy

    found = default_budget(Policy.load(path))
    if found < dim:
        raise ValueError(f"{path}: {found} parameters; a row of --dim {dim} needs {dim}")
    if not whole_rows:
        return found
    rows = found // dim
    typer.echo(f"budget of {path}: {found} parameters, {rows} rows of {dim}", err=True)
    return rows * dim


def size(policy: Policy) -> str:
    """The size of a policy in words: parameters and bytes."""
    return f"{policy.num_params} parameters, {policy.num_bytes} bytes"
