"""What a comparison of methods is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seo_rec.data.crosses import CrossedData
from seo_rec.data.dataset import DataSet, require_opened
from seo_rec.methods import SUFFIX, Mlet, PlainSettings
from seo_rec.policy import Allowance
from seo_rec.policy.allowance import allowance_from, without_unset
from seo_rec.policy.entries import FULL_BITS
from seo_rec.search import Method, find
from seo_rec.train import Training


@dataclass(frozen=True)
class Comparison:
    """What :func:`seo_rec.recipes.compare` runs: methods at one budget, each with every seed.

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
        id_bits: Bits of an id in a vocabulary: 64, or 32 for its digest.
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
    id_bits: int = FULL_BITS
    trials: int = 0
    wide: tuple[CrossedData, ...] = ()

    def __post_init__(self) -> None:
        require_opened(self.data, "Comparison")
        if isinstance(self.data, DataSet):
            raise TypeError("Comparison: data is one data set; allowed: a tuple of them, (data,)")
        for data in self.data:
            require_opened(data, "Comparison")

    @property
    def allowance(self) -> Allowance:
        """The budget and the precision."""
        return allowance_from(self.params, self.num_bytes, self.precision, self.id_bits)

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


def asked_of(comparison: Comparison) -> dict[str, Any]:
    """What ``run.json`` says of a comparison: everything but the parts that may grow."""
    c = comparison
    asked: dict[str, Any] = {
        "kind": "compare",
        "data": [str(d.path) for d in c.data],
        "data_fingerprints": [d.fingerprint for d in c.data],
        "params": c.params,
        **without_unset({"num_bytes": c.num_bytes, "precision": c.precision, "id_bits": c.id_bits}),
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
