"""The model of a package in PyTorch and TorchRec, for ``benchmarks.speed.serving``."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor

from seo_rec.serve.layout import table_places
from seo_rec.serve.package import Package


def tables(package: Package) -> dict[str, torch.Tensor]:
    """float32 of every table, by name."""
    found = {}
    for name, place in table_places(package.policy).items():
        stored = package.embeddings[place.tensor][place.first : place.first + place.rows]
        found[name] = torch.from_numpy(stored.copy())
    return found


def layers(package: Package) -> nn.Sequential:
    """The backbone: linear layers with ReLU between them."""
    weights = {name: torch.from_numpy(x.copy()) for name, x in package.weights.items()}
    names = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    found: list[nn.Module] = []
    for name in sorted(names, key=lambda n: int(n.rpartition(".")[2])):
        weight = weights[f"{name}.weight"]
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": weight, "bias": weights[f"{name}.bias"]})
        found += [linear, nn.ReLU()]
    return nn.Sequential(*found[:-1]).eval()


class Eager(nn.Module):
    """A lookup for each column of row numbers, side by side, and the layers."""

    def __init__(self, package: Package) -> None:
        super().__init__()
        weights = tables(package)
        self.read = [k.table for f in package.policy.features for k in f.lookups]
        self.weights = weights
        self.layers = layers(package)

    def forward(self, rows_BK: torch.Tensor) -> torch.Tensor:
        """Args: int64 (B, K). Returns: logits float32 (B,)."""
        columns = rows_BK.unbind(1)
        parts = [
            nn.functional.embedding(rows, self.weights[name])
            for name, rows in zip(self.read, columns, strict=True)
        ]
        logits: torch.Tensor = self.layers(torch.cat(parts, dim=1)).squeeze(1)
        return logits


class Collected(nn.Module):
    """An embedding bag collection behind row numbers."""

    def __init__(self, bags: nn.Module, keys: list[str], head: nn.Module) -> None:
        super().__init__()
        self.bags, self.keys, self.layers = bags, keys, head
        self.num_keys = len(keys)

    def forward(self, rows_BK: torch.Tensor) -> torch.Tensor:
        """Args: int64 (B, K). Returns: logits float32 (B,)."""
        values = rows_BK.t().reshape(-1)
        features = KeyedJaggedTensor(
            keys=self.keys, values=values, lengths=torch.ones_like(values, dtype=torch.int32)
        )
        logits: torch.Tensor = self.layers(self.bags(features).values()).squeeze(1)
        return logits


def collection(package: Package, quantised: bool) -> Any:
    """TorchRec's model: eager in float32, or int8, fx-traced and scripted."""
    policy = package.policy
    keys = [f"{f.name} {j}" for f in policy.features for j in range(len(f.lookups))]
    reads = [k.table for f in policy.features for k in f.lookups]
    configs = []
    for t in policy.tables:
        names = [key for key, table in zip(keys, reads, strict=True) if table == t.name]
        configs.append(
            EmbeddingBagConfig(
                name=t.name, embedding_dim=t.dim, num_embeddings=t.num_rows, feature_names=names
            )
        )
    bags: Any = EmbeddingBagCollection(configs)
    for name, weight in tables(package).items():
        bags.embedding_bags[name].weight.data.copy_(weight)
    ordered = [key for config in configs for key in config.feature_names]
    head = _reordered(layers(package), ordered, keys, policy.tables[0].dim)
    if not quantised:
        return Collected(bags, keys, head).eval()
    import torchrec.fx
    from torch.ao.quantization import PlaceholderObserver, QConfig
    from torchrec.quant.embedding_modules import EmbeddingBagCollection as Quantised

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bags.qconfig = QConfig(
            activation=PlaceholderObserver.with_args(dtype=torch.float32),
            weight=PlaceholderObserver.with_args(dtype=torch.qint8),
        )
        model = Collected(Quantised.from_float(bags), keys, head).eval()
        traced = torchrec.fx.Tracer().trace(model)
        for node in traced.nodes:
            node.type = None  # annotations arrive as text, which TorchScript does not resolve
        return torch.jit.script(torch.fx.GraphModule(model, traced))


def _reordered(head: nn.Sequential, order: list[str], keys: list[str], dim: int) -> nn.Sequential:
    """The layers for embeddings in the order of the tables, so that no call sorts them."""
    columns = [keys.index(key) * dim + d for key in order for d in range(dim)]
    first = head[0]
    assert isinstance(first, nn.Linear)
    first.weight.data = first.weight.data[:, columns].contiguous()
    return head
