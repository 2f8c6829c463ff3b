"""``--from RUN``: which settings of an earlier run a training takes over."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from seo_rec.cli import training_options as opt
from seo_rec.cli.options import FromSettings, given
from seo_rec.settings import Training

if TYPE_CHECKING:
    from seo_rec.data.dataset import DataSet
    from seo_rec.policy import Policy
    from seo_rec.recipes import Continued

OF_MODEL = tuple(o.name for o in (*opt.MODEL_OPTIONS.options, *opt.MLET_OPTIONS.options))
OF_LABELS = tuple(o.name for o in opt.MULTI_TASK_OPTIONS.options)  # of train and replay


def training_from(
    context: typer.Context, run: Path, options: FromSettings = opt.TRAIN_OPTIONS
) -> Training:
    """The model of an earlier run, and its training settings where no option says otherwise.

    Args:
        context: Of the command.
        run: The folder of the earlier run.
        options: The training options of the command.

    Raises:
        RunError: The folder is not a finished training run.
        ValueError: An option of the model is given, which would be ignored.
    """
    from seo_rec.train.earlier import open_earlier

    earlier = open_earlier(run).training
    named = [name for name in (*OF_MODEL, *OF_LABELS) if name in context.params]
    if found := given(context, named):
        raise ValueError(
            f"{', '.join(found)} with --from would be ignored, since the model of {run} is "
            "continued; leave it out"
        )
    from_config = context.default_map or {}
    fit = earlier.fit
    for option in options.options:
        source = context.get_parameter_source(option.name)
        if option.name in from_config or (source is not None and source.name == "COMMANDLINE"):
            read = options.read(context.params)
            fit = replace(fit, **{name: getattr(read, name) for name in option.sets})
    return replace(earlier, fit=fit)


def fit_values(fit: Any, options: FromSettings = opt.TRAIN_OPTIONS) -> dict[str, Any]:
    """The values of the training's options, by name, to be kept in the run folder."""
    values = asdict(fit)
    found = {o.name: values[o.sets[0]] for o in options.options}
    return found | dict.fromkeys(OF_MODEL)


def following_run(context: typer.Context, data: DataSet, policy: Policy | None) -> Continued:
    """The earlier run of ``--from``, and what of it is trained on; the changes are said on stderr.

    Raises:
        ValueError: ``--carry`` is given without another policy, or is missing with one.
    """
    from seo_rec import recipes
    from seo_rec.train import ranks

    if policy is not None and not context.params["carry"]:
        raise ValueError(
            "--policy or --method with --from: another policy takes over the tables that it has in "
            "common with the earlier run; add --carry if that is meant, or leave the policy out"
        )
    if policy is None and context.params["carry"]:
        raise ValueError("--carry without --policy or --method would be ignored; give one")
    params = context.params
    run, decay, shared = (params[name] for name in ("from_", "count_decay", "shared_rows"))
    candidates = params["candidates"] and params["plan"] is None  # it has the tables of the policy
    if policy is not None and shared:
        raise ValueError(
            f"--shared-rows {shared} with --carry would be ignored, since the policy says which "
            "rows are shared; leave it out"
        )
    made = recipes.continued(
        run,
        data,
        policy=policy,
        decay=decay,
        shared=shared,
        candidates=candidates,
        mean_anew=params["mean_anew"],
    )
    for line in recipes.change_lines(made) if ranks().first else ():
        typer.echo(line, err=True)
    return made
