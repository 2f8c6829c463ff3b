"""Run folders: who owns one, what is in it, and that what is read is what was written."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from seo_rec import recipes, runs
from seo_rec.data.dataset import DataSet
from seo_rec.model import ModelSettings
from seo_rec.policy import Array, Feature, Lookup, Policy, Table
from seo_rec.recipes import Comparison
from seo_rec.runs import (
    RunError,
    SearchRecord,
    claim_run,
    describe,
    layout,
    reading,
    records,
)
from seo_rec.train import FitSettings, Training

ASKED = {"kind": "train", "data": "d", "fit": {"seed": 0, "hidden": (8, 4)}}


# ---- claiming ----------------------------------------------------------------------------


@pytest.mark.parametrize("there", [None, "empty", "a claim that was cut short"])
def test_a_folder_of_nobody_is_claimed(tmp_path: Path, there: str | None) -> None:
    out = tmp_path / "deep" / "run"
    if there is not None:
        out.mkdir(parents=True)
    if there == "a claim that was cut short":
        (out / ".run.json.part").write_text("{")
    claim_run(out, ASKED, resume=False)
    assert json.loads((out / "run.json").read_text()) == json.loads(json.dumps(ASKED))


def test_the_same_run_is_found_again_only_with_resume(tmp_path: Path) -> None:
    """Tuples are lists in the file, and the same all the same."""
    claim_run(tmp_path / "r", ASKED, resume=True)
    with pytest.raises(RunError, match=r"already holds this run; give --resume, or another --out"):
        claim_run(tmp_path / "r", ASKED, resume=False)
    claim_run(tmp_path / "r", ASKED, resume=True)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "other, named",
    [
        ({**ASKED, "data": "e"}, "data"),
        ({**ASKED, "fit": {"seed": 1, "hidden": [8, 4]}}, "fit"),
        ({**ASKED, "plan": "p"}, "plan"),
        ({"kind": "train", "data": "d"}, "fit"),
        ({**ASKED, "kind": "search", "data": "e"}, "data, kind"),
    ],
)
def test_another_run_is_refused_by_what_differs(
    tmp_path: Path, other: dict[str, Any], named: str, resume: bool
) -> None:
    claim_run(tmp_path, ASKED, resume=False)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(RunError, match=rf"holds another run \(it differs in {named}\)"):
        claim_run(tmp_path, other, resume)
    assert (tmp_path / "run.json").read_bytes() == before


@pytest.mark.parametrize("name", ["thesis.tex", ".hidden", "run.json.bak"])
def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("years of work")
    with pytest.raises(RunError, match="exists and is not a run folder"):
        claim_run(tmp_path, ASKED, resume=True)
    assert [p.name for p in tmp_path.iterdir()] == [name]


# ---- the layout --------------------------------------------------------------------------

METHODS = ("monolithic", "no-search", "sseds", "seo")
QUICK = {"run_off.epochs": 1, "run_off.chunk_dims": (8,), "run_off.trivial_lookups": (2,)}


@pytest.fixture(scope="module")
def frontier(tiny_data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frontier of one budget, and of a method that has none; read-only."""
    out = tmp_path_factory.mktemp("runs") / "frontier"
    training = Training(ModelSettings(hidden=(8,)), FitSettings(epochs=1, batch_size=200))
    methods = (*METHODS, "collisionless")
    asked = Comparison(
        (tiny_data,), methods, 1600, seeds=1, training=training, settings={"seo": QUICK}
    )
    recipes.frontier(asked, (1600,), out)
    return out


def drawn() -> set[str]:
    """The names in the drawing that stands in front of the package."""
    text = runs.__doc__ or ""
    drawing = text[text.index("::") : text.index("``run.json`` says")]
    return set(re.findall(r"[a-z]+\.(?:jsonl|json|npz|png)|[a-z]+(?=/)", drawing))


def test_every_file_has_its_place_in_the_drawing(frontier: Path) -> None:
    """Of a frontier and all that is within it; below work/ and checkpoints/ a run is on its own."""
    allowed = drawn() | {"params-1600"}
    allowed |= {f"{m}-seed0" for m in (*METHODS, "collisionless")}
    searched = {p.stem for p in frontier.glob("params-1600/searches/seo-seed0/candidates/*")}
    assert len(searched) >= 4
    own = {layout.WORK_FOLDER, layout.CHECKPOINTS_FOLDER, layout.BEST_FOLDER, layout.BOARD_FOLDER}
    found = set()
    for path in frontier.rglob("*"):
        parts = path.relative_to(frontier).parts
        if not own & {*parts[:-1]} and path.stem not in searched and path.name[0] != ".":
            found.add(path.name)
    assert found <= allowed
    named = {v for k, v in vars(layout).items() if k.endswith(("_FILE", "_FOLDER", "_PICTURE"))}
    assert named == drawn()


def test_folders_are_where_the_layout_says(frontier: Path) -> None:
    compared = layout.budget_folder(frontier, 1600)
    assert (compared / layout.RESULTS_FILE).is_file()
    for method in METHODS:
        assert (layout.training_folder(compared, method, 0) / layout.RESULT_FILE).is_file()
        searched = layout.search_folder(compared, method, 0)
        assert searched.exists() == (method in ("sseds", "seo"))
        if searched.exists():
            names = {p.name for p in searched.iterdir()}
            assert names >= {"run.json", "policy.json", "searched.json", "search.json"}
            assert (layout.CANDIDATES_FOLDER in names) == (method == "seo")
        assert layout.work_folder(compared, method, 0).exists() == (method in ("sseds", "seo"))


# ---- records -----------------------------------------------------------------------------


def test_lines_of_older_releases_are_read_and_damaged_ones_left_out(
    frontier: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    # a library's logging set-up, run by another test in this process, may disable all loggers
    monkeypatch.setattr(records.log, "disabled", False)
    lines = (frontier / "params-1600" / "results.jsonl").read_text().splitlines()
    first, *_ = map(json.loads, lines)
    later = ("search_peak_bytes", "num_bytes", "still_improving")
    older = {k: v for k, v in first.items() if k not in later}
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join([json.dumps(older), lines[1], lines[2][:60], '{"method": "x"}']))
    with caplog.at_level(logging.WARNING, "seo_rec"):
        old, new = runs.read_runs(path)
    assert new.to_json() == json.loads(lines[1])
    assert old.to_json() == {**older, "search_peak_bytes": 0, "num_bytes": 0} | {
        "still_improving": False
    }
    assert len(caplog.records) == 2


def test_results_say_what_was_asked_and_stored(frontier: Path) -> None:
    found = runs.read_runs(frontier / "params-1600" / "results.jsonl")
    assert [r.method for r in found] == list(METHODS)
    for run in found:
        folder = layout.training_folder(frontier / "params-1600", run.method, 0)
        policy = Policy.load(folder / "policy.json")
        assert run.to_json() == json.loads((folder / "result.json").read_text())
        assert (run.budget, run.embedding_params) == (1600, policy.num_params)
        assert run.num_bytes == policy.num_bytes and run.policy == describe(policy)
        assert policy.budget is not None and policy.budget.params == 1600
        assert policy.decision is not None and policy.decision["method"] == run.method
        assert policy.decision["searched"] == (run.method != "monolithic")
    (free,) = runs.read_runs(frontier / "unbudgeted" / "results.jsonl")
    assert (free.method, free.budget) == ("collisionless", None)


def test_a_search_says_what_it_came_to(frontier: Path) -> None:
    for method in ("sseds", "seo"):
        folder = layout.search_folder(frontier / "params-1600", method, 0)
        record = json.loads((folder / "search.json").read_text())
        assert set(record) == {f.name for f in fields(SearchRecord)}
        assert SearchRecord(**record).to_json() == record
        policy = Policy.load(folder / "policy.json")
        assert record["decision"] == policy.decision and record["params"] == policy.num_params
        found = recipes.read_search(folder)
        assert found.policy == policy and found.winner == record["winner"]
        assert (found.seconds, found.peak_bytes) == (record["seconds"], record["peak_bytes"])
        if method == "sseds":  # no choice between candidates: the search is its own winner
            assert record["winner"] == "sseds" and found.searched == policy
            assert policy.decision["kind"] == "search"


def test_what_is_read_for_a_report_is_what_was_written(frontier: Path) -> None:
    found = reading.read([frontier])
    written = [
        *runs.read_runs(frontier / "params-1600" / "results.jsonl"),
        *runs.read_runs(frontier / "unbudgeted" / "results.jsonl"),
    ]
    assert found.notes == ()
    by_method = {t.method: t for t in found.trainings}
    assert set(by_method) == {r.method for r in written}
    for run in written:
        read = by_method[run.method]
        assert (read.params, read.budget, read.test_auc) == (
            run.embedding_params,
            run.budget,
            run.test_auc,
        )
        assert (read.search_seconds, read.seed) == (run.search_seconds, run.seed)
        assert read.policy == Policy.load(read.folder / "policy.json")
        assert len(read.curve) == run.epochs == 1
    assert {s.winner for s in found.searches} >= {"sseds"}
    (seo,) = (s for s in found.searches if s.candidates)
    assert seo.decision == seo.policy.decision and seo.budget == 1600
    assert {c.name for c in seo.candidates} == set(seo.policies)


def test_a_policy_with_arrays_in_a_few_words() -> None:
    flat = Feature("y", (Lookup("m", "blocks", block=2, width=3),))
    policy = Policy(
        (Table("a", 10, 4),), (Feature("x", (Lookup("a"),)), flat), arrays=(Array("m", 9),)
    )
    assert describe(policy) == "1 table (10x4), 1 array (9); 2 features x 1"
