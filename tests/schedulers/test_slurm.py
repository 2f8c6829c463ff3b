"""Jobs on a real Slurm, submitted as a user would: search, then the applier."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import slurm
import two_hosts
from slurm import Slurm
from torchx_jobs import APPLIER, PARAMETERS, SEARCH, TORCHX, make_clone

import small_job

MACHINE = ["--cpu", "1", "--memMB", "3000"]
LONG = 400.0  # seconds; a quiet machine needs a tenth

pytestmark = [
    pytest.mark.skipif(bool(slurm.why_not()), reason=str(slurm.why_not())),
    pytest.mark.timeout(900),
]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return make_clone(tmp_path / "clone")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """This machine as a cluster of one node."""
    with slurm.slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def submit(cluster: Slurm, clone: Path, component: str, *arguments: str) -> str:
    """``torchx run -s slurm``, as typed; the number of the job."""
    torchx = [*TORCHX, "run", "-s", "slurm", f"components/seo.py:{component}"]
    done = cluster.run(*torchx, *MACHINE, *arguments, cwd=clone)
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"slurm://torchx/(\d+)", done.stdout.strip())
    assert found, done.stdout
    return found[1]


def said(clone: Path, job: str) -> str:
    """What a job wrote, for the message of a test that fails."""
    return "\n".join(f"{p.name}\n{p.read_text()}" for p in sorted(clone.glob(f"slurm-{job}*")))


@pytest.mark.slow
def test_a_search_and_its_applier(cluster: Slurm, clone: Path) -> None:
    search = submit(cluster, clone, "search", "--", *SEARCH)
    assert cluster.wait(search, LONG) == ["COMPLETED"], said(clone, search)
    assert json.loads((clone / "runs/torchx/search/policy.json").read_text())["tables"]

    applier = submit(cluster, clone, "applier", "--", *APPLIER)
    assert cluster.wait(applier, LONG) == ["COMPLETED"], said(clone, applier)
    result = json.loads((clone / "runs/torchx/applier/result.json").read_text())
    assert result["embedding_params"] == PARAMETERS

    told = cluster.run(*TORCHX, "status", f"slurm://torchx/{applier}", cwd=clone)
    assert "SUCCEEDED" in told.stdout + told.stderr


@pytest.mark.slow
def test_a_job_that_fails_says_why(cluster: Slurm, clone: Path) -> None:
    job = submit(cluster, clone, "train", "--data", "no", "--policy", "p.json", "--out", "r")
    assert cluster.wait(job, LONG) == ["FAILED"], said(clone, job)
    assert "error: " in (clone / f"slurm-{job}-train-0.err").read_text()


@pytest.fixture(scope="module")
def small(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small training: its arguments but ``--out``, and what comes out of it on one node."""
    folder = tmp_path_factory.mktemp("small")
    policy = small_job.write_policy(tiny, folder / "policy.json")
    outcomes = {}
    for j in ("1x1", "1x2"):
        out = folder / j
        small_job.run(small_job.train(tiny, policy, out, j=j))
        outcomes[j] = small_job.outcome(out)
    arguments = ["--data", str(tiny), "--policy", str(policy), "--env", "OMP_NUM_THREADS=1"]
    return {"arguments": arguments, **outcomes}


@pytest.mark.slow
def test_a_job_that_is_killed_is_queued_again_and_loses_nothing(
    cluster: Slurm, clone: Path, small: dict[str, Any]
) -> None:
    given = [*small["arguments"], "--out", "r", "--max_retries", "1", "--", *small_job.OPTIONS]
    job = submit(cluster, clone, "train", *given)
    end = time.monotonic() + LONG
    while not list((clone / "r").glob("checkpoints/step-*")):
        assert time.monotonic() < end, said(clone, job)
        time.sleep(0.01)
    os.kill(agent_of(job), signal.SIGKILL)
    # Slurm lets two minutes pass before it starts a job again, unless it is told otherwise.
    while cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now").returncode:
        assert time.monotonic() < end, said(clone, job)
        time.sleep(0.5)
    assert cluster.wait(job, LONG) == ["COMPLETED"], said(clone, job)
    assert "Restarts=1" in cluster.run("scontrol", "show", "job", job).stdout
    assert small_job.outcome(clone / "r") == small["1x1"]


def agent_of(job: str) -> int:
    """The process that torch.distributed.run is in this job."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"torch.distributed.run" in words and f"SLURM_JOB_ID={job}".encode() in variables:
            if b"srun" not in Path(os.fsdecode(words[0])).name.encode():
                return int(folder.name)
    raise AssertionError(f"no agent of job {job} is running")


@pytest.mark.slow
@pytest.mark.skipif(bool(two_hosts.why_not()), reason=str(two_hosts.why_not()))
def test_two_nodes_train_what_one_node_trains(
    tmp_path: Path, clone: Path, small: dict[str, Any]
) -> None:
    folder = tmp_path / "slurm"
    folder.mkdir()
    with two_hosts.two_hosts() as hosts, slurm.slurm(folder, hosts) as cluster:
        given = [*small["arguments"], "--out", "r", "-j", "2x1", "--", *small_job.OPTIONS]
        job = submit(cluster, clone, "train", *given)
        assert cluster.wait(job, LONG) == ["COMPLETED"] * 2, said(clone, job)
    small_job.assert_close(small_job.outcome(clone / "r"), small["1x2"])
