"""A stand-in for ``python`` that asks a fork server for the process (``fork_server.py``).

Standard library only, and little of it: it starts in some 20 ms. ``python -m MODULE ...`` becomes a
fork of the server, with this process's working directory, variables and open files 0 to 2; signals
are passed on, and this process ends as the fork does. Everything else becomes a true Python.
"""

import json
import os
import signal
import socket
import sys

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# What is read when libraries are loaded: a process that wants it otherwise is no fork.
FIXED = ("PYTHONPATH", "PYTHONHASHSEED", "OMP_NUM_THREADS", "LD_PRELOAD")


def module_of(words):
    """``(module, its arguments)`` of ``[-u] -m MODULE ...``, or None."""
    words = words[1:] if words[:1] == ["-u"] else words
    return (words[1], words[2:]) if words[:1] == ["-m"] and len(words) > 1 else None


def fixed_of(variables, tree):
    """The values of ``FIXED``; folders of ``tree`` in PYTHONPATH, which all have, say nothing."""
    found = {name: variables.get(name) for name in FIXED}
    paths = (found["PYTHONPATH"] or "").split(os.pathsep)
    return {**found, "PYTHONPATH": [p for p in paths if p and p not in tree]}


def main(address, python, fixed, tree):
    """Never returns: the status is the fork's, or this process becomes ``python``."""
    wanted = module_of(sys.argv[1:])
    alike = fixed_of(os.environ, tree) == fixed
    server = socket.socket(socket.AF_UNIX)
    if wanted is None or not alike or server.connect_ex(address):
        os.execv(python, [python, *sys.argv[1:]])
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    unbuffered = sys.argv[1] == "-u" or bool(os.environ.get("PYTHONUNBUFFERED"))
    request = {
        "module": wanted[0],
        "words": wanted[1],
        "folder": os.getcwd(),
        "variables": dict(os.environ),
        "executable": sys.argv[0],
        "unbuffered": unbuffered,
    }
    text = json.dumps(request).encode()
    socket.send_fds(server, [len(text).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(text)
    for number in FORWARDED:
        signal.signal(number, lambda number, _: server.send(bytes([number])))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    ended = server.recv(1)
    if not ended:
        sys.exit("the fork server has ended")
    status = int.from_bytes(ended + server.recv(3), "big", signed=True)
    if status < 0:
        if -status in FORWARDED:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)
