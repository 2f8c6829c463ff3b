"""Files of a run folder with their values checked, and the folders that are there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seo_rec.files import read_json
from seo_rec.policy import Policy, PolicyError
from seo_rec.runs.layout import RESULTS_FILE, RUN_FILE, RUNS_FOLDER, SEARCHES_FOLDER, SETTINGS_FILE

ALLOWED = (
    "a folder of `seo-rec compare` (results.jsonl), `seo-rec train`, `seo-rec search` or "
    "`seo-rec frontier` (run.json)"
)

UNFINISHED = "is not finished and is left out"


class ReportError(ValueError):
    """A folder that gives no report; the message says what it holds and what is allowed."""


def is_run(folder: Path) -> bool:
    return (folder / RUN_FILE).is_file()


def is_comparison(folder: Path) -> bool:
    return (folder / RESULTS_FILE).is_file() or any(
        is_run(run)
        for part in (RUNS_FOLDER, SEARCHES_FOLDER)
        if (folder / part).is_dir()
        for run in (folder / part).iterdir()
    )


def policy_bytes(recorded: Mapping[str, Any], policy: Policy | None, where: Path) -> int | None:
    """Bytes of a policy to serve, as recorded; older records lack them, the policy counts them."""
    known = get_whole({"num_bytes": 0, **recorded}, "num_bytes", where)
    return known or (policy.num_bytes if policy else None)


def settings_file(folder: Path) -> Path | None:
    """The settings file by which the run can be repeated, if its command left one."""
    path = folder / SETTINGS_FILE
    return path if path.is_file() else None


def read_policy(path: Path, notes: list[str]) -> Policy | None:
    if not path.is_file():
        return None
    try:
        return Policy.load(path)
    except PolicyError as error:
        notes.append(f"the policy is left out: {error}")
        return None


def read_document(path: Path) -> Mapping[str, Any]:
    try:
        document = read_json(path)
    except ValueError as error:
        raise ReportError(str(error)) from error
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error})") from error
    if not isinstance(document, dict):
        raise ReportError(f"{path}: a JSON {type(document).__name__}; allowed: an object")
    return document


def read_lines(path: Path, notes: list[str]) -> Iterator[Mapping[str, Any]]:
    """The objects in a file of JSON lines; none if it is absent, damaged lines are noted."""
    if not path.is_file():
        return
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        try:
            document = json.loads(line)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict):
            yield document
        elif line.strip():
            notes.append(f"{path}:{number}: an unreadable line is left out")


def get_value(document: Mapping[str, Any], key: str, where: Path, kind: type, called: str) -> Any:
    if key not in document:
        raise ReportError(
            f"{where}: no {key!r} here; the file is cut short, of another release, or of training "
            "without validation rows, as a day of seo-rec replay; train again with this release"
        )
    value = document[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ReportError(f"{where}: {key} is {value!r:.60}; allowed: {called}")
    return value


def get_text(document: Mapping[str, Any], key: str, where: Path) -> str:
    return str(get_value(document, key, where, str, "a string"))


def get_whole(document: Mapping[str, Any], key: str, where: Path) -> int:
    return int(get_value(document, key, where, int, "a whole number"))


def get_number(document: Mapping[str, Any], key: str, where: Path) -> float:
    if key in document and document[key] is None:  # not a number, which JSON cannot say
        return float("nan")
    return float(get_value(document, key, where, int | float, "a number"))  # type: ignore[arg-type]


def get_optional_mapping(document: Mapping[str, Any], key: str, where: Path) -> Mapping[str, Any]:
    return get_mapping(document, key, where) if key in document else {}


def get_mapping(document: Mapping[str, Any], key: str, where: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = get_value(document, key, where, dict, "an object")
    return found
