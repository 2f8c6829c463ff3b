"""One part of the GPU checks, in a process of its own; ``python -m benchmarks.gpu`` starts it.

    python -m benchmarks.gpu.part NAME FILE [--device cuda|cpu] [--small]

Lines are appended to FILE as they come, by the first of the processes, so that a part that is
stopped leaves what it has found.
"""

# TorchRec and FBGEMM come first: seo_rec refuses to import versions that it was not made for, and
# here any are taken that work.
from __future__ import annotations

import argparse
import importlib.util
import inspect
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import fbgemm_gpu
import torch
import torch.distributed as dist
import torchrec
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from benchmarks.gpu import fused, parity, rows, speed
from benchmarks.gpu.lines import Lines, Run, forbidden, holds, note
from benchmarks.record import append
from seo_kernels import native
from seo_rec import stack
from seo_rec.environment import library_versions
from seo_rec.process import quiet_libraries, run_and_leave
from seo_rec.train import launched

ROOT = Path(__file__).parents[2]
TESTS = (
    "tests/kernels/test_triton.py",
    "tests/test_embed.py",
    "tests/distributed/test_pipelines.py",
)


def versions(run: Run) -> Lines:
    """What is installed, and what it does not allow."""
    for name, number in library_versions().items():
        yield note(name, str(number))
    yield note("python", platform.python_version())
    yield note("CUDA", f"{torch.version.cuda}, NCCL {_nccl()}, {torch.cuda.device_count()} devices")
    yield note("C kernels", native.missing() or "built")
    problem = stack.problem(stack.read())
    if problem:
        yield note("not the versions that seo_rec is made for", problem)
    wanted = {"pipeline_postproc", "custom_model_fwd", "execute_all_batches"}
    lacking = wanted - set(inspect.signature(TrainPipelineSparseDist).parameters)
    if lacking:
        yield forbidden("pipelines", f"TrainPipelineSparseDist has no {', '.join(sorted(lacking))}")
    if why := speed.no_plans(run):
        yield forbidden("planning", why)
    if importlib.util.find_spec("triton") is None:
        yield forbidden("kernels", "Triton is not installed")
    for name in ("dense_embedding_codegen_lookup_function", "asynchronous_complete_cumsum"):
        if not hasattr(torch.ops.fbgemm, name):
            yield forbidden("training", f"FBGEMM has no {name}")
    if run.device.type == "cuda" and not dist.is_nccl_available():
        yield forbidden("sharding", "PyTorch was built without NCCL")
    elif run.device.type == "cuda" and torch.cuda.device_count() == 1:
        yield forbidden("several ranks", "there is one GPU")


def _nccl() -> str:
    available = torch.cuda.is_available() and dist.is_nccl_available()
    return ".".join(map(str, torch.cuda.nccl.version())) if available else "absent"


def tests(run: Run) -> Lines:
    """The tests of the repository that need a GPU; on a CPU they are collected and skipped."""
    if importlib.util.find_spec("pytest") is None:
        yield forbidden("tests", "pytest is not installed")
        return
    # a process of its own, which makes its own process groups; TorchRec first, as above
    start = "import fbgemm_gpu, torchrec, pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"
    options = ["-q", "-p", "no:cacheprovider", "-m", "gpu", "--tb=line", "--show-capture=no"]
    done = subprocess.run(
        [sys.executable, "-c", start, *options, *TESTS], cwd=ROOT, capture_output=True, text=True
    )
    print(done.stdout, done.stderr)
    last = (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()[-1]
    yield note("pytest", last)
    yield holds("tests", done.returncode == 0, last)


PARTS: dict[str, Callable[[Run], Lines]] = {
    "versions": versions,
    "unsharded": parity.unsharded,
    "plans": parity.plans,
    "pipelines": parity.pipelines,
    "fused": fused.updates,
    "rows": rows.updates,
    "tests": tests,
    "against-torchrec": speed.against_torchrec,
    "kernels": speed.every_op,
    "tiles": speed.tiles,
    "fetch": speed.fetch,
    "sizes": speed.sizes,
    "methods": speed.every_method,
}


@contextmanager
def joined(device: str):  # type: ignore[no-untyped-def]
    """The processes of the launch, or a group of one, each with its device."""
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with launched() as here:
        if here.world_size > 1:
            yield here
            return
        place = torch.device(device, 0) if device == "cuda" else torch.device(device)
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        try:
            yield replace(here, device=place)
        finally:
            dist.destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=PARTS)
    parser.add_argument("file", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args(arguments)
    assert fbgemm_gpu and torchrec  # imported for the order of imports
    quiet_libraries()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    with joined(options.device) as here:
        for line in PARTS[options.name](Run(here, options.small)):
            if here.first:
                append(options.file, line)


if __name__ == "__main__":
    run_and_leave(main)
