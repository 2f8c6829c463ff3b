"""The search over crosses: what earns its rows is taken, and what says nothing is not."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from sklearn.metrics import roc_auc_score

from seo_rec import recipes
from seo_rec.data.crosses import Cross, CrossedData, with_crosses
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.methods import water_filled
from seo_rec.methods.frequent import FrequentSettings
from seo_rec.model import ModelSettings
from seo_rec.policy import Policy
from seo_rec.recipes.crossing import taken_line
from seo_rec.runs import RunError
from seo_rec.runs.decision import decided
from seo_rec.search import Found, crossing, find
from seo_rec.search.crossing import NONE, choose_crosses, chosen_line
from seo_rec.search.run_off import RunOff, Shape, crossed_candidates, whole_length
from seo_rec.search.run_off.contest import Contest
from seo_rec.search.run_off.crossed import numbers_of
from seo_rec.search.seo import SeoSearch, SeoSettings, by_worth_with_crosses
from seo_rec.train import FitSettings, Training, check_policy_fits

NAMES = "abcdef"
TRAINING = Training(ModelSettings(hidden=(8,)), FitSettings(epochs=8, batch_size=250, row_lr=0.02))
SIZE = 100 * 4  # floats: less than a row for every id and pair of ids
AB, AC, CD = Cross(("a", "b")), Cross(("a", "c")), Cross(("c", "d"))


@pytest.fixture(scope="module")
def planted(seo_rec, tmp_path_factory) -> DataSet:
    """The label follows every pair of ids of a and b in its own way, and of c and d alike."""
    folder: Path = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(0)
    n = 6_000
    columns = {c: rng.integers(0, k, n) for c, k in zip(NAMES, (6, 6, 5, 5, 40, 8), strict=True)}
    effect = [rng.choice([-1.5, 1.5], shape) for shape in ((6, 6), (5, 5))]
    logits = effect[0][columns["a"], columns["b"]] + effect[1][columns["c"], columns["d"]]
    label = (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    table = pa.table({**columns, "label": label})
    pyarrow.csv.write_csv(table, folder / "rows.csv")
    arguments = ("--raw", folder / "rows.csv", "--label", "label", "--categorical", ",".join(NAMES))
    out = ("--fractions", "0.5,0.4,0.1", "--out", folder / "data")
    done = seo_rec("prepare", "table", *arguments, *out)
    assert done.code == 0, done.err
    return open_data(folder / "data")


def decide(wide: CrossedData) -> Policy:
    entry = find("frequent")
    return entry.decide(wide, FrequentSettings(params=SIZE, dim=4), TRAINING).policy


@pytest.fixture(scope="module")
def found(planted: DataSet, tmp_path_factory) -> tuple[Path, Found]:
    out = tmp_path_factory.mktemp("search") / "out"
    settings = FrequentSettings(params=SIZE, dim=4)
    result = recipes.search("frequent", planted, out, settings, TRAINING, crosses="all")
    return out, result


def test_crosses_that_are_worth_it_are_taken(planted: DataSet, found) -> None:
    """Inside the same budget, and the report says what each is worth."""
    out, result = found
    policy = Policy.load(out / "policy.json")
    assert policy == result.policy and policy.num_params <= SIZE
    assert {f.columns for f in policy.features if f.is_cross} == {AB.columns, CD.columns}
    told = json.loads((out / "search.json").read_text())["record"]["crosses"]
    assert sorted(told["taken"]) == [AB.name, CD.name]
    assert told["gain"] > 2 * told["standard_error"] > 0
    assert set(told["without"]) == {AB.name, CD.name}
    for worth in told["without"].values():
        assert worth["worth"] > worth["standard_error"] > 0
        whole = told["short"]["2"]
        assert worth["val_auc"] == pytest.approx(whole - worth["worth"], abs=1e-9)
    assert policy.decision["crosses"]["taken"] == told["taken"]
    recipes.train(planted, policy, out / "run", TRAINING)


def test_a_finished_search_is_taken_and_a_choice_goes_on_from_its_scores(
    planted: DataSet, found, monkeypatch
) -> None:
    out, result = found

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("nothing is left to train")

    monkeypatch.setattr("seo_rec.search.run_off.contest.fit_policy", fail)
    settings = FrequentSettings(params=SIZE, dim=4)
    again = recipes.search("frequent", planted, out, settings, TRAINING, resume=True, crosses="all")
    assert again.policy == result.policy
    (out / "search.json").unlink()  # as if it had been stopped at the end
    again = recipes.search("frequent", planted, out, settings, TRAINING, resume=True, crosses="all")
    assert again.policy == result.policy
    assert again.record["crosses"] == result.record["crosses"]
    with pytest.raises(RunError, match="differs in crosses"):
        recipes.search("frequent", planted, out, settings, TRAINING, resume=True, crosses="3")


def test_crosses_that_say_nothing_are_not_taken(planted: DataSet, tmp_path) -> None:
    proposed = [Cross(("e", "f")), Cross(("f", "b")), Cross(("e", "c"))]
    chosen = choose_crosses(planted, proposed, decide, TRAINING, tmp_path)
    assert chosen.crosses == () and chosen.record["taken"] == []
    assert set(chosen.record["short"]) == {"0", "1", "2", "3"}
    assert "none of 3 earns its rows; the best of them gained" in chosen_line(chosen.record)


@pytest.mark.parametrize(
    "harm, taken, asked",
    [
        ({"e*f": 0.05}, ["a*b"], ["a*b"]),  # it is worth less than nothing
        ({"e*f": -0.3}, ["e*f", "a*b"], None),  # it is worth something
        ({"e*f": 0.05, "without": 2.0}, ["e*f", "a*b"], ["a*b"]),  # worse at length without it
    ],
)
def test_crosses_without_worth_are_left_out(
    harm, taken, asked, planted, tmp_path, monkeypatch
) -> None:
    """Scores are given: labels with noise, the less of it the better the crosses are."""

    def score(contest: Contest, name: str, training: Training) -> tuple[dict[str, Any], Any]:
        crosses = {f.name for f in contest.candidates[name].policy.features if "*" in f.name}
        noise = (1.0 if "a*b" in crosses else 2.5) + sum(harm.get(c, 0.0) for c in crosses)
        noise += harm.get("without", 0.0) * name.endswith("pruned")
        rng = np.random.default_rng(training.fit.seed)
        z = contest.labels + noise * rng.standard_normal(contest.labels.size)
        found = {"val_auc": float(roc_auc_score(contest.labels, z)), "params": 1, "seconds": 0.0}
        return found, z

    monkeypatch.setattr(Contest, "_score", score)
    proposed = [Cross(("e", "f")), AB]
    chosen = choose_crosses(planted, proposed, decide, TRAINING, tmp_path)
    told = chosen.record
    assert told["taken"] == [c.name for c in chosen.crosses] == taken
    assert told.get("pruned", {"crosses": None})["crosses"] == asked
    assert set(told["without"]) == {"e*f", "a*b"}
    whole = told["short"]["2"]
    for worth in told["without"].values():
        assert worth["worth"] == pytest.approx(whole - worth["val_auc"], abs=1e-9)
    assert f"{len(taken)} of 2 taken, +0." in chosen_line(told)


def test_a_budget_without_room_for_more_features(planted: DataSet, tmp_path, caplog) -> None:
    """Six rows for the unknown ids of six columns: a seventh feature does not fit."""

    def tight(wide: CrossedData) -> Policy:
        settings = FrequentSettings(params=6 * 4, dim=4)
        return find("frequent").decide(wide, settings, TRAINING).policy

    chosen = choose_crosses(planted, [AB, AC], tight, TRAINING, tmp_path)
    assert chosen.crosses == ()
    assert not any(tmp_path.iterdir())  # nothing was trained


def test_rungs_double(planted: DataSet, tmp_path) -> None:
    pairs = [Cross((a, b)) for i, a in enumerate("abcde") for b in "abcde"[:i]]
    choice = crossing._Choice(with_crosses(planted, pairs[:9]), decide, TRAINING, tmp_path)
    rungs = choice.rungs()
    assert [len(c) for c in rungs.values()] == [0, 1, 2, 4, 8, 9]
    assert list(rungs)[:2] == [NONE, "crosses-1"]
    choice = crossing._Choice(with_crosses(planted, pairs[:1]), decide, TRAINING, tmp_path)
    assert [len(c) for c in choice.rungs().values()] == [0, 1]


def test_a_search_that_trains_has_the_crosses_too(seo_rec, planted, tmp_path, caplog) -> None:
    """The command: crosses are chosen with plain policies, and then the search goes over them."""
    arguments = ["search", planted.path, "--out", tmp_path / "s", "--method", "seo-exact"]
    options = ["--params", SIZE, "--dim", 4, "--set", "chunk_dim=2", "--epochs", 2]
    more = ["--lr", 0.02, "--batch-size", 250, "--hidden", "8", "--crosses", "a*b"]
    done = seo_rec(*arguments, *options, "--set", "search_dim=8", *more)
    assert done.code == 0, done.err
    policy = Policy.load(tmp_path / "s" / "policy.json")
    assert [f.columns for f in policy.features if f.is_cross] == [AB.columns]
    assert "crosses: 1 of 1 taken" in caplog.text


def test_a_method_without_a_budget_is_refused(seo_rec, planted, tmp_path) -> None:
    done = seo_rec(
        "search", planted.path, "--out", tmp_path / "s", "--method", "collisionless",
        "--crosses", "2",
    )  # fmt: skip
    assert done.code == 2 and "whose size follows from the data" in done.err
    done = seo_rec("search", planted.path, "--out", tmp_path / "s", "--crosses", "a*x")
    assert done.code == 2 and "'x' is no column of the data" in done.err
    assert not (tmp_path / "s" / "run.json").exists()


def test_the_decision_is_said_in_words() -> None:
    decision = {"method": "frequent", "winner": "frequent", "kind": "plain", "searched": False}
    taken = {"taken": ["a*b", "c*d"], "gain": 0.01234, "standard_error": 0.002}
    assert decided({**decision, "crosses": taken}) == (
        "the rule of frequent decided; of the proposed crosses it has a*b, c*d, which gained "
        "0.0123 (standard error 0.0020) of validation AUC"
    )
    assert decided({**decision, "crosses": {"taken": []}}) == (
        "the rule of frequent decided; no cross of columns earned its rows on validation rows"
    )
    both = {**decision, "kind": "attention", "searched": True, "against": "trivial-2x8"}
    both |= {"gain": 0.002, "standard_error": 0.001, "crosses": {"taken": ["a*b"]}}
    assert decided(both) == (
        "attention won: the policy frequent was better than the plain policy 2x8 by 0.0020 "
        "(standard error 0.0010) on validation rows; of the proposed crosses it has a*b"
    )


OFF = RunOff(chunk_dims=(), trivial_lookups=(1,), frequent=False)
INSIDE = SeoSearch(budget_rows=100, dim=4, chunk_dim=2, search_dim=8, run_off=OFF)
LIMITED = Training(ModelSettings(hidden=(8,)), FitSettings(epochs=4, batch_size=50, row_lr=0.02))


def test_numbers_of_crosses() -> None:
    found = {n: numbers_of(n) for n in (1, 2, 3, 4, 5, 9, 16)}
    assert found == {
        1: [1], 2: [1, 2], 3: [1, 2, 3], 4: [2, 4], 5: [2, 4, 5], 9: [2, 4, 8, 9],
        16: [2, 4, 8, 16],
    }  # fmt: skip


def test_candidates_with_crosses_are_at_the_budget(planted: DataSet) -> None:
    wide = with_crosses(planted, [AB, AC, CD])
    shape = Shape(SIZE, 4, 2, 8, 0)
    found = {c.name: c for c in crossed_candidates(wide, shape, by_id=True)}
    assert set(found) == {
        f"crosses-{n}-{kind}" for n in (1, 2, 3) for kind in ("2x2", "frequent-2", "frequent-1")
    }
    for name, candidate in found.items():
        number = int(name.split("-")[1])
        crosses = [c.name for c in wide.crosses[:number]]
        assert candidate.origin == {"crosses": crosses} and candidate.searched
        assert [f.name for f in candidate.policy.features] == [*NAMES, *crosses]
        assert candidate.policy.num_params <= SIZE
        assert "2x2" not in name or candidate.policy.num_params > SIZE - 4
    hashed = crossed_candidates(wide, shape, by_id=False)
    assert {c.name for c in hashed} == {f"crosses-{n}-2x2" for n in (1, 2, 3)}
    tight = crossed_candidates(wide, Shape(14, 4, 2, 8, 0), by_id=True)
    of_two = {c.name for c in tight if c.name.endswith("frequent-2")}
    assert of_two == {"crosses-1-frequent-2"}  # seven rows of two floats fit, and not eight


def test_the_search_takes_crosses_inside_its_limit(planted: DataSet, tmp_path: Path) -> None:
    """By its own proposals; what every one of them is worth is told; a stopped search goes on."""
    out = tmp_path / "out"
    found = recipes.search("seo", planted, out, INSIDE, LIMITED, crosses="auto")
    told, decision = found.record["crosses"], found.policy.decision
    assert decision is not None
    assert set(told["proposed"][:2]) == {"a*b", "c*d"} and found.winner.startswith("crosses-")
    taken = decision["crosses"]["taken"]
    assert {"a*b", "c*d"} <= set(taken) == set(told["taken"])
    assert [f.name for f in found.policy.features if f.is_cross] == taken
    assert set(found.policy.columns) == set(NAMES) and found.policy.num_params <= SIZE
    assert min(told["worth"]["a*b"], told["worth"]["c*d"]) > 0.02
    assert told["gains"].keys() == set(told["proposed"])
    assert decision["crosses"]["gain"] > 2 * decision["crosses"]["standard_error"] > 0
    assert not decision["crosses"]["over"].startswith("crosses-")
    assert decided(decision).startswith(f"crosses won: the policy {found.winner} was better than")
    assert "of the proposed crosses it has" in decided(decision)
    assert "taken; the validation log loss" in taken_line(told)
    halving, length = found.record["halving"], whole_length(planted, LIMITED)
    kept = [json.loads(p.read_text()) for p in (out / "work").rglob("*-seed*.json")]
    ends, begun = (sum(length.rows(k.get(at, 0)) for k in kept) for at in ("steps", "begun"))
    assert halving["rows"] == ends - begun
    assert halving["rows"] + halving["elsewhere"] <= 4 * length.whole
    check_policy_fits(planted, Policy.load(out / "policy.json"))
    (out / "search.json").unlink()
    again = recipes.search("seo", planted, out, INSIDE, LIMITED, resume=True, crosses="auto")
    assert again.policy == found.policy and again.record["crosses"] == told


def test_rows_are_divided_over_columns_and_crosses_together(planted: DataSet) -> None:
    """As if crosses were columns; what is worth nothing, or gets no rows, is left out."""
    wide = with_crosses(planted, [AB, AC, CD])
    settings = SeoSettings(budget_rows=60, dim=4, chunk_dim=2, search_dim=8)
    worth = dict.fromkeys(NAMES, 1e-3) | {AB.name: 0.1, AC.name: -1e-3, CD.name: 1e-9}
    found = by_worth_with_crosses(wide, list(worth.values()), settings)
    assert found is not None
    policy, taken = found
    assert taken == (AB.name,)  # a*c is worth nothing, and the budget has no row for c*d
    part = wide.only([AB])
    counts = {c.name: part.counts(c.name) for c in part.schema.features}
    of_part = {name: worth[name] for name in (*NAMES, AB.name)}
    wanted = water_filled(part.schema, counts, 240, (1, 2, 4), of_part)
    assert (policy.tables, policy.features) == (wanted.tables, wanted.features)
    assert len(policy.vocabularies[AB.name]) == 36 and policy.num_params <= 240
    assert by_worth_with_crosses(wide, [1e-3] * 6 + [0.0, -1.0, 0.0], settings) is None


@pytest.mark.slow
def test_the_search_divides_by_the_worth_of_crosses(
    planted: DataSet, tmp_path: Path, monkeypatch
) -> None:
    """Inside the same limit: an attention that is trained anyway reads the crosses as well."""
    module, attended = sys.modules["seo_rec.search.seo.searched"], list[int]()

    def fit(*arguments: Any, **more: Any) -> Any:
        result = real(*arguments, **more)
        attended.append(result.steps)
        return result

    real = module.fit  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "fit", fit)
    out = tmp_path / "out"
    settings = replace(INSIDE, run_off=replace(OFF, frequent=True))
    found = recipes.search("seo", planted, out, settings, LIMITED, crosses="auto")
    scores = found.record["run_off"]
    origin = scores["seo-2-worth-crosses"]["origin"]
    assert {"a*b", "c*d"} <= set(origin["crosses"]) <= set(found.record["crosses"]["proposed"])
    worth = origin["worth"]
    pairs = min(worth["a*b"], worth["c*d"])
    assert pairs > 0.02 > max(abs(worth["e"]), abs(worth["f"]))
    assert scores["seo-2-worth-crosses"]["params"] <= SIZE
    attention = found.record["searches"]["2"]
    assert attention["features"] == list(NAMES)  # the others of this width have no crosses
    assert sum(map(sum, attention["attention"])) == pytest.approx(1)
    length = whole_length(planted, LIMITED)
    kept = [json.loads(p.read_text()) for p in (out / "work").rglob("*-seed*.json")]
    ends, begun = (sum(length.rows(k.get(at, 0)) for k in kept) for at in ("steps", "begun"))
    assert len(attended) == 1 and found.record["halving"]["rows"] == ends - begun
    assert sum(map(length.rows, attended)) + ends - begun <= 4 * length.whole
    (out / "search.json").unlink()
    again = recipes.search("seo", planted, out, settings, LIMITED, resume=True, crosses="auto")
    assert again.policy == found.policy and again.record["run_off"] == scores
    assert len(attended) == 1


def test_without_a_clear_pair_the_search_is_as_without_crosses(
    planted: DataSet, tmp_path: Path, monkeypatch, caplog
) -> None:
    caplog.set_level("INFO", "seo_rec.progress")
    monkeypatch.setattr("seo_rec.recipes.crossing.propose_worthwhile", lambda *_: [])
    short = replace(LIMITED, fit=replace(LIMITED.fit, epochs=1, batch_size=500))
    with_auto = recipes.search("seo", planted, tmp_path / "a", INSIDE, short, crosses="auto")
    without = recipes.search("seo", planted, tmp_path / "b", INSIDE, short)
    assert with_auto.policy == without.policy and with_auto.decision == without.decision
    assert with_auto.record["halving"] == without.record["halving"]
    assert with_auto.record["crosses"] == {"proposed": [], "gains": {}, "taken": []}
    assert "no pair of columns lowers the log loss" in caplog.text


def test_crosses_are_tried_by_default_where_a_limit_holds(
    seo_rec, planted, tmp_path, monkeypatch
) -> None:
    """Elsewhere they have to be asked for, and ``none`` turns them off."""
    asked = []

    def search(*_: Any, crosses: str, **__: Any) -> Found:
        asked.append(crosses)
        raise ValueError("that is enough")

    monkeypatch.setattr(recipes, "search", search)
    common = ["search", planted.path, "--params", SIZE, "--dim", 4, "--set", "chunk_dim=2"]
    exhaustive = [*common, "--set", "run_off.cost=0"]
    for options in (
        [*common[:6], "--method", "frequent"],
        common,
        [*common, "--crosses", "none"],
        exhaustive,
        [*exhaustive, "--crosses", "3"],
    ):
        done = seo_rec(*options, "--out", tmp_path / str(len(asked)))
        assert done.code == 2 and "that is enough" in done.err
    assert asked == ["", "auto", "", "", "3"]


def test_crosses_are_not_tried_without_a_limit(planted: DataSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--crosses auto with frequent; allowed: a search with"):
        recipes.search(
            "frequent", planted, tmp_path, FrequentSettings(params=SIZE, dim=4), TRAINING,
            crosses="auto",
        )  # fmt: skip
