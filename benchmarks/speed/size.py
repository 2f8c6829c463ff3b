"""Does a training step cost the same whatever the size of the tables?

    python -m benchmarks.speed.size [--floats 1e6 1e7 1e8 1e9] [--record]

39 lookups of width 16 in one table, as of the columns of Criteo, with ids of a Zipf distribution,
batches of 2,048, a network of 256 and 128 units, row-wise Adagrad. The contestants train on the
same batches in memory; each is made, takes some steps, is timed and given up before the next one,
in rounds that begin with another one each. The step includes:

    ours            what ``seo_rec.train.fit`` runs: hashing of ids, lookup, network, backward, the
                    update of the rows read, Adam for the network
    ours, mean      the same with the running mean of all weights
    Adam, mean      ours with Adam on dense gradients and the mean, up to 1e7 floats: what `auto`
                    takes while it costs at most a tenth more than ours with the mean
    bare TBE        FBGEMM's ``SplitTableBatchedEmbeddingBagsCodegen`` with its fused row-wise
                    Adagrad and the same network; rows were hashed before
    TorchRec        ``EmbeddingBagCollection`` with ``apply_optimizer_in_backward`` under
                    ``DistributedModelParallel`` (one process), the same network; hashed before
    plain PyTorch   ``nn.EmbeddingBag`` on dense gradients with ``torch.optim.Adagrad``, up to 1e7
                    floats; hashed before

Goals: ours at the largest size at most 1.3 times ours at the smallest, and at most 1.15 times the
bare TBE at every size; at most 1.0 times plain PyTorch at the smallest.
"""

from __future__ import annotations

import gc
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import nn
from torch.distributed.optim import (
    _apply_optimizer_in_backward as apply_optimizer_in_backward,
)
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.command import make_parser, set_up
from benchmarks.pages import speed
from benchmarks.record import append, path_of
from seo_rec.backbones import build_backbone
from seo_rec.batch import Batch
from seo_rec.embed.remap import hash_rows
from seo_rec.model import ModelSettings, build_model
from seo_rec.policy import Feature, Lookup, Policy, Table
from seo_rec.train import make_optimizers, ranks
from seo_rec.train.average import WeightAverage
from seo_rec.train.steps import PlainSteps

RECORD = path_of("size")
FEATURES, WIDTH, DENSE, BATCH, LR = 39, 16, 13, 2048, 0.02
DENSE_UP_TO = 10_000_000
Step = Callable[[int], None]


def batches(count: int) -> list[Batch]:
    """Rows of 39 ids and 13 numbers; ids of a feature as skewed as click logs are."""
    rng = np.random.default_rng(0)
    keys, made = [f"f{i}" for i in range(FEATURES)], []
    for _ in range(count):
        ids = rng.zipf(1.2, FEATURES * BATCH).clip(max=2**40).astype(np.int64)
        ones = torch.ones(FEATURES * BATCH, dtype=torch.int32)
        sparse = KeyedJaggedTensor(keys, torch.from_numpy(ids), lengths=ones, stride=BATCH)
        dense = torch.from_numpy(rng.normal(size=(BATCH, DENSE)).astype(np.float32))
        labels = torch.from_numpy(rng.integers(0, 2, BATCH).astype(np.float32))
        made.append(Batch(dense, sparse, labels))
    return made


def policy_of(floats: int) -> Policy:
    table = Table("t", floats // WIDTH, WIDTH)
    features = (Feature(f"f{i}", (Lookup("t", "hash", i + 1),)) for i in range(FEATURES))
    return Policy((table,), tuple(features))


def hashed(made: list[Batch], rows: int) -> list[torch.Tensor]:
    """Row numbers of all lookups, one feature after the other."""
    seeds = torch.arange(1, FEATURES + 1)[:, None]
    return [hash_rows(b.sparse.values().view(FEATURES, BATCH), seeds, rows).view(-1) for b in made]


# ---- the contestants -------------------------------------------------------------------------


def ours(
    floats: int, made: list[Batch], average: float, optimizer: str = "rowwise_adagrad"
) -> Step:
    model = build_model(policy_of(floats), DENSE, ModelSettings(), 0)
    optimizers = make_optimizers(model, optimizer, LR, 2e-3)
    mean = WeightAverage(model, average, optimizers)
    steps = iter(PlainSteps(model, optimizers, ranks())(_forever(made)))

    def step(number: int) -> None:
        next(steps)
        mean.update(number + 1)

    return step


def _forever(made: list[Batch]) -> Iterator[Batch]:
    while True:
        yield from made


class Rival(ABC):
    """A lookup of another kind, the same network, and one step."""

    def __init__(self, made: list[Batch], rows: list[torch.Tensor]) -> None:
        self.made, self.rows = made, rows
        widths = (WIDTH,) * FEATURES
        self.network = build_backbone("mlp", DENSE, widths, (256, 128), 0.0, None)
        self.adam = torch.optim.Adam(self.network.parameters(), lr=2e-3, fused=True)

    @abstractmethod
    def look_up(self, rows: torch.Tensor) -> torch.Tensor:
        """Vectors of all lookups of a batch side by side."""

    def update(self) -> None:  # noqa: B027
        """What the backward pass has not done for the table; nothing, if it is fused."""

    def __call__(self, number: int) -> None:
        at = number % len(self.made)
        batch, rows = self.made[at], self.rows[at]
        self.adam.zero_grad()
        logits = self.network(batch.dense_BN, self.look_up(rows))
        nn.functional.binary_cross_entropy_with_logits(logits, batch.labels_B).backward()
        self.adam.step()
        self.update()


class BareTBE(Rival):
    def __init__(self, made: list[Batch], rows: list[torch.Tensor], num_rows: int) -> None:
        super().__init__(made, rows)
        self.table = SplitTableBatchedEmbeddingBagsCodegen(
            [(num_rows, WIDTH, EmbeddingLocation.HOST, ComputeDevice.CPU)],
            feature_table_map=[0] * FEATURES,
            optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
            learning_rate=LR,
            eps=1e-8,
            pooling_mode=PoolingMode.SUM,
        )
        self.table.init_embedding_weights_uniform(-0.01, 0.01)
        self.offsets = torch.arange(FEATURES * BATCH + 1)

    def look_up(self, rows: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.table(rows, self.offsets)
        return found


class TorchRec(Rival):
    def __init__(self, made: list[Batch], rows: list[torch.Tensor], num_rows: int) -> None:
        super().__init__(made, rows)
        self.keys = [f"f{i}" for i in range(FEATURES)]
        config = EmbeddingBagConfig(
            name="t", num_embeddings=num_rows, embedding_dim=WIDTH, feature_names=self.keys
        )
        collection = EmbeddingBagCollection([config], device=torch.device("meta"))
        settings = {"lr": LR, "eps": 1e-8}
        apply_optimizer_in_backward(RowWiseAdagrad, collection.parameters(), settings)
        self.table = DistributedModelParallel(collection, device=torch.device("cpu"))
        self.ones = torch.ones(FEATURES * BATCH, dtype=torch.int32)

    def look_up(self, rows: torch.Tensor) -> torch.Tensor:
        features = KeyedJaggedTensor(self.keys, rows, lengths=self.ones, stride=BATCH)
        found: torch.Tensor = self.table(features).values()
        return found


class PlainPyTorch(Rival):
    def __init__(self, made: list[Batch], rows: list[torch.Tensor], num_rows: int) -> None:
        super().__init__(made, rows)
        self.table = nn.Embedding(num_rows, WIDTH)
        self.adagrad = torch.optim.Adagrad(self.table.parameters(), lr=LR)

    def look_up(self, rows: torch.Tensor) -> torch.Tensor:
        self.adagrad.zero_grad()
        return self.table(rows.view(FEATURES, BATCH).t()).flatten(1)

    def update(self) -> None:
        self.adagrad.step()


def contestants(floats: int, made: list[Batch]) -> dict[str, Callable[[], Step]]:
    rows = hashed(made, floats // WIDTH)
    found: dict[str, Callable[[], Step]] = {
        "ours": lambda: ours(floats, made, 0.0),
        "ours, mean": lambda: ours(floats, made, 0.998),
        "bare TBE": lambda: BareTBE(made, rows, floats // WIDTH),
        "TorchRec": lambda: TorchRec(made, rows, floats // WIDTH),
    }
    if floats <= DENSE_UP_TO:
        found["Adam, mean"] = lambda: ours(floats, made, 0.998, "adam")
        found["plain PyTorch"] = lambda: PlainPyTorch(made, rows, floats // WIDTH)
    return found


# ---- measurement -----------------------------------------------------------------------------


def measured(make: Callable[[], Step], warmup: int, steps: int) -> dict[str, float]:
    """Median milliseconds of a step, and seconds until the first one was done."""
    started = time.perf_counter()
    step = make()
    step(0)
    start = time.perf_counter() - started
    seconds = []
    for number in range(1, warmup + steps):
        began = time.perf_counter()
        step(number)
        seconds.append(time.perf_counter() - began)
    del step
    gc.collect()
    return {
        "ms": 1e3 * statistics.median(seconds[warmup - 1 :]),
        "start_s": start,
    }


def main() -> None:
    parser = make_parser(__doc__, RECORD, threads=2)
    parser.add_argument("--floats", nargs="+", type=float, default=[1e6, 1e7, 1e8, 1e9])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    environment = set_up(args.threads)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    made = batches(args.warmup + args.steps)
    sizes: list[dict[str, Any]] = []
    for floats in (int(x) for x in args.floats):
        ways = contestants(floats, made)
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for number in range(args.rounds):
            order = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
            for name in order:
                rounds[name].append(measured(ways[name], args.warmup, args.steps))
        sizes.append({"floats": floats, "rounds": rounds})
        print(floats, {n: round(min(x["ms"] for x in r), 2) for n, r in rounds.items()}, flush=True)
    dist.destroy_process_group()
    line = {"benchmark": "size", "batch": BATCH, "sizes": sizes, "environment": environment}
    print(*speed.size([line]), sep="\n")
    if args.record:
        append(RECORD, line)


if __name__ == "__main__":
    main()
