"""What ``benchmarks.accuracy.evidence`` recorded: SEO beside plain methods and its own paper."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from benchmarks.accuracy import evidence
from benchmarks.pages.cells import (
    Runs,
    by_seed,
    mean,
    minus,
    paired,
    seeds_in_words,
    with_deviation,
)
from benchmarks.pages.markdown import Column, each, table
from benchmarks.record import Line, command_now, path_of, read
from seo_rec.methods import SUFFIX

# Shared Embedding Optimization: Tables 1 (test AUC, log loss) and 2 (test AUC), MovieLens 1M.
PAPER_TABLE_1 = {
    "separate": (0.80361, 0.41596),
    "monolithic": (0.85068, 0.36787),
    "best applier": (0.85310, 0.36590),
}
PAPER_TABLE_2 = {
    (False, False): (0.84721, 0.85246, 0.85275),
    (False, True): (0.82844, 0.83343, 0.83374),
    (True, False): (0.84746, 0.85310, 0.85277),
    (True, True): (0.82954, 0.83348, 0.83379),
}
TABLE_2_STUDIES = {
    (False, False): "ml-1m",
    (False, True): "ml-1m-dp0-ah1",
    (True, False): "ml-1m-dp1-ah0",
    (True, True): "ml-1m-dp1-ah1",
}
# Readings of the paper by study; the first is the default.
READINGS = {
    "ml-1m": "independent hashes, `min_chunks` 1, logits on training rows (default)",
    "ml-1m-min0": "independent hashes, `min_chunks` 0 (the plain ranking)",
    "ml-1m-shared": "shared hashing, `min_chunks` 1",
    "ml-1m-shared-min0": "shared hashing, `min_chunks` 0 (the plain ranking)",
    "ml-1m-held-out": "independent hashes, logits on held-out rows",
}
CRITEO_BUDGETS = (320_000, 80_000, 32_000)
# Columns of the overview: record and study.
COLUMNS = {
    "MovieLens-1M, 96,000": ("movielens", "ml-1m"),
    "Criteo sample, 320,000": ("criteo", "criteo-320000"),
    "80,000": ("criteo", "criteo-80000"),
    "32,000": ("criteo", "criteo-32000"),
    "synthetic, 64,000": ("synthetic", "synthetic-64000"),
}
NOT_RUN = "not run"
SEEDS = 5  # that most studies have


def of(lines: Sequence[Line], study: str, method: str) -> dict[int, Line]:
    """Lines of a study and a method by seed."""
    return by_seed(x for x in lines if x["study"] == study and x["method"] == method)


def auc(runs: Runs, key: str = "test_auc") -> str:
    return with_deviation(runs, key) or NOT_RUN


def against(runs: Runs, reference: Runs) -> str:
    """Paired difference of test AUC with its standard error and p, over the common seeds."""
    if not runs or not reference:
        return NOT_RUN
    return minus(runs, reference) or "no common seed"


def in_order(*runs: Runs) -> str:
    """Whether each is above the next by two standard errors of the paired difference.

    ``no``: one is below the next by as much. NaN, of a single pair, decides nothing.
    """
    found = [paired(above, below) for above, below in pairwise(runs)]
    known = [d for d in found if d is not None]
    if len(known) < len(found):
        return NOT_RUN
    if any(d.mean < -2 * d.standard_error for d in known):
        return "no"
    return "yes" if all(d.mean > 2 * d.standard_error for d in known) else "not told apart"


def command_of(lines: Sequence[Line]) -> str:
    """The command that runs a whole study, from one that ran a part of it."""
    whole = re.split(r" --(?:only|methods|seeds|record)\b", lines[0]["command"])[0]
    return f"{command_now(whole)} --record"


def how(lines: Sequence[Line]) -> list[str]:
    return [f"`{command_of(lines)}`", ""] if lines else []


def chosen(runs: Runs) -> list[str]:
    """What the run-off of ``seo`` chose with each seed, and how much of the budget that is."""
    said: dict[str, list[int]] = {}
    for seed, x in sorted(runs.items()):
        text = f"{x['policy']} ({x['embedding_params']:,} parameters"
        if x.get("id_bytes"):
            text += f", beside them {x['id_bytes']:,} bytes of ids"
        if x.get("winner"):
            text = f"`{x['winner']}`: {text}"
        said.setdefault(f"{text})", []).append(seed)
    if not said:
        return []
    listed = [f"* with {seeds_in_words(seeds)}: {text}" for text, seeds in said.items()]
    return ["The run-off of `seo` chose:", "", *listed, ""]


# ---- tables ------------------------------------------------------------------------------


def best_of(by_method: Mapping[str, Runs]) -> str:
    """The multi-size method with the best validation AUC; without one, the best of all."""
    rivals = [m for m in by_method if m.startswith("multi-size") and not m.endswith(SUFFIX)]
    return max(rivals or by_method, key=lambda m: mean(by_method[m], "val_auc"))


def comparison(lines: Sequence[Line], study: str) -> list[str]:
    """A row per method, and its difference to the best multi-size by validation AUC.

    Methods trained by MLET stand on the page of every way.
    """
    known = dict.fromkeys(x["method"] for x in lines if x["study"] == study)
    methods = [m for m in known if not m.endswith(SUFFIX)]
    if not methods:
        return [f"Study `{study}`: {NOT_RUN}.", ""]
    by_method = {m: of(lines, study, m) for m in methods}
    best = best_of(by_method)
    columns = [
        Column("method", lambda m: m + _unusual_size(by_method[m])),
        Column("seeds", lambda m: len(by_method[m]), "d"),
        Column("validation AUC", lambda m: mean(by_method[m], "val_auc"), ".5f"),
        Column("test AUC", lambda m: auc(by_method[m])),
        Column(
            f"− {best}",
            lambda m: "reference" if m == best else against(by_method[m], by_method[best]),
        ),
        Column("log loss", lambda m: mean(by_method[m], "test_logloss"), ".5f"),
    ]
    ordered = sorted(methods, key=lambda m: mean(by_method[m], "test_auc"))
    return [*table(columns, ordered), *chosen(by_method.get("seo", {}))]


def _unusual_size(runs: Runs) -> str:
    """Parameters of a method that does not fill its budget."""
    found = sorted({x["embedding_params"] for x in runs.values()})
    if found == sorted({x["budget"] for x in runs.values()}):
        return ""
    return f" ({' to '.join(f'{p:,}' for p in dict.fromkeys((found[0], found[-1])))})"


def beside_table_1(lines: Sequence[Line]) -> list[str]:
    tuned = [
        of(lines, study, method)
        for study in TABLE_2_STUDIES.values()
        for method in ("seo-exact", "seo-rr")
    ]
    best = max(tuned, key=lambda runs: mean(runs, "val_auc") if runs else 0.0)
    rows: list[tuple[str, str | None, Runs]] = [
        ("separate", "separate", of(lines, "ml-1m", "separate")),
        ("monolithic", "monolithic", of(lines, "ml-1m", "monolithic")),
        ("best applier of Table 2 (ours by validation AUC)", "best applier", best),
        ("default search (`seo`)", None, of(lines, "ml-1m", "seo")),
    ]
    columns = [
        Column("", lambda row: row[0]),
        Column("test AUC: paper", lambda row: PAPER_TABLE_1[row[1]][0] if row[1] else None, ".5f"),
        Column("here", lambda row: auc(row[2])),
        Column("log loss: paper", lambda row: PAPER_TABLE_1[row[1]][1] if row[1] else None, ".5f"),
        Column("here", lambda row: auc(row[2], "test_logloss")),
    ]
    return table(columns, rows)


def beside_table_2(lines: Sequence[Line], searches: Sequence[Line]) -> list[str]:
    def model(study: str) -> dict[int, Line]:
        return by_seed(x for x in searches if x["study"] == study and x["chunk_dim"] == 8)

    columns = [
        Column("DP, AH", lambda k: f"{k[0]}, {k[1]}"),
        Column("search model: paper", lambda k: PAPER_TABLE_2[k][0], ".5f"),
        Column("here", lambda k: auc(model(TABLE_2_STUDIES[k]))),
        Column("exact: paper", lambda k: PAPER_TABLE_2[k][1], ".5f"),
        Column("here", lambda k: auc(of(lines, TABLE_2_STUDIES[k], "seo-exact"))),
        Column("round robin: paper", lambda k: PAPER_TABLE_2[k][2], ".5f"),
        Column("here", lambda k: auc(of(lines, TABLE_2_STUDIES[k], "seo-rr"))),
    ]
    return table(columns, TABLE_2_STUDIES)


def readings(lines: Sequence[Line], rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """Appliers of several readings of the paper against the plain methods at their budget.

    Args:
        lines: of the record.
        rows: study, what it is called, and the study of monolithic and separate at its budget.
    """

    def of_row(row: tuple[str, str, str]) -> tuple[Runs, Runs, Runs]:
        dealt = of(lines, row[0], "seo-rr")
        return dealt, of(lines, row[2], "monolithic"), of(lines, row[2], "separate")

    columns = [
        Column("reading", lambda row: row[1]),
        Column("seeds", lambda row: len(of_row(row)[0]), "d"),
        Column("exact", lambda row: auc(of(lines, row[0], "seo-exact"))),
        Column("round robin", lambda row: auc(of_row(row)[0])),
        Column("round robin − monolithic", lambda row: against(*of_row(row)[:2])),
        Column("order holds", lambda row: in_order(*of_row(row))),
    ]
    return table(columns, rows)


# ---- regions -----------------------------------------------------------------------------


def movielens(lines: Sequence[Line], searches: Sequence[Line]) -> list[str]:
    out = [*how(lines), *comparison(lines, "ml-1m")]
    if free := of(lines, "ml-1m-collisionless", "collisionless"):
        params = next(iter(free.values()))["embedding_params"]
        out += [
            f"Collisionless tables of the same width ({params:,} parameters, the same training) "
            f"have a test AUC of {auc(free)}.",
            "",
        ]
    out += ["### Beside the paper's Table 1", "", *beside_table_1(lines)]
    out += [
        "### Beside the paper's Table 2 (test AUC)",
        "",
        "Every chunk has hash functions of its own, `min_chunks` is 1, and the logits are trained "
        "on training rows. DP is down projection, AH is adjusted hash buckets.",
        "",
        *beside_table_2(lines, searches),
        "### Readings of the paper",
        "",
        *readings(lines, [(study, text, "ml-1m") for study, text in READINGS.items()]),
    ]
    return out


def criteo(lines: Sequence[Line]) -> list[str]:
    out = how(lines)
    for budget in CRITEO_BUDGETS:
        out += [f"### {budget:,} parameters", "", *comparison(lines, f"criteo-{budget}")]
    declared = {part.name for part in evidence.criteo()}
    kinds = {"": "logits on training rows (default)", "-held-out": "logits on held-out rows"}
    rows = [
        (f"criteo-{budget}{ending}", f"{budget:,} parameters, {text}", f"criteo-{budget}")
        for budget in CRITEO_BUDGETS
        for ending, text in kinds.items()
    ]
    known = declared | {x["study"] for x in lines}
    out += ["### Readings of the paper on the Criteo sample", ""]
    return [*out, *readings(lines, [row for row in rows if row[0] in known])]


def synthetic(lines: Sequence[Line]) -> list[str]:
    return [*how(lines), *comparison(lines, "synthetic-64000")]


def overview(records: Mapping[str, Sequence[Line]]) -> list[str]:
    """Test AUC of every method on every data set."""
    cells: dict[str, dict[str, Any]] = {}
    for title, (name, study) in COLUMNS.items():
        lines = records[name]
        found = dict.fromkeys(x["method"] for x in lines if x["study"] == study)
        for method in (m for m in found if not m.endswith(SUFFIX)):  # these have their own table
            runs = of(lines, study, method)
            few = "" if len(runs) == SEEDS else f" ({len(runs)} seeds)"
            cells.setdefault(method, {})[title] = f"{with_deviation(runs, 'test_auc', 4)}{few}"
    shown = [t for t in COLUMNS if any(t in row for row in cells.values())]
    columns = [
        Column("test AUC", lambda method: method),
        *each(shown, str, lambda title, method: cells[method].get(title)),
    ]
    return table(columns, cells)


def regions() -> dict[str, list[str]]:
    records = {name: read(path_of(name)) for name in evidence.STUDIES}
    searches = read(path_of("movielens-searches"))
    return {
        "overview": overview(records),
        "movielens": movielens(records["movielens"], searches),
        "criteo": criteo(records["criteo"]),
        "synthetic": synthetic(records["synthetic"]),
    }
