"""MLET against tables of one layer: test AUC by width d and inner dimension k.

    python -m benchmarks.mlet tune --data data/ml-1m --record
    python -m benchmarks.mlet auc --data data/ml-1m --record
    python -m benchmarks.mlet show

As Figures 5 to 7 and Tables 3 and 4 of Deng et al., on other data: every feature has a table with a
row per id, of width d (``collisionless``), trained as one layer and as two with inner dimension k.
What is stored to serve is the same, sum over features of (ids + 1) d floats.

``tune`` chooses one learning rate and L2 for each way of training, and for MLET the standard
deviation too, by the best VALIDATION AUC of the MLP at d = 8 (k = 32), seed 0: 12 runs. All
backbones and widths share them; AutoInt has one layer of attention. ``auc`` trains every cell with
these, 132 runs; it refuses to start before ``tune`` is recorded. Each model is the one of its best
validation epoch; test rows are read once. Settings differ from the paper's: Adam, batch 4,096, up
to 20 epochs, L2 on the rows (with MLET those of W1), no mean of weights. Its own are one epoch of
SGD or Adagrad.

``show`` prints all that is recorded, by data set, by what ``tune`` chose from and by the limit of
epochs, over the seeds that all planned cells of a backbone have: AUC by d and k; for every k the
paired difference of test AUC to one layer, with the p-value of its t-test, not corrected for their
number. At the k with the best validation AUC at d: how many times fewer parameters MLET needs for
the AUC of one layer, which is the width at which its AUC, interpolated linearly in log2 d, is that
of one layer of width d, below d (``at least`` where the narrowest table has it already); and the
change of PR-AUC on the 10 % of test samples with the most and the least frequent ids, and the
difference of these two changes, paired by seed. Runs that were still training at the limit of
epochs are counted, and choices at the edge of what was tried are named.

Runs go to ``--out`` and are found again there; what ``--record`` wrote is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.environment import append_jsonl
from seo_rec import recipes
from seo_rec.backbones import BACKBONES, AutoIntSettings
from seo_rec.cli.main import quiet_libraries
from seo_rec.methods import Mlet
from seo_rec.model import ModelSettings
from seo_rec.report.comparison import paired_difference
from seo_rec.report.formats import difference, p_value, signed
from seo_rec.schema import read_schema
from seo_rec.train import FitSettings

RECORD = Path(__file__).parent / "results" / "mlet.jsonl"
TUNED_AT = ("mlp", 8, 32)  # backbone, d, k
EPOCHS, PATIENCE = 20, 2
HIDDEN = (64, 32)
SHARE = 0.1
SMALL = {"autoint": AutoIntSettings(layers=1)}  # three layers take ten times as long

Line = Mapping[str, Any]
Pair = tuple[int, int]  # d, and k or 0


@dataclass(frozen=True)
class Choice:
    """What ``tune`` chooses: a learning rate, L2 and, for MLET, the standard deviation."""

    lr: float
    l2: float
    std: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What is tried by ``tune`` (``rates``, ``l2s``, ``stds``) and by ``auc`` (the rest)."""

    rates: tuple[float, ...] = (2e-3, 5e-3)
    l2s: tuple[float, ...] = (2e-5, 2e-4)
    stds: tuple[float, ...] = (0.25, 0.5)
    backbones: tuple[str, ...] = ("dlrm", "dcn", "autoint", "mlp")
    widths: tuple[int, ...] = (4, 8, 16)
    inner: tuple[int, ...] = (16, 32, 64)
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = EPOCHS

    def pairs(self) -> list[Pair]:
        """d and k of every cell, k = 0 for one layer, k above d otherwise."""
        return [(d, k) for d in self.widths for k in (0, *(k for k in self.inner if k > d))]

    def tuned(self) -> dict[str, list[float]]:
        """What the settings were chosen from, for a line of ``auc``."""
        return {name: sorted(getattr(self, name)) for name in ("rates", "l2s", "stds")}


@dataclass(frozen=True)
class Cell:
    """One training; k = 0 is one layer."""

    backbone: str
    d: int
    k: int
    seed: int
    choice: Choice
    epochs: int = EPOCHS

    @property
    def model(self) -> ModelSettings:
        mlet = Mlet(self.k, self.choice.std) if self.k else None
        interaction = SMALL.get(self.backbone)
        return ModelSettings(self.backbone, hidden=HIDDEN, interaction=interaction, mlet=mlet)

    @property
    def fit(self) -> FitSettings:
        lr = self.choice.lr
        return FitSettings(
            epochs=self.epochs,
            patience=PATIENCE,
            batch_size=4096,
            row_lr=lr,
            dense_lr=lr,
            row_l2=self.choice.l2,
            average=0.0,
            seed=self.seed,
        )


def key_of(part: str, cell: Cell, fingerprint: str, plan: Plan) -> str:
    """What a line is of, whatever came out."""
    tuned = plan.tuned() if part == "auc" else None
    what = [part, fingerprint, tuned, asdict(cell), cell.model.as_json(), asdict(cell.fit)]
    return json.dumps(what, sort_keys=True)


def by_key(lines: Sequence[Line]) -> dict[str, Line]:
    """Lines of the record by :func:`key_of`."""
    what = ("part", "data_fingerprint", "tuned", "cell", "model", "fit")
    return {json.dumps([line[name] for name in what], sort_keys=True): line for line in lines}


def train(cell: Cell, part: str, data: Path, out: Path, plan: Plan) -> dict[str, Any]:
    """Train a cell, or find it again in ``out``; its line of the record."""
    policy = recipes.method_policy("collisionless", data, 0, cell.d, cell.d, cell.seed)
    name = f"{read_schema(data).fingerprint}-{cell.backbone}-d{cell.d}-k{cell.k}-seed{cell.seed}"
    values = (f"{k}{v:g}" for k, v in asdict(cell.choice).items())
    folder = out / "-".join([name, *values, f"epochs{cell.epochs}"])
    run = recipes.train(
        data, policy, folder, cell.model, cell.fit, method="collisionless", resume=True
    )
    rare = recipes.frequency(data, [folder], "test", SHARE)[folder] if part == "auc" else None
    return {
        "part": part,
        "tuned": plan.tuned() if part == "auc" else None,
        "cell": asdict(cell),
        "data": run.data,
        "data_fingerprint": run.data_fingerprint,
        "model": cell.model.as_json(),
        "fit": asdict(cell.fit),
        "embedding_params": run.embedding_params,
        "val_auc": run.val_auc,
        "test_auc": run.test_auc,
        "test_logloss": run.test_logloss,
        "pr_auc": None if rare is None else asdict(rare),
        "epochs": run.epochs,
        "seconds_per_epoch": run.seconds_per_epoch,
        "seconds": run.seconds,
        "command": run.command,
        "environment": run.environment,
    }


# ---- the plan ----------------------------------------------------------------------------


def tuning(plan: Plan, two_layers: bool) -> list[Cell]:
    """The trials of ``tune`` for one way of training."""
    backbone, d, k = TUNED_AT
    return [
        Cell(backbone, d, k if two_layers else 0, 0, Choice(*choice), plan.epochs)
        for choice in product(plan.rates, plan.l2s, plan.stds if two_layers else (0.0,))
    ]


def chosen(
    found: Mapping[str, Line], plan: Plan, fingerprint: str, two_layers: bool
) -> Choice | None:
    """The trial of the plan with the best validation AUC on these data; None until all are there.

    Args:
        found: the record, :func:`by_key`.
    """
    trials = {c.choice: key_of("tune", c, fingerprint, plan) for c in tuning(plan, two_layers)}
    if any(key not in found for key in trials.values()):
        return None
    return max(trials, key=lambda choice: found[trials[choice]]["val_auc"])


def grid(plan: Plan, one: Choice, two: Choice) -> Iterator[Cell]:
    """The cells of ``auc``, seed by seed."""
    for seed, backbone in product(plan.seeds, plan.backbones):
        for d, k in plan.pairs():
            yield Cell(backbone, d, k, seed, two if k else one, plan.epochs)


# ---- the tables --------------------------------------------------------------------------


def narrower(d: int, auc: float, by_width: Mapping[int, float]) -> tuple[float, bool] | None:
    """How many times narrower MLET has the AUC of one layer of width d, and whether at least.

    Args:
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


def backbone_table(cells: Mapping[Pair, Mapping[int, Line]], plan: Plan) -> list[str]:
    """The seeds that all planned ``cells`` have, and over these a row per width.

    Cells outside the plan that lack one of these seeds are named and left out.

    Args:
        cells: lines by (d, k) and seed, of one backbone, data set and choice.
    """
    planned = [set(runs) for pair, runs in cells.items() if pair in plan.pairs()]
    common = set.intersection(*(planned or [set(runs) for runs in cells.values()]))
    listed = ", ".join(map(str, sorted(common))) or "none in common"
    there = {pair: runs for pair, runs in cells.items() if common <= set(runs)}
    out = [f"seeds {listed}:", ""]
    if common:
        out += [*_rows(there, sorted(common)), ""]
    if few := [f"d = {d}, k = {k}" for d, k in sorted(set(cells) - set(there))]:
        out += [f"With fewer seeds, not shown: {'; '.join(few)}.", ""]
    return out


def _rows(cells: Mapping[Pair, Mapping[int, Line]], seeds: Sequence[int]) -> list[str]:
    inner = sorted({k for _, k in cells if k})

    def values(d: int, k: int, key: str) -> list[float]:
        return [cells[d, k][seed][key] for seed in seeds]

    out = [
        "| d | one layer | " + "".join(f"k = {k} | − one layer | " for k in inner)
        + "k by validation | fewer parameters | PR-AUC, most frequent | least frequent "
        "| least − most |",
        "|---" * (7 + 2 * len(inner)) + "|",
    ]  # fmt: skip
    for d in sorted({d for d, _ in cells}):
        one = values(d, 0, "test_auc") if (d, 0) in cells else []
        row = [f"{mean(one):.5f}" if one else ""]
        for k in inner:
            two = values(d, k, "test_auc") if (d, k) in cells else []
            row += [f"{mean(two):.5f}" if two else "", ""]
            if one and two:
                change = paired_difference(two, one)
                text = difference(change.mean, change.standard_error)
                row[-1] = f"{text} (p {p_value(change.p)})"
        known = [k for k in inner if (d, k) in cells]
        if one and known:
            best = max(known, key=lambda k: mean(values(d, k, "val_auc")))
            by_width = {w: mean(values(w, k, "test_auc")) for w, k in cells if k == best}
            ratio = narrower(d, mean(one), by_width)
            row += [str(best), _times(ratio)]
            most, least = (
                [
                    100 * (cells[d, best][s]["pr_auc"][name] / cells[d, 0][s]["pr_auc"][name] - 1)
                    for s in seeds
                ]
                for name in ("most", "least")
            )
            row += [f"{signed(mean(changes), 2)} %" for changes in (most, least)]
            apart = paired_difference(least, most)
            row.append(difference(apart.mean, apart.standard_error, 2))
        else:
            row += [""] * 5
        out.append(f"| {d} | " + " | ".join(row) + " |")
    return out


def _times(ratio: tuple[float, bool] | None) -> str:
    """What :func:`narrower` found, in words."""
    if ratio is None:
        return "none"
    if ratio == (1.0, True):
        return "no narrower table tried"
    return f"{'at least ' if ratio[1] else ''}{ratio[0]:.1f} times"


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


def capped(lines: Sequence[Line]) -> str:
    """How many runs used all epochs they were given, so that more might have helped."""
    at_limit = sum(line["epochs"] >= line["fit"]["epochs"] for line in lines)
    return f"{at_limit} of {len(lines)} runs hit the limit of epochs"


def page_lines(lines: Sequence[Line] | None = None, plan: Plan | None = None) -> list[str]:
    """The tables in Markdown of all that is recorded, and how much of the plan they hold.

    Args:
        lines: default: the record.
        plan: what is counted as planned; default: the one of the command without options.
    """
    plan = plan or Plan()
    lines = recorded() if lines is None else lines
    groups: dict[str, tuple[str, Plan]] = {}  # data and plan of what is shown together
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
    return out[:-1] or [f"Nothing is recorded yet; the plan has {_size(plan)} runs."]


def _group(lines: Sequence[Line], fingerprint: str, plan: Plan) -> list[str]:
    """Text and tables of one data set, with what was tuned over and the epochs of ``plan``."""
    found = by_key([x for x in lines if x["data_fingerprint"] == fingerprint])
    name = next(line["data"] for line in found.values())
    one, two = (chosen(found, plan, fingerprint, layers) for layers in (False, True))
    trials = [c for layers in (False, True) for c in tuning(plan, layers)]
    tried = [x for c in trials if (x := found.get(key_of("tune", c, fingerprint, plan)))]
    title = f"{name}, fingerprint `{fingerprint}`, at most {plan.epochs} epochs"
    if one is None or two is None:
        return [f"{title}: {len(tried)} of {len(trials)} runs of `tune` are recorded, so nothing "
                "is chosen yet.", ""]  # fmt: skip
    known: dict[str, dict[Pair, dict[int, Line]]] = {}
    shown, others = [], 0
    for key, line in found.items():
        if line["part"] != "auc" or line["tuned"] != plan.tuned():
            continue
        cell = Cell(**{**line["cell"], "choice": Choice(**line["cell"]["choice"])})
        if cell.epochs != plan.epochs:
            continue
        chosen_here = cell.choice == (two if cell.k else one)
        if not chosen_here or key != key_of("auc", cell, fingerprint, plan):
            others += 1
            continue
        known.setdefault(cell.backbone, {}).setdefault((cell.d, cell.k), {})[cell.seed] = line
        shown.append(key)
    wanted = [key_of("auc", c, fingerprint, plan) for c in grid(plan, one, two)]
    done = len(set(wanted) & set(shown))
    more = f", and {len(shown) - done} more" if len(shown) > done else ""
    hidden = f" {others} of other settings are not shown." if others else ""
    out = [
        f"{title}: {done} of {len(wanted)} planned runs are recorded{more}.{hidden} Chosen on "
        f"validation rows: one layer, of {len(tuning(plan, False))} trials, with learning rate "
        f"{one.lr:g} and L2 {one.l2:g}; MLET, of {len(tuning(plan, True))}, with {two.lr:g}, "
        f"{two.l2:g} and a standard deviation of {two.std:g}. "
        f"{_edges_of_both(one, two, plan)}"
        f"{capped([*tried, *(found[key] for key in shown)])}, those of `tune` included.",
        "",
    ]
    for backbone, cells in known.items():
        first, *rest = backbone_table(cells, plan)
        out += [f"`{backbone}`, test AUC, {first}", *rest]
    return out


def _edges_of_both(one: Choice, two: Choice, plan: Plan) -> str:
    found = {"one layer": edges(one, plan.tuned()), "MLET": edges(two, plan.tuned())}
    said = "; ".join(f"{name}: {text}" for name, text in found.items() if text)
    return f"At the edge of what was tried are, {said}. " if said else ""


def _size(plan: Plan) -> int:
    tried = len(tuning(plan, False)) + len(tuning(plan, True))
    return tried + len(plan.seeds) * len(plan.backbones) * len(plan.pairs())


def recorded() -> list[dict[str, Any]]:
    return [json.loads(x) for x in RECORD.read_text().splitlines()] if RECORD.exists() else []


def main() -> None:
    default = Plan()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=("tune", "auc", "show"))
    parser.add_argument("--data", type=Path, help="prepared data set")
    parser.add_argument("--only", nargs="*", choices=BACKBONES, default=default.backbones,
                        metavar="BACKBONE", help="backbones of `auc`")  # fmt: skip
    parser.add_argument("--widths", type=int, nargs="*", default=default.widths, help="of `auc`")
    parser.add_argument("--inner", type=int, nargs="*", default=default.inner, help="of `auc`")
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "COUNT"), default=(0, 3))
    parser.add_argument("--rates", type=float, nargs="*", default=default.rates, help="of `tune`")
    parser.add_argument("--l2s", type=float, nargs="*", default=default.l2s, help="of `tune`")
    parser.add_argument("--stds", type=float, nargs="*", default=default.stds, help="of `tune`")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of a run, at most")
    parser.add_argument("--limit", type=int, default=0, help="stop after so many new runs")
    parser.add_argument("--out", type=Path, default=Path("runs/mlet"), help="run folders")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--record", action="store_true", help=f"append to {RECORD.name}")
    options = parser.parse_args()
    first, count = options.seeds
    tried = (tuple(options.rates), tuple(options.l2s), tuple(options.stds))
    cells = (tuple(options.only), tuple(options.widths), tuple(options.inner))
    plan = Plan(*tried, *cells, tuple(range(first, first + count)), options.epochs)
    if options.part == "show":
        print("\n".join(page_lines(plan=plan)))
        return
    if options.data is None:
        parser.error("--data is needed to train")
    torch.set_num_threads(options.threads)
    quiet_libraries()
    fingerprint = read_schema(options.data).fingerprint
    found = by_key(recorded())
    if options.part == "tune":
        wanted = [*tuning(plan, False), *tuning(plan, True)]
    else:
        one, two = (chosen(found, plan, fingerprint, layers) for layers in (False, True))
        if one is None or two is None:
            parser.error(f"not all trials of these data are in {RECORD}; run `tune --record` first")
        wanted = list(grid(plan, one, two))
    new = 0
    for cell in wanted:
        key = key_of(options.part, cell, fingerprint, plan)
        if key in found:
            continue
        line = train(cell, options.part, options.data, options.out, plan)
        print(
            f"{options.part} {cell.backbone:8} d {cell.d:2} k {cell.k:2} seed {cell.seed} "
            f"lr {cell.choice.lr:g} l2 {cell.choice.l2:g} std {cell.choice.std:g}: "
            f"validation {line['val_auc']:.5f}, test {line['test_auc']:.5f}, "
            f"{line['epochs']} epochs, {line['seconds']:.1f} s",
            flush=True,
        )
        if options.record:
            append_jsonl(RECORD, line)
        found[key] = line
        new += 1
        if new == options.limit:
            break
    keys = (key_of(options.part, cell, fingerprint, plan) for cell in wanted)
    print(capped([found[key] for key in keys if key in found]))


if __name__ == "__main__":
    main()
