"""What ``benchmarks.accuracy.mlet`` recorded: MLET against one layer, by width d and inner k.

All that is recorded is shown, by data set, by what ``tune`` chose from and by the limit of epochs,
over the seeds that all planned cells of a backbone have. The first table of a backbone has the test
AUC by d and k, with the paired difference to one layer and the p-value of its t-test, not corrected
for their number. The second one takes the k with the best validation AUC at d and says how many
times fewer parameters MLET needs for the AUC of one layer (:func:`narrower`), and how PR-AUC
changes on the 10 % of test samples with the most and with the least frequent ids.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks.accuracy.mlet import (
    IDENTITY,
    RECORD,
    Cell,
    Choice,
    Pair,
    Plan,
    capped,
    chosen,
    grid,
    tuning,
    what_of,
)
from benchmarks.pages.cells import Runs, in_words, mean, minus
from benchmarks.pages.markdown import Column, each, table
from benchmarks.record import Line, Records, key_of, read
from seo_rec.report.comparison import paired_difference, spread
from seo_rec.report.formats import signed

Cells = Mapping[Pair, Mapping[int, Line]]  # lines by (d, k) and seed


def narrower(d: int, auc: float, by_width: Mapping[int, float]) -> tuple[float, bool] | None:
    """How many times narrower MLET has the AUC of one layer of width d, and whether at least.

    The width at which MLET has this AUC is interpolated linearly in log2 of the width.

    Args:
        d: width of one layer.
        auc: of one layer of width d.
        by_width: AUC of MLET by width.

    Returns:
        None where MLET does not reach it at d.
    """
    widths = sorted(w for w in by_width if w <= d)
    if not widths or widths[-1] != d or by_width[d] < auc:
        return None
    above = d
    for w in reversed(widths[:-1]):
        if by_width[w] < auc:
            part = (auc - by_width[w]) / (by_width[above] - by_width[w])
            at = math.log2(w) + part * (math.log2(above) - math.log2(w))
            return d / 2**at, False
        above = w
    return d / above, True


def times_in_words(ratio: tuple[float, bool] | None) -> str:
    """What :func:`narrower` found."""
    if ratio is None:
        return "none"
    if ratio == (1.0, True):
        return "no narrower table tried"
    return f"{'at least ' if ratio[1] else ''}{ratio[0]:.1f} times"


# ---- the tables of one backbone ----------------------------------------------------------


def backbone_tables(cells: Cells, plan: Plan) -> list[str]:
    """The seeds that all planned ``cells`` have, and over these the two tables.

    Cells outside the plan that lack one of these seeds are named and left out.

    Args:
        cells: of one backbone, data set and choice.
        plan: what counts as planned.
    """
    planned = [set(runs) for pair, runs in cells.items() if pair in plan.pairs()]
    common = set.intersection(*(planned or [set(runs) for runs in cells.values()]))
    listed = ", ".join(map(str, sorted(common))) or "none in common"
    there = {
        pair: {seed: runs[seed] for seed in sorted(common)}
        for pair, runs in cells.items()
        if common <= set(runs)
    }
    out = [f"seeds {listed}:", ""]
    if common:
        out += [*auc_table(there), *gain_table(there)]
    if few := [f"d = {d}, k = {k}" for d, k in sorted(set(cells) - set(there))]:
        out += [f"With fewer seeds, not shown: {'; '.join(few)}.", ""]
    return out


def auc_table(cells: Cells) -> list[str]:
    """Test AUC of one layer and of MLET with every k, and the differences."""

    def two(d: int, k: int) -> str | None:
        runs = cells.get((d, k))
        if not runs:
            return None
        text = f"{mean(runs, 'test_auc'):.5f}"
        return f"{text}; {minus(runs, cells[d, 0])}" if (d, 0) in cells else text

    def one(d: int) -> float | None:
        return mean(cells[d, 0], "test_auc") if (d, 0) in cells else None

    inner = sorted({k for _, k in cells if k})
    columns = [
        Column("d", str),
        Column("one layer", one, ".5f"),
        *each(inner, "k = {}; − one layer".format, lambda k, d: two(d, k)),
    ]
    return table(columns, sorted({d for d, _ in cells}))


def gain_table(cells: Cells) -> list[str]:
    """What MLET gains at the k that validation rows choose, and on which samples."""

    def best(d: int) -> int:
        known = [k for (width, k) in cells if width == d and k]
        return max(known, key=lambda k: mean(cells[d, k], "val_auc"))

    def times(d: int) -> str:
        by_width = {w: mean(runs, "test_auc") for (w, k), runs in cells.items() if k == best(d)}
        return times_in_words(narrower(d, mean(cells[d, 0], "test_auc"), by_width))

    def changes(d: int, name: str) -> list[float]:
        return _changes(cells[d, best(d)], cells[d, 0], name)

    def apart(d: int) -> str:
        found = paired_difference(changes(d, "least"), changes(d, "most"))
        return in_words(found, 2, with_p=False)

    def change(name: str) -> Column:
        heading = {"most": "PR-AUC, most frequent", "least": "least frequent"}[name]
        return Column(heading, lambda d: f"{signed(spread(changes(d, name)).mean, 2)} %")

    columns = [
        Column("d", str),
        Column("k by validation", best, "d"),
        Column("fewer parameters", times),
        change("most"),
        change("least"),
        Column("least − most", apart),
    ]
    widths = sorted({d for d, k in cells if k} & {d for d, k in cells if not k})
    return table(columns, widths)


def _changes(two: Runs, one: Runs, name: str) -> list[float]:
    """Changes of PR-AUC in per cent, by seed."""
    return [100 * (two[s]["pr_auc"][name] / one[s]["pr_auc"][name] - 1) for s in two]


# ---- the region --------------------------------------------------------------------------


def edges(choice: Choice, tried: Mapping[str, Sequence[float]]) -> str:
    """Which values of a choice are the largest or the smallest of those tried; empty: none."""
    found = []
    for values, value, name in (
        (tried["rates"], choice.lr, "learning rate"),
        (tried["l2s"], choice.l2, "L2"),
        (tried["stds"], choice.std, "standard deviation"),
    ):
        if len(values) > 1 and value in (min(values), max(values)):
            found.append(f"{name} (the {'largest' if value == max(values) else 'smallest'})")
    return ", ".join(found)


def region(lines: Sequence[Line] | None = None, plan: Plan | None = None) -> list[str]:
    """All that is recorded, and how much of the plan it is.

    Args:
        lines: default: the record.
        plan: the runs that count as planned; default: the plan of the command without options.
    """
    plan = plan or Plan()
    lines = read(RECORD) if lines is None else lines
    groups: dict[str, tuple[str, Plan]] = {}  # data and plan of rows that are shown together
    for line in (x for x in lines if x["part"] == "auc"):
        tried = {name: tuple(values) for name, values in line["tuned"].items()}
        own = replace(plan, **tried, epochs=line["fit"]["epochs"])
        key = json.dumps([line["data_fingerprint"], line["tuned"], own.epochs])
        groups.setdefault(key, (line["data_fingerprint"], own))
    begun = {fingerprint for fingerprint, _ in groups.values()}
    for fingerprint in dict.fromkeys(x["data_fingerprint"] for x in lines):
        if fingerprint not in begun:
            groups[fingerprint] = fingerprint, plan
    out = [text for group in groups.values() for text in _group(lines, *group)]
    return out or [f"Nothing is recorded yet; the plan has {_size(plan)} runs."]


def _group(lines: Sequence[Line], fingerprint: str, plan: Plan) -> list[str]:
    """Text and tables of one data set, with what was tuned over and the epochs of ``plan``."""
    here = [x for x in lines if x["data_fingerprint"] == fingerprint]
    records = Records.of(here, IDENTITY)
    one, two = (chosen(records, plan, fingerprint, layers) for layers in (False, True))
    trials = [c for layers in (False, True) for c in tuning(plan, layers)]
    tried = [x for c in trials if (x := records.find(what_of("tune", c, fingerprint, plan)))]
    title = f"{here[0]['data']}, fingerprint `{fingerprint}`, at most {plan.epochs} epochs"
    if one is None or two is None:
        return [f"{title}: {len(tried)} of {len(trials)} runs of `tune` are recorded, so nothing "
                "is chosen yet.", ""]  # fmt: skip
    shown, others = _of_choice(records, fingerprint, plan, (one, two))
    wanted = [what_of("auc", c, fingerprint, plan) for c in grid(plan, one, two)]
    planned = {key_of(what, IDENTITY) for what in wanted}
    done = sum(key_of(line, IDENTITY) in planned for line in shown)
    more = f", and {len(shown) - done} more" if len(shown) > done else ""
    hidden = f" {others} of other settings are not shown." if others else ""
    out = [
        f"{title}: {done} of {len(wanted)} planned runs are recorded{more}.{hidden} Chosen on "
        f"validation rows: one layer, of {len(tuning(plan, False))} trials, with learning rate "
        f"{one.lr:g} and L2 {one.l2:g}; MLET, of {len(tuning(plan, True))}, with {two.lr:g}, "
        f"{two.l2:g} and a standard deviation of {two.std:g}. "
        f"{_edges_of_both(one, two, plan)}"
        f"{capped([*tried, *shown])}, `tune` included.",
        "",
    ]
    known: dict[str, dict[Pair, dict[int, Line]]] = {}
    for line in shown:
        cell = line["cell"]
        pairs = known.setdefault(cell["backbone"], {})
        pairs.setdefault((cell["d"], cell["k"]), {})[cell["seed"]] = line
    for backbone, cells in known.items():
        first, *rest = backbone_tables(cells, plan)
        out += [f"`{backbone}`, test AUC, {first}", *rest]
    return out


def _of_choice(
    records: Records, fingerprint: str, plan: Plan, choices: tuple[Choice, Choice]
) -> tuple[list[Line], int]:
    """Lines of ``auc`` with the chosen settings, and the number of lines with others."""
    one, two = choices
    shown, others = [], 0
    for line in records.lines:
        if line["part"] != "auc" or line["tuned"] != plan.tuned():
            continue
        cell = Cell(**{**line["cell"], "choice": Choice(**line["cell"]["choice"])})
        if cell.epochs != plan.epochs:
            continue
        same = key_of(line, IDENTITY) == key_of(what_of("auc", cell, fingerprint, plan), IDENTITY)
        if same and cell.choice == (two if cell.k else one):
            shown.append(line)
        else:
            others += 1
    return shown, others


def _edges_of_both(one: Choice, two: Choice, plan: Plan) -> str:
    found = {"one layer": edges(one, plan.tuned()), "MLET": edges(two, plan.tuned())}
    said = "; ".join(f"{name}: {text}" for name, text in found.items() if text)
    return f"At the edge of the trials are, {said}. " if said else ""


def _size(plan: Plan) -> int:
    tried = len(tuning(plan, False)) + len(tuning(plan, True))
    return tried + len(plan.seeds) * len(plan.backbones) * len(plan.pairs())
