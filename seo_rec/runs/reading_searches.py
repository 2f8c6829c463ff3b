"""The folder of a finished search as a record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seo_rec.policy.allowance import BYTES, FLOATS
from seo_rec.runs.finished import Attention, Candidate, SearchRun
from seo_rec.runs.halving import Halving, halving_of
from seo_rec.runs.layout import CANDIDATES_FOLDER, POLICY_FILE, RUN_FILE, SEARCH_FILE
from seo_rec.runs.run_files import (
    UNFINISHED,
    ReportError,
    get_mapping,
    get_number,
    get_optional_mapping,
    get_text,
    get_whole,
    policy_bytes,
    read_document,
    read_policy,
    settings_file,
)


def read_search(given: Path, folder: Path, notes: list[str]) -> SearchRun | None:
    path, run = folder / SEARCH_FILE, folder / RUN_FILE
    if not path.is_file():
        notes.append(f"{folder}: the search {UNFINISHED}")
        return None
    result, asked = read_document(path), read_document(run)
    if _is_of_an_earlier_release(result, asked):
        notes.append(f"{folder}: the search was made by an earlier release and is left out")
        return None
    record = get_mapping(result, "record", path)
    policies = {
        file.stem: policy
        for file in sorted((folder / CANDIDATES_FOLDER).glob("*.json"))
        if (policy := read_policy(file, notes))
    }
    candidates = [
        Candidate(
            name,
            get_number(scores, "val_auc", path),
            get_number(scores, "gain", path),
            get_number(scores, "standard_error", path),
            get_whole(scores, "params", path),
            get_number(scores, "seconds", path),
            policy_bytes(scores, policies.get(name), path),
            get_optional_mapping(scores, "origin", path),
        )
        for name, scores in get_optional_mapping(record, "run_off", path).items()
        if "same_as" not in scores  # an equal policy, trained under another name
    ]
    return SearchRun(
        given=given,
        folder=folder,
        dataset=get_text(result, "dataset", path),
        fingerprint=get_text(asked, "data_fingerprint", run),
        seed=get_whole(get_mapping(asked, "fit", run), "seed", run),
        budget=get_whole({"budget_bytes": 0, **asked}, "budget_bytes", run)
        or get_whole(asked, "budget", run)
        or get_whole(result, "params", path),
        unit=BYTES if asked.get("budget_bytes") else FLOATS,
        winner=get_text(result, "winner", path),
        decision=get_mapping(result, "decision", path),
        candidates=tuple(sorted(candidates, key=lambda c: -c.val_auc)),
        attentions=tuple(
            _attention(width, entry, path)
            for width, entry in get_optional_mapping(record, "searches", path).items()
        ),
        seconds=get_number(result, "seconds", path),
        command=get_text(result, "command", path),
        environment=get_mapping(result, "environment", path),
        settings={
            "search": get_mapping(asked, "settings", run),
            **{k: asked[k] for k in ("model", "fit") if asked.get(k)},
        },
        data=Path(asked["data"]) if "data" in asked else None,
        policy=read_policy(folder / POLICY_FILE, notes),
        policies=policies,
        repeat=settings_file(folder),
        halving=_halving(record, path),
    )


def _halving(record: Mapping[str, Any], path: Path) -> Halving | None:
    try:
        return halving_of(record, path)
    except ValueError as error:
        raise ReportError(str(error)) from error


def _is_of_an_earlier_release(result: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether a finished search was made before searches said who won and for which budget."""
    known = {"record", "winner", "decision"} <= result.keys() and "budget" in asked
    return not known and "environment" in result


def _attention(width: str, entry: Mapping[str, Any], where: Path) -> Attention:
    try:
        features = tuple(str(name) for name in entry["features"])
        values = tuple(tuple(float(a) for a in row) for row in entry["attention"])
        if len(values) != len(features) or len({len(row) for row in values}) != 1:
            raise ValueError(f"{len(features)} features, {len(values)} rows of attention")
        return Attention(
            int(width), features, values, float(entry["val_auc"]), float(entry["seconds"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{where}: searches[{width!r}] is no attention ({error!r})") from error
