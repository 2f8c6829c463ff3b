"""The tables of the README and of the pages of docs/ that have results, from committed results.

    python -m benchmarks.tables

Reads ``benchmarks/results/*.jsonl`` as the benchmarks wrote them with ``--record``; nothing is
typed in by hand but the papers' figures.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import (
    backbones,
    combined,
    dimgrow,
    everything_table,
    evidence,
    kernels,
    mlet,
    optembed,
    unified_table,
)
from seo_rec.files import write_text
from seo_rec.methods import SUFFIX
from seo_rec.report.comparison import Difference, paired_difference, spread
from seo_rec.report.formats import p_value

RESULTS = Path(__file__).parent / "results"
MEASURED_PAGES = Path(__file__).parent.parent / "docs" / "measured"
PAGE = MEASURED_PAGES / "results.md"
METHODS = MEASURED_PAGES / "methods.md"
SEARCHES = METHODS.with_name("searches.md")
BACKBONES = METHODS.with_name("backbones.md")
KERNELS = METHODS.with_name("kernels.md")
README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- results: written by benchmarks.tables -->", "<!-- end of results -->"
EVERY_WAY = "<!-- every way: written by benchmarks.tables -->", "<!-- end of every way -->"
MEASURED = "<!-- measured: python -m benchmarks.tables -->", "<!-- end of measured -->"

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
# Columns of the README: study file and study.
COLUMNS = {
    "MovieLens-1M, 96,000": ("movielens", "ml-1m"),
    "Criteo sample, 320,000": ("criteo", "criteo-320000"),
    "80,000": ("criteo", "criteo-80000"),
    "32,000": ("criteo", "criteo-32000"),
    "synthetic, 64,000": ("synthetic", "synthetic-64000"),
}

Line = dict[str, Any]
NOT_RUN = "not run"


def read(name: str) -> list[Line]:
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def of(lines: Sequence[Line], study: str, method: str | None = None) -> dict[int, Line]:
    """Lines of a study and a method by seed."""
    chosen = [x for x in lines if x["study"] == study and method in (None, x["method"])]
    return {x["seed"]: x for x in chosen}


def auc(lines: dict[int, Line], key: str = "test_auc") -> str:
    if not lines:
        return NOT_RUN
    found = spread([x[key] for x in lines.values()])
    if math.isnan(found.sd):
        return f"{found.mean:.5f}"
    return f"{found.mean:.5f} ± {found.sd:.5f}"


def paired(lines: dict[int, Line], reference: dict[int, Line]) -> Difference | None:
    """Of test AUC, over the common seeds; None without one."""
    seeds = sorted(set(lines) & set(reference))
    if not seeds:
        return None
    return paired_difference(
        [lines[s]["test_auc"] for s in seeds], [reference[s]["test_auc"] for s in seeds]
    )


def against(lines: dict[int, Line], reference: dict[int, Line]) -> str:
    """Paired difference of test AUC with its standard error and p, over the common seeds."""
    if lines is reference:
        return "reference"
    d = paired(lines, reference)
    if d is None:
        return NOT_RUN if not lines or not reference else "no common seed"
    return f"{d.mean:+.5f} ± {d.standard_error:.5f} (p {p_value(d.p)})"


def in_order(*runs: dict[int, Line]) -> str:
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
    asked = lines[0]["command"]
    return " ".join([*re.split(r" --(?:only|methods|seeds|record)\b", asked)[:1], "--record"])


def chosen(runs: dict[int, Line]) -> list[str]:
    """What the run-off of ``seo`` chose with each seed, and how much of the budget that is."""
    if not runs:
        return []
    said: dict[str, list[int]] = {}
    for seed, x in sorted(runs.items()):
        text = f"{x['policy']} ({x['embedding_params']:,} parameters"
        if x.get("id_bytes"):
            text += f", beside them {x['id_bytes']:,} bytes of ids"
        if x.get("winner"):
            text = f"{x['winner']}: {text}"
        said.setdefault(f"{text})", []).append(seed)
    texts = [
        f"with seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}: {text}"
        for text, seeds in said.items()
    ]
    return [f"`seo` chose, {'; '.join(texts)}.", ""]


def comparison(lines: list[Line], study: str, extra: Sequence[str] = ()) -> list[str]:
    """One table: a row per method, differences to the best multi-size by validation AUC."""
    here = [x for x in lines if x["study"] == study]
    methods = list(dict.fromkeys(x["method"] for x in here))
    if not methods:
        return [f"Study `{study}`: {NOT_RUN}.", *extra, ""]
    by_method = {m: of(lines, study, m) for m in methods}
    rivals = [m for m in methods if m.startswith("multi-size") and not m.endswith(SUFFIX)]
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
    return [*out, *extra, "", *chosen(by_method.get("seo", {}))]


def movielens(lines: list[Line], searches: list[Line]) -> list[str]:
    out = ["## MovieLens-1M, 96,000 parameters", "", *how(lines), *comparison(lines, "ml-1m")]
    if free := of(lines, "ml-1m-collisionless"):
        params = next(iter(free.values()))["embedding_params"]
        out += [
            f"Collisionless tables of the same width ({params:,} parameters, the same training): "
            f"test AUC {auc(free)}.",
            "",
        ]
    out += [
        "### Beside the paper's Table 1",
        "",
        "| | test AUC: paper | here | log loss: paper | here |",
        "|---|---|---|---|---|",
    ]
    tuned = (
        of(lines, study, method)
        for study in TABLE_2_STUDIES.values()
        for method in ("seo-exact", "seo-rr")
    )
    best = max(
        tuned, key=lambda runs: spread([x["val_auc"] for x in runs.values()]).mean if runs else 0.0
    )
    rows = {
        "separate": ("separate", of(lines, "ml-1m", "separate")),
        "monolithic": ("monolithic", of(lines, "ml-1m", "monolithic")),
        "best applier": ("best applier of Table 2 (ours by validation AUC)", best),
    }
    for name, (title, runs) in rows.items():
        paper, loss = PAPER_TABLE_1[name]
        out.append(
            f"| {title} | {paper:.5f} | {auc(runs)} | {loss:.5f} | {auc(runs, 'test_logloss')} |"
        )
    default = of(lines, "ml-1m", "seo")
    out += [
        f"| default search (`seo`) | | {auc(default)} | | {auc(default, 'test_logloss')} |",
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
    out += ["", "### Readings of the paper", "", *READING_HEAD]
    for study, text in READINGS.items():
        out.append(reading(lines, study, text, "ml-1m"))
    return [*out, ""]


READING_HEAD = (
    "The paper's order is applier above monolithic above separate. Last column: `yes` where round "
    "robin exceeds monolithic, and that separate, by two standard errors of the paired difference; "
    "`no` where one is below the other by as much.",
    "",
    "| reading | seeds | exact | round robin | round robin against monolithic | order holds |",
    "|---|---|---|---|---|---|",
)


def reading(lines: list[Line], study: str, text: str, plain: str) -> str:
    """A row of the readings; ``plain``: the study of monolithic and separate at its budget."""
    dealt = of(lines, study, "seo-rr")
    monolithic, separate = (of(lines, plain, m) for m in ("monolithic", "separate"))
    return (
        f"| {text} | {len(dealt)} | {auc(of(lines, study, 'seo-exact'))} | {auc(dealt)} | "
        f"{against(dealt, monolithic)} | {in_order(dealt, monolithic, separate)} |"
    )


def criteo(lines: list[Line]) -> list[str]:
    out = ["## Criteo sample, 39 embedded columns, five random splits", "", *how(lines)]
    for budget in CRITEO_BUDGETS:
        out += [f"### {budget:,} parameters", "", *comparison(lines, f"criteo-{budget}")]
    out += ["### Readings of the paper on the Criteo sample", "", *READING_HEAD]
    declared = {part.name for part in evidence.criteo()}
    for budget in CRITEO_BUDGETS:
        of_budget = {"": "logits on training rows (default)", "-held-out": "on held-out rows"}
        for ending, text in of_budget.items():
            study, plain = f"criteo-{budget}{ending}", f"criteo-{budget}"
            if study in declared or of(lines, study):
                out.append(reading(lines, study, f"{budget:,} parameters, {text}", plain))
    return [*out, ""]


def how(lines: list[Line]) -> list[str]:
    return [f"`{command_of(lines)}`", ""] if lines else []


def synthetic(lines: list[Line]) -> list[str]:
    return [
        "## Synthetic data with planted structure, 64,000 parameters",
        "",
        *how(lines),
        *comparison(lines, "synthetic-64000"),
    ]


def overview() -> list[str]:
    """Test AUC of every method on every data set: the README's table."""
    cells: dict[str, dict[str, str]] = {}
    commands: dict[str, list[str]] = {}
    for title, (name, study) in COLUMNS.items():
        lines = read(name)
        if of(lines, study):
            commands.setdefault(f"`{command_of(lines)}`", []).append(title)
        found = dict.fromkeys(x["method"] for x in lines if x["study"] == study)
        for method in (m for m in found if not m.endswith(SUFFIX)):  # these have their own table
            runs = of(lines, study, method)
            cells.setdefault(method, {})[title] = f"{auc(runs)} ({len(runs)})"
    titles = [t for t in COLUMNS if any(t in row for row in cells.values())]
    out = ["| test AUC (seeds) | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for method, row in cells.items():
        out.append(f"| {method} | " + " | ".join(row.get(t, "") for t in titles) + " |")
    said = (f"{', '.join(found)}: {command}" for command, found in commands.items())
    return [*out, "", *([f"Commands: {'; '.join(said)}."] if commands else [])]


def epochs(lines: Sequence[Line]) -> list[str]:
    """Time per epoch as ratios, from the last line of each data set, and which goals are met."""
    out = ["## Beside the paper's Table 3 (time per epoch)", ""]
    last = {x["fingerprint"]: x for x in lines}
    for x in last.values():
        e = x["environment"]
        dirty = ", with uncommitted changes" if e["git_dirty"] else ""
        out += [
            f"`python -m benchmarks.epoch --data {x['data']} --record`: {x['rows']:,} training "
            f"rows, batch {x['batch']:,}, {x['rounds']} rounds in which the methods take turns; "
            f"the median of a round's own ratio and its 95 % bootstrap interval. {e['cpu']}, "
            f"{e['threads']} threads, torch {e['torch']}, git {e['git_sha'][:7]}{dirty}. The "
            "paper's ratios are those of MovieLens-1M on its hardware. P: down projection, B: "
            "buckets adjusted to the budget.",
            "",
            *goals(x["ratios"]),
            "",
            "| time per epoch | ratio here | 95 % interval | paper | goal |",
            "|---|---|---|---|---|",
        ]
        for name, r in x["ratios"].items():
            paper = "" if r["paper"] is None else f"{r['paper']:.2f}"
            met = "met" if r["met"] else "missed"
            goal = "" if r["goal"] is None else f"at most {r['goal']}: {met}"
            out.append(
                f"| {name} | {r['median']:.3f} | {r['low']:.3f} to {r['high']:.3f} | {paper} | "
                f"{goal} |"
            )
        out.append("")
    return out if last else [*out, f"`python -m benchmarks.epoch`: {NOT_RUN}.", ""]


def goals(ratios: Mapping[str, Line]) -> list[str]:
    """One line per goal: how many meet it, how far they are, and the paper's own ratio."""
    out = []
    wanted = {(k.partition(" / ")[2], r["goal"]) for k, r in ratios.items() if r["goal"]}
    for below, goal in sorted(wanted):
        of_it = [r for k, r in ratios.items() if k.endswith(f" / {below}") and r["goal"] == goal]
        met = sum(r["met"] for r in of_it)
        medians = sorted(r["median"] for r in of_it)
        verdict = f"met by all {met}" if met == len(of_it) else f"missed by {len(of_it) - met}"
        few = "" if met == len(of_it) else f" of {len(of_it)}"
        paper = "".join(f"; the paper's applier: {r['paper']:.2f}" for r in of_it if r["paper"])
        out.append(
            f"* An applier's epoch takes at most {goal} times that of {below}: **{verdict}{few}** "
            f"({medians[0]:.3f} to {medians[-1]:.3f}{paper})."
        )
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
    decided = {name: read(name) for name in ("movielens", "criteo")}
    replace_section(README, BEGIN, END, overview())
    replace_section(README, *EVERY_WAY, everything_table.overview(decided))
    replace_section(METHODS, *MEASURED, unified())
    for page, name, lines in (
        (SEARCHES, "dimgrow", dimgrow.page_lines()),
        (SEARCHES, "optembed", optembed.page_lines()),
        (SEARCHES, "combined", combined.page_lines()),
        (METHODS, "mlet", mlet.page_lines()),
        (BACKBONES, "backbones", backbones.page_lines()),
        (KERNELS, "kernels", kernels.page_lines()),
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
    page += epochs(read("epoch"))
    page += ["## Every way to decide", "", "Three seeds each; ± is a standard error of the paired "
             "difference. One command makes it all: `make everything`.", ""]  # fmt: skip
    page += everything_table.section(decided)
    write_text(PAGE, "\n".join(page).rstrip() + "\n")
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
