"""Which candidates of a limited run-off go on to the next round.

Short trainings rank candidates of one kind well, and candidates of different kinds badly: shapes
of hashed chunks, crosses and policies that store ids learn at different speeds. So kinds have a
claim to places as long as trainings are short, and AUC decides between all others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from seo_rec.search.run_off.candidates import Candidate
from seo_rec.search.run_off.crossed import crosses_of_candidate

SHAPES = 4  # plain shapes of hashed chunks that begin: 1, 2, 4 and 8 lookups of a feature
SHAPES_ON = 3  # of these that go on together
SHAPES_OF_FEW = 3  # shapes that have the first claims where trainings have few steps
ROOM_FOR_SHAPES = 5  # places of a round in which they do
LATE_GAIN = 0.001  # validation AUC that policies by id gain on hashed ones in the second half


@dataclass(frozen=True)
class Kinds:
    """The kinds of some candidates, by their names.

    Args:
        shared: Plain policies of hashed chunks that all features share, one of each shape.
        searched: Candidates that a search decided.
        by_id: Policies that store ids.
        crossed: Policies with crosses.
        by_worth: Divisions by worth that have no crosses.
    """

    shared: Collection[str]
    searched: Collection[str] = ()
    by_id: Collection[str] = ()
    crossed: Collection[str] = ()
    by_worth: Collection[str] = ()


def kinds_of(candidates: Sequence[Candidate]) -> Kinds:
    """The kinds of these candidates; without a shared one the first candidate takes its part."""
    shared = [c for c in candidates if c.shared] or list(candidates[:1])
    crossed = {c.name for c in candidates if crosses_of_candidate(c)}
    return Kinds(
        {c.name for c in shared},
        {c.name for c in candidates if c.searched},
        {c.name for c in candidates if c.family == "by-id"},
        crossed,
        {c.name for c in candidates if c.by_worth} - crossed,
    )


def after_screening(
    auc: Mapping[str, float], kinds: Kinds, *, few_steps: bool = False
) -> list[str]:
    """All candidates in the order of their claim to begin a whole training.

    The best shape is first, then the best searched candidate, the three other shapes, the best one
    with crosses, the best division by worth, the best other plain one, the best searched
    and then the best other plain one of either family, hashed or by id. The others follow by AUC;
    ties go to the earlier candidate.

    With few steps the short trainings are shortest, and policies that store ids rank lowest in
    them. Then the best searched one with stored ids, without crosses and not divided by worth, has
    a place after the best division by worth, and the last shape waits until after it.

    Args:
        auc: Validation AUC of the short trainings.
        kinds: The kinds of the candidates.
        few_steps: Whether trainings have few steps (:attr:`Schedule.few_steps`).
    """
    ranked = _ranked(auc)
    shapes = [name for name in ranked if name in kinds.shared][:SHAPES]
    rest = [name for name in ranked if name not in kinds.shared]
    searched = [name for name in rest if name in kinds.searched]
    plain = [name for name in rest if name not in kinds.searched]
    first = SHAPES_OF_FEW if few_steps else SHAPES
    claims = [*shapes[:1], *searched[:1], *shapes[1:first]]
    for kind in (kinds.crossed, kinds.by_worth):
        claims += [name for name in rest if name in kind][:1]
    if few_steps:
        other = {n for n in kinds.by_id if n not in kinds.crossed and n not in kinds.by_worth}
        claims += [name for name in searched if name in other][:1] + shapes[first:]
    claims += plain[:1]
    for names in (searched, plain):
        of_ids = [[n for n in names if (n in kinds.by_id) is stored] for stored in (True, False)]
        claims += [name for family in of_ids for name in family[:1]]
    return list(dict.fromkeys((*claims, *ranked)))


def after_finals(auc: Mapping[str, float], kinds: Kinds, places: int, *, last: bool) -> list[str]:
    """The finalists of a round in the order of their claim to the next one.

    Before the last round the best shapes go on, three of them where there are five places, and the
    best policy that stores ids; then AUC decides. For the last round the best shared one is first,
    and AUC decides between the others, where policies that store ids are :data:`LATE_GAIN` better
    than they are, since they learn more slowly.

    Args:
        auc: Validation AUC after the round.
        kinds: The kinds of the finalists.
        places: How many go on.
        last: Whether the next round is the last one.
    """
    ranked = _ranked(auc)
    if last:
        late = {name: auc[name] + LATE_GAIN * (name in kinds.by_id) for name in auc}
        safe = [name for name in ranked if name in kinds.shared][:1]
        return list(dict.fromkeys((*safe, *_ranked(late))))
    several = SHAPES_ON if places >= ROOM_FOR_SHAPES else 1
    shapes = [name for name in ranked if name in kinds.shared][:several]
    slow = [name for name in ranked if name in kinds.by_id][:1]
    return list(dict.fromkeys((*shapes, *slow, *ranked)))


def _ranked(auc: Mapping[str, float]) -> list[str]:
    return sorted(auc, key=lambda name: -auc[name])
