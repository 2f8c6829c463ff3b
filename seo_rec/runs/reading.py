"""Run folders read back: comparisons, training runs and searches, as plain records.

:mod:`seo_rec.runs` draws the layouts. Damaged files are named in an error; unfinished runs are
noted and left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seo_rec.runs.finished import Records, SearchRun, TrainingRun
from seo_rec.runs.layout import (
    INFEASIBLE_FILE,
    RESULTS_FILE,
    RUN_FILE,
    RUNS_FOLDER,
    SEARCHES_FOLDER,
    training_folder,
)
from seo_rec.runs.reading_searches import read_search
from seo_rec.runs.reading_trainings import read_training, training_of
from seo_rec.runs.run_files import (
    ALLOWED,
    UNFINISHED,
    ReportError,
    get_text,
    get_whole,
    is_comparison,
    is_run,
    read_document,
    read_lines,
)
from seo_rec.runs.tunings import TuningRun, best_folder, tunings_in


def read(runs: Sequence[Path]) -> Records:
    """Everything finished in ``runs``, each run once, in the order given.

    Raises:
        ReportError: no folder is given, one is no run folder, a file in it is damaged, or none
            holds a finished run.
    """
    if not runs:
        raise ReportError(f"no folder is given; give {ALLOWED}")
    trainings: dict[Path, TrainingRun] = {}
    searches: dict[Path, SearchRun] = {}
    notes: list[str] = []
    tunings: list[TuningRun] = []
    for given in map(Path, runs):
        tunings += tunings_in(given)
        for run in _read_one(given, notes):
            if isinstance(run, TrainingRun):
                trainings.setdefault(run.folder.resolve(), run)
            else:
                searches.setdefault(run.folder.resolve(), run)
    if not trainings and not searches:
        goes_on = "; the same command, with --resume for train and search, goes on with it"
        resumable = not notes or any(note.endswith(UNFINISHED) for note in notes)
        raise ReportError(
            f"{', '.join(map(str, runs))}: no finished run here ({'; '.join(notes) or 'empty'})"
            + (goes_on if resumable else "")
        )
    return Records(
        tuple(trainings.values()), tuple(searches.values()), tuple(notes), tuple(tunings)
    )


def _read_one(given: Path, notes: list[str]) -> Iterator[TrainingRun | SearchRun]:
    if not given.exists():
        raise ReportError(f"{given}: no such folder; give {ALLOWED}")
    if not given.is_dir():
        raise ReportError(f"{given}: a file, not a folder; give {ALLOWED}")
    if is_comparison(given):
        yield from _read_comparison(given, given, notes)
    elif (given / RUN_FILE).is_file():
        asked = read_document(given / RUN_FILE)
        kind = asked.get("kind")
        run: TrainingRun | SearchRun | None
        if kind == "frontier":
            yield from _read_frontier(given, notes)
            return
        if kind == "train":
            run = read_training(given, given, notes)
        elif kind == "tune":
            best = best_folder(given)
            run = read_training(given, best, notes) if best else None
            if best is None:
                notes.append(f"{given}: the tuning {UNFINISHED}")
        elif kind == "search":
            run = read_search(given, given, notes)
        else:
            raise ReportError(
                f"{given / RUN_FILE}: a run of kind {kind!r}; allowed: train, tune, search, "
                "frontier"
            )
        if run:
            yield run
    else:
        there = sorted(p.name for p in given.iterdir())
        listed = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "") or "nothing"
        inner = [
            p for p in sorted(given.iterdir()) if p.is_dir() and (is_comparison(p) or is_run(p))
        ]
        hint = f"; did you mean {', '.join(map(str, inner[:4]))}?" if inner else ""
        raise ReportError(f"{given}: no run folder, it holds {listed}; give {ALLOWED}{hint}")


def _read_frontier(given: Path, notes: list[str]) -> Iterator[TrainingRun | SearchRun]:
    """Finished runs of all its comparisons; notes of what did not fit into a budget."""
    for part in sorted(p for p in given.iterdir() if p.is_dir() and is_comparison(p)):
        yield from _read_comparison(given, part, notes)
    notes += [f"{name}: {m} is left out: {why}" for name, m, why in read_infeasible(given)]


def read_infeasible(frontier: Path) -> list[tuple[str, str, str]]:
    """Comparison, method and reason of what did not fit into a budget of a frontier."""
    path = frontier / INFEASIBLE_FILE
    if not path.is_file():
        return []
    return [
        (name, method, str(why))
        for name, reasons in read_document(path).items()
        for method, why in (reasons if isinstance(reasons, dict) else {}).items()
    ]


def _read_comparison(
    given: Path, comparison: Path, notes: list[str]
) -> Iterator[TrainingRun | SearchRun]:
    """Finished runs of a comparison: lines of results.jsonl, and folders that have none yet."""
    asked = read_document(comparison / RUN_FILE) if is_run(comparison) else {}
    trials = get_whole({"trials": 0, **asked}, "trials", comparison / RUN_FILE)
    for run in _runs_of_comparison(given, comparison, notes):
        yield replace(run, trials=trials)


def _runs_of_comparison(
    given: Path, comparison: Path, notes: list[str]
) -> Iterator[TrainingRun | SearchRun]:
    seen: set[Path] = set()
    lines = comparison / RESULTS_FILE
    results: dict[Path, Mapping[str, Any]] = {}
    for document in read_lines(lines, notes):
        method, seed = get_text(document, "method", lines), get_whole(document, "seed", lines)
        results[training_folder(comparison, method, seed)] = document  # a later line wins
    for folder, document in results.items():
        seen.add(folder)
        yield training_of(given, folder, document, lines, notes)
    for part in (RUNS_FOLDER, SEARCHES_FOLDER):
        for folder in sorted(comparison.glob(f"{part}/*")):
            if folder in seen or not is_run(folder):
                continue
            run: TrainingRun | SearchRun | None
            if part == RUNS_FOLDER:
                run = read_training(given, folder, notes)
            else:
                run = read_search(given, folder, notes)
            if run:
                yield run
