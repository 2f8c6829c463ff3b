"""What long runs say while they run, where there is no terminal."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seo_rec import recipes
from seo_rec.data.dataset import DataSet
from seo_rec.model import ModelSettings
from seo_rec.search import find
from seo_rec.train import FitSettings, Training, progress
from seo_rec.train.progress import EpochLines, duration

TRAINING = Training(
    ModelSettings(hidden=(8,)),
    FitSettings(epochs=2, patience=2, batch_size=200, row_lr=0.02, dense_lr=0.02, average=0.0),
)


class Clock:
    """Stands for ``time.perf_counter``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "perf_counter", lambda: self.now)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [r.getMessage() for r in caplog.records if r.name == "seo_rec.progress"]
    caplog.clear()
    return lines


def test_lines_come_after_the_interval_with_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A training of 4 epochs of 40 s each that goes on in the middle of the second one."""
    clock = Clock(monkeypatch)
    lines = EpochLines("sseds", 4, True)
    clock.now = 200.0  # what came before the training does not count
    lines.begin(1.5)
    clock.now = 214.0
    lines.within(1, 0.85)
    assert said(caplog) == []
    clock.now = 216.0
    lines.within(1, 0.9)
    assert said(caplog) == ["sseds: epoch 2 of 4, 90% of its rows; at most 1 min 24 s left"]
    clock.now = 220.0
    lines.after(1, 0.71)  # too soon after the last line
    clock.now = 260.0
    lines.begin(2.0)  # changes nothing
    lines.after(2, 0.7212345)
    assert said(caplog) == ["sseds: epoch 3 of 4, validation AUC 0.72123; at most 40 s left"]
    clock.now = 300.0
    lines.after(3, 0.73)
    assert said(caplog) == ["sseds: epoch 4 of 4, validation AUC 0.73000"]


@pytest.mark.parametrize("shown, terminal", [(True, True), (False, False)])
def test_a_terminal_and_other_ranks_get_no_lines(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    shown: bool,
    terminal: bool,
) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    lines = EpochLines("sseds", 4, shown)
    lines.begin(0)
    clock.now += 1000
    lines.after(0, 0.7)
    assert said(caplog) == []


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0 s"), (75, "1 min 15 s"), (3600, "1 h 0 min"), (7290, "2 h 1 min")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "method, changes, title",
    [
        ("dimgrow", {}, "dimgrow"),
        ("sseds", {}, "sseds"),
        ("autodim", {}, "autodim"),
        ("cce", {}, "cce"),
        ("optembed", {"generations": 2}, "optembed"),
        ("seo-exact", {}, "attention over chunks of 8"),
    ],
)
def test_every_search_says_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tiny_data: DataSet,
    tmp_path: Path,
    method: str,
    changes: dict[str, Any],
    title: str,
) -> None:
    """At its beginning, within and after epochs; an evolution after every generation too."""
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    caplog.set_level("INFO", "seo_rec.progress")
    settings = replace(find(method).settings_at(1600, 16, TRAINING), **changes)
    recipes.search(method, tiny_data, tmp_path / "s", settings, TRAINING)
    lines = said(caplog)
    rows = f"{tiny_data.schema.num_rows['train']:,}"
    assert lines[0] == f"{method}: searching on {rows} training rows, at most 2 epochs a training"
    within = [line for line in lines if line.startswith(f"{title}: epoch 1 of 2, 20% of its rows")]
    assert len(within) == 1 and "; at most " in within[0]
    after = [line for line in lines if line.startswith(f"{title}: epoch") and "AUC" in line]
    assert len(after) == 2 and after[0].endswith(" left") and "left" not in after[1]
    generations = [line for line in lines if " of 2 generations: best validation AUC" in line]
    assert len(generations) == 2 * (method == "optembed")
