"""The registry: every name finds its method, and what an entry says of a method is how it acts."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from seo_rec import recipes, search
from seo_rec.data.dataset import DataSet
from seo_rec.methods import METHOD_NAMES, PlainSettings
from seo_rec.methods.registry import FAMILIES
from seo_rec.model import ModelSettings
from seo_rec.policy import PolicyError
from seo_rec.search import registry
from seo_rec.search.changes import with_changes
from seo_rec.search.run_off import RunOff
from seo_rec.search.seo import SeoSearch
from seo_rec.train import FitSettings, Training
from seo_rec.train.ranks import Ranks

ROOT = Path(__file__).resolve().parent.parent
TRAINING = Training(ModelSettings(hidden=(8,)), FitSettings(epochs=1, batch_size=200, row_lr=0.02))
PLAIN = (*FAMILIES, "multi-size-4", "multiplexed-pq-4", "robe-4", "hash-embedding-2-p0.1", "qr-3")
EVERY = (*PLAIN, *search.SEARCHES)
every_method = pytest.mark.parametrize("name", EVERY)
# settings with which a search of the tiny data set takes a second
QUICK: dict[str, dict[str, Any]] = {
    "seo": {"run_off.epochs": 1, "run_off.chunk_dims": (8,), "run_off.trivial_lookups": (2,)},
    "dimgrow": {"adapt_dim": 4, "alpha": 1e-5},
    "optembed": {"variant": "dims", "generations": 1},
}


def settings_of(name: str, params: int = 3200, dim: int = 16) -> Any:
    method = search.find(name)
    settings = method.settings_at(params, dim, TRAINING)
    return with_changes(settings, method.changeable(QUICK.get(method.family, {})))


# ---- names -------------------------------------------------------------------------------


@every_method
def test_every_name_finds_its_method(name: str) -> None:
    method = search.find(name)
    assert method.name == name
    assert is_dataclass(method.settings) and callable(method.decide)
    assert name.removeprefix("multiplexed-").startswith(method.family)
    assert method.searches == (name in search.SEARCHES)


@pytest.mark.parametrize("name", ["", "SEO", "seo ", "multi-size-", "pq-0", "robe-x", "qr+mlet"])
def test_an_unknown_name_lists_what_is_allowed(name: str) -> None:
    with pytest.raises(ValueError) as caught:
        search.find(name)
    said = str(caught.value)
    assert said.startswith(f"method {name!r}; allowed: ")
    for allowed in (*FAMILIES, *search.SEARCHES, "multi-size-K", "robe-Z", "hash-embedding-K-p0.1"):
        assert f" {allowed}," in said


def test_the_list_of_names_ends_with_the_remark_about_sharing() -> None:
    """Nothing may follow it that would read as one more method with a multiplexed form."""
    remark = METHOD_NAMES[-1]
    assert remark.startswith("and multiplexed- before ") and search.NAMES[-1] == remark
    forms = {
        f for f in FAMILIES if f in remark.removeprefix("and multiplexed- before ").split(", ")
    }
    for family in FAMILIES:
        shared = f"multiplexed-{family}"
        if family in forms:
            assert search.find(shared).family == family
        else:
            with pytest.raises(ValueError, match="allowed: "):
                search.find(shared)


def strings(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def test_the_floors_above_ask_for_no_method_by_name() -> None:
    """They ask its entry. The demonstration is of certain methods, and names them."""
    found = [
        f"{path.relative_to(ROOT)}:{line} {text!r}"
        for folder in ("runs", "train", "recipes", "report")
        for path in sorted((ROOT / "seo_rec" / folder).glob("*.py"))
        if path.name != "demonstration.py"
        for line, text in strings(path)
        if text in EVERY
    ]
    assert found == []


# ---- settings ----------------------------------------------------------------------------


@every_method
def test_settings_at_a_budget_are_of_the_class_and_hold_the_budget(name: str) -> None:
    method = search.find(name)
    for params, dim in ((3200, 16), (96, 8)):
        settings = method.settings_at(params, dim, TRAINING)
        assert type(settings) is method.settings and settings.params == params
        with pytest.raises(FrozenInstanceError):
            setattr(settings, fields(settings)[0].name, 1)


@every_method
def test_settings_of_another_method_are_refused(tiny_data: DataSet, name: str) -> None:
    method = search.find(name)

    @dataclass(frozen=True)
    class Other(method.settings):  # type: ignore[name-defined,misc]
        """Not even a subclass goes through."""

    for wrong in (Other(), None, {}):
        with pytest.raises(ValueError, match=f"allowed: a {method.settings.__name__}"):
            method.checked(tiny_data, wrong, TRAINING)
    method.checked(tiny_data, settings_of(name), TRAINING)


def test_searches_of_widths_have_room_above_the_mean_width() -> None:
    for name, room in (("dimgrow", 2), ("sseds", 2), ("mixed-dimension", 2), ("no-search", 1)):
        assert settings_of(name, dim=16).max_dim == room * 16


def test_dimgrow_adapts_to_the_backbone_of_the_training(tiny_data: DataSet) -> None:
    """The default fits the backbone; the other way is refused before a folder is opened."""
    method = search.find("dimgrow")
    for backbone, adapt in (("mlp", "joint"), ("dlrm", "per-feature"), ("deepfm", "per-feature")):
        training = replace(TRAINING, model=ModelSettings(backbone=backbone))
        settings = method.settings_at(800, 16, training)
        assert settings.adapt == adapt
        method.checked(tiny_data, settings, training)
        if adapt == "per-feature":
            with pytest.raises(ValueError, match=f"adapt 'joint' with backbone '{backbone}'"):
                method.checked(tiny_data, replace(settings, adapt="joint"), training)


def test_checks_are_those_of_the_method(tiny_data: DataSet) -> None:
    dcn = replace(TRAINING, model=ModelSettings(backbone="dcn"))
    optembed, seo = search.find("optembed"), search.find("seo-exact")
    trained = replace(settings_of("optembed"), weights="trained")
    optembed.checked(tiny_data, trained, TRAINING)
    with pytest.raises(ValueError, match="'trained' with the backbone"):
        optembed.checked(tiny_data, trained, dcn)
    with pytest.raises(PolicyError, match="total_chunks 29"):
        seo.checked(tiny_data, replace(settings_of("seo-exact"), total_chunks=29), TRAINING)


def test_a_budget_of_no_whole_row_has_no_settings_of_seo() -> None:
    for params in (0, 8, 24):
        with pytest.raises(ValueError, match=f"a budget of {params} parameters; .*multiple of dim"):
            search.find("seo").settings_at(params, 16, TRAINING)


def test_members_of_seo_share_the_attention_and_fix_the_choice() -> None:
    own, exact, dealt = (search.find(n) for n in ("seo", "seo-exact", "seo-rr"))
    assert {m.family for m in (own, exact, dealt)} == {"seo"}
    changes = {"logit_lr": 0.5, "run_off": None, "run_off.epochs": 3, "apply": "exact"}
    assert own.changeable(changes) == changes
    assert exact.changeable(changes) == dealt.changeable(changes) == {"logit_lr": 0.5}
    found = [m.settings_at(1600, 16, TRAINING) for m in (own, exact, dealt)]
    assert [s.attention for s in found] == [found[0].attention] * 3
    assert [(s.run_off is None, s.apply) for s in found] == [
        (False, "none"),
        (True, "exact"),
        (True, "round-robin"),
    ]


def test_the_chunks_of_a_plain_method_are_settled_by_all_names_but_one() -> None:
    assert [n for n in PLAIN if search.find(n).changeable({"chunk_dim": 4})] == ["multi-size"]


@every_method
def test_an_entry_names_settings_that_exist(name: str) -> None:
    method = search.find(name)
    assert {*method.fixed} <= {f.name for f in fields(method.settings)}
    assert {*method.ignores} <= {f.name for f in fields(FitSettings)}


# ---- how it acts -------------------------------------------------------------------------


@every_method
def test_who_trains_has_a_validation_auc(tiny_data: DataSet, tmp_path: Path, name: str) -> None:
    """And who does not needs no folder; each has a policy at the budget, if it has a budget."""
    method = search.find(name)
    out = tmp_path / "work"
    found = method.decide(tiny_data, settings_of(name), TRAINING, out)
    assert (found.val_auc is not None) == method.trains
    assert out.exists() == method.trains
    assert (found.peak_bytes > 0) == method.trains
    if method.budgeted:
        assert 3200 - 32 < found.policy.num_params <= 3200
    names = {f.name for f in found.policy.features} | set(found.policy.dropped)
    assert names == {c.name for c in tiny_data.schema.features}


def test_a_size_that_follows_from_the_data_knows_no_budget(tiny_data: DataSet) -> None:
    (free,) = (n for n in PLAIN if not search.find(n).budgeted)
    sizes = {recipes.method_policy(free, tiny_data, p).num_params for p in (1, 16, 10**6)}
    assert free == "collisionless" and len(sizes) == 1
    assert recipes.method_policy(free, tiny_data, 16).budget is None
    assert recipes.method_policy("monolithic", tiny_data, 160).budget.params == 160


@every_method
def test_only_sharded_searches_run_in_several_processes(
    tiny_data: DataSet, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    method = search.find(name)
    monkeypatch.setattr(registry, "ranks", lambda: Ranks(0, 2, 2))
    if method.trains and not method.sharded:
        says = rf"{name} in 2 processes; allowed: 1, .*only seo, seo-exact, seo-rr run"
        with pytest.raises(ValueError, match=says):
            method.checked(tiny_data, settings_of(name), TRAINING)
    else:
        method.checked(tiny_data, settings_of(name), TRAINING)


@every_method
def test_what_is_known_to_be_infeasible_is_said_before_any_training(
    tiny_data: DataSet, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Never of a budget that has a policy; and methods that train nothing always know."""
    method = search.find(name)
    method.require_feasible(tiny_data, settings_of(name), TRAINING)
    if method.trains or not method.budgeted:
        return
    small = settings_of(name, params=1)
    if isinstance(small, PlainSettings):
        with pytest.raises(PolicyError, match="a budget of 1 parameters"):
            method.require_feasible(tiny_data, small, TRAINING)
    else:
        with pytest.raises(PolicyError, match="a budget of 1 parameters"):
            method.require_feasible(tiny_data, replace(small, address="id"), TRAINING)


# ---- changes -----------------------------------------------------------------------------


def test_changes_reach_the_fields_they_name() -> None:
    before = SeoSearch()
    after = with_changes(before, {"dim": 8, "run_off.epochs": 3, "run_off.by_id": False})
    assert after == replace(before, dim=8, run_off=RunOff(epochs=3, by_id=False))
    assert before == SeoSearch() and with_changes(before, {}) == before
    alone = with_changes(before, {"run_off": None, "apply": "exact"})  # only both together go
    assert alone.run_off is None and alone.apply == "exact"


@pytest.mark.parametrize("first", ["run_off", "run_off.epochs"])
def test_a_whole_part_and_a_value_in_it_go_together(first: str) -> None:
    """In whatever order they are given: the value is that of the part that is given."""
    given = {"run_off": RunOff(standard_errors=1.0), "run_off.epochs": 5}
    ordered = {first: given[first], **given}
    assert with_changes(SeoSearch(), ordered).run_off == RunOff(epochs=5, standard_errors=1.0)


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"magic": 1}, r"setting 'magic'; allowed: budget_rows, dim, .*run_off, apply"),
        ({"magic.epochs": 1}, r"setting 'magic.epochs'; allowed: budget_rows"),
        ({"run_off.magic": 1}, r"setting 'magic'; allowed: epochs, standard_errors"),
        ({"dim.x": 1}, r"setting dim.x where dim is 16, which has no parts"),
        ({"run_off": None, "run_off.epochs": 1}, r"run_off.epochs where run_off is None"),
        ({"dim": 12}, "multiples of chunk_dim 8"),
        ({"run_off.epochs": 0}, "epochs 0 and standard_errors 2.0; allowed: epochs 1 or more"),
        ({"apply": "exact"}, "apply 'exact' with a run-off"),
    ],
)
def test_changes_that_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        with_changes(SeoSearch(), changes)
