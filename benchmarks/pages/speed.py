"""What the benchmarks of ``benchmarks.speed`` recorded: steps, epochs, streams, preparation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from benchmarks.pages.markdown import Column, entry, table
from benchmarks.record import Line, path_of, read


def place(line: Line) -> str:
    """Processor, threads, versions and code of a line."""
    e = line.get("environment", line)
    dirty = " with changes" if e["git_dirty"] else ""
    return (
        f"{e['cpu']}, {e['threads']} threads, torch {e['torch']}, {e['date'][:10]}, git "
        f"{e['git_sha'][:7]}{dirty}"
    )


def met(ratio: Line) -> str | None:
    """The goal of a ratio and whether its median meets it; None without a goal."""
    if ratio["goal"] is None:
        return None
    return f"at most {ratio['goal']}: {'met' if ratio['median'] <= ratio['goal'] else 'missed'}"


def with_interval(ratio: Line) -> str:
    return f"{ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"


def step(lines: Sequence[Line]) -> list[str]:
    """A training step as ratios, from the last line of the record."""
    if not lines:
        return ["`python -m benchmarks.speed.step`: not run.", ""]
    x = lines[-1]
    columns = [
        Column("time of a training step", lambda item: item[0]),
        Column("ratio (95 %)", lambda item: with_interval(item[1])),
        Column("goal", lambda item: met(item[1])),
    ]
    return [
        f"{x['rows']:,} training rows, batch {x['batch']:,}, {x['lookups']} lookups a row, "
        f"{x['rounds']} rounds. {place(x)}.",
        "",
        *table(columns, x["ratios"].items()),
    ]


def size(lines: Sequence[Line]) -> list[str]:
    """A step by the size of the table: milliseconds of the fastest round, and ratios to it."""
    if not lines:
        return ["`python -m benchmarks.speed.size`: not run.", ""]
    x = lines[-1]
    best = [
        {name: min(r["ms"] for r in rounds) for name, rounds in s["rounds"].items()}
        for s in x["sizes"]
    ]
    first = best[0]["ours"]
    columns = [
        Column("floats", lambda item: f"{item[0]['floats']:.0e}"),
        Column("ours, ms", lambda item: item[1]["ours"], ".1f"),
        Column("to the smallest", lambda item: item[1]["ours"] / first, ".2f"),
        Column("with a mean", lambda item: item[1]["ours, mean"] / item[1]["ours"], ".2f"),
        Column("Adam, mean", lambda item: _adam(item[1]), ".2f"),
        Column("to bare TBE", lambda item: _over(item[1], "bare TBE"), ".2f"),
        Column("to TorchRec", lambda item: _over(item[1], "TorchRec"), ".2f"),
        Column("to plain PyTorch", lambda item: _over(item[1], "plain PyTorch"), ".2f"),
    ]
    return [
        f"39 lookups of width 16, batch {x['batch']:,}, the fastest of "
        f"{len(x['sizes'][0]['rounds']['ours'])} rounds. {place(x)}.",
        "",
        *table(columns, list(zip(x["sizes"], best, strict=True))),
    ]


def large(lines: Sequence[Line]) -> list[str]:
    """The whole command at 10^9 floats: start, memory, and what a stop and an evaluation give."""
    last = {(x["floats"], x["ranks"], x.get("storage", "float32")): x for x in lines}
    if not last:
        return ["`python -m benchmarks.speed.large`: not run.", ""]

    def holds(name: str) -> Callable[[Line], str]:
        return lambda x: "equal" if x[name] else "differs"

    columns = [
        Column("floats", lambda x: f"{x['floats']:.0e}"),
        Column("tables", lambda x: x.get("storage", "float32")),
        entry("ranks", "processes", "d"),
        entry("start_seconds", "start, s", ".0f"),
        entry("epoch_seconds", "epoch, s", ".1f"),
        Column("weights and state, GB", lambda x: x["training_bytes"] / 1e9, ".2f"),
        Column("peak, GB", lambda x: x["peak_bytes"] / 1e9, ".2f"),
        Column("at most", lambda x: x["peak_limit"] / 1e9, ".2f"),
        Column("stopped and resumed", holds("resumed_equal")),
        Column("eval", holds("eval_equal")),
    ]
    return [f"{place(next(iter(last.values())))}.", "", *table(columns, last.values())]


def _adam(times: Mapping[str, float]) -> float | None:
    return times["Adam, mean"] / times["ours, mean"] if "Adam, mean" in times else None


def _over(times: Mapping[str, float], name: str) -> float | None:
    return times["ours"] / times[name] if name in times else None


def epochs(lines: Sequence[Line]) -> list[str]:
    """Time per epoch as ratios, from the last line of each data set, and which goals are met."""
    out: list[str] = []
    columns = [
        Column("time per epoch", lambda item: item[0]),
        Column("ratio here (95 %)", lambda item: with_interval(item[1])),
        Column("paper", lambda item: item[1]["paper"], ".2f"),
    ]
    last = {x["fingerprint"]: x for x in lines}
    for x in last.values():
        out += [
            f"{x['rows']:,} training rows, batch {x['batch']:,}, {x['rounds']} rounds in which the "
            f"methods take turns. {place(x)}.",
            "",
            *goals(x["ratios"]),
            "",
            *table(columns, x["ratios"].items()),
        ]
    return out if last else ["`python -m benchmarks.speed.epoch`: not run.", ""]


def goals(ratios: Mapping[str, Line]) -> list[str]:
    """One line per goal: how many meet it, how far they are, and the paper's own ratio."""
    out = []
    wanted = {(k.partition(" / ")[2], r["goal"]) for k, r in ratios.items() if r["goal"]}
    for below, goal in sorted(wanted):
        of_it = [r for k, r in ratios.items() if k.endswith(f" / {below}") and r["goal"] == goal]
        number = sum(r["met"] for r in of_it)
        medians = sorted(r["median"] for r in of_it)
        verdict = (
            f"met by all {number}" if number == len(of_it) else f"missed by {len(of_it) - number}"
        )
        few = "" if number == len(of_it) else f" of {len(of_it)}"
        paper = "".join(f"; the paper's applier: {r['paper']:.2f}" for r in of_it if r["paper"])
        out.append(
            f"* An applier's epoch takes at most {goal} times as long as with {below}: "
            f"**{verdict}{few}** ({medians[0]:.3f} to {medians[-1]:.3f}{paper})."
        )
    return out


def stream(lines: Sequence[Line]) -> list[str]:
    """Rows per second of the stream, and whether training waits for it."""
    if not lines:
        return ["`python -m benchmarks.speed.stream`: not run.", ""]
    x = lines[-1]
    columns = [
        Column("reading 39 columns", lambda item: item[0]),
        Column("rows/s", lambda item: item[1], ",d"),
    ]
    return [
        f"{x['rows']:,} rows, batch {x['batch']:,}. {place(x)}. After the first batch training "
        f"waits for data {100 * x['training']['wait_fraction_after_first']:.0f} % of its time.",
        "",
        *table(columns, x["rows_per_second"].items()),
    ]


def prepare(lines: Sequence[Line]) -> list[str]:
    """Rows per second and memory of preparing files in Criteo's format."""
    if not lines:
        return ["`python -m benchmarks.speed.prepare`: not run.", ""]
    last = {(x["variant"], x["rows"]): x for x in lines}
    columns = [
        entry("variant"),
        entry("rows", format=",d"),
        entry("rows_per_s", "rows/s", ",d"),
        entry("peak_rss_mb", "peak MB", ",d"),
        Column("date", lambda x: x["date"][:10]),
        Column("git", lambda x: x["git_sha"][:7]),
    ]
    return table(columns, last.values())


def regions() -> dict[str, list[str]]:
    parts = {
        "step": step,
        "epoch": epochs,
        "stream": stream,
        "prepare": prepare,
    }
    return {name: show(read(path_of(name))) for name, show in parts.items()}


def rates(lines: Sequence[Line]) -> list[str]:
    """Validation AUC of row-wise Adagrad by its learning rate, beside Adam."""
    if not lines:
        return ["`python -m benchmarks.accuracy.rates`: not run.", ""]
    last = {(x["data"], x["params"], x["fit"]["row_optimizer"], x["factor"]): x for x in lines}
    columns = [
        entry("data", "data"),
        entry("params", "floats", ",d"),
        Column("optimizer", lambda x: x["fit"]["row_optimizer"]),
        Column("rate of the tables", lambda x: x["fit"]["row_lr"], "g"),
        Column("validation AUC", lambda x: sum(x["val_auc"]) / len(x["val_auc"]), ".5f"),
        Column("seeds", lambda x: len(x["val_auc"]), "d"),
        Column("epochs", lambda x: x["fit"]["epochs"], "d"),
    ]
    return table(columns, last.values())


def size_regions() -> dict[str, list[str]]:
    """The regions of the page on size."""
    parts = {"size": size, "large": large, "rates": rates}
    return {name: show(read(path_of(name))) for name, show in parts.items()}
