"""A rank that is killed ends the others soon, with one sentence and without a traceback."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from patience import PATIENCE, until
from seo_rec.train import CheckpointError, LostRankError, loss_behind, loss_said
from typed import Typed, typed

OPTIONS = ["--method", "monolithic", "--params", "1600", "--batch-size", "30"]
OPTIONS += ["--epochs", "500", "--patience", "500", "--l2", "0"]
CLOSED = "[/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:1"


def training(data: Path, out: Path, *options: str) -> list[str]:
    return ["train", str(data), "--out", str(out), *OPTIONS, *options]


def until_checkpoint(launch: Typed, out: Path) -> None:
    def there() -> bool:
        assert all(process.is_alive() for process in launch.processes), launch.all_said()
        return bool(list(out.glob("checkpoints/step-*")))

    until(there, launch.all_said)


@pytest.mark.parametrize(
    "world, victim",
    [
        (2, 1),
        (3, 0),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(2, 0), (3, 1), (3, 2)]),
    ],
)
def test_a_killed_rank_is_named_once_and_how_to_go_on(
    tiny: Path, tmp_path: Path, world: int, victim: int
) -> None:
    out = tmp_path / "run"
    with typed([training(tiny, out)] * world, tmp_path) as launch:
        until_checkpoint(launch, out)
        os.kill(launch.pid(victim), signal.SIGKILL)
        statuses = launch.ended()  # long before SEO_REC_TIMEOUT_S
    others = [status for rank, status in enumerate(statuses) if rank != victim]
    assert others == [1] * (world - 1) and statuses[victim] == -signal.SIGKILL
    lines = set(launch.all_said())
    steps = {re.sub(r"at step \d+", "at step N", line) for line in lines}
    assert len(steps) == 1, launch.all_said()
    if victim:  # the store of the launch is gone with rank 0
        assert len(launch.all_said()) == 1
    (line,) = steps
    assert line.startswith(f"error: rank {victim} was lost at step N (its connection closed): ")
    assert re.search(rf": the checkpoint of step \d+ is kept in {out}; the same command", line)
    assert line.endswith("with --resume goes on")


def test_a_rank_that_hangs_is_named_after_the_timeout(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    commands = [training(tiny, out)] * 2
    with typed(commands, tmp_path, SEO_REC_TIMEOUT_S="5") as launch:
        until_checkpoint(launch, out)
        os.kill(launch.pid(1), signal.SIGSTOP)
        launch.processes[0].join(PATIENCE)
        assert launch.processes[0].exitcode == 1
    (line,) = launch.said(0)
    assert re.match(r"error: rank 1 was lost at step \d+ \(it did not answer in time\): ", line)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_a_first_rank_that_hangs_takes_the_store_with_it_and_the_others_end(
    tiny: Path, tmp_path: Path, world: int
) -> None:
    """Its store answers nothing, and a client of the store waits for an answer without end."""
    out = tmp_path / "run"
    with typed([training(tiny, out)] * world, tmp_path, SEO_REC_TIMEOUT_S="5") as launch:
        until_checkpoint(launch, out)
        os.kill(launch.pid(0), signal.SIGSTOP)
        for process in launch.processes[1:]:
            process.join(PATIENCE)
            assert process.exitcode == 1
    said = re.compile(r"error: rank 0 was lost at step \d+ \((it did not|its connection).*\): the ")
    for rank in range(1, world):
        (line,) = launch.said(rank)
        assert said.match(line)


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_ranks_that_wait_for_a_survivor_only_end_as_well(
    victim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One waits for the other, which has begun an exchange that the first will never join.

    The destructor of a process group waits for the exchange, and here a data parallel model holds
    the group, whose destructor keeps the interpreter's lock meanwhile.
    """
    first, second = sorted({0, 1, 2} - {victim})

    def exchanges() -> None:
        rank = dist.get_rank()
        pairs = [dist.new_group([first, second]) for _ in range(2)]
        if rank != victim:
            model = DistributedDataParallel(torch.nn.Linear(4, 1), process_group=pairs.pop())
        dist.barrier()
        if rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == first:
            dist.all_reduce(torch.zeros(1), group=model.process_group, async_op=True)
            dist.recv(torch.zeros(1), src=victim)
        dist.all_reduce(torch.zeros(1), group=pairs[0])

    monkeypatch.setattr("seo_rec.cli.main._run", exchanges)
    with typed([[]] * 3, tmp_path) as launch:
        statuses = launch.ended()
    assert statuses == [-signal.SIGKILL if rank == victim else 1 for rank in range(3)]
    assert set(launch.all_said()) == {f"error: rank {victim} was lost (its connection closed)"}
    assert len(launch.all_said()) == 1 or victim == 0


def test_a_mistake_of_one_rank_alone_is_said_by_it_and_the_other_ends(
    tiny: Path, tmp_path: Path
) -> None:
    """The other one waits for it; nothing was written yet."""
    out = tmp_path / "run"
    commands = [training(tiny, out), training(tiny, out, "--l2", "-1")]
    with typed(commands, tmp_path) as launch:
        assert launch.ended() == [1, 2]
    (mistake,) = launch.said(1)
    assert mistake.startswith("error: ") and "-1" in mistake
    (line,) = launch.said(0)
    assert line.startswith("error: rank 1 was lost (its connection closed)")
    assert "nothing was written yet" in line
    assert not out.exists()


def test_which_errors_are_the_loss_of_a_rank() -> None:
    assert loss_behind(RuntimeError(CLOSED)) == "its connection closed"
    late = "[/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 3000ms"
    assert loss_behind(RuntimeError(late)) == "it did not answer in time"
    others = RuntimeError("Application timeout caused pair closure")
    assert loss_behind(others) == "it did not answer in time"
    assert loss_behind(dist.DistStoreError("wait timeout after 3000ms")) != ""
    for other in ("Connection closed by peer", "row_lr timed out", "gloo has no such device"):
        assert loss_behind(RuntimeError(other)) == ""
    damaged = CheckpointError("step-1: cannot be loaded")
    damaged.__cause__ = RuntimeError(CLOSED)
    assert loss_behind(damaged) == "its connection closed"


def test_only_a_loss_is_said_otherwise() -> None:
    with pytest.raises(KeyError), loss_said():
        raise KeyError("x")
    message = r"^another rank was lost at step 5 \(its connection closed\)$"
    with pytest.raises(LostRankError, match=message), loss_said(lambda: "at step 5"):
        raise RuntimeError(CLOSED)
