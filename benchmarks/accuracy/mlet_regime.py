"""MLET in its paper's own regime, and how much of its gain is the step size of the tables.

    python -m benchmarks.accuracy.mlet_regime --data data/ml-1m --record

Deng et al. train one epoch with one optimizer for all weights: DLRM by SGD at 0.2 and W2 of
standard deviation 0.25, other models by Adagrad at 0.02 and 0.5. Theorem 1 says that MLET
multiplies the first updates of the embeddings by ``k std^2``, which is 16 for k = 64 and 0.5; a
learning rate of the tables that is as many times higher would do so, too. Every width d is
therefore trained as one layer and as two (k = 64), each with the learning rate of the tables
multiplied by 1, 2, 4, ... 32, while the dense layers keep the paper's rate. With MLET the factor
acts on both layers. The part of the gain that the step size explains is

    (one layer at its best factor - one layer) / (MLET - one layer),

where the factor is chosen by the mean VALIDATION AUC over seeds, and the others are at factor 1.
MLET at its own best factor stands beside it: the gain that is left when both are tuned.

Every feature has a table with a row per id (``collisionless``), no L2, no mean of weights, batches
of 1,024, and weights are read after the only epoch. The backbones are DeepCTR's sizes: DCN with two
cross layers and 128, 128 hidden units, DLRM with 512, 256 and no bottom network, since MovieLens-1M
has no numeric columns. W1, and one layer, start uniformly in +-0.03, which is Xavier's range for a
table of 6,700 rows.

Runs go to ``--out`` and are found again there; what ``--record`` wrote is not run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from benchmarks.command import make_parser, set_up
from benchmarks.record import Line, Records, outcome, path_of, record_missing, recorded_fit
from seo_rec import recipes
from seo_rec.backbone_settings import Interaction
from seo_rec.backbones import DCNSettings, DLRMSettings
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.methods import Mlet
from seo_rec.model import ModelSettings
from seo_rec.settings import FitSettings, Training

RECORD = path_of("mlet-regime")
IDENTITY = ("data_fingerprint", "cell", "model", "fit")
INIT = 0.03
BATCH = 1024


@dataclass(frozen=True)
class Regime:
    """How the paper trains a backbone: one optimizer at one rate for all weights, one epoch."""

    optimizer: str
    lr: float
    std: float
    hidden: tuple[int, ...]
    interaction: Interaction


REGIMES: Mapping[str, Regime] = {
    "dcn": Regime("adagrad", 0.02, 0.5, (128, 128), DCNSettings(layers=2)),
    "dlrm": Regime("sgd", 0.2, 0.25, (512, 256), DLRMSettings()),
}


@dataclass(frozen=True)
class Cell:
    """One training.

    Args:
        backbone: A key of :data:`REGIMES`.
        d: Width of a table as it is served.
        k: MLET's inner dimension; 0 is one layer.
        factor: Of the tables' learning rate.
        seed: Of weights and order.
    """

    backbone: str
    d: int
    k: int
    factor: float
    seed: int

    @property
    def model(self) -> ModelSettings:
        regime = REGIMES[self.backbone]
        mlet = Mlet(self.k, regime.std) if self.k else None
        parts = {"hidden": regime.hidden, "interaction": regime.interaction, "mlet": mlet}
        return ModelSettings(self.backbone, init_scale=INIT, **parts)  # type: ignore[arg-type]

    @property
    def fit(self) -> FitSettings:
        regime = REGIMES[self.backbone]
        return FitSettings(
            epochs=1,
            batch_size=BATCH,
            row_optimizer=regime.optimizer,
            dense_optimizer=regime.optimizer,
            row_lr=regime.lr * self.factor,
            dense_lr=regime.lr,
            average=0.0,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Plan:
    """The trainings of the study: all combinations."""

    backbones: tuple[str, ...] = ("dcn", "dlrm")
    widths: tuple[int, ...] = (4, 16)
    inner: int = 64
    factors: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    seeds: tuple[int, ...] = (0, 1, 2)

    def cells(self) -> Iterator[Cell]:
        """Seed by seed, so that a study that is cut short compares whole seeds."""
        kinds = product(self.seeds, self.backbones, self.widths, (0, self.inner), self.factors)
        for seed, backbone, d, k, factor in kinds:
            yield Cell(backbone, d, k, factor, seed)


def what_of(cell: Cell, fingerprint: str) -> Line:
    """What a line is of, whatever came out."""
    return {
        "cell": asdict(cell),
        "data_fingerprint": fingerprint,
        "model": cell.model.as_json(),
        "fit": recorded_fit(cell.fit),
    }


def train(cell: Cell, data: DataSet, out: Path) -> Line:
    """Train a cell, or find it again in ``out``; its line of the record."""
    policy = recipes.method_policy("collisionless", data, 0, cell.d, seed=cell.seed)
    values = [data.fingerprint, *map(str, asdict(cell).values())]
    training = Training(cell.model, cell.fit)
    folder = out / "-".join(values)
    run = recipes.train(data, policy, folder, training, method="collisionless", resume=True)
    return {**outcome(run), **what_of(cell, data.fingerprint)}


def main() -> None:
    default = Plan()
    parser = make_parser(__doc__, RECORD, out="runs/mlet-regime")
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--only", nargs="*", choices=REGIMES, default=default.backbones,
                        metavar="BACKBONE", help="some backbones")  # fmt: skip
    parser.add_argument("--widths", type=int, nargs="*", default=default.widths)
    parser.add_argument("--inner", type=int, default=default.inner, help="MLET's k")
    parser.add_argument("--factors", type=float, nargs="*", default=default.factors)
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "COUNT"), default=(0, 3))
    parser.add_argument("--limit", type=int, default=0, help="stop after so many new runs")
    options = parser.parse_args()
    first, count = options.seeds
    lists = (tuple(options.only), tuple(options.widths), options.inner, tuple(options.factors))
    plan = Plan(*lists, tuple(range(first, first + count)))
    data = open_data(options.data)
    records = Records(RECORD, IDENTITY, writes=options.record)
    set_up(options.threads)
    record_missing(
        records,
        plan.cells(),
        lambda cell: what_of(cell, data.fingerprint),
        lambda cell: train(cell, data, options.out),
        said,
        options.limit,
    )


def said(cell: Cell, line: Line) -> str:
    """One line for the terminal."""
    return (
        f"{cell.backbone} d {cell.d:2} k {cell.k:2} x{cell.factor:g} seed {cell.seed}: "
        f"validation {line['val_auc']:.5f}, test {line['test_auc']:.5f}, {line['seconds']:.1f} s"
    )


if __name__ == "__main__":
    main()
