"""All ways to decide which embedding tables a model has, by the names that commands take.

A name is one of :data:`SEARCHES`, or one of the methods without a search
(:mod:`seo_rec.methods.registry`). What a caller may want to know of one before it runs is in its
:class:`Method`: nothing else in the project asks for a method by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from seo_rec.data.dataset import DataSet
from seo_rec.methods import (
    METHOD_FAMILIES,
    METHOD_NAMES,
    NamedMethod,
    PlainSettings,
    find_method,
)
from seo_rec.search.autodim import AutoDimSettings, autodim
from seo_rec.search.dimgrow import DimGrowSettings, adapt_of, check_adapt, dimgrow
from seo_rec.search.found import Found
from seo_rec.search.mixed_dimension import MixedDimensionSettings, mixed_dimension
from seo_rec.search.no_search import NoSearchSettings, no_search
from seo_rec.search.optembed import OptEmbedSettings, check_weights, optembed
from seo_rec.search.seo import SeoSearch, check_seo, require_space, seo
from seo_rec.search.sseds import SsedsSettings, sseds
from seo_rec.train import Training, ranks


class Decide(Protocol):
    """Finds a policy.

    Args:
        data: The data set.
        settings: An instance of the method's own settings.
        training: Of the models that the search trains, if it trains any; the seed of the policy.
        out: Folder for checkpoints, from which an interrupted search goes on; None: none.
    """

    def __call__(
        self, data: DataSet, settings: Any, training: Training, out: Path | None = None
    ) -> Found: ...


SettingsAt = Callable[[int, int, Training], Any]
Check = Callable[[DataSet, Any, Training], object]


def _no_check(data: DataSet, settings: Any, training: Training) -> None:
    return None


@dataclass(frozen=True)
class Method:
    """One way to decide, and what callers may ask about it.

    Args:
        name: As commands take it.
        family: Methods of one family have settings in common, by which ``--set FAMILY.key=value``
            names them, and share what their searches learn within a comparison.
        settings: The class of its settings, a frozen dataclass.
        decide: Finds the policy.
        settings_at: Its settings at a budget: parameters, width of a feature, training.
        trains: Whether deciding trains a model, so that it takes a run folder and time.
        budgeted: Whether a budget decides its size; else its size follows from the data.
        sharded: Whether several processes may decide together.
        searches: Whether it looks for an answer, which reports set beside the plain methods.
        check: Refuses settings that do not go with the data or the training, before any folder is
            opened (ValueError or PolicyError).
        require_feasible: PolicyError if it is known before any training that no policy fits the
            budget.
        whole_rows: Whether its budget is a whole number of rows of the width ``dim``.
        ignores: Fields of the fit settings that deciding does not read although it trains.
        fixed: Settings that cannot be changed: the name of the method decides them, or it does not
            read them.
    """

    name: str
    family: str
    settings: type[Any]
    decide: Decide
    settings_at: SettingsAt
    trains: bool = True
    budgeted: bool = True
    sharded: bool = False
    searches: bool = True
    check: Check = _no_check
    require_feasible: Check = _no_check
    whole_rows: bool = False
    ignores: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()

    def changeable(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Changes meant for the family, without the settings that this member of it fixes."""
        return {k: v for k, v in changes.items() if k.partition(".")[0] not in self.fixed}

    def checked(self, data: DataSet, settings: Any, training: Training) -> None:
        """Refuse what cannot be searched so, before a folder is opened.

        Raises:
            PolicyError: The settings have no policy for these data.
            ValueError: Settings of another method, a changed one that is fixed, settings that do
                not go with the training, or more processes than the method can use.
        """
        if type(settings) is not self.settings:
            raise ValueError(
                f"settings {settings!r:.80} of {self.name}; allowed: a {self.settings.__name__}"
            )
        own = self.settings_at(settings.params, settings.dim, training) if self.fixed else None
        for name in self.fixed:
            if getattr(settings, name) != getattr(own, name):
                raise ValueError(
                    f"{name} {getattr(settings, name)!r} of {self.name}; allowed: "
                    f"{getattr(own, name)!r}, which cannot be changed in this method"
                )
        if self.trains and not self.sharded and ranks().world_size > 1:
            sharded = [m.name for m in SEARCHES.values() if m.trains and m.sharded]
            raise ValueError(
                f"{self.name} in {ranks().world_size} processes; allowed: 1, of the searches only "
                f"{', '.join(sharded)} run in several"
            )
        self.check(data, settings, training)


# ---- searches ------------------------------------------------------------------------------


def _space_at(
    settings: type[Any], params: int, dim: int, training: Training, *, room: int = 2
) -> Any:
    """A search of widths needs room above the mean width: features may be twice as wide."""
    return settings(params=params, max_dim=room * dim)


def _dimgrow_at(params: int, dim: int, training: Training) -> DimGrowSettings:
    settings: DimGrowSettings = _space_at(DimGrowSettings, params, dim, training)
    return replace(settings, adapt=adapt_of(training.model.backbone))


def _seo_at(
    params: int, dim: int, training: Training, *, apply: str = "none", run_off: bool = True
) -> SeoSearch:
    if params < dim or params % dim:
        raise ValueError(f"a budget of {params} parameters; allowed: a multiple of dim {dim}")
    settings = SeoSearch(budget_rows=params // dim, dim=dim)
    return settings if run_off else replace(settings, run_off=None, apply=apply)


def _check_dimgrow(data: DataSet, settings: DimGrowSettings, training: Training) -> None:
    check_adapt(settings.adapt, training.model.backbone)


def _check_optembed(data: DataSet, settings: OptEmbedSettings, training: Training) -> None:
    check_weights(settings, training.model)


def _seo(name: str, apply: str, run_off: bool) -> Method:
    return Method(
        name,
        "seo",
        SeoSearch,
        seo,
        partial(_seo_at, apply=apply, run_off=run_off),
        sharded=True,
        check=check_seo,
        require_feasible=require_space,
        whole_rows=True,
        fixed=() if run_off else ("run_off", "apply"),
    )


def _untrained(name: str, settings: type[Any], decide: Decide, room: int) -> Method:
    return Method(
        name,
        name,
        settings,
        decide,
        partial(_space_at, settings, room=room),
        trains=False,
        require_feasible=decide,
    )


SEARCHES: dict[str, Method] = {
    method.name: method
    for method in (
        _seo("seo", "none", True),
        _seo("seo-exact", "exact", False),
        _seo("seo-rr", "round-robin", False),
        Method(
            "dimgrow",
            "dimgrow",
            DimGrowSettings,
            dimgrow,
            _dimgrow_at,
            check=_check_dimgrow,
            ignores=("average",),
        ),
        Method(
            "optembed",
            "optembed",
            OptEmbedSettings,
            optembed,
            partial(_space_at, OptEmbedSettings),
            check=_check_optembed,
        ),
        Method("autodim", "autodim", AutoDimSettings, autodim, partial(_space_at, AutoDimSettings)),
        Method("sseds", "sseds", SsedsSettings, sseds, partial(_space_at, SsedsSettings)),
        _untrained("mixed-dimension", MixedDimensionSettings, mixed_dimension, 2),
        _untrained("no-search", NoSearchSettings, no_search, 1),
    )
}
NAMES = (*METHOD_NAMES[:-1], *SEARCHES, METHOD_NAMES[-1])  # the last one is a remark


# ---- methods without a search --------------------------------------------------------------


def _decide_plain(
    method: NamedMethod,
    data: DataSet,
    settings: PlainSettings,
    training: Training,
    out: Path | None = None,
) -> Found:
    vocabularies = data.vocabularies(method.features_by_id(data.schema, settings))
    policy = method.policy(data.schema, settings, vocabularies, training.fit.seed)
    return Found(policy, None, 0.0, 0, {})


def _plain_at(params: int, dim: int, training: Training) -> PlainSettings:
    return PlainSettings(params=params, dim=dim)


def find(name: str) -> Method:
    """The way to decide that is called ``name``.

    Raises:
        ValueError: Nothing is called so; the message lists what is.
    """
    if name in SEARCHES:
        return SEARCHES[name]
    plain = find_method(name)
    if plain is None:
        raise ValueError(f"method {name!r}; allowed: {', '.join(NAMES)}")
    decide = partial(_decide_plain, plain)
    return Method(
        name,
        plain.family,
        PlainSettings,
        decide,
        _plain_at,
        trains=False,
        searches=False,
        budgeted=plain.budgeted,
        require_feasible=decide,
        fixed=() if plain.reads_chunk_dim else ("chunk_dim",),
    )


def settings_by_family() -> dict[str, type[Any]]:
    """The settings class of every family, by the name that ``--set FAMILY.key=value`` takes."""
    plain = dict.fromkeys(METHOD_FAMILIES, PlainSettings)
    return {**plain, **{method.family: method.settings for method in SEARCHES.values()}}
