"""MLET against tables of one layer: test AUC by width d and inner dimension k.

    python -m benchmarks.mlet tune --data data/ml-1m --record
    python -m benchmarks.mlet auc --data data/ml-1m --record
    python -m benchmarks.mlet show

As Figures 5 to 7 and Tables 3 and 4 of Deng et al., on other data: every feature has a table with a
row per id, of width d (``collisionless``), trained as one layer and as two with inner dimension k.
What is stored to serve is the same, sum over features of (ids + 1) d floats.

``tune`` chooses, for every backbone, learning rate and L2 of each way of training and MLET's
standard deviation, by the best VALIDATION AUC at d = 4 (k = 32), seed 0, among ``RATES``, ``L2S``
and ``STDS``.
``auc`` trains every cell with what ``tune`` recorded, or with ``DEFAULT`` where it recorded nothing
(the line says which). Each model is the one of its best validation epoch; test rows are read once.
Settings differ from the paper's: Adam, batch 4,096, up to ``EPOCHS`` epochs, L2 on the rows (with
MLET those of W1), no mean of weights. Its own are one epoch of SGD or Adagrad.

``show`` prints AUC by d and k (mean over seeds), PR-AUC on the 10 % of test samples with the most
and the least frequent ids as a change over one layer, and how many times fewer parameters MLET
needs for the AUC of one layer: the width at which its AUC, interpolated linearly in log2 d, is that
of one layer of width d, below d; of all k. ``at least`` where the narrowest table has it already.

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
from seo_rec.cli.main import quiet_libraries
from seo_rec.methods import Mlet
from seo_rec.model import ModelSettings
from seo_rec.schema import read_schema
from seo_rec.train import FitSettings

RECORD = Path(__file__).parent / "results" / "mlet.jsonl"
BACKBONES = ("dlrm", "dcn", "autoint", "mlp")
WIDTHS = (2, 4, 8, 16)
INNER = (16, 32, 64)
RATES = (1e-3, 3e-3, 1e-2)
STDS = (0.25, 0.5)
L2S = (2e-5, 2e-4)
TUNED_AT = (4, 32)  # d, k
EPOCHS = 12
HIDDEN = (64, 32)
SHARE = 0.1


@dataclass(frozen=True)
class Choice:
    """What ``tune`` chooses: a learning rate, L2 and, for MLET, the standard deviation."""

    lr: float
    l2: float
    std: float = 0.0


DEFAULT = {
    False: Choice(2e-3, 2e-4),
    True: Choice(2e-3, 2e-4, 0.25),
}  # by whether there are two layers


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
        return ModelSettings(self.backbone, hidden=HIDDEN, mlet=mlet)

    @property
    def fit(self) -> FitSettings:
        lr = self.choice.lr
        return FitSettings(
            epochs=EPOCHS,
            patience=2,
            batch_size=4096,
            row_lr=lr,
            dense_lr=lr,
            row_l2=self.choice.l2,
            average=0.0,
            seed=self.seed,
        )


def train(cell: Cell, part: str, data: Path, out: Path) -> dict[str, Any]:
    """Train a cell, or find it again in ``out``; its line of the record."""
    policy = recipes.method_policy("collisionless", data, 0, cell.d, cell.d, cell.seed)
    name = f"{cell.backbone}-d{cell.d}-k{cell.k}-seed{cell.seed}"
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


def tuning(backbones: Sequence[str]) -> Iterator[Cell]:
    """The trials of ``tune``."""
    d, k = TUNED_AT
    for backbone in backbones:
        for lr, l2 in product(RATES, L2S):
            yield Cell(backbone, d, 0, 0, Choice(lr, l2))
            for std in STDS:
                yield Cell(backbone, d, k, 0, Choice(lr, l2, std))


def chosen(lines: Sequence[Mapping[str, Any]], backbone: str, two_layers: bool) -> Choice | None:
    """The trial with the best validation AUC; None if not all trials were recorded."""
    trials = [
        line
        for line in lines
        if line["part"] == "tune"
        and line["cell"]["backbone"] == backbone
        and bool(line["cell"]["k"]) == two_layers
    ]
    if len(trials) < len(RATES) * len(L2S) * (len(STDS) if two_layers else 1):
        return None
    return Choice(**max(trials, key=lambda line: line["val_auc"])["cell"]["choice"])


def grid(
    backbones: Sequence[str], seeds: Sequence[int], lines: Sequence[Mapping[str, Any]]
) -> Iterator[Cell]:
    """The cells of ``auc``, seed by seed."""
    for seed in seeds:
        for backbone in backbones:
            for d in WIDTHS:
                for k in (0, *(k for k in INNER if k > d)):
                    choice = chosen(lines, backbone, k > 0) or DEFAULT[k > 0]
                    yield Cell(backbone, d, k, seed, choice)


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


def show(lines: Sequence[Mapping[str, Any]], backbones: Sequence[str]) -> None:
    """The tables of what was recorded."""
    cells: dict[tuple[str, int, int], list[Mapping[str, Any]]] = {}
    for line in lines:
        if line["part"] == "auc":
            c = line["cell"]
            cells.setdefault((c["backbone"], c["d"], c["k"]), []).append(line)
    for backbone in backbones:
        found = {(d, k): v for (b, d, k), v in cells.items() if b == backbone}
        if not found:
            continue
        print(f"\n{backbone}: one layer {chosen(lines, backbone, False) or 'default'}, "
              f"MLET {chosen(lines, backbone, True) or 'default'}")  # fmt: skip
        auc = {key: mean(line["test_auc"] for line in v) for key, v in found.items()}
        heading = "".join(f"{'k=' + str(k) if k else 'one layer':>12}" for k in (0, *INNER))
        print(f"{'d':>4} {heading} {'fewer parameters':>18}   most / least frequent, best k")
        for d in WIDTHS:
            if (d, 0) not in auc:
                continue
            row = "".join(
                f"{auc[d, k]:12.5f}" if (d, k) in auc else f"{'':12}" for k in (0, *INNER)
            )
            ratios = [
                narrower(d, auc[d, 0], {w: a for (w, i), a in auc.items() if i == k}) for k in INNER
            ]
            best = max((r for r in ratios if r), default=None)
            times = "none" if best is None else f"{'>= ' if best[1] else ''}{best[0]:.1f} x"
            print(f"{d:4} {row} {times:>18}   {_rare(found, d)}")


def _rare(found: Mapping[tuple[int, int], Sequence[Mapping[str, Any]]], d: int) -> str:
    """Change of PR-AUC over one layer, by seed, at the k of the best validation AUC."""
    inner = [k for (w, k) in found if w == d and k]
    if not inner:
        return ""
    k = max(inner, key=lambda k: mean(line["val_auc"] for line in found[d, k]))
    one = {line["cell"]["seed"]: line["pr_auc"] for line in found[d, 0]}
    two = {line["cell"]["seed"]: line["pr_auc"] for line in found[d, k]}
    seeds = sorted(one.keys() & two.keys())
    if not seeds:
        return ""
    changes = (
        mean(100 * (two[s][name] / one[s][name] - 1) for s in seeds) for name in ("most", "least")
    )
    return " / ".join(f"{c:+.2f} %" for c in changes) + f", k={k}, {len(seeds)} seeds"


def recorded() -> list[dict[str, Any]]:
    return [json.loads(x) for x in RECORD.read_text().splitlines()] if RECORD.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=("tune", "auc", "show"))
    parser.add_argument("--data", type=Path, help="prepared data set")
    parser.add_argument("--only", nargs="*", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "COUNT"), default=(0, 3))
    parser.add_argument("--limit", type=int, default=0, help="stop after so many new runs")
    parser.add_argument("--out", type=Path, default=Path("runs/mlet"), help="run folders")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--record", action="store_true", help=f"append to {RECORD.name}")
    options = parser.parse_args()
    lines = recorded()
    if options.part == "show":
        show(lines, options.only)
        return
    if options.data is None:
        parser.error("--data is needed to train")
    torch.set_num_threads(options.threads)
    quiet_libraries()
    fingerprint = read_schema(options.data).fingerprint
    lines = [line for line in lines if line["data_fingerprint"] == fingerprint]
    first, count = options.seeds
    cells = (
        tuning(options.only)
        if options.part == "tune"
        else grid(options.only, range(first, first + count), lines)
    )
    known = {json.dumps([line["part"], line["cell"]], sort_keys=True) for line in lines}
    new = 0
    for cell in cells:
        if json.dumps([options.part, asdict(cell)], sort_keys=True) in known:
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
