"""What a search refuses before it starts: settings, and tables that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from seo_rec.data.dataset import DataSet
from seo_rec.search.dimgrow import DimGrowSettings, check_adapt, check_fit
from seo_rec.search.optembed import OptEmbedSettings, check_weights
from seo_rec.search.space import open_space, require
from seo_rec.settings import require_dense
from seo_rec.train import Training, ranks, require_memory

Check = Callable[[DataSet, Any, Training], object]
Rules = Callable[[DataSet, Any, Training], dict[str, int]]


def no_check(data: DataSet, settings: Any, training: Training) -> None:
    return None


def no_rule(data: DataSet, settings: Any, training: Training) -> dict[str, int]:
    return {}


def check_dimgrow(data: DataSet, settings: DimGrowSettings, training: Training) -> None:
    check_adapt(settings.adapt, training.model.backbone)
    _require_equal_rows(training)
    require_dense(training.fit, "dimgrow")
    check_fit(training.fit)


def check_optembed(data: DataSet, settings: OptEmbedSettings, training: Training) -> None:
    check_weights(settings, training.model)
    _require_equal_rows(training)
    require_dense(training.fit, "optembed")


def _require_equal_rows(training: Training) -> None:
    """Refuse a weight of positive rows, for a search that has a loss of its own."""
    weight = training.model.positive_weight
    require(weight == 1, "positive_weight", weight, "1 with this search")


def with_one_layer(check: Check) -> Check:
    """The check, after MLET is refused: these searches change or read tables of one layer."""

    def checked(data: DataSet, settings: Any, training: Training) -> None:
        mlet = training.model.mlet
        require(mlet is None, "mlet", mlet, "None in this search; train its policy with MLET")
        check(data, settings, training)

    return checked


def require_room(name: str, shared: bool) -> Check:
    """TooLargeError if the tables of full width, which a search trains, do not fit into memory."""

    def check(data: DataSet, settings: Any, training: Training) -> None:
        space = open_space(data, settings, training.fit.seed)
        whole = space.policy([settings.max_dim] * len(space.names))
        require_memory(whole, training.fit, ranks(), search=name, shared=shared)

    return check


def require_first_columns(data: DataSet, settings: DimGrowSettings, training: Training) -> None:
    """TooLargeError if one column of every feature, with which growth begins, does not fit.

    PolicyError if that is above the budget. The search keeps no running mean of the weights.
    """
    space = open_space(data, settings, training.fit.seed)
    space.require_columns(settings.amount)
    first = space.policy([1] * len(space.names))
    fit = replace(training.fit, average=0.0)
    lever = "fewer rows: --params, or --set address=hash with hash_rows"
    require_memory(first, fit, ranks(), search="dimgrow", shared=False, lever=lever)
