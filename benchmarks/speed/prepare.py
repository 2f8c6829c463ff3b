"""How fast is ``seo-rec prepare criteo``, and how much memory does it take?

    python -m benchmarks.speed.prepare [--rows 1000000] [--record]

A made-up file in Criteo's format (Zipf tokens, the set's own numbers of distinct values, missing
cells) is written to a temporary folder. Each variant prepares it in a process of its own;
printed are rows/s over the whole preparation (imports left out), the seconds of processor time, the
peak resident memory of the largest process, the size on disk, and how fast Arrow, with its threads,
decodes the training shards. The goal is 60,000 rows/s on two cores and under 2 GB.

One process uses two threads. How well several processes share the work is therefore measured
against one process on one core as well; both cores can then do at most twice as much:

    python -m benchmarks.speed.prepare --rows 4000000 --variant "one core"
    python -m benchmarks.speed.prepare --rows 4000000 --variant plain
    python -m benchmarks.speed.prepare --rows 4000000 --variant "two processes"
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from benchmarks.command import make_parser, set_up
from benchmarks.record import append, path_of
from seo_rec.data.shards import read_shards

RECORD = path_of("prepare")
ONE_CORE = "one core"
VARIANTS = {
    "plain": "",
    ONE_CORE: "",
    "two processes": "workers=Workers(2),",
    "two processes, no vocabulary": "workers=Workers(2), pruning=Pruning(counted=False),",
    "embed-numeric": "embed_numeric=True,",
    "min-count 2": "pruning=Pruning(min_count=2),",
    "temporal, unified-criteo": (
        "split=Split('temporal'), pruning=Pruning(preset='unified-criteo'),"
    ),
}
PREPARE = """
import os, pathlib, re, resource, sys, time
if {one_core}:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
from seo_rec.data.criteo import prepare_criteo
from seo_rec.data.parallel import Workers
from seo_rec.data.split import Split
from seo_rec.data.vocabulary import Pruning
start = time.perf_counter()
schema = prepare_criteo(sys.argv[1], sys.argv[2], {options})
seconds = time.perf_counter() - start
ids = sum(column.vocab_size for column in schema.features)
# Not getrusage: its maximum is inherited from the parent process through exec.
status = pathlib.Path("/proc/self/status").read_text()
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
others = resource.getrusage(resource.RUSAGE_CHILDREN)  # of processes that have ended
used = time.process_time() + others.ru_utime + others.ru_stime
print(seconds, max(peak, others.ru_maxrss) * 1024, ids, used)
"""
# Distinct values of C1..C26 in the 45,840,617 rows of the Kaggle set.
CARDINALITY = (
    1_460, 583, 10_131_227, 2_202_608, 305, 24, 12_517, 633, 3, 93_145, 5_683, 8_351_593, 3_194,
    27, 14_992, 5_461_306, 10, 5_652, 2_173, 4, 7_046_547, 18, 15, 286_181, 105, 142_572,
)  # fmt: skip
CHUNK_ROWS = 250_000


def write_criteo(path: Path, rows: int) -> None:
    """``rows`` made-up lines in the format of the Kaggle file."""
    rng = np.random.default_rng(0)
    options = pacsv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with path.open("wb") as file:
        for start in range(0, rows, CHUNK_ROWS):
            num = min(CHUNK_ROWS, rows - start)
            columns: dict[str, Any] = {"label": pa.array((rng.random(num) < 0.25).astype(np.int8))}
            for i in range(1, 14):
                values = np.floor(rng.lognormal(2.0, 1.5, num)).astype(np.int64)
                columns[f"I{i}"] = pa.array(values, mask=rng.random(num) < 0.2)
            for i, size in enumerate(CARDINALITY, start=1):
                columns[f"C{i}"] = _tokens(rng, num, size)
            pacsv.write_csv(pa.table(columns), file, options)


def _tokens(rng: np.random.Generator, num: int, size: int) -> pa.Array:
    """Log-uniform ranks (a Zipf law of exponent 1) as eight hexadecimal digits, 3 % missing."""
    ranks = np.floor(float(size) ** rng.random(num)).astype(np.uint64)
    mixed = (ranks * np.uint64(0x9E3779B1)) & np.uint64(0xFFFFFFFF)
    shifts = np.arange(28, -4, -4, dtype=np.uint64)
    digits = (mixed[:, None] >> shifts) & np.uint64(15)
    letters = np.frombuffer(b"0123456789abcdef", np.uint8)[digits]
    text = letters.view("S8").ravel().astype("U8")
    return pa.array(text, mask=rng.random(num) < 0.03)


def measure(raw: Path, out: Path, rows: int, variant: str) -> dict[str, Any]:
    """One prepare in its own process, then the decoding speed of its training shards."""
    code = PREPARE.format(options=VARIANTS[variant], one_core=variant == ONE_CORE)
    command = [sys.executable, "-c", code, str(raw), str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak, ids, used = (float(x) for x in done.stdout.split())
    start = time.perf_counter()
    decoded = sum(table.num_rows for table in read_shards(out / "train"))
    decode_seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in out.rglob("*.parquet"))
    return {
        "benchmark": "prepare criteo",
        "variant": variant,
        "rows": rows,
        "raw_mb": round(raw.stat().st_size / 1e6, 1),
        "rows_per_s": round(rows / seconds),
        "processor_s": round(used, 2),
        "peak_rss_mb": round(peak / 1e6),
        "distinct_ids": int(ids),
        "disk_mb": round(size / 1e6, 1),
        "decode_rows_per_s": round(decoded / decode_seconds),
    }


def main() -> None:
    parser = make_parser(__doc__, RECORD, threads=len(os.sched_getaffinity(0)))
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the made-up file")
    parser.add_argument("--variant", choices=VARIANTS, help="measure this one only")
    args = parser.parse_args()
    environment = set_up(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "train.txt"
        write_criteo(raw, args.rows)
        for index, variant in enumerate([args.variant] if args.variant else VARIANTS):
            record = measure(raw, Path(folder) / f"out{index}", args.rows, variant)
            print(json.dumps(record), flush=True)
            if args.record:
                append(RECORD, {**environment, **record})


if __name__ == "__main__":
    main()
