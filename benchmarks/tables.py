"""The tables of the README and of the pages of docs/ that have results, from committed results.

    python -m benchmarks.tables

Reads ``benchmarks/results/*.jsonl`` as the benchmarks wrote them with ``--record``; nothing is
typed in by hand but the papers' figures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    backbones,
    combined,
    dimgrow,
    everything_table,
    mlet,
    optembed,
    unified_table,
)
from seo_rec.files import write_text
from seo_rec.report.comparison import paired_difference, spread
from seo_rec.report.formats import p_value

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "results.md"
METHODS = Path(__file__).parent.parent / "docs" / "methods.md"
SEARCHES = METHODS.with_name("searches.md")
BACKBONES = METHODS.with_name("backbones.md")
README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- results: written by benchmarks.tables -->", "<!-- end of results -->"
MEASURED = "<!-- measured: python -m benchmarks.tables -->", "<!-- end of measured -->"

# Shared Embedding Optimization: Tables 1 and 2, MovieLens 1M (test AUC).
PAPER_TABLE_1 = {"separate": 0.80361, "monolithic": 0.85068, "best applier": 0.85310}
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

Line = dict[str, Any]


def read(name: str) -> list[Line]:
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def of(lines: Sequence[Line], study: str, method: str | None = None) -> dict[int, Line]:
    """Lines of a study and a method by seed."""
    chosen = [x for x in lines if x["study"] == study and method in (None, x["method"])]
    return {x["seed"]: x for x in chosen}


def auc(lines: dict[int, Line], key: str = "test_auc") -> str:
    if not lines:
        return "not run"
    found = spread([x[key] for x in lines.values()])
    if math.isnan(found.sd):
        return f"{found.mean:.5f}"
    return f"{found.mean:.5f} ± {found.sd:.5f}"


def against(lines: dict[int, Line], reference: dict[int, Line]) -> str:
    """Paired difference of test AUC with its standard error and p, over the common seeds."""
    seeds = sorted(set(lines) & set(reference))
    if not seeds or lines is reference:
        return "reference"
    d = paired_difference(
        [lines[s]["test_auc"] for s in seeds], [reference[s]["test_auc"] for s in seeds]
    )
    return f"{d.mean:+.5f} ± {d.standard_error:.5f} (p {p_value(d.p)})"


def comparison(lines: list[Line], study: str, extra: Sequence[str] = ()) -> list[str]:
    """One table: a row per method, differences to the best multi-size by validation AUC."""
    here = [x for x in lines if x["study"] == study]
    methods = list(dict.fromkeys(x["method"] for x in here))
    by_method = {m: of(lines, study, m) for m in methods}
    rivals = [m for m in methods if m.startswith("multi-size")]
    best = max(
        rivals or methods,
        key=lambda m: spread([x["val_auc"] for x in by_method[m].values()]).mean,
    )
    head = f"difference to {best}"
    out = [
        f"| method | parameters | seeds | validation AUC | test AUC | {head} | log loss | epochs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    order = sorted(
        methods, key=lambda m: spread([x["test_auc"] for x in by_method[m].values()]).mean
    )
    for m in order:
        runs = by_method[m]
        params = sorted({x["embedding_params"] for x in runs.values()})
        log_loss = spread([x["test_logloss"] for x in runs.values()]).mean
        epochs = spread([x["epochs"] for x in runs.values()]).mean
        size = " to ".join(f"{p:,}" for p in dict.fromkeys((params[0], params[-1])))
        out.append(
            f"| {m} | {size} | {len(runs)} | {auc(runs, 'val_auc')} | {auc(runs)} | "
            f"{against(runs, by_method[best])} | {log_loss:.5f} | {epochs:.1f} |"
        )
    return [*out, *extra, ""]


def movielens(lines: list[Line], searches: list[Line]) -> list[str]:
    out = ["## MovieLens-1M, 96,000 parameters", "", *comparison(lines, "ml-1m")]
    if free := of(lines, "ml-1m-collisionless"):
        params = next(iter(free.values()))["embedding_params"]
        out += [
            f"Collisionless tables of the same width ({params:,} parameters, the same training): "
            f"test AUC {auc(free)}.",
            "",
        ]
    out += ["### Beside the paper's Table 1 (test AUC)", "", "| | paper | here |", "|---|---|---|"]
    for name in ("separate", "monolithic"):
        out.append(f"| {name} | {PAPER_TABLE_1[name]:.5f} | {auc(of(lines, 'ml-1m', name))} |")
    best = max(
        (
            of(lines, study, method)
            for study in TABLE_2_STUDIES.values()
            for method in ("seo-exact", "seo-rr")
            if of(lines, study, method)
        ),
        key=lambda runs: spread([x["val_auc"] for x in runs.values()]).mean,
    )
    out += [
        f"| best applier of Table 2 (ours by validation AUC) | "
        f"{PAPER_TABLE_1['best applier']:.5f} | {auc(best)} |",
        f"| default search (`seo`) | | {auc(of(lines, 'ml-1m', 'seo'))} |",
        "",
        "### Beside the paper's Table 2 (test AUC)",
        "",
        "Independent hashes per chunk, `min_chunks` 1, logits trained on the training rows. DP: "
        "down projection; AH: adjusted hash buckets.",
        "",
        "| DP, AH | search model: paper | here | exact: paper | here | round robin: paper | here |",
        "|---|---|---|---|---|---|---|",
    ]
    for (project, adjust), study in TABLE_2_STUDIES.items():
        model = {x["seed"]: x for x in searches if x["study"] == study and x["chunk_dim"] == 8}
        paper = PAPER_TABLE_2[project, adjust]
        out.append(
            f"| {project}, {adjust} | {paper[0]:.5f} | {auc(model)} | {paper[1]:.5f} | "
            f"{auc(of(lines, study, 'seo-exact'))} | {paper[2]:.5f} | "
            f"{auc(of(lines, study, 'seo-rr'))} |"
        )
    out += [
        "",
        "### Other readings of the paper",
        "",
        "| reading | exact | round robin | round robin against monolithic |",
        "|---|---|---|---|",
    ]
    monolithic = of(lines, "ml-1m", "monolithic")
    readings = {
        "ml-1m": "independent hashes, `min_chunks` 1, logits on training rows (default)",
        "ml-1m-shared": "shared hashing, `min_chunks` 1",
        "ml-1m-shared-min0": "shared hashing, `min_chunks` 0 (the plain ranking)",
        "ml-1m-held-out": "independent hashes, logits on held-out rows",
    }
    for study, reading in readings.items():
        dealt = of(lines, study, "seo-rr")
        if dealt:
            exact = auc(of(lines, study, "seo-exact"))
            out.append(f"| {reading} | {exact} | {auc(dealt)} | {against(dealt, monolithic)} |")
    return [*out, ""]


def criteo(lines: list[Line]) -> list[str]:
    out = ["## Criteo sample, 39 embedded columns, five random splits", ""]
    for budget in (320000, 80000, 32000):
        if of(lines, f"criteo-{budget}"):
            out += [f"### {budget:,} parameters", "", *comparison(lines, f"criteo-{budget}")]
        held_out = of(lines, f"criteo-{budget}-held-out", "seo-rr")
        if held_out:
            out += [
                f"With logits trained on held-out rows: seo-rr {auc(held_out)}, seo-exact "
                f"{auc(of(lines, f'criteo-{budget}-held-out', 'seo-exact'))}.",
                "",
            ]
    return out


def synthetic(lines: list[Line]) -> list[str]:
    return [
        "## Synthetic data with planted structure, 64,000 parameters",
        "",
        *comparison(lines, "synthetic-64000"),
    ]


def overview() -> list[str]:
    """Test AUC of every method on every data set: the README's table."""
    columns = {
        "MovieLens-1M, 96,000": ("movielens", "ml-1m"),
        "Criteo sample, 320,000": ("criteo", "criteo-320000"),
        "80,000": ("criteo", "criteo-80000"),
        "32,000": ("criteo", "criteo-32000"),
        "synthetic, 64,000": ("synthetic", "synthetic-64000"),
    }
    cells: dict[str, dict[str, str]] = {}
    for title, (name, study) in columns.items():
        lines = read(name)
        for method in dict.fromkeys(x["method"] for x in lines if x["study"] == study):
            runs = of(lines, study, method)
            cells.setdefault(method, {})[title] = f"{auc(runs)} ({len(runs)})"
    titles = [t for t in columns if any(t in row for row in cells.values())]
    out = ["| test AUC (seeds) | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for method, row in cells.items():
        out.append(f"| {method} | " + " | ".join(row.get(t, "") for t in titles) + " |")
    return out


def replace_section(path: Path, begin: str, end: str, lines: Sequence[str]) -> None:
    """Write ``lines`` between the two marks of a page.

    Raises:
        ValueError: a mark is not there.
    """
    before, found, rest = path.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{path} lacks {begin!r} or {end!r}; put both where the tables belong")
    write_text(path, f"{before}{begin}\n\n" + "\n".join([*lines, "", end]) + after)


def unified() -> list[str]:
    """Unified Embedding's Table 1 and its like on the Criteo sample."""
    lines = read("unified")
    if not lines:
        return ["Not measured yet."]
    return [
        "MovieLens-1M, DCN-V2, width 30, mean ± standard deviation over seeds; bold: the best of a "
        "column. `python -m benchmarks.unified --data data/ml-1m --record`",
        "",
        *unified_table.movielens(lines),
        "",
        "![test AUC over parameters on MovieLens-1M](frontier.png)",
        "",
        "The Criteo sample, 39 embedded columns, width 12, the same network; seeds are random "
        "splits. `python -m benchmarks.unified --data data/criteo-0 data/criteo-1 data/criteo-2 "
        "--record`",
        "",
        *unified_table.criteo(lines),
    ]


def main() -> None:
    replace_section(README, BEGIN, END, overview())
    replace_section(METHODS, *MEASURED, unified())
    for page, name, lines in (
        (SEARCHES, "dimgrow", dimgrow.page_lines()),
        (SEARCHES, "optembed", optembed.page_lines()),
        (SEARCHES, "combined", combined.page_lines()),
        (METHODS, "mlet", mlet.page_lines()),
        (BACKBONES, "backbones", backbones.page_lines()),
    ):
        begin = f"<!-- measured {name}: python -m benchmarks.tables -->"
        replace_section(page, begin, f"<!-- end of measured {name} -->", lines)
    if lines := read("unified"):
        unified_table.picture(lines, METHODS.with_name("frontier.png"))
    page = [
        "# Results",
        "",
        "Written by `python -m benchmarks.tables` from `benchmarks/results/*.jsonl`, which "
        "`python -m benchmarks.evidence` records; do not edit. ± after an AUC is the standard "
        "deviation over seeds, ± after a difference its standard error; p is that of the paired "
        "t-test, not corrected for the number of comparisons. Random splits of one file share "
        "rows, so for Criteo the errors are too small rather than too large. Settings were chosen "
        "on "
        "validation rows; test rows are read once per finished run.",
        "",
    ]
    if lines := read("movielens"):
        page += movielens(lines, read("movielens-searches"))
    if lines := read("criteo"):
        page += criteo(lines)
    if lines := read("synthetic"):
        page += synthetic(lines)
    page += ["## Every way to decide", "", "Three seeds each; ± is a standard error of the paired "
             "difference. One command makes it all: `make everything`.", ""]  # fmt: skip
    page += everything_table.section({name: read(name) for name in ("movielens", "criteo")})
    write_text(PAGE, "\n".join(page).rstrip() + "\n")
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
