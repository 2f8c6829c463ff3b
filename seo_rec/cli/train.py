"""``seo-rec train``: train a policy, or a plain method at a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli.assignments import assigned
from seo_rec.cli.budget import budget, size
from seo_rec.cli.config import set_texts
from seo_rec.cli.options import (
    RUN,
    SEARCH,
    TRAINING,
    is_typed,
    load_stack,
    overridden,
    refuse_ignored,
    takes_settings,
)
from seo_rec.cli.running import run_folder, say_still_improving
from seo_rec.methods import Mlet
from seo_rec.schema import LOSS_NAMES, QUALITY_NAMES
from seo_rec.settings import FitSettings, ModelSettings, Training

if TYPE_CHECKING:
    from seo_rec.data.dataset import DataSet
    from seo_rec.policy import Policy

OF_BUDGET = ("params", "budget_of", "exact_below", "same_hash")
OF_METHOD = ("params", "budget_of", "dim", "set_", "exact_below", "same_hash")
OF_POLICY = ("plan", "weights")  # options that are for one policy


@takes_settings(model=par.MODEL_OPTIONS, mlet=par.MLET_OPTIONS, fit=par.TRAIN_OPTIONS)
def train(
    context: typer.Context,
    data: par.Data,
    out: par.Out,
    policy: Annotated[
        Path | None, typer.Option(help="The policy to train, a file.", rich_help_panel=SEARCH)
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Go on from the weights.npz of a search of this policy.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    params: par.Params = None,
    budget_of: par.BudgetOf = None,
    dim: par.Dim = 16,
    method: Annotated[
        str,
        typer.Option(
            help="A method by name in place of --policy: monolithic, separate, ...",
            rich_help_panel=SEARCH,
        ),
    ] = "",
    set_: par.Set = None,
    exact_below: Annotated[
        int,
        typer.Option(
            help="Features with at most so many training ids keep a row for each; 0: none.",
            rich_help_panel=SEARCH,
        ),
    ] = 0,
    same_hash: par.SameHash = None,
    *,
    model: ModelSettings,
    mlet: Mlet | None,
    fit: FitSettings,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="The plan to shard by; without it one is made for the devices that are there.",
            rich_help_panel=RUN,
        ),
    ] = None,
    threads: par.Threads = 0,
    resume: par.Resume = False,
    config: par.Config = None,
) -> None:
    """Train a policy (or a plain method) from scratch; OUT/result.json holds the outcome."""
    load_stack(threads)
    from seo_rec import recipes
    from seo_rec.data.dataset import open_data
    from seo_rec.train import Start

    opened, idle = open_data(data), _idle(context, policy, method)
    if policy is None or idle == "policy":
        wanted = _of_method(context, opened, method, fit.seed)
    else:
        wanted = _of_file(context, policy, idle == "method")
    resolved = dict(wanted.resolved)
    if idle:  # the plan and the weights of --config are for the policy that is not trained
        resolved |= {idle: None, **{n: None for n in OF_POLICY if not is_typed(context, n)}}
    start = Start(*(None if name in resolved else context.params[name] for name in OF_POLICY))
    with run_folder(context, out, **resolved):
        run = recipes.train(
            opened,
            wanted.policy,
            out,
            Training(replace(model, mlet=mlet), fit),
            method=wanted.method,
            resume=resume,
            budget=wanted.budget,
            start=start,
        )
    quality, loss = QUALITY_NAMES[run.task], LOSS_NAMES[run.task]
    typer.echo(
        f"{out}: {size(wanted.policy)}, validation {quality} {run.val_quality:.5f}, test {quality} "
        f"{run.test_quality:.5f}, {loss} {run.test_loss:.5f}, {run.epochs} epochs of "
        f"{run.seconds_per_epoch:.1f} s; tables by {run.table_update}"
    )
    say_still_improving([run], fit.epochs)


@dataclass(frozen=True)
class Wanted:
    """The policy that the command trains.

    Args:
        policy: Which tables there are.
        method: Who decided it, for reports.
        budget: As :func:`seo_rec.recipes.train` takes it.
        resolved: Values of options that are kept in place of those that were given.
    """

    policy: Policy
    method: str
    budget: int | None
    resolved: Mapping[str, Any]


def _idle(context: typer.Context, policy: Path | None, method: str) -> str | None:
    """Which of ``--policy`` and ``--method`` does not count: the other replaces that of a config.

    Raises:
        ValueError: Both are given, or neither.
    """
    both = policy is not None and bool(method)
    idle = overridden(context, ("policy", "method")) if both else None
    if (policy is None and not method) or (both and idle is None):
        raise ValueError("give either --policy FILE or --method NAME")
    return idle


def _of_file(context: typer.Context, path: Path, replaces_method: bool) -> Wanted:
    """The policy in a file; options of methods are refused, or left out with the method."""
    from seo_rec import recipes
    from seo_rec.policy import Policy

    given = [n for n in OF_METHOD if is_typed(context, n)] if replaces_method else OF_METHOD
    refuse_ignored(context, given, "--policy", "--method")
    left_out = dict.fromkeys(name.rstrip("_") for name in OF_METHOD)
    return Wanted(Policy.load(path), "policy", recipes.OWN_BUDGET, left_out)


def _of_method(context: typer.Context, data: DataSet, method: str, seed: int) -> Wanted:
    """The policy of a method without training, at the budget of the options."""
    from seo_rec import recipes
    from seo_rec.search import find

    given, entry = context.params, find(method)
    texts = set_texts(context, given["set_"])
    changes = assigned(entry.settings, texts, method)
    if given["exact_below"]:
        changes["exact_below"] = given["exact_below"]
    if given["same_hash"]:
        changes["same_hash"] = par.groups(given["same_hash"], "--same-hash")
    at, dim = 0, given["dim"]
    if entry.budgeted:
        of_policy = given["budget_of"]
        at = budget(context, data, dim, given["params"], of_policy, whole_rows=False)
    else:
        refuse_ignored(context, OF_BUDGET, f"--method {method}", "methods that have a budget")
    policy = recipes.method_policy(method, data, at, dim, seed=seed, changes=changes)
    asked_for = recipes.OWN_BUDGET if entry.budgeted else None
    resolved = {"set": texts, "params": at or None, "budget_of": None}
    return Wanted(policy, method, asked_for, resolved)
