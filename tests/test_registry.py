"""One registry of all ways to decide: names, settings, checks; and settings with changes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seo_rec import methods, recipes
from seo_rec.backbone_settings import BACKBONE_NAMES
from seo_rec.data.dataset import DataSet
from seo_rec.methods import METHOD_NAMES, MULTIPLEXED_NAMES, Mlet, PlainSettings
from seo_rec.methods.registry import FAMILIES
from seo_rec.model import ModelSettings
from seo_rec.policy import PolicyError
from seo_rec.recipes.comparison_checks import check_comparison
from seo_rec.search import registry
from seo_rec.search.changes import whole_values, with_changes
from seo_rec.search.registry import SEARCHES, find
from seo_rec.search.run_off import RunOff
from seo_rec.search.seo import SeoSearch
from seo_rec.search.space import open_space
from seo_rec.train import FitSettings, Training
from seo_rec.train.memory import TooLargeError, training_bytes

ROOT = Path(__file__).resolve().parent.parent
PARAMS, DIM = 4000, 16
TRAINING = Training()


def plain_names() -> list[str]:
    """Every form that a name without a search has."""
    names = []
    for family, entry in FAMILIES.items():
        forms = [family] + ([f"multiplexed-{family}"] if entry.has_multiplexed_form else [])
        names += [f + end for f in forms for end in (("", "-2") if entry.number else ("",))]
    return [*names, "hash-embedding-2-p0.1", "multiplexed-hash-embedding-p0.25"]


PLAIN = plain_names()
EVERY = [*PLAIN, *SEARCHES]
UNTRAINED = [name for name in EVERY if not find(name).trains]


# ---- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_every_name_finds_a_method(name: str) -> None:
    method = find(name)
    assert method.name == name and callable(method.decide)
    assert is_dataclass(method.settings) and method.settings.__dataclass_params__.frozen
    known = {f.name for f in fields(method.settings)}
    assert {*method.fixed} <= known
    assert {*method.ignores} <= {f.name for f in fields(FitSettings)}


LISTED = (*METHOD_NAMES, *SEARCHES)


def test_every_name_that_is_listed_is_a_method() -> None:
    """The list for people has a letter where a number goes."""
    numbered = [n.replace("-K", "-2").replace("-Z", "-2") for n in LISTED]
    assert {find(n).family for n in numbered} == {find(n).family for n in EVERY}
    assert len(set(EVERY)) == len(EVERY)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nothing",
        "SEO",
        "seo-raw",
        "seo-exact ",
        "pq-0",
        "pq-",
        "monolithic-2",
        "multiplexed-separate",
        "multiplexed-seo",
        "robe-4-p0.1",
        "dimgrow-2",
    ],
)
def test_unknown_names_list_what_is_allowed(name: str, tiny_data: DataSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"method '.*'; (do you mean '.*'\? )?allowed: ") as caught:
        find(name)
    assert str(caught.value).endswith(f"allowed: {', '.join(LISTED)}, {MULTIPLEXED_NAMES}")
    for action in (
        lambda: recipes.method_policy(name, tiny_data, PARAMS),
        lambda: recipes.search(name, tiny_data, tmp_path / "out", SeoSearch(), TRAINING),
        lambda: recipes.compare(
            recipes.Comparison(data=(tiny_data,), methods=(name,), params=PARAMS), tmp_path / "out"
        ),
    ):
        with pytest.raises(ValueError, match="allowed: separate, "):
            action()
    assert not (tmp_path / "out").exists()


def test_the_forms_with_shared_tables_are_named() -> None:
    """Each form that may be multiplexed is a method, and no other is."""
    forms = MULTIPLEXED_NAMES.removeprefix("and multiplexed- before ").split(", ")
    for family in FAMILIES:
        shared = f"multiplexed-{family}"
        if family in forms:
            assert find(shared).family == family
        else:
            with pytest.raises(ValueError, match="allowed: "):
                find(shared)


def strings(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def test_the_floors_above_ask_for_no_method_by_name() -> None:
    """They ask its entry. The demonstration sets up a search, which it names."""
    found = [
        f"{path.relative_to(ROOT)}:{line} {text!r}"
        for folder in ("runs", "train", "recipes", "report")
        for path in sorted((ROOT / "seo_rec" / folder).glob("*.py"))
        if path.name != "demonstration.py"
        for line, text in strings(path)
        if text in EVERY
    ]
    assert found == []


def test_what_is_known_of_each() -> None:
    """What callers branch on, in place of names."""
    assert {n for n in EVERY if not find(n).budgeted} == {"collisionless"}
    trained = {n for n in EVERY if find(n).trains}
    of_seo = {"seo", "seo-exact", "seo-rr", "seo-divide"}
    in_many = of_seo | {"dimgrow", "optembed", "autodim", "sseds"}
    assert trained == in_many | {"cce", "magnitude", "pep"}
    assert {n for n in EVERY if find(n).sharded} == in_many
    assert not any(find(n).searches for n in PLAIN)
    assert {find(n).family for n in trained if n.startswith("seo")} == {"seo"}


def test_members_of_a_family_have_settings_in_common() -> None:
    classes: dict[str, set[Any]] = {}
    for name in EVERY:
        classes.setdefault(find(name).family, set()).add(find(name).settings)
    assert all(len(found) == 1 for found in classes.values())


# ---- settings at a budget ------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_settings_at_a_budget_pass_the_checks(name: str, tiny_data: DataSet) -> None:
    method = find(name)
    settings = method.settings_at(PARAMS, DIM, TRAINING)
    assert type(settings) is method.settings
    assert settings.params == PARAMS
    method.checked(tiny_data, settings, TRAINING)
    method.require_feasible(tiny_data, settings, TRAINING)


@pytest.mark.parametrize("name", UNTRAINED)
def test_methods_without_training_decide_at_once(name: str, tiny_data: DataSet) -> None:
    """Every column is served, the budget is kept, and a seed decides alike."""
    policy = recipes.method_policy(name, tiny_data, PARAMS, DIM, seed=3)
    assert {*policy.columns} == {c.name for c in tiny_data.schema.features}
    assert policy == recipes.method_policy(name, tiny_data, PARAMS, DIM, seed=3)
    assert policy.decision is not None and policy.decision["method"] == name
    assert policy.decision["searched"] == find(name).searches
    if find(name).budgeted:
        assert policy.num_params <= PARAMS
        assert policy.budget is not None and policy.budget.params == PARAMS
    else:
        assert policy.budget is None


@pytest.mark.parametrize(
    "name, make",
    [
        ("separate", methods.separate),
        ("separate-cardinality", partial(methods.separate, rows="cardinality")),
        ("monolithic", methods.monolithic),
    ],
)
def test_functions_with_the_name_of_a_method_make_its_policy(
    name: str, make: Any, tiny_data: DataSet
) -> None:
    found = recipes.method_policy(name, tiny_data, PARAMS, DIM, seed=3)
    made = make(tiny_data.schema, PARAMS, DIM, seed=3)
    assert replace(found, budget=None, decision=None) == made


@pytest.mark.parametrize("name", [n for n in EVERY if n not in UNTRAINED])
def test_a_method_that_trains_has_no_policy_at_once(name: str, tiny_data: DataSet) -> None:
    with pytest.raises(ValueError, match=f"'{name}' needs a search; run .*--method {name}"):
        recipes.method_policy(name, tiny_data, PARAMS)


@pytest.mark.parametrize("backbone", BACKBONE_NAMES)
def test_settings_at_a_budget_go_with_every_backbone(backbone: str, tiny_data: DataSet) -> None:
    training = Training(ModelSettings(backbone, hidden=(8,)))
    for method in SEARCHES.values():
        method.checked(tiny_data, method.settings_at(PARAMS, DIM, training), training)


@pytest.mark.parametrize(
    "name, least, changes",
    [
        ("monolithic", 16, {}),  # one row
        ("separate", 7 * 16, {}),  # one row for each of seven features
        ("no-search", 7, {"address": "hash"}),  # one column of one row for each
        ("mixed-dimension", 7, {"address": "hash"}),
        ("seo", 32, {"adjust_hash_buckets": True}),  # one row of every chunk of the search
        ("seo-rr", 32, {"adjust_hash_buckets": True}),
    ],
)
def test_a_budget_that_cannot_be_kept_is_known_beforehand(
    name: str, least: int, changes: dict[str, Any], tiny_data: DataSet
) -> None:
    """The smallest budget passes, and the next smaller one does not."""
    method = find(name)
    enough, short = (
        replace(method.settings_at(params, DIM, TRAINING), **changes)
        for params in (least, least - (DIM if method.family == "seo" else 1))
    )
    method.require_feasible(tiny_data, enough, TRAINING)
    with pytest.raises(PolicyError):
        method.require_feasible(tiny_data, short, TRAINING)


OF_WIDTHS = [n for n, m in SEARCHES.items() if hasattr(m.settings, "max_dim")]


@pytest.mark.parametrize("name", OF_WIDTHS)
def test_searches_of_widths_have_room_above_the_mean_width(name: str, tiny_data: DataSet) -> None:
    """In a comparison, where the others have the width that is asked for; not alone."""
    room = 1 if name == "no-search" else 2
    method = find(name)
    assert method.settings_at(PARAMS, DIM, TRAINING).max_dim == DIM
    compared = method.settings_at(PARAMS, DIM, TRAINING, in_comparison=True)
    assert compared.max_dim == room * DIM
    asked = comparison(tiny_data, (name,), {})
    assert asked.settings_of(method) == compared
    narrow = comparison(tiny_data, (name,), {name: {"max_dim": 4}})
    assert narrow.settings_of(method).max_dim == 4


# ---- values that go together only when all of them are changed -----------------------------

TOGETHER = [
    (4, {"chunk_dim": 4}),
    (20, {"chunk_dim": 5, "search_dim": 40}),
    (16, {"chunk_dim": 16, "search_dim": 16, "run_off.epochs": 3}),
]


@pytest.mark.parametrize("name", [n for n, m in SEARCHES.items() if m.family == "seo"])
@pytest.mark.parametrize("dim, changes", TOGETHER, ids=str)
def test_changes_are_checked_together(
    name: str, dim: int, changes: dict[str, Any], tiny_data: DataSet
) -> None:
    """A width that does not go with the default of another setting goes with a changed one."""
    method = find(name)
    mine = method.changeable(changes)
    settings = method.settings_at(40 * dim, dim, TRAINING, mine)
    assert (settings.budget_rows, settings.dim) == (40, dim)
    assert settings.chunk_dim == changes["chunk_dim"]
    method.checked(tiny_data, settings, TRAINING)
    asked = replace(comparison(tiny_data, (name,), {"seo": mine}), dim=dim, params=40 * dim)
    assert asked.settings_of(method) == settings


def test_a_width_that_goes_with_no_chunk_is_still_refused() -> None:
    with pytest.raises(ValueError, match=r"dim 4 and search_dim 32 must be multiples of chunk_dim"):
        find("seo").settings_at(1600, 4, TRAINING)


# ---- how they act --------------------------------------------------------------------------

SHORT = Training(ModelSettings(hidden=(8,)), FitSettings(epochs=1, batch_size=200, row_lr=0.02))
# settings with which a search of the tiny data set takes a second
QUICK: dict[str, dict[str, Any]] = {
    "seo": {"run_off.epochs": 1, "run_off.chunk_dims": (), "run_off.trivial_lookups": ()},
    "dimgrow": {"adapt_dim": 4, "alpha": 1e-5},
    "optembed": {"variant": "dims", "generations": 1},
    "cce": {"clusterings": 1},
}


@pytest.mark.parametrize("name", EVERY)
def test_who_trains_has_a_validation_auc(tiny_data: DataSet, tmp_path: Path, name: str) -> None:
    """And who does not needs no folder; each has a policy at the budget, if it has a budget."""
    method = find(name)
    quick = method.changeable(QUICK.get(method.family, {}))
    settings = method.settings_at(PARAMS, DIM, SHORT, quick, in_comparison=True)
    out = tmp_path / "work"
    found = method.decide(tiny_data, settings, SHORT, out)
    assert (found.val_auc is not None) == method.trains
    assert out.exists() == method.trains
    assert (found.peak_bytes > 0) == method.trains
    if method.budgeted:
        assert PARAMS - 32 < found.policy.num_params <= PARAMS
    names = {f.name for f in found.policy.features} | set(found.policy.dropped)
    assert names == {c.name for c in tiny_data.schema.features}


# ---- checks before a folder is opened ------------------------------------------------------


@pytest.mark.parametrize(
    "name, changes, model, message",
    [
        ("dimgrow", {"adapt": "joint"}, ModelSettings("autoint"), "adapt 'joint' with backbone"),
        ("optembed", {"weights": "trained"}, ModelSettings("dcn-v2"), "weights 'trained' with"),
        ("cce", {}, ModelSettings(mlet=Mlet(32)), "mlet is Mlet.* allowed: None in this search"),
        ("magnitude", {}, ModelSettings(mlet=Mlet(32)), "mlet is Mlet.* allowed: None in this"),
        ("cce", {"clusterings": 30}, None, "clusterings is 30; allowed: 1 to 20, one after every"),
        ("seo", {"search_split": "held-out", "warmup_epochs": 99}, None, "warmup_epochs 99 of"),
        ("seo-exact", {"total_chunks": 999}, None, "total_chunks 999: with 7 features"),
        ("seo-exact", {"apply": "none"}, None, "apply 'none' of seo-exact; allowed: 'exact'"),
        ("seo-rr", {"apply": "exact"}, None, "apply 'exact' of seo-rr; allowed: 'round-robin'"),
        ("seo-rr", {"apply": "none", "run_off": RunOff()}, None, "of seo-rr; allowed: None"),
        ("multi-size-2", {"chunk_dim": 4}, None, "chunk_dim 4 of multi-size-2; allowed: 8"),
        ("separate", {"lookups": ("a:2",)}, None, r"lookups \('a:2',\) of separate; allowed: \(\)"),
        ("separate", {"chunk_dim": 4}, None, "chunk_dim 4 of separate; allowed: 8"),
    ],
)
def test_settings_that_do_not_go_together_open_no_folder(
    name: str,
    changes: dict[str, Any],
    model: ModelSettings | None,
    message: str,
    tiny_data: DataSet,
    tmp_path: Path,
) -> None:
    training, method = Training(model or ModelSettings()), find(name)
    settings = replace(method.settings_at(PARAMS, DIM, training), **changes)
    with pytest.raises((ValueError, PolicyError), match=message):
        recipes.search(name, tiny_data, tmp_path / "out", settings, training)
    assert not (tmp_path / "out").exists()


def test_settings_of_another_method_are_refused(tiny_data: DataSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"of dimgrow; allowed: a DimGrowSettings"):
        recipes.search("dimgrow", tiny_data, tmp_path / "out", SeoSearch(), TRAINING)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", EVERY)
def test_several_processes(name: str, tiny_data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """All may decide in several; whoever trains in one only says so, and names the others."""
    monkeypatch.setattr(registry, "ranks", lambda: SimpleNamespace(world_size=2))
    method = find(name)
    settings = method.settings_at(PARAMS, DIM, TRAINING)
    if method.sharded or not method.trains:
        method.checked(tiny_data, settings, TRAINING)
    if not method.trains:
        return
    alone = replace(method, sharded=False)
    monkeypatch.setitem(registry.SEARCHES, name, alone)
    others = ", ".join(n for n in registry.SEARCHES if find(n).sharded)
    message = f"{name} in 2 processes; allowed: 1, of the searches only {others} run in several"
    with pytest.raises(ValueError, match=message):
        alone.checked(tiny_data, settings, TRAINING)


# ---- settings with changes -----------------------------------------------------------------


def test_changes_reach_the_fields_and_the_parts_of_fields() -> None:
    before = SeoSearch()
    changed = with_changes(before, {"dim": 8, "run_off.epochs": 3, "run_off.by_id": False})
    assert changed == SeoSearch(dim=8, run_off=RunOff(epochs=3, by_id=False))
    assert before == SeoSearch()
    assert with_changes(before, {}) == before
    assert with_changes(before, {"run_off": None}) == SeoSearch(run_off=None)
    both = with_changes(before, {"run_off.epochs": 3, "run_off": RunOff(standard_errors=1)})
    assert both.run_off == RunOff(epochs=3, standard_errors=1)
    assert with_changes(PlainSettings(), {"chunk_dim": 4}) == PlainSettings(chunk_dim=4)


def test_a_class_with_changes_is_made_of_its_defaults() -> None:
    changes = {"dim": 4, "chunk_dim": 4, "run_off.epochs": 3}
    assert with_changes(SeoSearch, changes) == SeoSearch(
        dim=4, chunk_dim=4, run_off=RunOff(epochs=3)
    )
    assert whole_values(SeoSearch, changes) == {"dim": 4, "chunk_dim": 4, "run_off": RunOff(3)}
    assert whole_values(SeoSearch(run_off=RunOff(by_id=False)), {"run_off.epochs": 3}) == {
        "run_off": RunOff(epochs=3, by_id=False)
    }


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"width": 8}, r"setting 'width'; allowed: budget_rows, dim, .*, run_off, apply"),
        ({"run_off.rounds": 8}, r"setting 'rounds'; allowed: epochs, standard_errors, "),
        ({"run_off": None, "run_off.epochs": 8}, r"run_off\.epochs where run_off is None, which"),
        ({"dim.wide": 8}, r"dim\.wide where dim is 16, which has no parts"),
        ({"run_off.epochs": 0}, r"epochs 0 .*allowed: epochs 1 or more"),
        ({"temperature": 0.0}, r"temperature 0\.0 .*allowed: above 0"),
    ],
)
def test_changes_that_cannot_be_made_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_changes(SeoSearch(), changes)


# ---- changes in a comparison ---------------------------------------------------------------


def comparison(
    data: DataSet, methods: tuple[str, ...], settings: dict[str, dict[str, Any]]
) -> recipes.Comparison:
    return recipes.Comparison(data=(data,), methods=methods, params=PARAMS, settings=settings)


def test_a_change_goes_to_every_member_of_its_family(tiny_data: DataSet) -> None:
    """But for what the name of a member decides."""
    asked = comparison(
        tiny_data,
        ("seo", "seo-exact", "seo-rr", "dimgrow", "monolithic"),
        {"seo": {"logit_lr": 0.1, "run_off.epochs": 3}},
    )
    plain = replace(asked, settings={})
    found = {name: asked.settings_of(find(name)) for name in asked.methods}
    before = {name: plain.settings_of(find(name)) for name in asked.methods}
    assert found["seo"] == replace(before["seo"], logit_lr=0.1, run_off=RunOff(epochs=3))
    assert found["seo-exact"] == replace(before["seo-exact"], logit_lr=0.1)
    assert (found["seo-exact"].run_off, found["seo-exact"].apply) == (None, "exact")
    assert (found["seo-rr"].run_off, found["seo-rr"].apply) == (None, "round-robin")
    assert (found["dimgrow"], found["monolithic"]) == (before["dimgrow"], before["monolithic"])
    assert {s.params for s in found.values()} == {PARAMS}


@pytest.mark.parametrize(
    "methods, settings, message",
    [
        (("monolithic",), {"seo": {"logit_lr": 1.0}}, r"settings of 'seo', and no method.*monol"),
        (("seo",), {"seo": {"budget_rows": 9}}, r"'seo' name budget_rows; the comparison has one"),
        (
            ("dimgrow",),
            {"dimgrow": {"params": 9}},
            r"'dimgrow' name params; the comparison has",
        ),
        (("seo",), {"seo": {"nothing": 1}}, r"setting 'nothing'; allowed: budget_rows, "),
        (
            ("seo-exact", "monolithic"),
            {"seo": {"run_off.epochs": 3, "logit_lr": 0.1}},
            r"settings run_off\.epochs of 'seo', which cannot be changed in seo-exact",
        ),
        (("pq", "pq-4"), {"pq": {"chunk_dim": 4}}, r"chunk_dim of 'pq', .* changed in pq, pq-4"),
    ],
)
def test_changes_that_nobody_reads_are_refused(
    methods: tuple[str, ...],
    settings: dict[str, dict[str, Any]],
    message: str,
    tiny_data: DataSet,
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=message):
        recipes.compare(comparison(tiny_data, methods, settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_exact_features_are_for_methods_without_a_search(tiny_data: DataSet) -> None:
    asked = replace(comparison(tiny_data, ("monolithic", "seo"), {}), exact_below=12)
    assert asked.settings_of(find("monolithic")).exact_below == 12
    for name in ("seo", "no-search"):
        searched = replace(asked, methods=("monolithic", name))
        with pytest.raises(
            ValueError, match=f"exact_below or same_hash with method '{name}'.*with: separate, "
        ):
            recipes.compare(searched, Path("never"))


def test_a_method_is_compared_once(tiny_data: DataSet) -> None:
    asked = comparison(tiny_data, ("separate", "seo", "separate"), {})
    with pytest.raises(ValueError, match="methods name separate more than once; allowed: each"):
        recipes.compare(asked, Path("never"))
    asked = comparison(tiny_data, ("separate", "separate+mlet"), {})
    check_comparison(replace(asked, mlet=Mlet(32)))  # two trainings of one policy


@pytest.mark.parametrize("name", ["seo", "optembed", "autodim", "sseds"])
def test_a_search_whose_tables_cannot_fit_is_refused_before_a_folder_is_made(
    tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The tables that it trains are wider than those of the policy that it would find."""
    entry, training = find(name), Training(fit=FitSettings(row_optimizer="sgd", average=0.0))
    settings = entry.settings_at(1600, 16, training, {})
    monkeypatch.setattr("seo_rec.train.memory.available_bytes", lambda device: 4 * 1600)
    with pytest.raises(TooLargeError, match=rf"parameters of {name} take .*\(a smaller --dim\)"):
        recipes.search(name, tiny_data, tmp_path / "search", settings, training)
    assert not (tmp_path / "search").exists()
    monkeypatch.setattr("seo_rec.train.memory.available_bytes", lambda device: 2**40)
    entry.require_feasible(tiny_data, settings, training)


def test_dimgrow_is_refused_where_the_first_columns_cannot_fit(
    tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One column of every feature, with what Adam keeps of it.

    A byte less is refused, a running mean is not counted, and full width need not fit.
    """
    entry, training = find("dimgrow"), Training(fit=FitSettings(average=0.9))
    settings = entry.settings_at(1600, 16, training, {})
    space = open_space(tiny_data, settings, 0)
    needed = training_bytes(space.policy([1] * len(space.names)), FitSettings(average=0.0))
    room = "seo_rec.train.memory.available_bytes"
    monkeypatch.setattr(room, lambda device: needed - 1)
    with pytest.raises(TooLargeError, match=r"of dimgrow take .*\(fewer rows: --params, or --set"):
        recipes.search("dimgrow", tiny_data, tmp_path / "search", settings, training)
    assert not (tmp_path / "search").exists()
    monkeypatch.setattr(room, lambda device: needed)
    entry.require_feasible(tiny_data, settings, training)
