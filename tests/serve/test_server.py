"""The server as a process: scores, limits, reloads and its end, with real clients."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest
from small_package import PREPARATION, ROWS, small_package
from test_server_bodies import TABLE, stream

from patience import PATIENCE, until
from seo_rec.serve import Predictor
from seo_rec.serve.delta import apply_delta, write_delta
from seo_rec.serve.server import LivePackage, ServerSettings
from seo_rec.serve.server.app import background, build_app
from seo_rec.serve.server.bodies import ARROW, JSON
from seo_rec.serve.server.metrics import Metrics
from seo_rec.serve.server.running import listening
from seo_rec.serve.server.service import Service

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running(package: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server at a free port, and its address."""
    command = [sys.executable, "-m", "seo_rec", "serve", str(package), "--port", "0", *options]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " at http://127.0.0.1:" in line, line
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.communicate()


def health(address: str) -> httpx.Response:
    """What a server says of itself; a busy machine may let it wait."""
    return httpx.get(f"{address}/healthz", timeout=PATIENCE)


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    return small_package(tmp_path_factory.mktemp("package") / "one")


@pytest.fixture(scope="module")
def client(package) -> Iterator[httpx.Client]:
    with (
        running(package) as (_, address),
        httpx.Client(base_url=address, timeout=PATIENCE) as found,
    ):
        yield found


@pytest.fixture(scope="module")
def strict(package) -> Iterator[httpx.Client]:
    options = ["--max-body", "2000", "--max-rows", "5", "--max-requests", "2"]
    with (
        running(package, *options, "--batch-wait", "0.3") as (_, address),
        httpx.Client(base_url=address, timeout=PATIENCE) as found,
    ):
        yield found


def columns(**changed) -> dict:
    return {"columns": {**ROWS, **changed}}


def test_scores_are_the_predictors(client, package):
    predictor = Predictor.load(package)
    wanted = predictor(ROWS)
    answer = client.post("/score", json=columns())
    assert answer.status_code == 200
    assert answer.json()["package"] == predictor.package.version
    np.testing.assert_allclose(answer.json()["scores"], wanted, rtol=1e-6)
    answer = client.post("/score", content=stream(TABLE), headers={"Content-Type": ARROW})
    assert answer.headers["content-type"] == ARROW
    found = pa.ipc.open_stream(answer.content).read_all()["score"].to_numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    headers = {"Content-Type": ARROW, "Accept": JSON}
    answer = client.post("/score", content=stream(TABLE), headers=headers)
    np.testing.assert_allclose(answer.json()["scores"], wanted, rtol=1e-6)
    weights = {"user": [1, 2, 3, 4]}
    answer = client.post("/score", json={**columns(), "weights": weights})
    np.testing.assert_allclose(answer.json()["scores"], predictor(ROWS, weights), rtol=1e-6)
    assert client.post("/score", json={"rows": []}).json()["scores"] == []


def one(**changed) -> dict:
    return {"price": [0.5], "stock": [1], "user": ["ann"], "item": [["a"]], **changed}


EXTREME = {
    "largest id": one(user=[2**63 - 1], item=[[2**63 - 1, 2**62, 2**62 - 1]]),
    "negative id": one(user=[-(2**63)]),
    "unseen": one(user=["nobody"], item=[["nothing"]]),
    "a bag of 100,000": one(item=[list(range(100_000))]),
    "a text of 100,000": one(item=["|".join(map(str, range(100_000)))]),
    "all missing": {name: [None] for name in one()},
    "an empty bag": one(item=[[]]),
    "large numbers": one(price=[3e38], stock=[-(2**53)]),
}


@pytest.mark.parametrize("name", EXTREME)
def test_extreme_values_are_scored_as_the_predictor_scores_them(name, client, package):
    rows = EXTREME[name]
    answer = client.post("/score", json={"columns": rows})
    assert answer.status_code == 200, answer.text
    if rows["item"] == [None]:
        rows = {**rows, "item": [""]}  # alone, null shows no type
    wanted = Predictor.load(package, "numpy")(rows)
    assert np.isfinite(wanted).all()
    np.testing.assert_allclose(answer.json()["scores"], wanted, rtol=1e-6)


REFUSED = {
    "NaN as an id": (one(user=pa.array([np.nan, 0.5])), 422, "user"),
    "infinite": (one(price=pa.array([np.inf])), 422, "price"),
    "beyond float32": (one(price=[1e300]), 422, "price"),
    "fraction as an id": (one(user=[1.5]), 422, "user"),
    "column missing": ({"user": [1]}, 422, "price"),
    "id of 65 bits": (one(user=[2**64]), 422, "user"),
    "weights do not fit": (one(), 422, "weights"),
    "weights are text": (one(), 422, "user"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, client):
    rows, status, part = REFUSED[name]
    if any(isinstance(cells, pa.Array) for cells in rows.values()):
        most = max(len(cells) for cells in rows.values())
        table = pa.table({key: list(cells) * (most // len(cells)) for key, cells in rows.items()})
        headers = {"Content-Type": ARROW}
        answer = client.post("/score", content=stream(table), headers=headers)
    else:
        more = {"weights do not fit": {"weights": {"user": [1, 2]}}}
        more |= {"weights are text": {"weights": {"user": ["a"]}}}
        answer = client.post("/score", json={"columns": rows, **more.get(name, {})})
    assert answer.status_code == status, answer.text
    message = answer.json()["error"]
    assert part in message
    assert "\n" not in message


def test_numbers_that_are_missing_in_arrow(client, package):
    """NaN is a missing number there, as in a data frame."""
    columns = one(price=pa.array([np.nan]), stock=pa.array([1.0]))
    table = pa.table(columns)
    headers = {"Content-Type": ARROW, "Accept": JSON}
    answer = client.post("/score", content=stream(table), headers=headers)
    wanted = Predictor.load(package)(one(price=[None]))
    np.testing.assert_allclose(answer.json()["scores"], wanted, rtol=1e-6)


def test_limits(strict):
    answer = strict.post("/score", json={"columns": {name: [None] * 6 for name in ROWS}})
    assert (answer.status_code, "6 rows; allowed: 5" in answer.text) == (413, True)
    answer = strict.post("/score", content=b"x" * 2001, headers={"Content-Type": JSON})
    assert (answer.status_code, "allowed: 2000" in answer.text) == (413, True)
    parts = (b"x" * 500 for _ in range(10))  # sent in chunks, without an announced length
    answer = strict.post("/score", content=parts, headers={"Content-Type": JSON})
    assert (answer.status_code, "more than 2000" in answer.text) == (413, True)
    headers = {"Content-Encoding": "gzip"}
    assert strict.post("/score", json={}, headers=headers).status_code == 415
    assert strict.get("/score").status_code == 405
    assert strict.get("/elsewhere").status_code == 404


def test_too_many_requests_at_a_time(strict):
    address, start = str(strict.base_url), threading.Barrier(6)
    found: list[httpx.Response] = []

    def ask() -> None:
        with httpx.Client(base_url=address, timeout=PATIENCE) as client:
            start.wait(PATIENCE)
            found.append(client.post("/score", json={"columns": one()}))

    def one_is_refused() -> bool:
        found.clear()
        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return any(answer.status_code == 429 for answer in found)

    until(one_is_refused)  # on a busy machine they may not meet at the first try
    assert len(found) == 6 and {answer.status_code for answer in found} == {200, 429}
    refused = next(answer for answer in found if answer.status_code == 429)
    assert "the most that --max-requests allows" in refused.json()["error"]
    assert refused.headers["retry-after"] == "1"
    assert strict.post("/score", json={"columns": one()}).status_code == 200


@pytest.mark.parametrize("method, path, status", [("GET", "/x", 404), ("GET", "/score", 405)])
def test_another_address_is_refused_as_all_else(method, path, status, client):
    answer = client.request(method, path)
    assert answer.status_code == status and list(answer.json()) == ["error"]
    assert path in answer.json()["error"] and "POST /score" in answer.json()["error"]
    assert status == 404 or answer.headers["Allow"] == "POST"


def test_arrow_is_for_score(client):
    headers = {"Content-Type": ARROW}
    answer = client.post("/v2/models/one/infer", content=b"x", headers=headers)
    assert answer.status_code == 415 and "POST /score" in answer.json()["error"]


def test_metrics_and_health(client):
    before = counters(client)
    for _ in range(3):
        client.post("/score", json=columns())
    client.post("/score", content=b"{", headers={"Content-Type": JSON})
    after = counters(client)
    ok, bad = 'seo_rec_requests_total{status="200"}', 'seo_rec_requests_total{status="400"}'
    assert after[ok] - before.get(ok, 0) == 3
    assert after[bad] - before.get(bad, 0) == 1
    assert after["seo_rec_rows_total"] - before["seo_rec_rows_total"] == 12
    assert after["seo_rec_requests_in_flight"] == 0
    assert after["seo_rec_batch_rows_sum"] - before["seo_rec_batch_rows_sum"] == 12
    answer = client.get("/healthz")
    version = answer.json()["package"]
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    assert after[f'seo_rec_package{{version="{version}"}}'] == 1
    about = client.get("/package").json()
    assert about["package"] == version
    assert [c["name"] for c in about["columns"]] == list(ROWS)


def counters(client) -> dict[str, float]:
    lines = [x for x in client.get("/metrics").text.splitlines() if not x.startswith("#")]
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


# ---- reloads and the end -------------------------------------------------------------------


class Load:
    """Clients that ask all the time; each leaves once an answer asks it to."""

    def __init__(self, address: str, clients: int) -> None:
        self.address = address
        self.answers: list[tuple[float, float, str, list[float]]] = []
        self.failures: list[str] = []
        self.told_to_leave = 0
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.ask) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def ask(self) -> None:
        content = json.dumps(columns())
        headers = {"Content-Type": JSON}
        with httpx.Client(base_url=self.address, timeout=PATIENCE) as client:
            while not self.ended.is_set():
                started = time.perf_counter()
                try:
                    answer = client.post("/score", content=content, headers=headers)
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    return
                seconds = time.perf_counter() - started
                if answer.status_code != 200:
                    self.failures.append(answer.text)
                    continue
                found = answer.json()
                self.answers.append((started, seconds, found["package"], found["scores"]))
                if answer.headers.get("connection") == "close":
                    self.told_to_leave += 1
                    return

    def wait(self) -> None:
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def until(self, version: str) -> None:
        until(
            lambda: self.answers and self.answers[-1][2] == version,
            lambda: f"no answer of package {version}; failures: {self.failures}",
        )


def test_no_request_fails_over_reloads_and_the_end(tmp_path, capsys):
    """Under load: a delta, a new package, a bad package, and SIGTERM."""
    served = small_package(tmp_path / "served", seed=3)
    second = small_package(tmp_path / "second", seed=4)
    third = small_package(tmp_path / "third", seed=5)
    (tmp_path / "delta").mkdir()
    write_delta(served, second, tmp_path / "delta")
    wanted = {}
    for path in (served, second, third):
        predictor = Predictor.load(path)
        wanted[predictor.package.version] = predictor(ROWS)
    versions = list(wanted)
    with running(served, "--reload", "0.1", "--drain", "3600") as (process, address):
        load = Load(address, clients=6)
        load.until(versions[0])
        apply_delta(served, tmp_path / "delta")
        load.until(versions[1])
        os.rename(served, tmp_path / "old")  # for a moment there is no package
        time.sleep(0.3)
        os.rename(third, served)
        load.until(versions[2])
        shutil.copytree(served, tmp_path / "bad")
        weights = tmp_path / "bad/embeddings.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        os.rename(served, tmp_path / "third")
        os.rename(tmp_path / "bad", served)
        with httpx.Client(base_url=address, timeout=PATIENCE) as client:
            until(lambda: 'seo_rec_reloads_total{result="failed"}' in counters(client))
        load.until(versions[2])
        process.send_signal(signal.SIGTERM)
        until(lambda: health(address).status_code == 503)
        assert health(address).json()["status"] == "stopping"
        load.wait()
        process.send_signal(signal.SIGTERM)  # the second one ends the wait of --drain
        assert process.wait(PATIENCE) == 0
    assert load.failures == []
    assert load.told_to_leave == 6
    assert {version for _, _, version, _ in load.answers} == set(versions)
    for _, _, version, scores in load.answers:
        np.testing.assert_allclose(scores, wanted[version], rtol=1e-6)
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)
    report(load, capsys)


def report(load: Load, capsys) -> None:
    """Throughput and latency, for a reader of the test's output."""
    starts = [started for started, *_ in load.answers]
    seconds = np.array([took for _, took, *_ in load.answers])
    rate = len(seconds) / (max(starts) - min(starts))
    p50, p99 = np.quantile(seconds, [0.5, 0.99]) * 1e3
    with capsys.disabled():
        print(f"\n6 clients: {rate:.0f} requests/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms")


@pytest.mark.slow
def test_sighup_loads_the_package_anew(tmp_path):
    """With --reload 0 nothing but the signal does; the package is a symbolic link here."""
    paths = [small_package(tmp_path / str(seed), seed) for seed in (3, 4)]
    versions = [Predictor.load(path).package.version for path in paths]
    link = tmp_path / "current"
    link.symlink_to(paths[0])
    with running(link, "--reload", "0", "--drain", "0.1") as (process, address):
        (tmp_path / "next").symlink_to(paths[1])
        os.replace(tmp_path / "next", link)
        time.sleep(ServerSettings().reload + 0.5)  # a look at the package, if there was one
        assert health(address).json()["package"] == versions[0]
        process.send_signal(signal.SIGHUP)
        until(lambda: health(address).json()["package"] == versions[1])
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_a_package_that_changes_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    paths = [small_package(tmp_path / str(seed), seed) for seed in (3, 4)]
    link = tmp_path / "current"
    link.symlink_to(paths[0])
    load, times = Predictor.load, []

    def changing(path, *arguments):
        found = load(path, *arguments)
        if not times:
            link.unlink()
            link.symlink_to(paths[1])
        times.append(path)
        return found

    monkeypatch.setattr(Predictor, "load", changing)
    live = LivePackage(link)
    assert len(times) == 2
    assert live.version == load(paths[1]).package.version
    assert not live.has_changed()


def test_the_version_is_the_checksum_of_the_manifest(tmp_path):
    """The checksum of the file itself, however its JSON is written."""
    path = small_package(tmp_path / "package")
    manifest = path / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text())))
    assert LivePackage(path).version == hashlib.sha256(manifest.read_bytes()).hexdigest()[:12]


def test_scores_and_version_are_of_one_package(tmp_path):
    """Whatever is loaded while a request is answered."""
    both = [LivePackage(small_package(tmp_path / str(seed), seed)) for seed in (3, 4)]
    wanted = {live.version: live.predictor(ROWS) for live in both}

    class Changing(LivePackage):
        """Another package whenever the predictor is read."""

        def __init__(self):
            self.reads = 0

        @property
        def predictor(self):
            self.reads += 1
            return both[self.reads % 2].predictor

    async def ask() -> list[tuple[np.ndarray, str]]:
        service = Service(Changing(), ServerSettings(), Metrics())
        task = asyncio.create_task(service.batcher.run())
        body = json.dumps(columns()).encode()
        found = [await service.score(JSON, body) for _ in range(3)]
        task.cancel()
        return [(scores, package.version) for scores, package in found]

    answers = asyncio.run(ask())
    assert {version for _, version in answers} == set(wanted)
    for scores, version in answers:
        np.testing.assert_allclose(scores, wanted[version], rtol=1e-6)


def test_a_body_that_does_not_come_is_refused(package):
    """In one process, since the command line has no option for this time."""

    async def slow():
        yield b"{"
        await asyncio.sleep(5)
        yield b"}"

    async def ask() -> httpx.Response:
        service = Service(LivePackage(package), ServerSettings(body_time=0.1), Metrics())
        app = build_app(service, background(service, lambda: None))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/score", content=slow(), headers={"Content-Type": JSON})

    answer = asyncio.run(ask())
    assert answer.status_code == 408
    assert "0.1 s" in answer.json()["error"]


@pytest.mark.parametrize(
    "options, part",
    [
        (["--port", "70000"], "--port 70000; allowed"),
        (["--max-rows", "0"], "max_rows 0; allowed"),
        (["--reload", "-1"], "reload -1.0; allowed"),
        (["--drain", "nan"], "drain nan; allowed"),
        (["--engine", "x"], "engine 'x'; allowed"),
        (["--threads", "-1"], "--threads -1; allowed"),
    ],
)
def test_bad_options(options, part, package, seo_rec):
    done = seo_rec("serve", package, *options)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert part in done.err


def test_a_port_that_is_taken(package):
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = serve_once(package, "--port", str(other.getsockname()[1]))
    assert done.returncode == 2
    assert "in use" in done.stderr
    assert "--port" in done.stderr


def test_answers_are_sent_at_once():
    """Connections have Nagle's algorithm off; it would add 40 ms to every answer."""
    with listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def serve_once(package: Path, *options: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return subprocess.run(
        [sys.executable, "-m", "seo_rec", "serve", str(package), *options],
        capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


def test_the_server_needs_no_torch():
    code = "import sys, seo_rec.serve.server.running; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert [c.name for c in PREPARATION.columns] == list(ROWS)
