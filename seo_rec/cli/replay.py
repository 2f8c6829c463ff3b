"""``seo-rec replay``: score a day, then train on it, day after day."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli import training_options as opt
from seo_rec.cli.budget_options import PLAIN_METHOD, PlainMethodOptions
from seo_rec.cli.following import OF_LABELS, OF_MODEL, fit_values, training_from
from seo_rec.cli.options import (
    DATA,
    RUN,
    SEARCH,
    FromSettings,
    load_stack,
    refuse_ignored,
    takes_settings,
)
from seo_rec.cli.running import run_folder
from seo_rec.cli.train import OF_METHOD, policy_of
from seo_rec.methods import Mlet
from seo_rec.multi_task import MultiTask
from seo_rec.settings import FitSettings, ModelSettings, Training

if TYPE_CHECKING:
    from seo_rec.recipes import Day
    from seo_rec.schema import Schema

FEW = 4  # times the rows of the first day, beyond which a usual day has far more

REPLAY_OPTIONS = FromSettings(
    FitSettings,
    opt.TRAIN_OPTIONS.panel,
    tuple(
        replace(o, default=1, help="Passes over the training rows of a day")
        if o.name == "epochs"
        else replace(o, word="")  # one batch and one L2 for days of any size
        for o in opt.TRAIN_OPTIONS.options
        if o.name
        not in ("patience", "keep_by")  # they read validation rows, of which there are none
    ),
)


@takes_settings(
    method_options=PLAIN_METHOD,
    model=opt.MODEL_OPTIONS,
    mlet=opt.MLET_OPTIONS,
    multi_task=opt.MULTI_TASK_OPTIONS,
    fit=REPLAY_OPTIONS,
)
def replay(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Argument(
            help="A folder of prepared days, in order of name; or one prepared data set.",
            rich_help_panel=DATA,
        ),
    ],
    out: par.Out,
    by: Annotated[
        str,
        typer.Option(
            help="A step: day, a folder of DATA; of one data set hour, day, week or rows.",
            rich_help_panel=DATA,
        ),
    ] = "day",
    rows: Annotated[
        int, typer.Option(help="With --by rows: the rows of a step.", rich_help_panel=DATA)
    ] = 0,
    policy: Annotated[
        Path | None,
        typer.Option(help="The policy of the first day, a file.", rich_help_panel=SEARCH),
    ] = None,
    from_: par.From = None,
    count_decay: par.CountDecay = 0.9,
    shared_rows: par.SharedRows = 0.0,
    candidates: par.Candidates = True,
    mean_anew: par.MeanAnew = None,
    *,
    method_options: PlainMethodOptions,
    crosses: par.Crosses = "",
    cross_order: par.CrossOrder = 2,
    model: ModelSettings,
    mlet: Mlet | None,
    multi_task: MultiTask | None,
    fit: FitSettings,
    keep_days: Annotated[
        int,
        typer.Option(help="The last days whose weights are kept; 0: all.", rich_help_panel=RUN),
    ] = 2,
    threads: par.Threads = 0,
    resume: par.Resume = False,
    config: par.Config = None,
) -> None:
    """Score a day with the model of the days before, then train on it, day after day."""
    load_stack(threads)
    from seo_rec import recipes
    from seo_rec.data.dataset import open_data
    from seo_rec.data.periods import Periods
    from seo_rec.train import Start, with_storage
    from seo_rec.train.earlier import open_earlier

    days = recipes.steps_of(data, out, Periods(by, rows))
    training = Training(replace(model, mlet=mlet, multi_task=multi_task), fit)
    wanted, resolved = None, dict[str, object]()
    if from_ is None:
        wanted = policy_of(context, open_data(days[0]), method_options, fit.seed)
        if wanted.policy.vocabularies:
            _say_small_first([open_data(day).schema for day in days])
        training = with_storage(training, wanted.policy, out=out)
        resolved = {**wanted.resolved, "storage": training.fit.storage}
    else:
        refuse_ignored(context, ("policy", *OF_METHOD), "--from", "a replay that starts afresh")
        training = training_from(context, from_, REPLAY_OPTIONS)
        training = replace(training, fit=replace(training.fit, epochs=fit.epochs))
        training = with_storage(training, None, Start(earlier=open_earlier(from_)), out)
        values = fit_values(training.fit, REPLAY_OPTIONS)
        resolved = {**values, **dict.fromkeys((*OF_METHOD, *OF_MODEL, *OF_LABELS))}
    with run_folder(context, out, **resolved):
        done = recipes.replay(
            days,
            out,
            training,
            policy=None if wanted is None else wanted.policy,
            method="policy" if wanted is None else wanted.method,
            earlier=from_,
            decay=count_decay,
            shared=shared_rows,
            candidates=candidates,
            mean_anew=mean_anew,
            keep=keep_days,
            resume=resume,
            said=_say,
        )
    scored = sum(not math.isnan(day.auc) for day in done.days)
    for label, auc in done.mean_auc_by_label.items():
        typer.echo(f"label {label}: mean AUC {auc:.5f}")
    typer.echo(f"{out}: mean AUC {done.mean_auc:.5f} of {scored} days; the model is {done.last}")


def _say_small_first(days: Sequence[Schema]) -> None:
    """Say on stderr that the first day has few rows, since no later one adds rows to the tables."""
    first, *later = (schema.num_rows["train"] for schema in days)
    if later and FEW * first < (usual := int(median(later))):
        typer.echo(
            f"note: the first day has {first:,} training rows, and the others {usual:,} in the "
            "median; tables by id stay as large as its ids need. A run on more rows can be the "
            "start (--from), or data that begin with a whole period",
            err=True,
        )


def _say(day: Day) -> None:
    """A line for a day that was scored and trained on."""
    figures = "first day, not scored"
    if not math.isnan(day.log_loss):
        figures = f"AUC {day.auc:.5f}, log loss {day.log_loss:.5f}"
    unknown = max(day.unknown.values(), default=0.0)
    more = f", up to {unknown:.1%} unknown ids" if unknown else ""
    more += f", {day.admitted:,} ids admitted" if day.admitted else ""
    typer.echo(f"{day.day}: {day.rows:,} rows, {figures}{more}; {day.train_seconds:.1f} s")
