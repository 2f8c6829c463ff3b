"""``seo-rec compare``: methods at one budget, with several seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli import training_options as opt
from seo_rec.cli.assignments import assigned_by_family
from seo_rec.cli.automatic import automatic, floats_of, settled_options
from seo_rec.cli.budget import budget, resolved
from seo_rec.cli.budget_options import BUDGET_OPTIONS, BudgetOptions
from seo_rec.cli.config import set_texts
from seo_rec.cli.crosses import all_crossed
from seo_rec.cli.options import (
    RUN,
    SEARCH,
    FromSettings,
    Option,
    is_typed,
    load_stack,
    refuse_ignored,
    takes_settings,
)
from seo_rec.cli.running import run_folder, say_still_improving
from seo_rec.methods import SUFFIX, Mlet
from seo_rec.settings import COMPARED_METHODS, FitSettings, ModelSettings, Training

if TYPE_CHECKING:
    from seo_rec.data.crosses import CrossedData
    from seo_rec.data.dataset import DataSet
    from seo_rec.policy import Allowance
    from seo_rec.recipes import Comparison


@dataclass(frozen=True)
class Contestants:
    """Which methods are compared, and how often each is trained.

    Args:
        methods: Names of methods, separated by commas; docs/methods.md has them all.
        exact_below: Features with at most so many training ids keep a row for each; 0: none.
        seeds: Number of seeds; every method is trained with each.
        first_seed: The first seed.
        tuned: Tune every method first on validation rows, with equally many trials.
        trials: With --tuned: the trials of each method.
    """

    methods: tuple[str, ...] = COMPARED_METHODS
    exact_below: int = 0
    seeds: int = 5
    first_seed: int = 0
    tuned: bool = False
    trials: int = 20


CONTESTANTS = FromSettings(
    Contestants,
    SEARCH,
    (
        Option("methods"),
        Option("exact_below"),
        Option("seeds", panel=RUN),
        Option("first_seed", panel=RUN),
        Option("tuned", panel=RUN),
        Option("trials", panel=RUN),
    ),
)


@takes_settings(
    budget_options=BUDGET_OPTIONS,
    contestants=CONTESTANTS,
    model=opt.MODEL_OPTIONS,
    mlet=opt.MLET_OPTIONS,
    fit=opt.COMPARE_OPTIONS,
)
def compare(
    context: typer.Context,
    data: par.DataOfSeeds,
    out: par.Out,
    *,
    budget_options: BudgetOptions,
    contestants: Contestants,
    set_: par.SetOfMethod = None,
    crosses: par.Crosses = "",
    cross_order: par.CrossOrder = 2,
    same_hash: par.SameHash = None,
    model: ModelSettings,
    mlet: Mlet | None,
    fit: FitSettings,
    group: par.Group = None,
    by: par.By = None,
    by_frequency: par.ByFrequency = None,
    threads: par.Threads = 0,
    config: par.Config = None,
) -> None:
    """Train methods at one exact budget with several seeds; run again to go on where it stopped."""
    load_stack(threads)
    from seo_rec import recipes
    from seo_rec.data.dataset import open_data
    from seo_rec.search import find

    texts, opened = set_texts(context, set_), tuple(map(open_data, data))
    dim = budget_options.dim
    at = budget(context, opened[0], dim, budget_options.wish, whole_rows=True)
    named = [find(name.removesuffix(SUFFIX)) for name in contestants.methods]
    fit = automatic(context, fit, opened[0], floats_of(at, dim), named)
    wide = all_crossed(opened, crosses, contestants.first_seed)
    asked = Asked(opened, contestants, dim, texts, same_hash, Training(model, fit), mlet, wide)
    comparison = comparison_of(context, asked, at)
    grouping = recipes.Grouping(tuple(group or ()), tuple(by or ()), tuple(by_frequency or ()))
    for one in opened:
        grouping.check(one)
    with run_folder(
        context, out, **resolved(at), **settled_options(fit), storage=fit.storage, set=texts
    ):
        runs = recipes.compare(comparison, out)
        if grouping:
            recipes.measure_groups(comparison, out, grouping)
        from seo_rec import report  # plots load slowly

        report.print_comparison([out])
        say_still_improving(runs, fit)


@dataclass(frozen=True)
class Asked:
    """What ``compare`` and ``frontier`` are told alike, but for the budget."""

    data: tuple[DataSet, ...]
    contestants: Contestants
    dim: int
    set_: list[str]
    same_hash: list[str] | None
    training: Training
    mlet: Mlet | None
    wide: tuple[CrossedData, ...] = ()


def comparison_of(context: typer.Context, asked: Asked, at: Allowance) -> Comparison:
    """The comparison that the options of ``compare`` or ``frontier`` ask for.

    Args:
        context: Of the command.
        asked: Its options.
        at: The budget, if it is in parameters a multiple of the width, and the precision.
    """
    from seo_rec import recipes
    from seo_rec.search import settings_by_family

    names = asked.contestants.methods
    if not asked.contestants.tuned:
        has_trials = [p.name for p in context.command.params if p.name == "trials"]
        refuse_ignored(context, has_trials, "a comparison that is not tuned", "--tuned")
    if not any(name.endswith(SUFFIX) for name in names):
        beside = f"--methods {','.join(names)}"
        refuse_ignored(context, ["mlet_dim", "mlet_std"], beside, f"a method ending in {SUFFIX}")
    made = recipes.Comparison(
        data=asked.data,
        methods=names,
        params=0 if at.in_bytes else at.amount,
        num_bytes=at.amount if at.in_bytes else 0,
        precision=at.precision,
        id_bits=at.id_bits,
        dim=asked.dim,
        seeds=asked.contestants.seeds,
        first_seed=asked.contestants.first_seed,
        training=asked.training,
        settings=assigned_by_family(settings_by_family(), asked.set_),
        mlet=asked.mlet,
        exact_below=asked.contestants.exact_below,
        same_hash=par.groups(asked.same_hash, "--same-hash"),
        trials=asked.contestants.trials if asked.contestants.tuned else 0,
        wide=asked.wide,
    )
    if is_typed(context, "id_bits") and not recipes.stores_ids(made):
        raise ValueError(
            f"--id-bits with --methods {','.join(names)} would be ignored, since their policies "
            "store no ids; allowed with methods that store ids, as frequent"
        )
    return made
