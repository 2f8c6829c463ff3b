"""What ``benchmarks.accuracy.combined`` recorded: two ways to decide in one policy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from benchmarks.accuracy import evidence
from benchmarks.accuracy.combined import CHUNK_DIMS, METHODS, PLANNED, RECORD, SEEDS
from benchmarks.pages import every_way
from benchmarks.pages.cells import Runs, by_seed, mean, minus, seeds_in_words, with_deviation
from benchmarks.pages.markdown import Column, table
from benchmarks.record import Line, path_of, read, recorded_fit

STUDIES = {study for _, studies in every_way.COLUMNS.values() for study in studies}


def alone(plain: Sequence[Line], method: str, runs: Mapping[int, Line]) -> dict[int, Line]:
    """Lines of ``method`` alone with the data, budget, seeds and settings of ``runs``, by seed."""
    fits = {
        part.name: recorded_fit(part.fit) for make in evidence.STUDIES.values() for part in make()
    }
    return by_seed(
        x
        for x in plain
        if x["study"] in STUDIES
        and x["method"] == method
        and not x.get("infeasible")
        and (line := runs.get(x["seed"])) is not None
        and (x["budget"], x["data_fingerprint"]) == (line["params"], line["data_fingerprint"])
        and {**fits[x["study"]], "seed": x["seed"]} == line["fit"]
    )


class Combination:
    """The runs of one combination by seed, and the runs of its two parts alone."""

    def __init__(self, runs: dict[int, Line], plain: Sequence[Line]) -> None:
        self.runs, self.line = runs, next(iter(runs.values()))
        self.own = alone(plain, self.line["search"], runs)
        self.seo = alone(plain, "seo", runs)

    def name(self) -> str:
        search, chunk_dim = self.line["search"], self.line["chunk_dim"]
        what = {
            "chunks": f"{search}'s widths in chunks of {chunk_dim}",
            "beside": f"{search}'s tables in half, chunks of {chunk_dim} in half",
        }[self.line["form"]]
        runs = sorted(self.runs.items())
        one = [seed for seed, x in runs if set(x["lookups"].values()) == {1}]
        if one:
            which = "" if len(one) == len(runs) else f" with {seeds_in_words(one)}"
            what += f", degenerate{which}: one chunk for every feature"
        return what

    def beside(self, others: Runs) -> str:
        """The validation AUC of a part alone, and the difference to it."""
        text = with_deviation(others, "val_auc")
        return f"{text}; {minus(self.runs, others, 'val_auc')}" if text else "not recorded"

    def best(self) -> str:
        """Which has the best validation AUC over the seeds that all three have."""
        known = {"together": self.runs, self.line["search"]: self.own, "seo": self.seo}
        common = sorted(set.intersection(*(set(x) for x in known.values())))
        if not common:
            return "not known yet"
        best = max(known, key=lambda name: mean({s: known[name][s] for s in common}, "val_auc"))
        return best if len(common) == len(self.runs) else f"{best} ({seeds_in_words(common)})"


def region(lines: Sequence[Line] | None = None, plain: Sequence[Line] | None = None) -> list[str]:
    """Tables by data set, budget and settings, and how much of the plan they hold.

    Args:
        lines: default: the record.
        plain: runs of the searches' own policies; default: of ``benchmarks.accuracy.evidence``.
    """
    lines = read(RECORD) if lines is None else lines
    if plain is None:
        plain = [line for name in ("movielens", "criteo") for line in read(path_of(name))]
    if not lines:
        return [f"Nothing is recorded yet; a data set and budget have {PLANNED} runs."]
    groups: dict[str, list[Line]] = {}
    for line in lines:
        fit = {k: v for k, v in line["fit"].items() if k != "seed"}
        key = json.dumps([line["data"], line["params"], fit], sort_keys=True)
        groups.setdefault(key, []).append(line)
    out: list[str] = []
    for here in groups.values():
        methods = dict.fromkeys(x["method"] for x in here)
        found = [by_seed(x for x in here if x["method"] == method) for method in methods]
        out += [title(here), "", *combinations([Combination(runs, plain) for runs in found])]
    return out


def title(here: Sequence[Line]) -> str:
    """Data, settings, and how much of the plan these lines are."""
    fit, first = here[0]["fit"], here[0]
    prints = ", ".join(dict.fromkeys(f"`{x['data_fingerprint']}`" for x in here))
    planned = [
        x["seed"] < SEEDS
        and x["chunk_dim"] in CHUNK_DIMS
        and x["search"] in (METHODS if x["form"] == "chunks" else ("optembed",))
        for x in here
    ]
    more = f" and {len(here) - sum(planned)} more" if not all(planned) else ""
    return (
        f"{first['data']}, fingerprint {prints}, {first['params']:,} floats, batch "
        f"{fit['batch_size']:,}, learning rate {fit['row_lr']:g}, L2 {fit['row_l2']:g}: "
        f"{sum(planned)} of {PLANNED} planned runs{more}. AUC is measured on validation rows, but "
        "for the last column. Differences are paired by seed."
    )


def combinations(rows: Sequence[Combination]) -> list[str]:
    """Both ways to decide together, and each of them alone."""
    columns = [
        Column("combination", lambda c: c.name()),
        Column("seeds", lambda c: len(c.runs), "d"),
        Column("validation AUC", lambda c: with_deviation(c.runs, "val_auc")),
        Column("search alone; difference", lambda c: c.beside(c.own)),
        Column("SEO alone; difference", lambda c: c.beside(c.seo)),
        Column("best on validation", lambda c: c.best()),
        Column("test AUC", lambda c: with_deviation(c.runs, "test_auc")),
    ]
    return table(columns, rows)
