"""Benchmarks that train: what was refused, what counts as done, what a line of the record holds."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from benchmarks.accuracy import combined, dimgrow, evidence, mlet, optembed, unified
from benchmarks.command import leave_nothing
from benchmarks.record import read
from seo_rec import recipes
from seo_rec.data.dataset import open_data
from seo_rec.methods import Mlet
from seo_rec.policy import Policy
from seo_rec.search.mixed_dimension import MixedDimensionSettings, mixed_dimension
from seo_rec.search.no_search import NoSearchSettings, no_search
from seo_rec.search.optembed import OptEmbedSettings
from seo_rec.search.run_off import RunOff
from seo_rec.search.seo import SeoSettings
from seo_rec.settings import FitSettings, Training

FIT = FitSettings(epochs=1, batch_size=200)


def test_mlet_is_tuned_first_and_runs_once(
    tiny: Path,
    tmp_path: Path,
    command: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(mlet, "RECORD", tmp_path / "mlet.jsonl")
    small = ("--data", tiny, "--record", "--out", tmp_path / "runs", "--rates", 2e-3, "--l2s", 0)
    small = (*small, "--epochs", 1)
    small = (*small, "--stds", 0.5, "--only", "mlp", "--widths", 2, "--inner", 3, "--seeds", 0, 1)
    with pytest.raises(SystemExit):
        command(mlet, "auc", *small)
    assert "run `tune --record` first" in capsys.readouterr().err
    for part in ("tune", "auc", "auc"):
        command(mlet, part, *small)
    assert [x["part"] for x in read(mlet.RECORD)] == ["tune"] * 2 + ["auc"] * 2
    assert capsys.readouterr().out.endswith("2 of 2 runs hit the limit of epochs\n")


@pytest.fixture
def searches(tiny: Path, tmp_path: Path) -> Path:
    settings = MixedDimensionSettings(params=800, max_dim=8)
    folder = tmp_path / "searches" / "mixed-dimension-seed0"
    folder.mkdir(parents=True)
    found = mixed_dimension(open_data(tiny), settings, Training(fit=FIT))
    found.policy.save(folder / "policy.json")
    return folder.parent


def test_a_line_is_done_when_it_is_recorded(
    tiny: Path,
    tmp_path: Path,
    searches: Path,
    command: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A finished run without its line is recorded, and not trained again."""
    record = tmp_path / "combined.jsonl"
    monkeypatch.setattr(combined, "RECORD", record)
    quick = lambda **given: FitSettings(**{**given, "epochs": 1, "batch_size": 200})  # noqa: E731
    monkeypatch.setattr(combined, "FitSettings", quick)
    asked = ("--data", tiny, "--searches", searches, "--methods", "mixed-dimension", "--seeds", 1)
    asked = (*asked, "--params", 800, "--chunk-dims", 2, "--forms", "chunks")
    asked = (*asked, "--out", tmp_path / "runs")
    command(combined, *asked)
    assert not record.exists()
    monkeypatch.setattr(recipes.training, "fit_policy", None)
    command(combined, *asked, "--record")
    command(combined, *asked, "--record")
    (line,) = read(record)
    for words in ("--params 800", "--chunk-dims 2", "--lr 0.002", f"--searches {searches}"):
        assert words in line["command"]


def test_pruned_tables_beside_chunks_spend_one_budget(tiny: Path) -> None:
    """A feature that the search dropped has chunks alone."""
    data = open_data(tiny)
    settings = NoSearchSettings(params=800, max_dim=8, address="id")
    own = no_search(data, settings, Training(fit=FIT)).policy
    gone = own.features[-1]
    tables = tuple(t for t in own.tables if t.name not in {k.table for k in gone.lookups})
    ids = {name: v for name, v in own.vocabularies.items() if name != gone.name}
    own = replace(
        own, tables=tables, features=own.features[:-1], dropped=(gone.name,), vocabularies=ids
    )
    found = combined.beside(own, data, 1600, 4, 0)
    assert [f.name for f in found.features] == [c.name for c in data.schema.features]
    assert not found.dropped and 1600 - 4 < found.num_params <= 1600
    lookups = {f.name: [k.address for k in f.lookups] for f in found.features}
    assert lookups.pop(gone.name) == ["hash"] * 4
    assert all(x[0] == "id" and x[-4:] == ["hash"] * 4 for x in lookups.values())
    with pytest.raises(ValueError, match="divisors of 16"):
        combined.beside(own, data, 1600, 3, 0)


def test_a_search_at_half_the_budget_is_combined_and_recorded(
    tiny: Path, tmp_path: Path, command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(combined, "RECORD", tmp_path / "combined.jsonl")
    quick = lambda **given: FitSettings(**{**given, "epochs": 1, "batch_size": 200})  # noqa: E731
    monkeypatch.setattr(combined, "FitSettings", quick)
    fast = lambda **given: OptEmbedSettings(**given, generations=1)  # noqa: E731
    monkeypatch.setattr(combined, "OptEmbedSettings", fast)
    asked = ("--data", tiny, "--forms", "beside", "--seeds", 1, "--params", 1600)
    command(combined, *asked, "--chunk-dims", 4, "--out", tmp_path / "runs", "--record")
    (line,) = read(combined.RECORD)
    assert line["method"] == "optembed-beside-4" and line["embedding_params"] <= 1600
    with pytest.raises(SystemExit):
        command(combined, "--data", tiny)


def test_searches_that_do_not_fit_are_refused(tiny: Path, tmp_path: Path, searches: Path) -> None:
    data, path = open_data(tiny), searches / "mixed-dimension-seed0" / "policy.json"
    found = combined.read_policy(path, data, 800)
    with pytest.raises(ValueError, match="at a budget of 800 parameters and --params is 900"):
        combined.read_policy(path, data, 900)
    other = replace(found, provenance={**found.provenance, "data_fingerprint": "b"})
    fewer = {name: ids[:-1] for name, ids in found.vocabularies.items()}
    assert fewer, "no feature has an id table, so this test says nothing"
    pruned = replace(found, vocabularies=fewer)
    shared = recipes.method_policy("monolithic", data, 800, 8)
    arguments = {**shared.provenance["arguments"], "params": 800}
    shared = replace(shared, provenance={**shared.provenance, "arguments": arguments})
    cases: dict[str, Policy] = {
        "of the data b": other,
        "are pruned, and chunk tables": pruned,
        "share no table": shared,
    }
    for says, policy in cases.items():
        policy.save(tmp_path / "p.json")
        with pytest.raises(ValueError, match=says):
            combined.read_policy(tmp_path / "p.json", data, 800)


def test_optembed_runs_once_with_epochs_of_its_own(
    tiny: Path, tmp_path: Path, command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optembed, "RECORD", tmp_path / "optembed.jsonl")
    asked = ("--data", tiny, "--out", tmp_path / "runs", "--record", "--backbones", "fnn")
    asked = (*asked, "--variants", "original", "full", "--seeds", 1, "--batch-size", 200)
    asked = (*asked, "--generations", 1, "--search-epochs", 1, "--epochs", 2)
    for _ in range(2):
        command(optembed, *asked)
    original, full = read(optembed.RECORD)
    assert (original["train_epochs"], full["train_epochs"]) == (2, 2)
    assert "supernet" not in original and 0 <= full["sparsity"] < 1
    (folder,) = (tmp_path / "runs").glob("*-full-*")
    assert json.loads((folder / "search" / "run.json").read_text())["fit"]["epochs"] == 1


def test_dimgrow_runs_once_in_a_folder_of_its_data(
    tiny: Path,
    tmp_path: Path,
    command: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(dimgrow, "RECORD", tmp_path / "dimgrow.jsonl")
    asked = ("widths", "--data", tiny, "--out", tmp_path / "runs", "--record", "--epochs", 1)
    asked = (*asked, "--seeds", 1, "--shares", 0.5)
    for _ in range(2):
        command(dimgrow, *asked, "--methods", "no-search", "sseds")
    whats = [line["what"] for line in read(dimgrow.RECORD)]
    assert [(x["method"], x["share"]) for x in whats] == [
        ("no-search", 0.0),
        ("sseds", 0.5),
        ("no-search", 0.5),
    ]
    fingerprint = open_data(tiny).fingerprint
    assert all(p.name.startswith(fingerprint) for p in (tmp_path / "runs").iterdir())
    capsys.readouterr()
    with pytest.raises(SystemExit):
        command(dimgrow, *asked, "--methods", "sseds", "--set", "alpha=1")
    assert "--set is for dimgrow" in capsys.readouterr().err


# ---- studies -----------------------------------------------------------------------------


def test_a_study_is_run_in_parts_and_recorded_once(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines say what a run took and chose; what does not fit is said, and the others go on."""
    space = SeoSettings(budget_rows=50, chunk_dim=4, search_dim=16)
    run_off = RunOff(epochs=1, chunk_dims=(4,), trivial_lookups=(2,), cost=0)
    methods = ("monolithic", "seo-rr", "seo", "no-search")
    part = evidence.Part("s", methods, space, FIT, run_off, 1, ("monolithic",))
    row = replace(space, budget_rows=1)
    small = evidence.Part("small", ("separate", "monolithic"), row, FIT, run_off, 1)
    monkeypatch.setitem(evidence.STUDIES, "movielens", lambda: [part, small])
    monkeypatch.setattr(evidence, "path_of", lambda name: tmp_path / f"{name}.jsonl")
    monkeypatch.setattr(evidence, "MLET", Mlet(dim=20, std=0.5))
    for only in ("s", "s", "small"):
        some = evidence.Some(parts=(only,))
        evidence.run("movielens", [tiny], tmp_path / "runs", some, record=True)
    assert "small, seed 0: separate:" in capsys.readouterr().out
    *recorded, last = read(tmp_path / "movielens.jsonl")
    assert (last["study"], last["method"], last["budget"]) == ("small", "monolithic", 16)
    lines = {line["method"]: line for line in recorded}
    assert set(lines) == {*methods, "monolithic+mlet"}
    assert {line["budget"] for line in lines.values()} == {800}
    assert lines["seo"]["winner"] and lines["seo-rr"]["winner"] is None
    assert lines["seo"]["search_peak_bytes"] and not lines["monolithic"]["search_peak_bytes"]
    assert lines["seo"]["search"] == {"chunk_dim": 4, "search_dim": 16}
    assert all(line["num_bytes"] >= 4 * line["embedding_params"] for line in lines.values())
    assert lines["monolithic"]["id_bytes"] == 0
    searches = read(tmp_path / "movielens-searches.jsonl")
    found = [(x["study"], x["chunk_dim"], x["embedding_params"]) for x in searches]
    assert found == [("s", 4, 800)]
    with pytest.raises(ValueError, match=r"part \['moon'\]; allowed: s, small"):
        evidence.Some(parts=("moon",)).check([part, small])


def test_a_row_of_table_1_is_trained_once(
    tiny: Path, tmp_path: Path, command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain row, a row of one's own size, and SEO, whose run-off is named."""
    data = open_data(tiny)
    study = unified.Study(
        data.schema.dataset,
        30,
        (1500,),
        SeoSettings(dim=30, chunk_dim=6, search_dim=60),
        RunOff(epochs=1, chunk_dims=(6,), trivial_lookups=(2,), cost=0),
        FIT,
        2,
    )
    monkeypatch.setattr(unified, "STUDIES", {study.name: study})
    monkeypatch.setattr(unified, "RECORD", tmp_path / "unified.jsonl")
    asked = ("--data", tiny, "--rows", "Collisionless", "Multi-size Unified", "SEO", "--seeds", 1)
    for _ in range(2):
        command(unified, *asked, "--out", tmp_path / "runs", "--record")
    lines = read(unified.RECORD)
    assert [x["method"] for x in lines] == ["collisionless", "multi-size-3", "multi-size-5", "seo"]
    assert [bool(x["winner"]) for x in lines] == [False, False, False, True]
    assert lines[-1]["search_seconds"] > 0 and lines[0]["search_seconds"] is None


def test_sigterm_leaves_no_temporary_folder() -> None:
    """As ``timeout`` sends it; the status is the shell's of the signal."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        leave_nothing()
        with pytest.raises(SystemExit) as ended, TemporaryDirectory() as folder:
            signal.raise_signal(signal.SIGTERM)
        assert ended.value.code == 143
        assert not Path(folder).exists()
    finally:
        signal.signal(signal.SIGTERM, before)
