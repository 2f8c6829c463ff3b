"""Day after day: warm starts against daily retraining, and vocabularies with and without renewal.

    python -m benchmarks.accuracy.days --data FOLDER --record    # about 10 minutes on one thread
    python -m benchmarks.accuracy.days --streams steady --arms by-id by-id-candidates

Streams: ``steady`` and ``uneven`` are the synthetic worlds of ``benchmarks.accuracy.churn``, cut
into days; ``baseball`` is plate appearances by month (``retrosheet/plate_appearances.parquet`` in
the folder ``--data``), of two seasons; ``seasons`` is the same by year, with rows taken evenly;
``flights`` is the eleven days of 1999 in ``flights/flights.parquet``. The
first ``first`` steps are one prepared data set, from which every arm starts; each later step is a
day. A day is scored before it is trained on.

Arms: ``hashed`` has a hashed table for each column; ``by-id`` a row for each id of the first data
set, renewed from day to day inside the same bytes, with one row for all other ids;
``by-id-candidates``, the default of ``seo-rec replay``, also has rows in training for ids that may
enter; ``by-id-fixed`` is not renewed; ``by-id-shared`` is renewed and gives a share of the rows to
ids that have none of their own. ``by-id-calm`` is ``by-id-candidates`` with a quarter of the
learning rate of the dense layers on every day after the first. ``by-id-anew`` is
``by-id-candidates`` with a running mean that starts anew with every day.
``hashed-retrained`` and ``by-id-retrained`` train from scratch on all days so far instead, by id
with as many rows as ``by-id``, for the most frequent ids so far; ``by-id-retrained-all`` has a row
for every id so far, and so more bytes. All take one pass with the same settings. ``cost`` takes the
CPU time of training on the last step in continuation of a run, and of training on all steps, in one
pass and as ``seo-rec train`` does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.accuracy import churn
from benchmarks.command import make_parser, set_up
from benchmarks.record import Line, Records, path_of, stamp
from seo_rec import recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.shards import read_shards
from seo_rec.data.split import Split
from seo_rec.data.synthetic import Churn, synthetic
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.metrics import binary_metrics
from seo_rec.model import ModelSettings
from seo_rec.policy import Policy
from seo_rec.policy.renewal import renewed
from seo_rec.recipes.id_counts import feature_counts
from seo_rec.runs import command_line
from seo_rec.settings import FitSettings, Training
from seo_rec.train import Start, eval_stream, evaluate, fit_policy

RECORD = path_of("days")
IDENTITY = ("what",)
ARMS = (
    "hashed",
    "by-id",
    "by-id-fixed",
    "by-id-shared",
    "by-id-candidates",
    "by-id-calm",
    "by-id-anew",
    "hashed-retrained",
    "by-id-retrained",
    "by-id-retrained-all",
    "cost",
)
STREAMS = ("steady", "uneven", "baseball", "seasons", "flights")
BASEBALL = (
    "batter", "pitcher", "catcher", "umphome", "site", "bat_team", "fld_team", "slot", "bats",
    "throws", "outs", "bases", "inning", "pitcher_bf",
)  # fmt: skip
FLIGHTS = (
    "carrier", "flight", "tailnum", "origin", "dest", "dow", "hour", "route", "plane_year",
    "plane_manufacturer", "plane_model", "plane_engine", "plane_seats", "plane_type",
)  # fmt: skip
EVERYTHING = Split("temporal", fractions=(1.0, 0.0, 0.0))
VALIDATED = (0.9, 0.1, 0.0)
TURNS = 3  # of a warm day and of retraining, whose medians count
SETTINGS: dict[str, dict[str, Any]] = {
    "steady": {"first": 4, "steps": 16, "rows": 32_768, "dim": 16, "params": 16_000},
    "uneven": {"first": 4, "steps": 16, "rows": 32_768, "dim": 16, "params": 16_000},
    "baseball": {"first": 4, "steps": 14, "rows": 10_000, "dim": 8, "params": 16_000},
    "seasons": {"first": 4, "steps": 20, "rows": 15_000, "dim": 8, "params": 16_000},
    "flights": {"first": 3, "steps": 11, "rows": 16_000, "dim": 8, "params": 16_000},
}


def training(what: Line) -> Training:
    """One pass by Adam with a running mean, for every arm."""
    fit = FitSettings(epochs=1, batch_size=512, seed=what["seed"])
    return Training(ModelSettings(hidden=(128, 64)), fit)


# ---- streams ---------------------------------------------------------------------------------


def steps_of(what: Line, data: Path, folder: Path) -> tuple[list[pa.Table], TableColumns]:
    """The rows of every step, and what their columns are."""
    if what["stream"] == "baseball":
        return _baseball(data, what["steps"], what["rows"])
    if what["stream"] == "seasons":
        return _seasons(data, what["steps"], what["rows"])
    if what["stream"] == "flights":
        return _flights(data, what["steps"], what["rows"])
    enter, vanish = churn.SCENARIOS[what["stream"]]
    world = folder / "world"
    if not world.exists():
        synthetic(
            world,
            rows=what["steps"] * what["rows"],
            seed=what["seed"],
            churn=Churn(what["steps"], enter, vanish),
            split=EVERYTHING,
            **churn.WORLD,
        )
    opened = open_data(world)
    rows = pa.concat_tables(read_shards(world / "train"))
    label = opened.schema.label
    columns = TableColumns(label, tuple(c.name for c in opened.schema.features))
    size = what["rows"]
    return [rows.slice(i * size, size) for i in range(what["steps"])], columns


def _baseball(data: Path, steps: int, rows: int) -> tuple[list[pa.Table], TableColumns]:
    """Months with 5,000 rows or more from 2015 on, up to ``rows`` of each (0: all)."""
    file = data / "retrosheet" / "plate_appearances.parquet"
    names = ["date", *BASEBALL, "strikeout"]
    table = pq.read_table(file, columns=names, filters=[("year", ">=", 2015), ("year", "<=", 2017)])
    month = pc.divide(table["date"], 100).to_numpy()
    found = []
    for one in np.unique(month):
        of_month = table.filter(pa.array(month == one)).drop_columns(["date"])
        if of_month.num_rows >= 5_000:
            found.append(of_month.slice(0, rows) if rows else of_month)
    return found[:steps], TableColumns("strikeout", BASEBALL)


def _seasons(data: Path, steps: int, rows: int) -> tuple[list[pa.Table], TableColumns]:
    """Years from 2003 on, ``rows`` of each, evenly spaced."""
    file = data / "retrosheet" / "plate_appearances.parquet"
    table = pq.read_table(file, columns=["year", *BASEBALL, "strikeout"])
    year, found = table["year"].to_numpy(), []
    for one in range(2003, 2003 + steps):
        at = np.flatnonzero(year == one)
        chosen = at[np.linspace(0, len(at) - 1, min(rows, len(at))).astype(int)]
        found.append(table.take(pa.array(chosen)).drop_columns(["year"]))
    return found, TableColumns("strikeout", BASEBALL)


def _flights(data: Path, steps: int, rows: int) -> tuple[list[pa.Table], TableColumns]:
    """Days of the flights of the United States in 1999, up to ``rows`` of each (0: all)."""
    file = data / "flights" / "flights.parquet"
    names = ["date", *FLIGHTS, "late"]
    table = pq.read_table(file, columns=names, filters=[("set", "==", "us99jan")])
    day, found = table["date"].to_numpy(), []
    for one in np.unique(day)[:steps]:
        of_day = table.filter(pa.array(day == one)).drop_columns(["date"])
        found.append(of_day.slice(0, rows) if rows else of_day)
    return found, TableColumns("late", FLIGHTS)


def prepared(
    tables: Sequence[pa.Table], columns: TableColumns, out: Path, split: Split = EVERYTHING
) -> DataSet:
    """These rows as one data set; by default all of them are training rows."""
    if not out.exists():
        raw = out.with_name(f"{out.name}.parquet")
        raw.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables(tables), raw)
        prepare_table(raw, out, columns=columns, split=split)
        raw.unlink()
    return open_data(out)


# ---- arms ------------------------------------------------------------------------------------


def policy_of(arm: str, data: DataSet, what: Line) -> Policy:
    if arm.startswith("hashed"):
        return recipes.method_policy("separate", data, what["params"], what["dim"])
    return recipes.method_policy("collisionless", data, 0, what["dim"])


def one(what: Line, data: Path, out: Path) -> Line:
    """Run one line of the record."""
    folder = out / f"{what['stream']}-{what['seed']}-{what['steps']}-{what['rows']}"
    tables, columns = steps_of(what, data, folder)
    first, arm = what["first"], what["arm"]
    start = prepared(tables[:first], columns, folder / "days" / "0-first")
    later = [
        prepared([t], columns, folder / "days" / f"{i + first}")
        for i, t in enumerate(tables[first:])
    ]
    run = _retrained if "retrained" in arm else _replayed
    run = _cost if arm == "cost" else run
    found = run(what, start, later, folder, (tables, columns))
    return {
        "what": what,
        **found,
        "rows": [t.num_rows for t in tables],
        "command": command_line(),
        "environment": stamp(),
    }


def _replayed(what: Line, start: DataSet, later: list[DataSet], folder: Path, _: Any) -> Line:
    policy = policy_of(what["arm"], start, what)
    runs, settings = folder / "runs" / what["arm"], training(what)
    days = [d.path for d in (start, *later)]
    earlier = None
    if what["arm"] == "by-id-calm":
        first = recipes.replay(days[:1], runs / "first", settings, policy=policy, resume=True)
        earlier, days = first.last, days[1:]
        fit = replace(settings.fit, dense_lr=what["later_dense_lr"])
        settings, runs = replace(settings, fit=fit), runs / "later"
    done = recipes.replay(
        days,
        runs,
        settings,
        policy=None if earlier else policy,
        earlier=earlier,
        renew=what["arm"] != "by-id-fixed",
        shared=what.get("shared", 0.0),
        candidates=what["arm"] in ("by-id-candidates", "by-id-calm", "by-id-anew"),
        mean_anew=what["arm"] == "by-id-anew",
        resume=True,
    )
    scored = done.days if earlier else done.days[1:]
    return {
        "auc": [d.auc for d in scored],
        "log_loss": [d.log_loss for d in scored],
        "unknown": [max(d.unknown.values(), default=0.0) for d in scored],
        "num_bytes": policy.num_bytes,
    }


def _retrained(what: Line, start: DataSet, later: list[DataSet], folder: Path, rows: Any) -> Line:
    """From scratch on all steps before a day; the last training is on all steps."""
    tables, columns = rows
    first = what["first"]
    line: dict[str, list[float]] = {"auc": [], "log_loss": []}
    for i in range(len(later) + 1):
        data = start
        if i:
            data = prepared(tables[: first + i], columns, folder / "until" / str(first + i))
        policy = policy_of(what["arm"], data, what)
        if what["arm"] == "by-id-retrained":  # the most frequent ids, as many as at the start
            policy, _ = renewed(policy_of(what["arm"], start, what), feature_counts(data, policy))
        trained = fit_policy(data, policy, training(what), validate=False)
        if i < len(later):
            stream = eval_stream(later[i], "train", policy.columns)
            metrics = binary_metrics(*evaluate(trained.model, stream)[1:])
            line["auc"].append(metrics.auc)
            line["log_loss"].append(metrics.log_loss)
    return {**line, "num_bytes": policy.num_bytes}


def _cost(what: Line, start: DataSet, later: list[DataSet], folder: Path, rows: Any) -> Line:
    """CPU seconds of a warm day and of retraining, with run folders; all days are alike.

    A warm day and one pass over all days take turns, so that the machine's speed and what a process
    does only once weigh on both alike; the first turn is not counted. ``default_seconds`` is a
    retraining as ``seo-rec train`` does it: with validation rows, to the best epoch.
    """
    tables, columns = rows
    policy, runs = policy_of("by-id", start, what), folder / "cost"
    before = recipes.replay([start.path], runs / "before", training(what), policy=policy).last
    whole = prepared(tables, columns, folder / "until" / str(len(tables)))

    def warm(out: Path) -> None:
        made = recipes.continued(before, later[-1])
        begin = Start(earlier=made.earlier)
        fit_policy(later[-1], made.trained, training(what), out=out, start=begin, validate=False)

    def retrain(out: Path) -> None:
        fit_policy(whole, policy, training(what), out=out, validate=False)

    turns = [
        (_seconds(warm, runs / f"warm-{i}"), _seconds(retrain, runs / f"whole-{i}"))
        for i in range(what["turns"] + 1)
    ]
    split = prepared(tables, columns, folder / "validated", Split("temporal", fractions=VALIDATED))
    usual = training(what)
    usual = replace(usual, fit=replace(usual.fit, epochs=FitSettings().epochs))
    default = _seconds(lambda out: fit_policy(split, policy, usual, out=out), runs / "default")
    warm_seconds, seconds = (float(np.median(each)) for each in zip(*turns[1:], strict=True))
    return {
        "auc": [],
        "log_loss": [],
        "train_seconds": [warm_seconds, seconds],
        "default_seconds": default,
        "num_bytes": policy.num_bytes,
    }


def _seconds(action: Callable[[Path], object], out: Path) -> float:
    began = time.process_time()
    action(out)
    return time.process_time() - began


def wanted(options: argparse.Namespace) -> Iterator[Line]:
    """What to run."""
    for seed in range(options.seeds):
        for stream in options.streams:
            for arm in options.arms:
                settings = dict(SETTINGS[stream])
                if options.steps:
                    settings["steps"] = options.steps
                if options.rows is not None:
                    settings["rows"] = options.rows
                if arm == "cost":
                    settings |= {"first": settings["steps"] - 1, "turns": TURNS}
                if arm == "by-id-shared":
                    settings["shared"] = options.shared
                if arm == "by-id-calm":
                    settings["later_dense_lr"] = FitSettings().dense_lr / 4
                yield {"stream": stream, "arm": arm, "seed": seed, **settings}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, RECORD, out="runs/days")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of retrosheet/")
    parser.add_argument("--streams", nargs="*", choices=STREAMS, default=list(STREAMS))
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS[:-1]))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=0, help="in place of the stream's own")
    parser.add_argument("--rows", type=int, default=None, help="of a step; baseball: 0 for all")
    parser.add_argument("--shared", type=float, default=0.05, help="of the rows: by-id-shared")
    options = parser.parse_args(arguments)
    set_up(options.threads)
    recorded = Records(RECORD, IDENTITY, writes=options.record)
    for what in wanted(options):
        line = recorded.find({"what": what})
        if line is None:
            line = recorded.add(one(what, options.data, options.out))
        if what["arm"] == "cost":
            day, whole = line["train_seconds"]
            days, usual = what["steps"], line["default_seconds"]
            print(
                f"{what['stream']:9} a warm day {day:.2f} s; one pass over {days} days "
                f"{whole:.2f} s, {days * day / whole:.2f} days of it; validated {usual:.1f} s, "
                f"{days * day / usual:.2f} days of it"
            )
            continue
        print(
            f"{what['stream']:9} {what['arm']:20} {line['num_bytes']:10,} bytes, mean AUC "
            f"{np.mean(line['auc']):.5f} of {len(line['auc'])} days, log loss "
            f"{np.mean(line['log_loss']):.5f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
