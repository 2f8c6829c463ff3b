"""``seo-rec frontier``: ``compare`` at several budgets."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import sys
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli import training_options as opt
from seo_rec.cli.automatic import automatic, floats_of, settled_options
from seo_rec.cli.budget import Wish
from seo_rec.cli.compare import CONTESTANTS, Asked, Contestants, comparison_of
from seo_rec.cli.config import set_texts
from seo_rec.cli.crosses import all_crossed
from seo_rec.cli.options import (
    BUDGET,
    RUN,
    FromSettings,
    is_given,
    load_stack,
    takes_settings,
)
from seo_rec.cli.running import run_folder, say_still_improving
from seo_rec.methods import SUFFIX, Mlet
from seo_rec.policy import Allowance
from seo_rec.policy.allowance import BYTES, FLOATS
from seo_rec.runs.layout import FRONTIER_PICTURE
from seo_rec.settings import FitSettings, ModelSettings, Training

if TYPE_CHECKING:
    from seo_rec.recipes import Comparison

NOT_OF_COMPARE = (
    "data",
    "out",
    "methods",
    "budgets",
    "bytes_",
    "scheduler",
    "submit",
    "threads",
    "config",
)
MLET = ("mlet_dim", "mlet_std")
SET = "set_"


def _contestants() -> FromSettings:
    """The options of ``compare``, with methods of its own by default, none of them a search."""
    methods, *others = CONTESTANTS.options
    default = "separate,monolithic,multi-size,collisionless"
    help_ = "Names of methods, as for compare; collisionless is trained once, at its own size"
    own = dataclasses.replace(methods, default=default, help=help_)
    return dataclasses.replace(CONTESTANTS, options=(own, *others))


@takes_settings(
    contestants=_contestants(),
    model=opt.MODEL_OPTIONS,
    mlet=opt.MLET_OPTIONS,
    fit=opt.COMPARE_OPTIONS,
)
def frontier(
    context: typer.Context,
    data: par.DataOfSeeds,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder of the frontier; run again to go on with it.", rich_help_panel=RUN
        ),
    ],
    budgets: Annotated[
        str,
        typer.Option(
            help="Parameters, comma-separated; 0.1x: a tenth of collisionless tables. Rounded down "
            "to whole rows of --dim.",
            rich_help_panel=BUDGET,
        ),
    ] = "",
    bytes_: Annotated[
        str,
        typer.Option(
            "--bytes",
            metavar="NUMBERS",
            help="Bytes to serve, ids included, as 96k,384k, in place of --budgets.",
            rich_help_panel=BUDGET,
        ),
    ] = "",
    dim: par.Dim = 16,
    precision: par.Precision = "float32",
    id_bits: par.IdBits = None,
    *,
    contestants: Contestants,
    set_: par.SetOfMethod = None,
    crosses: par.Crosses = "",
    cross_order: par.CrossOrder = 2,
    same_hash: par.SameHash = None,
    model: ModelSettings,
    mlet: Mlet | None,
    fit: FitSettings,
    scheduler: Annotated[
        str,
        typer.Option(
            help="Train nothing; print a `torchx run` line per budget for this scheduler of "
            "TorchX.",
            rich_help_panel=RUN,
        ),
    ] = "",
    submit: Annotated[
        bool,
        typer.Option(
            "--submit",
            help="Run the lines of --scheduler, one after the other.",
            rich_help_panel=RUN,
        ),
    ] = False,
    threads: par.Threads = 0,
    config: par.Config = None,
) -> None:
    """Accuracy against bytes: compare methods at several budgets; OUT/frontier.png and .json.

    Budgets are trained one after the other, and the plot holds what there is.
    """
    load_stack(threads)
    from seo_rec import recipes
    from seo_rec.data.dataset import open_data
    from seo_rec.search import find

    if submit and not scheduler:
        raise ValueError("--submit needs --scheduler NAME, the scheduler of TorchX to submit to")
    opened, texts = tuple(map(open_data, data)), set_texts(context, set_)
    if bool(budgets) == bool(bytes_):
        raise ValueError("give either --budgets, in parameters, or --bytes")
    if bytes_:
        wanted, unit = recipes.read_byte_budgets(bytes_), BYTES
    else:
        wanted, unit = recipes.read_budgets(budgets, opened[0], dim), FLOATS
    bits = Wish(None, None, None, precision, id_bits).bits(unit == BYTES)
    at = Allowance(wanted[0], unit, precision, bits)
    named = [find(name.removesuffix(SUFFIX)) for name in contestants.methods]
    fit = automatic(context, fit, opened[0], floats_of(at, dim), named)
    wide = all_crossed(opened, crosses, contestants.first_seed)
    asked = Asked(opened, contestants, dim, texts, same_hash, Training(model, fit), mlet, wide)
    comparison = comparison_of(context, asked, at)
    with run_folder(context, out, **settled_options(fit), storage=fit.storage, set=texts):
        if scheduler:
            _jobs(context, comparison, wanted)
            return
        runs = recipes.frontier(comparison, wanted, out)
        from seo_rec import report  # plots load slowly

        report.print_frontier(out)
        typer.echo(f"plot: {out / FRONTIER_PICTURE}")
        say_still_improving(runs, fit)


def _jobs(context: typer.Context, comparison: Comparison, budgets: Sequence[int]) -> None:
    """Print the lines of ``--scheduler``, and run them with ``--submit``."""
    from seo_rec import recipes

    settled = settled_options(comparison.training.fit)  # each job would decide them by itself
    own = (
        *NOT_OF_COMPARE,
        *MLET,
        SET,
        "crosses",
        "cross_order",
        "id_bits",  # each job is told where it needs it
        *settled,
    )  # crosses are given by name
    options = _typed(context, [p.name for p in context.command.params if p.name not in own])
    for name, value in settled.items():
        options += [f"--{name.replace('_', '-')}", str(value)]
    options_of = {SUFFIX: _typed(context, MLET)}
    for text in set_texts(context, context.params[SET]):
        options_of.setdefault(text.partition(".")[0], []).extend(["--set", text])
    out, scheduler = context.params["out"], context.params["scheduler"]
    for line in recipes.frontier_jobs(comparison, budgets, out, options, options_of, scheduler):
        typer.echo(line)
        if context.params["submit"]:
            _submit(line)


def _submit(line: str) -> None:
    """Run a ``torchx run`` line: local schedulers return when the job has ended, others at once."""
    from seo_rec.runs import RunError

    words = [sys.executable, "-m", "torchx.cli.main", *shlex.split(line)[1:]]
    if status := subprocess.run(words).returncode:
        raise RunError(f"`{line}` ended with status {status}; the lines after it were not run")


def _typed(context: typer.Context, names: Container[str | None]) -> list[str]:
    """The options ``names`` that were given, as they are typed."""
    words: list[str] = []
    for option in context.command.params:
        if option.name not in names or not is_given(context, option):
            continue
        value = context.params[option.name]
        if isinstance(value, bool):
            words.append((option.opts if value else option.secondary_opts)[0])
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                words += [option.opts[0], str(one)]
    return words
