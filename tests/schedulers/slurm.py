"""A Slurm of one's own: munged, mariadbd, slurmdbd, slurmctld and one slurmd per node.

Everything lives in one folder and listens on free ports, so that it neither needs nor disturbs a
Slurm of the machine. TorchX submits with sbatch and asks sacct how a job fares, and sacct needs
the accounting, hence the database. On Debian: ``apt-get install slurm-wlm slurmdbd mariadb-server
munge``.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from two_hosts import Host

SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")  # not on everybody's PATH
TOOLS = {
    "munge": ["munged"],
    "slurm-wlm": ["slurmctld", "slurmd", "sbatch", "srun", "squeue", "sacct", "sacctmgr"],
    "slurmdbd": ["slurmdbd"],
    "mariadb-server": ["mariadbd", "mariadb-install-db", "mariadb"],
}
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


def why_not() -> str | None:
    """Which packages are missing here for a Slurm; None if none is."""
    missing = [package for package, tools in TOOLS.items() if not all(map(_which, tools))]
    return f"Slurm needs the packages {' '.join(missing)}" if missing else None


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=os.pathsep.join([os.environ["PATH"], *SYSTEM_FOLDERS]))


@dataclass(frozen=True)
class Slurm:
    """A running cluster: the environment its commands need, and where they are to run."""

    environment: dict[str, str]
    head: Host | None  # None: this machine itself
    folder: Path

    def run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """A command on the head node."""
        return subprocess.run(
            self.head.command(*command) if self.head else command,
            env=self.environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def states(self, job: str) -> list[str]:
        """The state of each component of a job, as the accounting has it."""
        done = self.run("sacct", "--noheader", "--allocations", "--format=State%30", "-j", job)
        return [line.split()[0] for line in done.stdout.splitlines() if line.strip()]

    def wait(self, job: str, seconds: float) -> list[str]:
        """The states of a job once it has ended and left the queue."""

        def ended() -> bool:
            queued = self.run("squeue", "--noheader", "--states=all", "--format=%T", "-j", job)
            waiting = set(queued.stdout.split()) - ENDED
            states = self.states(job)
            return not waiting and bool(states) and set(states) <= ENDED

        _until(ended, f"job {job} has not ended", seconds, every=0.5)
        return self.states(job)


@contextlib.contextmanager
def slurm(folder: Path, hosts: tuple[Host, ...] = ()) -> Iterator[Slurm]:
    """A cluster whose nodes are ``hosts``, the first of them its head, or this machine alone."""
    for name in ("state", "database"):
        (folder / name).mkdir(mode=0o700)
    path = os.pathsep.join([os.environ["PATH"], *SYSTEM_FOLDERS])
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
    cluster = Slurm(environment, hosts[0] if hosts else None, folder)
    _write_settings(folder, hosts)
    with contextlib.ExitStack() as stack:

        def start(name: str, *command: str, host: Host | None = cluster.head) -> None:
            log = stack.enter_context((folder / f"{name}.out").open("wb"))
            process = subprocess.Popen(
                host.command(*command) if host else command,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=folder,
            )
            stack.callback(_end, process)

        def ready(what: str, *command: str) -> None:
            _until(lambda: cluster.run(*command).returncode == 0, f"{what}; see {folder}", 60)

        munge = [f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "log-file")]
        key = [f"--key-file={folder}/munge.key", f"--seed-file={folder}/munge.seed"]
        start("munged", "munged", "--foreground", "--force", *munge, *key)
        _start_database(cluster, start, ready)
        start("slurmdbd", "slurmdbd", "-D")
        ready("no slurmdbd", "sacctmgr", "--immediate", "add", "cluster", "seo")
        start("slurmctld", "slurmctld", "-D", "-c")
        names = [host.name for host in hosts] or ["here"]
        for name, host in zip(names, hosts or (None,), strict=True):
            start(f"slurmd-{name}", "slurmd", "-D", "-N", name, host=host)
        ready("no idle node", "srun", f"--nodes={len(names)}", "--immediate=5", "true")
        try:
            yield cluster
        finally:
            cluster.run("scancel", f"--user={getpass.getuser()}")
            with contextlib.suppress(TimeoutError):
                _until(lambda: not cluster.run("squeue", "-h").stdout.strip(), "jobs left", 20)


def _start_database(cluster: Slurm, start: Callable[..., None], ready: Callable[..., None]) -> None:
    data, user = cluster.folder / "database", f"--user={getpass.getuser()}"
    flags = [f"--datadir={data}", user]
    made = cluster.run(
        "mariadb-install-db", "--no-defaults", *flags, "--auth-root-authentication-method=normal"
    )
    if made.returncode:
        raise RuntimeError(f"mariadb-install-db: {made.stdout}{made.stderr}")
    reach = ["--no-defaults", f"--socket={cluster.folder}/database.socket"]
    files = [f"--pid-file={cluster.folder}/database.pid", "--innodb-buffer-pool-size=32M"]
    start("mariadbd", "mariadbd", *reach, *flags, *files, f"--port={_port(cluster, 'Storage')}")
    ready("no database", "mariadb", *reach, "--user=root", "--execute=select 1")
    grant = "create user slurm@localhost; grant all on *.* to slurm@localhost"
    ready("no user", "mariadb", *reach, "--user=root", f"--execute={grant}")


def _port(cluster: Slurm, name: str) -> str:
    """The port that slurmdbd.conf gives ``name``."""
    lines = (cluster.folder / "slurmdbd.conf").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)[f"{name}Port"]


def _write_settings(folder: Path, hosts: tuple[Host, ...]) -> None:
    user, port = getpass.getuser(), _free_ports(4 + max(1, len(hosts)))
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    head = f"{hosts[0].name}({hosts[0].address})" if hosts else f"{socket.gethostname()}(127.0.0.1)"
    address = hosts[0].address if hosts else "127.0.0.1"
    here = subprocess.run([_which("slurmd") or "slurmd", "-C"], capture_output=True, text=True)
    found = dict(word.split("=", 1) for word in here.stdout.split() if "=" in word)
    machine = f"CPUs={found['CPUs']} RealMemory={found['RealMemory']}"
    nodes = [
        f"NodeName={host.name} NodeAddr={host.address} Port={port[4]} {machine}" for host in hosts
    ] or [f"NodeName=here NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 {machine}"]
    _write(
        folder / "slurm.conf",
        f"""
        ClusterName=seo
        SlurmctldHost={head}
        SlurmctldPort={port[0]}
        SlurmdPort={port[4]}
        SlurmUser={user}
        SlurmdUser={user}
        AuthType=auth/munge
        AuthInfo=socket={folder}/munge.socket
        CredType=cred/munge
        StateSaveLocation={folder}/state
        SlurmdSpoolDir={folder}/spool-%n
        SlurmctldPidFile={folder}/slurmctld.pid
        SlurmdPidFile={folder}/slurmd-%n.pid
        ProctrackType=proctrack/linuxproc
        TaskPlugin=task/none
        SwitchType=switch/none
        MpiDefault=none
        JobAcctGatherType=jobacct_gather/none
        AccountingStorageType=accounting_storage/slurmdbd
        AccountingStorageHost={address}
        AccountingStoragePort={port[1]}
        AccountingStoragePass={folder}/munge.socket
        SelectType=select/cons_tres
        SelectTypeParameters=CR_CPU_Memory
        SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
        ReturnToService=2
        MailProg=/bin/true
        """,
        *nodes,
        "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
    )
    _write(
        folder / "slurmdbd.conf",
        f"""
        AuthType=auth/munge
        AuthInfo=socket={folder}/munge.socket
        DbdHost=localhost
        DbdPort={port[1]}
        SlurmUser={user}
        PidFile={folder}/slurmdbd.pid
        StorageType=accounting_storage/mysql
        StorageHost=127.0.0.1
        StoragePort={port[2]}
        StorageUser=slurm
        """,
    )


def _write(path: Path, settings: str, *lines: str) -> None:
    words = [line.strip() for line in settings.strip().splitlines()]
    path.write_text("\n".join([*words, *lines]) + "\n")
    path.chmod(0o600)  # slurmdbd insists


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _until(true: Callable[[], bool], message: str, seconds: float, every: float = 0.1) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{message} after {seconds:g} s")
        time.sleep(every)
