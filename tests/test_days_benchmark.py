"""The benchmark of days: every arm scores the same days, at the bytes that it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy import days
from benchmarks.record import read

SMALL = {"stream": "steady", "seed": 0, "first": 2, "steps": 4, "rows": 512, "dim": 4}


def test_the_arms_agree_before_their_first_difference(tmp_path: Path) -> None:
    """All arms of a kind have one model when they score the first day."""
    lines = {
        arm: days.one({**SMALL, "arm": arm, "params": 400}, tmp_path, tmp_path / "runs")
        for arm in ("hashed", "hashed-retrained", "by-id", "by-id-retrained", "by-id-retrained-all")
    }
    assert all(len(line["auc"]) == 2 for line in lines.values())
    for kind in ("hashed", "by-id"):
        first = {line["auc"][0] for arm, line in lines.items() if arm.startswith(kind)}
        assert len(first) == 1, kind
    sizes = {arm: line["num_bytes"] for arm, line in lines.items()}
    assert sizes["hashed"] == sizes["hashed-retrained"] == 1600
    assert sizes["by-id"] == sizes["by-id-retrained"] < sizes["by-id-retrained-all"]
    assert lines["by-id"]["unknown"][0] > 0.05


def test_what_was_recorded_supports_the_page() -> None:
    """Replays are within 0.001 of retraining at equal bytes; renewal cures what churn does."""
    found: dict[tuple[str, str], Any] = {
        (line["what"]["stream"], line["what"]["arm"]): sum(line["auc"]) / len(line["auc"])
        for line in read(days.RECORD)
        if line["auc"] and line["what"]["seed"] == 0
    }
    if not found:
        pytest.skip("nothing is recorded")
    assert found["baseball", "hashed"] >= found["baseball", "hashed-retrained"] - 0.001
    retrained = found["baseball", "by-id-retrained"]
    assert found["baseball", "by-id-shared"] >= retrained - 0.001 > found["baseball", "by-id"]
    assert found["steady", "by-id-shared"] < found["steady", "by-id"] - 0.005  # so it is no default
    for stream in [stream for stream, arm in found if arm == "by-id-candidates"]:  # the default
        assert found[stream, "by-id-candidates"] > found[stream, "by-id"]
    assert found["baseball", "by-id-candidates"] >= retrained - 0.001
    for stream in ("steady", "seasons"):
        assert found[stream, "by-id"] > found[stream, "by-id-fixed"] + 0.005
