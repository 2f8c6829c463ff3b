"""What would it cost in accuracy to keep the running mean of rows in 16 bits?

    python -m benchmarks.accuracy.half_means --data data/ml-1m --params 96000 [--record]

The product keeps the mean in the type of the tables. Here one training of tables of bfloat16 keeps
several means of the same weights side by side, since a mean has no part in the training: in
float32, in 16 bits with the rounding that is right on average, and in bfloat16 rounded to the
nearest. Each takes the place of the weights in an evaluation. The dense layers are evaluated with
their mean in float32.

Letters: U rows that a batch read, R rows and D floats of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.command import make_parser, set_up
from benchmarks.record import append, path_of
from seo_kernels.row_bag import mean_share, share_left
from seo_kernels.row_bag.rounding import round_randomly
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.stream import Stream
from seo_rec.embed.sparse import SparseTables
from seo_rec.model import ModelSettings, RecModel, build_model
from seo_rec.recipes import method_policy
from seo_rec.settings import ADAGRAD_RATE, FitSettings
from seo_rec.train import eval_stream, evaluate, make_optimizers

RECORD = path_of("half-means")
KINDS = ("float32", "bfloat16", "float16", "bfloat16 to the nearest")


class Means:
    """Running means of the rows of some tables, of every kind in :data:`KINDS`.

    Args:
        source: The tables and the rows that the last batch read.
        decay: The limit of the decay of the means.
        seed: Of the random numbers of the roundings.
    """

    def __init__(self, source: SparseTables, decay: float, seed: int) -> None:
        self.source, self.decay, self.step = source, decay, 0
        self.draw = torch.Generator().manual_seed(seed)
        weights = [w.detach().float() for w in source.weights]
        self.of = {kind: [w.clone() for w in weights] for kind in KINDS}
        self.at = [torch.full((len(w), 1), -1) for w in weights]

    def rows_read(self) -> list[Tensor]:
        """The rows (U,) of each table that the batch read."""
        (reads, _), layout = self.source.pending[0], self.source.layout
        rows_KB = reads.rows_V.view(layout.num_lookups, -1)
        of = torch.tensor(layout.table_of)
        return [torch.unique(rows_KB[of == t]) for t in range(len(self.at))]

    def weights(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """The present weights (U, D) of these rows of each table, in float32."""
        return [w.detach()[r].float() for w, r in zip(self.source.weights, rows, strict=True)]

    def take_in(self, rows: Sequence[Tensor], before: Sequence[Tensor]) -> None:
        """Take in a step that updated these rows, whose weights were ``before`` until then."""
        self.step += 1
        share, after = mean_share(self.step, self.decay), self.weights(rows)
        for t, (r, old, new) in enumerate(zip(rows, before, after, strict=True)):
            for kind, means in self.of.items():
                mean = self._at_step(means[t][r], old, self.at[t][r], self.step - 1)
                means[t][r] = self._stored(mean + share * (new - mean), kind)
            self.at[t][r] = self.step

    def now(self, kind: str) -> list[Tensor]:
        """The means (R, D) of all rows of each table, brought up to the last step."""
        return [
            self._at_step(mean, w.detach().float(), at, self.step)
            for mean, w, at in zip(self.of[kind], self.source.weights, self.at, strict=True)
        ]

    def _at_step(self, mean: Tensor, weight: Tensor, at: Tensor, step: int) -> Tensor:
        left = share_left(at.clamp(min=0), step, self.decay).float()
        return torch.where(at < 0, weight, weight + left * (mean - weight))

    def _stored(self, values: Tensor, kind: str) -> Tensor:
        if kind == "float32":
            return values
        dtype: torch.dtype = getattr(torch, kind.split()[0])
        if kind.endswith("nearest"):
            return values.to(dtype).float()
        random = torch.randint(2**16, values.shape, generator=self.draw)
        return round_randomly(values, random, dtype).float()


def trained(data: DataSet, params: int, epochs: int, decay: float, seed: int) -> dict[str, float]:
    """Validation AUC without a mean and with every kind of it, and how far each is from float32.

    The distance is ``|m - m_float32| / |m_float32|`` over the rows of all tables.
    """
    policy = method_policy("multi-size-2", data, params, seed=seed)
    model = build_model(policy, data.num_numeric, ModelSettings(), seed, storage="bfloat16")
    rate = FitSettings.row_lr * ADAGRAD_RATE
    optimizers = make_optimizers(model, "rowwise_adagrad", rate, FitSettings.dense_lr)
    source = model.embedding.sparse
    assert isinstance(source, SparseTables)
    means = Means(source, decay, seed)
    dense = [p.detach().clone() for p in model.backbone.parameters()]
    stream = Stream(data, batch_size=FitSettings.batch_size, shuffle=True, seed=seed)
    for _ in range(epochs):
        for batch in stream:
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            loss, _ = model(batch)
            loss.backward()
            rows = means.rows_read()
            before = means.weights(rows)
            for optimizer in optimizers.values():
                optimizer.step()
            means.take_in(rows, before)
            share = mean_share(means.step, decay)
            for mean, p in zip(dense, model.backbone.parameters(), strict=True):
                mean.lerp_(p.detach(), share)
    found = {"no mean": auc_of(model, data, None, [*model.backbone.parameters()])}
    exact = means.now("float32")
    for kind in KINDS:
        mine = means.now(kind)
        found[kind] = auc_of(model, data, mine, dense)
        apart = sum(float((a - b).square().sum()) for a, b in zip(mine, exact, strict=True))
        size = sum(float(b.square().sum()) for b in exact)
        found[f"{kind}, distance"] = (apart / size) ** 0.5
    return found


@torch.no_grad()
def auc_of(
    model: RecModel, data: DataSet, rows: Sequence[Tensor] | None, dense: Sequence[Tensor]
) -> float:
    """Validation AUC with these weights of tables, rounded to 16 bits, and of dense layers."""
    assert isinstance(model.embedding.sparse, SparseTables)
    tables = model.embedding.sparse.weights
    places = [*tables, *model.backbone.parameters()]
    kept = [p.detach().clone() for p in places]
    for place, value in zip(places, [*(rows or tables), *dense], strict=True):
        place.copy_(value)
    metrics, _, _ = evaluate(model, eval_stream(data, "val", model.embedding.policy.columns))
    for place, value in zip(places, kept, strict=True):
        place.copy_(value)
    return float(metrics.auc)


def main() -> None:
    parser = make_parser(__doc__, RECORD, threads=1)
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--params", type=int, default=96_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--average", type=float, default=0.998)
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    environment, data = set_up(args.threads), open_data(args.data)
    for seed in range(args.seeds):
        found = trained(data, args.params, args.epochs, args.average, seed)
        line = {
            "benchmark": "half-means",
            "data": data.schema.dataset,
            "data_fingerprint": data.fingerprint,
            "params": args.params,
            "epochs": args.epochs,
            "average": args.average,
            "seed": seed,
            **{name: round(value, 6) for name, value in found.items()},
            "environment": environment,
        }
        print({name: round(value, 5) for name, value in found.items()}, flush=True)
        if args.record:
            append(RECORD, line)


if __name__ == "__main__":
    main()
