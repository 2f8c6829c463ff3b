"""``torchx run`` on this machine: a training, a search with two processes, a job that fails.

Their processes are forks (``fork_server.py``); ``.ci/run`` types jobs in a fresh clone.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from torchx_jobs import APPLIER, CLI, ROOT, SEARCH, make_clone

import small_job

pytestmark = pytest.mark.timeout(600)


def run(
    python: str, clone: Path, component: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *CLI, "run", f"components/seo.py:{component}", *arguments],
        cwd=clone,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_training(forked_python: str, tiny: Path, tmp_path: Path) -> None:
    clone = make_clone(tmp_path / "clone")
    policy = small_job.write_policy(tiny, tmp_path / "policy.json")
    given = ["--data", str(tiny), "--policy", str(policy), "--out", "r"]
    trained = run(forked_python, clone, "train", *given, "--", *APPLIER)
    assert trained.returncode == 0, trained.stderr
    assert json.loads((clone / "r/result.json").read_text())["embedding_params"] == 1600


@pytest.mark.slow
def test_a_benchmark(forked_python: str, tmp_path: Path) -> None:
    """Two ranks, far too small to measure anything."""
    clone = make_clone(tmp_path / "clone")
    (clone / "benchmarks").symlink_to(ROOT / "benchmarks")
    tiny = ["--features", "4", "--vocabulary", "100", "--dense", "1", "--params", "3200"]
    tiny += ["--hidden", "8", "--batch", "16", "--batches", "1", "--steps", "1", "--repeats", "1"]
    tiny += ["--methods", "separate", "--warmup", "0", "--out", "out"]
    done = run(forked_python, clone, "benchmark", "-j", "1x2", "--", *tiny)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(x) for x in (clone / "out/throughput.jsonl").read_text().splitlines()]
    assert {x["way"] for x in lines if x["kind"] == "measurement"} == {"alone", "apart", "ours"}
    assert {x["world_size"] for x in lines} == {2}


@pytest.mark.slow
def test_a_frontier_submits_its_jobs(forked_python: str, tiny: Path, tmp_path: Path) -> None:
    """One job per budget; then the same command without a scheduler has nothing left to train."""
    clone = make_clone(tmp_path / "clone")
    asked = [forked_python, "-m", "seo_rec", "frontier", str(tiny), "--methods", "separate"]
    asked += ["--budgets", "1600", "--seeds", "1", "--epochs", "1", "--out", str(tmp_path / "f")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for more in (["--scheduler", "local_cwd", "--submit"], []):
        done = subprocess.run([*asked, *more], cwd=clone, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "f/params-1600/results.jsonl").exists()
    assert (tmp_path / "f/frontier.png").exists()


@pytest.mark.slow
def test_a_search_with_two_processes(forked_python: str, tmp_path: Path) -> None:
    clone = make_clone(tmp_path / "clone")
    searched = run(forked_python, clone, "search", "-j", "1x2", "--", *SEARCH)
    assert searched.returncode == 0, searched.stderr
    assert json.loads((clone / "runs/torchx/search/policy.json").read_text())["tables"]


@pytest.mark.slow
def test_a_job_that_fails_says_why(forked_python: str, tmp_path: Path) -> None:
    clone = make_clone(tmp_path / "clone")
    done = run(
        forked_python, clone, "train", "--data", "nowhere", "--policy", "p.json", "--out", "r"
    )
    assert done.returncode == 1  # whatever the job's own status was
    assert "FAILED" in done.stderr
    said = (clone / "runs/torchx/logs").rglob("stderr.log")
    assert any("error: " in path.read_text() for path in said)
