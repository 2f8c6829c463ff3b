"""How far the run in a folder came, read from its files: what a stop keeps, whether it still rose.

What is said of a stop is true because it is read from what is there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SAME_COMMAND = "the same command with --resume goes on"


def kept(out: Path) -> str:
    """One sentence: what of an unfinished run is kept in ``out``, and how to go on."""
    try:
        kind = json.loads((out / "run.json").read_text())["kind"]
    except (OSError, ValueError, KeyError):
        return "nothing was written yet; the same command starts again"
    if kind in ("compare", "frontier"):
        done = _lines(out / "results.jsonl") + sum(map(_lines, out.glob("*/results.jsonl")))
        what = f"{done} finished {'training is' if done == 1 else 'trainings are'}"
        return f"{what} kept in {out}; the same command goes on"
    return f"{_kept_of_one(out, kind)}; {SAME_COMMAND}"


def _kept_of_one(out: Path, kind: str) -> str:
    scored = sum(1 for _ in out.glob("scores/*.json"))
    known = sum(1 for _ in out.glob("candidates/*.json"))
    if kind == "search" and scored:
        of_all = f"{scored} of {known} candidates" if known > scored else f"{scored} candidates"
        return f"{of_all} are kept in {out}" if scored > 1 else f"1 candidate is kept in {out}"
    steps = [int(p.name.removeprefix("step-")) for p in out.rglob("checkpoints/step-*")]
    if not steps:
        return f"no checkpoint was written yet, so nothing of the run is kept in {out}"
    if kind == "search":
        return f"the checkpoints of the search are kept in {out}"
    return f"the checkpoint of step {max(steps)} is kept in {out}"


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def still_rising(training: Path, epochs: int) -> bool:
    """Whether a training ended at its limit of ``epochs`` while its validation AUC still rose.

    It did if the last of two or more epochs was the best one.
    """
    try:
        text = (training / "metrics.jsonl").read_text()
    except OSError:
        return False
    aucs = [e["val_auc"] for line in text.splitlines() if "val_auc" in (e := _event(line))]
    return len(aucs) == epochs > 1 and aucs[-1] > max(aucs[:-1])


def _event(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:  # a line cut short by a kill
        return {}
    return event if isinstance(event, dict) else {}
