"""The layout of run folders, and what is said before and after a run writes into one."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seo_rec import recipes, runs
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.embed.tables import table_key
from seo_rec.model import ModelSettings
from seo_rec.policy import Array, Feature, Lookup, Policy, Table
from seo_rec.policy.dtypes import dequantize_rows, quantize_rows
from seo_rec.runs import (
    RunError,
    claim_run,
    describe,
    layout,
    read_runs,
    reading,
)
from seo_rec.schema import DataError
from seo_rec.train import FitSettings, Training, eval_stream, evaluate
from test_runs import ASKED, SEO, TRAINING, trained

METHODS = ("monolithic", "no-search", "sseds", "seo")

# names in the drawing that a frontier of METHODS without a command, groups or tuning lacks
ELSEWHERE = {
    *("settings.json", "groups.json", "infeasible.json", "trained.json", "weights.npz"),
    *("collapsed", "attentions", "scores"),
    *("tunings", "trials", "owners", "journal.log", "tune.json", "tuned.json"),
    *("days", "periods", "replay.json"),
}

QUICK = {"run_off.epochs": 1, "run_off.chunk_dims": (8,), "run_off.trivial_lookups": (2,)}


@pytest.fixture(scope="module")
def frontier_folder(tiny_data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frontier of one budget, and of a method that has none; read-only."""
    out = tmp_path_factory.mktemp("runs") / "frontier"
    training = Training(ModelSettings(hidden=(8,)), FitSettings(epochs=1, batch_size=200))
    methods = (*METHODS, "collisionless")
    asked = recipes.Comparison(
        (tiny_data,), methods, 1600, seeds=1, training=training, settings={"seo": QUICK}
    )
    recipes.frontier(asked, (1600,), out)
    return out


def drawn() -> set[str]:
    """The names in the drawing that stands in front of the package."""
    text = runs.__doc__ or ""
    drawing = text[text.index("::") : text.index("``run.json`` says")]
    return set(re.findall(r"[a-z]+\.(?:jsonl|json|npz|png|log)|[a-z]+(?=/)", drawing))


def test_every_file_has_its_place_in_the_drawing(frontier_folder: Path) -> None:
    """Of a frontier and all that is within it; below work/ and checkpoints/ a run is on its own."""
    allowed = drawn() | {"params-1600"}
    allowed |= {f"{m}-seed0" for m in (*METHODS, "collisionless")}
    searched = {p.stem for p in frontier_folder.glob("params-1600/searches/seo-seed0/candidates/*")}
    assert len(searched) >= 2  # those of the last round
    own = {layout.WORK_FOLDER, layout.CHECKPOINTS_FOLDER, layout.BEST_FOLDER, layout.BOARD_FOLDER}
    found = set()
    for path in frontier_folder.rglob("*"):
        parts = path.relative_to(frontier_folder).parts
        if not own & {*parts[:-1]} and path.stem not in searched and path.name[0] != ".":
            found.add(path.name)
    assert found == allowed - ELSEWHERE
    named = {v for k, v in vars(layout).items() if k.endswith(("_FILE", "_FOLDER", "_PICTURE"))}
    assert named == drawn()


def test_folders_are_where_the_layout_says(frontier_folder: Path) -> None:
    compared = layout.budget_folder(frontier_folder, 1600)
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


def test_results_say_what_was_asked_and_stored(frontier_folder: Path) -> None:
    found = read_runs(frontier_folder / "params-1600" / "results.jsonl")
    assert [r.method for r in found] == list(METHODS)
    for run in found:
        folder = layout.training_folder(frontier_folder / "params-1600", run.method, 0)
        policy = Policy.load(folder / "policy.json")
        assert run.to_json() == json.loads((folder / "result.json").read_text())
        assert (run.budget, run.embedding_params) == (1600, policy.num_params)
        assert run.num_bytes == policy.num_bytes and run.policy == describe(policy)
        assert policy.budget is not None and policy.budget.params == 1600
        assert policy.decision is not None and policy.decision["method"] == run.method
        assert policy.decision["searched"] == (run.method != "monolithic")
    (free,) = read_runs(frontier_folder / "unbudgeted" / "results.jsonl")
    assert (free.method, free.budget) == ("collisionless", None)


def test_what_is_read_for_a_report_is_what_was_written(frontier_folder: Path) -> None:
    found = reading.read([frontier_folder])
    written = [
        *read_runs(frontier_folder / "params-1600" / "results.jsonl"),
        *read_runs(frontier_folder / "unbudgeted" / "results.jsonl"),
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
    assert seo.halving is not None
    courses = seo.halving.courses
    assert {c.name for c in seo.candidates} == {c.name for c in courses}
    # a policy is kept of each candidate of the last round, and of no other
    assert set(seo.policies) == {c.name for c in courses if c.left is None}
    assert seo.winner in seo.policies


def test_a_policy_with_arrays_in_a_few_words() -> None:
    flat = Feature("y", (Lookup("m", "blocks", block=2, width=3),))
    policy = Policy(
        (Table("a", 10, 4),), (Feature("x", (Lookup("a"),)), flat), arrays=(Array("m", 9),)
    )
    assert describe(policy) == "1 table (10x4), 1 array (9); 2 features x 1"


def test_the_same_data_by_another_path_are_the_same(tmp_path: Path) -> None:
    asked = {**ASKED, "data": "data/clicks", "data_fingerprint": "0a1b"}
    claim_run(tmp_path / "out", asked, resume=False)
    claim_run(tmp_path / "out", {**asked, "data": str(Path("data/clicks").absolute())}, resume=True)
    other = {**asked, "data": "data/others", "data_fingerprint": "2c3d"}
    with pytest.raises(RunError, match=r"differs in data, data_fingerprint\)"):
        claim_run(tmp_path / "out", other, resume=True)


def test_a_search_goes_on_with_the_data_by_an_absolute_path(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.parent)
    first = recipes.search("seo", open_data(tiny.name), tmp_path / "s", SEO, TRAINING)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s/work").rglob("*.json")}
    (tmp_path / "s/search.json").unlink()
    again = recipes.search("seo", open_data(tiny), tmp_path / "s", SEO, TRAINING, resume=True)
    assert again.policy == first.policy
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "s/work").rglob("*.json")}
    assert {p: t for p, t in after.items() if p.name != "run.json"} == {
        p: t for p, t in before.items() if p.name != "run.json"
    }


def test_a_model_is_evaluated_on_the_columns_it_knows(
    tiny: Path, tiny_data: DataSet, tmp_path: Path
) -> None:
    policy = recipes.method_policy("separate", tiny_data, 1600)
    recipes.train(tiny_data, policy, tmp_path / "t", TRAINING)
    schema = tiny_data.schema
    renamed = tuple(replace(c, name="price") if c.kind == "numeric" else c for c in schema.columns)
    other = DataSet(tiny, replace(schema, columns=renamed))
    with pytest.raises(RunError, match=r"in this order, and .* has \['price'\]"):
        recipes.evaluate_served(tmp_path / "t", other, "test")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_rows_is_said_before_anything_is_written(
    tiny: Path, tiny_data: DataSet, tmp_path: Path, split: str
) -> None:
    schema = replace(tiny_data.schema, num_rows={**tiny_data.schema.num_rows, split: 0})
    empty = DataSet(tiny, schema)
    policy = recipes.method_policy("separate", tiny_data, 1600)
    with pytest.raises(DataError, match=f"split {split} has no rows.*--fractions"):
        recipes.train(empty, policy, tmp_path / "t", TRAINING)
    with pytest.raises(DataError, match=f"split {split} has no rows"):
        recipes.search("seo", empty, tmp_path / "s", SEO, TRAINING)
    assert list(tmp_path.iterdir()) == []


def test_one_label_to_validate_by_is_said_before_anything_is_written(
    tiny: Path, tiny_data: DataSet, tmp_path: Path
) -> None:
    rates = {**tiny_data.schema.label_rate, "val": 0.0}
    data = DataSet(tiny, replace(tiny_data.schema, label_rate=rates))
    policy = recipes.method_policy("separate", tiny_data, 1600)
    with pytest.raises(DataError, match=r"0 positive rows of .*no AUC to stop at"):
        recipes.train(data, policy, tmp_path / "t", TRAINING)
    with pytest.raises(DataError, match=r"0 positive rows of .*no AUC to stop at"):
        recipes.search("seo", data, tmp_path / "s", SEO, TRAINING)
    assert list(tmp_path.iterdir()) == []


def test_a_run_off_that_cannot_decide_says_so(
    tiny_data: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    contest = sys.modules["seo_rec.search.run_off.contest"]
    monkeypatch.setattr(contest, "auc_gain", lambda *_, **__: (0.3, float("nan")))
    found = recipes.search("seo", tiny_data, tmp_path / "s", SEO, TRAINING)
    assert found.decision["winner"].startswith("trivial-")
    assert found.decision["standard_error"] is None
    assert "too few to decide" in caplog.text
    recipes.search("seo", tiny_data, tmp_path / "s", SEO, TRAINING, resume=True)
    (search,) = reading.read([tmp_path / "s"]).searches
    assert any(math.isnan(c.standard_error) for c in search.candidates)


def test_a_metric_that_is_no_number_is_null_in_files(tmp_path: Path, tiny_data: DataSet) -> None:
    policy = recipes.method_policy("separate", tiny_data, 1600)
    run = recipes.train(tiny_data, policy, tmp_path / "t", TRAINING)
    undefined = replace(run, test_auc=float("nan"), test_calibration=float("inf"))
    line = json.dumps(undefined.to_json(), allow_nan=False)
    (tmp_path / "results.jsonl").write_text(line + "\n")
    (again,) = runs.read_runs(tmp_path / "results.jsonl")
    assert math.isnan(again.test_auc) and math.isnan(again.test_calibration)
    assert replace(again, test_auc=run.test_auc, test_calibration=run.test_calibration) == run


def test_a_training_names_columns_of_large_numbers(
    tiny_data: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (numeric,) = (column.name for column in tiny_data.schema.numeric)
    monkeypatch.setattr("seo_rec.data.shards.LARGE", 1e-9)
    policy = recipes.method_policy("separate", tiny_data, 1600)
    fresh = open_data(tiny_data.path)
    recipes.train(fresh, policy, tmp_path / "t", TRAINING)
    recipes.search("seo", fresh, tmp_path / "s", replace(SEO, run_off=None), TRAINING)
    (said,) = [m for m in caplog.messages if "are large" in m]
    assert repr(numeric) in said


def test_a_model_is_evaluated_on_values_prepared_as_its_own(
    tiny: Path, tiny_data: DataSet, tmp_path: Path
) -> None:
    def prepared(**options: str) -> DataSet:
        schema = tiny_data.schema
        return DataSet(tiny, replace(schema, options={**schema.options, **options}))

    policy = recipes.method_policy("separate", tiny_data, 1600)
    recipes.train(prepared(numeric_rule="log"), policy, tmp_path / "t", TRAINING)
    other = prepared(numeric_rule="log", separator=";")
    recipes.evaluate_served(tmp_path / "t", other, "test")
    with pytest.raises(DataError, match=r"numeric_rule: 'log' there, 'none' here"):
        recipes.evaluate_served(tmp_path / "t", prepared(numeric_rule="none"), "test")
    with pytest.raises(DataError, match=r"numeric_rule: 'log' there, None here"):
        recipes.evaluate_served(tmp_path / "t", tiny_data, "test")
    asked = json.loads((tmp_path / "t/run.json").read_text())
    del asked["preparation"]  # as runs of earlier releases
    (tmp_path / "t/run.json").write_text(json.dumps(asked))
    recipes.evaluate_served(tmp_path / "t", tiny_data, "test")


@pytest.mark.parametrize("dtypes", [(), ("int8",), ("bfloat16", "int4")], ids="-".join)
def test_types_that_are_only_served_are_said(
    dtypes: tuple[str, ...],
    tiny_data: DataSet,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Bytes count them and metrics are of the stored rows: recorded and reported."""
    plain = recipes.method_policy("multi-size-2", tiny_data, 1600)
    chosen = zip(dtypes, plain.tables, strict=False)
    stored = {table.name: replace(table, dtype=dtype) for dtype, table in chosen}
    policy = replace(plain, tables=tuple(stored.get(t.name, t) for t in plain.tables))
    run = trained(tiny_data, policy, tmp_path / "run")
    assert run.num_bytes == policy.num_bytes <= plain.num_bytes
    types = sorted({t.dtype for t in policy.tables})
    assert run.precision == ", ".join(types)
    wanted = f"stored as {', '.join(types)} after the training" if dtypes else ""
    assert wanted in run.note and bool(run.note) == bool(dtypes)
    assert runs.precision_note(policy, as_served=True) == run.note
    # the model as it was trained, put through the reference of the types, scores the same
    model = recipes.load_trained(tmp_path / "run")
    for table in policy.tables:
        weight = model.embedding.ebc.embedding_bags[table_key(table.name)].weight.data
        rows = quantize_rows(weight.numpy(), table.dtype)
        weight.copy_(torch.from_numpy(dequantize_rows(rows, table.dim, table.dtype)))
    for split, auc in (("val", run.val_auc), ("test", run.test_auc)):
        metrics, _, _ = evaluate(model, eval_stream(tiny_data, split))
        assert metrics.auc == pytest.approx(auc, abs=1e-12)
        assert (
            recipes.evaluate_served(tmp_path / "run", tiny_data, split).metrics.auc == metrics.auc
        )
    (training,) = reading.read([tmp_path / "run"]).trainings
    assert training.description == "; ".join(filter(None, (describe(policy), run.note)))
    assert not [r for r in caplog.records if "float32" in r.getMessage()]
    assert ("do not show what they lose" in runs.precision_note(policy, False)) == bool(dtypes)
