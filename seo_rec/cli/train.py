"""``seo-rec train``: train a policy, or a plain method at a budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli.assignments import assigned
from seo_rec.cli.budget import budget, size
from seo_rec.cli.config import set_texts
from seo_rec.cli.options import DATA, RUN, SEARCH, load_stack, refuse_ignored, takes_settings
from seo_rec.cli.running import run_folder, say_still_improving
from seo_rec.methods import Mlet
from seo_rec.settings import FitSettings, ModelSettings, Training

OF_BUDGET = ("params", "budget_of", "exact_below", "same_hash")
OF_METHOD = ("params", "budget_of", "dim", "set_", "exact_below", "same_hash")


@takes_settings(model=par.MODEL_OPTIONS, mlet=par.MLET_OPTIONS, fit=par.TRAIN_OPTIONS)
def train(
    context: typer.Context,
    data: par.Data,
    out: par.Out,
    policy: Annotated[
        Path | None, typer.Option(help="The policy to train.", rich_help_panel=DATA)
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Go on from the weights.npz of a search of this policy.", rich_help_panel=DATA
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
    from seo_rec.policy import Policy
    from seo_rec.search import find
    from seo_rec.train import Start

    if (policy is None) == (not method):
        raise ValueError("give either --policy FILE or --method NAME")
    opened, texts = open_data(data), set_texts(context, set_)
    resolved: dict[str, Any] = {"set": texts}
    asked_for: int | None = recipes.OWN_BUDGET
    if policy:
        refuse_ignored(context, OF_METHOD, "--policy", "--method")
        chosen = Policy.load(policy)
        resolved |= {"dim": None, "exact_below": None}
    else:
        entry = find(method)
        changes = assigned(entry.settings, texts, method)
        if exact_below:
            changes["exact_below"] = exact_below
        if same_hash:
            changes["same_hash"] = par.groups(same_hash, "--same-hash")
        at = 0
        if entry.budgeted:
            at = budget(context, opened, dim, params, budget_of, whole_rows=False)
        else:
            shared = "methods that share rows"
            refuse_ignored(context, OF_BUDGET, f"--method {method}", shared)
            asked_for = None
        chosen = recipes.method_policy(method, opened, at, dim, seed=fit.seed, changes=changes)
        resolved |= {"params": at or None, "budget_of": None}
    with run_folder(context, out, **resolved):
        run = recipes.train(
            opened,
            chosen,
            out,
            Training(replace(model, mlet=mlet), fit),
            method=method or "policy",
            resume=resume,
            budget=asked_for,
            start=Start(plan, weights),
        )
    typer.echo(
        f"{out}: {size(chosen)}, validation AUC {run.val_auc:.5f}, test AUC {run.test_auc:.5f}, "
        f"log loss {run.test_logloss:.5f}, {run.epochs} epochs of {run.seconds_per_epoch:.1f} s"
    )
    say_still_improving([run], fit.epochs)
