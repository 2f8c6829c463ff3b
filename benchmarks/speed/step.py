"""What does a training step cost against a loop written by hand, TorchRec's module and FuxiCTR?

    python -m benchmarks.speed.step [--data data/ml-1m] [--fuxictr-python PYTHON] [--record]

Every contestant trains on the same rows with batches of 2,048 (the last one is shorter), hidden
layers of 256 and 128, Adam on dense gradients and binary cross entropy. A round trains each of
them for one whole epoch, one after the other, and the next round starts with another one; an
epoch's time by its number of steps is one measurement. The step includes:

    fit             what a user runs, ``seo_rec.train.fit``: Stream (permutation of the rows,
                    gather, hand-over between threads), Remap (hashing), one FBGEMM lookup,
                    forward, backward, Adam, the running mean of the weights, the loop's checks
    fit, no mean    the same with ``average=0``
    plain, *        about twenty lines of PyTorch on row numbers hashed before and held in memory:
                    permutation of the rows, gather, lookup, forward, backward, Adam; no mean.
                    All chunk tables in one weight, read by ``index_select`` or ``F.embedding``, or
                    a weight per chunk table (``index_select``); the fastest one counts
    TorchRec        the plain loop with an unsharded ``EmbeddingBagCollection`` for the lookup
    FuxiCTR, *      FuxiCTR's DNN (one table of width 16 per feature, no hashing) with its trainer;
                    ``benchmarks/speed/fuxictr_dnn.py`` has the ways to feed it. The fastest real
                    loader counts; "ready" leaves loading out

Never included: decoding parquet for the first time (warm-up rounds; the stream then reads its cache
in memory), hashing for the plain loops, evaluation, checkpoints. Goals: ``fit`` at most 1.5 times
the fastest plain loop, and at least 2 times faster than FuxiCTR.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from torch.nn import functional as F
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.command import make_parser, set_up
from benchmarks.record import append, path_of
from seo_rec import apply
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.embed.remap import Remap
from seo_rec.embed.rows import table_configs
from seo_rec.model import ModelSettings, build_model
from seo_rec.policy import Policy
from seo_rec.schema import SCHEMA_FILE, Column, Schema
from seo_rec.search import seo
from seo_rec.settings import INIT_SCALE, FitSettings
from seo_rec.train import fit, make_optimizers
from seo_rec.train.loop import AfterStep

RECORD = path_of("step")
FUXICTR = Path(__file__).parent / "fuxictr_dnn.py"
MOVIELENS = {"user": 6040, "movie": 3637, "gender": 2, "age": 7, "occupation": 21, "zip": 3439}
GROUP_ROWS = 16_384
LR = 2e-3
GOAL_PLAIN = 1.5
GOAL_FUXICTR = 0.5


# ---- data and policy ------------------------------------------------------------------------


def write_movielens_like(data: Path, rows: int) -> None:
    """Made-up rows with MovieLens-1M's columns, vocabulary sizes and a similar skew."""
    rng = np.random.default_rng(0)
    columns = tuple(Column(name, "categorical", size) for name, size in MOVIELENS.items())
    num_rows = {"train": rows, "val": 2 * GROUP_ROWS}
    rates = dict.fromkeys(num_rows, 0.5)
    schema = Schema("movielens-like", columns, "label", num_rows, rates)
    for split, num in num_rows.items():
        (data / split).mkdir(parents=True)
        table = {n: (size * rng.random(num) ** 2).astype(np.int64) for n, size in MOVIELENS.items()}
        table["label"] = rng.integers(0, 2, num).astype(np.float32)
        path = data / split / "part-00000.parquet"
        pq.write_table(pa.table(table), path, row_group_size=GROUP_ROWS)
    (data / SCHEMA_FILE).write_text(json.dumps(schema.to_json()))


@contextmanager
def data_set(data: Path | None, rows: int) -> Iterator[DataSet]:
    """``data``, or a temporary data set like MovieLens; SystemExit if the rows are of another kind.

    The plain loops know only one id per feature and row, and no dense columns.
    """
    with tempfile.TemporaryDirectory() as folder:
        if data is None:
            data = Path(folder) / "data"
            write_movielens_like(data, rows)
        opened = open_data(data)
        odd = [c.name for c in opened.schema.columns if c.kind != "categorical"]
        if odd:
            raise SystemExit(
                f"{data}: columns {odd} are not categorical; this benchmark needs that"
            )
        yield opened


def uneven_policy(schema: Schema, settings: seo.SeoSettings, seed: int = 0) -> Policy:
    """A raw search result: the two largest features read all chunks, the others one each.

    With MovieLens' six features and four chunks these are 4/4/1/1/1/1 chunks.
    """
    space = seo.search_space(schema, settings, seed)
    sizes = [schema.vocab_size(f.name) for f in space.features]
    alpha = torch.rand(len(sizes), settings.num_chunks, generator=torch.Generator().manual_seed(1))
    alpha[np.argsort(sizes)[-2:]] += 1
    total = 2 * settings.num_chunks + len(sizes) - 2
    return seo.select(space, alpha, total, min_chunks=1)


# ---- contestants ----------------------------------------------------------------------------


class Contestant(Protocol):
    """Something that can train for one more epoch and say how many seconds each step took."""

    name: str

    def step_seconds(self) -> float: ...


class Fit:
    """One model that ``seo_rec.train.fit`` trains an epoch at a time, on one pair of streams.

    Args:
        name: of the contestant.
        data: the data set.
        policy: tables and lookups.
        settings: batch size, learning rates, mean of the weights.
        gate, extra, after_step: what a search adds: gate, its optimizers, its own step.
    """

    def __init__(
        self,
        name: str,
        data: DataSet,
        policy: Policy,
        settings: FitSettings,
        gate: seo.Attention | None = None,
        extra: dict[str, torch.optim.Optimizer] | None = None,
        after_step: AfterStep | None = None,
    ) -> None:
        self.name, self.settings, self.after_step = name, settings, after_step
        columns = [f.name for f in policy.features]
        size = settings.batch_size
        self.train = data.stream("train", batch_size=size, shuffle=True, columns=columns)
        self.val = data.stream("val", batch_size=8192, columns=columns)
        self.model = build_model(policy, len(self.train.schema.numeric), ModelSettings(), 0, gate)
        self.optimizers = make_optimizers(
            self.model, settings.row_optimizer, settings.row_lr, settings.dense_lr
        ) | (extra or {})

    def epoch_seconds(self) -> float:
        """Training time of one more epoch as ``fit`` reports it: evaluation not included."""
        result = fit(
            self.model,
            self.train,
            self.val,
            self.optimizers,
            self.settings,
            after_step=self.after_step,
        )
        assert result.steps == len(self.train)
        return result.seconds_per_epoch

    def step_seconds(self) -> float:
        return self.epoch_seconds() / len(self.train)


@dataclass(frozen=True)
class Hashed:
    """All training rows as row numbers: (K, N), in the policy's order of lookups, and labels."""

    rows_KN: torch.Tensor
    labels_N: torch.Tensor

    @classmethod
    def of(cls, data: DataSet, policy: Policy) -> Hashed:
        remap = Remap(policy)
        rows, labels = [], []
        columns = [f.name for f in policy.features]
        for batch in data.stream("train", batch_size=8192, columns=columns):
            rows.append(remap(batch.sparse).values().view(policy.num_lookups, -1))
            labels.append(batch.labels_B)
        return cls(torch.cat(rows, dim=1), torch.cat(labels))


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 1)
    )


def weight(rows: int, dim: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(rows, dim).uniform_(-INIT_SCALE, INIT_SCALE))


class Plain(ABC):
    """The loop a user might write by hand; ``lookup`` is left to the kinds below."""

    name: str

    def __init__(self, hashed: Hashed, policy: Policy, batch: int) -> None:
        torch.manual_seed(0)
        self.labels_N, self.batch = hashed.labels_N, batch
        self.mlp = mlp(sum(policy.widths))
        self.weights: list[nn.Parameter] = []

    def start(self) -> None:
        parameters = [*self.weights, *self.mlp.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=LR, fused=True)

    @abstractmethod
    def lookup(self, rows_B: torch.Tensor) -> torch.Tensor:
        """``x_BE`` of the rows with these numbers, float32 (B, E)."""

    def step_seconds(self) -> float:
        start = time.perf_counter()
        order_N = torch.randperm(len(self.labels_N))
        steps = 0
        for rows_B in order_N.split(self.batch):
            logits_B = self.mlp(self.lookup(rows_B)).squeeze(1)
            loss = F.binary_cross_entropy_with_logits(logits_B, self.labels_N[rows_B])
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            steps += 1
        return (time.perf_counter() - start) / steps


class OneTable(Plain):
    name = "plain, one table"

    def __init__(self, hashed: Hashed, policy: Policy, batch: int) -> None:
        super().__init__(hashed, policy, batch)
        names = [t.name for t in policy.tables]
        (dim,) = {t.dim for t in policy.tables}
        ends = np.cumsum([0, *(t.num_rows for t in policy.tables)])
        tables_K = [names.index(k.table) for f in policy.features for k in f.lookups]
        first_K1 = torch.from_numpy(ends[tables_K])[:, None]
        self.rows_NK = (hashed.rows_KN + first_K1).T.contiguous()
        self.weights = [weight(int(ends[-1]), dim)]
        self.start()

    def lookup(self, rows_B: torch.Tensor) -> torch.Tensor:
        rows = self.rows_NK[rows_B].view(-1)
        return self.weights[0].index_select(0, rows).view(len(rows_B), -1)


class Embedding(OneTable):
    name = "plain, F.embedding"

    def lookup(self, rows_B: torch.Tensor) -> torch.Tensor:
        return F.embedding(self.rows_NK[rows_B], self.weights[0]).flatten(1)


class TablePerChunk(Plain):
    name = "plain, a table per chunk"

    def __init__(self, hashed: Hashed, policy: Policy, batch: int) -> None:
        super().__init__(hashed, policy, batch)
        tables_K = [k.table for f in policy.features for k in f.lookups]
        self.rows_NT: list[torch.Tensor] = []
        for table in policy.tables:
            mine = [i for i, name in enumerate(tables_K) if name == table.name]
            self.rows_NT.append(hashed.rows_KN[mine].T.contiguous())
            self.weights.append(weight(table.num_rows, table.dim))
        self.start()

    def lookup(self, rows_B: torch.Tensor) -> torch.Tensor:
        pairs = zip(self.rows_NT, self.weights, strict=True)
        parts = [w.index_select(0, rows[rows_B].view(-1)) for rows, w in pairs]
        return torch.cat([x.view(len(rows_B), -1) for x in parts], dim=1)


class TorchRec(Plain):
    name = "TorchRec"

    def __init__(self, hashed: Hashed, policy: Policy, batch: int) -> None:
        super().__init__(hashed, policy, batch)
        self.rows_KN = hashed.rows_KN
        self.keys = Remap(policy).keys
        self.collection = EmbeddingBagCollection(tables=table_configs(policy))
        for table in self.collection.embedding_bags.values():
            nn.init.uniform_(table.weight, -INIT_SCALE, INIT_SCALE)
        self.weights = list(self.collection.parameters())
        self.ones = torch.ones(len(self.keys) * batch, dtype=torch.int32)
        self.start()

    def lookup(self, rows_B: torch.Tensor) -> torch.Tensor:
        rows = self.rows_KN.index_select(1, rows_B).view(-1)
        lookups = KeyedJaggedTensor(
            keys=self.keys, values=rows, lengths=self.ones[: rows.numel()], stride=len(rows_B)
        )
        return self.collection(lookups).values()


class FuxiCTR:
    """One way to feed FuxiCTR's trainer; all ways share one process of another interpreter."""

    def __init__(self, process: subprocess.Popen[str], way: str) -> None:
        self.name, self.way, self.process = f"FuxiCTR, {way}", way, process
        self.details: dict[str, Any] = {}

    def step_seconds(self) -> float:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(self.way + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{FUXICTR} ended before its answer; run it by hand to see why")
        self.details = json.loads(line)
        return float(self.details["ms_per_step"]) / 1000


@contextmanager
def fuxictr(
    python: Path | None, data: Path, batch: int, threads: int, ways: Sequence[str]
) -> Iterator[list[FuxiCTR]]:
    """The FuxiCTR contestants, and the process they share; none without ``python``."""
    if python is None:
        yield []
        return
    command = [str(python), str(FUXICTR), "--data", str(data), "--batch", str(batch)]
    process = subprocess.Popen(
        [*command, "--threads", str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin
    try:
        yield [FuxiCTR(process, way) for way in ways]
    finally:
        process.stdin.close()
        process.wait(timeout=60)


# ---- rounds and numbers ---------------------------------------------------------------------


def in_rounds(
    contestants: Sequence[Contestant], rounds: int, warmup: int
) -> dict[str, list[float]]:
    """Seconds per step of every contestant in every round after the warm-up.

    Each round begins with the next contestant, so that nobody always runs after the same load.
    """
    seconds: dict[str, list[float]] = {c.name: [] for c in contestants}
    for number in range(-warmup, rounds):
        shift = number % len(contestants)
        for contestant in (*contestants[shift:], *contestants[:shift]):
            value = contestant.step_seconds()
            if number >= 0:
                seconds[contestant.name].append(value)
    return seconds


def spread(values: Iterable[float], digits: int = 3) -> dict[str, Any]:
    numbers = [round(v, digits) for v in values]
    middle = round(float(np.median(numbers)), digits)
    return {"median": middle, "min": min(numbers), "max": max(numbers), "rounds": numbers}


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Median over rounds of a round's own ratio, with a 95 % bootstrap interval over rounds."""
    ratios = np.array(above) / np.array(below)
    draws = np.random.default_rng(0).integers(0, len(ratios), (10_000, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [0.025, 0.975])
    numbers = {"median": np.median(ratios), "low": low, "high": high}
    return {name: round(float(number), 3) for name, number in numbers.items()}


def fastest(seconds: dict[str, list[float]], names: Iterable[str]) -> str:
    return min(names, key=lambda name: float(np.median(seconds[name])))


def rounds_parser(doc: str | None, record: Path, rounds: int) -> argparse.ArgumentParser:
    """The options of benchmarks in which whole epochs take turns."""
    parser = make_parser(doc, record, threads=len(os.sched_getaffinity(0)))
    parser.add_argument("--data", type=Path, help="prepared data set (default: made up)")
    parser.add_argument("--rows", type=int, default=600_000, help="rows of the made-up data set")
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=rounds, help="epochs of each contestant")
    parser.add_argument("--warmup", type=int, default=1, help="rounds that do not count")
    return parser


def describe_data(data: DataSet, made_up: bool) -> dict[str, Any]:
    return {
        "data": data.schema.dataset if made_up else str(data.path),
        "fingerprint": data.fingerprint,
        "rows": data.schema.num_rows["train"],
    }


def main() -> None:
    parser = rounds_parser(__doc__, RECORD, rounds=9)
    parser.add_argument(
        "--fuxictr-python", type=Path, help="interpreter (see benchmarks/README.md)"
    )
    parser.add_argument(
        "--fuxictr-ways",
        nargs="+",
        default=["npz-1", "npz-1@1", "npz-3", "parquet-3", "ready"],
        help="how FuxiCTR is fed (see benchmarks/speed/fuxictr_dnn.py)",
    )
    args = parser.parse_args()
    environment = set_up(args.threads)
    with data_set(args.data, args.rows) as data:
        settings = seo.SeoSettings()
        policy = apply.exact(uneven_policy(data.schema, settings), settings.params)
        hashed = Hashed.of(data, policy)
        common = {"epochs": 1, "batch_size": args.batch, "row_lr": LR, "dense_lr": LR}
        ours = Fit("fit", data, policy, FitSettings(**common))
        contestants: list[Contestant] = [
            ours,
            OneTable(hashed, policy, args.batch),
            Embedding(hashed, policy, args.batch),
            TablePerChunk(hashed, policy, args.batch),
            TorchRec(hashed, policy, args.batch),
            Fit("fit, no mean", data, policy, FitSettings(**common, average=0.0)),
        ]
        plain = [c.name for c in contestants if isinstance(c, OneTable | TablePerChunk)]
        with fuxictr(
            args.fuxictr_python, data.path, args.batch, args.threads, args.fuxictr_ways
        ) as rivals:
            seconds = in_rounds([*contestants, *rivals], args.rounds, args.warmup)
        record: dict[str, Any] = {
            "benchmark": "step",
            **describe_data(data, args.data is None),
            "batch": args.batch,
            "steps": len(ours.train),
            "lookups": policy.num_lookups,
            "embedding_params": policy.num_params,
            "rounds": args.rounds,
        }
    best = fastest(seconds, plain)
    goals: dict[str, tuple[str, float | None]] = {
        f"fit / {best}": (best, GOAL_PLAIN),
        "fit / TorchRec": ("TorchRec", None),
    }
    loaders = [r.name for r in rivals if r.way != "ready"]
    if loaders:
        chosen = fastest(seconds, loaders)
        goals[f"fit / {chosen}"] = (chosen, GOAL_FUXICTR)
        record["fuxictr"] = {
            key: rivals[0].details[key] for key in ("fuxictr", "torch", "embedding_params")
        }
    for rival in rivals:
        goals.setdefault(f"fit / {rival.name}", (rival.name, None))
    goals["fit, no mean / " + best] = (best, None)
    record["ms_per_step"] = {n: spread(1000 * s for s in v) for n, v in seconds.items()}
    record["ratios"] = {
        name: {**ratio(seconds[name.split(" / ")[0]], seconds[below]), "goal": goal}
        for name, (below, goal) in goals.items()
    }
    if not rivals:
        record["ms_per_step"]["FuxiCTR"] = "not measured"
    show(record)
    if args.record:
        append(RECORD, {**record, "environment": environment})
        print(f"appended to {RECORD}")


def show(record: dict[str, Any]) -> None:
    title = f"{record['data']}: {record['rows']} rows, batch {record['batch']}, {record['rounds']}"
    print(f"{title} rounds of {record['steps']} steps, {record['lookups']} lookups per row")
    print(f"{'ms per step':28} {'median':>8} {'min':>8} {'max':>8}")
    for name, v in record["ms_per_step"].items():
        if isinstance(v, str):
            print(f"{name:28} {v}")
        else:
            print(f"{name:28} {v['median']:8.3f} {v['min']:8.3f} {v['max']:8.3f}")
    print(f"\n{'ratio':38} {'median':>8} {'95 % interval':>16}  goal")
    for name, r in record["ratios"].items():
        goal = "" if r["goal"] is None else f"<= {r['goal']} {verdict(r['median'] <= r['goal'])}"
        print(f"{name:38} {r['median']:8.3f}   {r['low']:6.3f} - {r['high']:.3f}  {goal}")


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"


if __name__ == "__main__":
    main()
