"""The frontier: its comparisons, what it keeps, what is Pareto-optimal, what it shows."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats
from matplotlib.collections import PathCollection

from seo_rec import recipes, report
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.methods import Mlet
from seo_rec.model import ModelSettings
from seo_rec.policy import Policy, PolicyError
from seo_rec.recipes import Comparison, comparing
from seo_rec.recipes.frontier import collisionless_rows
from seo_rec.report.frontier import Point, figure, points, read_points
from seo_rec.runs import Run, RunError, reading
from seo_rec.search import registry
from seo_rec.train import FitSettings, Preempted, Training
from seo_rec.train.ranks import Ranks

AUC = {
    "separate": 0.6,
    "monolithic": 0.7,
    "multi-size": 0.65,
    "collisionless": 0.72,
    "monolithic+mlet": 0.71,
}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Method, budget and seed of what is trained from now on; the AUC is made up."""
    calls: list[tuple[str, int, int]] = []

    def fake(data: DataSet, policy: Policy, out: Path, training: Training, **more: Any) -> Run:
        method, budget = more["method"], more["budget"]
        seed = training.fit.seed
        calls.append((method, budget, seed))
        auc = AUC[method] + 1e-6 * policy.num_params + 0.01 * seed
        floats = dict.fromkeys(
            ("val_logloss", "test_logloss", "test_normalized_entropy", "test_calibration"), 0.5
        )
        times = dict.fromkeys(("seconds_per_epoch", "seconds", "search_seconds"), 1.0)
        return Run(
            data=data.schema.dataset,
            data_fingerprint=data.fingerprint,
            method=method,
            seed=seed,
            budget=budget,
            embedding_params=policy.num_params,
            val_auc=auc,
            test_auc=auc,
            epochs=1,
            steps=1,
            policy="",
            command="",
            environment={},
            **floats,
            **times,
        )

    monkeypatch.setattr(comparing, "train", fake)
    return calls


def comparison(
    data: DataSet, *methods: str, params: int = 16, seeds: int = 3, **other: Any
) -> Comparison:
    return Comparison((data,), methods, params, seeds=seeds, **other)


# ---- budgets -----------------------------------------------------------------------------


def test_budgets_are_whole_rows_and_parts_of_the_collisionless_size(tiny_data: DataSet) -> None:
    full = collisionless_rows(tiny_data) * 16
    assert full == recipes.method_policy("collisionless", tiny_data, 1, 16).num_params
    assert recipes.read_budgets("1605, 0.8k,0.5x", tiny_data, 16) == tuple(
        sorted((1600, 800, full // 2 // 16 * 16), reverse=True)
    )
    for text, wrong in (
        ("", "is empty"),
        ("1e6", "has '1e6'; allowed: parameters, or as 0.1x"),
        ("15", "one row of --dim 16 or more"),
        ("nanx", "one row of --dim"),
        ("1600,1601", "give each once"),
    ):
        with pytest.raises(ValueError, match=wrong):
            recipes.read_budgets(text, tiny_data, 16)


# ---- which comparisons, and how often ----------------------------------------------------


def test_a_comparison_for_every_budget_and_one_for_what_has_none(
    tiny_data: DataSet, tmp_path: Path, trained: list[tuple[str, int, int]]
) -> None:
    out = tmp_path / "f"
    asked = comparison(tiny_data, "monolithic", "collisionless")
    runs = recipes.frontier(asked, (1600, 800), out)
    full = collisionless_rows(tiny_data) * 16
    sizes = [("monolithic", 1600), ("monolithic", 800), ("collisionless", full)]
    budgets = [("monolithic", 1600), ("monolithic", 800), ("collisionless", None)]
    assert trained == [(m, b, s) for m, b in budgets for s in range(3)]
    assert {(r.method, r.embedding_params) for r in runs} == set(sizes)
    assert {p.name for p in out.iterdir() if p.is_dir()} == {
        "params-1600",
        "params-800",
        "unbudgeted",
    }
    trained.clear()
    assert recipes.frontier(asked, (1600, 800), out) == runs
    assert trained == []
    more = comparison(tiny_data, "monolithic", "separate", seeds=1)
    recipes.frontier(more, (800, 400), out)
    assert trained == [("separate", 800, 0), ("monolithic", 400, 0), ("separate", 400, 0)]


def test_other_settings_are_refused_before_anything_is_trained(
    tiny_data: DataSet, tmp_path: Path, trained: list[tuple[str, int, int]]
) -> None:
    asked = comparison(tiny_data, "monolithic", seeds=1)
    recipes.frontier(asked, (1600,), tmp_path / "f")
    trained.clear()
    for change, differs in (
        ({"training": Training(ModelSettings(hidden=(9,)))}, "model"),
        ({"training": Training(fit=FitSettings(epochs=3))}, "fit"),
        ({"exact_below": 9}, "exact_below"),
        ({"dim": 8}, "dim"),
    ):
        with pytest.raises(RunError, match=f"differs in {differs}"):
            recipes.frontier(replace(asked, **change), (800,), tmp_path / "f")
    with pytest.raises(ValueError, match="method 'magic'"):
        recipes.frontier(comparison(tiny_data, "magic"), (1600,), tmp_path / "g")
    with pytest.raises(ValueError, match="a multiple of dim 16"):
        recipes.frontier(asked, (1601,), tmp_path / "g")
    assert trained == [] and not (tmp_path / "g").exists()


def test_what_does_not_fit_is_left_out_and_said(
    tiny_data: DataSet, tmp_path: Path, trained: list[tuple[str, int, int]]
) -> None:
    out = tmp_path / "f"
    asked = comparison(tiny_data, "separate", "monolithic", seeds=1)
    recipes.frontier(asked, (1600, 64), out)
    assert trained == [("separate", 1600, 0), ("monolithic", 1600, 0), ("monolithic", 64, 0)]
    ((name, method, why),) = reading.read_infeasible(out)
    assert (name, method) == ("params-64", "separate") and "smallest feasible budget is 112" in why
    assert json.loads((out / "frontier.json").read_text())["infeasible"][0]["method"] == "separate"
    assert any("params-64: separate is left out" in n for n in reading.read([out]).notes)
    with pytest.raises(RunError, match="no method fits into any budget"):
        recipes.frontier(comparison(tiny_data, "separate"), (64,), tmp_path / "g")


def test_a_killed_frontier_shows_what_it_has_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
    tiny_data: DataSet,
    tmp_path: Path,
    trained: list[tuple[str, int, int]],
) -> None:
    out, fake = tmp_path / "f", comparing.train

    def dies(*arguments: Any, **more: Any) -> Run:
        if len(trained) == 3:
            raise KeyboardInterrupt
        return fake(*arguments, **more)

    monkeypatch.setattr(comparing, "train", dies)
    asked = comparison(tiny_data, "monolithic", "separate", seeds=2)
    with pytest.raises(KeyboardInterrupt):
        recipes.frontier(asked, (1600, 800), out)
    known = json.loads((out / "frontier.json").read_text())["points"]
    assert {(p["method"], p["budget"], p["seeds"]) for p in known} == {
        ("monolithic", 1600, 2),
        ("separate", 1600, 1),
    }
    monkeypatch.setattr(comparing, "train", fake)
    recipes.frontier(asked, (1600, 800), out)
    assert len(trained) == len(set(trained)) == 8


def test_what_cannot_be_had_is_found_before_any_training(
    tiny_data: DataSet, tmp_path: Path, trained: list[tuple[str, int, int]]
) -> None:
    """No rows for MLET, no room for a search that trains nothing, no room for the run-off."""
    mixed = ("monolithic", "monolithic+mlet", "hashednet+mlet", "robe-8+mlet", "no-search")
    own = {"no-search": {"address": "id", "max_dim": 32}}
    asked = comparison(tiny_data, *mixed, seeds=1, mlet=Mlet(20), settings=own)
    with pytest.raises(comparing.InfeasibleError, match=r"hashednet\+mlet: MLET trains tables"):
        recipes.compare(replace(asked, params=64), tmp_path / "c")
    assert trained == [] and not (tmp_path / "c").exists()
    recipes.frontier(asked, (64,), tmp_path / "f")
    assert trained == [("monolithic", 64, 0), ("monolithic+mlet", 64, 0)]
    left_out = {m: why for _, m, why in reading.read_infeasible(tmp_path / "f")}
    assert set(left_out) == {"hashednet+mlet", "robe-8+mlet", "no-search"}
    assert "smallest feasible budget is" in left_out["no-search"]
    searched = comparison(tiny_data, "seo", "seo-rr", "dimgrow")
    assert comparing.infeasible(searched) == {}
    tight = {"seo": {"search_dim": 64, "adjust_hash_buckets": True}}
    assert set(comparing.infeasible(replace(searched, settings=tight))) == {"seo", "seo-rr"}


def test_a_search_without_a_policy_leaves_the_rest_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
    tiny_data: DataSet,
    tmp_path: Path,
    trained: list[tuple[str, int, int]],
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise PolicyError("no gate of the search ended above 0.5")

    monkeypatch.setattr(comparing, "search", fails)
    asked = comparison(
        tiny_data, "monolithic", "dimgrow", "dimgrow+mlet", "separate", seeds=2, mlet=Mlet(20)
    )
    runs = recipes.frontier(asked, (1600, 800), tmp_path / "f")
    assert trained == [
        (m, b, s) for b in (1600, 800) for s in (0, 1) for m in ("monolithic", "separate")
    ]
    assert len(runs) == 8
    assert {(n, m) for n, m, _ in reading.read_infeasible(tmp_path / "f")} == {
        (f"params-{b}", m) for b in (1600, 800) for m in ("dimgrow", "dimgrow+mlet")
    }


def test_a_search_that_runs_in_one_process_is_refused_in_several(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet
) -> None:
    monkeypatch.setattr(registry, "ranks", lambda: Ranks(0, 2, 2))
    comparing.check_comparison(comparison(tiny_data, "monolithic", "dimgrow"))
    alone = replace(registry.SEARCHES["dimgrow"], sharded=False)
    monkeypatch.setitem(registry.SEARCHES, "dimgrow", alone)
    with pytest.raises(ValueError, match="dimgrow in 2 processes; allowed: 1"):
        comparing.check_comparison(comparison(tiny_data, "monolithic", "dimgrow"))


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("error", [FloatingPointError("mine"), KeyboardInterrupt(), Preempted("")])
def test_an_error_is_not_hidden_by_the_report_nor_waits_for_other_ranks(
    monkeypatch: pytest.MonkeyPatch,
    tiny_data: DataSet,
    tmp_path: Path,
    error: BaseException,
    world_size: int,
) -> None:
    """A rank that alone fails must enter no collective; at a stop the report is best effort."""
    module, written = sys.modules["seo_rec.recipes.frontier"], []

    class Alone(Ranks):
        def on_first(self, action: Any) -> Any:
            if getattr(action, "func", None) is module._write:
                written.append(type(error))
                raise OSError("disk full")
            return action()

    def fails(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(module, "ranks", lambda: Alone(0, world_size, world_size))
    monkeypatch.setattr(module, "run_comparison", fails)
    with pytest.raises(type(error)) as caught:
        recipes.frontier(comparison(tiny_data, "monolithic"), (1600,), tmp_path / "f")
    assert caught.value is error
    tries = (Preempted, KeyboardInterrupt) if world_size == 1 else (Preempted,)
    assert written == ([type(error)] if isinstance(error, tries) else [])


def test_what_is_not_asked_for_is_not_in_run_json(
    tiny_data: DataSet, tmp_path: Path, trained: list[tuple[str, int, int]]
) -> None:
    """Comparisons of before these settings go on; with them they are another comparison."""
    plain = comparison(tiny_data, "monolithic", params=99 * 16, seeds=1)
    recipes.compare(plain, tmp_path / "c")
    stored = json.loads((tmp_path / "c" / "run.json").read_text())
    assert not {"exact_below", "same_hash"} & set(stored)
    with pytest.raises(RunError, match="differs in exact_below"):
        recipes.compare(replace(plain, exact_below=9), tmp_path / "c")


# ---- points ------------------------------------------------------------------------------


def test_points_are_means_with_standard_errors(
    tiny_data: DataSet, tmp_path: Path, trained: list[tuple[str, int, int]]
) -> None:
    out = tmp_path / "f"
    runs = recipes.frontier(comparison(tiny_data, "separate", "monolithic"), (1600, 800), out)
    for p in read_points(out):
        aucs = [r.test_auc for r in runs if (r.method, r.budget) == (p.method, p.budget)]
        assert p.seeds == len(aucs) == 3
        assert p.test_auc == pytest.approx(np.mean(aucs))
        assert p.standard_error == pytest.approx(float(scipy.stats.sem(aucs)))
    stored = json.loads((out / "frontier.json").read_text())
    assert [p["test_auc"] for p in stored["points"]] == [p.test_auc for p in read_points(out)]
    recipes.frontier(comparison(tiny_data, "separate", seeds=1), (1600,), tmp_path / "one")
    (one,) = json.loads((tmp_path / "one" / "frontier.json").read_text())["points"]
    assert one["standard_error"] is None and one["pareto"] is True


def test_pareto_points_are_those_that_none_beats(
    tiny_data: DataSet, tmp_path: Path, trained: list[tuple[str, int, int]]
) -> None:
    """Against the definition, over all pairs; the size of collisionless tables is their own."""
    out = tmp_path / "f"
    methods = ("separate", "monolithic", "multi-size", "collisionless")
    budgets = recipes.read_budgets("64,800,1600,2x", tiny_data, 16)
    recipes.frontier(comparison(tiny_data, *methods), budgets, out)
    found = read_points(out)
    assert len(found) == 3 * 3 + 2 + 1  # `separate` does not fit into 64
    for p in found:
        beaten = any(
            (q.size < p.size and q.test_auc >= p.test_auc)
            or (q.size <= p.size and q.test_auc > p.test_auc)
            for q in found
        )
        assert p.pareto != beaten, p
    best = {p.method for p in found if p.pareto}
    assert best == {"monolithic", "collisionless"}
    assert [p.budget for p in found if p.method == "collisionless"] == [None]


def test_equal_points_are_both_optimal() -> None:
    from seo_rec.report.frontier import _beats

    p = Point("a", 100, 100, 1, 0.7, float("nan"), 0.7, 0.5)
    same = replace(p, method="b", params=96)  # of one budget: a row less is no less
    assert not _beats(p, same) and not _beats(same, p)
    assert _beats(replace(p, budget=99), p) and _beats(replace(p, test_auc=0.8), p)
    assert not _beats(replace(p, budget=99, test_auc=0.69), p)


def test_no_points_of_no_groups() -> None:
    assert points(()) == ()


# ---- what is shown -----------------------------------------------------------------------


def test_the_picture_has_a_line_per_method_and_bars_of_one_standard_error() -> None:
    from seo_rec.report import charts

    found = [
        Point("a", 1000, 1000, 3, 0.70, 0.01, 0.7, 0.5, True),
        Point("a", 100, 100, 3, 0.60, 0.02, 0.7, 0.5, True),
        Point("b", 1000, 990, 1, 0.65, float("nan"), 0.7, 0.5, False),
        Point("free", None, 5000, 3, 0.72, 0.01, 0.7, 0.5, True),
    ]
    drawn = figure(found, charts.marks(("a", "b", "free")))
    (ax,) = drawn.axes
    assert ax.get_xscale() == "log"
    bars = {c.get_label(): c for c in ax.containers}
    assert set(bars) == {"a", "b", "free"}
    line, _, (stem,) = bars["a"]
    assert list(line.get_ydata()) == [0.60, 0.70]
    assert [float(np.ptp(s[:, 1])) for s in stem.get_segments()] == pytest.approx([0.04, 0.02])
    rings = [c.get_offsets() for c in ax.collections if isinstance(c, PathCollection)]
    assert sum(len(r) for r in rings) == 3
    level = [x for x in ax.lines if x.get_linestyle() == ":" and len(set(x.get_ydata())) == 1]
    assert [x.get_ydata()[0] for x in level] == [0.72]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["100", "1,000", "5,000"]
    names = [t.get_text() for t in ax.get_legend().get_texts()]
    assert names == ["free", "a", "b", "Pareto-optimal (means)"]


def test_the_report_takes_a_frontier_folder(
    tiny_data: DataSet, tmp_path: Path, trained: list[tuple[str, int, int]]
) -> None:
    out = tmp_path / "f"
    recipes.frontier(comparison(tiny_data, "monolithic", "collisionless"), (1600, 800), out)
    report.build([out], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert 'id="budgets"' in page and "one standard error" in page and "Pareto" in page
    before = (out / "frontier.png").read_bytes()
    assert before[:8] == b"\x89PNG\r\n\x1a\n"
    report.write_frontier(out)
    assert (out / "frontier.png").read_bytes() == before
    (out / "params-1600" / "results.jsonl").unlink()
    (out / "params-800" / "results.jsonl").unlink()
    (out / "unbudgeted" / "results.jsonl").unlink()
    with pytest.raises(report.ReportError, match="no finished run"):
        report.build([out], tmp_path / "none.html")


# ---- the command -------------------------------------------------------------------------


def test_the_command_has_the_options_of_compare() -> None:
    import typer

    from seo_rec.cli.main import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    names = {name: {p.name for p in commands[name].params} for name in ("compare", "frontier")}
    assert names["frontier"] - names["compare"] == {"budgets", "scheduler", "submit"}
    by_group = {"group", "by", "by_frequency"}
    assert names["compare"] - names["frontier"] == {"params", "budget_of", *by_group}


def test_the_command_trains_and_shows_and_goes_on(
    tiny: Path, tmp_path: Path, seo_rec: Callable[..., Any]
) -> None:
    out = tmp_path / "f"
    asked = ("frontier", tiny, "--out", out, "--methods", "monolithic", "--budgets", "1600,801")
    settings = ("--seeds", 1, "--epochs", 1, "--hidden", "8", "--batch-size", 256)
    done = seo_rec(*asked, *settings, "--exact-below", 12)
    assert done.code == 0, done.err
    assert "standard error" in done.out and "frontier.png" in done.out
    stored = json.loads((out / "run.json").read_text())
    assert stored["exact_below"] == 12 and stored["fit"]["batch_size"] == 256
    policy = Policy.load(out / "params-800/runs/monolithic-seed0/policy.json")
    assert [f.name for f in policy.features if f.lookups[0].address == "id"] == [
        c.name for c in open_data(tiny).schema.features if (c.vocab_size or 0) <= 12
    ]
    exact = sum(v.size for v in policy.vocabularies.values())
    size = 4 * sum(t.num_rows * t.dim for t in policy.tables) + 8 * exact
    (point,) = [
        p for p in json.loads((out / "frontier.json").read_text())["points"] if p["budget"] == 800
    ]
    assert point["num_bytes"] == size > 4 * point["params"]
    assert f"{point['params']:,.0f}  {size:,}" in done.out
    again = seo_rec(*asked, *settings, "--exact-below", 12)
    assert again.code == 0 and again.out == done.out
    assert seo_rec(*asked, *settings).code == 2  # other settings: exact_below differs


def test_the_jobs_make_the_comparisons_of_the_frontier(
    tiny: Path, tmp_path: Path, seo_rec: Callable[..., Any], trained: list[tuple[str, int, int]]
) -> None:
    out = tmp_path / "f"
    asked = ("frontier", tiny, "--out", out, "--methods", "separate,multi-size,collisionless")
    asked += ("--budgets", "1600,64", "--seeds", 1, "--lr", 0.01, "--set", "multi-size.chunk_dim=4")
    done = seo_rec(*asked, "--scheduler", "slurm")
    assert done.code == 0, done.err
    lines = [shlex.split(line) for line in done.out.splitlines()]
    assert len(lines) == 3 and trained == []
    assert all(words[words.index("--l2") + 1] == "0.003" for words in lines)
    assert all(words[words.index("--batch-size") + 1] == "256" for words in lines)
    # a job that does not compare the method would refuse its settings
    assert ["--set" in words for words in lines] == [True, True, False]
    start = ["torchx", "run", "-s", "slurm", "components/seo.py:compare", "--data", str(tiny)]
    for words in lines:
        assert words[:7] == start and words[7] == "--out" and words[9] == "--"
        given = seo_rec("compare", tiny, "--out", words[8], *words[10:])  # what the job runs
        assert given.code == 0, given.err
    assert trained[:3] == [("separate", 1600, 0), ("multi-size", 1600, 0), ("multi-size", 64, 0)]
    trained.clear()
    gathered = seo_rec(*asked)
    assert gathered.code == 0 and trained == [], gathered.err
    assert (out / "frontier.png").exists()


def test_jobs_are_submitted_in_order_until_one_fails(
    tiny: Path, tmp_path: Path, seo_rec: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("frontier", tiny, "--out", tmp_path / "f", "--budgets", "1600,800,400", "--seeds", 1)
    asked += ("--methods", "separate", "--submit")
    refused = seo_rec(*asked)
    assert refused.code == 2 and "--submit needs --scheduler" in refused.err
    run: list[list[str]] = []

    def torchx(words: list[str]) -> SimpleNamespace:
        run.append(words)
        return SimpleNamespace(returncode=0 if len(run) != 5 else 7)

    monkeypatch.setattr("seo_rec.cli.frontier.subprocess.run", torchx)
    done = seo_rec(*asked, "--scheduler", "slurm")
    assert done.code == 0, done.err
    lines = [shlex.split(line)[1:] for line in done.out.splitlines()]
    assert [words[3:] for words in run] == lines and len(lines) == 3
    assert all(words[1:3] == ["-m", "torchx.cli.main"] for words in run)
    failed = seo_rec(*asked, "--scheduler", "slurm")
    assert failed.code == 2 and "params-800" in failed.err and "status 7" in failed.err
    assert len(run) == 5  # not the sixth


def test_a_job_has_mlet_s_options_only_where_a_method_is_trained_so(
    tiny: Path, tmp_path: Path, seo_rec: Callable[..., Any], trained: list[tuple[str, int, int]]
) -> None:
    """`compare` refuses them elsewhere; every line is one that it takes."""
    asked = ("frontier", tiny, "--out", tmp_path / "f", "--budgets", "1600,800", "--seeds", 1)
    asked += ("--methods", "monolithic+mlet,collisionless", "--mlet-dim", 20, "--mlet-std", 0.5)
    done = seo_rec(*asked, "--scheduler", "slurm")
    assert done.code == 0, done.err
    lines = [shlex.split(line) for line in done.out.splitlines()]
    assert [("--mlet-dim" in words, "--mlet-std" in words) for words in lines] == [
        (True, True),
        (True, True),
        (False, False),
    ]
    for words in lines:
        given = seo_rec("compare", tiny, "--out", words[8], *words[10:])
        assert given.code == 0, given.err
    trained.clear()
    assert seo_rec(*asked).code == 0 and trained == []
