"""``seo-rec drift``: whether a policy is still the right one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seo_rec.cli.options import DATA, RUN, SEARCH, load_stack
from seo_rec.runs.layout import RUN_FILE

if TYPE_CHECKING:
    from seo_rec.analysis.drift import Drift

SHOWN = 12  # columns and tables in a list
SENTENCES = {
    "keep": "Keep the policy.",
    "renew": "Keep the policy and renew its vocabularies.",
    "search": "Search again.",
}


def drift(
    old: Annotated[
        Path,
        typer.Argument(
            help="A training or search run, or its prepared data.", rich_help_panel=DATA
        ),
    ],
    new: Annotated[Path, typer.Argument(help="Newer prepared data.", rich_help_panel=DATA)],
    policy: Annotated[
        Path | None,
        typer.Option(help="A policy file in place of OLD's.", rich_help_panel=SEARCH),
    ] = None,
    rows: Annotated[
        int,
        typer.Option(help="Rows of each whose labels are looked at.", rich_help_panel=RUN),
    ] = 200_000,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON.", rich_help_panel=RUN)
    ] = False,
) -> None:
    """Say whether the policy of OLD is still right for NEW, or a new search could gain."""
    load_stack(0)
    from seo_rec.analysis.drift import drift as measure
    from seo_rec.analysis.drift import open_old
    from seo_rec.data.dataset import open_data

    if rows < 1000:
        raise ValueError(f"--rows {rows}; allowed: 1000 or more")
    data, decided = open_old(old, policy)
    found = measure(data, open_data(new), decided, rows)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1, allow_nan=False))
        return
    _print(found)
    if decided is None:
        typer.echo(f"(no policy was compared: {old} has no {RUN_FILE}; --policy gives one)")


def _print(found: Drift) -> None:
    typer.echo(SENTENCES[found.verdict])
    for reason in found.reasons:
        typer.echo(f"- {reason}")
    typer.echo("\ncolumn: reads of ids that OLD has not seen, distance of frequencies (by chance)")
    order = sorted(found.unseen, key=lambda n: -found.unseen[n])
    for name in order[:SHOWN]:
        m = found.frequencies[name]
        old, new = found.worth_old[name], found.worth_new[name]
        typer.echo(
            f"  {name:20} {found.unseen[name]:6.1%}  {m.distance:.3f} ({m.by_chance:.3f})  worth "
            f"{old:.4f} -> {new:.4f}"
        )
    _more(len(order))
    moved = sorted(found.tables, key=lambda n: -found.tables[n].distance)
    if moved:
        typer.echo("table: distance of the reads of its rows (by chance)")
    for name in moved[:SHOWN]:
        m = found.tables[name]
        typer.echo(f"  {name:20} {m.distance:.3f} ({m.by_chance:.3f})")
    _more(len(moved))


def _more(count: int) -> None:
    if count > SHOWN:
        typer.echo(f"  and {count - SHOWN} more (--json has all)")
