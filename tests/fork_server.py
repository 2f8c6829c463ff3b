"""Real processes without their imports: a server that has the libraries forks one per command.

Loading torch and TorchRec takes six seconds of processor time. ``forked_python()`` gives the path
of a program that is called like ``python`` (``fork_client.py``). A command that it starts has a
process of its own, with its own working directory, variables, open files, signals and exit status;
only its imports are done before. Tests of imports, of warnings of imports, of signals and of an
installation take ``sys.executable``.

The server computes nothing, has one thread, and ends with the test process. Where it cannot be had
the program is a true Python, which is slower and no different.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import logging
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fork_client

ROOT = Path(__file__).resolve().parent.parent
TREE = [str(ROOT), str(ROOT / "kernels")]
# What trainings, searches and their launchers import, if late.
LOADED = (
    "torch.distributed.optim",
    "torch.distributed.launcher.api",
    "torchrec.distributed",
    "scipy.stats",
    "sklearn.metrics",
    "torchx.runner",
    "torchx.schedulers.local_scheduler",
    "seo_rec.cli.main",
    "seo_rec.recipes",
)
UNTHREADED = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}  # of pyarrow's allocator
READY = b"ready\n"
LONGEST = 120  # bytes of the first line of a program, on every Linux


@contextmanager
def forked_python(folder: Path, loaded: Sequence[str] = LOADED) -> Iterator[str]:
    """The path of a ``python`` whose ``-m MODULE`` is a fork of a server that starts now.

    Args:
        folder: For the program and the server's socket; its path is short, as sockets want it.
        loaded: Modules that the server imports.
    """
    address, program = str(folder / "socket"), folder / "python"
    if not hasattr(os, "pidfd_open") or max(len(address), len(sys.executable)) > LONGEST - 20:
        yield sys.executable
        return
    path = os.pathsep.join([*TREE, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **UNTHREADED}
    fixed = fork_client.fixed_of(variables, TREE)
    source = Path(fork_client.__file__).read_text()
    call = f"main({address!r}, {sys.executable!r}, {fixed!r}, {TREE!r})"
    program.write_text(f"#!{sys.executable} -IS\n{source}\n\n{call}\n")
    program.chmod(0o700)
    server = subprocess.Popen(
        [sys.executable, __file__, address, *loaded],
        stdin=subprocess.PIPE,  # its end is the end of the server
        stdout=subprocess.PIPE,
        env=variables,
        start_new_session=True,  # an interrupt at the terminal is for the tests
    )
    assert server.stdin is not None and server.stdout is not None
    try:
        ready = server.stdout.readline() == READY
        yield str(program) if ready else sys.executable
    finally:
        server.stdin.close()
        server.wait()


def serve(address: str) -> dict[str, Any]:
    """Fork for every request until stdin ends. Returns in the forks alone, with the request."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    print(READY.decode(), end="", flush=True)
    loop = selectors.DefaultSelector()
    loop.register(listener, selectors.EVENT_READ)
    loop.register(sys.stdin, selectors.EVENT_READ)
    running: dict[int, socket.socket] = {}  # process id -> the client that waits for it
    while True:
        for key, _ in loop.select():
            if key.fileobj is sys.stdin:
                for process in running:
                    os.kill(process, signal.SIGKILL)
                os._exit(0)
            elif key.fileobj is listener:
                client, _ = listener.accept()
                request, files = received(client)
                process = os.fork()
                if process == 0:
                    for each in [k.fileobj for k in loop.get_map().values()]:
                        if each is not sys.stdin:
                            os.close(each if isinstance(each, int) else each.detach())
                    loop.close()
                    client.close()
                    return {**request, "files": files}
                for file in files:
                    os.close(file)
                running[process] = client
                loop.register(client, selectors.EVENT_READ, process)
                loop.register(os.pidfd_open(process), selectors.EVENT_READ, process)
            elif key.data in running:
                tell(loop, running, key)


def received(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What a client asks for, and its files 0, 1 and 2."""
    size, files, _, _ = socket.recv_fds(client, 4, 3)
    text = b""
    while len(text) < int.from_bytes(size, "big"):
        text += client.recv(1 << 20)
    return json.loads(text), list(files)


def tell(loop: selectors.BaseSelector, running: dict[int, socket.socket], key: Any) -> None:
    """A client has sent a signal or is gone, or a process has ended."""
    process, client = key.data, running[key.data]
    if key.fileobj is client:
        try:
            number = client.recv(1)
        except ConnectionError:
            number = b""
        os.kill(process, number[0] if number else signal.SIGKILL)
        if not number:
            loop.unregister(client)
        return
    _, status = os.waitpid(process, 0)
    with suppress(OSError):  # it was killed
        client.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
    if client in loop.get_map():
        loop.unregister(client)
    loop.unregister(key.fileobj)
    os.close(key.fileobj)
    client.close()
    del running[process]


def become(request: dict[str, Any]) -> None:
    """Make this process what ``python`` would have been: files, folder, variables, arguments."""
    for number, file in enumerate(request["files"]):
        os.dup2(file, number)
        os.close(file)
    open_streams(request["unbuffered"])
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["variables"])
    sys.executable = request["executable"]
    sys.argv = [request["module"], *request["words"]]
    sys.path[0] = request["folder"]
    logging.getLogger().handlers.clear()  # TorchRec's imports add one
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # the server's state would be the same for all
    for name in (request["module"], f"{request['module']}.__main__"):
        module = sys.modules.get(name)
        if module is not None and not hasattr(module, "__path__"):
            del sys.modules[name]  # it is run, not imported


def open_streams(unbuffered: bool) -> None:
    """Open stdin, stdout and stderr as Python does when it starts."""
    for name, mode, errors in (
        ("stdin", "rb", "strict"),
        ("stdout", "wb", "strict"),
        ("stderr", "wb", "backslashreplace"),
    ):
        file, encoding = getattr(sys, name).fileno(), getattr(sys, name).encoding
        raw = open(file, mode, 0 if unbuffered and mode == "wb" else -1, closefd=False)  # noqa: SIM115
        by_line = not unbuffered and (name == "stderr" or os.isatty(file))
        stream = io.TextIOWrapper(raw, encoding, errors, None, by_line, unbuffered)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


if __name__ == "__main__":
    for name in sys.argv[2:]:
        importlib.import_module(name)
    if threading.active_count() > 1 or len(os.listdir("/proc/self/task")) > 1:
        sys.exit("a library started a thread, which forks would not have")
    gc.freeze()
    wanted = serve(sys.argv[1])
    become(wanted)
    runpy.run_module(wanted["module"], run_name="__main__", alter_sys=True)
