"""What each scheduler is asked for: image, command, resources, retries, mounts and environment.

TorchX builds the request without sending it (``torchx run --dryrun``), and it has to equal the
file in ``tests/golden/torchx``. Where a scheduler's client library is not installed its cases are
skipped by name. ``python tests/schedulers/test_requests.py --write`` regenerates the files of those
that are.
"""

import importlib
import json
import os
import re
import sys
from pathlib import Path

import pytest
import torchx
from torchx.runner import get_runner
from torchx.schedulers import get_scheduler_factories
from torchx.schedulers.slurm_scheduler import SlurmScheduler

ROOT = Path(__file__).resolve().parent.parent.parent
FILE = ROOT / "components" / "seo.py"
GOLDEN = ROOT / "tests" / "golden" / "torchx"

# The scheduler's own options, and the library that TorchX needs to build its request.
SCHEDULERS = {
    "local_docker": ({}, "docker"),
    "slurm": ({"partition": "gpu", "time": "60"}, None),
    "kubernetes": ({"queue": "default"}, "kubernetes"),
    "kubernetes_mcad": ({"namespace": "team"}, "kubernetes"),
    "aws_batch": ({"queue": "default", "user": "someone"}, None),
    "gcp_batch": ({"project": "project", "location": "europe-west1"}, "google.cloud.batch_v1"),
    "ray": ({"dashboard_address": "head:8265"}, "ray"),
    "lsf": ({"lsf_queue": "default"}, None),
}
ELSEWHERE = {
    "local_cwd": "test_components.py builds its requests and test_local.py runs them",
    "aws_sagemaker": "TorchX's adapter takes named arguments only, and ours are commands",
}
# What a request has to say about the machine: processors, GPUs, memory and retries. TorchX passes
# no retries to Ray and LSF, and no memory to Ray.
SAYS = {
    "local_docker": ["nano_cpus: 8000000000", "Count: 2", "mem_limit: 64000m", "RetryCount: 3"],
    "slurm": ["--cpus-per-task=8", "--gpus-per-task=2", "--mem=64000", "MAX_RETRIES=3"],
    "kubernetes": ["cpu: 8000m", "nvidia.com/gpu: '2'", "memory: 64000M", "maxRetry: 3"],
    "kubernetes_mcad": ["cpu: 8000m", "gpu: '2'", "memory: 64000M", "maxNumRequeuings: 3"],
    "aws_batch": ["VCPU value: '8'", "GPU value: '2'", "MEMORY value: '64000'", "attempts: 3"],
    "gcp_batch": ['"cpuMilli": "8000"', "highgpu-2g", '"memoryMib": "64000"', 'RetryCount": 3'],
    "ray": ["num_cpus=8", "num_gpus=2"],
    "lsf": ["-n 8", "num=2", "mem=64000"],
}
# Ray takes its image for a folder of the submitting machine, Slurm and LSF run without one.
IMAGES = {"slurm": "", "ray": "."}

MACHINE = {
    "cpu": 8,
    "gpu": 2,
    "memMB": 64000,
    "max_restarts": 1,
    "max_retries": 3,
    "env": "A=1,B=two",
    "mounts": "type=bind,src=/data,dst=/job/data,readonly",
}
CASES = {
    "search-1x2": ["--data", "/job/data", "--out", "R", "-j", "1x2"],
    "train-2x4": ["--data", "/job/data", "--policy", "p.json", "--out", "R", "-j", "2x4"],
}
SCRIPT_ARGS = ["--", "--hidden", "8, 4"]  # a blank has to reach the command as one word


def request(scheduler: str, case: str) -> str:
    """The request as text, with a name in place of all that differs from run to run."""
    options, _ = SCHEDULERS[scheduler]
    image = ["--image", IMAGES.get(scheduler, "registry/seo:1")]
    machine = [word for name, value in MACHINE.items() for word in (f"--{name}", str(value))]
    arguments = [*CASES[case], *machine, *image, *SCRIPT_ARGS]
    component = case.split("-")[0]
    with get_runner() as runner:
        info = runner.dryrun_component(f"{FILE}:{component}", arguments, scheduler, dict(options))
    if scheduler == "gcp_batch":  # its own text form is binary
        job = json.loads(type(info.request.job_def).to_json(info.request.job_def))
        text = json.dumps(job, indent=1, sort_keys=True)
    else:
        text = str(info)
    text = re.sub(rf"seo-{component}-[a-z0-9]+", f"seo-{component}-UNIQUE", text)
    text = text.replace(f"PATH={sys.executable}", "PATH=PYTHON").replace(sys.executable, "PYTHON")
    text = re.sub(rf"\b{re.escape(torchx.__version__)}\b", "VERSION", text)
    text = text.replace(torchx.__version__.replace(".", "-"), "VERSION")
    return text.rstrip() + "\n"


def available(scheduler: str) -> None:
    library = SCHEDULERS[scheduler][1]
    if library:
        pytest.importorskip(library, reason=f"{scheduler} needs the library {library}")


@pytest.fixture(autouse=True)
def _anywhere(monkeypatch):
    """Nothing of this machine: TorchX would ask a Slurm that is there for its nodes' memory."""
    monkeypatch.setattr(SlurmScheduler, "_partition_memmb", lambda *_: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.filterwarnings("ignore::UserWarning:torchx")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_request_is_the_one_we_mean(scheduler, case):
    available(scheduler)
    assert request(scheduler, case) == (GOLDEN / f"{scheduler}-{case}.txt").read_text()


def test_no_scheduler_is_left_out():
    assert {*SCHEDULERS, *ELSEWHERE} == set(get_scheduler_factories())
    written = {f"{scheduler}-{case}.txt" for scheduler in SCHEDULERS for case in CASES}
    assert written == {path.name for path in GOLDEN.iterdir()}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_request_names_what_was_asked_for(scheduler):
    """The files themselves, so that a mistake cannot be regenerated into them."""
    one = (GOLDEN / f"{scheduler}-search-1x2.txt").read_text()
    two = (GOLDEN / f"{scheduler}-train-2x4.txt").read_text()
    for text in (one, two):
        words = " ".join(text.split())
        python = "PYTHON" if scheduler == "slurm" else "python"
        assert re.search(rf"{python}\W.*-m\W.*torch\.distributed\.run", words)
        assert "--max_restarts=1" in words
        assert "two" in words and "OMP_NUM_THREADS" in words
        assert "8, 4" in words
        for phrase in SAYS[scheduler]:
            assert phrase in words
        if scheduler not in ("slurm", "ray"):  # they have neither images nor mounts
            assert "registry/seo:1" in words
        if scheduler not in ("slurm", "ray", "gcp_batch"):  # TorchX mounts nothing there
            assert "/job/data" in words.replace("--data /job/data", "")
    assert "--standalone" in one and "GLOO_SOCKET_IFNAME" in one
    assert "--standalone" not in two and "GLOO_SOCKET_IFNAME" not in two
    assert "--nproc_per_node=2" in one and "--nproc_per_node=4" in two
    assert re.search(r"--rdzv_endpoint=\\?\$\{[A-Z0-9_]+:=localhost\}:29500", two)


def write() -> None:
    SlurmScheduler._partition_memmb = lambda *_: None
    os.environ.pop("OMP_NUM_THREADS", None)
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for scheduler, (_, library) in SCHEDULERS.items():
        try:
            importlib.import_module(library or "torchx")
        except ImportError:
            print(f"{scheduler}: kept, since {library} is not installed")
            continue
        for case in CASES:
            (GOLDEN / f"{scheduler}-{case}.txt").write_text(request(scheduler, case))


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        raise SystemExit(f"usage: {sys.argv[0]} --write")
    write()
