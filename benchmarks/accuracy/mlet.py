"""MLET against tables of one layer: test AUC by width d and inner dimension k.

    python -m benchmarks.accuracy.mlet tune --data data/ml-1m --record
    python -m benchmarks.accuracy.mlet auc --data data/ml-1m --record

As Figures 5 to 7 and Tables 3 and 4 of Deng et al., on other data: every feature has a table with a
row per id, of width d (``collisionless``), trained as one layer and as two with inner dimension k.
The floats stored to serve are as many, sum over features of (ids + 1) d.

``tune`` chooses one learning rate and L2 for each way of training, and for MLET the standard
deviation too, by the best VALIDATION AUC of the MLP at d = 8 (k = 32), seed 0: 12 runs. All
backbones and widths share them; AutoInt has one layer of attention. ``auc`` trains every cell with
these, 132 runs; it refuses to start before ``tune`` is recorded. Each model is the one of its best
validation epoch; test rows are read once. Settings differ from the paper's: Adam, batch 4,096, up
to 20 epochs, L2 on the rows (of W1 with MLET), no mean of weights. The paper trains one epoch with
SGD or Adagrad; ``benchmarks.accuracy.mlet_regime`` does that.

Runs go to ``--out`` and are found again there; what ``--record`` wrote is not run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from benchmarks.command import make_parser, set_up
from benchmarks.record import Line, Records, outcome, path_of, record_missing, recorded_fit
from seo_rec import recipes
from seo_rec.backbones import BACKBONES, AutoIntSettings
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.methods import Mlet
from seo_rec.model import ModelSettings
from seo_rec.settings import FitSettings, Training

RECORD = path_of("mlet")
IDENTITY = ("part", "data_fingerprint", "tuned", "cell", "model", "fit")
TUNED_AT = ("mlp", 8, 32)  # backbone, d, k
EPOCHS, PATIENCE = 20, 2
HIDDEN = (64, 32)
SHARE = 0.1
SMALL = {"autoint": AutoIntSettings(layers=1)}  # three layers take ten times as long

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


def what_of(part: str, cell: Cell, fingerprint: str, plan: Plan) -> Line:
    """What a line is of, whatever came out."""
    return {
        "part": part,
        "tuned": plan.tuned() if part == "auc" else None,
        "cell": asdict(cell),
        "data_fingerprint": fingerprint,
        "model": cell.model.as_json(),
        "fit": recorded_fit(cell.fit),
    }


def train(cell: Cell, part: str, data: DataSet, out: Path, plan: Plan) -> Line:
    """Train a cell, or find it again in ``out``; its line of the record."""
    method = "collisionless"
    policy = recipes.method_policy(method, data, 0, cell.d, seed=cell.seed)
    name = f"{data.fingerprint}-{cell.backbone}-d{cell.d}-k{cell.k}-seed{cell.seed}"
    values = (f"{k}{v:g}" for k, v in asdict(cell.choice).items())
    folder = out / "-".join([name, *values, f"epochs{cell.epochs}"])
    training = Training(cell.model, cell.fit)
    run = recipes.train(data, policy, folder, training, method=method, resume=True)
    rare = recipes.frequency(data, [folder], "test", SHARE)[folder] if part == "auc" else None
    return {
        **outcome(run),
        **what_of(part, cell, data.fingerprint, plan),
        "pr_auc": None if rare is None else asdict(rare),
    }


# ---- the plan ----------------------------------------------------------------------------


def tuning(plan: Plan, two_layers: bool) -> list[Cell]:
    """The trials of ``tune`` for one way of training."""
    backbone, d, k = TUNED_AT
    return [
        Cell(backbone, d, k if two_layers else 0, 0, Choice(*choice), plan.epochs)
        for choice in product(plan.rates, plan.l2s, plan.stds if two_layers else (0.0,))
    ]


def chosen(records: Records, plan: Plan, fingerprint: str, two_layers: bool) -> Choice | None:
    """The planned trial with the best validation AUC on these data; None until all are there."""
    found: dict[Choice, float] = {}
    for cell in tuning(plan, two_layers):
        line = records.find(what_of("tune", cell, fingerprint, plan))
        if line is None:
            return None
        found[cell.choice] = line["val_auc"]
    return max(found, key=found.__getitem__)


def grid(plan: Plan, one: Choice, two: Choice) -> Iterator[Cell]:
    """The cells of ``auc``, seed by seed."""
    for seed, backbone in product(plan.seeds, plan.backbones):
        for d, k in plan.pairs():
            yield Cell(backbone, d, k, seed, two if k else one, plan.epochs)


def capped(lines: Sequence[Line]) -> str:
    """How many runs used all epochs they were given, so that more might have helped."""
    at_limit = sum(line["epochs"] >= line["fit"]["epochs"] for line in lines)
    return f"{at_limit} of {len(lines)} runs hit the limit of epochs"


def main() -> None:
    default = Plan()
    parser = make_parser(__doc__, RECORD, out="runs/mlet")
    parser.add_argument("part", choices=("tune", "auc"))
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
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
    options = parser.parse_args()
    first, count = options.seeds
    tried = (tuple(options.rates), tuple(options.l2s), tuple(options.stds))
    cells = (tuple(options.only), tuple(options.widths), tuple(options.inner))
    plan = Plan(*tried, *cells, tuple(range(first, first + count)), options.epochs)
    data = open_data(options.data)
    fingerprint = data.fingerprint
    records = Records(RECORD, IDENTITY, writes=options.record)
    if options.part == "tune":
        wanted = [*tuning(plan, False), *tuning(plan, True)]
    else:
        one, two = (chosen(records, plan, fingerprint, layers) for layers in (False, True))
        if one is None or two is None:
            parser.error(f"not all trials of these data are in {RECORD}; run `tune --record` first")
        wanted = list(grid(plan, one, two))
    set_up(options.threads)
    record_missing(
        records,
        wanted,
        lambda cell: what_of(options.part, cell, fingerprint, plan),
        lambda cell: train(cell, options.part, data, options.out, plan),
        lambda cell, line: f"{options.part} {said(cell, line)}",
        options.limit,
    )
    lines = (records.find(what_of(options.part, cell, fingerprint, plan)) for cell in wanted)
    print(capped([line for line in lines if line]))


def said(cell: Cell, line: Line) -> str:
    """One line for the terminal."""
    return (
        f"{cell.backbone:8} d {cell.d:2} k {cell.k:2} seed {cell.seed} "
        f"lr {cell.choice.lr:g} l2 {cell.choice.l2:g} std {cell.choice.std:g}: "
        f"validation {line['val_auc']:.5f}, test {line['test_auc']:.5f}, "
        f"{line['epochs']} epochs, {line['seconds']:.1f} s"
    )


if __name__ == "__main__":
    main()
