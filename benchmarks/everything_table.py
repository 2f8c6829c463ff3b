"""Every way to decide, at equal budgets on the same data, backbone and seeds, in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import evidence
from seo_rec.methods import SUFFIX
from seo_rec.report.comparison import paired_difference, spread
from seo_rec.report.formats import p_value

Line = dict[str, Any]
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
    "Embedding memory is that of parameters, gradients and the optimizer's state; the supernets' "
    "other tensors are not in it, among them OptEmbed's masked copies of all its tables. SEO's is "
    "not measured but 4 floats per parameter of its widest search model; the trainings of its "
    "run-off, one at a time, take less."
)
TRIVIAL = (
    "A `trivial-` policy is one that attention did not decide: nothing that it decided was better "
    "on validation rows by two standard errors."
)
IDS = (
    "Features that are addressed by id need their ids beside the serving floats, 8 bytes each, "
    "which the budget does not count; features that are hashed need none (—: not recorded)."
)
# Study names of benchmarks.evidence that share data, settings and budget.
COLUMNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "MovieLens-1M, 96,000": ("movielens", ("ml-1m", "ml-1m-widths")),
    "MovieLens-1M, 48,000": ("movielens", ("ml-1m-48000",)),
    "Criteo sample, 80,000": (
        "criteo",
        ("criteo-80000", "criteo-80000-widths"),
    ),
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
    """Lines of a method by seed, those of a run."""
    return {x["seed"]: x for x in _lines(lines, studies, method) if not x.get("infeasible")}


def _lines(lines: Sequence[Line], studies: Sequence[str], method: str) -> list[Line]:
    return [
        x for x in lines if x["study"] in studies and x["method"] == method and x["seed"] in SEEDS
    ]


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
    texts = [f"{text}, seeds {', '.join(map(str, seeds))}" for text, seeds in reasons.items()]
    return [f"Infeasible at this budget: {'; '.join(texts)}.", ""]


def conditions(name: str, studies: Sequence[str]) -> str:
    """What ``benchmarks.evidence`` trains the methods of a column with."""
    parts = {part.name: part for part in evidence.STUDIES[name]()}
    part, mlet = parts[studies[0]], evidence.MLET
    fit, dim = part.fit, part.settings.dim
    chunks = " and ".join(map(str, part.run_off.chunk_dims))
    return (
        f"All rows alike: Adam, batch {fit.batch_size:,}, learning rate {fit.row_lr:g} of tables "
        f"and {fit.dense_lr:g} of the rest, L2 {fit.row_l2:g} on all rows of the tables, read or "
        f"not, at most {fit.epochs} epochs; MLET with k {mlet.dim} and std {mlet.std:g}; searches "
        f"of widths up to {2 * dim}, no search up to {dim}. The run-off of SEO: chunks of "
        f"{chunks}, at most {part.run_off.epochs} epochs a candidate."
    )


def chosen(lines: Sequence[Line], studies: Sequence[str]) -> str:
    """What the run-off of ``seo`` chose, with which seeds; empty where no line says so."""
    seeds: dict[str, list[int]] = {}
    for seed, line in sorted(of(lines, studies, "seo").items()):
        if line.get("winner"):
            seeds.setdefault(line["winner"], []).append(seed)
    return "; ".join(
        f"`{policy}` with seed{'s' * (len(found) > 1)} {', '.join(map(str, found))}"
        for policy, found in seeds.items()
    )


def _range(values: Sequence[float], digits: int) -> str:
    """The one value, or the smallest and the largest, in order."""
    texts = [f"{value:,.{digits}f}" for value in (min(values), max(values))]
    return " to ".join(dict.fromkeys(texts))


def _auc(runs: Mapping[int, Line], key: str = "test_auc") -> str:
    if not runs:
        return "—"
    found = spread([x[key] for x in runs.values()])
    few = "" if len(runs) == len(SEEDS) else f" ({len(runs)} of {len(SEEDS)})"
    return f"{found.mean:.5f}{few}"


def _loss(runs: Mapping[int, Line]) -> str:
    return f"{_mean(runs, 'test_logloss'):.5f}" if runs else "—"


def _both(runs: Mapping[int, Line]) -> str:
    """AUC and log loss in one cell."""
    return f"{_auc(runs)} / {_loss(runs)}" if runs else "—"


def _difference(runs: Mapping[int, Line], reference: Mapping[int, Line]) -> str:
    seeds = sorted(set(runs) & set(reference))
    if len(seeds) < 2:
        return "—"
    d = paired_difference(
        [runs[s]["test_auc"] for s in seeds], [reference[s]["test_auc"] for s in seeds]
    )
    return f"{d.mean:+.5f} ± {d.standard_error:.5f} (p {p_value(d.p)})"


def _mean(runs: Mapping[int, Line], key: str, scale: float = 1.0) -> float:
    return scale * spread([x[key] for x in runs.values()]).mean


def accuracy(lines: Sequence[Line], studies: Sequence[str]) -> list[str]:
    """AUC and log loss of every method, and what MLET training changes, paired by seed."""
    out = [
        "| | validation AUC | test AUC | log loss | with MLET: test AUC | log loss "
        "| MLET minus plain, AUC |",
        "|---" * 7 + "|",
    ]
    for method, title in METHODS.items():
        plain, factored = of(lines, studies, method), of(lines, studies, method + SUFFIX)
        if plain or factored:
            out.append(
                f"| {title} | {_auc(plain, 'val_auc')} | {_auc(plain)} | {_loss(plain)} | "
                f"{_auc(factored)} | {_loss(factored)} | {_difference(factored, plain)} |"
            )
    return out


def cost(lines: Sequence[Line], studies: Sequence[str]) -> list[str]:
    """What a search takes, what training takes, and what is served."""
    out = [
        "| | search, s | embedding memory of the search, MB | training, s | with MLET, s "
        "| serving floats | ids, MB |",
        "|---" * 7 + "|",
    ]
    for method, title in METHODS.items():
        plain, factored = of(lines, studies, method), of(lines, studies, method + SUFFIX)
        if not plain:
            continue
        second = f"{_mean(factored, 'seconds'):.0f}" if factored else "—"
        size = _range([x["embedding_params"] for x in plain.values()], 0)
        out.append(
            f"| {title} | {' | '.join(_search(plain))} | {second} | {size} | {_ids(plain)} |"
        )
    return out


def overview(results: Mapping[str, Sequence[Line]]) -> list[str]:
    """Test AUC and log loss in all columns, and what the first one takes: the README's table.

    Beside the first column stands what one layer has there with more L2, where that is recorded.

    Args:
        results: see :func:`section`.
    """
    found = {
        title: (results[name], studies)
        for title, (name, studies) in COLUMNS.items()
        if any(_lines(results[name], studies, method) for method in METHODS)
    }
    if not found:
        return ["Nothing is recorded yet."]
    first = next(iter(found))
    name, studies = CONTROLS[STRONGER]
    heads = [head for title in found for head in (title, "with MLET")]
    stronger = {m: of(results[name], studies, m) for m in METHODS}
    if any(stronger.values()):
        heads[2:2] = [STRONGER.removeprefix(f"{first}, ")]
    heads += [f"{first}: search, s", "search, MB", "training, s", "ids, MB"]
    out = [
        f"| test AUC / log loss, three seeds | {' | '.join(heads)} |",
        "|---" * (len(heads) + 1) + "|",
    ]
    for method, title in METHODS.items():
        runs = {x: (of(*where, method), of(*where, method + SUFFIX)) for x, where in found.items()}
        cells = [_both(x) for pair in runs.values() for x in pair]
        if any(stronger.values()):
            cells[2:2] = [_both(stronger[method])]
        if any(plain or factored for plain, factored in runs.values()):
            plain = runs[first][0]
            out.append(f"| {title} | {' | '.join([*cells, *_search(plain), _ids(plain)])} |")
    choices = [f"{title}: {text}" for title, where in found.items() if (text := chosen(*where))]
    if choices:
        out += ["", f"SEO's run-off chose, {'. '.join(choices)}. {TRIVIAL}"]
    return out


def _ids(runs: Mapping[int, Line]) -> str:
    """MB of ids, where the lines say so."""
    ids = [x["id_bytes"] / 1e6 for x in runs.values() if x.get("id_bytes") is not None]
    return _range(ids, 3) if ids else "—"


def _search(runs: Mapping[int, Line]) -> tuple[str, str, str]:
    """Seconds and embedding MB of a search, and seconds of training."""
    if not runs:
        return "—", "—", "—"
    known = [x for x in runs.values() if x.get("search_peak_bytes")]
    memory = f"{max(x['search_peak_bytes'] for x in known) / 1e6:.2f}" if known else "—"
    searched = _mean(runs, "search_seconds")
    return f"{searched:.0f}" if searched else "—", memory, f"{_mean(runs, 'seconds'):.0f}"


def places(lines: Sequence[Line], studies: Sequence[str]) -> str:
    """Where the seconds were measured: runs by processor and threads."""
    runs = [
        x["environment"]
        for method in METHODS
        for name in (method, method + SUFFIX)
        for x in of(lines, studies, name).values()
    ]
    counted = Counter(f"{e['cpu']}, threads: {e['threads']}" for e in runs)
    found = "; ".join(f"{where} ({n} runs)" for where, n in counted.most_common())
    return f"Seconds are of {found}, beside other processes: read orders of magnitude only."


def section(results: Mapping[str, Sequence[Line]]) -> list[str]:
    """All columns and the controls.

    Args:
        results: lines of ``benchmarks/results`` by study file (``movielens``, ``criteo``).
    """
    out: list[str] = []
    for title, (name, studies) in (COLUMNS | CONTROLS).items():
        lines = results[name]
        if any(_lines(lines, studies, method) for method in METHODS):
            out += [
                f"### {title}{'' if title in CONTROLS else ' parameters'}",
                "",
                conditions(name, studies),
                "",
            ]
            out += [*accuracy(lines, studies), ""]
            if text := chosen(lines, studies):
                out += [f"SEO's run-off chose {text}.", ""]
            out += [*cost(lines, studies), "", places(lines, studies), ""]
            out += infeasible(lines, studies)
    return [*out, TRIVIAL, "", MEMORY, "", IDS, ""] if out else []
