"""Benchmarks of the papers' own regimes: what they run, that they resume, what their pages say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.accuracy import mlet_regime, seo_grid, unified
from benchmarks.pages import inference as inference_page
from benchmarks.pages import mlet_regime as mlet_regime_page
from benchmarks.pages import seo_grid as seo_grid_page
from benchmarks.pages import unified_grid as unified_grid_page
from benchmarks.record import read
from benchmarks.speed import inference
from cases import SCHEMAS
from seo_rec import recipes
from seo_rec.backbones import build_backbone
from seo_rec.data.dataset import open_data
from seo_rec.methods import find_method
from seo_rec.policy import Policy, PolicyError
from seo_rec.search.seo import search_space, select
from seo_rec.settings import FitSettings

Line = dict[str, Any]


# ---- SEO ---------------------------------------------------------------------------------------


def test_the_grid_of_seo_is_that_of_appendix_d() -> None:
    cells = list(seo_grid.PLANS["grid"].cells())
    assert {c.rows for c in cells} == {1000, 6000, 14000}
    assert {c.hidden for c in cells} == {(256, 128), (128, 64), (64, 32)}
    assert len({c.seed for c in cells}) == 5 and len(cells) == len(set(cells)) == 5 * 9 * 14
    assert all(c.at_budget and c.reading == "global" for c in cells)


def test_appliers_store_the_budget_or_the_rows_of_their_search() -> None:
    """Four chunk tables of 8 floats: 192,000 floats without adjustment, 96,000 with it."""
    F = len(SCHEMAS["three"].features)
    for adjusts, floats in ((False, 192_000), (True, 96_000)):
        search = seo_grid.Cell(6000, (8,), 0, "search", adjusts=adjusts)
        settings = search.settings("shared")
        space = search_space(SCHEMAS["three"], settings, 0)
        alpha = torch.rand(F, 4, generator=torch.Generator().manual_seed(1))
        alpha[0] += 1.0  # the first feature takes all four
        chosen = select(space, alpha, settings.chosen(F), 0)
        for model in seo_grid.APPLIERS:
            cell = replace(search, model=model)
            at_budget = seo_grid.applied(cell, chosen)
            searched = seo_grid.applied(replace(cell, at_budget=False), chosen)
            assert (at_budget.num_params, searched.num_params) == (96_000, floats)
            assert searched.features == at_budget.features and searched.budget is None


def test_cells_of_one_policy_share_a_training(tiny: Path, tmp_path: Path) -> None:
    """A search of the budget's size keeps its rows, whether they are fitted or not."""
    data, cell = open_data(tiny), seo_grid.Cell(50, (8,), 0, "exact", adjusts=True)
    quick = FitSettings(epochs=1, batch_size=200)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seo_grid, "FitSettings", lambda **given: quick)
        for adjusts, fits in product((True, False), (True, False)):
            here = replace(cell, adjusts=adjusts, at_budget=fits)
            policy = seo_grid.policy_of(here, data, "shared", tmp_path)
            plain = replace(policy, provenance={}, budget=None)
            found[adjusts, fits] = seo_grid.digest(plain)
    assert found[True, True] == found[True, False]
    assert len({found[True, True], found[False, True], found[False, False]}) == 3


def test_per_feature_takes_the_best_chunks_of_each() -> None:
    settings = seo_grid.Cell(100, (8,), 0, "exact").settings("shared")
    space = search_space(SCHEMAS["three"], settings, 0)
    alpha = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.1, 0.4, 0.2, 0.3], [0.01, 0.0, 0.03, 0.02]])
    total = settings.chosen(3)
    chosen = select(space, alpha, total, total // 3)
    names = [k.table for k in space.features[0].lookups]
    read = [[names.index(k.table) for k in f.lookups] for f in chosen.features]
    assert read == [[0, 1], [1, 3], [2, 3]]


def seo_line(cell: seo_grid.Cell, test: float, floats: int) -> Line:
    line = {**seo_grid.what_of(cell, "f", "shared"), "data": "d", "val_auc": test}
    line |= {"test_auc": test, "embedding_params": floats}
    return json.loads(json.dumps(line))  # type: ignore[no-any-return]


def test_the_pages_of_seo_show_cells_and_stored_floats() -> None:
    grid = seo_grid.Plan((6000,), ((256, 128),), (0, 1))
    plans = {"grid": grid, "table2": replace(grid, readings=seo_grid.READINGS)}
    aucs = {"separate": 0.80, "monolithic": 0.85, "search": 0.84, "exact": 0.86, "rr": 0.87}
    cells = [c for p in plans.values() for c in p.cells()]
    lines = [
        seo_line(c, aucs[c.model] + 0.001 * c.seed + 0.01 * c.projects, 96_000 * (2 - c.adjusts))
        for c in dict.fromkeys(cells)
        if not (c.seed == 1 and c.reading == "per-feature")
    ]
    page = "\n".join(seo_grid_page.region(lines, plans))
    assert "d, fingerprint `f`, `grid`: 28 of 28 planned trainings are recorded." in page
    assert "`table2`: 36 of 44 planned trainings are recorded." in page
    assert (
        "| 6,000 | 256-128 | 0.80050 ± 0.00071 | 0.85050 ± 0.00071 | 0.87050 ± 0.00071 | 0.88050 "
        "± 0.00071 | +0.03000 ± 0.00000 |" in page
    )
    assert "monolithic 0.85050, seeds 0, 1." in page
    assert "0.86050; +0.01000 ± 0.00000; 192,000 | 0.86050; +0.01000 ± 0.00000; 96,000" in page
    assert "| exact | per-feature | of the budget | 0.86000; +0.01000; 192,000 |" in page
    (best,) = (row for row in page.split("\n") if row.startswith("| exact | global | of"))
    assert best.endswith("| 0.85246 | 0.83343 | 0.85310 | 0.83348 |")  # Table 1's best is exact
    assert "630 (`grid`), 190 (`table2`), 40 (`table2-short`)" in seo_grid_page.region([])[0]


def test_short_trainings_are_told_from_whole_ones() -> None:
    """A page of short trainings takes none of the whole ones, and the other way round."""
    short = seo_grid.PLANS["table2-short"]
    cells = list(short.cells())
    assert {(c.projects, c.training.fit.epochs) for c in cells} == {(False, seo_grid.SHORT)}
    assert {c.training.fit.row_lr for c in cells} == {seo_grid.SHORT_RATE}
    assert seo_grid.Cell(6000, (8,), 0, "search").training.fit.epochs == seo_grid.LONG
    short = replace(short, seeds=(0, 1))
    whole = replace(short, configs=seo_grid.CONFIGS, epochs=seo_grid.LONG)
    plans = {"table2": whole, "table2-short": short}
    lines = [seo_line(c, 0.8 + 0.01 * c.seed, 96_000) for c in short.cells()]
    lines += [seo_line(next(whole.cells()), 0.9, 96_000)]
    page = "\n".join(seo_grid_page.region(lines, plans))
    assert "`table2`: 1 of 76 planned" in page and "`table2-short`: 40 of 40 planned" in page
    assert "monolithic 0.80500, seeds 0, 1." in page and page.count("| search |") == 1
    assert "projected" not in page


def test_seos_grid_runs_once(
    tiny: Path,
    tmp_path: Path,
    command: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Baselines, then a search and its appliers, of which each is trained once."""
    monkeypatch.setattr(seo_grid, "RECORD", tmp_path / "seo.jsonl")
    quick = lambda **given: FitSettings(**{**given, "epochs": 1, "batch_size": 200})  # noqa: E731
    monkeypatch.setattr(seo_grid, "FitSettings", quick)
    asked = ("table2", "--data", tiny, "--record", "--out", tmp_path / "runs", "--seeds", 0, 1)
    asked = (*asked, "--budgets", 50, "--hidden", "8,4", "--limit")
    command(seo_grid, *asked, 3)
    command(seo_grid, *asked, 3, "--readings", "global")
    lines = read(seo_grid.RECORD)
    models = ["separate", "monolithic", "search", "exact", "rr", "exact"]
    assert [x["cell"]["model"] for x in lines] == models
    assert [x["cell"]["at_budget"] for x in lines[-3:]] == [True, True, False]
    assert [x["embedding_params"] for x in lines[:2]] == [50 * 16] * 2
    command(seo_grid, *asked, 9, "--models", "separate", "search", "--readings", "global")
    assert [x["cell"]["adjusts"] for x in read(seo_grid.RECORD)[6:]] == [True, False, True]
    runs = tmp_path / "runs"
    assert len(list((runs / "attentions").iterdir())) == 4
    assert len(list(runs.iterdir())) == 1 + 5  # the attention, and all lines but the search's


# ---- Unified Embedding -------------------------------------------------------------------------


def test_the_grid_of_unified_embedding_is_the_papers() -> None:
    """Appendix B of the paper, at the width of MovieLens-1M; blocks of 30 / 2, 4, 8, 16 floats."""
    grid = unified.paper_grid(30)
    ends = {"ROBE-Z": ("15", "8", "4", "2"), "PQ": ("2", "3", "4", "8", "16")}
    shares = [f"{k}-p{p}" for k in (2, 3) for p in (0.05, 0.1, 0.2)]
    assert grid["Multiplex HashEmb"] == tuple(f"multiplexed-hash-embedding-{x}" for x in shares)
    assert grid["ROBE-Z Embedding"] == tuple(f"robe-{z}" for z in ends["ROBE-Z"])
    assert grid["PQ Embedding"] == tuple(f"pq-{k}" for k in ends["PQ"])
    assert grid["QR Embedding"] == ("qr-2", "qr-3", "qr-4")
    assert grid["Hashing Trick"] == ("hashing-trick",)
    assert list(grid) == list(unified.ROWS)
    for methods in grid.values():
        assert all(m == "seo" or find_method(m) is not None for m in methods), methods
    assert unified.paper_grid(12)["PQ Embedding"] == ("pq-2", "pq-3", "pq-4", "pq-8")


def test_a_grid_point_that_no_budget_holds_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    class Runs:
        def line(self, row: str, method: str, params: int, seed: int) -> Line:
            if method == "pq-2":
                raise PolicyError("too small")
            return {"val_auc": {"pq-3": 0.7, "pq-4": 0.6}[method]}

    runs: Any = Runs()
    assert unified.chosen(runs, "PQ", ("pq-2", "pq-3", "pq-4"), 10) == "pq-3"
    assert "pq-2" in capsys.readouterr().out
    assert unified.chosen(runs, "PQ", ("pq-2", "pq-2"), 10) is None


def test_short_trainings_are_no_figures_of_table_1(
    tiny: Path, tmp_path: Path, command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have a record and folders of their own, and another digest of their settings."""
    whole = unified.STUDIES["movielens-1m"]
    fit = FitSettings(epochs=2, batch_size=200)
    study = replace(whole, name=open_data(tiny).schema.dataset, budgets=(1500,), fit=fit)
    monkeypatch.setattr(unified, "STUDIES", {study.name: study})
    monkeypatch.setattr(unified, "RECORD", tmp_path / "unified.jsonl")
    monkeypatch.setattr(unified, "GRID_RECORD", tmp_path / "grid.jsonl")
    asked = ("--data", tiny, "--rows", "QR Embedding", "Multiplex QR", "--grid", "--epochs", 1)
    asked = (*asked, "--seeds", 1, "--out", tmp_path / "runs", "--record")
    command(unified, *asked)
    assert not unified.RECORD.exists()
    lines = read(unified.GRID_RECORD)
    assert {x["row"] for x in lines} >= {"Multiplex QR"}
    assert {(x["epochs"], x["fit"]["epochs"]) for x in lines} == {(1, 1)}
    assert study.settings("qr-2") not in {x["settings"] for x in lines}
    folders = {p.name for p in (tmp_path / "runs").iterdir()}
    assert folders == {f"{study.name}-1500-1-epochs"}
    monkeypatch.setattr(recipes, "train", None)
    command(unified, *asked)
    assert "1,500 floats, 1 epochs:" in "\n".join(unified_grid_page.region(lines))


def test_the_page_of_the_grid_marks_what_seed_0_chooses() -> None:
    """pq-3 is chosen on validation rows of seed 0, although pq-2 has the higher test AUC."""
    known = {"study": "d", "row": "PQ", "budget": 1000, "fit": {"epochs": 3}}
    aucs = {"pq-2": (0.70, 0.82), "pq-3": (0.71, 0.80)}
    lines = [
        {**known, "method": m, "seed": s, "val_auc": val, "test_auc": test + 0.01 * s}
        for m, (val, test) in aucs.items()
        for s in (0, 1)
    ]
    lines += [{**known, "row": "One", "method": "one", "seed": 0, "val_auc": 0.6, "test_auc": 0.6}]
    page = unified_grid_page.region(lines)
    assert page[0] == "d, 1,000 floats, 3 epochs:"
    assert "| PQ | `pq-2` | 0, 1 | 0.70000 | 0.82500 ± 0.00500 | +0.02000 ± 0.00000 |" in page
    assert "| PQ | **`pq-3`** | 0, 1 | 0.71000 | 0.80500 ± 0.00500 | — |" in page
    assert any(row.startswith("| One | `one` | 0 | 0.60000 |") for row in page)
    assert unified_grid_page.region([]) == ["Nothing is recorded yet."]


# ---- MLET --------------------------------------------------------------------------------------


def mlet_line(cell: mlet_regime.Cell, val: float, test: float) -> Line:
    line = {**mlet_regime.what_of(cell, "f"), "data": "d", "val_auc": val, "test_auc": test}
    return json.loads(json.dumps(line))  # type: ignore[no-any-return]


def test_the_regime_moves_all_weights_by_one_optimizer() -> None:
    for backbone, (name, lr) in {"dcn": ("adagrad", 0.02), "dlrm": ("sgd", 0.2)}.items():
        fit = mlet_regime.Cell(backbone, 4, 64, 8, 0).fit
        assert (fit.row_optimizer, fit.dense_optimizer) == (name, name)
        assert (fit.dense_lr, fit.row_lr, fit.epochs, fit.row_l2) == (lr, 8 * lr, 1, 0)


@pytest.mark.parametrize("backbone", mlet_regime.REGIMES)
def test_a_regime_can_be_built_for_data_without_numeric_columns(backbone: str) -> None:
    settings = mlet_regime.Cell(backbone, 4, 64, 1, 0).model
    made = build_backbone(backbone, 0, [4, 4], settings.hidden, 0.0, settings.interaction)
    assert made(torch.zeros(3, 0), torch.ones(3, 8)).shape == (3,)


def test_the_step_size_explains_its_part_of_the_gain() -> None:
    """Factor 2 has the best validation AUC of one layer; its test AUC has 0.03 of MLET's 0.04."""
    plan = mlet_regime.Plan(("dcn",), (4, 8), 16, (1.0, 2.0, 4.0), (0, 1))
    val = {0: {1: 0.5, 2: 0.7, 4: 0.6}, 16: {1: 0.7, 2: 0.6, 4: 0.8}}
    test = {0: {1: 0.50, 2: 0.53, 4: 0.59}, 16: {1: 0.54, 2: 0.50, 4: 0.55}}
    lines = [
        mlet_line(c, val[c.k][int(c.factor)], test[c.k][int(c.factor)] + 0.1 * c.seed)
        for c in plan.cells()
        if (c.d, c.seed, c.k, c.factor) != (8, 1, 16, 4)  # leaves width 8 with one seed
    ]
    lines = [{**lines[0], "test_auc": 0.9}, *lines]  # the last line of a cell counts
    page = "\n".join(mlet_regime_page.region(lines, plan))
    assert "d, fingerprint `f`: 23 of 24 planned runs are recorded." in page
    assert "`dcn`, test AUC, d = 4: seeds 0, 1; d = 8: seed 0:" in page
    assert (
        "| 4 | 0.55000 | 0.59000; +0.04000 ± 0.00000 (p n/a) | ×2: 0.58000; +0.03000 ± 0.00000 "
        "(p n/a) | 75 % | ×4: 0.60000; +0.05000 ± 0.00000 (p n/a) |" in page
    )
    assert "| 8 | one layer | 0.50000 | 0.53000 | 0.59000 |" in page
    assert "planned runs" not in "".join(mlet_regime_page.region([], plan))


def test_mlets_regime_runs_once(
    tiny: Path,
    tmp_path: Path,
    command: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A study that was stopped goes on, and what is recorded is not trained again."""
    monkeypatch.setattr(mlet_regime, "RECORD", tmp_path / "mlet.jsonl")
    monkeypatch.setattr(mlet_regime, "BATCH", 200)
    small = ("--data", tiny, "--record", "--out", tmp_path / "runs", "--only", "dcn", "--widths", 2)
    small = (*small, "--inner", 3, "--factors", 1, "--seeds", 0, 1)
    command(mlet_regime, *small, "--limit", 1)
    assert [x["cell"]["k"] for x in read(mlet_regime.RECORD)] == [0]
    command(mlet_regime, *small)
    lines = read(mlet_regime.RECORD)
    assert [x["cell"]["k"] for x in lines] == [0, 3]
    assert lines[0]["fit"]["dense_optimizer"] == "adagrad" and lines[0]["epochs"] == 1
    monkeypatch.setattr(recipes, "train", None)
    command(mlet_regime, *small)
    plan = replace(mlet_regime.Plan(), backbones=("dcn",), widths=(2,), inner=3, factors=(1.0,))
    page = "\n".join(mlet_regime_page.region(lines, replace(plan, seeds=(0,))))
    assert "2 of 2 planned runs" in page and "`dcn`, test AUC, d = 2: seed 0:" in page


# ---- OptEmbed ----------------------------------------------------------------------------------


def test_times_are_compared_within_a_round() -> None:
    """Every policy is called in every round, and the page has the original first."""
    done: list[str] = []
    calls = {n: {"model 1": lambda n=n: done.append(n)} for n in ("collisionless", "b", "a")}
    times = inference.timed(calls, 2)
    assert {n: len(ms["model 1"]) for n, ms in times.items()} == dict.fromkeys(calls, 2)
    assert [done[i * inference.CALLS[1]] for i in range(6)] == [
        "collisionless", "b", "a", "b", "a", "collisionless",
    ]  # fmt: skip
    found = {"params": 10, "over_original": {"model 1": 1.25}}
    what = {"data": "d", "data_fingerprint": "f", "backbone": "mlp", "params": 10}
    page = inference_page.region([{**what, "policies": {"a": found, "collisionless": found}}])
    assert page[-4:] == [
        "|---|---|---|",
        "| collisionless | 10 | 1.25 |",
        "| a | 10 | 1.25 |",
        "",
    ]
    assert inference_page.region([]) == ["Nothing is recorded yet."]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["no-search", "optembed"])
def test_policies_are_timed_beside_the_original(
    method: str,
    tiny: Path,
    tmp_path: Path,
    command: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The package is compared with the model before it is timed, for codes and projections too."""
    monkeypatch.setattr(inference, "RECORD", tmp_path / "inference.jsonl")
    monkeypatch.setattr(inference, "CALLS", {1: 2, 64: 2})
    asked = ("--data", tiny, "--params", 2000, "--rounds", 2, "--out", tmp_path / "runs")
    command(inference, *asked, "--methods", method, "multi-size-2", "--record")
    (line,) = read(inference.RECORD)
    assert set(line["policies"]) == {"collisionless", method, "multi-size-2"}
    for name, found in line["policies"].items():
        over = found["over_original"]
        assert set(over) == {"model 1", "package 1", "model 64", "package 64"}
        assert min(over.values()) > 0
        assert name == "collisionless" or found["params"] <= 2000
    assert set(line["policies"]["collisionless"]["over_original"].values()) == {1.0}
    assert "| policy | floats | model 1 row | package 1 row | model 64 rows |" in (
        capsys.readouterr().out
    )


# ---- lookups of single features ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "change", "reads"),
    [
        ("multi-size-2", "lookups=strong_0:4,noise_0:1", {"strong_0": 4, "noise_0": 1}),
        ("multi-size-2", "lookups=strong_0:1", {"strong_0": 1}),
    ],
)
def test_the_command_trains_features_of_several_widths(
    method: str,
    change: str,
    reads: dict[str, int],
    seo_rec: Callable[..., Any],
    tiny: Path,
    tmp_path: Path,
) -> None:
    """Named features read as many rows as they are given, the others dim / chunk_dim."""
    quickly = ["--epochs", "1", "--batch-size", "200", "--hidden", "8", "--threads", "1"]
    asked = ["--method", method, "--params", "900", "--dim", "4", "--set", change]
    done = seo_rec("train", tiny, "--out", tmp_path / "r", *asked, *quickly)
    assert done.code == 0, done.err
    policy = Policy.load(tmp_path / "r/policy.json")
    assert {f.name: len(f.lookups) for f in policy.features} == {
        f.name: reads.get(f.name, 2) for f in policy.features
    }
    assert {t.dim for t in policy.tables} == {2} and 900 - 2 < policy.num_params <= 900


def test_a_number_of_lookups_that_is_none_is_named_before_any_training(
    seo_rec: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    asked = ["--method", "multi-size-2", "--params", "900", "--dim", "4", "--set", "lookups=user:4"]
    done = seo_rec("train", tiny, "--out", tmp_path / "r", *asked)
    assert done.code != 0 and not (tmp_path / "r").exists()
    assert "lookups 'user:4'; allowed: FEATURE:NUMBER" in done.err
