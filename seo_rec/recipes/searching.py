"""Search a policy with any method of the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from seo_rec.data.crosses import reading_columns
from seo_rec.data.dataset import DataSet, require_opened
from seo_rec.documents import as_record
from seo_rec.environment import stamp
from seo_rec.files import read_json, write_json
from seo_rec.policy import Allowance, Policy
from seo_rec.policy.allowance import without_unset
from seo_rec.recipes.crossing import check_asked, decide_with_crosses
from seo_rec.runs import SearchRecord, claim_run, command_line
from seo_rec.runs.layout import (
    CANDIDATES_FOLDER,
    POLICY_FILE,
    SEARCH_FILE,
    SEARCHED_FILE,
    WEIGHTS_FILE,
    WORK_FOLDER,
)
from seo_rec.search import Found, Method, find
from seo_rec.search.progress import say
from seo_rec.train import Training, agree, as_recorded, ranks, read_weights, save_weights


def search(
    method: str,
    data: DataSet,
    out: Path | str,
    settings: Any,
    training: Training,
    *,
    resume: bool = False,
    work: Path | None = None,
    crosses: str = "",
) -> Found:
    """Search a policy with ``method`` and write it to ``out/policy.json``.

    A finished search found in ``out`` is taken; an interrupted one goes on from its checkpoints.
    Beside the winner ``out`` holds the policy that the search itself decided, the candidates that
    were compared, what was learned, and, where training can go on from the search, its weights.

    Args:
        method: A name of :mod:`seo_rec.search.registry`.
        data: The data set.
        out: The run folder.
        settings: An instance of the method's own settings.
        training: Of the models that the search trains, and the seed.
        resume: Whether ``out`` may hold this search already.
        work: Folder for checkpoints; ``out/work`` if it is None. Searches of one family that are
            given the same folder share what they have in common.
        crosses: Combinations of columns that may become features, if they earn their rows
            (:func:`seo_rec.recipes.crossing.decide_with_crosses`); empty for none.

    Raises:
        DisagreementError: The processes of this launch ask for different things.
        PolicyError: No policy fits the budget.
        RunError: ``out`` holds another run, or this one and ``resume`` is False.
        ValueError: An unknown method, or settings that do not go together.
    """
    require_opened(data, "search")
    out = Path(out)
    training = as_recorded(training, out)
    entry, asked = find(method), _asked(method, data, settings, training)
    if crosses:
        check_asked(entry, data, settings, crosses)
        asked |= {"crosses": crosses}
    agree(asked, out=out)
    entry.checked(data, settings, training)
    entry.require_feasible(data, settings, training)
    here, trains = ranks(), entry.trains or bool(crosses)
    if trains:
        data.require_binary(f"search {method}")
        data.require_rows("train", "val", needed_by=f"the search {method}")
        data.check_validation(warn=here.first)
    asked |= entry.rules(data, settings, training)

    def begin() -> bool:
        claim_run(out, asked, resume)
        if trains:
            data.check_numbers()
        return (out / SEARCH_FILE).exists()

    if here.on_first(begin):
        return read_search(out)
    if trains:
        rows, epochs = data.schema.num_rows["train"], training.fit.epochs
        say(f"{method}: searching on {rows:,} training rows, at most {epochs} epochs a training")
    folder, wide = work or out / WORK_FOLDER, data
    if crosses:
        wide, found = decide_with_crosses(entry, data, settings, training, crosses, folder)
    else:
        found = entry.decide(data, settings, training, folder)
    found = _on_columns(replace(found, policy=signed(found.policy, entry, settings, found)), wide)
    here.on_first(lambda: _write(out, data, entry, found))
    return found


def _on_columns(found: Found, data: DataSet) -> Found:
    """What was found on data with crosses, as policies that read the columns of the data."""
    return replace(
        found,
        policy=reading_columns(found.policy, data),
        candidates={n: reading_columns(p, data) for n, p in found.candidates.items()},
        searched=None if found.searched is None else reading_columns(found.searched, data),
    )


def _asked(method: str, data: DataSet, settings: Any, training: Training) -> dict[str, Any]:
    """Everything that decides a search."""
    allowance: Allowance = settings.allowance
    in_bytes = {"budget_bytes": allowance.amount} if allowance.in_bytes else {}
    return {
        **in_bytes,
        "kind": "search",
        "method": method,
        "data": str(data.path),
        "data_fingerprint": data.fingerprint,
        "budget": settings.params,
        "settings": settings_json(settings),
        "model": training.model.as_json(),
        "fit": training.fit.as_json(),
    }


def settings_json(settings: Any) -> dict[str, Any]:
    """A method's settings as JSON values; a class may say more than its fields."""
    if hasattr(settings, "to_json"):
        values: dict[str, Any] = settings.to_json()
        return values
    return without_unset(asdict(settings))


def signed(policy: Policy, method: Method, settings: Any, found: Found) -> Policy:
    """``policy`` with the budget that it was made for, and who decided it."""
    budget = settings.allowance.budget() if method.budgeted else None
    decision = {
        "method": method.name,
        "winner": found.winner or method.name,
        "kind": "search" if method.trains else "plain",
        "searched": method.searches,
        **found.decision,
    }
    return replace(policy, budget=budget, decision=decision)


def _write(out: Path, data: DataSet, method: Method, found: Found) -> None:
    """Write everything about a finished search; ``search.json`` last, which says that it is."""
    for name, candidate in found.candidates.items():
        candidate.save(out / CANDIDATES_FOLDER / f"{name}.json")
    found.policy.save(out / POLICY_FILE)
    (found.searched or found.policy).save(out / SEARCHED_FILE)
    if found.weights:
        save_weights(out / WEIGHTS_FILE, found.weights)
    decision: Mapping[str, Any] = found.policy.decision or {}
    record = SearchRecord(
        method=method.name,
        winner=decision["winner"],
        decision=decision,
        dataset=data.schema.dataset,
        val_auc=found.val_auc,
        seconds=found.seconds,
        peak_bytes=found.peak_bytes,
        params=found.policy.num_params,
        record=found.record,
        environment=stamp(),
        command=command_line(),
        num_bytes=found.policy.num_bytes,
    )
    write_json(out / SEARCH_FILE, record.to_json())


def read_search(out: Path) -> Found:
    """What a finished search in the folder ``out`` found.

    Raises:
        ValueError: A file there is damaged; the message names it.
    """
    path = out / SEARCH_FILE
    record = as_record(SearchRecord, read_json(path), path)
    weights = out / WEIGHTS_FILE
    return Found(
        Policy.load(out / POLICY_FILE),
        record.val_auc,
        record.seconds,
        record.peak_bytes,
        record.record,
        read_weights(weights) if weights.exists() else {},
        record.winner,
        record.decision,
        searched=Policy.load(out / SEARCHED_FILE),
    )
