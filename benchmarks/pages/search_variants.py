"""Other settings of the default search, from the record of ``accuracy.search_variants``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from benchmarks.accuracy.search_variants import DEFAULT, EXHAUSTIVE, RECORD, USUAL
from benchmarks.pages.cells import Runs, by_seed, in_words, mean, paired, seeds_in_words
from benchmarks.pages.markdown import Column, table
from benchmarks.record import Line, read
from seo_rec.policy.allowance import BYTES

PLACE = ("study", "rows", "budget", "unit", "rule", "epochs", "id_bits")
Group = tuple[tuple[object, ...], str]


def region(lines: Sequence[Line] | None = None) -> list[str]:
    """A table of all variants, and how far the default answer is from the exhaustive one.

    Args:
        lines: default: the record.
    """
    lines = read(RECORD) if lines is None else lines
    if not lines:
        return ["`python -m benchmarks.accuracy.search_variants`: not run.", ""]
    groups = dict[Group, list[Line]]()
    for line in lines:
        groups.setdefault((_place(line), line["variant"]), []).append(line)
    places = list(dict.fromkeys(place for place, _ in groups))
    order = sorted(groups, key=lambda group: places.index(group[0]))  # variants of a place together
    runs = {group: by_seed(groups[group]) for group in order}
    columns = [
        Column("data", lambda group: _told(group[0])),
        Column("rule", lambda group: group[0][PLACE.index("rule")], "d"),
        Column("search", lambda group: group[1]),
        Column("seeds", lambda group: len(runs[group]), "d"),
        Column("times one training", lambda group: mean(runs[group], "trainings"), ".1f"),
        Column("answers", lambda group: _answers(runs[group])),
        Column("validation AUC", lambda group: mean(runs[group], "val_auc"), ".5f"),
        Column("− the default search", lambda group: _difference(runs, group)),
    ]
    return [*table(columns, runs), *_distances(runs)]


def _place(line: Line) -> tuple[object, ...]:
    """What variants must have in common to be compared; the backbone may be the variant."""
    fit = {k: v for k, v in line["fit"].items() if k != "seed"}
    values = {**USUAL, **line, "epochs": line["fit"]["epochs"]}
    return (*(values[name] for name in PLACE), json.dumps(fit, sort_keys=True))


def _told(place: tuple[object, ...]) -> str:
    study, rows, budget, unit, _, epochs, id_bits, _ = place
    assert isinstance(id_bits, int)
    ids = f", ids of {id_bits // 8} bytes" if unit == BYTES else ""
    return f"{study}, {rows:,} rows, {budget:,} {unit}{ids}, {epochs} epochs"


def _answers(runs: Runs) -> str:
    answers = Counter(line["winner"] for line in runs.values())
    return ", ".join(f"`{name}` {count}" for name, count in answers.most_common())


def _difference(runs: Mapping[Group, Runs], group: Group) -> str | None:
    other = runs.get((group[0], DEFAULT))
    found = None if other is None or group[1] == DEFAULT else paired(runs[group], other, "val_auc")
    return None if found is None else in_words(found)


def _distances(runs: Mapping[Group, Runs]) -> list[str]:
    """A line for each exhaustive search that has a default one beside it."""
    lines = list[str]()
    for place, variant in runs:
        every, limited = runs[place, variant], runs.get((place, DEFAULT), {})
        seeds = sorted(set(every) & set(limited))
        if variant != EXHAUSTIVE or not seeds:
            continue
        below = [every[s]["val_auc"] - limited[s]["val_auc"] for s in seeds]
        best = [max(every[s]["candidates"].values()) - limited[s]["val_auc"] for s in seeds]
        trained = [len(every[s]["candidates"]) for s in seeds]
        lines.append(
            f"* {_told(place)}, {seeds_in_words(seeds)}: the answer of the limited search is "
            f"{max(below):.5f} of validation AUC below the exhaustive one at most, and "
            f"{max(best):.5f} below the best of {max(trained)} candidates, all trained in full."
        )
    return [*lines, ""] if lines else []
