"""What ``benchmarks.accuracy.mlet_regime`` recorded: how much of MLET's gain is a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.accuracy.mlet_regime import IDENTITY, RECORD, Cell, Plan, what_of
from benchmarks.pages.cells import Runs, mean, minus, paired, seeds_in_words
from benchmarks.pages.markdown import Column, each, table
from benchmarks.record import Line, key_of, read

Kind = tuple[int, int, float]  # d, k or 0, factor
Cells = Mapping[Kind, Runs]


def best_factor(cells: Cells, d: int, k: int) -> float:
    """The factor of the tables' rate with the highest mean validation AUC."""
    known = [factor for (width, inner, factor) in cells if (width, inner) == (d, k)]
    return max(known, key=lambda factor: mean(cells[d, k, factor], "val_auc"))


def explained(cells: Cells, d: int, k: int) -> float | None:
    """The part of MLET's test AUC gain at factor 1 that one layer has at its best factor.

    None where MLET gains nothing.
    """
    one = cells[d, 0, 1.0]
    gain = paired(cells[d, k, 1.0], one)
    by_step = paired(cells[d, 0, best_factor(cells, d, 0)], one)
    assert gain is not None and by_step is not None
    return by_step.mean / gain.mean if gain.mean > 0 else None


def backbone_tables(cells: Cells, widths: Sequence[int], k: int) -> list[str]:
    """The gain and what explains it, by width; then all factors of the sweep."""

    def against(inner: int, factor: float, d: int) -> str:
        runs = cells[d, inner, factor]
        return f"{mean(runs, 'test_auc'):.5f}; {minus(runs, cells[d, 0, 1.0])}"

    def tuned(inner: int, d: int) -> str:
        factor = best_factor(cells, d, inner)
        return f"×{factor:g}: {against(inner, factor, d)}"

    def share(d: int) -> str | None:
        part = explained(cells, d, k)
        return None if part is None else f"{100 * part:.0f} %"

    columns = [
        Column("d", str),
        Column("one layer", lambda d: mean(cells[d, 0, 1.0], "test_auc"), ".5f"),
        Column(f"MLET, k = {k}; − one layer", lambda d: against(k, 1.0, d)),
        Column("one layer, rate of tables ×; − one layer", lambda d: tuned(0, d)),
        Column("of the gain", share),
        Column("MLET, rate of tables ×; − one layer", lambda d: tuned(k, d)),
    ]
    out = table(columns, widths)
    factors = sorted({factor for _, _, factor in cells})

    def at(factor: float, kind: tuple[int, int]) -> float | None:
        runs = cells.get((*kind, factor))
        return mean(runs, "test_auc") if runs else None

    sweep = [
        Column("d", lambda kind: str(kind[0])),
        Column("k", lambda kind: str(kind[1] or "one layer")),
        *each(factors, "×{:g}".format, at, ".5f"),
    ]
    return [*out, *table(sweep, [(d, inner) for d in widths for inner in (0, k)])]


def region(lines: Sequence[Line] | None = None, plan: Plan | None = None) -> list[str]:
    """Every data set and backbone, over the seeds that all planned cells of a width have.

    Args:
        lines: Default: the record.
        plan: The runs that count; default: the plan of the command without options.
    """
    plan = plan or Plan()
    lines = read(RECORD) if lines is None else lines
    out: list[str] = []
    for fingerprint in dict.fromkeys(line["data_fingerprint"] for line in lines):
        here = {key_of(x, IDENTITY): x for x in lines if x["data_fingerprint"] == fingerprint}
        done = {c: x for c in plan.cells() if (x := _find(here, c, fingerprint)) is not None}
        data = next(iter(here.values()))["data"]
        out += [
            f"{data}, fingerprint `{fingerprint}`: {len(done)} of {len(list(plan.cells()))} "
            "planned runs are recorded.",
            "",
        ]
        for backbone in plan.backbones:
            out += _of_backbone(done, backbone, plan)
    return out or [f"Nothing is recorded yet; the plan has {len(list(plan.cells()))} runs."]


def _find(here: Mapping[str, Line], cell: Cell, fingerprint: str) -> Line | None:
    return here.get(key_of(what_of(cell, fingerprint), IDENTITY))


def _of_backbone(done: Mapping[Cell, Line], backbone: str, plan: Plan) -> list[str]:
    """The tables of the widths of which a seed has all planned cells."""
    mine = {c: x for c, x in done.items() if c.backbone == backbone}
    kinds = [(k, factor) for k in (0, plan.inner) for factor in plan.factors]
    cells: dict[Kind, dict[int, Line]] = {}
    whole: dict[int, list[int]] = {}
    for d in plan.widths:
        of = {kind: {c.seed: x for c, x in mine.items() if (c.d, c.k, c.factor) == (d, *kind)}
              for kind in kinds}  # fmt: skip
        whole[d] = sorted(set.intersection(*map(set, of.values())))
        for kind, runs in of.items():
            cells[d, *kind] = {seed: runs[seed] for seed in whole[d]}
    widths = [d for d in plan.widths if whole[d]]
    if not widths:
        return []
    said = "; ".join(f"d = {d}: {seeds_in_words(whole[d])}" for d in widths)
    there = {kind: runs for kind, runs in cells.items() if kind[0] in widths}
    return [f"`{backbone}`, test AUC, {said}:", "", *backbone_tables(there, widths, plan.inner)]
