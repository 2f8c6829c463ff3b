"""FuxiCTR's DNN on a prepared data set; run by an interpreter that has FuxiCTR, not by ours.

``benchmarks.speed.step`` starts ``PYTHON benchmarks/speed/fuxictr_dnn.py --data DATA ...`` and
writes the name of a way to feed the trainer to its standard input, one per line; each is answered
by a line of JSON with the seconds of one more training epoch. It can be used by hand as well::

    echo npz-3 | PYTHON benchmarks/speed/fuxictr_dnn.py --data DATA

The ways: ``npz-W``, FuxiCTR's in-memory ``NpzDataLoader`` with W worker processes (its default is
1, its model zoo's is 3); ``parquet-W``, its ``ParquetDataLoader`` on Ray, W batches ahead;
``ready``, a list of shuffled batches made beforehand, which leaves out all loading and so is a
lower limit of what FuxiCTR could cost. ``@T`` after a way sets the number of torch threads of its
epochs, as in ``npz-1@1``: a worker process and all torch threads may get in each other's way.

Timed: ``BaseModel.train_epoch`` over the whole training split, shuffled, as ``BaseModel.fit`` calls
it: loading, forward, loss, backward, gradient clipping, Adam. Not timed: reading the parquet
files, numbering the ids, writing FuxiCTR's input file, evaluation, checkpoints.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything

NEVER = 1 << 40  # evaluation steps: no evaluation


class DNN(BaseModel):
    """The DNN of FuxiCTR's model zoo, which its wheel does not hold, with a clock."""

    def __init__(self, feature_map: FeatureMap, folder: Path, dim: int, hidden: list[int]) -> None:
        super().__init__(
            feature_map,
            model_id="DNN",
            eval_steps=NEVER,
            verbose=0,
            model_root=str(folder),
            metrics=["AUC", "logloss"],
        )
        self.embedding_layer = FeatureEmbedding(feature_map, dim)
        self.mlp = MLP_Block(
            input_dim=feature_map.sum_emb_out_dim(),
            output_dim=1,
            hidden_units=hidden,
            output_activation=self.output_activation,
        )
        self.compile("adam", "binary_crossentropy", 1e-3)
        self.reset_parameters()
        self.seconds = 0.0

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        x = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        return {"y_pred": self.mlp(x)}

    def train_epoch(self, data_generator: Any) -> None:
        start = time.perf_counter()
        super().train_epoch(data_generator)
        self.seconds = time.perf_counter() - start


def encode(data: Path, folder: Path, dim: int) -> FeatureMap:
    """Write ``train.npz`` and ``train.parquet`` as FuxiCTR's preprocessing would leave them."""
    schema = json.loads((data / "schema.json").read_text())
    frame = pd.concat([pd.read_parquet(p) for p in sorted((data / "train").glob("part-*.parquet"))])
    names = [c["name"] for c in schema["columns"] if c["kind"] == "categorical"]
    encoded: dict[str, Any] = {}
    features: list[dict[str, Any]] = []
    for name in names:
        codes, values = pd.factorize(frame[name])
        encoded[name] = (codes + 1).astype(np.int64)  # 0 is padding, the last id is unknown
        spec = {
            "source": "",
            "type": "categorical",
            "padding_idx": 0,
            "vocab_size": len(values) + 2,
        }
        features.append({name: spec})
    encoded["label"] = frame[schema["label"]].to_numpy(np.float64)
    np.savez(folder / "train.npz", **encoded)
    pd.DataFrame(encoded).to_parquet(folder / "train.parquet")
    doc = {
        "dataset_id": "data",
        "num_fields": len(names),
        "total_features": sum(s["vocab_size"] for f in features for s in f.values()),
        "input_length": len(names),
        "labels": ["label"],
        "features": features,
    }
    path = folder / "feature_map.json"
    path.write_text(json.dumps(doc))
    feature_map = FeatureMap("data", str(folder))
    feature_map.load(str(path), {"embedding_dim": dim})
    return feature_map


class Trainer:
    """One DNN and the epochs it is asked for."""

    def __init__(self, data: Path, folder: Path, batch: int, dim: int, hidden: list[int]) -> None:
        seed_everything(0)
        self.folder, self.batch, self.threads = folder, batch, torch.get_num_threads()
        self.feature_map = encode(data, folder, dim)
        self.model = DNN(self.feature_map, folder, dim, hidden)
        (folder / "data").mkdir()
        self.model.save_weights(self.model.checkpoint)  # fit() loads it at its end

    def loader(self, kind: str, workers: int) -> Any:
        train, _ = RankDataLoader(
            self.feature_map,
            stage="train",
            train_data=str(self.folder / f"train.{kind}"),
            batch_size=self.batch,
            shuffle=True,
            data_format=kind,
            num_workers=workers,
        )
        return train

    def epoch(self, way: str) -> dict[str, Any]:
        feed, _, threads = way.partition("@")
        kind, _, workers = feed.partition("-")
        torch.set_num_threads(int(threads or self.threads))
        batches = self.loader("npz" if kind == "ready" else kind, int(workers or 0))
        if kind == "ready":
            batches = list(batches)
        self.model.fit(batches, epochs=1)
        steps = len(batches)
        if kind == "parquet":
            import ray

            ray.shutdown()  # its processes must not run beside what is measured next
        return {
            "way": way,
            "seconds": self.model.seconds,
            "steps": steps,
            "ms_per_step": 1000 * self.model.seconds / steps,
            "embedding_params": sum(p.numel() for p in self.model.embedding_layer.parameters()),
            "fuxictr": importlib.metadata.version("fuxictr"),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 128])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what FuxiCTR and Ray print must not mix with the answers
    logging.basicConfig(level=logging.ERROR, force=True)
    torch.set_num_threads(args.threads)
    # `timeout` ends both processes; the folder goes first (benchmarks/command.py is not seen here)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(args.data, Path(folder), args.batch, args.dim, args.hidden)
        for line in sys.stdin:
            answers.write(json.dumps(trainer.epoch(line.strip())) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
