"""Run folders: who owns one, what a search leaves in it, how methods of a comparison are set up."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seo_rec import apply, recipes
from seo_rec.data.dataset import DataSet
from seo_rec.methods import Mlet
from seo_rec.model import ModelSettings
from seo_rec.policy import Policy
from seo_rec.runs import (
    Run,
    RunError,
    claim_run,
    command_line,
    read_runs,
    reading,
)
from seo_rec.runs.layout import search_folder, training_folder, work_folder
from seo_rec.search.no_search import NoSearchSettings
from seo_rec.search.run_off import RunOff
from seo_rec.search.seo import SeoSearch, search_attention, select
from seo_rec.train import FitSettings, Training

TRAINING = Training(
    ModelSettings(hidden=(8,)), FitSettings(epochs=1, batch_size=200, row_lr=0.02, dense_lr=0.02)
)


ASKED = {"kind": "train", "data": "d", "fit": {"seed": 0, "hidden": (8, 4)}}


# ---- claim and resume ----------------------------------------------------------------------


def test_a_claimed_folder_says_what_was_asked(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    claim_run(out, ASKED, resume=False)
    assert json.loads((out / "run.json").read_text()) == json.loads(json.dumps(ASKED))
    with pytest.raises(RunError, match="already holds this run; give --resume"):
        claim_run(out, ASKED, resume=False)
    claim_run(out, ASKED, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_another_run_is_told_apart_by_what_differs(tmp_path: Path, resume: bool) -> None:
    claim_run(tmp_path / "out", ASKED, resume=False)
    before = (tmp_path / "out/run.json").read_bytes()
    other = {"kind": "train", "data": "e", "fit": {"seed": 1}, "weights": "w"}
    differs = r"another run \(it differs in data, fit.hidden, fit.seed, weights\)"
    with pytest.raises(RunError, match=differs):
        claim_run(tmp_path / "out", other, resume)
    assert (tmp_path / "out/run.json").read_bytes() == before


def test_a_run_that_says_less_is_another_run(tmp_path: Path) -> None:
    claim_run(tmp_path, ASKED, resume=False)
    less = {key: value for key, value in ASKED.items() if key != "fit"}
    with pytest.raises(RunError, match=r"another run \(it differs in fit\)"):
        claim_run(tmp_path, less, resume=True)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(RunError, match="exists and is not a run folder; choose another --out"):
        claim_run(tmp_path, ASKED, resume=True)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "mine").rename(tmp_path / ".run.json.k1l3d")  # what a kill left of the claim
    claim_run(tmp_path, ASKED, resume=False)


@pytest.mark.parametrize(
    "argv, module, expected",
    [
        (["/usr/bin/seo-rec", "train", "a b"], None, "seo-rec train 'a b'"),
        (["/x/seo_rec/__main__.py", "plan"], "seo_rec.__main__", "seo-rec plan"),
        (
            ["/x/benchmarks/epoch.py", "--out", "o"],
            "benchmarks.epoch",
            "python -m benchmarks.epoch",
        ),
    ],
)
def test_the_command_line_can_be_typed_again(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], module: str | None, expected: str
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    spec = SimpleNamespace(name=module) if module else None
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=spec))
    assert command_line().startswith(expected)


# ---- what a training leaves ----------------------------------------------------------------


def trained(data: DataSet, policy: Policy, out: Path, **more: Any) -> Run:
    run = recipes.train(data, policy, out, TRAINING, **more)
    assert json.loads((out / "result.json").read_text()) == json.loads(json.dumps(run.to_json()))
    return run


def test_the_budget_of_a_run_is_that_of_its_policy(tiny_data: DataSet, tmp_path: Path) -> None:
    """Unless another is given: None for a method whose size follows from the data."""
    separate = recipes.method_policy("separate", tiny_data, 1004, dim=8)
    assert separate.num_params < 1004
    nameless = replace(separate, budget=None)
    free = recipes.method_policy("collisionless", tiny_data, 1, dim=4)
    for name, policy, more, budget in (
        ("a", separate, {}, 1004),
        ("b", nameless, {}, separate.num_params),
        ("c", nameless, {"budget": 2000}, 2000),
        ("d", free, {"budget": None}, None),
    ):
        run = trained(tiny_data, policy, tmp_path / name, **more)
        assert run.budget == budget
        assert (run.embedding_params, run.num_bytes) == (policy.num_params, policy.num_bytes)
        (read,) = reading.read([tmp_path / name]).trainings
        assert read.budget == budget
    assert free.num_bytes > 4 * free.num_params  # with the ids of its vocabularies


def test_results_are_read_back_line_by_line(
    tiny_data: DataSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Lines of before the newest fields, too; a line that a kill cut short is left out."""
    run = trained(tiny_data, recipes.method_policy("separate", tiny_data, 800), tmp_path / "run")
    line = json.dumps(run.to_json())
    older = {k: v for k, v in run.to_json().items() if k not in ("num_bytes", "still_improving")}
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join([line, json.dumps(older), line[:50]]) + "\n")
    assert read_runs(path) == [run, replace(run, num_bytes=0, still_improving=False)]
    assert "an unreadable line was left out" in caplog.text


# ---- what a search leaves ------------------------------------------------------------------


OFF = RunOff(epochs=1, chunk_dims=(8,), trivial_lookups=(2, 4), cost=0)


SEO = SeoSearch(budget_rows=100, logit_lr=0.05, run_off=OFF)


@pytest.mark.parametrize("run_off", [OFF, None], ids=["run-off", "alone"])
def test_a_search_keeps_its_own_policy_beside_the_winner(
    run_off: RunOff | None, tiny_data: DataSet, tmp_path: Path
) -> None:
    """The paper's policy, rescaled to the budget where there is a run-off."""
    out, settings = tmp_path / "out", replace(SEO, run_off=run_off)
    found = recipes.search("seo", tiny_data, out, settings, TRAINING)
    winner, searched = (Policy.load(out / f"{n}.json") for n in ("policy", "searched"))
    attention = search_attention(
        tiny_data, settings.attention, TRAINING, out / "work" / "attentions"
    )
    chosen = select(attention.space, attention.alpha, settings.chosen(7), settings.min_chunks)
    assert searched == (apply.exact(chosen, settings.params) if run_off else chosen)
    assert winner == found.policy
    record = json.loads((out / "search.json").read_text())
    if run_off is None:
        assert winner == searched and not (out / "candidates").exists()
        assert (record["winner"], winner.decision["kind"]) == ("seo", "attention")
    else:
        assert winner == Policy.load(out / "candidates" / f"{record['winner']}.json")
        assert (winner == searched) == (record["winner"] == "seo-8-min1-exact")
    assert searched.num_params <= settings.params or run_off is None
    assert winner.budget is not None and winner.budget.params == settings.params


def test_the_decision_says_who_won_and_by_how_much(tiny_data: DataSet, tmp_path: Path) -> None:
    """In the policy as in the record: the winner's gain, signed, over the best of the others."""
    out = tmp_path / "out"
    found = recipes.search("seo", tiny_data, out, SEO, TRAINING)
    record = json.loads((out / "search.json").read_text())
    decision = dict(found.policy.decision or {})
    assert decision == record["decision"] == dict(Policy.load(out / "policy.json").decision or {})
    assert decision["method"] == record["method"] == "seo"
    assert decision["searched"] is True
    assert decision["winner"] == record["winner"]
    scores = record["record"]["run_off"]
    searched = {n: s for n, s in scores.items() if n.startswith("seo-") and "same_as" not in s}
    if decision["kind"] == "plain":
        assert decision["winner"] in scores.keys() - searched.keys()
        best = max(searched, key=lambda n: searched[n]["gain"])
        assert (decision["against"], decision["gain"]) == (best, -scores[best]["gain"])
        assert decision["standard_error"] == scores[best]["standard_error"]
    else:
        assert decision["kind"] == "attention"
        own = scores[decision["winner"]]
        assert decision["against"] not in searched
        assert (decision["gain"], decision["standard_error"]) == (
            own["gain"],
            own["standard_error"],
        )
    (read,) = reading.read([out]).searches
    assert (read.winner, dict(read.decision), read.budget) == (record["winner"], decision, 1600)
    assert {c.name for c in read.candidates} == {n for n, s in scores.items() if "same_as" not in s}
    assert read.policies.keys() == {c.name for c in read.candidates}


@pytest.mark.parametrize("standard_errors, kind", [(1e9, "plain"), (0.0, "attention")])
def test_who_wins_follows_the_rule(
    standard_errors: float,
    kind: str,
    tiny_data: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same gains, and another limit."""
    contest = sys.modules["seo_rec.search.run_off.contest"]
    gains = {"seo-8-min1-exact": 0.02}

    def gain(self: Any, name: str, incumbent: str, *, twice: bool) -> tuple[float, float]:
        return (0.0 if name == incumbent else gains.get(name, -0.01)), 0.005

    monkeypatch.setattr(contest.Contest, "gain", gain)
    settings = replace(SEO, run_off=replace(OFF, standard_errors=standard_errors))
    found = recipes.search("seo", tiny_data, tmp_path / "out", settings, TRAINING)
    decision = dict(found.policy.decision or {})
    plain = {"against": "seo-8-min1-exact", "gain": -0.02, "winner": "trivial-2x8"}
    attention = {"against": "trivial-2x8", "gain": 0.02, "winner": "seo-8-min1-exact"}
    wanted = plain if kind == "plain" else attention
    assert decision.items() >= {**wanted, "kind": kind, "standard_error": 0.005}.items()
    searched = Policy.load(tmp_path / "out" / "searched.json")
    assert (found.policy == searched) == (kind == "attention")


def test_a_finished_search_is_read_back(tiny_data: DataSet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = recipes.search("seo", tiny_data, out, SEO, TRAINING)
    times = {p: p.stat().st_mtime_ns for p in (out / "work").rglob("*.json")}
    again = recipes.search("seo", tiny_data, out, SEO, TRAINING, resume=True)
    assert (again.policy, again.searched) == (found.policy, found.searched)
    assert (again.winner, again.val_auc, again.seconds, again.peak_bytes) == (
        found.winner,
        found.val_auc,
        found.seconds,
        found.peak_bytes,
    )
    assert dict(again.decision) == dict(found.policy.decision or {})
    assert {p: p.stat().st_mtime_ns for p in (out / "work").rglob("*.json")} == times
    with pytest.raises(RunError, match="already holds this run"):
        recipes.search("seo", tiny_data, out, SEO, TRAINING)
    for settings, training, differs in (
        (replace(SEO, run_off=replace(OFF, epochs=2)), TRAINING, "settings.run_off.epochs"),
        (SEO, TRAINING.with_seed(1), "fit.seed"),
        (replace(SEO, budget_rows=101), TRAINING, "budget, settings.budget_rows"),
    ):
        with pytest.raises(RunError, match=rf"another run \(it differs in {differs}\)"):
            recipes.search("seo", tiny_data, out, settings, training, resume=True)


def test_a_search_that_trains_nothing_has_a_folder_like_the_others(
    tiny_data: DataSet, tmp_path: Path
) -> None:
    settings = NoSearchSettings(params=800, max_dim=8)
    found = recipes.search("no-search", tiny_data, tmp_path / "out", settings, TRAINING)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "run.json",
        "policy.json",
        "searched.json",
        "search.json",
    }
    winner, searched = (Policy.load(tmp_path / f"out/{n}.json") for n in ("policy", "searched"))
    assert winner == searched == found.policy
    (read,) = reading.read([tmp_path / "out"]).searches
    assert (read.winner, read.budget, read.candidates) == ("no-search", 800, ())


# ---- how methods of a comparison are set up ------------------------------------------------


def comparison(data: DataSet, *methods: str, **more: Any) -> recipes.Comparison:
    short = replace(TRAINING, fit=replace(TRAINING.fit, max_steps=1))
    return recipes.Comparison(
        data=(data,), methods=methods, params=1600, seeds=1, training=short, **more
    )


def test_methods_are_set_up_once_and_others_may_join(tiny_data: DataSet, tmp_path: Path) -> None:
    out, seo = tmp_path / "out", {"seo": {"logit_lr": 0.1}}
    recipes.compare(comparison(tiny_data, "seo-rr", settings=seo), out)
    path = out / "methods.json"
    assert json.loads(path.read_text()) == seo
    recipes.compare(comparison(tiny_data, "separate"), out)
    mlet = Mlet(8, 0.5)
    recipes.compare(comparison(tiny_data, "seo-exact", "separate", settings=seo, mlet=mlet), out)
    asked = {**seo, "separate": {}, "+mlet": {"dim": 8, "std": 0.5}}
    assert json.loads(path.read_text()) == asked
    lines = (out / "results.jsonl").read_text()
    for methods, more, message in (
        (("seo-exact",), {}, r"says \{'logit_lr': 0\.1\} of seo and this comparison \{\}"),
        (("seo-rr",), {"settings": {"seo": {"logit_lr": 0.2}}}, r"\{'logit_lr': 0\.2\}"),
        (("separate",), {"mlet": Mlet(4)}, r"of \+mlet and this comparison \{'dim': 4"),
    ):
        with pytest.raises(RunError, match=rf"methods\.json .*{message}"):
            recipes.compare(comparison(tiny_data, *methods, **more), out)
    assert json.loads(path.read_text()) == asked
    assert (out / "results.jsonl").read_text() == lines


def test_members_of_a_family_share_what_they_learn(tiny_data: DataSet, tmp_path: Path) -> None:
    """One attention for three methods; each has a search folder and a training of its own."""
    out = tmp_path / "out"
    off = {"run_off": replace(OFF, trivial_lookups=())}
    asked = comparison(tiny_data, "seo", "seo-exact", "seo-rr", settings={"seo": off})
    recipes.compare(asked, out)
    work = work_folder(out, "seo", 0)
    assert len(list((work / "attentions").iterdir())) == 1
    kinds = json.loads((out / "methods.json").read_text())
    assert kinds["seo"]["run_off"]["epochs"] == 1
    policies = {}
    for name in asked.methods:
        searched = Policy.load(search_folder(out, name, 0) / "policy.json")
        policies[name] = Policy.load(training_folder(out, name, 0) / "policy.json")
        assert policies[name] == searched
        assert not (search_folder(out, name, 0) / "work").exists()
        assert policies[name].decision is not None
        assert policies[name].decision["method"] == name
    kept = Policy.load(search_folder(out, "seo", 0) / "searched.json")
    assert kept == policies["seo-exact"] != policies["seo-rr"]
