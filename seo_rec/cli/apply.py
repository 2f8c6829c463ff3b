"""``seo-rec apply``: the paper's second stage, from a searched policy to one at a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli.budget import in_bytes, size
from seo_rec.cli.options import BUDGET, DATA, RUN, SEARCH
from seo_rec.files import require_new_file


def apply(
    policy: Annotated[Path, typer.Argument(help="Policy of a search.", rich_help_panel=DATA)],
    out: Annotated[
        Path, typer.Option(help="The applied policy, a .json file.", rich_help_panel=RUN)
    ],
    strategy: Annotated[
        str,
        typer.Option(
            help="exact keeps the searched slots; round-robin deals them in turn.",
            rich_help_panel=SEARCH,
        ),
    ],
    params: Annotated[
        int,
        typer.Option(
            parser=par.number_of_params,
            metavar="NUMBER",
            help="Budget in parameters (floats), as 96k; 0 takes the one that the policy records.",
            rich_help_panel=BUDGET,
        ),
    ] = 0,
    bytes_: par.Bytes = None,
) -> None:
    """Bring a searched policy of shared chunks to an exact budget, as stage 2 of SEO does.

    Only a policy that was searched without a run-off needs it: what a run-off chose is at the
    budget already.
    """
    from seo_rec.apply import STRATEGIES, default_budget
    from seo_rec.policy import Policy
    from seo_rec.runs import describe

    if strategy not in STRATEGIES:
        raise ValueError(f"--strategy {strategy!r}; allowed: {', '.join(STRATEGIES)}")
    require_new_file(out)
    searched = Policy.load(policy)
    if params and bytes_:
        raise ValueError("--bytes and --params both set the budget; give one of them")
    if not (params or bytes_) and (searched.budget is None or searched.budget.params is None):
        raise ValueError(
            f"{policy}: the policy has no recorded budget in parameters; give --params"
        )
    asked = in_bytes(searched, bytes_) if bytes_ else params or default_budget(searched)
    applied = STRATEGIES[strategy](searched, asked)
    decision = searched.decision or {}
    won = decision.get("winner") != decision.get("method")
    if won and strategy == "round-robin" and applied != searched:
        typer.echo(
            "note: this policy won a run-off as it is; dealing its slots anew gives one that was "
            "not validated (--strategy exact keeps it)",
            err=True,
        )
    elif applied == searched:
        typer.echo("note: the policy is at the budget already; applying changes nothing", err=True)
    applied.save(out)
    typer.echo(f"{out}: {size(applied)}, {describe(applied)}")
