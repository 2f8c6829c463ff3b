"""A server under load: clients on loopback that ask all the time, reloads, and SIGTERM.

The clients are coroutines of one process, each with a connection that stays open. They share the
machine's cores with the server, so its throughput on a machine of its own is higher.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.record import Line
from seo_rec.serve.server.bodies import ARROW, JSON

BODIES = 64  # different requests, which every client sends in turn
WARM_SECONDS = 0.5  # of load before anything counts
PATIENCE = 60.0  # seconds that an answer, a reload or the end may take
RELOADS = 4
DRAIN = 2  # seconds that the server goes on answering after SIGTERM
Address = tuple[str, int]


@dataclass(frozen=True)
class Answer:
    """What a server answered: its status, whether the client is to leave, and the body."""

    status: int
    closes: bool
    body: bytes


@dataclass
class Seen:
    """What clients saw.

    Args:
        answers: When each good answer was there and how long it took, in seconds.
        failures: What went wrong, one text for a request.
        told_to_leave: Clients that an answer asked to leave.
        last: The last good answer.
    """

    answers: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    told_to_leave: int = 0
    last: bytes = b""


def json_bodies(table: Any, rows: int) -> list[bytes]:
    """Bodies of ``rows`` rows each, of successive rows of ``table``."""
    return [json.dumps({"columns": part.to_pydict()}).encode() for part in _parts(table, rows)]


def arrow_bodies(table: Any, rows: int) -> list[bytes]:
    """The same rows as Arrow streams."""
    found = []
    for part in _parts(table, rows):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part.combine_chunks())
        found.append(sink.getvalue().to_pybytes())
    return found


def _parts(table: Any, rows: int) -> list[Any]:
    return [table.slice(i * rows, rows) for i in range(min(BODIES, len(table) // rows))]


FORMS = {"JSON": (JSON, json_bodies), "Arrow": (ARROW, arrow_bodies)}


def requests_of(form: str, table: Any, rows: int) -> list[bytes]:
    """Whole HTTP requests of ``rows`` rows each."""
    content_type, bodies = FORMS[form]
    head = f"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
    return [
        f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies(table, rows)
    ]


def scores_in(form: str, body: bytes) -> Any:
    """The scores of an answer, float32 (B,)."""
    if form == "JSON":
        return np.asarray(json.loads(body)["scores"], np.float32)
    return pa.ipc.open_stream(body).read_all()["score"].to_numpy()


@contextmanager
def running(package: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], Address]]:
    """``seo-rec serve`` at a free port, as a process of its own, and its address."""
    command = [sys.executable, "-m", "seo_rec", "serve", str(package), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if " at http://" not in line:
                raise RuntimeError(f"the server did not start; it said {line!r}")
            host, _, port = line.split()[-1].removeprefix("http://").rpartition(":")
            yield process, (host, int(port))
        finally:
            process.kill()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> Answer:
    """Send one request, and read its answer to the end."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers["content-length"]))
    return Answer(int(first.split()[1]), headers.get("connection") == "close", body)


async def _client(
    address: Address, requests: Sequence[bytes], number: int, ended: asyncio.Event, seen: Seen
) -> None:
    """Ask all the time, until it is ended, an answer says to leave, or the connection fails."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        while not ended.is_set():
            started = time.perf_counter()
            answer = await asyncio.wait_for(
                ask(reader, writer, requests[number % len(requests)]), PATIENCE
            )
            now = time.perf_counter()
            number += 1
            if answer.status == 200:
                seen.answers.append((now, now - started))
                seen.last = answer.body
            else:
                seen.failures.append(f"{answer.status}: {answer.body[:200]!r}")
            if answer.closes:
                seen.told_to_leave += 1
                return
    except (OSError, EOFError, TimeoutError) as error:
        seen.failures.append(repr(error))
    finally:
        writer.close()


def one_answer(address: Address, request: bytes) -> bytes:
    """The body of one answer.

    Raises:
        RuntimeError: Its status is not 200.
    """

    async def once() -> Answer:
        reader, writer = await asyncio.open_connection(*address)
        try:
            return await asyncio.wait_for(ask(reader, writer, request), PATIENCE)
        finally:
            writer.close()

    answer = asyncio.run(once())
    if answer.status != 200:
        raise RuntimeError(f"the server answered {answer.status}: {answer.body[:200]!r}")
    return answer.body


def processor_seconds(pid: int) -> float:
    """Processor time that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def under_load(
    pid: int, address: Address, requests: Sequence[bytes], clients: int, seconds: float
) -> Line:
    """Throughput and latency of so many clients that ask all the time, after a warm-up.

    Args:
        pid: The server's process, whose processor time is read.
        address: Where it answers.
        requests: What every client sends in turn.
        clients: How many ask at a time.
        seconds: How long they are counted.
    """

    async def load() -> tuple[Seen, float, float]:
        seen, ended = Seen(), asyncio.Event()
        tasks = [
            asyncio.create_task(_client(address, requests, i, ended, seen)) for i in range(clients)
        ]
        await asyncio.sleep(WARM_SECONDS)
        begin, before = time.perf_counter(), processor_seconds(pid)
        await asyncio.sleep(seconds)
        end, used = time.perf_counter(), processor_seconds(pid) - before
        ended.set()
        await asyncio.gather(*tasks)
        seen.answers = [(at, took) for at, took in seen.answers if begin <= at < end]
        return seen, end - begin, used

    seen, elapsed, used = asyncio.run(load())
    answers = len(seen.answers)
    return {
        "clients": clients,
        "requests_per_s": round(answers / elapsed, 1),
        **_quantiles(seen),
        "processor_ms": round(used * 1e3 / answers, 3) if answers else None,
        "failed": len(seen.failures),
    }


def _quantiles(seen: Seen) -> Line:
    took = [seconds for _, seconds in seen.answers]
    if not took:
        return {"p50_ms": None, "p99_ms": None}
    p50, p99 = np.quantile(took, (0.5, 0.99)) * 1e3
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}


def over_reloads(
    packages: Sequence[Path], folder: Path, requests: Sequence[bytes], clients: int
) -> Line:
    """Requests under load while the package is exchanged, and when SIGTERM ends the server.

    Args:
        packages: Two packages, which are served in turn through a symbolic link.
        folder: Where the link is made.
        requests: JSON requests.
        clients: Clients that ask all the time, until an answer tells them to leave.
    """
    current = folder / "current"

    def point_to(package: Path) -> None:
        (folder / "next").symlink_to(package)
        os.replace(folder / "next", current)

    async def load(process: subprocess.Popen[str], address: Address) -> tuple[Seen, set[str]]:
        seen, ended = Seen(), asyncio.Event()
        tasks = [
            asyncio.create_task(_client(address, requests, i, ended, seen)) for i in range(clients)
        ]
        version = await _another_version(seen, None)
        served = {version}
        for number in range(1, RELOADS + 1):
            point_to(packages[number % 2])
            version = await _another_version(seen, version)
            served.add(version)
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
        return seen, served

    point_to(packages[0])
    with running(current, "--reload", "0.2", "--drain", str(DRAIN)) as (process, address):
        seen, served = asyncio.run(load(process, address))
        code = process.wait(PATIENCE)
    return {
        "clients": clients,
        "reloads": RELOADS,
        "packages": len(served),
        "requests": len(seen.answers),
        "failed": len(seen.failures),
        "failures": seen.failures[:3],
        "told_to_leave": seen.told_to_leave,
        "exit_code": code,
        **_quantiles(seen),
    }


async def _another_version(seen: Seen, old: str | None) -> str:
    """The version of the package that answers, as soon as it is not ``old``."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        await asyncio.sleep(0.02)
        if seen.last and (version := json.loads(seen.last)["package"]) != old:
            return str(version)
    raise RuntimeError(f"no other package than {old} answered; failures: {seen.failures[:3]}")
