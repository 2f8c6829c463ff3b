"""A search over crosses of columns before the search of the policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from seo_rec.data.crosses import Cross, CrossedData, read_crosses, with_crosses
from seo_rec.data.dataset import DataSet
from seo_rec.policy import Policy
from seo_rec.search import Found, Method, find
from seo_rec.search.crossing import Chosen, choose_crosses
from seo_rec.search.progress import say
from seo_rec.search.proposals import (
    Proposal,
    propose,
    propose_worthwhile,
    proposed_line,
    single_columns,
    split_order,
)
from seo_rec.search.registry import STAND_INS
from seo_rec.train import Training

AUTO = "auto"  # of --crosses


def decide_with_crosses(
    entry: Method, data: DataSet, settings: Any, training: Training, crosses: str, work: Path
) -> tuple[DataSet, Found]:
    """Choose crosses on validation rows, and decide the policy of the columns and these crosses.

    A search with a limited run-off has policies with crosses among its candidates
    (:func:`seo_rec.search.run_off.crossed_candidates`). For other methods crosses are chosen first;
    the policies are then the method's own, or, for a method that trains, those of
    :data:`~seo_rec.search.registry.STAND_INS` at the same budget.

    Args:
        entry: The method.
        data: The data set.
        settings: The method's own.
        training: Of the models.
        crosses: The names of candidates, a number of them to propose (``8^3`` with triples),
            ``all`` for every pair that lowers the log loss of training rows out of fold, or
            :data:`AUTO` for the pairs that do so clearly.
        work: Folder for scores and checkpoints.

    Returns:
        The data set with the crosses that were taken, and what was found on it; its record has the
        choice under ``crosses``.

    Raises:
        DataError: The crosses do not fit the data.
        PolicyError: No policy fits the budget.
        ValueError: The method has no budget inside which crosses could be compared.
    """
    asked = check_asked(entry, data, settings, crosses)
    gains: dict[str, float] = {}
    if not isinstance(asked, tuple):
        found = _proposed(data, asked, training.fit.seed, split_order(crosses)[1])
        gains = {p.cross.name: p.gain for p in found}
        asked = tuple(p.cross for p in found)
    if takes_automatic(entry, settings):
        return _in_run_off(entry, data, settings, training, asked, gains, work)

    def policy_of(wide: CrossedData) -> Policy:
        return _plain_policy(entry, wide, settings, training)

    chosen = choose_crosses(data, asked, policy_of, training, work / "crosses")
    wide = with_crosses(data, chosen.crosses) if chosen.crosses else data
    decided = entry.decide(wide, settings, training, work)
    return wide, _recorded(decided, chosen)


def _proposed(data: DataSet, asked: int | str, seed: int, order: int) -> list[Proposal]:
    """The proposals that were asked for, and a line about them."""
    if asked == AUTO:
        found = propose_worthwhile(data, seed)
    else:
        found = propose(data, asked if isinstance(asked, int) else None, seed, order=order)
    if found or asked != AUTO:
        say(proposed_line(data, found, order))
    else:
        say("crosses: no pair of columns lowers the log loss of training rows enough to be tried")
    return found


def _in_run_off(
    entry: Method,
    data: DataSet,
    settings: Any,
    training: Training,
    crosses: tuple[Cross, ...],
    gains: Mapping[str, float],
    work: Path,
) -> tuple[DataSet, Found]:
    """Let policies with the first of these crosses take part in the run-off."""
    assert entry.crossed is not None
    record: dict[str, Any] = {"proposed": [c.name for c in crosses], "gains": dict(gains)}
    if not crosses:
        found = entry.decide(data, settings, training, work)
        return data, replace(found, record={**found.record, "crosses": {**record, "taken": []}})
    wide = with_crosses(data, crosses)
    found = entry.crossed(data, settings, training, work, wide)
    told = found.decision.get("crosses", {"taken": []})
    worth = found.record["run_off"].get(found.winner, {}).get("worth", {})
    record |= {**told, **({"worth": worth} if told["taken"] else {})}
    say(taken_line(record))
    decision = {**found.decision, "crosses": told}
    return wide, replace(found, record={**found.record, "crosses": record}, decision=decision)


def taken_line(record: Mapping[str, Any]) -> str:
    """Which crosses a run-off took and what each is worth, for people."""
    taken, of = record["taken"], len(record["proposed"])
    if not taken:
        return f"crosses: no policy with some of the {of} proposed crosses won"
    worth = record.get("worth", {})
    named = [f"{name} ({worth[name]:+.5f})" if name in worth else name for name in taken]
    return (
        f"crosses: {len(taken)} of {of} taken; the validation log loss that each takes off, by "
        f"permutation: {', '.join(named)}"
    )


def check_asked(
    entry: Method, data: DataSet, settings: Any, crosses: str
) -> tuple[Cross, ...] | int | str:
    """Refuse, before a folder is opened, crosses that cannot be searched.

    Returns:
        See :func:`seo_rec.data.crosses.read_crosses`; or :data:`AUTO`.

    Raises:
        DataError: The crosses do not fit the data.
        ValueError: The size of the method follows from the data.
    """
    if not entry.budgeted:
        raise ValueError(
            f"--crosses with the method {entry.name}, whose size follows from the data; allowed "
            "in a search: methods that have a budget; name crosses of `seo-rec train` instead"
        )
    if crosses == AUTO:
        if not takes_automatic(entry, settings):
            raise ValueError(
                f"--crosses {AUTO} with {entry.name}; allowed: a search with a limited run-off, as "
                "seo with run_off.cost above 0; elsewhere give a number of crosses, all, or names"
            )
        return AUTO
    asked = read_crosses(split_order(crosses)[0], data.schema)
    if not isinstance(asked, tuple):
        single_columns(data)
    return asked


def takes_automatic(entry: Method, settings: Any) -> bool:
    """Whether a search decides about crosses by its limited run-off, so that they may be tried."""
    return entry.crossed is not None and bool(settings.limited)


def _plain_policy(entry: Method, wide: CrossedData, settings: Any, training: Training) -> Policy:
    """The policy of data with some crosses, from a method that does not train."""
    if not entry.trains:
        return entry.decide(wide, settings, training).policy
    dim = getattr(settings, "dim", None) or settings.max_dim
    *others, last = map(find, STAND_INS)
    for plain in others:
        try:
            at = plain.settings_at(settings.allowance, dim, training)
            return plain.decide(wide, at, training).policy
        except ValueError:  # no policy of this width
            continue
    return last.decide(wide, last.settings_at(settings.allowance, dim, training), training).policy


def _recorded(found: Found, chosen: Chosen) -> Found:
    keys = ("taken", "gain", "standard_error")
    told = {k: chosen.record[k] for k in keys if k in chosen.record}
    return replace(
        found,
        seconds=found.seconds + chosen.seconds,
        record={**found.record, "crosses": chosen.record},
        decision={**found.decision, "crosses": told},
    )
