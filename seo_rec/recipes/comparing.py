"""Compare methods at one budget."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from seo_rec.data.crosses import CrossedData, reading_columns
from seo_rec.data.dataset import DataSet
from seo_rec.documents import read_object
from seo_rec.files import append_line, write_json
from seo_rec.methods import (
    METHOD_NAMES,
    MULTIPLEXED_NAMES,
    SUFFIX,
    Mlet,
    PlainSettings,
    inner_policy,
)
from seo_rec.policy import Allowance, Policy, PolicyError
from seo_rec.policy.allowance import allowance_from, without_unset
from seo_rec.recipes.evaluation import evaluate_served
from seo_rec.recipes.groups import Grouping
from seo_rec.recipes.searching import search, signed
from seo_rec.recipes.training import train
from seo_rec.recipes.tuned_comparison import check_trials, tuned
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
from seo_rec.search import Method, find
from seo_rec.search.changes import whole_values
from seo_rec.search.progress import Progress
from seo_rec.train import Training, agree, ranks

log = logging.getLogger(__name__)

BUDGET_SETTINGS = (
    "params",
    "budget_rows",
    "num_bytes",
    "precision",
)  # the comparison gives the budget, for all methods


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` runs: methods at one budget, each with every seed.

    Args:
        data: One prepared data set, or several (random splits): seed s uses number s modulo their
            count.
        methods: Names, each plain or with the suffix ``+mlet``: the same policy, trained with
            ``mlet``.
        params: The budget in parameters; 0 where it is in bytes.
        dim: Width of a feature's embedding, from which every method derives its own widths.
        seeds: Number of seeds, counted from ``first_seed``.
        first_seed: The first seed.
        training: The model and how it is trained; its seed is not read.
        settings: Other values of the methods' settings, by family and name.
        mlet: How methods with the suffix are trained.
        exact_below: Features with at most so many training ids keep a row per id, in every method
            without a search.
        same_hash: Groups of features that hash alike, in every method without a search.
        num_bytes: The budget in bytes to serve, ids included, in place of params.
        precision: The type in which every method stores its rows, and is scored.
        trials: Trainings by which each method is tuned on validation rows; 0: none is tuned.
        wide: Every data set with the same crosses, which all methods then have as features; empty:
            there are none.
    """

    data: tuple[DataSet, ...]
    methods: tuple[str, ...]
    params: int
    dim: int = 16
    seeds: int = 5
    first_seed: int = 0
    training: Training = field(default_factory=Training)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    mlet: Mlet | None = None
    exact_below: int = 0
    same_hash: tuple[tuple[str, ...], ...] = ()
    num_bytes: int = 0
    precision: str = "float32"
    trials: int = 0
    wide: tuple[CrossedData, ...] = ()

    @property
    def allowance(self) -> Allowance:
        """The budget and the precision."""
        return allowance_from(self.params, self.num_bytes, self.precision)

    def settings_of(self, method: Method) -> Any:
        """The settings of a method at the budget of the comparison.

        Raises:
            PolicyError: The budget does not go with the method.
            ValueError: A setting that the method does not have, or a value that is not allowed.
        """
        changes = method.changeable(self.settings.get(method.family, {}))
        if method.settings is PlainSettings:
            of_all = {"exact_below": self.exact_below, "same_hash": self.same_hash}
            changes = {**of_all, **changes}
        budget = self.allowance
        return method.settings_at(budget, self.dim, self.training, changes, in_comparison=True)

    def data_of(self, seed: int) -> DataSet:
        """The data set of a seed."""
        return self.data[seed % len(self.data)]

    def deciding_on(self, seed: int) -> DataSet:
        """The data set of a seed, with the crosses if there are any."""
        return self.wide[seed % len(self.wide)] if self.wide else self.data_of(seed)

    def method_of(self, name: str) -> Method:
        """The method of a name with or without the suffix of MLET."""
        return find(name.removesuffix(SUFFIX))


def check_comparison(comparison: Comparison) -> None:
    """ValueError for an unknown method, or settings that do not go together."""
    c = comparison
    if not c.methods or c.seeds < 1 or not c.data:
        raise ValueError(
            f"{len(c.methods)} methods, {c.seeds} seeds, {len(c.data)} data sets; allowed: 1 or "
            "more of each"
        )
    if c.first_seed < 0:
        raise ValueError(f"first_seed is {c.first_seed}; allowed: 0 or more")
    if twice := sorted({name for name in c.methods if c.methods.count(name) > 1}):
        raise ValueError(f"methods name {', '.join(twice)} more than once; allowed: each once")
    with_mlet = [m for m in c.methods if m.endswith(SUFFIX)]
    if with_mlet and c.mlet is None:
        raise ValueError(
            f"methods {', '.join(with_mlet)} without settings of MLET; give --mlet-dim"
        )
    check_trials(c)
    _check_settings(c)
    check_methods(c)


def check_methods(comparison: Comparison) -> None:
    """Refuse, before a folder is opened, methods that cannot be had as the comparison asks."""
    c = comparison
    for method in map(c.method_of, c.methods):
        if (c.exact_below or c.same_hash) and method.settings is not PlainSettings:
            raise ValueError(
                f"exact_below or same_hash with method {method.name!r}, which has no hashed rows "
                f"for them to change; allowed with: {', '.join(METHOD_NAMES)}, {MULTIPLEXED_NAMES}"
            )
        if method.trains:
            c.data[0].require_binary(f"method {method.name}")
        method.checked(c.data[0], c.settings_of(method), c.training)


def _check_settings(comparison: Comparison) -> None:
    families = {comparison.method_of(name).family for name in comparison.methods}
    for family, changes in comparison.settings.items():
        if family not in families:
            raise ValueError(
                f"settings of {family!r}, and no method of the comparison is of that family; "
                f"allowed: {', '.join(sorted(families))}"
            )
        members = [m for m in map(comparison.method_of, comparison.methods) if m.family == family]
        taken = {key for member in members for key in member.changeable(changes)}
        if ignored := sorted({*changes} - taken):
            raise ValueError(
                f"settings {', '.join(ignored)} of {family!r}, which cannot be changed in "
                f"{', '.join(dict.fromkeys(m.name for m in members))}"
            )
        if budget := sorted({*BUDGET_SETTINGS} & {*changes}):
            raise ValueError(
                f"settings of {family!r} name {', '.join(budget)}; the comparison has one budget "
                "for all methods, which --params or --bytes sets, and --precision"
            )


class InfeasibleError(PolicyError):
    """Methods of a comparison have no policy at its budget; ``reasons``: why, by their names."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        each = [f"{method}: {why}" for method, why in reasons.items()]
        super().__init__("; ".join([*each, "leave them out of --methods to go on without"]))
        self.reasons = dict(reasons)


def infeasible(comparison: Comparison) -> dict[str, str]:
    """The methods that are known before any training to have no policy at the budget, and why.

    Methods without training: build the policy and check that it fits. SEO: build its search space
    and its plain candidates. Of the other searches it is not known; a search whose tables do not
    fit into memory ends the check with a TooLargeError.
    """
    reasons = {}
    for name in comparison.methods:
        for data in dict.fromkeys(comparison.wide or comparison.data):
            try:
                _require_feasible(comparison, name, data)
            except PolicyError as error:
                reasons[name] = str(error)
    return reasons


def _require_feasible(comparison: Comparison, name: str, data: DataSet) -> None:
    """PolicyError if a method is known to have no policy for one data set."""
    method, training = comparison.method_of(name), comparison.training
    training = training.with_seed(comparison.first_seed)
    settings = comparison.settings_of(method)
    method.require_feasible(data, settings, training)
    if not method.trains and name.endswith(SUFFIX) and comparison.mlet is not None:
        inner_policy(method.decide(data, settings, training).policy, comparison.mlet)


def asked_of(comparison: Comparison) -> dict[str, Any]:
    """What ``run.json`` says of a comparison: everything but the parts that may grow."""
    c = comparison
    asked: dict[str, Any] = {
        "kind": "compare",
        "data": [str(d.path) for d in c.data],
        "data_fingerprints": [d.fingerprint for d in c.data],
        "params": c.params,
        **without_unset({"num_bytes": c.num_bytes, "precision": c.precision}),
        "dim": c.dim,
        "model": c.training.model.as_json(),
        "fit": {k: v for k, v in c.training.fit.as_json().items() if k != "seed"},
    }
    if c.trials:
        asked["trials"] = c.trials
    if c.wide:
        asked["crosses"] = [cross.name for cross in c.wide[0].crosses]
    if c.exact_below or c.same_hash:
        asked |= {"exact_below": c.exact_below, "same_hash": c.same_hash}
    return asked


def whole(comparison: Comparison) -> dict[str, Any]:
    """Everything that a comparison asks for, in which the processes of a launch must agree."""
    c = comparison
    return {
        **asked_of(c),
        "methods": list(c.methods),
        "seeds": c.seeds,
        "first_seed": c.first_seed,
        "settings": {family: dict(values) for family, values in c.settings.items()},
        "mlet": c.mlet,
    }


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
