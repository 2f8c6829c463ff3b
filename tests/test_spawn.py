"""The harness of the multi-rank tests: results by rank, the right traceback, no rank left over."""

from __future__ import annotations

import os
import time

import pytest
import torch
import torch.distributed as dist

from patience import PATIENCE
from spawn import RankError, run_ranks


def test_results_come_by_rank():
    def add(start: int) -> tuple[int, torch.Tensor, str]:
        total = torch.tensor([float(start + dist.get_rank())])
        dist.all_reduce(total)
        return dist.get_rank(), total, os.environ["LOCAL_WORLD_SIZE"]

    assert run_ranks(add, 3, 1) == [(r, torch.tensor([6.0]), "3") for r in range(3)]
    assert run_ranks(add, 1, 5) == [(0, torch.tensor([5.0]), "1")]


def test_the_rank_that_failed_is_named_and_the_others_are_ended():
    def fail() -> None:
        if dist.get_rank() == 1:
            raise ValueError("out of cheese")
        dist.barrier()

    started = time.monotonic()
    with pytest.raises(RankError, match=r"rank 1 of 3: Traceback(.|\n)*out of cheese"):
        run_ranks(fail, 3, timeout=3600)
    assert time.monotonic() - started < PATIENCE


def test_a_rank_that_dies_is_named():
    def die() -> None:
        if dist.get_rank() == 0:
            os._exit(7)
        dist.barrier()

    with pytest.raises(RankError, match="rank 0 of 2: ended without a word, exit code 7"):
        run_ranks(die, 2)


def test_a_hanging_rank_is_ended_and_its_stack_shown(tmp_path):
    def hang_here() -> None:
        (tmp_path / str(os.getpid())).touch()
        if dist.get_rank() == 1:
            time.sleep(3600)
        dist.barrier()

    for seconds in (2, 16, 128):  # a busy machine may need more to start two processes
        said = rf"ranks \[0, 1\] of 2 did not finish in {seconds} s"
        with pytest.raises(RankError, match=said) as error:
            run_ranks(hang_here, 2, timeout=seconds)
        if len(list(tmp_path.iterdir())) % 2 == 0 and "not started" not in str(error.value):
            break
    assert str(error.value).count("in hang_here") == 2
    for file in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.name), 0)
