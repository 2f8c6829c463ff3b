"""Ids that come and go: one budget of hashed tables, trained online, over days of a stream.

    python -m benchmarks.churn --record             # the runs, 5 to 44 s each and the searches
    python -m benchmarks.churn --page               # tables and plot of docs/measured/churn.md
    python -m benchmarks.churn --scenarios own --enter 0.3,0.05 --vanish 0.1 --seeds 1

The stream is the synthetic world with churn (``seo_rec.data.synthetic.Churn``): ``SCENARIOS`` says
how many ids of its columns enter and vanish from day to day. Progressive validation: a day is
scored by the model as it stood the evening before, then trained on, once, in its order. What is
known beforehand is the first ``first_days``: the tables' rows (where they go by vocabularies), the
policy that SEO searches, and the ids of ``collisionless-first``. Scores count from the day after.

``collisionless-first`` and ``collisionless-all`` (which knows the ids of the whole stream
beforehand) are references; their size is their own. Everything else has ``params`` floats.

Worlds and finished runs are kept in ``--out`` and not made twice, nor is what the record holds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.environment import append_jsonl, stamp
from seo_rec import recipes
from seo_rec.batch import Batch
from seo_rec.cli.main import quiet_libraries
from seo_rec.data.split import Split
from seo_rec.data.stream import Stream
from seo_rec.data.synthetic import Churn, synthetic
from seo_rec.files import write_text
from seo_rec.metrics import binary_metrics
from seo_rec.model import ModelSettings, RecModel, build_model
from seo_rec.policy import Policy
from seo_rec.report.comparison import paired_difference, spread
from seo_rec.report.formats import difference, number, plus_minus
from seo_rec.schema import read_schema
from seo_rec.search.seo import SeoSettings
from seo_rec.train import FitSettings, make_optimizers

RECORD = Path(__file__).parent / "results" / "churn.jsonl"
PAGE = Path(__file__).parent.parent / "docs" / "measured" / "churn.md"
PLOT = PAGE.with_suffix(".png")
BEGIN, END = "<!-- measured: python -m benchmarks.churn --page -->", "<!-- end of measured -->"

WORLD: dict[str, Any] = {
    "strong": 4, "weak": 2, "noise": 2, "numeric": 0, "strong_vocab": 1000, "weak_vocab": 100,
    "noise_vocab": 2000, "rank": 2, "signal": 2.5, "zipf": 1.0,
}  # fmt: skip
SCENARIOS = {
    "still": ((0.0,), (0.0,)),
    "steady": ((0.1,), (0.1,)),
    "uneven": ((0.15, 0.02), (0.02, 0.15)),
}
METHODS = (
    "separate",
    "separate-cardinality",
    "monolithic",
    "multi-size",
    "multi-size-4",
    "seo-rr",
    "seo-rr-4",
    "collisionless-first",
    "collisionless-all",
)
CHUNK_DIMS = {"seo-rr": 8, "seo-rr-4": 4}
DIM = 16
MODEL = ModelSettings(hidden=(128, 64))
REFERENCE = "separate"
PAIRS = (
    ("multi-size-4", "monolithic"),
    ("multi-size-4", "collisionless-first"),
    ("seo-rr", "multi-size"),
    ("seo-rr-4", "multi-size-4"),
)
LATE = 4  # days at the end that have a column of their own
# Drawn methods and their colours (Okabe and Ito); the plain forms of each kind are solid.
DRAWN = {
    "separate": ("#E69F00", "-"),
    "separate-cardinality": ("#E69F00", ":"),
    "monolithic": ("#56B4E9", "-"),
    "multi-size-4": ("#0072B2", "-"),
    "seo-rr-4": ("#D55E00", "-"),
    "collisionless-first": ("#009E73", "-"),
    "collisionless-all": ("#009E73", ":"),
}

Line = dict[str, Any]
Over = Callable[[Line, str], float]


@dataclass(frozen=True)
class Protocol:
    """``params``: floats of the tables; ``lr``: Adam's, of tables and backbone;
    ``search_epochs``: of SEO's search over the first days, at most."""

    days: int = 16
    first_days: int = 4
    rows_per_day: int = 32_768
    batch_size: int = 512
    params: int = 16_000
    lr: float = 2e-3
    search_epochs: int = 8

    def __post_init__(self) -> None:
        if not 1 < self.first_days < self.days:
            raise ValueError(f"first_days {self.first_days}; allowed: 2 to {self.days - 1}")
        if self.rows_per_day % self.batch_size:
            raise ValueError(
                f"rows_per_day {self.rows_per_day}; allowed: multiples of {self.batch_size}"
            )
        if self.params % DIM:
            raise ValueError(f"params {self.params}; allowed: multiples of {DIM}")


# ---- the stream ------------------------------------------------------------------------------


def worlds(what: Line, folder: Path) -> tuple[Path, Path]:
    """The data sets of the first days (split at random) and of all days (in order)."""
    protocol = Protocol(**what["protocol"])
    found = []
    for name, days, split in (
        ("first", protocol.first_days, Split()),
        ("stream", protocol.days, Split("temporal", fractions=(1.0, 0.0, 0.0))),
    ):
        data = folder / name
        if not data.exists():
            synthetic(
                data,
                rows=days * protocol.rows_per_day,
                seed=what["seed"],
                churn=Churn(days, tuple(what["enter"]), tuple(what["vanish"])),
                split=split,
                **what["world"],
            )
        found.append(data)
    return found[0], found[1]


def days_of(data: Path, policy: Policy, protocol: Protocol) -> Iterator[list[Batch]]:
    """The batches of one day after the other."""
    names = [f.name for f in policy.features]
    batches = iter(Stream(data, "train", batch_size=protocol.batch_size, columns=names))
    per_day = protocol.rows_per_day // protocol.batch_size
    while day := list(islice(batches, per_day)):
        yield day


# ---- one run ---------------------------------------------------------------------------------


def policy_of(what: Line, first: Path, stream: Path, folder: Path) -> Policy:
    """The policy of a method, from what is known after the first days."""
    protocol, seed, method = Protocol(**what["protocol"]), what["seed"], what["method"]
    if method in CHUNK_DIMS:
        settings = SeoSettings(
            budget_rows=protocol.params // DIM, dim=DIM, chunk_dim=CHUNK_DIMS[method]
        )
        fit = FitSettings(
            epochs=protocol.search_epochs,
            batch_size=protocol.batch_size,
            row_lr=protocol.lr,
            dense_lr=protocol.lr,
            seed=seed,
        )
        found = recipes.search_attention(first, settings, MODEL, fit, folder)
        return recipes.paper_policy(found, settings, "round-robin")
    kind, _, known = method.partition("-")
    if kind == "collisionless":
        data = {"first": first, "all": stream}[known]
        return recipes.method_policy(kind, data, 0, DIM, 8, seed)
    return recipes.method_policy(method, first, protocol.params, DIM, 8, seed)


def online(stream: Path, policy: Policy, protocol: Protocol, seed: int) -> Line:
    """AUC and log loss of every day, scored before it is trained on."""
    model = build_model(policy, 0, MODEL, seed)
    optimizers = make_optimizers(model, "adam", protocol.lr, protocol.lr).values()
    aucs, losses = [], []
    for batches in days_of(stream, policy, protocol):
        labels = np.concatenate([batch.labels_B.numpy() for batch in batches])
        metrics = binary_metrics(score(model, batches), labels)
        aucs.append(metrics.auc)
        losses.append(metrics.log_loss)
        model.train()
        for batch in batches:
            for optimizer in optimizers:
                optimizer.zero_grad()
            model(batch)[0].backward()
            for optimizer in optimizers:
                optimizer.step()
    return {"auc": aucs, "log_loss": losses}


def score(model: RecModel, batches: Sequence[Batch]) -> np.ndarray[Any, Any]:
    model.eval()
    with torch.no_grad():
        return np.concatenate([model(batch)[1].numpy() for batch in batches])


def one(what: Line, out: Path) -> Line:
    """Make the world, the policy and the run of one line of the record."""
    folder = out / f"{what['scenario']}-{what['seed']}-{_digest(what)}"
    first, stream = worlds(what, folder)
    started = time.perf_counter()
    policy = policy_of(what, first, stream, folder / "searches")
    search_seconds = time.perf_counter() - started
    started = time.perf_counter()
    by_day = online(stream, policy, Protocol(**what["protocol"]), what["seed"])
    truth = read_schema(stream).options["truth"]["days"]
    return {
        "what": what,
        **by_day,
        "bayes_auc": truth["bayes_auc"],
        "bayes_log_loss": truth["bayes_log_loss"],
        "params": policy.num_params,
        "policy": recipes.describe(policy),
        "policy_seconds": search_seconds,
        "seconds": time.perf_counter() - started,
        "command": recipes.command_line(),
        "environment": stamp(),
    }


def _digest(what: Line) -> str:
    world = {k: v for k, v in what.items() if k != "method"}
    return hashlib.sha256(json.dumps(world, sort_keys=True).encode()).hexdigest()[:8]


def wanted(options: argparse.Namespace) -> Iterator[Line]:
    """What to run, seed after seed."""
    protocol = replace(
        Protocol(), days=options.days, rows_per_day=options.rows_per_day, params=options.params
    )
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for scenario in options.scenarios:
            own = (options.enter, options.vanish)
            enter, vanish = SCENARIOS.get(scenario, own)
            for method in options.methods:
                yield {
                    "scenario": scenario,
                    "enter": list(enter),
                    "vanish": list(vanish),
                    "method": method,
                    "seed": seed,
                    "protocol": asdict(protocol),
                    "world": WORLD,
                }


# ---- tables and plot -------------------------------------------------------------------------


def key_of(what: Line) -> str:
    return json.dumps(what, sort_keys=True)


def read(path: Path) -> dict[str, Line]:
    """The lines of a record by what they are; a line cut short by a kill is left out."""
    found = {}
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        found[key_of(line["what"])] = line
    return found


def counted(line: Line, key: str) -> float:
    """The mean of a metric over the days that count."""
    return float(np.mean(line[key][line["what"]["protocol"]["first_days"] :]))


def late(line: Line, key: str) -> float:
    """The mean of a metric over the last days."""
    return float(np.mean(line[key][-LATE:]))


def of(lines: Sequence[Line], scenario: str, method: str) -> dict[int, Line]:
    """Lines by seed."""
    chosen = [x["what"] for x in lines]
    return {
        w["seed"]: x
        for w, x in zip(chosen, lines, strict=True)
        if (w["scenario"], w["method"]) == (scenario, method)
    }


def mean_and_error(values: Sequence[float], digits: int = 4) -> str:
    found = spread(values)
    return plus_minus(found.mean, found.sd / found.n**0.5, digits)


def against(runs: dict[int, Line], others: dict[int, Line], key: str, over: Over = counted) -> str:
    """The paired difference over the seeds that both have, with its standard error."""
    seeds = sorted(set(runs) & set(others))
    if not seeds or runs is others:
        return ""
    d = paired_difference(
        [over(runs[s], key) for s in seeds], [over(others[s], key) for s in seeds]
    )
    return difference(d.mean, d.standard_error, 4)


def table(lines: Sequence[Line], scenario: str) -> list[str]:
    """One scenario: means over the days that count and over seeds, with standard errors."""
    reference = of(lines, scenario, REFERENCE)
    out = [
        f"| method | floats | AUC | − {REFERENCE} | last {LATE} days | log loss | − {REFERENCE} | "
        "− without churn |",
        "|---" * 8 + "|",
    ]
    for method in METHODS:
        runs = of(lines, scenario, method)
        if not runs:
            continue
        still = of(lines, "still", method)
        still = runs if scenario == "still" else still
        same = reference if method != REFERENCE else runs
        out.append(
            f"| `{method}` | {number(spread([x['params'] for x in runs.values()]).mean, 0)} | "
            f"{mean_and_error([counted(x, 'auc') for x in runs.values()])} | "
            f"{against(runs, same, 'auc')} | "
            f"{mean_and_error([late(x, 'auc') for x in runs.values()])} | "
            f"{mean_and_error([counted(x, 'log_loss') for x in runs.values()])} | "
            f"{against(runs, same, 'log_loss')} | {against(runs, still, 'auc')} |"
        )
    best = list(reference.values())
    out.append(
        f"| the true probabilities | | {mean_and_error([counted(x, 'bayes_auc') for x in best])} | "
        f"| {mean_and_error([late(x, 'bayes_auc') for x in best])} | "
        f"{mean_and_error([counted(x, 'bayes_log_loss') for x in best])} | | |"
    )
    return out


def pairs_table(lines: Sequence[Line]) -> list[str]:
    """Differences of AUC that the page speaks of: over the days that count, over the last ones."""
    names = scenarios_of(lines)
    heads = [f"{s} | {s}, last {LATE} days" for s in names]
    out = ["| AUC | " + " | ".join(heads) + " |", "|---" * (1 + 2 * len(names)) + "|"]
    for one_of, other in PAIRS:
        cells = [
            against(of(lines, s, one_of), of(lines, s, other), "auc", over)
            for s in names
            for over in (counted, late)
        ]
        out.append(f"| `{one_of}` − `{other}` | " + " | ".join(cells) + " |")
    return out


def title_of(lines: Sequence[Line], scenario: str) -> str:
    what = next(x["what"] for x in lines if x["what"]["scenario"] == scenario)

    def share(values: Sequence[float]) -> str:
        return " and ".join(f"{100 * v:g} %" for v in values)

    if not any(what["enter"]) and not any(what["vanish"]):
        return f"{scenario}: no churn"
    return f"{scenario}: {share(what['enter'])} enter, {share(what['vanish'])} vanish a day"


def scenarios_of(lines: Sequence[Line]) -> list[str]:
    return list(dict.fromkeys(x["what"]["scenario"] for x in lines))


def draw(lines: Sequence[Line], path: Path) -> None:
    """AUC and log loss by day: means over seeds, bands of one standard error."""
    names = scenarios_of(lines)
    figure = Figure(figsize=(4.2 * len(names), 6.4), layout="constrained")
    axes = figure.subplots(2, len(names), sharex=True, sharey="row", squeeze=False)
    for column, scenario in enumerate(names):
        for row, key in enumerate(("auc", "log_loss")):
            _panel(axes[row, column], lines, scenario, key)
        axes[0, column].set_title(title_of(lines, scenario), fontsize=9)
        axes[1, column].set_xlabel("day")
    axes[0, 0].set_ylabel("AUC of the day, before training on it")
    axes[1, 0].set_ylabel("log loss (nats)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


def _panel(ax: Axes, lines: Sequence[Line], scenario: str, key: str) -> None:
    drawn = [(m, of(lines, scenario, m), key, *style) for m, style in DRAWN.items()]
    truth = ("the true probabilities", of(lines, scenario, REFERENCE), f"bayes_{key}", "#666666")
    for name, runs, metric, colour, dash in [*drawn, (*truth, "--")]:
        if not runs:
            continue
        values_SD = np.array([x[metric][1:] for x in runs.values()])
        days = np.arange(2, 2 + values_SD.shape[1])
        mean = values_SD.mean(axis=0)
        ax.plot(days, mean, dash, color=colour, linewidth=1.5, label=name)
        if len(values_SD) > 1:
            error = values_SD.std(axis=0, ddof=1) / len(values_SD) ** 0.5
            ax.fill_between(days, mean - error, mean + error, color=colour, alpha=0.18, linewidth=0)
    first = lines[0]["what"]["protocol"]["first_days"]
    ax.axvline(first + 0.5, color="#999999", linewidth=0.8)
    ax.grid(color="#e3e3e3", linewidth=0.7)
    ax.spines[["top", "right"]].set_visible(False)


def page(lines: Sequence[Line]) -> None:
    """Write the measured part of the page, and the plot."""
    if not lines:
        raise SystemExit(f"{RECORD} has no line of this protocol; run with --record first")
    before, begin, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    if not begin:
        raise SystemExit(f"{PAGE} lacks the line {BEGIN}")
    seeds = len({x["what"]["seed"] for x in lines})
    environment = lines[-1]["environment"]
    out = [
        BEGIN,
        "",
        f"Seeds (worlds): {seeds}; mean ± standard error over them, differences paired by seed. "
        f"torch {environment['torch']}, {environment['threads']} thread(s).",
        "",
    ]
    for scenario in scenarios_of(lines):
        out += [f"**{title_of(lines, scenario)}**", "", *table(lines, scenario), ""]
    out += ["**Between methods**", "", *pairs_table(lines), ""]
    write_text(PAGE, before + "\n".join([*out, END]) + after)
    draw(lines, PLOT)


def shares(text: str) -> tuple[float, ...]:
    return tuple(float(share) for share in text.split(","))


def main(arguments: Sequence[str] | None = None) -> None:
    default = Protocol()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenarios", nargs="*", default=list(SCENARIOS), help="or `own`")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--enter", type=shares, default=(0.1,), help="of `own`: shares a day")
    parser.add_argument("--vanish", type=shares, default=(0.1,), help="of `own`: shares a day")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--days", type=int, default=default.days)
    parser.add_argument("--rows-per-day", type=int, default=default.rows_per_day)
    parser.add_argument("--params", type=int, default=default.params, help="budget in floats")
    parser.add_argument("--out", type=Path, default=Path("runs/churn"), help="worlds and runs")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    parser.add_argument("--page", action="store_true", help="write the page, run nothing")
    options = parser.parse_args(arguments)
    if unknown := [s for s in options.scenarios if s not in (*SCENARIOS, "own")]:
        parser.error(f"scenarios {unknown}; allowed: {', '.join((*SCENARIOS, 'own'))}")
    torch.set_num_threads(options.threads)
    quiet_libraries()
    recorded, kept = read(RECORD), read(options.out / "runs.jsonl")
    if options.page:
        asked = {key_of({**w, "seed": 0}) for w in wanted(options)}
        page([x for x in recorded.values() if key_of({**x["what"], "seed": 0}) in asked])
        return
    print(json.dumps(stamp(), sort_keys=True))
    lines = []
    for what in wanted(options):
        key = key_of(what)
        line = recorded.get(key) or kept.get(key)
        if line is None:
            line = one(what, options.out)
            append_jsonl(options.out / "runs.jsonl", line)
        if options.record and key not in recorded:
            append_jsonl(RECORD, line)
        lines.append(line)
        print(
            f"{what['scenario']:8} {what['seed']} {what['method']:21} {line['params']:8,} "
            f"AUC {counted(line, 'auc'):.4f} of {counted(line, 'bayes_auc'):.4f}, log loss "
            f"{counted(line, 'log_loss'):.4f}, {line['seconds']:.1f} s",
            flush=True,
        )
    for scenario in scenarios_of(lines):
        print(f"\n{title_of(lines, scenario)}\n")
        print("\n".join(table(lines, scenario)))


if __name__ == "__main__":
    main()
