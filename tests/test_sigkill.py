"""Processes that are really killed, at any moment, and go on."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from killed_runs import differences, outcome

TRAIN = ["--method", "multi-size", "--params", "1600", "--hidden", "8", "--dropout", "0.2"]


TRAIN += ["--epochs", "4", "--patience", "4", "--batch-size", "10", "--lr", "0.01"]


TRAIN += ["--checkpoint-every", "5", "--threads", "1"]


SEARCH = ["--params", "1600", "--set", "run_off=none", "--set", "search_split=held-out"]


SEARCH += ["--set", "temperature_end=0.5", "--hidden", "8", "--epochs", "3", "--patience", "3"]


SEARCH += ["--batch-size", "10", "--lr", "0.01", "--checkpoint-every", "5", "--threads", "1"]


def start(command: Callable[[], Any]) -> Any:
    """The command line in a fork of this process, which has the imports behind it."""

    def run() -> None:
        os._exit(command().code)  # nothing of the tests' own cleaning up

    process = get_context("fork").Process(target=run)
    process.start()
    return process


def kill_within(process: Any, out: Path, delay: float) -> bool:
    """SIGKILL ``delay`` seconds after the process first writes below ``out``; True if it hit."""
    before = newest(out)
    while process.is_alive() and newest(out) == before:
        time.sleep(0.01)
    process.join(delay)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def newest(out: Path) -> int:
    """When a file of the training below ``out`` last changed."""
    times = []
    for folder, _, files in os.walk(out):
        for name in {"metrics.jsonl", "complete.json"} & set(files):
            try:
                times.append(Path(folder, name).stat().st_mtime_ns)
            except FileNotFoundError:  # an old checkpoint, removed meanwhile
                continue
    return max(times, default=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command, options, kills", [("train", TRAIN, 3), ("search", SEARCH, 2)], ids=["train", "search"]
)
def test_sigkill(
    command: str,
    options: list[str],
    kills: int,
    tiny: Path,
    tmp_path: Path,
    seo_rec: Callable[..., Any],
) -> None:
    """A process killed at random moments, each time resumed, against one that ran in peace."""
    started = time.process_time()  # no run is faster than this, whatever else the machine does
    whole = seo_rec(command, tiny, "--out", tmp_path / "whole", *options)
    duration = time.process_time() - started
    assert whole.code == 0, whole.err
    seed = random.SystemRandom().randrange(10**6)
    rng, hits = random.Random(seed), 0
    print(f"seed of the kills: {seed}; an undisturbed run took {duration:.1f} s of a core")
    out = tmp_path / "killed"
    resumed = partial(seo_rec, command, tiny, "--out", out, *options, "--resume")
    for _ in range(kills):
        hits += kill_within(start(resumed), out, rng.uniform(0, duration / kills))
    last = resumed()
    assert last.code == 0, f"seed {seed}: {last.err}"
    assert hits, f"seed {seed}: the run ended before the first kill"
    assert not differences(outcome(tmp_path / "whole"), outcome(out)), f"seed {seed}"
