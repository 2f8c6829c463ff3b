"""One agent on each of two hosts, which meet over the network between them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torchx.specs as specs
from torchx.specs import macros
from two_hosts import Host, two_hosts, why_not

import small_job
from components import seo

HERE = Path(__file__).parent
RANK0 = "RANK0_HOST"

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=str(why_not())),
    pytest.mark.timeout(600),
]


def run(role: specs.Role, hosts: tuple[Host, Host], folder: Path, seconds: float) -> list[int]:
    """Do as a scheduler does: start the role on each host and say where the first host is.

    When one ends with an error the other is ended too. What they say is in ``first.out`` and
    ``second.out``; the exit statuses are returned.
    """
    with contextlib.ExitStack() as stack:
        processes = []
        for number, host in enumerate(hosts):
            replica = macros.Values("", "job", str(number), RANK0).apply(role)
            where = {} if number == 0 else {RANK0: hosts[0].name}
            process = subprocess.Popen(
                host.command(replica.entrypoint, *replica.args),
                env={**os.environ, **replica.env, **where},
                cwd=folder,
                stdout=stack.enter_context((folder / f"{host.name}.out").open("wb")),
                stderr=subprocess.STDOUT,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        end = time.monotonic() + seconds
        while any(p.poll() is None for p in processes) and not any(p.poll() for p in processes):
            assert time.monotonic() < end, [said(folder, host) for host in hosts]
            time.sleep(0.1)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return [p.wait(5) for p in processes]
        for process in processes:
            process.kill()
        return [p.wait() for p in processes]


def said(folder: Path, host: Host) -> str:
    return (folder / f"{host.name}.out").read_text()


def launch(j: str, rdzv_timeout: int = 60) -> specs.Role:
    """The role that a component would make of ``ranks_meet``."""
    env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    machine = seo._Machine(0, 0, 1000, None, env, None, 0, "")
    return seo._role(
        "meet", ["ranks_meet", "."], machine, seo._Processes(j, 0, 29500, rdzv_timeout)
    )


@pytest.mark.slow
@pytest.mark.parametrize("local", [1, 2])
def test_ranks_of_two_hosts_meet(tmp_path, local):
    with two_hosts() as hosts:
        assert run(launch(f"2x{local}"), hosts, tmp_path, 120) == [0, 0], said(tmp_path, hosts[0])
    numbers = range(2 * local)
    seen = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in numbers]
    assert sorted(each["host"] for each in seen) == ["first"] * local + ["second"] * local
    assert {each["world"] for each in seen} == {2 * local}
    assert {each["sum"] for each in seen} == {sum(numbers) + 2.0 * local}


@pytest.mark.slow
def test_two_hosts_train_what_one_host_trains(tiny, tmp_path):
    policy = small_job.write_policy(tiny, tmp_path / "policy.json")
    small_job.run(small_job.train(tiny, policy, tmp_path / "one", j="1x2"))
    role = small_job.train(tiny, policy, tmp_path / "two", j="2x1")
    with two_hosts() as hosts:
        assert run(role, hosts, tmp_path, 400) == [0, 0], said(tmp_path, hosts[0])
    small_job.assert_close(small_job.outcome(tmp_path / "two"), small_job.outcome(tmp_path / "one"))


@pytest.mark.slow
def test_a_port_that_is_taken_is_said_at_once(tmp_path):
    listen = "import socket, time; s = socket.create_server(('', 29500)); print(flush=True)"
    with two_hosts() as hosts:
        taken = subprocess.Popen(
            hosts[0].command(sys.executable, "-c", f"{listen}; time.sleep(60)"),
            stdout=subprocess.PIPE,
        )
        try:
            assert taken.stdout and taken.stdout.readline()
            first, second = run(launch("2x1", 10), hosts, tmp_path, 60)
        finally:
            taken.kill()
            taken.wait()
        assert first and second
        assert "EADDRINUSE" in said(tmp_path, hosts[0])
    assert not list(tmp_path.glob("rank-*"))


@pytest.mark.slow
def test_a_host_that_stays_away_is_not_waited_for_forever(tmp_path):
    with two_hosts() as hosts:
        alone = launch("2x1", 5)
        alone.args[-1] = alone.args[-1].replace("exec ", "[ ${replica_id} = 0 ] || exit 0; exec ")
        first, second = run(alone, hosts, tmp_path, 60)
        assert first and not second
        assert "RendezvousTimeoutError" in said(tmp_path, hosts[0])
