"""``torchx run`` on this machine: a search with two processes, and a job that fails."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from torchx_jobs import SEARCH, TORCHX, make_clone

pytestmark = pytest.mark.timeout(600)


def run(clone: Path, component: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TORCHX, "run", f"components/seo.py:{component}", *arguments],
        cwd=clone,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_search_with_two_processes(tmp_path: Path) -> None:
    clone = make_clone(tmp_path / "clone")
    searched = run(clone, "search", "-j", "1x2", "--", *SEARCH)
    assert searched.returncode == 0, searched.stderr
    assert json.loads((clone / "runs/torchx/search/policy.json").read_text())["tables"]


@pytest.mark.slow
def test_a_job_that_fails_says_why(tmp_path: Path) -> None:
    clone = make_clone(tmp_path / "clone")
    done = run(clone, "train", "--data", "nowhere", "--policy", "p.json", "--out", "r")
    assert done.returncode == 1  # whatever the job's own status was
    assert "FAILED" in done.stderr
    said = (clone / "runs/torchx/logs").rglob("stderr.log")
    assert any("error: " in path.read_text() for path in said)
