"""How fast is the Stream, and does training wait for it?

    python -m benchmarks.speed.stream [--rows 2000000] [--batch 4096] [--record]

A made-up data set of 39 categorical columns is written to a temporary folder. Measured are
rows/s of the stream alone (decoding included, unless the line says "memory"), and a training
step (39 x 16 embeddings with sparse SGD, MLP 256, 128): the share of its wall time spent in
``next()``, and its time against the same steps on the same batches made before.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from benchmarks.command import make_parser, set_up
from benchmarks.record import append, path_of
from seo_rec.batch import Batch
from seo_rec.data.dataset import open_data
from seo_rec.data.stream import Stream
from seo_rec.schema import SCHEMA_FILE, Column, Schema

RECORD = path_of("stream")
NUM_COLUMNS = 39
VOCAB = 50_000
DIM = 16
HIDDEN = (256, 128)
SHARD_ROWS = 500_000
GROUP_ROWS = 16_384


def write_data(data: Path, rows: int, missing: float = 0.0, bag: int = 0) -> None:
    """Skewed ids; ``missing`` is the share of nulls; ``bag`` > 0 makes one column multivalent."""
    rng = np.random.default_rng(0)
    columns = [Column(f"c{i:02d}", "categorical", VOCAB, 1.0 - missing) for i in range(NUM_COLUMNS)]
    if bag:
        columns[-1] = Column(columns[-1].name, "multivalent", VOCAB, bag)
    schema = Schema("made up", tuple(columns), "label", {"train": rows}, {"train": 0.5})
    (data / "train").mkdir(parents=True)
    (data / SCHEMA_FILE).write_text(json.dumps(schema.to_json()))
    for shard, start in enumerate(range(0, rows, SHARD_ROWS)):
        n = min(SHARD_ROWS, rows - start)
        table: dict[str, Any] = {}
        for column in columns:
            if column.kind == "multivalent":
                ends = np.concatenate([[0], np.cumsum(rng.integers(0, 2 * bag + 1, n))])
                ids = _ids(rng, int(ends[-1]))
                table[column.name] = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), ids)
            else:
                mask = rng.random(n) < missing if missing else None
                table[column.name] = pa.array(_ids(rng, n), mask=mask)
        table["label"] = rng.integers(0, 2, n).astype(np.float32)
        path = data / "train" / f"part-{shard:05d}.parquet"
        pq.write_table(pa.table(table), path, row_group_size=GROUP_ROWS)


def _ids(rng: np.random.Generator, size: int) -> Any:
    return np.minimum((rng.pareto(1.1, size) * 20).astype(np.int64), VOCAB - 1)


def rows_per_second(batches: Iterable[Batch]) -> float:
    rows, start = 0, time.perf_counter()
    for batch in batches:
        rows += batch.num_rows
    return rows / (time.perf_counter() - start)


class Step:
    """One training step of the plain model; quick on purpose, so that waiting shows."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.table = nn.Embedding(NUM_COLUMNS * VOCAB, DIM, sparse=True)
        self.first_row_F1 = torch.arange(NUM_COLUMNS)[:, None] * VOCAB
        widths = (NUM_COLUMNS * DIM, *HIDDEN)
        layers: list[nn.Module] = []
        for i, o in itertools.pairwise(widths):
            layers += [nn.Linear(i, o), nn.ReLU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        parameters = [*self.table.parameters(), *self.mlp.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=0.01)

    def __call__(self, batch: Batch) -> None:
        ids_BF = (batch.sparse.values().view(NUM_COLUMNS, -1) + self.first_row_F1).T
        logits_B = self.mlp(self.table(ids_BF).flatten(1)).squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits_B, batch.labels_B)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def train(stream: Stream, steps: int) -> dict[str, float]:
    """Wait fraction, with the first batch and without, and time per step."""
    step = Step()
    ready = list(itertools.islice(stream, steps))
    for batch in ready[:5]:
        step(batch)
    start = time.perf_counter()
    for batch in ready:
        step(batch)
    alone = time.perf_counter() - start

    stream.set_epoch(0)
    batches = iter(stream)
    waits: list[float] = []
    start = time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - asked)
        step(batch)
    total = time.perf_counter() - start
    return {
        "steps": steps,
        "step_ms_ready_batches": round(1000 * alone / steps, 2),
        "step_ms_with_stream": round(1000 * total / steps, 2),
        "wait_fraction": round(sum(waits) / total, 4),
        "wait_fraction_after_first": round(sum(waits[1:]) / (total - waits[0]), 4),
        "first_batch_ms": round(1000 * waits[0], 1),
    }


def main() -> None:
    parser = make_parser(__doc__, RECORD, threads=len(os.sched_getaffinity(0)))
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=150)
    args = parser.parse_args()
    environment = set_up(args.threads)
    few = max(args.rows // 4, GROUP_ROWS)
    steps = min(args.steps, args.rows // args.batch)
    record: dict[str, Any] = {"benchmark": "stream", "rows": args.rows, "batch": args.batch}
    with tempfile.TemporaryDirectory() as folder:
        single, missing = Path(folder) / "single", Path(folder) / "missing"
        write_data(single, args.rows)
        write_data(missing, few, missing=0.1, bag=3)
        plain, bags = open_data(single), open_data(missing)
        size = args.batch
        rates = record["rows_per_second"] = {}

        def rate(name: str, stream: Stream) -> None:
            rates[name] = round(rows_per_second(stream))

        rate("decode, file order", Stream(plain, batch_size=size, cache="none"))
        rate("decode, shuffle", Stream(plain, batch_size=size, shuffle=True, cache="none"))
        rate(
            "decode, shuffle, no thread",
            Stream(plain, batch_size=size, shuffle=True, cache="none", read_ahead=0),
        )
        rate(
            "decode, shuffle, rank 0 of 8 (its own rows)",
            Stream(plain, batch_size=size, shuffle=True, cache="none", world_size=8),
        )
        cached = Stream(plain, batch_size=size, shuffle=True, cache="memory")
        rows_per_second(cached)
        rate("memory, shuffle", cached)
        rate(
            "decode, shuffle, 10% null + 1 multivalent",
            Stream(bags, batch_size=size, shuffle=True, cache="none"),
        )
        shuffled = Stream(plain, batch_size=size, shuffle=True, cache="none")
        record["training"] = train(shuffled, steps)
    record["environment"] = environment
    print(json.dumps(record, indent=2))
    if args.record:
        append(RECORD, record)


if __name__ == "__main__":
    main()
