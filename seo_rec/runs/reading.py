"""Run folders read back: comparisons, training runs and searches, as plain records.

:mod:`seo_rec.runs` draws the layouts. Damaged files are named in an error; unfinished runs are
noted and left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seo_rec.files import read_json
from seo_rec.policy import Policy, PolicyError
from seo_rec.policy.allowance import BYTES, FLOATS
from seo_rec.runs.groups import GroupReport
from seo_rec.runs.halving import Halving, halving_of
from seo_rec.runs.layout import (
    CANDIDATES_FOLDER,
    GROUPS_FILE,
    INFEASIBLE_FILE,
    METRICS_FILE,
    POLICY_FILE,
    RESULT_FILE,
    RESULTS_FILE,
    RUN_FILE,
    RUNS_FOLDER,
    SEARCH_FILE,
    SEARCHES_FOLDER,
    SETTINGS_FILE,
    training_folder,
)
from seo_rec.runs.tunings import TuningRun, best_folder, tunings_in
from seo_rec.schema import BINARY, REGRESSION

ALLOWED = (
    "a folder of `seo-rec compare` (results.jsonl), `seo-rec train`, `seo-rec search` or "
    "`seo-rec frontier` (run.json)"
)
UNFINISHED = "is not finished and is left out"


class ReportError(ValueError):
    """A folder that gives no report; the message says what it holds and what is allowed."""


@dataclass(frozen=True)
class Epoch:
    """One finished epoch of a training; ``number`` counts from 1; AUC, or R2 of a regression."""

    number: int
    train_loss: float
    val_auc: float


@dataclass(frozen=True)
class TrainingRun:
    """One finished training: its outcome, and the files of its folder that are still there.

    ``given`` is the folder the caller named; ``budget`` is None for a method that has none, and
    in ``unit``, parameters or bytes;
    ``num_bytes`` is everything that is stored to serve the policy, and None where neither the
    result nor a policy file says it; ``data``, ``policy``, ``curve`` and ``groups`` are None or
    empty where the folder lacks them. ``task`` says what the label is. Of a ``regression`` the
    fields ``val_auc`` and ``test_auc`` hold R2 and ``test_logloss`` the mean squared error, so that
    more is better of the two first and less of the last whatever the label; reports name them by
    :data:`seo_rec.schema.QUALITY_NAMES` and :data:`seo_rec.schema.LOSS_NAMES`. ``trials`` is how
    many trainings tuned each method of its comparison; 0: none was tuned.
    """

    given: Path
    folder: Path
    dataset: str
    fingerprint: str
    method: str
    seed: int
    params: int
    budget: int | None
    val_auc: float
    test_auc: float
    test_logloss: float
    epochs: int
    seconds_per_epoch: float
    seconds: float
    search_seconds: float
    search_peak_bytes: int
    description: str
    command: str
    environment: Mapping[str, Any]
    settings: Mapping[str, Any]
    num_bytes: int | None = None
    data: Path | None = None
    policy: Policy | None = None
    curve: tuple[Epoch, ...] = ()
    repeat: Path | None = None
    groups: GroupReport | None = None
    unit: str = FLOATS
    task: str = BINARY
    trials: int = 0


@dataclass(frozen=True)
class Candidate:
    """One line of a run-off: the validation AUC after a short training, and its gain.

    ``num_bytes`` is None where neither the record nor a policy file says it.
    """

    name: str
    val_auc: float
    gain: float
    standard_error: float
    params: int
    seconds: float
    num_bytes: int | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Attention:
    """The attention a search ended with: ``values[f][c]`` of feature f and chunk c, sum 1."""

    chunk_dim: int
    features: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    val_auc: float
    seconds: float


@dataclass(frozen=True)
class SearchRun:
    """One finished search: attentions, the run-off's candidates and the policy it chose."""

    given: Path
    folder: Path
    dataset: str
    fingerprint: str
    seed: int
    budget: int
    winner: str
    decision: Mapping[str, Any]
    candidates: tuple[Candidate, ...]
    attentions: tuple[Attention, ...]
    seconds: float
    command: str
    environment: Mapping[str, Any]
    settings: Mapping[str, Any]
    data: Path | None = None
    policy: Policy | None = None
    policies: Mapping[str, Policy] = field(default_factory=dict)
    repeat: Path | None = None
    unit: str = FLOATS
    trials: int = 0
    halving: Halving | None = None


@dataclass(frozen=True)
class Records:
    """What was found in the folders, and remarks for the reader on what was not."""

    trainings: tuple[TrainingRun, ...]
    searches: tuple[SearchRun, ...]
    notes: tuple[str, ...]
    tunings: tuple[TuningRun, ...] = ()


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
    if _is_comparison(given):
        yield from _read_comparison(given, given, notes)
    elif (given / RUN_FILE).is_file():
        asked = _document(given / RUN_FILE)
        kind = asked.get("kind")
        run: TrainingRun | SearchRun | None
        if kind == "frontier":
            yield from _read_frontier(given, notes)
            return
        if kind == "train":
            run = _read_training(given, given, notes)
        elif kind == "tune":
            best = best_folder(given)
            run = _read_training(given, best, notes) if best else None
            if best is None:
                notes.append(f"{given}: the tuning {UNFINISHED}")
        elif kind == "search":
            run = _read_search(given, given, notes)
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
            p for p in sorted(given.iterdir()) if p.is_dir() and (_is_comparison(p) or _is_run(p))
        ]
        hint = f"; did you mean {', '.join(map(str, inner[:4]))}?" if inner else ""
        raise ReportError(f"{given}: no run folder, it holds {listed}; give {ALLOWED}{hint}")


def _is_run(folder: Path) -> bool:
    return (folder / RUN_FILE).is_file()


def _is_comparison(folder: Path) -> bool:
    return (folder / RESULTS_FILE).is_file() or any(
        _is_run(run)
        for part in (RUNS_FOLDER, SEARCHES_FOLDER)
        if (folder / part).is_dir()
        for run in (folder / part).iterdir()
    )


def _read_frontier(given: Path, notes: list[str]) -> Iterator[TrainingRun | SearchRun]:
    """Finished runs of all its comparisons; notes of what did not fit into a budget."""
    for part in sorted(p for p in given.iterdir() if p.is_dir() and _is_comparison(p)):
        yield from _read_comparison(given, part, notes)
    notes += [f"{name}: {m} is left out: {why}" for name, m, why in read_infeasible(given)]


def read_infeasible(frontier: Path) -> list[tuple[str, str, str]]:
    """Comparison, method and reason of what did not fit into a budget of a frontier."""
    path = frontier / INFEASIBLE_FILE
    if not path.is_file():
        return []
    return [
        (name, method, str(why))
        for name, reasons in _document(path).items()
        for method, why in (reasons if isinstance(reasons, dict) else {}).items()
    ]


def _read_comparison(
    given: Path, comparison: Path, notes: list[str]
) -> Iterator[TrainingRun | SearchRun]:
    """Finished runs of a comparison: lines of results.jsonl, and folders that have none yet."""
    asked = _document(comparison / RUN_FILE) if _is_run(comparison) else {}
    trials = _whole({"trials": 0, **asked}, "trials", comparison / RUN_FILE)
    for run in _runs_of_comparison(given, comparison, notes):
        yield replace(run, trials=trials)


def _runs_of_comparison(
    given: Path, comparison: Path, notes: list[str]
) -> Iterator[TrainingRun | SearchRun]:
    seen: set[Path] = set()
    lines = comparison / RESULTS_FILE
    results: dict[Path, Mapping[str, Any]] = {}
    for document in _lines(lines, notes):
        method, seed = _text(document, "method", lines), _whole(document, "seed", lines)
        results[training_folder(comparison, method, seed)] = document  # a later line wins
    for folder, document in results.items():
        seen.add(folder)
        yield _training(given, folder, document, lines, notes)
    for part in (RUNS_FOLDER, SEARCHES_FOLDER):
        for folder in sorted(comparison.glob(f"{part}/*")):
            if folder in seen or not _is_run(folder):
                continue
            run: TrainingRun | SearchRun | None
            if part == RUNS_FOLDER:
                run = _read_training(given, folder, notes)
            else:
                run = _read_search(given, folder, notes)
            if run:
                yield run


# ---- trainings ---------------------------------------------------------------------------


_NAMES_OF = {
    BINARY: {"val": "val_auc", "test": "test_auc", "loss": "test_logloss"},
    REGRESSION: {"val": "val_r2", "test": "test_r2", "loss": "test_mse"},
}


def _read_training(given: Path, folder: Path, notes: list[str]) -> TrainingRun | None:
    path = folder / RESULT_FILE
    if not path.is_file():
        notes.append(f"{folder}: the training {UNFINISHED}")
        return None
    return _training(given, folder, _document(path), path, notes)


def _training(
    given: Path, folder: Path, result: Mapping[str, Any], where: Path, notes: list[str]
) -> TrainingRun:
    asked = _document(folder / RUN_FILE) if _is_run(folder) else {}
    policy = _policy(folder / POLICY_FILE, notes)
    method = _text(result, "method", where)
    params = _whole(result, "embedding_params", where)
    note = _text({"note": "", **result}, "note", where)
    task = _text({"task": BINARY, **result}, "task", where)
    quality = _NAMES_OF.get(task)
    if quality is None:
        raise ReportError(f"{where}: task is {task!r}; allowed: {', '.join(_NAMES_OF)}")
    return TrainingRun(
        given=given,
        folder=folder,
        dataset=_text(result, "data", where),
        fingerprint=_text(result, "data_fingerprint", where),
        method=method,
        seed=_whole(result, "seed", where),
        params=params,
        budget=_budget(result, params, where),
        unit=FLOATS if result.get("budget_bytes") is None else BYTES,
        val_auc=_number(result, quality["val"], where),
        test_auc=_number(result, quality["test"], where),
        test_logloss=_number(result, quality["loss"], where),
        epochs=_whole(result, "epochs", where),
        seconds_per_epoch=_number(result, "seconds_per_epoch", where),
        seconds=_number(result, "seconds", where),
        search_seconds=_number(result, "search_seconds", where),
        search_peak_bytes=_whole({"search_peak_bytes": 0, **result}, "search_peak_bytes", where),
        description="; ".join(filter(None, (_text(result, "policy", where), note))),
        command=_text(result, "command", where),
        environment=_mapping(result, "environment", where),
        settings={key: asked[key] for key in ("model", "fit") if key in asked},
        num_bytes=_bytes(result, policy, where),
        data=Path(asked["data"]) if "data" in asked else None,
        policy=policy,
        curve=tuple(_curve(folder / METRICS_FILE, notes)),
        repeat=_repeat(folder) or _repeat(given),
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
        return _whole(result, "budget_bytes", where)
    if result.get("budget") is None:
        return None
    return max(_whole(result, "budget", where), params)


def _bytes(recorded: Mapping[str, Any], policy: Policy | None, where: Path) -> int | None:
    """Bytes of a policy to serve, as recorded; older records lack them, the policy counts them."""
    known = _whole({"num_bytes": 0, **recorded}, "num_bytes", where)
    return known or (policy.num_bytes if policy else None)


def _curve(path: Path, notes: list[str]) -> Iterator[Epoch]:
    for document in _lines(path, notes):
        if document.get("event") == "epoch":
            yield Epoch(
                _whole(document, "epoch", path) + 1,
                _number(document, "train_loss", path),
                _number(document, "val_r2" if "val_r2" in document else "val_auc", path),
            )


# ---- searches ----------------------------------------------------------------------------


def _read_search(given: Path, folder: Path, notes: list[str]) -> SearchRun | None:
    path, run = folder / SEARCH_FILE, folder / RUN_FILE
    if not path.is_file():
        notes.append(f"{folder}: the search {UNFINISHED}")
        return None
    result, asked = _document(path), _document(run)
    if _is_of_an_earlier_release(result, asked):
        notes.append(f"{folder}: the search was made by an earlier release and is left out")
        return None
    record = _mapping(result, "record", path)
    policies = {
        file.stem: policy
        for file in sorted((folder / CANDIDATES_FOLDER).glob("*.json"))
        if (policy := _policy(file, notes))
    }
    candidates = [
        Candidate(
            name,
            _number(scores, "val_auc", path),
            _number(scores, "gain", path),
            _number(scores, "standard_error", path),
            _whole(scores, "params", path),
            _number(scores, "seconds", path),
            _bytes(scores, policies.get(name), path),
            _optional_mapping(scores, "origin", path),
        )
        for name, scores in _optional_mapping(record, "run_off", path).items()
        if "same_as" not in scores  # an equal policy, trained under another name
    ]
    return SearchRun(
        given=given,
        folder=folder,
        dataset=_text(result, "dataset", path),
        fingerprint=_text(asked, "data_fingerprint", run),
        seed=_whole(_mapping(asked, "fit", run), "seed", run),
        budget=_whole({"budget_bytes": 0, **asked}, "budget_bytes", run)
        or _whole(asked, "budget", run)
        or _whole(result, "params", path),
        unit=BYTES if asked.get("budget_bytes") else FLOATS,
        winner=_text(result, "winner", path),
        decision=_mapping(result, "decision", path),
        candidates=tuple(sorted(candidates, key=lambda c: -c.val_auc)),
        attentions=tuple(
            _attention(width, entry, path)
            for width, entry in _optional_mapping(record, "searches", path).items()
        ),
        seconds=_number(result, "seconds", path),
        command=_text(result, "command", path),
        environment=_mapping(result, "environment", path),
        settings={
            "search": _mapping(asked, "settings", run),
            **{k: asked[k] for k in ("model", "fit") if asked.get(k)},
        },
        data=Path(asked["data"]) if "data" in asked else None,
        policy=_policy(folder / POLICY_FILE, notes),
        policies=policies,
        repeat=_repeat(folder),
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


def _repeat(folder: Path) -> Path | None:
    """The settings file by which the run can be repeated, if its command left one."""
    path = folder / SETTINGS_FILE
    return path if path.is_file() else None


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


# ---- files -------------------------------------------------------------------------------


def _policy(path: Path, notes: list[str]) -> Policy | None:
    if not path.is_file():
        return None
    try:
        return Policy.load(path)
    except PolicyError as error:
        notes.append(f"the policy is left out: {error}")
        return None


def _document(path: Path) -> Mapping[str, Any]:
    try:
        document = read_json(path)
    except ValueError as error:
        raise ReportError(str(error)) from error
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error})") from error
    if not isinstance(document, dict):
        raise ReportError(f"{path}: a JSON {type(document).__name__}; allowed: an object")
    return document


def _lines(path: Path, notes: list[str]) -> Iterator[Mapping[str, Any]]:
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


def _get(document: Mapping[str, Any], key: str, where: Path, kind: type, called: str) -> Any:
    if key not in document:
        raise ReportError(f"{where}: no {key!r} here; the file is of another release, or cut short")
    value = document[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ReportError(f"{where}: {key} is {value!r:.60}; allowed: {called}")
    return value


def _text(document: Mapping[str, Any], key: str, where: Path) -> str:
    return str(_get(document, key, where, str, "a string"))


def _whole(document: Mapping[str, Any], key: str, where: Path) -> int:
    return int(_get(document, key, where, int, "a whole number"))


def _number(document: Mapping[str, Any], key: str, where: Path) -> float:
    if key in document and document[key] is None:  # not a number, which JSON cannot say
        return float("nan")
    return float(_get(document, key, where, int | float, "a number"))  # type: ignore[arg-type]


def _optional_mapping(document: Mapping[str, Any], key: str, where: Path) -> Mapping[str, Any]:
    return _mapping(document, key, where) if key in document else {}


def _mapping(document: Mapping[str, Any], key: str, where: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = _get(document, key, where, dict, "an object")
    return found
