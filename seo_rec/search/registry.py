"""All ways to decide which embedding tables a model has, by the names that commands take.

A name is one of :data:`SEARCHES`, or one of the methods without a search
(:mod:`seo_rec.methods.registry`). What a caller may want to know of one before it runs is in its
:class:`Method`: nothing else in the project asks for a method by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from seo_rec.data.dataset import DataSet
from seo_rec.methods import (
    METHOD_FAMILIES,
    METHOD_NAMES,
    MULTIPLEXED_NAMES,
    NamedMethod,
    PlainSettings,
    find_method,
)
from seo_rec.methods.cafe import CafeSettings, cafe
from seo_rec.methods.frequent import FrequentSettings
from seo_rec.methods.managed_collision import ManagedCollisionSettings, managed_collision
from seo_rec.policy import Allowance, allowance_of
from seo_rec.search.autodim import AutoDimSettings, autodim
from seo_rec.search.by_counts import (
    FromBatches,
    frequent_ids,
    from_batches,
    require_budget,
    require_frequent,
)
from seo_rec.search.cce import cce, check_cce, require_division
from seo_rec.search.cce_tables import CceSettings
from seo_rec.search.changes import with_changes
from seo_rec.search.checks import (
    Check,
    Rules,
    check_dimgrow,
    check_optembed,
    no_check,
    no_rule,
    require_first_columns,
    require_room,
    with_one_layer,
)
from seo_rec.search.dimgrow import DimGrowSettings, dimgrow
from seo_rec.search.found import Decide, DecideCrossed, Found
from seo_rec.search.magnitude import MagnitudeSettings, magnitude, require_magnitude
from seo_rec.search.mixed_dimension import MixedDimensionSettings, mixed_dimension
from seo_rec.search.no_search import NoSearchSettings, no_search
from seo_rec.search.optembed import OptEmbedSettings, optembed
from seo_rec.search.pep import PepSettings, check_pep, pep, require_pep
from seo_rec.search.seo import SeoSearch, check_seo, require_space, rule_of_short, seo
from seo_rec.search.sseds import SsedsSettings, sseds
from seo_rec.search.values_at import (
    ValuesAt,
    dimgrow_at,
    plain_at,
    seo_at,
    space_at,
    two_level_at,
)
from seo_rec.settings import require_float32
from seo_rec.train import Training, ranks

# plain methods that stand for the policies of a search before they are known, the best one first
STAND_INS = ("multi-size", "monolithic")


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to decide, and what callers may ask about it.

    Args:
        name: As commands take it.
        family: Methods of one family have settings in common, by which ``--set FAMILY.key=value``
            names them, and share what their searches learn within a comparison.
        settings: The class of its settings, a frozen dataclass.
        decide: Finds the policy.
        values_at: The values of settings that follow from the budget.
        trains: Whether deciding trains a model, so that it takes a run folder and time.
        budgeted: Whether a budget decides its size; else its size follows from the data.
        sharded: Whether several processes may decide together.
        searches: Whether it looks for an answer, which reports set beside the plain methods.
        check: Refuses settings that do not go with the data or the training, before any folder is
            opened (ValueError or PolicyError).
        require_feasible: PolicyError if it is known before any training that no policy fits the
            budget, TooLargeError if the tables of the search do not fit into memory.
        rules: Numbers of the rules that it follows on such data, beside those that its settings
            say. A search by other ones is another search, and not resumed.
        whole_rows: Whether its budget is a whole number of rows of the width ``dim``.
        ignores: Fields of the fit settings that deciding does not read although it trains.
        automatic: Whether the batch and the L2 of a search may follow the data, because that was
            measured; methods without training have nothing that depends on them.
        fixed: Settings that cannot be changed, and their values: the name of the method decides
            them, or it does not read them.
        crossed: Decides about crosses at the same time, where its settings are ``limited``; None:
            crosses are chosen before it decides.
    """

    name: str
    family: str
    settings: type[Any]
    decide: Decide
    values_at: ValuesAt
    trains: bool = True
    budgeted: bool = True
    sharded: bool = False
    searches: bool = True
    check: Check = no_check
    require_feasible: Check = no_check
    rules: Rules = no_rule
    whole_rows: bool = False
    ignores: tuple[str, ...] = ()
    automatic: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)
    crossed: DecideCrossed | None = None

    def settings_at(
        self,
        budget: int | Allowance,
        dim: int,
        training: Training,
        changes: Mapping[str, Any] | None = None,
        *,
        in_comparison: bool = False,
    ) -> Any:
        """The settings of the method at a budget.

        Args:
            budget: The budget in parameters (floats), or an allowance, which may be in bytes and
                says in which type rows are stored.
            dim: Width of a feature's embedding, in floats.
            training: Of the models that are trained.
            changes: Other values, by the names that :func:`~seo_rec.search.changes.with_changes`
                takes; they and the values that follow from the budget are checked together.
            in_comparison: Whether the method stands beside others. All of them are then given the
                width ``dim``, and searches of widths may make a feature twice as wide, because
                they make others narrower.

        Raises:
            ValueError: A setting that the method does not have, or values that are not allowed.
        """
        values = self.values_at(allowance_of(budget), dim, training, in_comparison)
        return with_changes(self.settings, {**values, **self.fixed, **(changes or {})})

    def changeable(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Changes meant for the family, without the settings that this member of it fixes."""
        return {k: v for k, v in changes.items() if k.partition(".")[0] not in self.fixed}

    def checked(self, data: DataSet, settings: Any, training: Training) -> None:
        """Refuse what cannot be searched so, before a folder is opened.

        Raises:
            PolicyError: The settings have no policy for these data.
            ValueError: Settings of another method, a changed one that is fixed, settings that do
                not go with the training, tables of 16 bits for a method that trains, or more
                processes than the method can use.
        """
        if type(settings) is not self.settings:
            raise ValueError(
                f"settings {settings!r:.80} of {self.name}; allowed: a {self.settings.__name__}"
            )
        for name, value in self.fixed.items():
            if getattr(settings, name) != value:
                raise ValueError(
                    f"{name} {getattr(settings, name)!r} of {self.name}; allowed: {value!r}, which "
                    "cannot be changed in this method"
                )
        if self.trains and not self.sharded and ranks().world_size > 1:
            sharded = [m.name for m in SEARCHES.values() if m.trains and m.sharded]
            raise ValueError(
                f"{self.name} in {ranks().world_size} processes; allowed: 1, of the searches only "
                f"{', '.join(sharded)} run in several"
            )
        if self.trains:
            require_float32(training.fit, self.name)
        self.check(data, settings, training)


def _seo(name: str, fixed: Mapping[str, Any]) -> Method:
    return Method(
        name=name,
        family="seo",
        settings=SeoSearch,
        decide=seo,
        values_at=seo_at,
        sharded=True,
        check=check_seo,
        require_feasible=require_space,
        rules=rule_of_short,
        whole_rows=True,
        automatic=True,
        fixed=fixed,
        crossed=seo,
    )


def _untrained(name: str, settings: type[Any], decide: Decide, room: int) -> Method:
    return Method(
        name=name,
        family=name,
        settings=settings,
        decide=decide,
        values_at=partial(space_at, room=room),
        trains=False,
        require_feasible=decide,
    )


def _by_count(name: str, values_at: ValuesAt) -> Method:
    return Method(
        name=name,
        family="frequent",
        settings=FrequentSettings,
        decide=frequent_ids,
        values_at=values_at,
        trains=False,
        searches=False,
        require_feasible=require_frequent,
    )


def _of_stream(name: str, settings: type[Any], make: FromBatches) -> Method:
    return Method(
        name=name,
        family=name,
        settings=settings,
        decide=partial(from_batches, make),
        values_at=plain_at,
        trains=False,
        searches=False,
        require_feasible=partial(require_budget, make),
    )


# of SEO's settings, which the division by attention decides or does not read
DIVIDES = {"run_off": None, "apply": "divide", "total_chunks": None, "min_chunks": 1}

SEARCHES: dict[str, Method] = {
    method.name: method
    for method in (
        _seo("seo", {}),
        _seo("seo-exact", {"run_off": None, "apply": "exact"}),
        _seo("seo-rr", {"run_off": None, "apply": "round-robin"}),
        _seo("seo-divide", DIVIDES),
        Method(
            name="dimgrow",
            family="dimgrow",
            settings=DimGrowSettings,
            decide=dimgrow,
            values_at=dimgrow_at,
            check=check_dimgrow,
            require_feasible=require_first_columns,
            sharded=True,
            ignores=("average", "keep_by"),
        ),
        Method(
            name="optembed",
            family="optembed",
            settings=OptEmbedSettings,
            decide=optembed,
            values_at=space_at,
            check=check_optembed,
            require_feasible=require_room("optembed", shared=False),
            sharded=True,
        ),
        Method(
            name="autodim",
            family="autodim",
            settings=AutoDimSettings,
            decide=autodim,
            values_at=space_at,
            require_feasible=require_room("autodim", shared=True),
            sharded=True,
        ),
        Method(
            name="sseds",
            family="sseds",
            settings=SsedsSettings,
            decide=sseds,
            values_at=space_at,
            require_feasible=require_room("sseds", shared=True),
            sharded=True,
        ),
        Method(
            name="cce",
            family="cce",
            settings=CceSettings,
            decide=cce,
            values_at=plain_at,
            check=with_one_layer(check_cce),
            require_feasible=require_division,
            ignores=("average", "keep_by"),
        ),
        Method(
            name="magnitude",
            family="magnitude",
            settings=MagnitudeSettings,
            decide=magnitude,
            values_at=plain_at,
            check=with_one_layer(no_check),
            require_feasible=require_magnitude,
        ),
        Method(
            name="pep",
            family="pep",
            settings=PepSettings,
            decide=pep,
            values_at=plain_at,
            check=with_one_layer(check_pep),
            require_feasible=require_pep,
        ),
        _untrained("mixed-dimension", MixedDimensionSettings, mixed_dimension, 2),
        _untrained("no-search", NoSearchSettings, no_search, 1),
        _by_count("frequent", plain_at),
        _by_count("two-level", two_level_at),
        _of_stream("managed-collision", ManagedCollisionSettings, managed_collision),
        _of_stream("cafe", CafeSettings, cafe),
    )
}

ALLOWED = ", ".join((*METHOD_NAMES, *SEARCHES, MULTIPLEXED_NAMES))


def _decide_plain(
    method: NamedMethod,
    data: DataSet,
    settings: PlainSettings,
    training: Training,
    out: Path | None = None,
) -> Found:
    vocabularies = data.vocabularies(method.features_by_id(data.schema, settings), settings.id_bits)
    policy = method.policy(data.schema, settings, vocabularies, training.fit.seed)
    return Found(policy, None, 0.0, 0, {})


def _fixed(plain: NamedMethod) -> dict[str, Any]:
    """The settings that a method without a search does not read."""
    chunk_dim = {} if plain.reads_chunk_dim else {"chunk_dim": PlainSettings.chunk_dim}
    return chunk_dim if plain.family == "multi-size" else {**chunk_dim, "lookups": ()}


def find(name: str) -> Method:
    """The way to decide that is called ``name``.

    Raises:
        ValueError: Nothing is called so; the message lists the names that are allowed.
    """
    if name in SEARCHES:
        return SEARCHES[name]
    plain = find_method(name)
    if plain is None:
        near = get_close_matches(name, (*METHOD_NAMES, *SEARCHES), 1)
        guess = f"do you mean {near[0]!r}? " if near else ""
        raise ValueError(f"method {name!r}; {guess}allowed: {ALLOWED}")
    decide = partial(_decide_plain, plain)
    return Method(
        name=name,
        family=plain.family,
        settings=PlainSettings,
        decide=decide,
        values_at=plain_at,
        trains=False,
        searches=False,
        budgeted=plain.budgeted,
        require_feasible=decide,
        fixed=_fixed(plain),
    )


def settings_by_family() -> dict[str, type[Any]]:
    """The settings class of every family, by the name that ``--set FAMILY.key=value`` takes."""
    plain = dict.fromkeys(METHOD_FAMILIES, PlainSettings)
    return {**plain, **{method.family: method.settings for method in SEARCHES.values()}}
