"""MLET against tables of one layer: test AUC by width d and inner dimension k.

    python -m benchmarks.mlet tune --data data/ml-1m --record
    python -m benchmarks.mlet auc --data data/ml-1m --record
    python -m benchmarks.mlet show

As Figures 5 to 7 and Tables 3 and 4 of Deng et al., on other data: every feature has a table with a
row per id, of width d (``collisionless``), trained as one layer and as two with inner dimension k.
What is stored to serve is the same, sum over features of (ids + 1) d floats.

``tune`` chooses one learning rate and L2 for each way of training, and for MLET the standard
deviation too, by the best VALIDATION AUC of the MLP at d = 8 (k = 32), seed 0. All backbones and
widths share them; AutoInt has one layer of attention. ``auc`` trains every cell with these; it
refuses to start before ``tune`` is recorded. Each model is the one of its best validation epoch;
test rows are read once. Settings differ from the paper's: Adam, batch 4,096, up to ``EPOCHS``
epochs, L2 on the rows (with MLET those of W1), no mean of weights. Its own are one epoch of SGD or
Adagrad.

``show`` prints, for every data set, what was recorded with the choice that ``tune`` makes now, over
the seeds that all cells of a backbone have: AUC by d and k; at the k with the best validation AUC
at d the paired difference of test AUC to one layer, the change of PR-AUC on the 10 % of test
samples with the most and the least frequent ids, and how many times fewer parameters MLET needs for
the AUC of one layer: the width at which its AUC, interpolated linearly in log2 d, is that of one
layer of width d, below d. ``at least`` where the narrowest table has it already.

Runs go to ``--out`` and are found again there; what ``--record`` wrote is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
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
EPOCHS, PATIENCE = 10, 2
HIDDEN = (64, 32)
SHARE = 0.1
SMALL = {"autoint": AutoIntSettings(layers=1)}  # three layers take ten times as long

Line = Mapping[str, Any]


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
    inner: tuple[int, ...] = (16, 64)
    seeds: tuple[int, ...] = (0, 1, 2)

    def pairs(self) -> list[tuple[int, int]]:
        """d and k of every cell, k = 0 for one layer, k above d otherwise."""
        return [(d, k) for d in self.widths for k in (0, *(k for k in self.inner if k > d))]


@dataclass(frozen=True)
class Cell:
    """One training; k = 0 is one layer."""

    backbone: str
    d: int
    k: int
    seed: int
    choice: Choice

    @property
    def model(self) -> ModelSettings:
        mlet = Mlet(self.k, self.choice.std) if self.k else None
        interaction = SMALL.get(self.backbone)
        return ModelSettings(self.backbone, hidden=HIDDEN, interaction=interaction, mlet=mlet)

    @property
    def fit(self) -> FitSettings:
        lr = self.choice.lr
        return FitSettings(
            epochs=EPOCHS,
            patience=PATIENCE,
            batch_size=4096,
            row_lr=lr,
            dense_lr=lr,
            row_l2=self.choice.l2,
            average=0.0,
            seed=self.seed,
        )


def key_of(part: str, cell: Cell, fingerprint: str) -> str:
    """What a line is of, whatever came out."""
    what = [part, fingerprint, asdict(cell), cell.model.as_json(), asdict(cell.fit)]
    return json.dumps(what, sort_keys=True)


def by_key(lines: Sequence[Line]) -> dict[str, Line]:
    """Lines of the record by :func:`key_of`."""
    what = ("part", "data_fingerprint", "cell", "model", "fit")
    return {json.dumps([line[name] for name in what], sort_keys=True): line for line in lines}


def train(cell: Cell, part: str, data: Path, out: Path) -> dict[str, Any]:
    """Train a cell, or find it again in ``out``; its line of the record."""
    policy = recipes.method_policy("collisionless", data, 0, cell.d, cell.d, cell.seed)
    name = f"{read_schema(data).fingerprint}-{cell.backbone}-d{cell.d}-k{cell.k}-seed{cell.seed}"
    folder = out / "-".join([name, *(f"{k}{v:g}" for k, v in asdict(cell.choice).items())])
    run = recipes.train(
        data, policy, folder, cell.model, cell.fit, method="collisionless", resume=True
    )
    rare = recipes.frequency(data, [folder], "test", SHARE)[folder] if part == "auc" else None
    return {
        "part": part,
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
        Cell(backbone, d, k if two_layers else 0, 0, Choice(*choice))
        for choice in product(plan.rates, plan.l2s, plan.stds if two_layers else (0.0,))
    ]


def chosen(
    found: Mapping[str, Line], plan: Plan, fingerprint: str, two_layers: bool
) -> Choice | None:
    """The trial of the plan with the best validation AUC on these data; None until all are there.

    Args:
        found: the record, :func:`by_key`.
    """
    trials = {c.choice: key_of("tune", c, fingerprint) for c in tuning(plan, two_layers)}
    if any(key not in found for key in trials.values()):
        return None
    return max(trials, key=lambda choice: found[trials[choice]]["val_auc"])


def grid(plan: Plan, one: Choice, two: Choice) -> Iterator[Cell]:
    """The cells of ``auc``, seed by seed."""
    for seed, backbone in product(plan.seeds, plan.backbones):
        for d, k in plan.pairs():
            yield Cell(backbone, d, k, seed, two if k else one)


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


def backbone_table(
    cells: Mapping[tuple[int, int], Mapping[int, Line]], plan: Plan
) -> tuple[list[str], list[int]]:
    """A row per width, over the seeds that all ``cells`` have, and these seeds.

    Args:
        cells: lines by (d, k) and seed, of one backbone, data set and choice.
    """
    seeds = sorted(set.intersection(*(set(runs) for runs in cells.values())))
    if not seeds:
        return [], []

    def values(d: int, k: int, key: str) -> list[float]:
        return [cells[d, k][seed][key] for seed in seeds]

    out = [
        "| d | one layer | " + "".join(f"k = {k} | " for k in plan.inner) + "k by validation "
        "| MLET − one layer | fewer parameters | PR-AUC, most frequent | least frequent |",
        "|---" * (7 + len(plan.inner)) + "|",
    ]
    for d in plan.widths:
        row = [
            f"{mean(values(d, k, 'test_auc')):.5f}" if (d, k) in cells else ""
            for k in (0, *plan.inner)
        ]
        inner = [k for k in plan.inner if (d, k) in cells]
        if (d, 0) in cells and inner:
            best = max(inner, key=lambda k: mean(values(d, k, "val_auc")))
            one, two = values(d, 0, "test_auc"), values(d, best, "test_auc")
            change = paired_difference(two, one)
            text = f"{difference(change.mean, change.standard_error)} (p {p_value(change.p)})"
            by_width = {w: mean(values(w, k, "test_auc")) for w, k in cells if k == best}
            ratio = narrower(d, mean(one), by_width)
            times = f"{'at least ' if ratio[1] else ''}{ratio[0]:.1f} times" if ratio else "none"
            row += [str(best), text, times]
            for name in ("most", "least"):
                shares = [
                    cells[d, best][s]["pr_auc"][name] / cells[d, 0][s]["pr_auc"][name]
                    for s in seeds
                ]
                row.append(f"{signed(100 * (mean(shares) - 1), 2)} %")
        else:
            row += [""] * 5
        out.append(f"| {d} | " + " | ".join(row) + " |")
    return out, seeds


def page_lines(lines: Sequence[Line] | None = None, plan: Plan | None = None) -> list[str]:
    """The tables in Markdown, and how much of the plan they hold.

    Args:
        lines: default: the record.
        plan: default: the one of the command without options.
    """
    plan = plan or Plan()
    lines = recorded() if lines is None else lines
    found = by_key(lines)
    names = {line["data_fingerprint"]: line["data"] for line in lines}
    out: list[str] = []
    for fingerprint, name in names.items():
        one, two = (chosen(found, plan, fingerprint, layers) for layers in (False, True))
        trials = [c for layers in (False, True) for c in tuning(plan, layers)]
        done = sum(key_of("tune", c, fingerprint) in found for c in trials)
        if one is None or two is None:
            out += [f"{name}: {done} of {len(trials)} runs of `tune` are recorded, so nothing is "
                    "chosen yet.", ""]  # fmt: skip
            continue
        known: dict[str, dict[tuple[int, int], dict[int, Line]]] = {}
        wanted = list(grid(plan, one, two))
        for c in wanted:
            if line := found.get(key_of("auc", c, fingerprint)):
                known.setdefault(c.backbone, {}).setdefault((c.d, c.k), {})[c.seed] = line
        done = sum(len(runs) for cells in known.values() for runs in cells.values())
        out += [
            f"{name}: {done} of {len(wanted)} runs are recorded. Chosen on validation rows "
            f"({len(trials)} trials): one layer with learning rate {one.lr:g} and L2 {one.l2:g}; "
            f"MLET with {two.lr:g}, {two.l2:g} and a standard deviation of {two.std:g}.",
            "",
        ]
        for backbone in plan.backbones:
            if backbone in known:
                table, seeds = backbone_table(known[backbone], plan)
                listed = ", ".join(map(str, seeds)) or "none in common"
                out += [f"`{backbone}`, test AUC, seeds {listed}:", "", *table, ""]
    return out[:-1] or [f"Nothing is recorded yet; the plan has {_size(plan)} runs."]


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
    parser.add_argument("--limit", type=int, default=0, help="stop after so many new runs")
    parser.add_argument("--out", type=Path, default=Path("runs/mlet"), help="run folders")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--record", action="store_true", help=f"append to {RECORD.name}")
    options = parser.parse_args()
    first, count = options.seeds
    tried = (tuple(options.rates), tuple(options.l2s), tuple(options.stds))
    cells = (tuple(options.only), tuple(options.widths), tuple(options.inner))
    plan = Plan(*tried, *cells, tuple(range(first, first + count)))
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
        if key_of(options.part, cell, fingerprint) in found:
            continue
        line = train(cell, options.part, options.data, options.out)
        print(
            f"{options.part} {cell.backbone:8} d {cell.d:2} k {cell.k:2} seed {cell.seed} "
            f"lr {cell.choice.lr:g} l2 {cell.choice.l2:g} std {cell.choice.std:g}: "
            f"validation {line['val_auc']:.5f}, test {line['test_auc']:.5f}, "
            f"{line['epochs']} epochs, {line['seconds']:.1f} s",
            flush=True,
        )
        if options.record:
            append_jsonl(RECORD, line)
        new += 1
        if new == options.limit:
            return


if __name__ == "__main__":
    main()
