"""How many rows per second do ``seo-rec predict`` and ``seo-rec serve`` score?

    python -m benchmarks.speed.scoring --data data/ml-1m --raw ../shared/data/ml-1m --record
    python -m benchmarks.speed.scoring --data data/criteo-46 --raw ../shared/data/criteo-sample/train.txt --record

A model is trained for one epoch and exported, all by the commands of users. The raw rows are
written several times over to a text file and to a Parquet file, and scored:

    predict   the command as it is typed, on one core and on two: seconds of the whole command,
              rows/s of it and without its start (as it says itself), and seconds of processor time.
              The goal, on two cores, is 300,000 rows/s for MovieLens' six columns and 60,000 for
              39 columns of Criteo.
    serve     the server with 1, 8 and 32 clients on the same machine, with 1 and 64 rows in a
              request, as JSON and as Arrow: requests/s, p50 and p99 of their times, and the server's
              milliseconds of processor time for one.
    reloads   8 clients while the package is exchanged four times, and while SIGTERM ends the
              server: requests that failed.

Before anything is timed, the scores of both files and of both kinds of requests are compared.
"""  # noqa: E501

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.command import make_parser, set_up
from benchmarks.pages import scoring as page
from benchmarks.record import Line, append, path_of
from benchmarks.speed import scoring_load as load
from benchmarks.speed.scoring_raw import SETS, write_files
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.schema import DataError

RECORD = path_of("scoring")
CORES = (1, 2)
CLIENTS = (1, 8, 32)
REQUEST_ROWS = (1, 64)
RELOAD_CLIENTS = 8
PRECISIONS = ("float32", "int8")  # of the two packages that the server exchanges
RATE = re.compile(r": ([\d,]+) scores in .* \(([\d,]+) rows/s\)")


def seo_rec(*arguments: object) -> str:
    """What a command prints.

    Raises:
        RuntimeError: It failed; the message is its last line.
    """
    command = [sys.executable, "-m", "seo_rec", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"seo-rec {arguments[0]} failed: {last}")
    return done.stdout


@contextmanager
def on_cores(number: int) -> Iterator[None]:
    """Commands that are started within run on the first cores only."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def packages_of(data: DataSet, method: str, params: int, folder: Path) -> list[Path]:
    """A trained run as packages of both precisions."""
    run = folder / "run"
    budget = ("--method", method, "--params", params)
    seo_rec("train", data.path.resolve(), *budget, "--epochs", 1, "--out", run)
    found = []
    for precision in PRECISIONS:
        seo_rec("export", run, "--out", folder / precision, "--precision", precision)
        found.append(folder / precision)
    return found


def predicted(package: Path, raw: Path, out: Path, cores: int) -> Line:
    """One ``seo-rec predict`` as it is typed."""
    before, started = os.times(), time.perf_counter()
    with on_cores(cores):
        text = seo_rec("predict", package, "--raw", raw, "--out", out)
    seconds, after = time.perf_counter() - started, os.times()
    said = RATE.search(text)
    if said is None:
        raise RuntimeError(f"seo-rec predict said {text!r}")
    rows = int(said[1].replace(",", ""))
    used = after.children_user - before.children_user
    used += after.children_system - before.children_system
    return {
        "cores": cores,
        "seconds": round(seconds, 2),
        "rows_per_s": round(rows / seconds),
        "rows_per_s_after_start": int(said[2].replace(",", "")),
        "processor_s": round(used, 2),
    }


def scores_of(path: Path) -> Any:
    return pq.read_table(path)["score"].to_numpy()


def of_predict(package: Path, files: dict[str, Path], rounds: int, folder: Path) -> list[Line]:
    """All ways of ``predict``, the fastest of the rounds of each; the first scores are kept."""
    cores = [n for n in CORES if n <= len(os.sched_getaffinity(0))]
    best: dict[tuple[str, int], Line] = {}
    wanted: Any = None
    for turn in range(rounds):
        for form, raw in files.items():
            for number in cores:
                out = folder / f"{form} {number} {turn}.parquet"
                found = predicted(package, raw, out, number)
                scores = scores_of(out)
                wanted = scores if wanted is None else wanted
                np.testing.assert_allclose(scores, wanted, rtol=1e-5, err_msg=out.name)
                known = best.setdefault((form, number), {"form": form, **found})
                if found["seconds"] < known["seconds"]:
                    known.update(found)
                out.unlink()
    np.save(folder / "scores.npy", wanted)
    return list(best.values())


def of_server(package: Path, table: Any, wanted: Any, seconds: float) -> list[Line]:
    """Every load of the server; the scores of a first request are compared with ``predict``'s."""
    found = []
    with load.running(package) as (process, address):
        for form in load.FORMS:
            for rows in REQUEST_ROWS:
                requests = load.requests_of(form, table, rows)
                scores = load.scores_in(form, load.one_answer(address, requests[0]))
                np.testing.assert_allclose(scores, wanted[:rows], rtol=1e-5, err_msg=form)
                for clients in CLIENTS:
                    line = load.under_load(process.pid, address, requests, clients, seconds)
                    rate = round(rows * line["requests_per_s"])
                    found.append({"form": form, "rows": rows, **line, "rows_per_s": rate})
    return found


def measure(data: DataSet, raw: Path, options: Any, folder: Path) -> Line:
    """Everything about one data set, as a line of the record."""
    if data.schema.dataset not in SETS:
        raise DataError(f"data of {data.schema.dataset}; allowed: {', '.join(SETS)}")
    kind = SETS[data.schema.dataset]
    table = kind.read(raw)
    times = -(-(options.rows or kind.rows) // len(table))
    packages = packages_of(data, options.method, options.params, folder)
    files = write_files(kind, table, times, folder)
    before = os.getloadavg()[0]
    predictions = of_predict(packages[0], files, options.rounds, folder)
    wanted = np.load(folder / "scores.npy")
    server = of_server(packages[0], table, wanted, options.seconds)
    requests = load.requests_of("JSON", table, 1)
    return {
        "data": data.schema.dataset,
        "data_fingerprint": data.fingerprint,
        "columns": table.num_columns,
        "method": options.method,
        "params": options.params,
        "rows": times * len(table),
        "rounds": options.rounds,
        "goal_rows_per_s": kind.goal,
        "load_average": round(before, 2),
        "predict": predictions,
        "serve": server,
        "reloads": load.over_reloads(packages, folder, requests, RELOAD_CLIENTS),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__, RECORD)
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--raw", type=Path, required=True, help="raw data that it was made from")
    parser.add_argument("--method", default="multi-size-2", help="policy of the model")
    parser.add_argument("--params", type=int, default=96_000, help="budget in floats")
    parser.add_argument("--rows", type=int, help="rows to score, rounded up to whole sets")
    parser.add_argument("--rounds", type=int, default=2, help="of predict; the fastest counts")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load of the server")
    options = parser.parse_args(arguments)
    environment = set_up(options.threads)
    with tempfile.TemporaryDirectory(prefix="scoring-") as folder:
        line = measure(open_data(options.data), options.raw, options, Path(folder))
    line["environment"] = environment
    print("\n".join(page.region([line])), flush=True)
    if options.record:
        append(RECORD, line)


if __name__ == "__main__":
    main()
