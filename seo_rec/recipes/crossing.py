"""A search over crosses of columns before the search of the policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from seo_rec.data.crosses import Cross, CrossedData, read_crosses, with_crosses
from seo_rec.data.dataset import DataSet
from seo_rec.policy import Policy
from seo_rec.search import Found, Method, find
from seo_rec.search.crossing import Chosen, choose_crosses
from seo_rec.search.progress import say
from seo_rec.search.proposals import propose, proposed_line, single_columns
from seo_rec.search.registry import STAND_INS
from seo_rec.train import Training


def decide_with_crosses(
    entry: Method, data: DataSet, settings: Any, training: Training, crosses: str, work: Path
) -> tuple[DataSet, Found]:
    """Choose crosses on validation rows, and decide the policy of the columns and these crosses.

    While crosses are chosen the policies are the method's own, or, for a method that trains, those
    of :data:`~seo_rec.search.registry.STAND_INS` at the same budget.

    Args:
        entry: The method.
        data: The data set.
        settings: The method's own.
        training: Of the models.
        crosses: The names of candidates, a number of them to propose, or ``all`` for every pair
            that lowers the log loss of training rows out of fold.
        work: Folder for scores and checkpoints.

    Returns:
        The data set with the crosses that were taken, and what was found on it; its record has the
        choice under ``crosses``.

    Raises:
        DataError: The crosses do not fit the data.
        PolicyError: No policy fits the budget.
        ValueError: The method has no budget inside which crosses could be compared.
    """
    asked = check_asked(entry, data, crosses)
    if not isinstance(asked, tuple):
        found = propose(data, asked if isinstance(asked, int) else None, training.fit.seed)
        say(proposed_line(data, found))
        asked = tuple(p.cross for p in found)

    def policy_of(wide: CrossedData) -> Policy:
        return _plain_policy(entry, wide, settings, training)

    chosen = choose_crosses(data, asked, policy_of, training, work / "crosses")
    wide = with_crosses(data, chosen.crosses) if chosen.crosses else data
    decided = entry.decide(wide, settings, training, work)
    return wide, _recorded(decided, chosen)


def check_asked(entry: Method, data: DataSet, crosses: str) -> tuple[Cross, ...] | int | str:
    """Refuse, before a folder is opened, crosses that cannot be searched.

    Returns:
        See :func:`seo_rec.data.crosses.read_crosses`.

    Raises:
        DataError: The crosses do not fit the data.
        ValueError: The size of the method follows from the data.
    """
    if not entry.budgeted:
        raise ValueError(
            f"--crosses with the method {entry.name}, whose size follows from the data; allowed "
            "in a search: methods that have a budget; name crosses of `seo-rec train` instead"
        )
    asked = read_crosses(crosses, data.schema)
    if not isinstance(asked, tuple):
        single_columns(data)
    return asked


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
