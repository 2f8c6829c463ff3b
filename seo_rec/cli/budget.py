"""The budget of a command: given, taken from a policy, or proposed from the data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from seo_rec.methods.budget import proposed_budget

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
    """The budget in parameters; what was not typed is said on stderr.

    Args:
        context: Of the command, which has the options ``--params`` and ``--budget-of``.
        data: The data set, to propose a budget from.
        dim: Of ``--dim``.
        params: Of ``--params``.
        budget_of: Of ``--budget-of``.
        whole_rows: Whether the budget must be whole rows of ``dim``; that of a policy is rounded
            down to them.

    Raises:
        ValueError: Both options were typed, or the budget is less than one row.
    """
    if budget_of is not None and params is not None:
        params, budget_of = _typed_one(context, params, budget_of)
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
        f"budget: {proposed:,} parameters ({4 * proposed:,} bytes), half of what a row for every "
        "training id takes; --params sets it",
        err=True,
    )
    return proposed


def _typed_one(
    context: typer.Context, params: int, budget_of: Path
) -> tuple[int | None, Path | None]:
    """The one of the two that stands on the command line, if ``--config`` gave the other."""
    typed = [
        name
        for name in ("params", "budget_of")
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    ]
    if len(typed) == 1:
        return (params, None) if typed[0] == "params" else (None, budget_of)
    raise ValueError("--budget-of and --params both set the budget; give one of them")


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
