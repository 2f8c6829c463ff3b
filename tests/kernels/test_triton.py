"""The Triton kernels: in interpreter mode where Triton is installed, on a GPU if there is one."""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernel_laws import BAGS, CASES, Case, equals_the_definition, inputs
from test_remap_op import FEATURES, IDS, ROWS, SEEDS, STARTS, one_at_a_time

from seo_kernels import block_bag, remap

HERE = Path(__file__).resolve().parent
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed; for its interpreter: pip install --no-deps triton==3.7.1",
)


def run(folder: Path, *command: str, **variables: str) -> None:
    """In a process of its own: Triton's mode is chosen when it is imported, for all of it."""
    path = os.pathsep.join([str(HERE.parents[1] / "kernels"), *filter(None, sys.path)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **variables}
    environment["TRITON_CACHE_DIR"] = str(folder)
    done = subprocess.run(
        [sys.executable, *command], cwd=HERE, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@needs_triton
def test_the_kernels_in_interpreter_mode(tmp_path):
    pytest_command = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider")
    run(tmp_path, *pytest_command, str(HERE / "triton_laws.py"), TRITON_INTERPRET="1")


@pytest.mark.slow
@needs_triton
def test_the_kernels_compile_for_a_gpu(tmp_path):
    run(tmp_path, str(HERE / "triton_compile.py"))


@pytest.mark.gpu
@pytest.mark.parametrize("deterministic", [False, True], ids=["atomic", "sorted"])
def test_gpu_output_and_gradients_are_those_of_the_definition(deterministic):
    def op(*arguments):
        return block_bag(*arguments, deterministic=deterministic)

    for case, batch, weighted in itertools.product(CASES, BAGS, (False, True)):
        equals_the_definition(op, CASES[case], BAGS[batch], weighted, torch.float32, "cuda")


@pytest.mark.gpu
def test_gpu_sorted_gradients_are_equal_to_the_bit():
    def gradient(case: Case) -> torch.Tensor:
        batch = BAGS["single-many"]
        flat, scales, _ = inputs(case, batch, False).leaves(torch.float32, "cuda")
        ids, offsets = batch.ids_V.cuda(), batch.offsets.cuda()
        x = block_bag(flat, ids, offsets, case.blocks.to("cuda"), scales, None, True)
        return torch.autograd.grad(x.square().sum(), flat)[0]

    for case in CASES.values():
        assert all(torch.equal(gradient(case), gradient(case)) for _ in range(5))


@pytest.mark.gpu
def test_gpu_remap_is_the_hash_to_the_bit():
    for starts in STARTS.values():
        found = remap(IDS.cuda(), starts, FEATURES, SEEDS.cuda(), ROWS.cuda())
        assert torch.equal(found.cpu(), one_at_a_time(starts))
