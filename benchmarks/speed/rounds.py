"""Whole epochs in turn: who takes part, on which data, and how the seconds are compared."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.command import make_parser
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.model import ModelSettings, build_model
from seo_rec.policy import Policy
from seo_rec.schema import SCHEMA_FILE, Column, Schema
from seo_rec.search import seo
from seo_rec.settings import FitSettings
from seo_rec.train import fit, make_optimizers
from seo_rec.train.after_step import AfterStep

MOVIELENS = {"user": 6040, "movie": 3637, "gender": 2, "age": 7, "occupation": 21, "zip": 3439}
GROUP_ROWS = 16_384
LR = 2e-3


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


# ---- who takes part -------------------------------------------------------------------------


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
