"""Two hosts on one machine: network namespaces joined by a cable, each with a name of its own.

What runs in one has its own loopback device, its own ports and its own hostname, and reaches the
other only by its address, as between two machines. Needs Linux, root and the commands of
iproute2 and util-linux.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Host:
    """A namespace, the name and address of the host it stands for, and who is where."""

    namespace: str
    name: str
    address: str
    hosts_file: Path

    def command(self, *arguments: str) -> list[str]:
        """``arguments``, run on this host; it is one process, so that killing it kills them."""
        become = 'mount --bind "$1" /etc/hosts && hostname "$2" && shift 2 && exec "$@"'
        return [
            *_enter(self.namespace),
            "sh",
            "-c",
            become,
            "sh",
            str(self.hosts_file),
            self.name,
            *arguments,
        ]


def _enter(namespace: str) -> list[str]:
    """``ip netns exec`` would also replace /sys, and Slurm looks for its control groups there."""
    return ["nsenter", f"--net=/run/netns/{namespace}", "unshare", "--mount", "--uts"]


def why_not() -> str | None:
    """What is missing here for two hosts; None if nothing is."""
    tools = ("ip", "nsenter", "unshare", "mount", "hostname")
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        return f"two hosts need {', '.join(missing)} (packages iproute2, util-linux, hostname)"
    name = f"seo-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"two hosts need the right to make network namespaces: {made.stderr.strip()}"
    entered = subprocess.run([*_enter(name), "true"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", name], check=True)
    if entered.returncode:
        return f"two hosts need the right to make mount namespaces: {entered.stderr.strip()}"
    return None


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """The hosts ``first`` and ``second``; both are gone afterwards, with what runs in them."""
    own = os.getpid()
    with tempfile.TemporaryDirectory() as folder:
        hosts_file = Path(folder) / "hosts"
        first = Host(f"seo-1-{own}", "first", "10.213.77.1", hosts_file)
        second = Host(f"seo-2-{own}", "second", "10.213.77.2", hosts_file)
        names = [f"{host.address} {host.name}" for host in (first, second)]
        hosts_file.write_text("\n".join(["127.0.0.1 localhost", *names]) + "\n")
        try:
            for host in (first, second):
                _ip("netns", "add", host.namespace)
            # A device's name has 15 letters at most, and the name of the pair leaves at once.
            for host in (first, second):
                _ip("-n", host.namespace, "link", "set", "lo", "up")
            peer = ["peer", "name", "cable", "netns", second.namespace]
            _ip("link", "add", "cable", "netns", first.namespace, "type", "veth", *peer)
            for host in (first, second):
                _ip("-n", host.namespace, "address", "add", f"{host.address}/30", "dev", "cable")
                _ip("-n", host.namespace, "link", "set", "cable", "up")
            yield first, second
        finally:
            for host in (first, second):
                _end_all(host.namespace)
                subprocess.run(["ip", "netns", "delete", host.namespace], capture_output=True)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _end_all(namespace: str) -> None:
    """Kill what is left in a namespace of ours."""
    left = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
    for process in left.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process), 9)
