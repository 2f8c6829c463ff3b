"""A process of the fork server is, to whoever starts it, a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fork_server import TREE, forked_python
from patience import PATIENCE, until

PROBE = """
import atexit, json, os, signal, sys, threading, time
words = sys.argv[1:]
told = {"words": words, "folder": os.getcwd(), "name": __name__, "path": sys.path[0]}
told |= {"variable": os.environ.get("PROBE"), "program": os.path.basename(sys.argv[0])}
told |= {"in": sys.stdin.read() if words[0] == "read" else "", "pid": os.getpid()}
print(json.dumps(told), flush=words[0] != "late")
print("to stderr", file=sys.stderr)
if words[0] == "streams":
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")
        print(stream.encoding, stream.line_buffering, stream.write_through, stream.isatty())
if words[0] == "exit":
    sys.exit(json.loads(words[1]))
if words[0] == "raise":
    raise ValueError("7 is odd")
if words[0] == "die":
    os.kill(os.getpid(), int(words[1]))
if words[0] == "late":
    atexit.register(print, "at exit")
    threading.Thread(target=lambda: (time.sleep(0.05), print("of a thread"))).start()
if words[0] == "wait":
    def ended(number, _):
        print("signal", number)
        sys.exit(5)
    signal.signal(signal.SIGTERM, ended)
    print("waits", flush=True)
    time.sleep(3600)
if words[0] == "loaded":
    print("colorsys" in sys.modules, sys.executable)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the module that the processes run."""
    place = tmp_path_factory.mktemp("probe")
    (place / "probe.py").write_text(PROBE)
    return place


@contextlib.contextmanager
def server(place: Path) -> Iterator[str]:
    """A server that has loaded one module, which nothing else needs."""
    with forked_python(place, ["colorsys"]) as program:
        if program == sys.executable:
            pytest.skip("forks need Linux 5.3 and short paths")
        yield program


@pytest.fixture(scope="module")
def program() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as place, server(Path(place)) as found:
        yield found


def finished(python: str, folder: Path, *words: str, **more: str) -> tuple[int, str, str]:
    """Status and output, without what differs between any two processes."""
    done = subprocess.run(
        [python, "-m", "probe", *words],
        cwd=folder, env={**os.environ, "PROBE": "x y\n", **more}, input="some\ninput",
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    out = done.stdout.splitlines()
    told = {k: v for k, v in json.loads(out[0]).items() if k != "pid"}
    trace = done.stderr.partition("Traceback")
    last = trace[2].splitlines()[-1:] if trace[1] else []
    return done.returncode, json.dumps([told, *out[1:]]), trace[0] + "".join(last)


@pytest.mark.parametrize(
    "words",
    [
        ["nothing"],
        ["read"],
        ["two words", "", "ü\n"],
        ["exit", "3"],
        ["exit", "null"],
        ["exit", '"no such file"'],
        ["raise"],
        ["die", str(int(signal.SIGKILL))],
        ["die", str(int(signal.SIGTERM))],
        ["die", str(int(signal.SIGABRT))],
        ["late"],
    ],
    ids=" ".join,
)
def test_a_process_is_as_python_makes_it(words: list[str], program: str, folder: Path) -> None:
    assert finished(program, folder, *words) == finished(sys.executable, folder, *words)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_its_streams_are_as_python_makes_them(unbuffered: str, program: str, folder: Path) -> None:
    fork, true = (
        finished(python, folder, "streams", PYTHONUNBUFFERED=unbuffered)
        for python in (program, sys.executable)
    )
    assert fork == true


def test_its_libraries_are_loaded_and_what_it_starts_is_forked_too(
    program: str, folder: Path
) -> None:
    paths = os.pathsep.join([*TREE, os.environ.get("PYTHONPATH", "")])
    for more in ({}, {"PYTHONPATH": paths}):
        _, out, _ = finished(program, folder, "loaded", **more)
        assert json.loads(out)[1] == f"True {program}"
    _, out, _ = finished(sys.executable, folder, "loaded")
    assert json.loads(out)[1] == f"False {sys.executable}"


@pytest.mark.parametrize("name", ["PYTHONPATH", "PYTHONHASHSEED", "OMP_NUM_THREADS"])
def test_what_is_read_at_the_start_of_a_process_makes_it_a_true_one(
    name: str, program: str, folder: Path
) -> None:
    _, out, _ = finished(program, folder, "loaded", **{name: "7"})
    assert json.loads(out)[1] == f"False {sys.executable}"


def test_code_and_files_are_run_by_a_true_python(program: str, tmp_path: Path) -> None:
    code = "import sys; print(sys.executable, 'colorsys' in sys.modules)"
    (tmp_path / "file.py").write_text(code)
    for words in (["-c", code], [str(tmp_path / "file.py")]):
        done = subprocess.run([program, *words], capture_output=True, text=True, check=True)
        assert done.stdout == f"{sys.executable} False\n"


def waiting(program: str, folder: Path) -> tuple[subprocess.Popen[str], int]:
    """A client whose process waits, and the id of that process."""
    client = subprocess.Popen(
        [program, "-m", "probe", "wait"], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    pid = json.loads(client.stdout.readline())["pid"]
    assert client.stdout.readline() == "waits\n"
    return client, pid


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_signals_arrive(program: str, folder: Path) -> None:
    client, pid = waiting(program, folder)
    assert pid != client.pid and is_there(pid)
    client.terminate()
    out, _ = client.communicate(timeout=PATIENCE)
    assert (client.returncode, out) == (5, f"signal {int(signal.SIGTERM)}\n")
    assert not is_there(pid)


def test_a_killed_client_leaves_no_process(program: str, folder: Path) -> None:
    client, pid = waiting(program, folder)
    client.kill()
    client.communicate(timeout=PATIENCE)
    until(lambda: not is_there(pid))
    assert finished(program, folder, "exit", "3")[0] == 3  # the server goes on


def test_processes_run_side_by_side(program: str, folder: Path) -> None:
    both = [waiting(program, folder) for _ in range(2)]
    assert finished(program, folder, "exit", "4")[0] == 4
    for client, _ in both:
        client.terminate()
    assert [client.wait(PATIENCE) for client, _ in both] == [5, 5]


def test_the_end_of_the_server_is_the_end_of_its_processes(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place, server(Path(place)) as program:
        client, pid = waiting(program, folder)
        assert is_there(pid)
    assert client.wait(PATIENCE) != 0
    until(lambda: not is_there(pid))


def test_where_no_server_answers_a_true_python_starts(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        with server(Path(place)) as program:
            pass
        _, out, _ = finished(program, folder, "loaded")
    assert json.loads(out)[1] == f"False {sys.executable}"


def test_a_server_that_cannot_start_is_a_true_python(tmp_path: Path) -> None:
    with forked_python(tmp_path, ["no_such_module"]) as program:
        assert program == sys.executable
