"""``seo-rec compare``: methods at one budget, with several seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli.assignments import assigned_by_family
from seo_rec.cli.budget import budget
from seo_rec.cli.config import set_texts
from seo_rec.cli.options import (
    RUN,
    SEARCH,
    FromSettings,
    Option,
    refuse_ignored,
    set_threads,
    takes_settings,
)
from seo_rec.cli.running import run_folder, say_still_rising
from seo_rec.methods import SUFFIX, Mlet
from seo_rec.settings import FitSettings, ModelSettings

if TYPE_CHECKING:
    from seo_rec.recipes import Comparison


@dataclass(frozen=True)
class Contestants:
    """Which methods are compared, and how often each is trained.

    Args:
        methods: Names of methods, separated by commas; docs/methods.md has them all.
        exact_below: Features with at most so many training ids keep a row for each; 0: none.
        seeds: Number of seeds; every method is trained with each.
        first_seed: The first seed.
    """

    methods: tuple[str, ...] = (
        "separate",
        "monolithic",
        "multi-size",
        "seo-exact",
        "seo-rr",
        "seo",
    )
    exact_below: int = 0
    seeds: int = 5
    first_seed: int = 0


CONTESTANTS = FromSettings(
    Contestants,
    SEARCH,
    (
        Option("methods"),
        Option("exact_below"),
        Option("seeds", panel=RUN),
        Option("first_seed", panel=RUN),
    ),
)


@takes_settings(
    contestants=CONTESTANTS,
    model=par.MODEL_OPTIONS,
    mlet=par.MLET_OPTIONS,
    fit=par.COMPARE_OPTIONS,
)
def compare(
    context: typer.Context,
    data: par.DataOfSeeds,
    out: par.Out,
    params: par.Params = None,
    budget_of: par.BudgetOf = None,
    dim: par.Dim = 16,
    *,
    contestants: Contestants,
    set_: par.SetOfMethod = None,
    same_hash: par.SameHash = None,
    model: ModelSettings,
    mlet: Mlet | None,
    fit: FitSettings,
    threads: par.Threads = 0,
    config: par.Config = None,
) -> None:
    """Train methods at one exact budget with several seeds; run again to go on where it stopped."""
    set_threads(threads)
    from seo_rec import recipes, report

    texts = set_texts(context, set_)
    at = budget(context, data[0], dim, params, budget_of, whole_rows=True)
    asked = Asked(data, contestants, dim, texts, same_hash, model, mlet, fit)
    comparison = comparison_of(context, asked, at)
    with run_folder(context, out, params=at, budget_of=None, set=texts):
        recipes.compare(comparison, out)
    report.print_comparison([out])
    say_still_rising(sorted(out.glob("runs/*")), fit.epochs)


@dataclass(frozen=True)
class Asked:
    """What ``compare`` and ``frontier`` are told alike, but for the budget."""

    data: list[Path]
    contestants: Contestants
    dim: int
    set_: list[str]
    same_hash: list[str] | None
    model: ModelSettings
    mlet: Mlet | None
    fit: FitSettings


def comparison_of(context: typer.Context, asked: Asked, params: int) -> Comparison:
    """The comparison that the options of ``compare`` or ``frontier`` ask for.

    Args:
        context: Of the command.
        asked: Its options.
        params: The budget, a multiple of the width.
    """
    from seo_rec import recipes
    from seo_rec.cli.methods import KINDS, search_settings

    names = asked.contestants.methods
    plain = tuple(name.removesuffix(SUFFIX) for name in names)
    if plain == names:
        beside = f"--methods {','.join(names)}"
        refuse_ignored(context, ["mlet_dim", "mlet_std"], beside, f"a method ending in {SUFFIX}")
    by_family = assigned_by_family(KINDS, asked.set_)
    _say_idle(asked.set_, plain)
    seo = search_settings("seo", params, asked.dim, asked.model.backbone, _of_seo(by_family))
    if seo.run_off is None:
        raise ValueError("--set seo.run_off=none in a comparison; its method seo-exact has none")
    searches = {
        name: search_settings(name, 0, asked.dim, asked.model.backbone, given)
        for name, given in by_family.items()
        if name not in ("seo", "multi-size")
    }
    return recipes.Comparison(
        data=tuple(asked.data),
        methods=names,
        settings=seo.space,
        seeds=asked.contestants.seeds,
        first_seed=asked.contestants.first_seed,
        model=asked.model,
        fit=asked.fit,
        run_off=seo.run_off,
        searches=searches,
        mlet=asked.mlet,
        exact_below=asked.contestants.exact_below,
        same_hash=par.groups(asked.same_hash, "--same-hash"),
    )


def _of_seo(by_family: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """SEO's settings; chunks of multi-size tables are as wide as those of SEO."""
    seo, multi_size = by_family.get("seo", {}), by_family.get("multi-size", {})
    if {"chunk_dim"} <= seo.keys() & multi_size.keys() and seo["chunk_dim"] != multi_size[
        "chunk_dim"
    ]:
        raise ValueError(
            f"--set seo.chunk_dim={seo['chunk_dim']} and "
            f"multi-size.chunk_dim={multi_size['chunk_dim']}; allowed: one width for both"
        )
    return {**seo, **multi_size}


def _say_idle(texts: list[str], methods: tuple[str, ...]) -> None:
    """Name the settings that none of ``methods`` reads: methods asked for later may read them."""
    from seo_rec.cli.methods import family_of

    families = {family_of(name) for name in methods}
    idle = [
        text
        for text in texts
        if text.partition(".")[0] not in families
        or (text.startswith("seo.run_off") and "seo" not in methods)
    ]
    if idle:
        typer.echo(f"note: none of {', '.join(methods)} reads --set {', '.join(idle)}", err=True)
