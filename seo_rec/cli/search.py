"""``seo-rec search``: decide how features share and divide a budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli import training_options as opt
from seo_rec.cli.assignments import assigned, print_settings
from seo_rec.cli.automatic import automatic, floats_of, settled_options
from seo_rec.cli.budget import budget, resolved, size
from seo_rec.cli.budget_options import SEARCH_BUDGET, TYPE_BY_SEARCH, SearchBudgetOptions
from seo_rec.cli.config import set_texts
from seo_rec.cli.options import SEARCH, is_typed, load_stack, refuse_ignored, takes_settings
from seo_rec.cli.running import run_folder
from seo_rec.policy import DTYPES, Allowance
from seo_rec.runs.decision import as_options, decided
from seo_rec.runs.layout import POLICY_FILE
from seo_rec.settings import FitSettings, ModelSettings, Training

if TYPE_CHECKING:
    from seo_rec.policy import Policy
    from seo_rec.search import Method

# options that say how a model is trained, which some searches do not
TRAINING_OPTIONS = tuple(
    option.name
    for option in (*opt.MODEL_OPTIONS.options, *opt.SEARCH_OPTIONS.options)
    if option is not opt.SEED
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
    from seo_rec.search import find

    print_settings(find(method).settings, method)
    raise typer.Exit


@takes_settings(budget_options=SEARCH_BUDGET, model=opt.MODEL_OPTIONS, fit=opt.SEARCH_OPTIONS)
def search(
    context: typer.Context,
    data: par.Data,
    out: par.Out,
    *,
    budget_options: SearchBudgetOptions,
    method: Annotated[
        str,
        typer.Option(
            is_eager=True,
            callback=_known,
            help="A search, such as seo or dimgrow; see docs/searches.md.",
            rich_help_panel=SEARCH,
        ),
    ] = "seo",
    set_: par.Set = None,
    crosses: par.SearchCrosses = "auto",
    cross_order: par.CrossOrder = 2,
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
    model: ModelSettings,
    fit: FitSettings,
    threads: par.Threads = 0,
    resume: par.Resume = False,
    config: par.Config = None,
) -> None:
    """Decide how features share and divide a budget; the answer is OUT/policy.json."""
    load_stack(threads)
    from seo_rec import recipes
    from seo_rec.data.dataset import open_data
    from seo_rec.recipes.crossing import AUTO as CROSSES_AUTO
    from seo_rec.recipes.crossing import takes_automatic
    from seo_rec.search import find

    entry, texts = find(method), set_texts(context, set_)
    values = assigned(entry.settings, texts, method)
    if not entry.trains and crosses in ("", CROSSES_AUTO):
        searches = "searches that train a model"
        refuse_ignored(context, TRAINING_OPTIONS, f"--method {method}", searches)
    searches = "searches that read it"
    refuse_ignored(context, entry.ignores, f"--method {method}", searches)
    opened = open_data(data)
    dim = budget_options.dim
    at = budget(context, opened, dim, budget_options.wish, whole_rows=entry.whole_rows)
    if budget_options.precision == TYPE_BY_SEARCH:
        at, values = _in_types(context, entry, at, dim, values)
    if entry.trains:
        fit = automatic(context, fit, opened, floats_of(at, dim), [entry])
    training, kept = Training(model, fit), dict[str, Any]()
    if entry.trains:
        kept = {**settled_options(fit), "storage": fit.storage}
    chosen = entry.settings_at(at, dim, training, values)
    by_default = crosses == CROSSES_AUTO and not is_typed(context, "crosses")
    if by_default and not takes_automatic(entry, chosen):
        crosses = ""
    with run_folder(context, out, **resolved(at), **kept, set=texts):
        found = recipes.search(
            method, opened, out, chosen, training, resume=resume, crosses=crosses
        )
    say_searched(out, found.policy)


def _in_types(
    context: typer.Context, entry: Method, at: Allowance, dim: int, values: dict[str, Any]
) -> tuple[Allowance, dict[str, Any]]:
    """The budget and the settings of a search with ``--precision auto``.

    Where several processes search, which do not compare types, a message on stderr says that rows
    stay float32.

    Raises:
        ValueError: It was typed, and the search cannot decide it.
    """
    from seo_rec.recipes.crossing import takes_automatic
    from seo_rec.search.seo import MOSTLY
    from seo_rec.train import ranks

    here, decides = ranks(), False
    of = replace(at, precision=MOSTLY)
    if at.in_bytes and entry.crossed:
        decides = takes_automatic(entry, entry.settings_at(of, dim, Training(), values))
    if decides and here.world_size == 1:
        return of, {**values, "precision": TYPE_BY_SEARCH}
    if is_typed(context, "precision"):
        raise ValueError(
            f"--precision {TYPE_BY_SEARCH} with --method {entry.name} and a budget of {at}; "
            "allowed with a budget in --bytes, --method seo with run_off.cost 1 or more, and one "
            f"process; else name a type: {', '.join(DTYPES)}"
        )
    if decides and here.first:
        typer.echo(
            f"precision: {at.precision}, since {here.world_size} processes do not compare types; "
            "--precision names one",
            err=True,
        )
    return at, values


def say_searched(out: Path, policy: Policy) -> None:
    """Say what a search came to: in a sentence, and which files hold it."""
    from seo_rec.policy import Budget
    from seo_rec.runs import describe

    if policy.decision:
        typer.echo(decided(policy.decision, out))
        if settings := policy.decision.get("settings"):
            typer.echo(f"train it with the settings that the search chose: {as_options(settings)}")
    typer.echo(f"{out / POLICY_FILE}: {size(policy)}, {describe(policy)}")
    if policy.dropped:
        typer.echo(f"dropped features: {', '.join(policy.dropped)}")
    limit = policy.budget or Budget(params=policy.num_params)
    over, more = "", ""
    if limit.params and policy.num_params > limit.params:
        over = f"{limit.params} parameters"
    elif limit.num_bytes and policy.num_bytes > limit.num_bytes:
        over, more = f"{limit.num_bytes} bytes", f" --bytes {limit.num_bytes}"
    if over:
        typer.echo(
            f"note: this policy is above the budget of {over}, because "
            "it has the tables of the search; before training, fit it to the budget: seo-rec "
            f"apply {out / POLICY_FILE} --strategy exact --out {out / 'applied.json'}{more}"
        )
