"""What ``fit`` is compared with: loops written by hand, TorchRec's module and FuxiCTR."""

from __future__ import annotations

import json
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.speed.rounds import LR
from seo_rec.data.dataset import DataSet
from seo_rec.embed.remap import Remap
from seo_rec.embed.tables import table_configs
from seo_rec.policy import Policy
from seo_rec.settings import INIT_SCALE

FUXICTR = Path(__file__).parent / "fuxictr_dnn.py"


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
