"""Processes that do not find each other end in time, and say where they looked."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from patience import PATIENCE
from typed import free_port, typed

TRAIN = ["--method", "monolithic", "--params", "1600", "--batch-size", "32", "--epochs", "1"]
TRAIN += ["--l2", "0"]


def command(data: Path, out: Path) -> list[str]:
    return ["train", str(data), "--out", str(out), *TRAIN]


@pytest.mark.slow
def test_a_port_held_by_a_silent_server_ends_every_rank(tiny: Path, tmp_path: Path) -> None:
    """It accepts connections and never answers; nothing in torch limits that wait."""
    commands = [command(tiny, tmp_path / "run")] * 2
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with typed(commands, tmp_path, port, SEO_REC_TIMEOUT_S="3") as launch:
            assert launch.ended() == [2, 2]
    first, second = launch.said(0)[-1], launch.said(1)[-1]
    assert "EADDRINUSE" in first
    assert second.startswith(f"error: the 2 processes do not meet at 127.0.0.1:{port} (")
    assert "silent for 3 s" in second and "SEO_REC_TIMEOUT_S" in second
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_first_rank_that_never_comes(tiny: Path, tmp_path: Path) -> None:
    port = free_port()
    commands = [None, command(tiny, tmp_path / "run")]
    with typed(commands, tmp_path, port, SEO_REC_TIMEOUT_S="3") as launch:
        assert launch.ended() == [2]
    assert launch.said(1)[-1].startswith(f"error: the 2 processes do not meet at 127.0.0.1:{port}")


def test_ranks_that_find_each_other_train(tiny: Path, tmp_path: Path) -> None:
    with typed([command(tiny, tmp_path / "run")] * 2, tmp_path) as launch:
        assert launch.ended() == [0, 0], launch.all_said()
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("kilobytes", [8, 64, 512])
def test_a_full_disk_is_said_once_with_its_cause(
    tiny: Path, tmp_path: Path, kilobytes: int
) -> None:
    """At the claim of the folder, and in checkpoints, where torch speaks of its archive."""
    small = tmp_path / "small"
    small.mkdir()
    options = ["--params", "16000", "--batch-size", "64", "--checkpoint-every", "2"]

    def in_own_mounts() -> Any:
        libc = ctypes.CDLL(None, use_errno=True)
        private, new_namespace = 1 << 18 | 1 << 14, 0x00020000
        if libc.unshare(new_namespace) or libc.mount(b"none", b"/", None, private, None):
            return os.strerror(ctypes.get_errno())
        size = f"size={kilobytes}k".encode()
        if libc.mount(b"none", bytes(small), b"tmpfs", 0, size):
            return os.strerror(ctypes.get_errno())
        with typed([[*command(tiny, small / "run"), *options]] * 2, tmp_path / "said") as launch:
            return launch.ended(), launch.all_said()

    context = multiprocessing.get_context("fork")  # a process keeps the mounts that it made
    found_here, found_there = context.Pipe(duplex=False)
    process = context.Process(target=lambda: found_there.send(in_own_mounts()))
    process.start()
    assert found_here.poll(PATIENCE)
    found = found_here.recv()
    process.join()
    if isinstance(found, str):
        pytest.skip(f"needs the right to mount a small file system: {found}")
    statuses, lines = found
    assert statuses == [2, 2], lines
    (line,) = lines
    assert line.startswith("error: ") and "no space is left on the disk" in line
    assert ("make room" in line and "with --resume" in line) or "starts again" in line
    assert ("step-" in line) == (kilobytes > 8)
