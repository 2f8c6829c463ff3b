"""What a run that was stopped leaves in its folder, read from its files.

A sentence about a stop is true because it is read from the files that are there.
"""

from __future__ import annotations

from pathlib import Path

from seo_rec.documents import read_object
from seo_rec.runs.layout import (
    CHECKPOINTS_FOLDER,
    DAYS_FOLDER,
    RESULT_FILE,
    RESULTS_FILE,
    RUN_FILE,
    SCORES_FOLDER,
    TRIALS_FOLDER,
    WORK_FOLDER,
)

SAME_COMMAND = "the same command with --resume goes on"


def kept(out: Path) -> str:
    """One sentence: how much of an unfinished run is kept in ``out``, and how to go on."""
    try:
        kind = read_object(out / RUN_FILE, {"kind": str})["kind"]
    except (OSError, ValueError):
        return f"nothing was written yet to {out}; the same command starts again"
    if kind in ("compare", "frontier"):
        done = _lines(out / RESULTS_FILE) + sum(map(_lines, out.glob(f"*/{RESULTS_FILE}")))
        what = f"{done} finished {'training is' if done == 1 else 'trainings are'}"
        return f"{what} kept in {out}; the same command goes on"
    if kind == "tune":
        begun = sum(1 for _ in out.glob(f"{TRIALS_FOLDER}/*/{RUN_FILE}"))
        what = f"{begun} {'trial is' if begun == 1 else 'trials are'}"
        return f"{what} kept in {out}; {SAME_COMMAND}"
    if kind == "replay":
        done = sum(1 for _ in out.glob(f"{DAYS_FOLDER}/*/{RESULT_FILE}"))
        what = f"{done} finished {'day is' if done == 1 else 'days are'}"
        return f"{what} kept in {out}; {SAME_COMMAND}"
    return f"{_kept_of_one(out, kind)}; {SAME_COMMAND}"


def _kept_of_one(out: Path, kind: str) -> str:
    scored = sum(1 for _ in out.glob(f"{WORK_FOLDER}/{SCORES_FOLDER}/*/*.json"))
    if kind == "search" and scored:
        some = (
            "1 training of a candidate is"
            if scored == 1
            else f"{scored} trainings of candidates are"
        )
        return f"{some} kept in {out}"
    steps = [int(p.name.removeprefix("step-")) for p in out.rglob(f"{CHECKPOINTS_FOLDER}/step-*")]
    if not steps:
        return f"no checkpoint was written yet, so nothing of the run is kept in {out}"
    if kind == "search":
        return f"the checkpoints of the search are kept in {out}"
    return f"the checkpoint of step {max(steps)} is kept in {out}"


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0
