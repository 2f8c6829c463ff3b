"""``seo-rec tune``: rates, L2, dropout, width and batch, chosen on validation rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli import training_options as opt
from seo_rec.cli.automatic import automatic, settled_options
from seo_rec.cli.budget import size
from seo_rec.cli.budget_options import PLAIN_METHOD, PlainMethodOptions
from seo_rec.cli.config import command_options
from seo_rec.cli.options import RUN, SEARCH, load_stack, takes_settings
from seo_rec.cli.running import run_folder, test_figures
from seo_rec.cli.train import plain_method, policy_of
from seo_rec.files import write_json
from seo_rec.methods import Mlet
from seo_rec.runs.command_settings import TUNED
from seo_rec.runs.layout import TUNED_FILE, trial_folder
from seo_rec.schema import QUALITY_NAMES
from seo_rec.settings import HALVES, FitSettings, ModelSettings, Training

if TYPE_CHECKING:
    from seo_rec.data.dataset import DataSet
    from seo_rec.policy import Policy
    from seo_rec.recipes.tuning import Tuned, Tuning

# options of the training that a tuning keeps for other commands
OF_TRAINING = frozenset(
    option.name
    for option in (
        *opt.MODEL_OPTIONS.options,
        *opt.MLET_OPTIONS.options,
        *opt.TRAIN_OPTIONS.options,
    )
    if option not in (opt.SEED, opt.CHECKPOINT_EVERY)
)
ALL = "l2,l2-on,lr,dense-lr,dropout,dim,batch-size"


@takes_settings(
    method_options=PLAIN_METHOD,
    model=opt.MODEL_OPTIONS,
    mlet=opt.MLET_OPTIONS,
    fit=opt.TRAIN_OPTIONS,
)
def tune(
    context: typer.Context,
    data: par.Data,
    out: par.Out,
    policy: Annotated[
        Path | None, typer.Option(help="The policy to train, a file.", rich_help_panel=SEARCH)
    ] = None,
    *,
    method_options: PlainMethodOptions,
    model: ModelSettings,
    mlet: Mlet | None,
    fit: FitSettings,
    trials: Annotated[
        int,
        typer.Option(
            help="Trainings in all; the first has the settings as given.", rich_help_panel=RUN
        ),
    ] = 20,
    tune_: Annotated[
        str,
        typer.Option(
            "--tune",
            metavar="NAMES",
            help=f"What is tuned, some of {ALL}; by default all.",
            rich_help_panel=RUN,
            show_default=False,
        ),
    ] = "",
    threads: par.Threads = 0,
    resume: par.Resume = False,
    config: par.Config = None,
) -> None:
    """Tune the training on validation rows; OUT/tuned.json is for --config of other commands.

    Processes that are started with the same OUT and --resume share the trials.
    """
    load_stack(threads)
    from seo_rec.data.dataset import open_data
    from seo_rec.recipes import tuning
    from seo_rec.train import with_storage

    opened = open_data(data)
    policies, method_name, budget, kept = _subject(context, opened, method_options, fit.seed)
    first = policies(method_options.dim)
    training = with_storage(Training(replace(model, mlet=mlet), fit), first, out=out)
    fit = automatic(context, training.fit, opened, first.num_params, ())
    kept, training = {**kept, **settled_options(fit)}, replace(training, fit=fit)
    kept["storage"] = fit.storage
    names = tuple(name.strip() for name in (tune_ or ALL).split(",") if name.strip())
    if policy is not None:
        names = tuple(name for name in names if name != "dim" or tune_)
        refuse_width(names)
    wanted = tuning.Tuning(
        data=opened,
        policy_of=policies,
        training=training,
        dim=method_options.dim,
        method=method_name,
        budget=budget,
        trials=trials,
        names=names,
    )
    with run_folder(context, out, **kept):
        found = tuning.tune(wanted, out, resume=resume)
    if found is None:
        typer.echo(f"{out}: other processes still train trials; the last of them ends the tuning")
        return
    options = _tuned_options(context, found, kept)
    write_json(out / TUNED_FILE, {"command": TUNED, "options": options})
    _say(out, wanted, found)


def refuse_width(names: tuple[str, ...]) -> None:
    """ValueError if the width of a policy file is to be tuned."""
    if "dim" in names:
        raise ValueError(
            "--tune dim with --policy, whose widths are fixed; allowed with --method NAME"
        )


def _subject(
    context: typer.Context, data: DataSet, method_options: PlainMethodOptions, seed: int
) -> tuple[Callable[[int], Policy], str, Any, Mapping[str, Any]]:
    """The policy by width, who decides it, the budget, and the options that are kept."""
    if method_options.method and context.params["policy"] is None:
        plain = plain_method(context, data, method_options)
        return (
            lambda dim: plain.policy(dim, seed),
            method_options.method,
            plain.budget,
            plain.resolved,
        )
    wanted = policy_of(context, data, method_options, seed)
    return lambda dim: wanted.policy, wanted.method, wanted.budget, wanted.resolved


def _tuned_options(context: typer.Context, found: Tuned, kept: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the best training, without those that have their default.

    Storage of 16 bits that followed the policy stays ``auto``, since searches cannot have another.
    """
    from seo_rec.policy import stored_types

    defaults = {p.name: p.default for p in context.command.params}
    asked = context.params["storage"]
    if found.training.fit.storage == "float32" and {*HALVES} & {*stored_types(found.policy)}:
        asked = "float32"
    given = command_options(context, {**kept, "storage": asked}).options
    options = {k: v for k, v in given.items() if k in OF_TRAINING and v != defaults[k]}
    fit = found.training.fit
    tuned = {name.replace("-", "_"): value for name, value in found.values.items()}
    if "lr" in tuned and "dense_lr" not in tuned:
        tuned["dense_lr"] = fit.dense_lr
    return {**options, **tuned}


def _say(out: Path, wanted: Tuning, found: Tuned) -> None:
    run = found.run
    assert run is not None
    quality = QUALITY_NAMES[run.task]
    best = ", ".join(f"{name} {_plain(value)}" for name, value in found.values.items())
    typer.echo(f"best of {wanted.trials} trials: number {found.number}: {best}")
    typer.echo(
        f"{trial_folder(out, found.number)}: {size(found.policy)}, validation {quality} "
        f"{run.val_quality:.5f}, {test_figures(run)}"
    )
    typer.echo(f"{out / TUNED_FILE}: for --config of train, search, compare and frontier")


def _plain(value: float | int | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
