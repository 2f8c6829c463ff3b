"""``seo-rec train``: train a policy, or a plain method at a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seo_rec.cli import parameters as par
from seo_rec.cli import training_options as opt
from seo_rec.cli.assignments import assigned
from seo_rec.cli.automatic import automatic, settled_options
from seo_rec.cli.budget import budget, resolved, size
from seo_rec.cli.budget_options import PLAIN_METHOD, PlainMethodOptions
from seo_rec.cli.config import set_texts
from seo_rec.cli.crosses import crossed
from seo_rec.cli.following import OF_LABELS, fit_values, following_run, training_from
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
from seo_rec.cli.running import run_folder, say_still_improving, test_figures
from seo_rec.methods import Mlet
from seo_rec.multi_task import MultiTask
from seo_rec.schema import QUALITY_NAMES
from seo_rec.settings import FitSettings, ModelSettings, Training

if TYPE_CHECKING:
    from seo_rec.data.dataset import DataSet
    from seo_rec.policy import Allowance, Policy
    from seo_rec.recipes import Continued

OF_BUDGET = ("params", "bytes_", "budget_of", "exact_below", "same_hash")
OF_METHOD = (*OF_BUDGET, "dim", "precision", "id_bits", "set_", "crosses", "cross_order")
OF_EARLIER = ("carry", "count_decay", "shared_rows", "candidates", "mean_anew")
OF_POLICY = ("plan", "weights")  # options that are for one policy


@takes_settings(
    method_options=PLAIN_METHOD,
    model=opt.MODEL_OPTIONS,
    mlet=opt.MLET_OPTIONS,
    multi_task=opt.MULTI_TASK_OPTIONS,
    fit=opt.TRAIN_OPTIONS,
)
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
    from_: par.From = None,
    carry: par.Carry = False,
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
    """Train a policy, or go on from an earlier run; OUT/result.json holds the outcome."""
    load_stack(threads)
    from seo_rec import recipes
    from seo_rec.data.dataset import open_data
    from seo_rec.train import Start, with_storage

    opened, idle = open_data(data), _idle(context, policy, method_options.method, from_)
    training = Training(replace(model, mlet=mlet, multi_task=multi_task), fit)
    following = None
    unused = [n for n in OF_POLICY if idle and not is_typed(context, n)]
    start = Start(*(None if name in unused else context.params[name] for name in OF_POLICY))
    if from_ is not None:
        training = training_from(context, from_)
    else:
        refuse_ignored(context, OF_EARLIER, "a training from scratch", "--from")
    wanted = _wanted(context, opened, method_options, idle, training.fit.seed)
    if from_ is None:
        assert wanted is not None
        training = with_storage(training, wanted.policy, start, out)
        fit = automatic(context, training.fit, opened, wanted.policy.num_params, ())
        training = replace(training, fit=fit)
        kept = {**wanted.resolved, **settled_options(fit), "storage": fit.storage}
    else:
        following = following_run(context, opened, None if wanted is None else wanted.policy)
        training = with_storage(training, None, Start(earlier=following.earlier), out)
        wanted = wanted or _of_run(following)
        kept = {**wanted.resolved, **fit_values(training.fit), **dict.fromkeys(OF_LABELS)}
    if idle:  # the plan and the weights of --config are for the policy that is not trained
        kept |= {idle: None, **dict.fromkeys(unused)}
    with run_folder(context, out, **kept):
        run = recipes.train(
            opened,
            wanted.policy,
            out,
            training,
            method=wanted.method,
            resume=resume,
            budget=wanted.budget,
            start=start,
            following=following,
        )
    quality = QUALITY_NAMES[run.task]
    epochs = f"{run.epochs} epoch{'s' * (run.epochs != 1)}"
    typer.echo(
        f"{out}: {size(wanted.policy)}, validation {quality} {run.val_quality:.5f}, "
        f"{test_figures(run)}, {epochs} of {run.seconds_per_epoch:.1f} s; tables by "
        f"{run.table_update}"
    )
    for name, found in (run.labels or {}).items():
        test = ""
        if run.has_test_figures:
            test = f", test AUC {found['test_auc']:.5f}, log loss {found['test_logloss']:.5f}"
        typer.echo(f"label {name}: validation AUC {found['val_auc']:.5f}{test}")
    say_still_improving([run], training.fit)


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


def _idle(
    context: typer.Context, policy: Path | None, method: str, from_: Path | None
) -> str | None:
    """Which of ``--policy`` and ``--method`` does not count: the other replaces that of a config.

    Raises:
        ValueError: Both are given, or neither and no earlier run.
    """
    both = policy is not None and bool(method)
    idle = overridden(context, ("policy", "method")) if both else None
    if (policy is None and not method and from_ is None) or (both and idle is None):
        raise ValueError("give either --policy FILE or --method NAME")
    return idle


def _wanted(
    context: typer.Context,
    data: DataSet,
    method_options: PlainMethodOptions,
    idle: str | None,
    seed: int,
) -> Wanted | None:
    """What ``--policy`` or ``--method`` ask for; None if there is an earlier run and neither."""
    policy = context.params["policy"]
    if policy is not None and idle != "policy":
        return _of_file(context, policy, idle == "method")
    if method_options.method:
        return plain_method(context, data, method_options).wanted(method_options.dim, seed)
    refuse_ignored(context, OF_METHOD, "--from", "--method")
    return None


def policy_of(
    context: typer.Context, data: DataSet, method_options: PlainMethodOptions, seed: int
) -> Wanted:
    """What ``--policy`` or ``--method`` ask for, of a command that has no other source of policies.

    Raises:
        ValueError: Both are given, or neither.
    """
    idle = _idle(context, context.params["policy"], method_options.method, None)
    wanted = _wanted(context, data, method_options, idle, seed)
    assert wanted is not None
    return wanted


def _of_run(following: Continued) -> Wanted:
    """The renewed policy of the earlier run."""
    from seo_rec import recipes

    left_out = dict.fromkeys(name.rstrip("_") for name in OF_METHOD)
    return Wanted(following.policy, following.earlier.method, recipes.OWN_BUDGET, left_out)


def _of_file(context: typer.Context, path: Path, replaces_method: bool) -> Wanted:
    """The policy in a file; options of methods are refused, or left out with the method."""
    from seo_rec import recipes
    from seo_rec.policy import Policy

    given = [n for n in OF_METHOD if is_typed(context, n)] if replaces_method else OF_METHOD
    refuse_ignored(context, given, "--policy", "--method")
    left_out = dict.fromkeys(name.rstrip("_") for name in OF_METHOD)
    return Wanted(Policy.load(path), "policy", recipes.OWN_BUDGET, left_out)


@dataclass(frozen=True)
class PlainMethod:
    """A method without training, as the options ask for it; its width and seed are free.

    Args:
        data: The data set.
        name: Of the method.
        at: The budget, and the precision.
        changes: Other values of the settings of the method.
        budget: As :func:`seo_rec.recipes.train` takes it.
        resolved: See :class:`Wanted`.
        stores_ids: Whether a policy without ids is an error, since ``--id-bits`` was typed.
    """

    data: DataSet
    name: str
    at: Allowance
    changes: Mapping[str, Any]
    budget: int | None
    resolved: Mapping[str, Any]
    stores_ids: bool

    def policy(self, dim: int, seed: int) -> Policy:
        """The policy; PolicyError or ValueError where there is none of this width."""
        from seo_rec import recipes

        changes = self.changes
        found = recipes.method_policy(
            self.name, self.data, self.at, dim, seed=seed, changes=changes
        )
        if self.stores_ids and not found.vocabularies:
            raise ValueError(
                f"--id-bits with --method {self.name} would be ignored, since the policy stores "
                "no ids; allowed with methods that store ids, as frequent"
            )
        return found

    def wanted(self, dim: int, seed: int) -> Wanted:
        """What a command trains."""
        return Wanted(self.policy(dim, seed), self.name, self.budget, self.resolved)


def plain_method(
    context: typer.Context, data: DataSet, method_options: PlainMethodOptions
) -> PlainMethod:
    """The method that the options name, at their budget."""
    from seo_rec import recipes
    from seo_rec.policy import Allowance
    from seo_rec.search import find

    entry, texts = find(method_options.method), set_texts(context, method_options.set_)
    changes = assigned(entry.settings, texts, method_options.method)
    if method_options.exact_below:
        changes["exact_below"] = method_options.exact_below
    if method_options.same_hash:
        changes["same_hash"] = par.groups(method_options.same_hash, "--same-hash")
    at = Allowance(
        0, precision=method_options.precision, id_bits=method_options.wish.bits(in_bytes=False)
    )
    if entry.budgeted:
        at = budget(context, data, method_options.dim, method_options.wish, whole_rows=False)
    else:
        beside = f"--method {method_options.method}"
        refuse_ignored(context, OF_BUDGET, beside, "methods that have a budget")
    given = context.params
    if given.get("crosses"):  # an option of train, not of tune
        data = crossed(data, given["crosses"], given["seed"])
    asked_for = recipes.OWN_BUDGET if entry.budgeted else None
    resolved_options = {"set": texts, **resolved(at)}
    typed = is_typed(context, "id_bits")
    return PlainMethod(data, method_options.method, at, changes, asked_for, resolved_options, typed)
