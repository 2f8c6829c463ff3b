"""Processes that do not find each other end in time, and say where they looked."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from typed import free_port, typed

TRAIN = ["--method", "monolithic", "--params", "1600", "--batch-size", "32", "--epochs", "1"]


def command(data: Path, out: Path) -> list[str]:
    return ["train", str(data), "--out", str(out), *TRAIN]


def test_a_port_held_by_a_silent_server_ends_every_rank(tiny: Path, tmp_path: Path) -> None:
    """It accepts connections and never answers; nothing in torch limits that wait."""
    commands = [command(tiny, tmp_path / "run")] * 2
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        started = time.monotonic()
        with typed(commands, tmp_path, port, SEO_REC_TIMEOUT_S="3") as launch:
            assert launch.ended(20) == [2, 2]
        assert time.monotonic() - started < 12
    first, second = launch.said(0)[-1], launch.said(1)[-1]
    assert "EADDRINUSE" in first
    assert second.startswith(f"error: the 2 processes do not meet at 127.0.0.1:{port} (")
    assert "silent for 3 s" in second and "SEO_REC_TIMEOUT_S" in second
    assert not (tmp_path / "run").exists()


def test_a_first_rank_that_never_comes(tiny: Path, tmp_path: Path) -> None:
    port = free_port()
    commands = [None, command(tiny, tmp_path / "run")]
    with typed(commands, tmp_path, port, SEO_REC_TIMEOUT_S="3") as launch:
        assert launch.ended(20) == [2]
    assert launch.said(1)[-1].startswith(f"error: the 2 processes do not meet at 127.0.0.1:{port}")


def test_ranks_that_find_each_other_train(tiny: Path, tmp_path: Path) -> None:
    with typed([command(tiny, tmp_path / "run")] * 2, tmp_path) as launch:
        assert launch.ended() == [0, 0], launch.all_said()
    assert (tmp_path / "run" / "result.json").exists()
