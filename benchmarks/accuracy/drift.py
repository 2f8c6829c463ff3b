"""How well ``seo-rec drift`` foretells what a new search gains: predicted against realised gains.

    python -m benchmarks.accuracy.drift --record          # about 3 minutes on one thread
    python -m benchmarks.accuracy.drift --scenarios worth --seeds 1

A case is a pair of synthetic data sets, OLD and NEW, and a budget. A policy is searched on OLD and
another one on NEW. The first gets the ids of NEW, as a renewal of its vocabularies would do. Both
are trained on NEW from new weights, and the realised gain is the log loss of the first less the log
loss of the second on the test rows of NEW, against the true probabilities, so that no noise of
labels is in it. Beside it stand the numbers that ``drift`` gives
for OLD and NEW.

The logit is ``sum_c sqrt(share_c) z_c[id_c]`` over six columns of 50 to 4,000 ids, with normal z of
a variance of 4. Scenarios: ``still`` changes nothing but the rows; ``ids`` replaces half of the ids
of every column; ``frequencies`` makes rare ids frequent; ``worth`` moves part of the shares to
other columns, and ``swap`` all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.command import make_parser, set_up
from benchmarks.record import Line, Records, path_of, stamp
from seo_rec.analysis.drift import drift
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.model import ModelSettings
from seo_rec.policy import Policy
from seo_rec.policy.renewal import renewed
from seo_rec.recipes.id_counts import feature_counts
from seo_rec.runs import command_line
from seo_rec.search import find
from seo_rec.settings import FitSettings, Training
from seo_rec.train import eval_stream, evaluate, fit_policy

RECORD = path_of("drift")
IDENTITY = ("what",)
SCENARIOS = {"still": 0.0, "ids": 0.0, "frequencies": 0.0, "worth": 0.5, "swap": 1.0}
SIZES = (50, 200, 500, 1000, 2000, 4000)  # ids of the columns
SHARES = (0.4, 0.25, 0.15, 0.1, 0.06, 0.04)  # of the logit's variance, dealt to the columns anew
SPREAD = 2.0  # standard deviation of the logit
TRUTH = "p"  # the column of true probabilities in the raw rows
SPLIT = Split("temporal", fractions=(0.6, 0.1, 0.3))
Floats = npt.NDArray[np.float64]


def training(seed: int) -> Training:
    return Training(
        ModelSettings(hidden=(64,)), FitSettings(epochs=2, batch_size=256, seed=seed, average=0.99)
    )


# ---- worlds ------------------------------------------------------------------------------------


def shares_of(scenario: str, seed: int) -> tuple[Floats, Floats]:
    """The share of every column in the variance of the logit, of OLD and of NEW."""
    rng = np.random.default_rng([seed, 1])
    old = rng.permutation(SHARES)
    new = np.roll(old, int(rng.integers(1, len(old))))
    part = SCENARIOS[scenario]
    return old, (1 - part) * old + part * new


def rows_of(scenario: str, seed: int, new: bool, rows: int) -> pa.Table:
    """Rows of OLD or of NEW, with their true probabilities."""
    shares = shares_of(scenario, seed)[int(new)]
    tastes = np.random.default_rng([seed, 2])
    rng = np.random.default_rng([seed, 3, int(new)])
    logit, columns = np.full(rows, -1.0), dict[str, Any]()
    for c, (size, share) in enumerate(zip(SIZES, shares, strict=True)):
        taste = tastes.normal(size=(2, size))
        likely = 1 / np.arange(1, size + 1)
        rank = rng.choice(size, rows, p=likely / likely.sum())
        moved = new and scenario == "frequencies"
        place = size - 1 - rank if moved else rank
        fresh = np.zeros(size, np.int64)
        if new and scenario == "ids":
            fresh[::2] = 1
        logit += SPREAD * np.sqrt(share) * taste[fresh[place], place]
        columns[f"c{c}"] = place + size * fresh[place]
    p = 1 / (1 + np.exp(-logit))
    y = (rng.random(rows) < p).astype(np.int64)
    return pa.table({**columns, TRUTH: p, "y": y})


def prepared(table: pa.Table, out: Path) -> DataSet:
    if not out.exists():
        raw = out.with_name(f"{out.name}.parquet")
        raw.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, raw)
        names = tuple(n for n in table.column_names if n not in ("y", TRUTH))
        prepare_table(raw, out, columns=TableColumns("y", names), split=SPLIT)
        raw.unlink()
    return open_data(out)


# ---- gains -------------------------------------------------------------------------------------


def searched(what: Line, data: DataSet) -> Policy:
    """The policy that the search of ``what`` finds on ``data``."""
    entry, asked = find(what["method"]), training(what["seed"])
    settings = entry.settings_at(what["params"], what["dim"], asked, in_comparison=True)
    return entry.decide(data, settings, asked).policy


def expected_loss(what: Line, data: DataSet, policy: Policy, truth: Floats) -> float:
    """The mean log loss on the test rows, over the labels that the true probabilities give."""
    losses = []
    for i in range(what["trainings"]):
        trained = fit_policy(data, policy, training(what["seed"] + 100 * i), validate=False)
        logits = evaluate(trained.model, eval_stream(data, "test", policy.columns))[1]
        z = logits.astype(np.float64)
        losses.append(float((np.logaddexp(0, z) - truth * z).mean()))
    return float(np.mean(losses))


def one(what: Line, out: Path) -> Line:
    """Run one case."""
    folder = out / f"{what['scenario']}-{what['seed']}-{what['rows']}"
    tables = [rows_of(what["scenario"], what["seed"], new, what["rows"]) for new in (False, True)]
    old, new = (prepared(t, folder / name) for t, name in zip(tables, ("old", "new"), strict=True))
    policies = [searched(what, data) for data in (old, new)]
    policies[0], _ = renewed(policies[0], feature_counts(new, policies[0]))
    truth = tables[1][TRUTH].to_numpy()[-new.schema.num_rows["test"] :]
    losses = [expected_loss(what, new, policy, truth) for policy in policies]
    found = drift(old, new, policies[0])
    return {
        "what": what,
        "loss_of_old_policy": losses[0],
        "loss_of_new_policy": losses[1],
        "realised": losses[0] - losses[1],
        "at_most": found.gain,
        "worth_moved": found.worth_moved,
        "worth_by_chance": found.worth_by_chance,
        "verdict": found.verdict,
        "command": command_line(),
        "environment": stamp(),
    }


def wanted(options: argparse.Namespace) -> Iterator[Line]:
    """What to run."""
    for seed in range(options.seeds):
        for scenario in options.scenarios:
            yield {
                "scenario": scenario,
                "seed": seed,
                "method": options.method,
                "rows": options.rows,
                "dim": 8,
                "params": 4000,
                "trainings": 1,
            }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, RECORD, out="runs/drift")
    parser.add_argument("--scenarios", nargs="*", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--method", default="seo-divide")
    parser.add_argument("--rows", type=int, default=30_000, help="of each data set")
    options = parser.parse_args(arguments)
    set_up(options.threads)
    recorded = Records(RECORD, IDENTITY, writes=options.record)
    for what in wanted(options):
        line = recorded.find({"what": what})
        if line is None:
            line = recorded.add(one(what, options.out))
        print(
            f"{what['scenario']:12} {what['seed']}  realised {line['realised']:+.4f}, at most "
            f"{line['at_most']:.4f}, moved {line['worth_moved']:.3f} (by chance "
            f"{line['worth_by_chance']:.3f}): {line['verdict']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
