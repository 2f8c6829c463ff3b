"""Where the numbers of a page came from: commands, data, environments, settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seo_rec.data.dataset import open_data
from seo_rec.report import formats
from seo_rec.runs.command_settings import repeat_command
from seo_rec.runs.finished import Records, SearchRun, TrainingRun
from seo_rec.schema import SPLITS, DataError


@dataclass(frozen=True)
class Origin:
    """Where numbers came from: a heading, and (name, value) lines."""

    title: str
    lines: tuple[tuple[str, str], ...]


def origins_of(records: Records) -> list[Origin]:
    """Per folder given: commands, data, environments and settings, each said once."""
    places: dict[Path, list[TrainingRun | SearchRun]] = {}
    runs: list[TrainingRun | SearchRun] = [*records.trainings, *records.searches]
    for run in runs:
        places.setdefault(run.given, []).append(run)
    origins = []
    for given, members in places.items():
        lines: list[tuple[str, str]] = []
        trained = sum(isinstance(m, TrainingRun) for m in members)
        runs_of = (
            formats.number_of(trained, "training", "trainings"),
            formats.number_of(len(members) - trained, "search", "searches"),
        )
        lines.append(("runs", ", ".join(runs_of)))
        lines += [("command", text) for text in dict.fromkeys(m.command for m in members)]
        repeats = dict.fromkeys(m.repeat for m in members if m.repeat)
        lines += [("repeat with", repeat_command(path.parent) or "") for path in repeats]
        lines += [("data", text) for text in dict.fromkeys(_data_line(m) for m in members)]
        lines += _environment_lines(members)
        lines += _settings_lines(members)
        origins.append(Origin(str(given), tuple(lines)))
    return origins


def _data_line(run: TrainingRun | SearchRun) -> str:
    text = f"{run.dataset}, fingerprint {run.fingerprint}"
    if run.data is None:
        return text
    text += f", {run.data}"
    try:
        schema = open_data(run.data).schema
    except (DataError, OSError):
        return text + " (not there any more)"
    if schema.fingerprint != run.fingerprint:
        return text + f" (changed since: now {schema.fingerprint})"
    rows = ", ".join(f"{s} {schema.num_rows[s]:,}" for s in SPLITS if s in schema.num_rows)
    ids = sum(c.vocab_size or 0 for c in schema.features)
    return (
        f"{schema.dataset}, fingerprint {run.fingerprint}, {run.data}: rows {rows}; "
        f"{len(schema.features)} features with {ids:,} training ids, "
        f"{len(schema.numeric)} numeric columns"
    )


def _environment_lines(members: Sequence[TrainingRun | SearchRun]) -> list[tuple[str, str]]:
    """One line per state of the code and one per machine; dates as a range."""
    codes: dict[str, None] = {}
    dates: dict[str, list[str]] = {}
    for run in members:
        stamp = dict(run.environment)
        sha, dirty = stamp.pop("git_sha", None), stamp.pop("git_dirty", None)
        state = {True: ", with uncommitted changes", False: ""}.get(dirty, ", state unknown")
        codes[f"git {sha}{state}" if sha else "git sha unknown"] = None
        date = str(stamp.pop("date", "unknown date"))
        dates.setdefault(_plain(stamp), []).append(date)
    lines = [("code", text) for text in codes]
    for text, seen in dates.items():
        first, last = min(seen), max(seen)
        lines += [("environment", text), ("date", first if first == last else f"{first} to {last}")]
    return lines


def _settings_lines(members: Sequence[TrainingRun | SearchRun]) -> list[tuple[str, str]]:
    lines: dict[tuple[str, str], None] = {}
    for run in members:
        for part, values in run.settings.items():
            shown = {k: v for k, v in values.items() if not (part == "fit" and k == "seed")}
            lines[f"settings: {part}", _plain(shown)] = None
    seeds = sorted({run.seed for run in members})
    return [("seeds", ", ".join(map(str, seeds))), *lines]


def _plain(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v if isinstance(v, str) else json.dumps(v)}" for k, v in values.items())
