"""``seo-rec frontier``: ``compare`` at several budgets."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Container
from pathlib import Path
from typing import Annotated, Any

import typer

from seo_rec.cli import options as opt

OWN = ("data", "out", "methods", "budgets", "scheduler", "submit", "threads")
MLET = ("mlet_dim", "mlet_std")


def frontier(
    context: typer.Context,
    data: Annotated[list[Path], typer.Argument(help="Prepared data set, or one for each seed.")],
    out: Annotated[Path, typer.Option(help="Folder of the frontier; run again to go on with it.")],
    budgets: Annotated[
        str,
        typer.Option(
            help="Parameters, comma-separated; 0.1x: a tenth of collisionless tables. Rounded down "
            "to whole rows of --dim."
        ),
    ],
    methods: Annotated[
        str, typer.Option(help="As of compare; collisionless is trained once, at its own size.")
    ] = "separate,monolithic,multi-size,collisionless",
    dim: opt.Dim = 16,
    scheduler: Annotated[
        str,
        typer.Option(
            help="Train nothing; print a `torchx run` line per budget for this scheduler of TorchX."
        ),
    ] = "",
    submit: Annotated[
        bool, typer.Option("--submit", help="Run the lines of --scheduler, one after the other.")
    ] = False,
    threads: opt.Threads = 0,
    **_: Any,
) -> None:
    """Accuracy against parameters: compare methods at several budgets; OUT/frontier.png and .json.

    Budgets are trained one after the other, and the plot holds what there is.
    """
    opt.set_threads(threads)
    from seo_rec import recipes, report
    from seo_rec.cli.main import comparison_of

    wanted = recipes.read_budgets(budgets, data[0], dim)
    comparison = comparison_of(context, wanted[0] // dim)
    if scheduler:
        shared = [o.name for o in context.command.params if o.name not in (*OWN, *MLET)]
        options, mlet_options = _typed(context, shared), _typed(context, MLET)
        lines = recipes.frontier_jobs(comparison, wanted, out, options, mlet_options, scheduler)
        for line in lines:
            typer.echo(line)
            if submit:
                _submit(line)
        return
    if submit:
        raise ValueError("--submit needs --scheduler NAME, the scheduler of TorchX to submit to")
    recipes.frontier(comparison, wanted, out)
    report.print_frontier(out)
    typer.echo(f"plot: {out / report.FRONTIER_PICTURE}")


def _submit(line: str) -> None:
    """Run a ``torchx run`` line: local schedulers return when the job has ended, others at once."""
    from seo_rec.recipes import RunError

    words = [sys.executable, "-m", "torchx.cli.main", *shlex.split(line)[1:]]
    if status := subprocess.run(words).returncode:
        raise RunError(f"`{line}` ended with status {status}; the lines after it were not run")


def _typed(context: typer.Context, names: Container[str | None]) -> list[str]:
    """The options ``names`` that stand on the command line, as typed."""
    words: list[str] = []
    for option in context.command.params:
        name = option.name or ""
        if name not in names or not opt.given(context, [name]):
            continue
        value = context.params[name]
        if isinstance(value, bool):
            words.append((option.opts if value else option.secondary_opts)[0])
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                words += [option.opts[0], str(one)]
    return words
