"""Synthetic clicks for the two scripts beside this file, and the tables that a model has for them.

``python docs/examples/clicks.py clicks.csv`` writes the same kind of clicks to a file.

Whether a row is clicked depends on its user, its item and its first number; hour and device are
noise. Ids are small numbers, and the smaller the more frequent.
"""

import csv
import sys
from collections.abc import Iterator

import torch
from torchrec import EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.datasets.utils import Batch

IDS = {"user": 4000, "item": 2000, "device": 40, "hour": 24}  # how many a feature has
NUMBERS = ["price", "age"]
DIM = 16

# One table per feature, a row per id: 97,024 parameters.
TABLES = [
    EmbeddingBagConfig(name=f"t_{name}", num_embeddings=n, embedding_dim=DIM, feature_names=[name])
    for name, n in IDS.items()
]


def rows(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Numbers float32 (count, 2), ids int64 (4, count) and labels float32 (count,)."""
    made = torch.Generator().manual_seed(seed)
    numbers = torch.randn(count, len(NUMBERS), generator=made)
    places = torch.rand(len(IDS), count, generator=made)
    sizes = torch.tensor(list(IDS.values()))[:, None]
    ids = (sizes * places**4).long()
    taste = torch.sin(ids[0] * 12.9898) + torch.sin(ids[1] * 78.233)  # as if of its own per id
    odds = torch.sigmoid(2 * taste + numbers[:, 0] - 1)
    return numbers, ids, (torch.rand(count, generator=made) < odds).float()


def batches(count: int, size: int, rank: int) -> Iterator[Batch]:
    """``count`` batches of ``size`` rows, others on every rank."""
    for step in range(count):
        numbers, ids, labels = rows(size, seed=1000 * step + rank)
        lengths = torch.ones(ids.numel(), dtype=torch.int32)
        yield Batch(numbers, KeyedJaggedTensor(list(IDS), ids.view(-1), lengths=lengths), labels)


def write(path: str, count: int = 100_000) -> None:
    """``count`` rows as a CSV file with a header."""
    numbers, ids, labels = rows(count, seed=1)
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow([*NUMBERS, *IDS, "clicked"])
        for number, row, label in zip(numbers.tolist(), ids.T.tolist(), labels, strict=True):
            out.writerow([*(f"{x:.4f}" for x in number), *row, int(label)])


if __name__ == "__main__":
    write(sys.argv[1], *map(int, sys.argv[2:]))
