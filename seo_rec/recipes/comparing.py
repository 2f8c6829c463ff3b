"""Compare methods at one budget."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from seo_rec.data.crosses import reading_columns
from seo_rec.data.dataset import DataSet
from seo_rec.documents import read_object
from seo_rec.files import append_line, write_json
from seo_rec.methods import SUFFIX
from seo_rec.policy import Policy, PolicyError
from seo_rec.recipes.comparison import Comparison, asked_of, whole
from seo_rec.recipes.comparison_checks import InfeasibleError, check_comparison, infeasible
from seo_rec.recipes.evaluation import evaluate_served
from seo_rec.recipes.groups import Grouping
from seo_rec.recipes.searching import search, signed
from seo_rec.recipes.training import train
from seo_rec.recipes.tuned_comparison import tuned
from seo_rec.runs import Run, RunError, SearchCost, claim_run, read_runs
from seo_rec.runs.groups import GroupReport
from seo_rec.runs.layout import (
    GROUPS_FILE,
    METHODS_FILE,
    RESULTS_FILE,
    search_folder,
    training_folder,
    work_folder,
)
from seo_rec.schema import QUALITY_NAMES
from seo_rec.search import Method
from seo_rec.search.changes import whole_values
from seo_rec.search.progress import Progress
from seo_rec.train import agree, as_recorded, ranks

log = logging.getLogger(__name__)


def compare(comparison: Comparison, out: Path | str) -> list[Run]:
    """Train and test all runs that ``out/results.jsonl`` lacks, and return all its lines.

    Resumable: called again with the same ``out`` it goes on where it stopped; more methods and
    seeds may be asked for.

    Raises:
        DisagreementError: The processes of this launch ask for different things.
        InfeasibleError: Before the first training, or after a search.
        RunError: ``out`` holds a comparison with other data or settings.
        ValueError: An unknown method, or one with the suffix of MLET without settings of it.
    """
    out = Path(out)
    comparison = replace(comparison, training=as_recorded(comparison.training, out))
    agree(whole(comparison), out=out)
    check_comparison(comparison)
    return run_comparison(comparison, out)


def run_comparison(comparison: Comparison, out: Path) -> list[Run]:
    """:func:`compare`, of a comparison that has been checked."""
    if reasons := infeasible(comparison):
        raise InfeasibleError(reasons)
    here, results = ranks(), out / RESULTS_FILE

    def begin() -> list[Run]:
        claim_run(out, asked_of(comparison), resume=True)
        _claim_methods(out / METHODS_FILE, _asked_of_methods(comparison))
        return read_runs(results) if results.exists() else []

    done = {(r.method, r.seed): r for r in here.on_first(begin)}
    runs: list[Run] = []
    progress = Progress("trainings", comparison.seeds * len(comparison.methods))
    for seed in range(comparison.first_seed, comparison.first_seed + comparison.seeds):
        for name in comparison.methods:
            run = done.get((name, seed))
            if run is None:
                run = _compare_one(comparison, name, seed, out)
                line = json.dumps(run.to_json(), sort_keys=True)
                here.on_first(partial(append_line, results, line))
            runs.append(run)
            fresh = (name, seed) not in done
            quality = f"test {QUALITY_NAMES[run.task]} {run.test_quality:.5f}"
            progress.done(f"{name}, seed {seed}, {quality}", fresh)
    return runs


def measure_groups(comparison: Comparison, out: Path | str, grouping: Grouping) -> None:
    """Measure quality by group for all trainings of a finished comparison, and keep it for reports.

    A training that has the groups already is not scored again.

    Raises:
        DataError: A column of the grouping is no feature of the data.
        RunError: A training is not in ``out``.
    """
    out = Path(out)
    c, here = comparison, ranks()
    for seed in range(c.first_seed, c.first_seed + c.seeds):
        data = c.data_of(seed)
        for run in (training_folder(out, name, seed) for name in c.methods):
            if not here.on_first(partial(_is_measured, run, data, grouping)):
                evaluate_served(run, data, "test", grouping=grouping)


def _is_measured(run: Path, data: DataSet, grouping: Grouping) -> bool:
    path = run / GROUPS_FILE
    if not path.is_file():
        return False
    try:
        report = GroupReport.read(path)
    except ValueError:  # damaged, or of another release: it is measured again
        return False
    same = (report.data_fingerprint, report.split) == (data.fingerprint, "test")
    return same and grouping.is_in(report)


def _asked_of_methods(comparison: Comparison) -> dict[str, Any]:
    """How each family of methods is set up, and how methods with the suffix of MLET are trained."""
    members = {m.family: m for m in map(comparison.method_of, comparison.methods)}
    asked: dict[str, Any] = {
        family: whole_values(method.settings, comparison.settings.get(family, {}))
        for family, method in members.items()
    }
    if comparison.mlet is not None:
        asked[SUFFIX] = comparison.mlet
    values: dict[str, Any] = json.loads(json.dumps(asked, default=asdict))
    return values


def _claim_methods(path: Path, asked: Mapping[str, Any]) -> None:
    """Record how methods are set up, beside others already there.

    Raises:
        RunError: One was set up otherwise when its first runs were made.
    """
    there = read_object(path, {}) if path.exists() else {}
    if differing := sorted(k for k in {*there} & {*asked} if there[k] != asked[k]):
        name = differing[0]
        raise RunError(
            f"{path} says {there[name]} of {name} and this comparison {asked[name]}; choose "
            "another --out, or call it as before"
        )
    write_json(path, {**there, **asked})


def _compare_one(comparison: Comparison, name: str, seed: int, out: Path) -> Run:
    method, data = comparison.method_of(name), comparison.data_of(seed)
    training = comparison.training.with_seed(seed)
    if name != method.name:
        training = replace(training, model=replace(training.model, mlet=comparison.mlet))
    try:
        deciding = comparison
        if comparison.trials:
            deciding, training = tuned(
                comparison, name, seed, out, lambda c, m, s: _policy(c, m, s, out)[0]
            )
        policy, cost = _policy(deciding, method, seed, out)
    except PolicyError as error:
        both = [m for m in comparison.methods if m.removesuffix(SUFFIX) == method.name]
        raise InfeasibleError(dict.fromkeys(both, str(error))) from error
    asked = comparison.allowance if comparison.num_bytes else comparison.params
    return train(
        data,
        policy,
        training_folder(out, name, seed),
        training,
        method=name,
        resume=True,
        budget=asked if method.budgeted else None,
        search=cost,
    )


def _policy(
    comparison: Comparison, method: Method, seed: int, out: Path
) -> tuple[Policy, SearchCost]:
    """The policy of a method, and what its search took."""
    data, settings = comparison.deciding_on(seed), comparison.settings_of(method)
    training = comparison.training.with_seed(seed)
    if not method.trains:
        found = method.decide(data, settings, training)
        policy = reading_columns(signed(found.policy, method, settings, found), data)
        return policy, SearchCost(found.seconds)
    found = search(
        method.name,
        data,
        search_folder(out, method.name, seed),
        settings,
        training,
        resume=True,
        work=work_folder(out, method.family, seed),
    )
    if found.policy.dropped and ranks().first:
        dropped = ", ".join(found.policy.dropped)
        log.warning("%s, seed %d: the policy drops %s", method.name, seed, dropped)
    return found.policy, SearchCost(found.seconds, found.peak_bytes)
