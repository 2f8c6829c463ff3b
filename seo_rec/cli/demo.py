"""``seo-rec demo``: the main job on made-up data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli.options import RUN, load_stack
from seo_rec.cli.running import run_folder


def demo(
    context: typer.Context,
    out: par.Out = Path("runs/demo"),
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Use small data and two epochs, to check that everything works.",
            rich_help_panel=RUN,
        ),
    ] = False,
    seed: par.Seed = 0,
    threads: par.Threads = 1,  # steps this small do not gain from a second one
    config: par.Config = None,
) -> None:
    """The main job on synthetic data: prepare, search, apply, train, compare, report."""
    load_stack(threads)
    from seo_rec import recipes

    compared = out / "compare"  # the run folder; the data are beside it
    with run_folder(context, compared):
        recipes.demo(out, quick=quick, seed=seed)
        from seo_rec import report  # plots load slowly

        report.print_comparison([compared])
        report.build([compared], out / "report.html")
    typer.echo(f"report: {out / 'report.html'}")
