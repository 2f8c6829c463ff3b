"""Every way to decide, at equal budgets on the same data, backbone and seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from benchmarks.accuracy import evidence
from benchmarks.pages.cells import Runs, by_seed, mean, minus, seeds_in_words
from benchmarks.pages.markdown import Column, each, table
from benchmarks.record import Line, path_of, read
from seo_rec.methods import SUFFIX

SEEDS = (0, 1, 2)

METHODS = {
    "separate": "separate",
    "monolithic": "monolithic",
    "multi-size": "multi-size unified, 2 lookups",
    "multi-size-8": "multi-size unified, 8 lookups",
    "no-search": "equal widths, no search",
    "mixed-dimension": "mixed dimension",
    "sseds": "SSEDS",
    "autodim": "AutoDim",
    "dimgrow": "DimGrow",
    "optembed": "OptEmbed",
    "seo-rr": "SEO's applier, round robin",
    "seo": "SEO, default run-off",
}
MEMORY = (
    "Embedding memory counts parameters, gradients and the optimizer's state, but not the other "
    "tensors of the supernets, such as OptEmbed's masked copies of its tables. SEO's figure is "
    "computed: 4 floats per parameter of its widest search model."
)
TRIVIAL = "Attention did not decide a `trivial-` policy."
IDS = (
    "A feature addressed by id needs its ids beside the serving floats, 8 bytes each. The budget "
    "does not count them. Hashed features need none. — means that nothing is recorded."
)
# Study names of benchmarks.accuracy.evidence that share data, settings and budget.
COLUMNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "MovieLens-1M, 96,000": ("movielens", ("ml-1m", "ml-1m-widths")),
    "MovieLens-1M, 48,000": ("movielens", ("ml-1m-48000",)),
    "Criteo sample, 80,000": ("criteo", ("criteo-80000", "criteo-80000-widths")),
}
# Whether MLET gains what more L2 on one layer would. `overview` shows the one with all methods.
STRONGER = "MovieLens-1M, 96,000, with four times the L2"
CONTROLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "MovieLens-1M, 96,000, with twice the L2": ("movielens", ("ml-1m-l2-4e-4",)),
    STRONGER: ("movielens", ("ml-1m-l2-8e-4",)),
    "MovieLens-1M, 96,000, with eight times the L2": ("movielens", ("ml-1m-l2-16e-4",)),
    "MovieLens-1M, 96,000, with sixteen times the L2": ("movielens", ("ml-1m-l2-32e-4",)),
}


def of(lines: Sequence[Line], studies: Sequence[str], method: str) -> dict[int, Line]:
    """Lines of a method by seed, without the seeds that found no policy."""
    return by_seed(x for x in _lines(lines, studies, method) if not x.get("infeasible"))


def _lines(lines: Sequence[Line], studies: Sequence[str], method: str) -> list[Line]:
    return [
        x for x in lines if x["study"] in studies and x["method"] == method and x["seed"] in SEEDS
    ]


class Way:
    """A method of a column: its plain runs and those trained by MLET."""

    def __init__(self, lines: Sequence[Line], studies: Sequence[str], method: str) -> None:
        self.title = METHODS[method]
        self.plain = of(lines, studies, method)
        self.factored = of(lines, studies, method + SUFFIX)


def ways(lines: Sequence[Line], studies: Sequence[str]) -> list[Way]:
    """The methods of a column that have runs, in the order of :data:`METHODS`."""
    found = [Way(lines, studies, method) for method in METHODS]
    return [way for way in found if way.plain or way.factored]


def infeasible(lines: Sequence[Line], studies: Sequence[str]) -> list[str]:
    """What has no policy at this budget, and why, where a line says so: ``infeasible``, a text."""
    reasons: dict[str, list[int]] = {}
    for method, title in METHODS.items():
        for name, words in ((method, title), (method + SUFFIX, f"{title} with MLET")):
            for x in _lines(lines, studies, name):
                if x.get("infeasible"):
                    reasons.setdefault(f"{words} ({x['infeasible']})", []).append(x["seed"])
    if not reasons:
        return []
    texts = [f"{text}, {seeds_in_words(seeds)}" for text, seeds in reasons.items()]
    return [f"Infeasible at this budget: {'; '.join(texts)}.", ""]


def conditions(name: str, studies: Sequence[str]) -> str:
    """What ``benchmarks.accuracy.evidence`` trains the methods of a column with."""
    parts = {part.name: part for part in evidence.STUDIES[name]()}
    part, mlet = parts[studies[0]], evidence.MLET
    fit, dim = part.fit, part.settings.dim
    chunks = " and ".join(map(str, part.run_off.chunk_dims))
    return (
        f"All methods are trained alike: Adam, batch {fit.batch_size:,}, learning rate "
        f"{fit.row_lr:g} for tables and {fit.dense_lr:g} for the rest, L2 {fit.row_l2:g} on all "
        f"rows of the tables (read in a batch or not), at most {fit.epochs} epochs. MLET has k "
        f"{mlet.dim} and std {mlet.std:g}. Searches of widths go up to {2 * dim} columns, equal "
        f"widths up to {dim}. "
        f"SEO's run-off tries chunks of {chunks}, at most {part.run_off.epochs} epochs each."
    )


def chosen(lines: Sequence[Line], studies: Sequence[str]) -> str:
    """What the run-off of ``seo`` chose, with which seeds; empty where no line says so."""
    seeds: dict[str, list[int]] = {}
    for seed, line in sorted(of(lines, studies, "seo").items()):
        if line.get("winner"):
            seeds.setdefault(line["winner"], []).append(seed)
    return "; ".join(f"`{name}` with {seeds_in_words(found)}" for name, found in seeds.items())


# ---- cells -------------------------------------------------------------------------------


def _auc(runs: Runs, key: str = "test_auc") -> str | None:
    if not runs:
        return None
    few = "" if len(runs) == len(SEEDS) else f" ({len(runs)} of {len(SEEDS)})"
    return f"{mean(runs, key):.5f}{few}"


def _mean(runs: Runs, key: str) -> float | None:
    return mean(runs, key) if runs else None


def _gain(way: Way) -> str | None:
    """What MLET gains, where at least two seeds say so."""
    common = set(way.plain) & set(way.factored)
    return minus(way.factored, way.plain) if len(common) > 1 else None


def _range(values: Sequence[float], digits: int) -> str:
    """The one value, or the smallest and the largest, in order."""
    texts = [f"{value:,.{digits}f}" for value in (min(values), max(values))]
    return " to ".join(dict.fromkeys(texts))


def _ids(runs: Runs) -> str | None:
    """MB of ids, where the lines say so."""
    ids = [x["id_bytes"] / 1e6 for x in runs.values() if x.get("id_bytes") is not None]
    return _range(ids, 3) if ids else None


def _memory(runs: Runs) -> float | None:
    known = [x["search_peak_bytes"] for x in runs.values() if x.get("search_peak_bytes")]
    return max(known) / 1e6 if known else None


# ---- tables ------------------------------------------------------------------------------


def accuracy(lines: Sequence[Line], studies: Sequence[str]) -> list[str]:
    """AUC and log loss of every method, and what MLET training changes, paired by seed."""
    columns = [
        Column("", lambda w: w.title),
        Column("validation AUC", lambda w: _auc(w.plain, "val_auc")),
        Column("test AUC", lambda w: _auc(w.plain)),
        Column("log loss", lambda w: _mean(w.plain, "test_logloss"), ".5f"),
        Column("with MLET: test AUC", lambda w: _auc(w.factored)),
        Column("log loss", lambda w: _mean(w.factored, "test_logloss"), ".5f"),
        Column("MLET − plain, AUC", _gain),
    ]
    return table(columns, ways(lines, studies))


def cost(lines: Sequence[Line], studies: Sequence[str]) -> list[str]:
    """What a search takes, what training takes, and what is served."""

    def floats(way: Way) -> str:
        return _range([x["embedding_params"] for x in way.plain.values()], 0)

    columns = [
        Column("", lambda w: w.title),
        Column("search, s", lambda w: mean(w.plain, "search_seconds") or None, ".0f"),
        Column("search, MB", lambda w: _memory(w.plain), ".2f"),
        Column("training, s", lambda w: mean(w.plain, "seconds"), ".0f"),
        Column("with MLET, s", lambda w: _mean(w.factored, "seconds"), ".0f"),
        Column("serving floats", floats),
        Column("ids, MB", lambda w: _ids(w.plain)),
    ]
    return table(columns, (w for w in ways(lines, studies) if w.plain))


def places(lines: Sequence[Line], studies: Sequence[str]) -> str:
    """Where the seconds were measured: runs by processor and threads."""
    runs = [
        x["environment"]
        for way in ways(lines, studies)
        for x in (*way.plain.values(), *way.factored.values())
    ]
    counted = Counter(f"{e['cpu']}, threads: {e['threads']}" for e in runs)
    found = "; ".join(f"{where} ({n} runs)" for where, n in counted.most_common())
    return f"The seconds were measured on {found}, beside other processes: read magnitudes only."


def overview(records: Mapping[str, Sequence[Line]]) -> list[str]:
    """Test AUC of every method in all columns, and with more L2 beside the first one.

    Args:
        records: lines by record (``movielens``, ``criteo``).
    """
    found = {
        title: (records[name], studies)
        for title, (name, studies) in COLUMNS.items()
        if ways(records[name], studies)
    }
    if not found:
        return ["Nothing is recorded yet."]
    heads = [head for title in found for head in ((title, ""), (title, SUFFIX))]
    columns = [
        Column("test AUC, three seeds", lambda method: METHODS[method]),
        *each(
            heads,
            lambda head: "with MLET" if head[1] else head[0],
            lambda head, method: _auc(of(*found[head[0]], method + head[1])),
        ),
    ]
    name, studies = CONTROLS[STRONGER]
    more = records[name], studies
    if ways(*more):
        heading = STRONGER.removeprefix(f"{next(iter(found))}, ")
        columns.insert(3, Column(heading, lambda method: _auc(of(*more, method))))
    known = {way.title for where in found.values() for way in ways(*where)}
    out = table(columns, [method for method, title in METHODS.items() if title in known])
    choices = [f"{title}: {text}" for title, where in found.items() if (text := chosen(*where))]
    return [*out, f"SEO's run-off chose, {'. '.join(choices)}. {TRIVIAL}", ""] if choices else out


def sections(records: Mapping[str, Sequence[Line]]) -> list[str]:
    """All columns and the controls, each with its accuracy and its cost.

    Args:
        records: see :func:`overview`.
    """
    out: list[str] = []
    for title, (name, studies) in (COLUMNS | CONTROLS).items():
        lines = records[name]
        if not ways(lines, studies):
            continue
        heading = f"## {title}{'' if title in CONTROLS else ' parameters'}"
        out += [heading, "", conditions(name, studies), "", *accuracy(lines, studies)]
        if text := chosen(lines, studies):
            out += [f"SEO's run-off chose {text}.", ""]
        out += [*cost(lines, studies), places(lines, studies), "", *infeasible(lines, studies)]
    return [*out, "## Notes", "", TRIVIAL, "", MEMORY, "", IDS, ""] if out else []


def read_records() -> dict[str, list[Line]]:
    """The lines of the records that the columns name."""
    return {name: read(path_of(name)) for name, _ in COLUMNS.values()}


def regions() -> dict[str, list[str]]:
    records = read_records()
    return {"every way overview": overview(records), "every way": sections(records)}
