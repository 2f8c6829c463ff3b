"""Table 1 of Unified Embedding on MovieLens-1M, every row, with multi-size and SEO beside it.

    python -m benchmarks.accuracy.unified --data data/ml-1m --record
    python -m benchmarks.accuracy.unified --data data/criteo-0 data/criteo-1 data/criteo-2 --record

Every row of the table is trained at every budget with every seed: DCN-V2 with one cross layer and
one hidden layer of 192 (the paper's network), width 30, gender kept exact as in the paper (but in
the policies of SEO). A budget holds 13,653, 6,826 or 1,366 rows of 30 floats, the paper's 1.6
MB, 791 kB and 158 kB, and is met exactly. Where a row has several settings, seed 0 tries them, the
best by validation AUC is trained with the other seeds, and only its lines are reported. Batch and
learning rate (4,096 and 4e-3; the paper: 128 and 2e-4) are chosen on validation rows, so that the
whole table takes less than three hours (docs/LOG.md has the choice).

With Criteo data the columns are 39, the width is 12, the budgets are those of
:data:`CRITEO_BUDGETS`, and seed s takes data set number s; there are no published figures for a
sample of it. Per feature, rows go by the number of ids (as in the paper), and the sample has many
features of few ids, which at these budgets are left with one row each.

With ``--grid`` the rows try the paper's own grid (appendix B): k = 2 or 3 lookups and a share p of
0.05, 0.1 or 0.2 for hash embeddings, 2, 4, 8 or 16 blocks for ROBE, k = 2, 3, 4, 8 or 16 for PQ and
multi-size, 2, 3 or 4 components for QR; a grid point that a budget cannot hold is named and left
out. On MovieLens-1M that is at most 26 runs more at each budget. ``--epochs`` makes trainings
shorter, which orders the settings of a row at less cost; such lines are no figures of Table 1, and
go to ``benchmarks/results/unified-grid.jsonl``.

Runs are kept in ``--out`` and found again there, also unfinished ones; ``--record`` appends the new
lines to ``benchmarks/results/unified.jsonl``, and ``python -m benchmarks.pages.tables methods``
writes them to docs/measured/methods.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.command import make_parser, set_up
from benchmarks.record import Line, Records, outcome, outcome_without_times, path_of, recorded_fit
from seo_rec import recipes
from seo_rec.backbones import DCNv2Settings
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.model import ModelSettings
from seo_rec.policy import Policy, PolicyError
from seo_rec.runs import describe
from seo_rec.runs.layout import SEARCH_FILE
from seo_rec.search.run_off import RULE, RunOff
from seo_rec.search.seo import SeoSearch, SeoSettings
from seo_rec.settings import FitSettings, Training

RECORD = path_of("unified")
GRID_RECORD = path_of("unified-grid")  # of trainings that `--epochs` cut short
# The rows of Table 1 by its names, with the settings that seed 0 tries; the last two are ours.
ROWS = {
    "Collisionless": ("collisionless",),
    "Hashing Trick": ("hashing-trick",),
    "Hash Embedding": ("hash-embedding-2",),
    "HashedNet": ("hashednet",),
    "ROBE-Z Embedding": ("robe-4",),
    "PQ Embedding": ("pq-3", "pq-5"),
    "QR Embedding": ("qr-2",),
    "Unified Embedding": ("multiplexed-hashing-trick",),
    "Multiplex HashEmb": ("multiplexed-hash-embedding-2",),
    "Multiplex HashedNet": ("multiplexed-hashednet",),
    "Multiplex ROBE-Z": ("multiplexed-robe-4",),
    "Multiplex PQ": ("multiplexed-pq-3", "multiplexed-pq-5"),
    "Multiplex QR": ("multiplexed-qr-2",),
    "Multi-size Unified": ("multi-size-3", "multi-size-5"),
    "SEO": ("seo",),
}
MOVIELENS_BUDGETS = (409_590, 204_780, 40_980)
CRITEO_BUDGETS = (240_000, 96_000, 48_000)


def _without_later(settings: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in settings.items() if (k, v) not in LATER}


@dataclass(frozen=True)
class Study:
    """What differs between the data sets."""

    name: str
    dim: int
    budgets: tuple[int, ...]
    seo: SeoSettings
    run_off: RunOff
    fit: FitSettings
    exact_below: int

    @property
    def suffix(self) -> str:
        """What tells folders of shorter trainings from the study's own; empty for these."""
        short = self.fit != STUDIES[self.name].fit
        return f"-{self.fit.epochs}-epochs" if short else ""

    def settings(self, method: str) -> str:
        """A digest of all that decides a run besides its row, budget, seed and data."""
        of_method: list[Any] = []
        if method == "seo":
            rule = RULE if self.run_off.frequent else 4  # rule 5 added that candidate to rule 4
            of_method = [*map(_without_later, (asdict(self.seo), asdict(self.run_off))), rule]
        elif method.startswith("multi-size") and self.exact_below:
            of_method = ["exact"]  # earlier lines of them kept no feature exact
        fit = _without_later(recorded_fit(self.fit))
        of_all = [self.dim, self.exact_below, fit, MODEL.as_json()]
        text = json.dumps([*of_all, *of_method], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


STUDIES = {
    "movielens-1m": Study(
        "movielens-1m",
        30,
        MOVIELENS_BUDGETS,
        SeoSettings(dim=30, chunk_dim=6, search_dim=60),
        RunOff(epochs=8, chunk_dims=(6,), trivial_lookups=(3, 5, 10), frequent=False, cost=0),
        FitSettings(batch_size=4096, row_lr=4e-3, dense_lr=4e-3),
        2,
    ),
    "criteo": Study(
        "criteo",
        12,
        CRITEO_BUDGETS,
        SeoSettings(dim=12, chunk_dim=4, search_dim=24),
        RunOff(epochs=4, chunk_dims=(4,), trivial_lookups=(2, 3), frequent=False, cost=0),
        FitSettings(epochs=8, batch_size=512, row_lr=1e-3, dense_lr=1e-3),
        0,
    ),
}
LATER = (  # settings that older lines lack, and the values that they had
    ("l2_on", "all"),
    ("storage", "float32"),
    ("schedule", "constant"),
    ("clip_norm", 0.0),
    ("num_bytes", 0),
    ("precision", "float32"),
    ("id_bits", 64),
    ("frequent", False),
    ("divide", False),
    ("cost", 0),
    ("tune", False),
    ("in_full", True),
    ("keep_by", "auc"),
)
IDENTITY = ("row", "method", "budget", "seed", "data_fingerprint", "settings")
MODEL = ModelSettings("dcn-v2", hidden=(192,), interaction=DCNv2Settings(layers=1))
CRITEO_ROWS = {
    "PQ Embedding": ("pq-3",),
    "Multiplex PQ": ("multiplexed-pq-3",),
    "Multi-size Unified": ("multi-size-3",),
    "Multi-size 2": ("multi-size-2",),
}


def paper_grid(dim: int) -> dict[str, tuple[str, ...]]:
    """The rows of :data:`ROWS` with the settings of the paper's grid, for embeddings of a width.

    ROBE with n blocks has Z = ceil(dim / n); numbers above the width are left out.
    """
    ks = [k for k in (2, 3, 4, 8, 16) if k <= dim]
    grid = {
        "hash-embedding": [f"{k}-p{p}" for k in (2, 3) for p in (0.05, 0.1, 0.2)],
        "robe": [str(z) for z in dict.fromkeys(-(-dim // n) for n in (2, 4, 8, 16) if n <= dim)],
        "pq": [str(k) for k in ks],
        "qr": ["2", "3", "4"],
        "multi-size": [str(k) for k in ks if dim % k == 0],
    }
    found = {}
    for row, methods in ROWS.items():
        family = methods[0].rstrip("0123456789").rstrip("-")
        tried = grid.get(family.removeprefix("multiplexed-"))
        found[row] = methods if tried is None else tuple(f"{family}-{x}" for x in tried)
    return found


def policy_of(
    method: str, data: DataSet, study: Study, params: int, fit: FitSettings, out: Path
) -> Policy:
    """The policy of a method at a budget; a search is run, or found again, in ``out``."""
    if method == "seo":
        given = {**asdict(study.seo), "budget_rows": params // study.dim}
        settings = SeoSearch(**given, run_off=study.run_off)
        training = Training(MODEL, fit)
        return recipes.search(method, data, out / "search", settings, training, resume=True).policy
    exact = 0 if method == "collisionless" else study.exact_below
    changes = {"exact_below": exact}
    return recipes.method_policy(method, data, params, study.dim, seed=fit.seed, changes=changes)


class Runs:
    """Trains the runs that are missing; one folder per budget, method and seed."""

    def __init__(
        self, data: Sequence[DataSet], study: Study, out: Path, record: Path | None
    ) -> None:
        self.data, self.study, self.out = data, study, out
        self.records = Records(record, IDENTITY)

    def line(self, row: str, method: str, params: int, seed: int) -> Line:
        data = self.data[seed % len(self.data)]
        what = {
            "row": row,
            "method": method,
            "budget": params,
            "seed": seed,
            "data_fingerprint": data.fingerprint,
            "settings": self.study.settings(method),
        }
        self.records.refresh()  # several processes may share the rows
        if known := self.records.find(what):
            return known
        folder = self.out / f"{self.study.name}-{params}{self.study.suffix}" / f"{method}-{seed}"
        fit = replace(self.study.fit, seed=seed)
        policy = policy_of(method, data, self.study, params, fit, folder)
        training = Training(MODEL, fit)
        run = recipes.train(data, policy, folder / "run", training, method=method, resume=True)
        folders = " ".join(str(d.path) for d in self.data)
        line = {
            **(outcome_without_times(run) if self.study.suffix else outcome(run)),
            **what,
            "study": self.study.name,
            "lookups": describe(policy),
            "winner": (policy.decision or {}).get("winner") if method == "seo" else None,
            "search_seconds": _seconds(folder / "search" / SEARCH_FILE),
            "command": f"python -m benchmarks.accuracy.unified --data {folders}",
        }
        if self.study.suffix:
            line |= {"fit": recorded_fit(fit), "command": run.command}
        print(
            f"{params:7} {method:30} seed {seed}: validation {run.val_auc:.5f}, test "
            f"{run.test_auc:.5f}, {run.epochs} epochs of {run.seconds_per_epoch:.1f} s",
            flush=True,
        )
        return self.records.add(line)


def _seconds(search: Path) -> float | None:
    """What a search took, its run-off included; None where there was none."""
    return float(json.loads(search.read_text())["seconds"]) if search.exists() else None


def chosen(runs: Runs, row: str, methods: tuple[str, ...], params: int) -> str | None:
    """The setting with the best validation AUC of seed 0; None if none fits the budget."""
    if len(methods) == 1:
        return methods[0]
    found: dict[str, float] = {}
    for method in methods:
        try:
            found[method] = runs.line(row, method, params, 0)["val_auc"]
        except PolicyError as error:
            print(f"{params:7} {method:30} left out: {error}", flush=True)
    return max(found, key=found.__getitem__, default=None)


def rows_of(study: Study, grid: bool) -> dict[str, tuple[str, ...]]:
    """The rows of a study, with the settings that seed 0 tries."""
    if grid:
        return paper_grid(study.dim)
    return {**ROWS, **(CRITEO_ROWS if study.name == "criteo" else {})}


def cells(study: Study, options: argparse.Namespace) -> Iterator[tuple[int, str, int]]:
    """Seed, row and budget of every cell; all cells of a seed come before all cells of the next."""
    rows = rows_of(study, options.grid)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for row in options.rows or rows:
            for params in options.budgets or study.budgets:
                if row != "Collisionless" or params == study.budgets[0]:
                    yield seed, row, params


def main() -> None:
    parser = make_parser(__doc__, RECORD, out="runs/unified")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="prepared data sets")
    parser.add_argument("--rows", nargs="*", metavar="ROW", help=f"some of {', '.join(ROWS)}")
    parser.add_argument("--grid", action="store_true", help="the settings of the paper's grid")
    parser.add_argument("--epochs", type=int, help="of a training at most; default: the study's")
    parser.add_argument("--budgets", type=int, nargs="*", help="floats; default: the study's")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="0 first: it chooses the setting")
    options = parser.parse_args()
    set_up(options.threads)
    data = [open_data(path) for path in options.data]
    study = STUDIES[data[0].schema.dataset]
    if options.epochs is not None:
        study = replace(study, fit=replace(study.fit, epochs=options.epochs))
    rows = rows_of(study, options.grid)
    record = GRID_RECORD if study.suffix else RECORD
    runs = Runs(data, study, options.out, record if options.record else None)
    for seed, row, params in cells(study, options):
        if (method := chosen(runs, row, rows[row], params)) is not None:
            runs.line(row, method, params, seed)


if __name__ == "__main__":
    main()
