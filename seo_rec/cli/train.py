"""``seo-rec train``: train a policy, or a plain method at a budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli.assignments import assigned
from seo_rec.cli.budget import budget
from seo_rec.cli.config import set_texts
from seo_rec.cli.options import DATA, RUN, SEARCH, refuse_ignored, set_threads, takes_settings
from seo_rec.cli.running import run_folder, say_still_rising
from seo_rec.methods import Mlet
from seo_rec.settings import FitSettings, ModelSettings

if TYPE_CHECKING:
    from seo_rec.policy import Policy

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
    set_threads(threads)
    from seo_rec import recipes
    from seo_rec.policy import Policy

    if (policy is None) == (not method):
        raise ValueError("give either --policy FILE or --method NAME")
    texts = set_texts(context, set_)
    resolved: dict[str, Any] = {"set": texts}
    if policy:
        refuse_ignored(context, OF_METHOD, "--policy", "--method")
        chosen = Policy.load(policy)
        resolved |= {"dim": None, "exact_below": None}
    else:
        at = _budget(context, data, method, dim, params, budget_of)
        groups = par.groups(same_hash, "--same-hash")
        chunk_dim = _chunk_dim(method, texts)
        chosen = recipes.method_policy(
            method, data, at, dim, chunk_dim, fit.seed, exact_below, groups
        )
        resolved |= {"params": at or None, "budget_of": None}
    with run_folder(context, out, **resolved):
        run = recipes.train(
            data,
            chosen,
            out,
            replace(model, mlet=mlet),
            fit,
            method=method or "policy",
            resume=resume,
            plan=plan,
            weights=weights,
        )
    typer.echo(
        f"{out}: {run.embedding_params} parameters, {_bytes(chosen)} bytes, validation AUC "
        f"{run.val_auc:.5f}, test AUC {run.test_auc:.5f}, log loss {run.test_logloss:.5f}, "
        f"{run.epochs} epochs of {run.seconds_per_epoch:.1f} s"
    )
    say_still_rising([out], fit.epochs)


def _bytes(policy: Policy) -> int:
    return int(getattr(policy, "num_bytes", 4 * policy.num_params))


def _budget(
    context: typer.Context,
    data: Path,
    method: str,
    dim: int,
    params: int | None,
    budget_of: Path | None,
) -> int:
    """The budget of a method; 0 if its size follows from the data."""
    if method == "collisionless":
        of_budget = ["params", "budget_of", "exact_below", "same_hash"]
        refuse_ignored(context, of_budget, "--method collisionless", "methods that share rows")
        return 0
    return budget(context, data, dim, params, budget_of, whole_rows=False)


def _chunk_dim(method: str, texts: list[str]) -> int:
    from seo_rec.cli.methods import MultiSizeSettings

    if texts and method != "multi-size":
        raise ValueError(
            f"--set {texts[0]!r} with --method {method}, which has no settings; allowed with "
            "--method multi-size"
        )
    return MultiSizeSettings(**assigned(MultiSizeSettings, texts, method)).chunk_dim
