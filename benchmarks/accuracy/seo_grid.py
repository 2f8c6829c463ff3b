"""SEO's appendix D and Table 2 on MovieLens-1M, and what the budget has to do with Table 2.

    python -m benchmarks.accuracy.seo_grid grid --data data/ml-1m --record
    python -m benchmarks.accuracy.seo_grid table2 --data data/ml-1m --record
    python -m benchmarks.accuracy.seo_grid table2-short --data data/ml-1m --record
    python -m benchmarks.accuracy.seo_grid grid-short --data data/ml-1m --record

``grid`` trains the paper's grid: budgets of 1,000, 6,000 and 14,000 rows of 16 floats, hidden
layers of 256-128, 128-64 and 64-32, five seeds. A cell of the grid has the baselines ``separate``
and ``monolithic``. For each of the four searches (down-projection or not, hash buckets adjusted or
not) it also has the search model and its policy, retrained with its own chunks (``exact``) and with
chunks dealt in turn (``rr``).

``table2`` is the cell of Table 2 (6,000 rows, 256-128) with more readings of the applier:

* ``global`` takes the M best of all features' chunks (section 3.2), ``per-feature`` the best M / F
  of every feature.
* At the budget, the chunk tables have as many rows as make the whole policy 6,000 x 16 floats,
  which the paper calls mandatory. Otherwise they keep the rows of the search model: 3,000 where it
  adjusts, 6,000 where it does not, so that a policy that reads four tables of 8 floats stores twice
  the budget. In the paper's Table 2 appliers of searches that adjust are 0.02 below appliers of
  searches that do not, although both should store the same. The stored floats stand beside every
  figure here: appliers that keep the rows of their search would explain the gap.

``table2-short`` and ``grid-short`` are parts of the two with trainings of :data:`SHORT` epochs at
:data:`SHORT_RATE`, for an hour of one core instead of a night. The first has searches without a
down-projection, the second one backbone; both have fewer seeds.

Chunks are hashed alike (``--hashing shared``, under which Theorem 1 holds) and no chunk is kept for
every feature, as the paper's ranking has it. Trainings have batches of 2,048, Adam 2e-3, L2 2e-4
and end when the validation AUC falls; test rows are read once for each training.

Runs go to ``--out`` and are found again there; what ``--record`` wrote is not run again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

from benchmarks.command import make_parser, set_up
from benchmarks.record import (
    Line,
    Records,
    outcome_without_times,
    path_of,
    record_missing,
    recorded_fit,
    stamp,
)
from seo_rec import apply, recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.model import ModelSettings
from seo_rec.policy import Policy
from seo_rec.search.seo import SeoSettings, search_attention, select
from seo_rec.settings import FitSettings, Training

RECORD = path_of("seo-grid")
IDENTITY = ("data_fingerprint", "cell", "hashing", "model", "fit")
BASELINES = ("separate", "monolithic")
APPLIERS = ("exact", "rr")
READINGS = ("global", "per-feature")
DIM = 16
TABLE_2 = (6000, (256, 128))  # rows of the budget, hidden layers
CONFIGS = tuple(product((False, True), (False, True)))  # down-projection, adjusted hash buckets
LONG, SHORT = 20, 3  # epochs at most
SHORT_RATE = 4e-3  # of Adam; `monolithic` has a lower validation AUC with 2e-3 and 8e-3


@dataclass(frozen=True)
class Cell:
    """One training.

    Args:
        rows: Rows of the budget, each of :data:`DIM` floats.
        hidden: Hidden layers.
        seed: Of weights, order and hash functions.
        model: One of :data:`BASELINES` and :data:`APPLIERS`, or ``search``: the search model.
        projects: Whether the search has a down-projection.
        adjusts: Whether the search model has the size of the budget.
        reading: How chunks are chosen; one of :data:`READINGS`.
        at_budget: Whether the rows of the applier are fitted to the budget; else the search's.
        epochs: Passes over the training rows at most, :data:`LONG` or :data:`SHORT`.
    """

    rows: int
    hidden: tuple[int, ...]
    seed: int
    model: str
    projects: bool = False
    adjusts: bool = False
    reading: str = "global"
    at_budget: bool = True
    epochs: int = LONG

    @property
    def training(self) -> Training:
        fit = FitSettings(epochs=self.epochs, row_l2=2e-4, seed=self.seed)
        if self.epochs == SHORT:
            fit = replace(fit, row_lr=SHORT_RATE, dense_lr=SHORT_RATE)
        return Training(ModelSettings(hidden=self.hidden), fit)

    def settings(self, hashing: str) -> SeoSettings:
        """The search behind the cell."""
        return SeoSettings(
            budget_rows=self.rows,
            dim=DIM,
            min_chunks=0,
            use_down_projection=self.projects,
            adjust_hash_buckets=self.adjusts,
            chunk_hashing=hashing,
        )


@dataclass(frozen=True)
class Plan:
    """The trainings of a part: its cells of the grid, and what is trained in each of them."""

    rows: tuple[int, ...] = (1000, 6000, 14000)
    hidden: tuple[tuple[int, ...], ...] = ((256, 128), (128, 64), (64, 32))
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    readings: tuple[str, ...] = ("global",)
    budgets: tuple[bool, ...] = (True,)
    configs: tuple[tuple[bool, bool], ...] = CONFIGS
    epochs: int = LONG

    def cells(self) -> Iterator[Cell]:
        """Seed by seed, so that a study that is cut short compares whole seeds."""
        for seed, rows, hidden in product(self.seeds, self.rows, self.hidden):
            for model in BASELINES:
                yield Cell(rows, hidden, seed, model, epochs=self.epochs)
            for i, reading in enumerate(self.readings):
                for projects, adjusts in self.configs:
                    search = Cell(
                        rows, hidden, seed, "search", projects, adjusts, epochs=self.epochs
                    )
                    if i == 0:
                        yield search
                    for fits, model in product(self.budgets, APPLIERS):
                        yield replace(search, model=model, reading=reading, at_budget=fits)


PLANS = {
    "grid": Plan(),
    "table2": Plan((TABLE_2[0],), (TABLE_2[1],), (0, 1, 2, 3, 4), READINGS, (True, False)),
    "table2-short": Plan(
        (TABLE_2[0],), (TABLE_2[1],), (0, 1), READINGS, (True, False), CONFIGS[:2], SHORT
    ),
    "grid-short": Plan(
        (6000, 1000, 14000), ((128, 64),), (0, 1), configs=CONFIGS[:2], epochs=SHORT
    ),
}


def what_of(cell: Cell, fingerprint: str, hashing: str) -> Line:
    """What a line is of, whatever came out."""
    return {
        "cell": {**asdict(cell), "hidden": list(cell.hidden)},
        "data_fingerprint": fingerprint,
        "hashing": None if cell.model in BASELINES else hashing,
        "model": cell.training.model.as_json(),
        "fit": recorded_fit(cell.training.fit),
    }


def applied(cell: Cell, searched: Policy) -> Policy:
    """The applier of a search: its chunks or dealt ones, with the rows that the cell says."""
    budget = cell.rows * DIM
    strategy = apply.exact if cell.model == "exact" else apply.round_robin
    found = strategy(searched, budget)
    if cell.at_budget:
        return found
    (rows,) = {t.num_rows for t in searched.tables}
    tables = tuple(replace(t, num_rows=rows) for t in found.tables)
    return replace(found, tables=tables, budget=None)


def policy_of(cell: Cell, data: DataSet, hashing: str, out: Path) -> Policy:
    """The policy that a cell trains; a search is run, or found again, in ``out``."""
    if cell.model in BASELINES:
        return recipes.method_policy(cell.model, data, cell.rows * DIM, DIM, seed=cell.seed)
    settings, F = cell.settings(hashing), len(data.schema.features)
    found = search_attention(data, settings, cell.training, out, reads_test_rows=True)
    total = settings.chosen(F)
    least = total // F if cell.reading == "per-feature" else 0
    return applied(cell, select(found.space, found.alpha, total, least))


def train(cell: Cell, data: DataSet, hashing: str, out: Path) -> Line:
    """Train a cell, or find it again in ``out``; its line of the record."""
    searches, training = out / "attentions", cell.training
    what = what_of(cell, data.fingerprint, hashing)
    if cell.model == "search":
        settings = cell.settings(hashing)
        found = search_attention(data, settings, training, searches, reads_test_rows=True)
        values: Line = {"data": data.schema.dataset, "environment": stamp()}
        values |= {"val_auc": found.val_auc, "test_auc": found.test_auc}
        values |= {"embedding_params": found.space.num_params, "attention": found.alpha.tolist()}
        return {**values, **what}
    policy = replace(policy_of(cell, data, hashing, searches), provenance={}, budget=None)
    layers = "x".join(map(str, cell.hidden))
    parts = [data.fingerprint, layers, f"{cell.epochs}-epochs", f"seed{cell.seed}", digest(policy)]
    run = recipes.train(data, policy, out / "-".join(parts), training, method="seo", resume=True)
    return {**outcome_without_times(run), **what, "dropped": list(policy.dropped)}


def digest(policy: Policy) -> str:
    """8 hexadecimal digits by which cells that come to one policy share its training.

    An applier whose search has the size of the budget, for one, is the same with either rows.
    """
    return hashlib.sha256(json.dumps(policy.to_json(), sort_keys=True).encode()).hexdigest()[:8]


def main() -> None:
    parser = make_parser(__doc__, RECORD, out="runs/seo-grid")
    parser.add_argument("part", choices=PLANS)
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--budgets", type=int, nargs="*", help="rows of 16 floats; default: all")
    parser.add_argument("--hidden", nargs="*", metavar="WIDTHS", help="as 256,128; default: all")
    models = ("search", *BASELINES, *APPLIERS)
    parser.add_argument("--models", nargs="*", choices=models, help="default: all")
    parser.add_argument("--readings", nargs="*", choices=READINGS, help="default: the part's")
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "COUNT"), default=(0, 5))
    parser.add_argument("--hashing", choices=("shared", "independent"), default="shared")
    parser.add_argument("--limit", type=int, default=0, help="stop after so many new trainings")
    options = parser.parse_args()
    plan, (first, count) = PLANS[options.part], options.seeds
    layers = [tuple(map(int, text.split(","))) for text in options.hidden or ()]
    plan = replace(
        plan,
        rows=tuple(options.budgets or plan.rows),
        hidden=tuple(layers or plan.hidden),
        readings=tuple(options.readings or plan.readings),
        seeds=tuple(range(first, first + count)),
    )
    data = open_data(options.data)
    records = Records(RECORD, IDENTITY, writes=options.record)
    set_up(options.threads)
    record_missing(
        records,
        (c for c in plan.cells() if c.model in (options.models or models)),
        lambda cell: what_of(cell, data.fingerprint, options.hashing),
        lambda cell: train(cell, data, options.hashing, options.out),
        said,
        options.limit,
    )


def said(cell: Cell, line: Line) -> str:
    """One line for the terminal."""
    return (
        f"B {cell.rows} hidden {cell.hidden} seed {cell.seed} {cell.model} "
        f"dp={int(cell.projects)} ah={int(cell.adjusts)} {cell.reading} "
        f"budget={int(cell.at_budget)}: validation {line['val_auc']:.5f}, test "
        f"{line['test_auc']:.5f}, {line['embedding_params']:,} floats"
    )


if __name__ == "__main__":
    main()
