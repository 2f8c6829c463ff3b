"""Jobs on a real Slurm, submitted as a user would: search, then the applier."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm
from slurm import Slurm

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = ["--rows", "4000", "--epochs", "1", "--batch-size", "512"]
SEARCH = [*SMALL, "--run-off-epochs", "1", "--budget-rows", "300"]
MACHINE = ["--cpu", "1", "--memMB", "3000"]

pytestmark = pytest.mark.skipif(bool(slurm.why_not()), reason=str(slurm.why_not()))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What of the repository ``torchx run components/seo.py:search`` reads."""
    folder = tmp_path / "clone"
    shutil.copytree(ROOT / "components", folder / "components")
    shutil.copy(ROOT / ".torchxconfig", folder)
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """This machine as a cluster of one node."""
    with slurm.slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def submit(cluster: Slurm, clone: Path, component: str, *arguments: str) -> str:
    """``torchx run -s slurm``, as typed; the number of the job."""
    torchx = [sys.executable, "-m", "torchx.cli.main", "run", "-s", "slurm"]
    done = cluster.run(*torchx, f"components/seo.py:{component}", *arguments, cwd=clone)
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"slurm://torchx/(\d+)", done.stdout.strip())
    assert found, done.stdout
    return found[1]


def said(clone: Path, job: str) -> str:
    """What a job wrote, for the message of a test that fails."""
    return "\n".join(f"{p.name}\n{p.read_text()}" for p in sorted(clone.glob(f"slurm-{job}*")))


def test_a_search_and_its_applier(cluster: Slurm, clone: Path) -> None:
    search = submit(cluster, clone, "search", *MACHINE, "--", *SEARCH)
    assert cluster.wait(search, 120) == ["COMPLETED"], said(clone, search)
    assert json.loads((clone / "runs/torchx/search/policy.json").read_text())["tables"]

    applier = submit(cluster, clone, "applier", *MACHINE, "--", "--epochs", "1")
    assert cluster.wait(applier, 120) == ["COMPLETED"], said(clone, applier)
    result = json.loads((clone / "runs/torchx/applier/result.json").read_text())
    assert result["embedding_params"] == 300 * 16

    status = [sys.executable, "-m", "torchx.cli.main", "status", f"slurm://torchx/{applier}"]
    told = cluster.run(*status, cwd=clone)
    assert "SUCCEEDED" in told.stdout + told.stderr


def test_a_job_that_fails_is_seen_to(cluster: Slurm, clone: Path) -> None:
    job = submit(cluster, clone, "train", *MACHINE, "--data", "no", "--policy", "p", "--out", "r")
    assert cluster.wait(job, 120) == ["FAILED"], said(clone, job)
    assert not (clone / "r" / "result.json").exists()
