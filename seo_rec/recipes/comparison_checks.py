"""What a comparison refuses before it opens a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from seo_rec.data.dataset import DataSet
from seo_rec.methods import METHOD_NAMES, MULTIPLEXED_NAMES, SUFFIX, PlainSettings, inner_policy
from seo_rec.policy import PolicyError
from seo_rec.recipes.comparison import Comparison
from seo_rec.recipes.tuned_comparison import check_trials
from seo_rec.schema import DataError
from seo_rec.settings import HALVES
from seo_rec.train import check_storage

BUDGET_SETTINGS = (
    "params",
    "budget_rows",
    "num_bytes",
    "precision",
    "id_bits",
)  # the comparison gives the budget, for all methods


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
    for data in c.data:
        data.require_rows("train", "val", "test", needed_by="a comparison of methods")
    for data in c.data[1:]:
        _check_alike(c.data[0], data)
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


def _check_alike(first: DataSet, other: DataSet) -> None:
    """DataError unless two data sets have the same features and labels, as splits of one table.

    Numeric columns may differ: a split without a missing number has no column that tells of one.
    """
    known, found = (
        {c.name: c.kind for c in data.schema.features} | dict.fromkeys(data.schema.labels, "label")
        for data in (first, other)
    )
    if other_names := sorted(n for n in {*known, *found} if known.get(n) != found.get(n)):
        raise DataError(
            f"{other.path} and {first.path} differ in the columns {', '.join(other_names)}; "
            "allowed for one comparison: splits of one table, prepared alike but for --seed"
        )


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
                "for all methods, which --params or --bytes sets, and --precision and --id-bits"
            )


def stores_ids(comparison: Comparison) -> bool:
    """Whether a policy of the comparison has a vocabulary, as far as is known without training."""
    training = comparison.training.with_seed(comparison.first_seed)
    data = comparison.deciding_on(comparison.first_seed)
    for method in map(comparison.method_of, comparison.methods):
        if method.trains:
            return True
        try:
            found = method.decide(data, comparison.settings_of(method), training)
        except PolicyError:  # the comparison says why there is no policy
            return True
        if found.policy.vocabularies:
            return True
    return False


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
    """PolicyError if a method is known to have no policy for one data set.

    Raises:
        ValueError: Tables of 16 bits are asked for, and the method has none.
    """
    method, training = comparison.method_of(name), comparison.training
    training = training.with_seed(comparison.first_seed)
    settings = comparison.settings_of(method)
    method.require_feasible(data, settings, training)
    mlet = comparison.mlet if name.endswith(SUFFIX) else None
    half = training.fit.storage in HALVES
    if method.trains or (mlet is None and not half):
        return
    policy = method.decide(data, settings, training).policy
    if mlet is not None:
        inner_policy(policy, mlet)
    check_storage(policy, replace(training, model=replace(training.model, mlet=mlet)))
