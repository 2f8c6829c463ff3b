"""A rank that stands still is noticed by its silence; one that is slow is not."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from distributed.test_lost_ranks import training, until_checkpoint
from patience import PATIENCE, until
from seo_rec.train import loop
from seo_rec.train.checkpoint import Checkpoints
from seo_rec.train.pulse import LEFT, Counts
from typed import typed

SILENT = re.compile(r"error: rank (\d) was lost at step \d+ \(it was silent for 2 s\): ")


@pytest.mark.parametrize(
    "world, victim",
    [(2, 1), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(2, 0), (3, 1)])],
)
def test_a_stopped_rank_is_named_and_how_to_go_on(
    tiny: Path, tmp_path: Path, world: int, victim: int
) -> None:
    """SEO_REC_TIMEOUT_S is an hour here: no limit of the network library ends the wait."""
    out = tmp_path / "run"
    with typed([training(tiny, out)] * world, tmp_path, SEO_REC_SILENCE_S="2") as launch:
        until_checkpoint(launch, out)
        os.kill(launch.pid(victim), signal.SIGSTOP)
        others = [p for rank, p in enumerate(launch.processes) if rank != victim]
        for process in others:
            process.join(PATIENCE)
        assert [process.exitcode for process in others] == [1] * (world - 1)
    (line,) = launch.all_said()
    assert (said := SILENT.match(line)) and int(said[1]) == victim
    assert re.search(rf": the checkpoint of step \d+ is kept in {out}; the same command", line)


@pytest.mark.slow
def test_a_main_thread_that_waits_for_something_else_is_ended_too(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(*_: Any) -> None:
        (tmp_path / f"waits-{os.environ['RANK']}").touch()
        time.sleep(3600)

    monkeypatch.setattr("seo_rec.train.pulse.UNWIND_S", 1.0)
    monkeypatch.setattr("seo_rec.cli.main._run", endless)
    with typed([[]] * 3, tmp_path, SEO_REC_SILENCE_S="2") as launch:
        until(lambda: len(list(tmp_path.glob("waits-*"))) == 3, launch.all_said)
        os.kill(launch.pid(2), signal.SIGSTOP)
        for process in launch.processes[:2]:
            process.join(PATIENCE)
            assert process.exitcode == 1
    (line,) = launch.all_said()
    assert line.startswith("error: rank 2 was lost (it was silent for 2 s): the same command with ")


def test_who_works_on_after_the_first_rank_prints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has ended with the first rank, and torch prints a stack for who still asks it."""

    def works_on(*_: Any) -> None:
        if os.environ["RANK"] == "1":
            (tmp_path / "works").touch()
            until((tmp_path / "end").exists)

    monkeypatch.setattr("seo_rec.cli.main._run", works_on)
    with typed([[]] * 2, tmp_path, SEO_REC_SILENCE_S="2") as launch:
        until((tmp_path / "works").exists, launch.all_said)
        launch.processes[0].join(PATIENCE)
        time.sleep(1)  # some counts
        (tmp_path / "end").touch()
        assert launch.ended() == [0, 0]
    assert launch.all_said() == []


@pytest.mark.slow
def test_slow_evaluations_and_checkpoints_of_one_rank_are_waited_for(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes three times as long as a rank may be silent."""
    evaluate, save = loop.evaluate, Checkpoints.save

    def slow(mark: str) -> None:
        if os.environ["RANK"] == "1":
            time.sleep(6)
            (tmp_path / mark).touch()

    def slow_evaluate(*args: Any) -> Any:
        slow("evaluated")
        return evaluate(*args)

    def slow_save(*args: Any) -> None:
        slow("saved")
        save(*args)

    monkeypatch.setattr(loop, "evaluate", slow_evaluate)
    monkeypatch.setattr(Checkpoints, "save", slow_save)
    words = training(tiny, tmp_path / "run", "--epochs", "1", "--batch-size", "2000")
    with typed([words] * 2, tmp_path, SEO_REC_SILENCE_S="2") as launch:
        assert launch.ended() == [0, 0], launch.all_said()
    assert (tmp_path / "evaluated").exists() and (tmp_path / "saved").exists()


def test_a_limit_that_is_no_number_of_seconds(tiny: Path, tmp_path: Path) -> None:
    with typed([training(tiny, tmp_path / "run")] * 2, tmp_path, SEO_REC_SILENCE_S="0") as launch:
        assert launch.ended() == [2, 2]
    assert "error: SEO_REC_SILENCE_S is '0'; allowed: whole seconds, 1 or more" in launch.all_said()


def test_a_count_that_stands_still_is_silence() -> None:
    watch = Counts((1, 2), within_s=10, now=100)
    assert watch.look({1: 0, 2: 0}, 104) == []
    assert watch.look({1: 1, 2: 0}, 108) == []
    assert watch.look({1: 2, 2: 0}, 110) == []
    assert watch.look({1: 3, 2: 0}, 110.1) == []  # a first count is heard when it is first seen
    assert watch.look({1: 4, 2: 0}, 114.1) == [2]
    assert watch.look({1: 5, 2: 1}, 115) == []


def test_a_rank_that_has_ended_its_work_is_not_silent() -> None:
    watch = Counts((1,), within_s=10, now=0)
    for now in range(0, 100, 5):
        assert watch.look({1: 3 + LEFT}, now) == []


def test_who_stood_still_does_not_take_others_for_silent() -> None:
    """All processes of a machine that sleeps wake up together, some a little before others."""
    watch = Counts((1,), within_s=10, now=0)
    assert watch.look({1: 7}, 3) == []
    assert watch.look({1: 7}, 3600) == []
    assert watch.look({1: 7}, 3604) == []
    assert watch.look({1: 7}, 3608) == []
    assert watch.look({1: 7}, 3611) == [1]
