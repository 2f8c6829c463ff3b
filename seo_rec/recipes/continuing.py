"""A training that goes on from an earlier run on the data of a new day."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seo_rec.data.dataset import DataSet, require_opened
from seo_rec.places import place
from seo_rec.policy import Feature, Ids, Policy
from seo_rec.policy.addresses import counted_as, known_as
from seo_rec.policy.candidates import with_candidates
from seo_rec.policy.columns import ColumnChange, adapted
from seo_rec.policy.entries import FULL_BITS, ID_BITS, SHORT_BITS
from seo_rec.policy.preimages import ids_of_digests
from seo_rec.policy.renewal import (
    SHARED,
    DecayedCounts,
    Turnover,
    added_counts,
    bounded,
    indexed_features,
    renewable_features,
    renewed,
)
from seo_rec.recipes.evaluation import require_kind_of_label, require_labels
from seo_rec.recipes.id_counts import counted_columns, counts_of_run, feature_counts, mixed_counts
from seo_rec.runs import RunError
from seo_rec.schema import other_rules
from seo_rec.train.earlier import Carried, Earlier, open_earlier

DECAY = 0.9  # of the count of an id from one day to the next


@dataclass(frozen=True)
class Continued:
    """How a training goes on from an earlier run.

    Args:
        earlier: The run.
        policy: What is trained now, as it is served.
        trained: The policy with rows of candidates, which the training holds
            (:mod:`seo_rec.policy.candidates`); the same one without candidates.
        counts: Decayed counts of the features with a vocabulary, the new day included.
        columns: Features that came and went.
        turnovers: By feature, how its vocabulary was renewed.
        fixed: Features with a vocabulary that cannot be renewed.
        new_numeric, lost_numeric: Names of dense columns that came and went.
    """

    earlier: Earlier
    policy: Policy
    trained: Policy
    counts: DecayedCounts
    columns: ColumnChange = ColumnChange()
    turnovers: Mapping[str, Turnover] | None = None
    fixed: tuple[str, ...] = ()
    new_numeric: tuple[str, ...] = ()
    lost_numeric: tuple[str, ...] = ()


def continued(
    run: Path | str,
    data: DataSet,
    *,
    policy: Policy | None = None,
    decay: float = DECAY,
    renew: bool = True,
    shared: float = SHARED,
    candidates: bool = True,
    mean_anew: bool | None = None,
) -> Continued:
    """What trains on ``data`` in continuation of the run in ``run``.

    Without another policy it is the policy of the run, changed for columns that came and went, and
    with vocabularies renewed inside the same bytes (:func:`seo_rec.policy.renewal.renewed`).

    Args:
        run: The folder of a finished training.
        data: The data of the new day.
        policy: Another policy, which takes over tables of the run.
        decay: What is left of the count of an id after one day.
        renew: Whether vocabularies are renewed; otherwise new ids stay unknown.
        shared: The share of the rows of a large vocabulary that its other ids share by hash.
        candidates: Whether ids that are counted outside of a vocabulary have rows in training
            (:func:`seo_rec.policy.candidates.with_candidates`), where it is renewed.
        mean_anew: Whether the running mean starts anew at the weights, instead of going on; None:
            see :func:`seo_rec.train.earlier.mean_starts_anew`.

    Raises:
        RunError: The folder is not a finished training, or the data were prepared by other rules or
            have another kind of label.
        ValueError: ``decay`` or ``shared`` is out of its range, or a record is damaged.
    """
    require_opened(data, "continued")
    run = place(run)
    if not 0 <= decay <= 1:
        raise ValueError(f"decay {decay}; allowed: 0 to 1")
    earlier = open_earlier(run)
    require_kind_of_label(run, earlier.training.model.regression is not None, data)
    tasks = earlier.training.model.multi_task
    require_labels(run, () if tasks is None else tasks.labels, data)
    require_same_rules(earlier, data)
    before = {c.name for c in data.schema.numeric}
    new_numeric = tuple(sorted(before - set(earlier.numeric)))
    lost_numeric = tuple(sorted(set(earlier.numeric) - before))
    old = earlier.policy
    told = counts_of_run(run, old)
    if policy is not None:
        told = _told_as(told, old, policy)
        counts = _with_day(told, data, policy, decay)
        made = Continued(earlier, policy, policy, counts)
    else:
        fitting, change = adapted(old, data.schema)
        counts = _with_day(told, data, fitting, decay)
        made_policy, turnovers = renewed(fitting, counts if renew else {}, shared)
        fixed = sorted(set(indexed_features(fitting)) - set(renewable_features(fitting)))
        counts = {n: bounded(c, made_policy.vocabularies[n]) for n, c in counts.items()}
        trained = with_candidates(made_policy, counts if renew and candidates else {})
        made = Continued(earlier, made_policy, trained, counts, change, turnovers, tuple(fixed))
    known, stand_ins = _known(data, old, made.policy, made.counts)
    return replace(
        made,
        earlier=replace(earlier, known=known, stand_ins=stand_ins, mean_anew=mean_anew),
        new_numeric=new_numeric,
        lost_numeric=lost_numeric,
    )


def require_same_rules(earlier: Earlier, data: DataSet) -> None:
    """RunError unless the data were prepared by the rules of the run's data."""
    old, new = dict(earlier.preparation), data.schema.preparation
    if said := other_rules({**dict.fromkeys(new), **old}, new):
        raise RunError(
            f"{data.path}: prepared by other rules than the data of {earlier.run} ({said}); "
            "prepare the new data by the same rules (`seo-rec prepare table --like` the earlier "
            "data)"
        )


def _told_as(told: DecayedCounts, old: Policy, new: Policy) -> DecayedCounts:
    """Counts of an earlier run as another policy tells ids apart; left out where it tells more."""
    before, after = old.id_bits, new.id_bits
    return {
        n: counts if after.get(n, bits) == bits else counted_as(*counts, after[n])
        for n, counts in told.items()
        if (bits := before[n]) == FULL_BITS or after.get(n, bits) == bits
    }


def _with_day(told: DecayedCounts, data: DataSet, policy: Policy, decay: float) -> DecayedCounts:
    nothing = np.zeros(0, np.int64), np.zeros(0)
    day = feature_counts(data, policy)
    return {n: added_counts(told.get(n, nothing), counts, decay) for n, counts in day.items()}


def _known(
    data: DataSet, old: Policy, new: Policy, counts: DecayedCounts
) -> tuple[dict[str, Ids], dict[str, Ids]]:
    """By feature of both policies, the ids whose rows may move, the most frequent last.

    The second result has those of them that stand in for a digest: no id with it is known.
    """
    known, stand_ins = {}, {}
    before = old.id_bits
    moved, there = _moved_hashed(old, new), counted_columns(data)
    of_crosses = mixed_counts(data, new, [f.name for f in moved if f.is_cross])
    needed = {f.columns[0] for f in moved} | there
    for f in new.features:
        if f.name not in before:
            continue
        nothing = np.zeros(0, np.int64)
        named: dict[int, list[Ids]] = {FULL_BITS: [nothing], SHORT_BITS: [nothing]}
        for p, bits in ((old, before[f.name]), (new, f.id_bits)):
            named[bits].append(p.vocabularies.get(f.name, nothing))
        counted: tuple[Ids, Any] = nothing, np.zeros(0)
        if f.name in counts:
            counted = counts[f.name]
            named[f.id_bits].append(counted[0])
        if f.name not in counts or f.id_bits != FULL_BITS:
            # with digests, ids of the day for lookups by their hash
            of_day = of_crosses.get(f.name)
            if not f.is_cross and f.columns[0] in needed:
                of_day = data.counts(f.columns[0])
            if of_day is not None:
                of_ids, amounts = of_day
                counted = counted if f.name in counts else counted_as(of_ids, amounts, f.id_bits)
                named[FULL_BITS].append(of_ids)
        ids, digested = (np.unique(np.concatenate(named[bits])) for bits in ID_BITS)
        every = ids
        if len(digested):
            left = np.setdiff1d(digested, known_as(ids, SHORT_BITS))
            stand_ins[f.name] = ids_of_digests(left)
            every = np.union1d(ids, stand_ins[f.name])
        amounts = _amounts(counted, known_as(every, f.id_bits))
        known[f.name] = every[np.lexsort((every, amounts))]
    return known, stand_ins


def _moved_hashed(old: Policy, new: Policy) -> list[Feature]:
    """Features of both policies whose rows move, and are found by the hash of a whole id in one.

    Ids of the day are needed for them. Those of crosses are in no vocabulary, so that rows have to
    be read.
    """
    before = {f.name: f for f in old.features}
    moved = []
    for f in new.features:
        e = before.get(f.name)
        if e is None or e.columns != f.columns:
            continue
        tables = [[p.table(k.table) for k in g.all_lookups] for p, g in ((old, e), (new, f))]
        hashed = not all(k.uses_index for k in (*e.all_lookups, *f.all_lookups))
        if hashed and (e.all_lookups != f.all_lookups or tables[0] != tables[1]):
            moved.append(f)
    return moved


def _amounts(counted: tuple[Ids, Any], ids: Ids) -> npt.NDArray[np.float64]:
    """The count of every id; 0 for ids that are not counted."""
    amounts = np.zeros(len(ids))
    if len(counted[0]):
        place = np.searchsorted(counted[0], ids).clip(max=len(counted[0]) - 1)
        there = counted[0][place] == ids
        amounts[there] = counted[1][place[there]]
    return amounts


# ---- words for people ------------------------------------------------------------------------


def change_lines(made: Continued) -> list[str]:
    """What came, what went, and how vocabularies were renewed, a line each."""
    lines = []
    change = made.columns
    for name in (*change.added, *made.new_numeric):
        lines.append(f"new column {name}: its part of the model is initialised")
    for name in (*change.lost, *made.lost_numeric):
        lines.append(f"lost column {name}: what read it is left out")
    if change.more_bytes:
        lines.append(f"the embeddings take {change.more_bytes:+,} bytes with these columns")
    for name, t in sorted((made.turnovers or {}).items()):
        if t.admitted:
            lines.append(
                f"vocabulary of {name}: {t.stayed:,} ids stay, {t.admitted:,} are admitted in the "
                f"place of {t.evicted:,}"
            )
    if more := made.trained.num_params - made.policy.num_params:
        lines.append(
            f"candidates for a later vocabulary take {4 * more:,} bytes of weights in training "
            "and none when the model is served"
        )
    if made.fixed:
        lines.append(
            f"vocabularies that cannot be renewed (their rows are shared by digits): "
            f"{', '.join(made.fixed)}; new ids read the row of the unknown"
        )
    return lines


def carried_lines(carried: Carried | None) -> list[str]:
    """What was taken over, a line each; nothing in a session that resumes."""
    if carried is None:
        return []
    lines = []
    if carried.new_tables:
        lines.append(f"new tables: {', '.join(carried.new_tables)}")
    if carried.left_tables:
        lines.append(f"tables of the earlier run that are left: {', '.join(carried.left_tables)}")
    if carried.new_parameters:
        outside = [n for n in carried.new_parameters if "embedding_bags" not in n]
        if outside:
            lines.append(f"parameters that start anew: {', '.join(outside)}")
    if not carried.optimizer_state:
        lines.append("the optimizers start anew: the earlier run has no checkpoint of theirs")
    return lines
