"""``seo-rec search``: decide how features share and divide a budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli.assignments import assigned, print_settings
from seo_rec.cli.budget import budget, size
from seo_rec.cli.config import set_texts
from seo_rec.cli.decision import decided
from seo_rec.cli.options import SEARCH, refuse_ignored, set_threads, takes_settings
from seo_rec.cli.running import run_folder
from seo_rec.settings import FitSettings, ModelSettings

if TYPE_CHECKING:
    from seo_rec.policy import Policy

# options that say how a model is trained, which some searches do not
TRAINING_OPTIONS = (
    "backbone",
    "interaction",
    "hidden",
    "dropout",
    "epochs",
    "patience",
    "batch_size",
    "lr",
    "optimizer",
    "average",
    "l2",
    "checkpoint_every",
)


def _list_settings(context: typer.Context, value: bool) -> bool:
    """Callback of ``--settings``: list them if the method is known, else :func:`_known` does."""
    if value and "method" in context.params:
        _print_and_leave(context.params["method"])
    return value


def _known(context: typer.Context, value: str) -> str:
    """Callback of ``--method``."""
    if context.params.get("settings"):
        _print_and_leave(value)
    return value


def _print_and_leave(method: str) -> None:
    from seo_rec.cli.methods import search_kind

    print_settings(search_kind(method), method)
    raise typer.Exit


@takes_settings(model=par.MODEL_OPTIONS, fit=par.SEARCH_OPTIONS)
def search(
    context: typer.Context,
    data: par.Data,
    out: par.Out,
    params: par.Params = None,
    budget_of: par.BudgetOf = None,
    dim: par.Dim = 16,
    method: Annotated[
        str,
        typer.Option(
            is_eager=True,
            callback=_known,
            help="seo, dimgrow, optembed, autodim, sseds, mixed-dimension or no-search.",
            rich_help_panel=SEARCH,
        ),
    ] = "seo",
    set_: par.Set = None,
    settings: Annotated[
        bool,
        typer.Option(
            "--settings",
            is_eager=True,
            callback=_list_settings,
            help="List the settings of --method and leave.",
            rich_help_panel=SEARCH,
        ),
    ] = False,
    *,
    model: ModelSettings,
    fit: FitSettings,
    threads: par.Threads = 0,
    resume: par.Resume = False,
    config: par.Config = None,
) -> None:
    """Decide how features share and divide a budget; the answer is OUT/policy.json."""
    set_threads(threads)
    from seo_rec import recipes
    from seo_rec.cli.methods import search_kind, search_settings

    texts = set_texts(context, set_)
    values = assigned(search_kind(method), texts, method)
    if method in recipes.UNTRAINED:
        refuse_ignored(
            context, TRAINING_OPTIONS, f"--method {method}", "searches that train a model"
        )
    if method == "dimgrow":
        use = "searches that keep a mean of their weights"
        refuse_ignored(context, ["average"], "--method dimgrow", use)
    at = budget(context, data, dim, params, budget_of, whole_rows=method == "seo")
    chosen = search_settings(method, at, dim, model.backbone, values)
    with run_folder(context, out, params=at, budget_of=None, set=texts):
        if method == "seo":
            policy = recipes.search(
                data, out, chosen.space, model, fit, chosen.run_off, resume=resume
            )
        else:
            policy = recipes.search_by(method, data, out, chosen, model, fit, resume=resume).policy
    say_searched(out, policy)


def say_searched(out: Path, policy: Policy) -> None:
    """Say what a search came to."""
    from seo_rec import recipes

    winner = policy.provenance["winner"]
    typer.echo(f"{out / 'policy.json'}: {winner}, {size(policy)}, {recipes.describe(policy)}")
    if decision := getattr(policy, "decision", None):
        typer.echo(decided(decision, out))
    if policy.dropped:
        typer.echo(f"dropped features: {', '.join(policy.dropped)}")
