"""The folder of a finished training as a record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seo_rec.policy.allowance import BYTES, FLOATS
from seo_rec.runs.finished import Epoch, TrainingRun
from seo_rec.runs.groups import GroupReport
from seo_rec.runs.layout import GROUPS_FILE, METRICS_FILE, POLICY_FILE, RESULT_FILE, RUN_FILE
from seo_rec.runs.run_files import (
    UNFINISHED,
    ReportError,
    get_mapping,
    get_number,
    get_text,
    get_whole,
    is_run,
    policy_bytes,
    read_document,
    read_lines,
    read_policy,
    settings_file,
)
from seo_rec.schema import BINARY, REGRESSION

_NAMES_OF = {
    BINARY: {"val": "val_auc", "test": "test_auc", "loss": "test_logloss"},
    REGRESSION: {"val": "val_r2", "test": "test_r2", "loss": "test_mse"},
}


def read_training(given: Path, folder: Path, notes: list[str]) -> TrainingRun | None:
    path = folder / RESULT_FILE
    if not path.is_file():
        notes.append(f"{folder}: the training {UNFINISHED}")
        return None
    return training_of(given, folder, read_document(path), path, notes)


def training_of(
    given: Path, folder: Path, result: Mapping[str, Any], where: Path, notes: list[str]
) -> TrainingRun:
    asked = read_document(folder / RUN_FILE) if is_run(folder) else {}
    policy = read_policy(folder / POLICY_FILE, notes)
    method = get_text(result, "method", where)
    params = get_whole(result, "embedding_params", where)
    note = get_text({"note": "", **result}, "note", where)
    task = get_text({"task": BINARY, **result}, "task", where)
    quality = _NAMES_OF.get(task)
    if quality is None:
        raise ReportError(f"{where}: task is {task!r}; allowed: {', '.join(_NAMES_OF)}")
    return TrainingRun(
        given=given,
        folder=folder,
        dataset=get_text(result, "data", where),
        fingerprint=get_text(result, "data_fingerprint", where),
        method=method,
        seed=get_whole(result, "seed", where),
        params=params,
        budget=_budget(result, params, where),
        unit=FLOATS if result.get("budget_bytes") is None else BYTES,
        val_auc=get_number(result, quality["val"], where),
        test_auc=get_number(result, quality["test"], where),
        test_logloss=get_number(result, quality["loss"], where),
        epochs=get_whole(result, "epochs", where),
        seconds_per_epoch=get_number(result, "seconds_per_epoch", where),
        seconds=get_number(result, "seconds", where),
        search_seconds=get_number(result, "search_seconds", where),
        search_peak_bytes=get_whole({"search_peak_bytes": 0, **result}, "search_peak_bytes", where),
        description="; ".join(filter(None, (get_text(result, "policy", where), note))),
        command=get_text(result, "command", where),
        environment=get_mapping(result, "environment", where),
        settings={key: asked[key] for key in ("model", "fit") if key in asked},
        num_bytes=policy_bytes(result, policy, where),
        data=Path(asked["data"]) if "data" in asked else None,
        policy=policy,
        curve=tuple(_curve(folder / METRICS_FILE, notes)),
        repeat=settings_file(folder) or settings_file(given),
        groups=_groups(folder / GROUPS_FILE, notes),
        task=task,
    )


def _groups(path: Path, notes: list[str]) -> GroupReport | None:
    """Quality by group, if it was measured; a damaged file is noted."""
    if not path.is_file():
        return None
    try:
        return GroupReport.read(path)
    except ValueError as error:
        notes.append(f"quality by group is left out: {error}")
        return None


def _budget(result: Mapping[str, Any], params: int, where: Path) -> int | None:
    """The budget that was asked for, or what the method holds if it was asked for less or none.

    A method may use less of its budget, as with a row per id, or a search that stops growing. None
    stands for a method whose size follows from the data.
    """
    if result.get("budget_bytes") is not None:
        return get_whole(result, "budget_bytes", where)
    if result.get("budget") is None:
        return None
    return max(get_whole(result, "budget", where), params)


def _curve(path: Path, notes: list[str]) -> Iterator[Epoch]:
    for document in read_lines(path, notes):
        if document.get("event") == "epoch":
            yield Epoch(
                get_whole(document, "epoch", path) + 1,
                get_number(document, "train_loss", path),
                get_number(document, "val_r2" if "val_r2" in document else "val_auc", path),
            )
