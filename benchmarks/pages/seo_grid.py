"""What ``benchmarks.accuracy.seo_grid`` recorded: SEO's appendix D and Table 2."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product

from benchmarks.accuracy.seo_grid import (
    APPLIERS,
    BASELINES,
    IDENTITY,
    PLANS,
    READINGS,
    RECORD,
    TABLE_2,
    Cell,
    Plan,
    what_of,
)
from benchmarks.pages.cells import Runs, mean, minus, seeds_in_words, with_deviation
from benchmarks.pages.markdown import Column, each, table
from benchmarks.record import Line, key_of, read

Done = Mapping[str, Line]
HASHING = "shared"
# Test AUC of SEO's Table 2 for MovieLens-1M: search model, exact, RR, by (projects, adjusts).
PAPER = {
    (False, False): (0.84721, 0.85246, 0.85275),
    (False, True): (0.82844, 0.83343, 0.83374),
    (True, False): (0.84746, 0.85310, 0.85277),
    (True, True): (0.82954, 0.83348, 0.83379),
}


def runs_of(done: Done, fingerprint: str, cell: Cell, seeds: Sequence[int]) -> dict[int, Line]:
    """The lines of a cell by seed, whatever seed ``cell`` has."""
    found = {}
    for seed in seeds:
        here = Cell(**{**vars(cell), "seed": seed})
        line = done.get(key_of(what_of(here, fingerprint, HASHING), IDENTITY))
        if line is not None:
            found[seed] = line
    return found


def grid_table(done: Done, fingerprint: str, plan: Plan) -> list[str]:
    """Test AUC of every cell of the grid: baselines, and the best applier by validation AUC."""

    def runs(place: tuple[int, tuple[int, ...]], model: str) -> dict[int, Line]:
        base = Cell(*place, 0, model, epochs=plan.epochs)
        if model in BASELINES:
            return runs_of(done, fingerprint, base, plan.seeds)
        tried = [
            runs_of(done, fingerprint, replace(base, projects=p, adjusts=a), plan.seeds)
            for p, a in plan.configs
        ]
        known = [found for found in tried if found]
        return max(known, key=lambda r: mean(r, "val_auc")) if known else {}

    def gain(place: tuple[int, tuple[int, ...]]) -> str | None:
        both = [found for model in APPLIERS if (found := runs(place, model))]
        base = runs(place, "monolithic")
        if not both or not base:
            return None
        return minus(max(both, key=lambda r: mean(r, "val_auc")), base, with_p=False)

    columns = [
        Column("rows of 16 floats", lambda place: f"{place[0]:,}"),
        Column("hidden layers", lambda place: "-".join(map(str, place[1]))),
        *each(
            (*BASELINES, *APPLIERS),
            str,
            lambda model, place: with_deviation(runs(place, model), "test_auc"),
        ),
        Column("best applier − monolithic", gain),
    ]
    places = [p for p in product(plan.rows, plan.hidden) if any(runs(p, m) for m in BASELINES)]
    return table(columns, places) if places else []


def table_2(done: Done, fingerprint: str, plan: Plan) -> list[str]:
    """The cell of Table 2: search models and appliers, with the floats that they store."""
    rows, hidden = TABLE_2
    base = Cell(rows, hidden, 0, "monolithic", epochs=plan.epochs)
    mono = runs_of(done, fingerprint, base, plan.seeds)

    def runs(row: tuple[str, str, bool], config: tuple[bool, bool]) -> dict[int, Line]:
        model, reading, fits = row
        cell = Cell(rows, hidden, 0, model, *config, reading, fits, plan.epochs)
        return runs_of(done, fingerprint, cell, plan.seeds)

    def said(config: tuple[bool, bool], row: tuple[str, str, bool]) -> str | None:
        found = runs(row, config)
        if not found:
            return None
        against = minus(found, mono, with_p=False) or "—"
        return f"{mean(found, 'test_auc'):.5f}; {against}; {_floats(found)}"

    def paper(config: tuple[bool, bool], row: tuple[str, str, bool]) -> str:
        return f"{PAPER[config][('search', *APPLIERS).index(row[0])]:.5f}"

    appliers = [
        (m, reading, fits) for m in APPLIERS for fits in (True, False) for reading in READINGS
    ]
    wanted = [("search", "global", True), *appliers]
    there = [row for row in wanted if any(runs(row, config) for config in plan.configs)]
    if not there:
        return []
    columns = [
        Column("model", lambda row: row[0]),
        Column("chunks chosen", lambda row: "" if row[0] == "search" else row[1]),
        Column(
            "rows", lambda row: "of the budget" if row[2] and row[0] != "search" else "searched"
        ),
        *each(plan.configs, _named, said),
        *each(plan.configs, lambda config: f"paper, {_named(config)}", paper),
    ]
    found = f"monolithic {mean(mono, 'test_auc'):.5f}" if mono else "monolithic is not recorded"
    text = f"Test AUC; − monolithic; floats stored. {found}, {seeds_in_words(mono)}."
    return [text, "", *table(columns, there)]


def _named(config: tuple[bool, bool]) -> str:
    projects, adjusts = config
    return f"{'projected' if projects else 'plain'}, {'adjusted' if adjusts else 'not adjusted'}"


def _floats(runs: Runs) -> str:
    sizes = sorted({line["embedding_params"] for line in runs.values()})
    return f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"


def region(
    lines: Sequence[Line] | None = None, plans: Mapping[str, Plan] | None = None
) -> list[str]:
    """Both parts for every data set, and how much of the plans is recorded.

    Args:
        lines: Default: the record.
        plans: By part; default: the plans of the command without options.
    """
    plans = plans or PLANS
    lines = read(RECORD) if lines is None else lines
    parts: dict[str, Callable[[Done, str, Plan], list[str]]] = {
        "grid": grid_table,
        "table2": table_2,
        "table2-short": table_2,
        "grid-short": grid_table,
    }
    out: list[str] = []
    for fingerprint in dict.fromkeys(line["data_fingerprint"] for line in lines):
        here = [x for x in lines if x["data_fingerprint"] == fingerprint]
        done = {key_of(x, IDENTITY): x for x in here}
        for part, plan in plans.items():
            wanted = {key_of(what_of(c, fingerprint, HASHING), IDENTITY) for c in plan.cells()}
            text = f"{here[0]['data']}, fingerprint `{fingerprint}`, `{part}`: "
            text += f"{len(wanted & set(done))} of {len(wanted)} planned trainings are recorded."
            out += [text, "", *parts[part](done, fingerprint, plan)]
    if out:
        return out
    sizes = ", ".join(f"{len(list(p.cells()))} (`{name}`)" for name, p in plans.items())
    return [f"Nothing is recorded yet; the plans have {sizes} trainings."]
