"""One agent on each of two hosts, which meet over the network between them."""

from __future__ import annotations

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

from components import seo

HERE = Path(__file__).parent
RANK0 = "RANK0_HOST"

pytestmark = pytest.mark.skipif(bool(why_not()), reason=str(why_not()))


def start(role: specs.Role, hosts: tuple[Host, Host], folder: Path) -> list[subprocess.Popen[str]]:
    """What a scheduler does: start the role on each host and say where the first host is."""
    processes = []
    for number, host in enumerate(hosts):
        values = macros.Values("", "job", str(number), RANK0)
        replica = values.apply(role)
        where = {} if number == 0 else {RANK0: hosts[0].name}
        processes.append(
            subprocess.Popen(
                host.command(replica.entrypoint, *replica.args),
                env={**os.environ, **replica.env, **where},
                cwd=folder,
                stdout=(folder / f"{host.name}.out").open("w"),
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def finish(processes: list[subprocess.Popen[str]], seconds: float) -> list[tuple[int, str]]:
    """Exit status and output of each process; where one fails, the others are ended, as a gang."""
    end = time.monotonic() + seconds
    while any(p.poll() is None for p in processes) and not any(p.poll() for p in processes):
        assert time.monotonic() < end, "nothing failed and nothing ended"
        time.sleep(0.1)
    try:
        return [(p.wait(5), p.stdout.read() if p.stdout else "") for p in processes]
    except subprocess.TimeoutExpired:
        for process in processes:
            process.kill()
        return [(p.wait(5), p.stdout.read() if p.stdout else "") for p in processes]
    finally:
        for process in processes:
            process.kill()


def machine() -> seo._Machine:
    env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    return seo._Machine(0, 0, 1000, None, env, None, 0, "")


def test_ranks_of_two_hosts_meet(tmp_path):
    role = seo._role("meet", ["ranks_meet", "."], machine(), seo._Processes("2x2", 0, 29500, 60))
    with two_hosts() as hosts:
        done = finish(start(role, hosts, tmp_path), 120)
    assert [code for code, _ in done] == [0, 0], done
    seen = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(4)]
    assert sorted(each["host"] for each in seen) == ["first", "first", "second", "second"]
    assert {each["world"] for each in seen} == {4}
    assert {each["sum"] for each in seen} == {1.0 + 2 + 3 + 4}


def test_a_port_that_is_taken_ends_all_nodes_with_its_number(tmp_path):
    role = seo._role("meet", ["ranks_meet", "."], machine(), seo._Processes("2x1", 0, 29500, 10))
    listen = "import socket, time; s = socket.create_server(('', 29500)); print(flush=True)"
    with two_hosts() as hosts:
        taken = subprocess.Popen(
            hosts[0].command(sys.executable, "-c", f"{listen}; time.sleep(60)"),
            stdout=subprocess.PIPE,
        )
        assert taken.stdout and taken.stdout.readline()
        started = time.monotonic()
        try:
            (first, said), (second, _) = finish(start(role, hosts, tmp_path), 60)
        finally:
            taken.kill()
            taken.wait()
    print(said, _, time.monotonic() - started)
    assert first and second
    assert "29500" in said and "EADDRINUSE" in said
    assert not list(tmp_path.iterdir())
