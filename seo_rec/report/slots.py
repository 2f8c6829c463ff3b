"""Pictures of searched policies: which lookup of a feature reads which table."""

from __future__ import annotations

from dataclasses import dataclass

from seo_rec.apply import STRATEGIES
from seo_rec.policy import Policy
from seo_rec.report.comparison import Group, winner_of

MAX_SLOTS = 32  # tables in a slot picture


@dataclass(frozen=True)
class Slots:
    """Which lookup of a feature reads which table: ``cells[f][t]`` is '' or lookup numbers."""

    title: str
    tables: tuple[tuple[str, str], ...]
    features: tuple[tuple[str, int, int], ...]
    cells: tuple[tuple[str, ...], ...]
    dropped: tuple[str, ...]


def pictured_policies(found: Group) -> list[tuple[str, Policy]]:
    """The searched policies worth a picture: of trained methods, else of the searches."""
    pictures = []
    for row in found.rows:
        first = row.runs[0]
        if row.searched and first.policy:
            winner = winner_of(first)
            note = f", which is candidate {winner}" if winner else ""
            pictures.append((f"{row.method}, seed {first.seed}{note}", first.policy))
    if pictures:
        return pictures
    for search in found.searches:
        if search.policy:
            pictures.append((f"seed {search.seed}: winner, {search.winner}", search.policy))
        for strategy in STRATEGIES:
            scores = {
                c.name: c.val_auc
                for c in search.candidates
                if c.origin.get("apply") == strategy and c.name in search.policies
            }
            scores.pop(search.winner, None)
            if scores:
                name = max(scores, key=lambda n: scores[n])
                title = f"seed {search.seed}: best {strategy} candidate, {name}"
                pictures.append((title, search.policies[name]))
    return pictures


def fits_picture(policy: Policy) -> bool:
    return len(policy.tables) <= MAX_SLOTS


def too_wide(title: str, policy: Policy) -> str:
    """Why a policy has no picture, and the little that can be said of it."""
    readers: dict[str, set[str]] = {}
    for f in policy.features:
        for k in f.all_lookups:
            readers.setdefault(k.table, set()).add(f.name)
    own = {name for names in readers.values() if len(names) == 1 for name in names}
    return (
        f"{title}: {len(policy.tables)} tables, too many for a picture (at most {MAX_SLOTS}); "
        f"{len(own)} of {len(policy.features)} features have a table of their own"
    )


def slots_of(title: str, policy: Policy) -> Slots:
    cells = tuple(
        tuple(
            ", ".join(str(j) for j, k in enumerate(f.lookups, 1) if k.table == t.name)
            for t in policy.tables
        )
        for f in policy.features
    )
    return Slots(
        title,
        tuple((t.name, f"{t.num_rows:,} × {t.dim}") for t in policy.tables),
        tuple((f.name, len(f.lookups), policy.width(f)) for f in policy.features),
        cells,
        policy.dropped,
    )
