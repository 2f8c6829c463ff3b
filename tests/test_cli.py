"""The command line: the whole chain on small data, quiet in a pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from seo_rec.data.dataset import open_data
from seo_rec.plan import plan_policy, read_topology
from seo_rec.planted import PLANTED_PARAMS
from seo_rec.policy import Budget, Policy
from seo_rec.runs import read_runs
from seo_rec.search.run_off import plain
from seo_rec.settings import COMPARED_METHODS
from seo_rec.train import policy_fit
from small_commands import QUICK, RAW, Command, as_set

# ---- the chain ---------------------------------------------------------------------------


def test_search_apply_train(chain: Path) -> None:
    searched, applied = Policy.load(chain / "s/policy.json"), Policy.load(chain / "a.json")
    assert {f.name: len(f.lookups) for f in searched.features} == {
        f.name: len(f.lookups) for f in applied.features
    }
    assert 1592 < applied.num_params <= 1600
    result = json.loads((chain / "t/result.json").read_text())
    assert result["embedding_params"] == applied.num_params
    assert result["command"].startswith("seo-rec train ") and result["epochs"] == 1


@pytest.mark.slow
def test_nothing_but_the_result_in_a_pipe(chain: Path, tiny: Path, tmp_path: Path) -> None:
    """No progress bar and no library's notice where nobody watches; the result on one line."""
    command = ["train", tiny, "--policy", chain / "a.json", "--out", tmp_path / "t", *QUICK]
    command += ["--l2", "0"]  # no setting is left to be decided and said
    done = subprocess.run(
        [sys.executable, "-m", "seo_rec", *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1 and "test AUC" in done.stdout


def test_eval_prints_the_result(seo_rec: Command, chain: Path, tiny: Path) -> None:
    done = seo_rec("eval", chain / "t", tiny)
    assert done.code == 0
    shown, result = json.loads(done.out), json.loads((chain / "t/result.json").read_text())
    assert shown["auc"] == result["test_auc"] and shown["log_loss"] == result["test_logloss"]
    val = json.loads(seo_rec("eval", chain / "t", tiny, "--split", "val").out)
    assert val["auc"] == result["val_auc"]


def test_round_robin_and_another_budget(seo_rec: Command, chain: Path, tmp_path: Path) -> None:
    out = tmp_path / "rr.json"
    done = seo_rec(
        "apply", chain / "s/policy.json", "--strategy", "round-robin", "--out", out, "--params", 800
    )
    assert done.code == 0 and f"{Policy.load(out).num_params} parameters" in done.out
    assert 792 < Policy.load(out).num_params <= 800


def test_round_robin_of_a_winner_by_id(seo_rec: Command, tiny: Path, tmp_path: Path) -> None:
    """It has no slots to deal, so the policy is what won, and the command says so."""
    shape = plain.Shape(params=20_000, dim=16, chunk_dim=8, widest=16, seed=0)
    made = {c.name: c.policy for c in plain.by_id(open_data(tiny), shape)}
    decision = {"method": "seo", "winner": "trivial-no-search", "kind": "plain"}
    won = replace(made["trivial-no-search"], decision=decision, budget=Budget(20_000))
    won.save(tmp_path / "policy.json")
    asked = ("apply", tmp_path / "policy.json", "--strategy", "round-robin")
    done = seo_rec(*asked, "--out", tmp_path / "rr.json")
    assert done.code == 0
    assert done.err == "note: the policy is at the budget already; applying changes nothing\n"
    assert Policy.load(tmp_path / "rr.json") == won
    done = seo_rec(*asked, "--out", tmp_path / "small.json", "--params", 100)
    assert done.code == 2 and "cannot shrink" in done.err


@pytest.mark.parametrize("budget", [None, Budget(num_bytes=9000)], ids=["none", "bytes"])
def test_a_policy_without_a_budget_is_applied_at_one_that_is_given(
    seo_rec: Command, chain: Path, tmp_path: Path, budget: Budget | None
) -> None:
    replace(Policy.load(chain / "s/policy.json"), budget=budget).save(tmp_path / "p.json")
    asked = ["apply", tmp_path / "p.json", "--strategy", "exact", "--out", tmp_path / "a.json"]
    done = seo_rec(*asked)
    assert done.code == 2 and not (tmp_path / "a.json").exists()
    assert done.err == (
        f"error: {tmp_path / 'p.json'}: the policy has no recorded budget in parameters; give "
        "--params\n"
    )
    assert seo_rec(*asked, "--params", 800).code == 0
    assert 792 < Policy.load(tmp_path / "a.json").num_params <= 800


@pytest.mark.parametrize(
    "dim, changes",
    [(4, {"chunk_dim": 4}), (20, {"chunk_dim": 5, "search_dim": 40})],
)
def test_widths_that_only_go_together_can_be_given(
    seo_rec: Command, tiny: Path, tmp_path: Path, dim: int, changes: dict[str, int]
) -> None:
    """Neither goes with the defaults of the others; alone, in a search, and in a comparison."""
    at = ["--dim", dim, "--params", 80 * dim, *QUICK]
    words = [*RAW, *as_set(changes)]
    done = seo_rec("search", tiny, "--out", tmp_path / "s", *at, *words)
    assert done.code == 0, done.err
    settings = json.loads((tmp_path / "s/run.json").read_text())["settings"]
    assert settings == {**settings, **changes, "dim": dim, "budget_rows": 80}
    words = ["--methods", "seo-rr", "--seeds", 1, *as_set(changes, "seo.")]
    done = seo_rec("compare", tiny, "--out", tmp_path / "c", *at, *words)
    assert done.code == 0, done.err
    asked = json.loads((tmp_path / "c/searches/seo-rr-seed0/run.json").read_text())["settings"]
    assert asked == {**settings, "apply": "round-robin"}


def test_a_search_alone_is_as_wide_as_asked(seo_rec: Command, tiny: Path, tmp_path: Path) -> None:
    """And not twice as wide, as beside others in a comparison."""
    for more, width in (([], 16), (["--dim", 8], 8), (["--set", "max_dim=5"], 5)):
        out = tmp_path / str(width)
        words = ["--method", "mixed-dimension", "--params", 1600]
        done = seo_rec("search", tiny, "--out", out, *words, *more)
        assert done.code == 0, done.err
        assert json.loads((out / "run.json").read_text())["settings"]["max_dim"] == width
        assert done.out.startswith("the rule of mixed-dimension decided from the columns")


def test_compare_and_report(seo_rec: Command, tiny: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "c", tmp_path / "r.html"
    methods = ["--methods", "monolithic, multi-size-4,seo-rr", "--params", "1600", "--seeds", "1"]
    done = seo_rec("compare", tiny, "--out", out, *methods, *QUICK)
    assert done.code == 0, done.err
    for name in ("monolithic", "multi-size-4", "seo-rr"):
        assert name in done.out
    lines = (out / "results.jsonl").read_text()
    again = seo_rec("compare", tiny, "--out", out, *methods, *QUICK)
    assert again.out == done.out and (out / "results.jsonl").read_text() == lines
    done = seo_rec("report", out, "--out", page)
    assert done.code == 0 and done.out == f"report: {page}\n"
    assert done.err == "3 finished trainings, 1 finished search\n"
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")


def test_a_search_with_a_run_off(seo_rec: Command, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    options = ["--params", "1600", "--set", "run_off.epochs=1", *QUICK]
    done = seo_rec("search", tiny, "--out", out, *options)
    assert done.code == 0, done.err
    winner = json.loads((out / "search.json").read_text())["winner"]
    says, where = done.out.splitlines()
    assert winner.removeprefix("trivial-") in says
    assert f"the searched policy is kept in {out / 'searched.json'}" in says or "won" in says
    assert where.startswith(f"{out / 'policy.json'}: ")
    policy = Policy.load(out / "policy.json")
    assert policy.num_params <= 1600 and f"{policy.num_bytes} bytes" in where
    record = json.loads((out / "search.json").read_text())
    assert record["num_bytes"] == policy.num_bytes
    for name, score in record["record"]["run_off"].items():
        if "same_as" not in score and "round" not in score:  # it was in the last round
            candidate = Policy.load(out / f"candidates/{name}.json")
            assert score["num_bytes"] == candidate.num_bytes >= 4 * score["params"]


def test_dropped_features_are_named(seo_rec: Command, tiny: Path, tmp_path: Path) -> None:
    options = ["--params", "1600", *RAW, "--set", "min_chunks=0", "--set", "total_chunks=3"]
    done = seo_rec("search", tiny, "--out", tmp_path / "s", *options, *QUICK)
    dropped = Policy.load(tmp_path / "s/policy.json").dropped
    assert len(dropped) >= 4
    assert f"dropped features: {', '.join(dropped)}" in done.out


def test_a_policy_above_its_budget_is_said_to_need_apply(
    seo_rec: Command, tiny: Path, tmp_path: Path
) -> None:
    """The command of the note fits it; a search that fits by itself says nothing."""
    for name, options in (("raw", RAW), ("fits", ["--method", "mixed-dimension"])):
        quick = QUICK if name == "raw" else []
        words = ["--params", "1600", *options, *quick]
        done = seo_rec("search", tiny, "--out", tmp_path / name, *words)
        above = Policy.load(tmp_path / name / "policy.json").num_params > 1600
        assert above is (name == "raw") and ("above the budget of 1600" in done.out) is above
        if above:
            command = done.out.split("fit it to the budget: seo-rec ")[1].split()
    assert seo_rec(*command).code == 0
    assert 1592 < Policy.load(tmp_path / "raw/applied.json").num_params <= 1600


def test_a_plan_is_read_in_one_process_too(
    seo_rec: Command, chain: Path, tiny: Path, tmp_path: Path
) -> None:
    """Taken if it is for one device and this policy, else refused before anything is written."""
    for name, policy, topology in (
        ("two", "a.json", "2xcpu"),
        ("other", "s/policy.json", "1xcpu"),
        ("one", "a.json", "1xcpu"),
    ):
        plan_policy(Policy.load(chain / policy), read_topology(topology)).save(tmp_path / name)
    train = ["train", tiny, "--policy", chain / "a.json", "--out", tmp_path / "t", *QUICK]
    for name, says in (
        ("two", f"{tmp_path / 'two'} is for 2 ranks on cpu; there are 1 on cpu"),
        ("other", f"{tmp_path / 'other'}: table 'chunk0': "),
        ("none", "none: no such plan file"),
    ):
        done = seo_rec(*train, "--plan", tmp_path / name)
        assert done.code == 2 and says in done.err, done.err
        assert not (tmp_path / "t").exists()
    assert seo_rec(*train, "--plan", tmp_path / "one").code == 0


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} -m seo_rec train --help | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr


def test_the_demo(monkeypatch: pytest.MonkeyPatch, seo_rec: Command, tmp_path: Path) -> None:
    """Every method at the budget; called again it shows the same and trains nothing."""
    out = tmp_path / "demo"
    demo = ["demo", "--quick", "--out", out, "--threads", "1"]
    done = seo_rec(*demo)
    assert done.code == 0, done.err
    for method in COMPARED_METHODS:
        assert method in done.out
    assert done.out.endswith(f"report: {out / 'report.html'}\n")
    assert (out / "report.html").stat().st_size > 10_000
    runs = read_runs(out / "compare/results.jsonl")
    assert [r.method for r in runs] == list(COMPARED_METHODS)
    assert all(r.num_bytes <= r.budget_bytes == 4 * PLANTED_PARAMS for r in runs)
    monkeypatch.setattr(policy_fit, "fit", None)
    again = seo_rec(*demo)
    assert again.code == 0 and again.out == done.out
