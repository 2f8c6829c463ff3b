"""TorchX components of seo_rec: each builds the command of one job and does nothing else.

From a clone: ``torchx run components/seo.py:search``; from an installed package:
``torchx run seo.search``. Arguments after ``--`` are appended to the job's own command, so
``torchx run components/seo.py:search -- --dim 32`` reaches ``seo-rec search --dim 32``.
docs/torchx.md shows every component on one process, on many and on a cluster.

TorchX runs this file inside one of its own modules and reads the signatures itself: it knows
``typing.Optional`` and plain types, and neither ``X | None`` nor postponed annotations. It has no
way to share parameters either, so each component lists the parameters of the machine it runs on.
"""

import os
import re
import shlex
import sys
from typing import Dict, List, Mapping, NamedTuple, Optional, Union

import torchx.specs as specs
from torchx.specs import macros

MEMORY_MB = 4096  # two processes that train a small model take 0.5 GB each, their agent 0.2 GB


class _Machine(NamedTuple):
    """What one node of a job gets, in TorchX's own terms."""

    cpu: int  # 0: not asked for
    gpu: int
    memMB: int
    h: Optional[str]
    env: Optional[Dict[str, str]]
    mounts: Optional[List[str]]
    max_retries: int
    image: str


class _Processes(NamedTuple):
    """How torch.distributed.run starts the processes of a job on its nodes."""

    j: str
    max_restarts: int
    rdzv_port: int
    rdzv_timeout: int


def _options(values: Mapping[str, Union[str, int, None]]) -> List[str]:
    """``--name value`` for each value that is given."""
    given = [(name, value) for name, value in values.items() if value is not None]
    return [part for name, value in given for part in (f"--{name}", str(value))]


def _counts(j: str) -> "tuple[int, int]":
    """Nodes, and processes on each of them."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", j)
    if not found:
        raise ValueError(
            f"-j is {j!r}; allowed is {{nodes}}x{{processes on each}}, e.g. 1x2 for two processes "
            "on this machine or 2x4 for eight on two"
        )
    return int(found[1]), int(found[2])


def _environment(
    machine: _Machine, resource: specs.Resource, nodes: int, procs: int
) -> Dict[str, str]:
    """What the processes need to know of the node they share."""
    # torch lets restarted processes find the addresses of those before them (pytorch issue
    # 135712), unless each start has a store of its own.
    env = {"PYTHONUNBUFFERED": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    if nodes == 1:
        env["GLOO_SOCKET_IFNAME"] = "lo"  # all processes are on this node
    # A container's host may have other processors than this machine: only requested ones count.
    here = None if machine.image else os.cpu_count()
    cores = resource.cpu if machine.cpu or machine.h else here
    if not machine.image and "OMP_NUM_THREADS" in os.environ:
        env["OMP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"]
    elif cores:
        env["OMP_NUM_THREADS"] = str(max(1, cores // procs))
    return {**env, **(machine.env or {})}


def _role(
    name: str, command: List[str], machine: _Machine, processes: Optional[_Processes] = None
) -> specs.Role:
    """``python -m`` ``command`` on each node, under torch.distributed.run where it says how.

    Without an image the job runs in this interpreter and in the working directory, with one the
    ``python`` of the image does. The name has no dash: TorchX makes a variable's name of it.
    """
    python = "python" if machine.image else sys.executable
    nodes, procs = _counts(processes.j) if processes else (1, 1)
    resource = specs.resource(machine.cpu, machine.gpu, machine.memMB, machine.h)
    entrypoint, args = python, ["-m", *command]
    if processes:
        launch = [f"--nproc_per_node={procs}", f"--max_restarts={processes.max_restarts}"]
        if nodes == 1:
            args = ["-m", "torch.distributed.run", "--standalone", *launch, *args]
        else:
            # Node 0 keeps the store that all agents meet at. Its address is in a variable that
            # the scheduler names and only a shell on the node can read; some schedulers leave it
            # unset on node 0 itself. torch would guess from the address which node is node 0, and
            # if the port is taken there, would wait for whoever has it. $$ is a dollar to TorchX.
            wait = f"join_timeout={processes.rdzv_timeout},read_timeout={processes.rdzv_timeout}"
            meet = [
                "--rdzv_backend=c10d",
                f"--rdzv_endpoint=$${{{macros.rank0_env}:=localhost}}:{processes.rdzv_port}",
                f"--rdzv_id={macros.app_id}",
                f"--rdzv_conf=is_host=$$is_host,{wait}",
            ]
            agent = [python, "-m", "torch.distributed.run", f"--nnodes={nodes}", *launch]
            line = [shlex.join(agent), *meet, shlex.join(args)]
            first = f"[ {macros.replica_id} = 0 ] && is_host=1 || is_host=0"
            entrypoint, args = "bash", ["-c", f"{first}; exec {' '.join(line)}"]
    return specs.Role(
        name=name,
        image=machine.image,
        entrypoint=entrypoint,
        args=args,
        env=_environment(machine, resource, nodes, procs),
        num_replicas=nodes,
        max_retries=machine.max_retries,
        resource=resource,
        port_map={"c10d": processes.rdzv_port} if processes and nodes > 1 else {},
        mounts=specs.parse_mounts(machine.mounts) if machine.mounts else [],
    )


def _app(
    name: str, command: List[str], machine: _Machine, processes: Optional[_Processes] = None
) -> specs.AppDef:
    return specs.AppDef(name=f"seo-{name}", roles=[_role(name, command, machine, processes)])


def prepare(
    *script_args: str,
    data_set: str,
    out: str,
    raw: Optional[str] = None,
    j: str = "1x1",
    max_restarts: int = 0,
    rdzv_port: int = 29500,
    rdzv_timeout: int = 600,
    cpu: int = 0,
    gpu: int = 0,
    memMB: int = MEMORY_MB,
    h: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
    max_retries: int = 0,
    image: str = "",
) -> specs.AppDef:
    """Prepares a raw data set; goes on with what killed processes have left.

    Args:
        script_args: further options of `seo-rec prepare`
        data_set: name of the data set, e.g. synthetic
        out: folder of the prepared data set
        raw: the raw files; not needed for synthetic
        j: {nnodes}x{nproc_per_node}; raw and out are on storage that all nodes share
        max_restarts: how often the processes are started again, and go on
        rdzv_port: port of node 0 at which several nodes meet
        rdzv_timeout: seconds that a node waits for the others
        cpu: processors of each node (0: two); threads are shared out accordingly
        gpu: GPUs of each node
        memMB: memory of each node in MB
        h: a named resource; takes the place of cpu, gpu and memMB
        env: further environment variables, e.g. A=1,B=2
        mounts: for containers, e.g. type=bind,src=/data,dst=/data,readonly
        max_retries: how often the scheduler starts the job again
        image: container image in which `python` has seo_rec; default: this interpreter
    """
    machine = _Machine(cpu, gpu, memMB, h, env, mounts, max_retries, image)
    options = _options({"raw": raw, "out": out})
    command = ["seo_rec", "prepare", data_set, *options, *script_args]
    return _app("prepare", command, machine, _Processes(j, max_restarts, rdzv_port, rdzv_timeout))


def search(
    *script_args: str,
    data: Optional[str] = None,
    out: Optional[str] = None,
    j: str = "1x1",
    max_restarts: int = 0,
    rdzv_port: int = 29500,
    rdzv_timeout: int = 600,
    cpu: int = 0,
    gpu: int = 0,
    memMB: int = MEMORY_MB,
    h: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
    max_retries: int = 0,
    image: str = "",
) -> specs.AppDef:
    """Searches which tables each feature reads; on the synthetic data set by default.

    Args:
        script_args: further options of `seo-rec search`
        data: prepared data set; default: the synthetic one, made if absent
        out: folder of the search; default: runs/torchx/search
        j: {nnodes}x{nproc_per_node}
        max_restarts: how often the processes are started again, from the last checkpoint
        rdzv_port: port of node 0 at which several nodes meet
        rdzv_timeout: seconds that a node waits for the others
        cpu: processors of each node (0: two); threads are shared out accordingly
        gpu: GPUs of each node
        memMB: memory of each node in MB
        h: a named resource; takes the place of cpu, gpu and memMB
        env: further environment variables, e.g. A=1,B=2
        mounts: for containers, e.g. type=bind,src=/data,dst=/data,readonly
        max_retries: how often the scheduler starts the job again
        image: container image in which `python` has seo_rec; default: this interpreter
    """
    machine = _Machine(cpu, gpu, memMB, h, env, mounts, max_retries, image)
    command = ["seo_rec", "job-search", *_options({"data": data, "out": out}), *script_args]
    return _app("search", command, machine, _Processes(j, max_restarts, rdzv_port, rdzv_timeout))


def applier(
    *script_args: str,
    data: Optional[str] = None,
    search: Optional[str] = None,
    out: Optional[str] = None,
    strategy: str = "exact",
    j: str = "1x1",
    max_restarts: int = 0,
    rdzv_port: int = 29500,
    rdzv_timeout: int = 600,
    cpu: int = 0,
    gpu: int = 0,
    memMB: int = MEMORY_MB,
    h: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
    max_retries: int = 0,
    image: str = "",
) -> specs.AppDef:
    """Applies the policy of a search and trains it from scratch; searches first if need be.

    Args:
        script_args: further options of `seo-rec train`
        data: prepared data set; default: the data set of the search
        search: folder of the search; default: runs/torchx/search
        out: folder of the applier's run; default: runs/torchx/applier
        strategy: exact or round-robin
        j: {nnodes}x{nproc_per_node}
        max_restarts: how often the processes are started again, from the last checkpoint
        rdzv_port: port of node 0 at which several nodes meet
        rdzv_timeout: seconds that a node waits for the others
        cpu: processors of each node (0: two); threads are shared out accordingly
        gpu: GPUs of each node
        memMB: memory of each node in MB
        h: a named resource; takes the place of cpu, gpu and memMB
        env: further environment variables, e.g. A=1,B=2
        mounts: for containers, e.g. type=bind,src=/data,dst=/data,readonly
        max_retries: how often the scheduler starts the job again
        image: container image in which `python` has seo_rec; default: this interpreter
    """
    machine = _Machine(cpu, gpu, memMB, h, env, mounts, max_retries, image)
    given = {"data": data, "search": search, "out": out, "strategy": strategy}
    command = ["seo_rec", "job-applier", *_options(given), *script_args]
    return _app("applier", command, machine, _Processes(j, max_restarts, rdzv_port, rdzv_timeout))


def train(
    *script_args: str,
    data: str,
    policy: str,
    out: str,
    seed: int = 0,
    j: str = "1x1",
    max_restarts: int = 0,
    rdzv_port: int = 29500,
    rdzv_timeout: int = 600,
    cpu: int = 0,
    gpu: int = 0,
    memMB: int = MEMORY_MB,
    h: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
    max_retries: int = 0,
    image: str = "",
) -> specs.AppDef:
    """Trains a model whose embeddings follow a policy; goes on with a run it finds in out.

    Args:
        script_args: further options of `seo-rec train`
        data: prepared data set
        policy: policy.json of a method, a search or the applier
        out: run directory
        seed: seed of the run
        j: {nnodes}x{nproc_per_node}
        max_restarts: how often the processes are started again, from the last checkpoint
        rdzv_port: port of node 0 at which several nodes meet
        rdzv_timeout: seconds that a node waits for the others
        cpu: processors of each node (0: two); threads are shared out accordingly
        gpu: GPUs of each node
        memMB: memory of each node in MB
        h: a named resource; takes the place of cpu, gpu and memMB
        env: further environment variables, e.g. A=1,B=2
        mounts: for containers, e.g. type=bind,src=/data,dst=/data,readonly
        max_retries: how often the scheduler starts the job again
        image: container image in which `python` has seo_rec; default: this interpreter
    """
    machine = _Machine(cpu, gpu, memMB, h, env, mounts, max_retries, image)
    options = _options({"policy": policy, "out": out, "seed": seed})
    command = ["seo_rec", "train", data, *options, "--resume", *script_args]
    return _app("train", command, machine, _Processes(j, max_restarts, rdzv_port, rdzv_timeout))


def tune(
    *script_args: str,
    data: str,
    method: str,
    out: str,
    trials: int = 20,
    j: str = "1x1",
    max_restarts: int = 0,
    rdzv_port: int = 29500,
    rdzv_timeout: int = 600,
    cpu: int = 0,
    gpu: int = 0,
    memMB: int = MEMORY_MB,
    h: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
    max_retries: int = 0,
    image: str = "",
) -> specs.AppDef:
    """Tunes how a method is trained; the processes share the trials, and go on with what is in out.

    Args:
        script_args: further options of `seo-rec tune`
        data: prepared data set
        method: a method by name, such as multi-size
        out: folder of the tuning
        trials: trainings in all
        j: {nnodes}x{nproc_per_node}; data and out are on storage that all nodes share
        max_restarts: how often the processes are started again, and go on
        rdzv_port: port of node 0 at which several nodes meet
        rdzv_timeout: seconds that a node waits for the others
        cpu: processors of each node (0: two); threads are shared out accordingly
        gpu: GPUs of each node
        memMB: memory of each node in MB
        h: a named resource; takes the place of cpu, gpu and memMB
        env: further environment variables, e.g. A=1,B=2
        mounts: for containers, e.g. type=bind,src=/data,dst=/data,readonly
        max_retries: how often the scheduler starts the job again
        image: container image in which `python` has seo_rec; default: this interpreter
    """
    machine = _Machine(cpu, gpu, memMB, h, env, mounts, max_retries, image)
    options = _options({"method": method, "out": out, "trials": trials})
    command = ["seo_rec", "tune", data, *options, "--resume", *script_args]
    return _app("tune", command, machine, _Processes(j, max_restarts, rdzv_port, rdzv_timeout))


def compare(
    *script_args: str,
    data: str,
    out: str,
    j: str = "1x1",
    max_restarts: int = 0,
    rdzv_port: int = 29500,
    rdzv_timeout: int = 600,
    cpu: int = 0,
    gpu: int = 0,
    memMB: int = MEMORY_MB,
    h: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
    max_retries: int = 0,
    image: str = "",
) -> specs.AppDef:
    """Compares methods at one memory budget; goes on with a comparison it finds in out.

    Args:
        script_args: further options of `seo-rec compare`
        data: prepared data set
        out: folder of the comparison
        j: {nnodes}x{nproc_per_node}
        max_restarts: how often the processes are started again, from the last checkpoint
        rdzv_port: port of node 0 at which several nodes meet
        rdzv_timeout: seconds that a node waits for the others
        cpu: processors of each node (0: two); threads are shared out accordingly
        gpu: GPUs of each node
        memMB: memory of each node in MB
        h: a named resource; takes the place of cpu, gpu and memMB
        env: further environment variables, e.g. A=1,B=2
        mounts: for containers, e.g. type=bind,src=/data,dst=/data,readonly
        max_retries: how often the scheduler starts the job again
        image: container image in which `python` has seo_rec; default: this interpreter
    """
    machine = _Machine(cpu, gpu, memMB, h, env, mounts, max_retries, image)
    command = ["seo_rec", "compare", data, "--out", out, *script_args]
    return _app("compare", command, machine, _Processes(j, max_restarts, rdzv_port, rdzv_timeout))


def plan(
    *script_args: str,
    policy: str,
    topology: str,
    out: str,
    cpu: int = 0,
    gpu: int = 0,
    memMB: int = MEMORY_MB,
    h: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
    max_retries: int = 0,
    image: str = "",
) -> specs.AppDef:
    """Plans which device keeps which part of a policy's tables; needs none of the devices.

    Args:
        script_args: further options of `seo-rec plan`
        policy: policy.json of a method, a search or the applier
        topology: the devices planned for, e.g. 8xH100-80GB
        out: plan.json to write
        cpu: processors of the node (0: two); threads are shared out accordingly
        gpu: GPUs of the node
        memMB: memory of the node in MB
        h: a named resource; takes the place of cpu, gpu and memMB
        env: further environment variables, e.g. A=1,B=2
        mounts: for containers, e.g. type=bind,src=/data,dst=/data,readonly
        max_retries: how often the scheduler starts the job again
        image: container image in which `python` has seo_rec; default: this interpreter
    """
    machine = _Machine(cpu, gpu, memMB, h, env, mounts, max_retries, image)
    options = _options({"topology": topology, "out": out})
    return _app("plan", ["seo_rec", "plan", policy, *options, *script_args], machine)


def evaluate(
    *script_args: str,
    run: str,
    data: str,
    split: str = "test",
    j: str = "1x1",
    max_restarts: int = 0,
    rdzv_port: int = 29500,
    rdzv_timeout: int = 600,
    cpu: int = 0,
    gpu: int = 0,
    memMB: int = MEMORY_MB,
    h: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
    max_retries: int = 0,
    image: str = "",
) -> specs.AppDef:
    """Evaluates a trained model on a split of a data set.

    Args:
        script_args: further options of `seo-rec eval`
        run: folder of a finished training run
        data: prepared data set
        split: train, val or test
        j: {nnodes}x{nproc_per_node}
        max_restarts: how often the processes are started again
        rdzv_port: port of node 0 at which several nodes meet
        rdzv_timeout: seconds that a node waits for the others
        cpu: processors of each node (0: two); threads are shared out accordingly
        gpu: GPUs of each node
        memMB: memory of each node in MB
        h: a named resource; takes the place of cpu, gpu and memMB
        env: further environment variables, e.g. A=1,B=2
        mounts: for containers, e.g. type=bind,src=/data,dst=/data,readonly
        max_retries: how often the scheduler starts the job again
        image: container image in which `python` has seo_rec; default: this interpreter
    """
    machine = _Machine(cpu, gpu, memMB, h, env, mounts, max_retries, image)
    command = ["seo_rec", "eval", run, data, "--split", split, *script_args]
    return _app("evaluate", command, machine, _Processes(j, max_restarts, rdzv_port, rdzv_timeout))


def benchmark(
    *script_args: str,
    j: str = "1x1",
    rdzv_port: int = 29500,
    rdzv_timeout: int = 600,
    cpu: int = 0,
    gpu: int = 0,
    memMB: int = MEMORY_MB,
    h: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
    max_retries: int = 0,
    image: str = "",
) -> specs.AppDef:
    """Measures the throughput of training; from a clone, which is where the benchmarks are.

    Args:
        script_args: options of `python -m benchmarks.ranks.throughput`
        j: {nnodes}x{nproc_per_node}
        rdzv_port: port of node 0 at which several nodes meet
        rdzv_timeout: seconds that a node waits for the others
        cpu: processors of each node (0: two); threads are shared out accordingly
        gpu: GPUs of each node
        memMB: memory of each node in MB
        h: a named resource; takes the place of cpu, gpu and memMB
        env: further environment variables, e.g. A=1,B=2
        mounts: for containers, e.g. type=bind,src=/data,dst=/data,readonly
        max_retries: how often the scheduler starts the job again
        image: container image with the clone as its working directory; default: this interpreter
    """
    machine = _Machine(cpu, gpu, memMB, h, env, mounts, max_retries, image)
    command = ["benchmarks.ranks.throughput", *script_args]
    return _app("benchmark", command, machine, _Processes(j, 0, rdzv_port, rdzv_timeout))
