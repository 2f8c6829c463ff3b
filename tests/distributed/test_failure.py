"""Jobs of two processes that are killed, stopped or cannot start, as torchrun launches them.

A job either goes on and ends as if nothing had happened, or ends soon with one message that says
what was wrong and an exit status that is not zero. It never hangs.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torchx.specs as specs

import small_job
from seo_rec.cli.main import app
from spawn import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.schedulers, pytest.mark.timeout(900)]
long = pytest.mark.skipif(
    os.environ.get("SEO_REC_SCHEDULERS") != "all",
    reason="together they take minutes: make schedulers runs them",
)


@pytest.fixture(scope="module")
def policy(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_job.write_policy(tiny, tmp_path_factory.mktemp("policy") / "policy.json")


@pytest.fixture(scope="module")
def undisturbed(tiny: Path, policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The outcome of the job when nothing happens to it; in forks, which start at once."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    command = ["train", str(tiny), "--policy", str(policy), "--out", str(out), *small_job.OPTIONS]
    run_ranks(lambda: app(command, standalone_mode=False), 2)
    return small_job.outcome(out)


class Job:
    """A running torchrun and the processes it started."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    def wait(self, seconds: float = 400) -> int:
        return self.process.wait(seconds)

    def said(self) -> str:
        return self.log.read_text()

    def rank(self, number: int) -> int:
        """The process id of a rank."""
        for child in _children(self.process.pid):
            with contextlib.suppress(OSError):
                variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
                if f"RANK={number}".encode() in variables:
                    return child
        raise AssertionError(f"rank {number} is not running: {self.said()}")

    def until(self, true: Callable[[], Any], what: str, seconds: float = 400) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, f"ended before {what}: {self.said()}"
            assert time.monotonic() < end, f"waited too long until {what}: {self.said()}"
            time.sleep(0.002)


@contextlib.contextmanager
def started(role: specs.Role, folder: Path) -> Iterator[Job]:
    """The role of one node, running; what is left of it in the end is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{time.monotonic_ns()}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [role.entrypoint, *role.args],
            env=small_job.environment(role),
            cwd=folder,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Job(process, log)
        finally:
            left = [*_children(process.pid), process.pid] if process.poll() is None else []
            for each in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            process.wait()


def _children(process: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [
            int(c) for c in Path(f"/proc/{process}/task/{process}/children").read_text().split()
        ]
    return []


def checkpoints(out: Path) -> list[str]:
    return sorted(p.name for p in out.glob("checkpoints/step-*"))


def told(text: str) -> str:
    """The one message that tells a user what went wrong; several ranks may say it alike."""
    (message,) = set(re.findall(r"^error: .*", text, re.MULTILINE))
    assert "/seo_rec/" not in text.replace(message, ""), f"a traceback of ours: {text}"
    return message


@pytest.mark.parametrize("victim", [pytest.param(0, marks=long), 1])
def test_a_killed_rank_is_started_again_and_nothing_is_lost(
    tiny: Path, policy: Path, tmp_path: Path, undisturbed: Any, victim: int
) -> None:
    out = tmp_path / "run"
    role = small_job.train(tiny, policy, out, j="1x2", max_restarts=1)
    with started(role, tmp_path) as job:
        job.until(lambda: checkpoints(out), "the first checkpoint")
        os.kill(job.rank(victim), signal.SIGKILL)
        at_death = checkpoints(out)
        assert job.wait() == 0, job.said()
        # the agent names the killed rank, or the peer that lost it: whichever it finds first
        assert re.search(r"failed \(exitcode: (-9|1)\)", job.said()), job.said()
    assert "step-000000124" not in at_death, "the job was over before the kill"
    assert small_job.outcome(out) == undisturbed


@long
def test_a_job_that_dies_as_a_whole_is_started_again_by_the_scheduler(
    tiny: Path, policy: Path, tmp_path: Path, undisturbed: Any
) -> None:
    """All processes at once, and the agent with them, as when a machine goes: the same command."""
    out = tmp_path / "run"
    role = small_job.train(tiny, policy, out, j="1x2")
    with started(role, tmp_path) as job:
        job.until(lambda: checkpoints(out), "the first checkpoint")
        for process in (job.process.pid, job.rank(0), job.rank(1)):
            os.kill(process, signal.SIGKILL)
    assert not (out / "result.json").exists()
    with started(role, tmp_path) as job:
        assert job.wait() == 0, job.said()
    assert small_job.outcome(out) == undisturbed


@long
def test_sigterm_saves_and_the_next_start_goes_on(
    tiny: Path, policy: Path, tmp_path: Path, undisturbed: Any
) -> None:
    """Preemption: the scheduler tells the agent, the agent tells the ranks."""
    out = tmp_path / "run"
    never = ["--checkpoint-every", "0"]  # so that what is there was written on the signal
    with started(small_job.train(tiny, policy, out, *never, j="1x2"), tmp_path) as job:
        job.until((out / "metrics.jsonl").exists, "the first epoch's end")
        before = checkpoints(out)
        os.kill(job.process.pid, signal.SIGTERM)
        assert job.wait() != 0
        said = job.said()
    assert checkpoints(out) != before
    assert re.search(r"SIGTERM at step \d+; a checkpoint was written", said), said
    with started(small_job.train(tiny, policy, out, *never, j="1x2"), tmp_path) as job:
        assert job.wait() == 0, job.said()
    assert small_job.outcome(out)["weights"] == undisturbed["weights"]


@long
def test_a_missing_data_directory(policy: Path, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    role = small_job.train(missing, policy, tmp_path / "run", j="1x2")
    with started(role, tmp_path) as job:
        assert job.wait() != 0
        assert str(missing) in told(job.said())


@long
def test_a_batch_that_ranks_cannot_share(tiny: Path, policy: Path, tmp_path: Path) -> None:
    role = small_job.train(tiny, policy, tmp_path / "run", "--batch-size", "33", j="1x2")
    with started(role, tmp_path) as job:
        assert job.wait() != 0
        assert "multiples of 2" in told(job.said())
        assert job.said().count("error: ") == 1, job.said()  # both ranks found it


@long
def test_a_full_disk(tiny: Path, policy: Path, tmp_path: Path) -> None:
    """A file system of 256 KiB, of which the first checkpoint needs more."""
    if not shutil.which("unshare") or os.geteuid():
        pytest.skip("needs root and unshare to mount a small file system")
    small = tmp_path / "small"
    small.mkdir()
    role = small_job.train(tiny, policy, small / "run", j="1x2")
    mount = 'mount -t tmpfs -o size=256k none "$1" && shift && exec "$@"'
    role.args = ["--mount", "sh", "-c", mount, "sh", str(small), role.entrypoint, *role.args]
    role.entrypoint = "unshare"
    with started(role, tmp_path) as job:
        assert job.wait() != 0
        message = told(job.said())
    assert "cannot be written" in message and "make room" in message


def alone(tiny: Path, policy: Path, out: Path, port: int) -> tuple[int, str]:
    """Rank 0 of 2 without an agent, e.g. as srun starts it: exit status and last words."""
    role = small_job.train(tiny, policy, out, j="1x2")
    command = [sys.executable, *role.args[role.args.index("seo_rec") - 1 :]]
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "SEO_REC_TIMEOUT_S": "5"}
    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    environment = {**small_job.environment(role), **meet, **rank}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    return done.returncode, done.stderr.strip().splitlines()[-1]


@long
def test_a_port_that_is_taken(tiny: Path, policy: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, message = alone(tiny, policy, tmp_path / "run", port)
    assert code != 0
    assert "EADDRINUSE" in message and str(port) in message


@long
def test_a_rank_that_never_comes(tiny: Path, policy: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code, message = alone(tiny, policy, tmp_path / "run", port)
    assert code != 0
    assert "1/2 clients joined" in message
