"""A comparison in which every method is tuned with the same number of trainings.

A method without a search spends all of its trials on its own policy, widths included. A method that
searches spends half of them before: on a plain policy of :data:`STAND_INS`, whose best settings its
search is run with; and the other half on the policy that it finds. Trials read no test row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from seo_rec.methods import SUFFIX
from seo_rec.policy import Policy
from seo_rec.recipes.comparison import Comparison
from seo_rec.recipes.training import OWN_BUDGET
from seo_rec.runs.layout import TUNINGS_FOLDER
from seo_rec.search import Method, find
from seo_rec.search.registry import STAND_INS
from seo_rec.train import Training, ranks

BEFORE_SEARCH = ("l2", "lr", "dense-lr", "dropout", "batch-size")  # what every search can use
OF_POLICY = (*BEFORE_SEARCH, "l2-on")
Decided = Callable[[Comparison, Method, int], Policy]


def check_trials(comparison: Comparison) -> None:
    """ValueError for a number of trials that is below 0, or trials in a launch of processes."""
    if comparison.trials < 0:
        raise ValueError(f"trials is {comparison.trials}; allowed: 1 or more, or 0 for no tuning")
    if comparison.trials and (world := ranks().world_size) > 1:
        raise ValueError(
            f"--tuned in {world} processes; allowed: 1 process, or methods that are tuned by "
            "`seo-rec tune`, whose processes share the trials"
        )


def tuned(
    comparison: Comparison, name: str, seed: int, out: Path, decided: Decided
) -> tuple[Comparison, Training]:
    """Tune a method, or find that it is tuned already.

    Seeds that share a data set share a tuning, with the first of these seeds.

    Args:
        comparison: Its training is the first trial of every method.
        name: Of the method, with or without the suffix of MLET.
        seed: Of the run that follows.
        out: The folder of the comparison.
        decided: The policy that a method decides in a comparison with a seed.

    Returns:
        The comparison with the width and the training with which the method decides, and the
        training of its policy.
    """
    first = comparison.first_seed + (seed - comparison.first_seed) % len(comparison.data)
    method, here = comparison.method_of(name), comparison.training.with_seed(first)
    if method.trains:
        deciding, training = _tuned_search(comparison, name, first, out, decided)
    else:
        training = _as_named(comparison, name, here)

        def policy_of(dim: int) -> Policy:
            return decided(replace(comparison, dim=dim), method, first)

        folder = f"{name}-seed{first}"
        training, dim = _tune(comparison, policy_of, training, name, folder, out)
        deciding = replace(comparison, dim=dim)
    return deciding, training.with_seed(seed)


def _tuned_search(
    comparison: Comparison, name: str, first: int, out: Path, decided: Decided
) -> tuple[Comparison, Training]:
    """The comparison in which a method searches, and the training of the policy that it finds."""
    method, training = comparison.method_of(name), comparison.training.with_seed(first)
    before = comparison.trials // 2
    if before:
        plain = _stand_in(comparison, first, decided)
        part = replace(comparison, trials=before)
        folder = f"before-searches-seed{first}"
        training, _ = _tune(
            part, lambda _: plain, training, "stand-in", folder, out, names=BEFORE_SEARCH
        )
    deciding = replace(comparison, training=training)
    policy = decided(deciding, method, first)
    part = replace(comparison, trials=comparison.trials - before)
    named, folder = _as_named(comparison, name, training), f"{name}-seed{first}"
    training, _ = _tune(part, lambda _: policy, named, name, folder, out, names=OF_POLICY)
    return deciding, training


def _tune(
    comparison: Comparison,
    policy_of: Callable[[int], Policy],
    training: Training,
    name: str,
    folder: str,
    out: Path,
    names: tuple[str, ...] | None = None,
) -> tuple[Training, int]:
    """The best training of as many trials as the comparison has, and its width."""
    from seo_rec.recipes.tuning import Tuning, tune  # Optuna is loaded where it is needed
    from seo_rec.recipes.tuning_space import TUNED_NAMES

    tuning = Tuning(
        data=comparison.data_of(training.fit.seed),
        policy_of=policy_of,
        training=training,
        dim=comparison.dim,
        method=name,
        budget=OWN_BUDGET,
        trials=comparison.trials,
        names=names or TUNED_NAMES,
    )
    found = tune(tuning, out / TUNINGS_FOLDER / folder, resume=True, test=False)
    assert found is not None  # no other process has the folder
    return found.training, found.dim


def _as_named(comparison: Comparison, name: str, training: Training) -> Training:
    """The training, with MLET where the name of the method asks for it."""
    if not name.endswith(SUFFIX):
        return training
    return replace(training, model=replace(training.model, mlet=comparison.mlet))


def _stand_in(comparison: Comparison, first: int, decided: Decided) -> Policy:
    """The plain policy that is trained before any search."""
    *others, last = STAND_INS
    for name in others:
        try:
            return decided(comparison, find(name), first)
        except ValueError:  # no policy of this width
            continue
    return decided(comparison, find(last), first)
