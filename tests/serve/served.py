"""Packages of the policies and backbones of ``cases.py``, made without any data; and raw clicks."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from cases import BACKBONES, BUILDABLE, Bags
from laws import stored_weights
from seo_rec.data.dataset import DataSet
from seo_rec.data.table import TableColumns
from seo_rec.export import package_parts
from seo_rec.model import ModelSettings, RecModel, build_model
from seo_rec.policy import Policy
from seo_rec.serve import bags as serving
from seo_rec.serve.preparation import Preparation
from seo_rec.serve.preparation_rules import Column
from seo_rec.serve.program import Program, Step
from seo_rec.serve.writing import Parts, write_package

ABOUT = {"data": {}, "metrics": {}, "versions": {}, "model": {}}
LINEAR = BACKBONES["mlp-linear"]


def trained(policy: Policy, settings: ModelSettings, num_dense: int = 2, seed: int = 3) -> RecModel:
    """A model whose weights are as large as trained ones."""
    settings = replace(settings, init_scale=0.5)
    model = build_model(policy, num_dense, settings, seed).eval()
    return model


def everything(names: tuple[str, ...]) -> Policy:
    """The tables, arrays, codes and features of many policies, side by side."""
    tables, arrays, features, vocabularies, codes = [], [], [], {}, {}
    for i, policy in enumerate(BUILDABLE[name] for name in names):
        tables += [replace(t, name=f"{i} {t.name}") for t in policy.tables]
        arrays += [replace(a, name=f"{i} {a.name}") for a in policy.arrays]
        for f in policy.features:
            lookups = [
                replace(k, table=f"{i} {k.table}", codes=k.codes and f"{i} {k.codes}")
                for k in f.all_lookups
            ]
            own = len(f.lookups)
            weights = lookups[own] if f.weights is not None else None
            name = f"{i} {f.name}"
            features.append(replace(f, name=name, lookups=tuple(lookups[:own]), weights=weights))
        vocabularies |= {f"{i} {n}": ids for n, ids in policy.vocabularies.items()}
        codes |= {f"{i} {n}": numbers for n, numbers in policy.codes.items()}
    return Policy(
        tuple(tables), tuple(features), vocabularies=vocabularies, codes=codes,
        arrays=tuple(arrays),
    )  # fmt: skip


def preparation_for(policy: Policy, num_dense: int = 2, kind: str = "multivalent") -> Preparation:
    """Numeric columns, and those that a policy reads: multivalent, categorical or optional."""
    columns = [Column(f"n{i}", "numeric", "none") for i in range(num_dense)]
    missing = "empty" if kind == "optional" else "token"
    kind = "multivalent" if kind == "multivalent" else "categorical"
    columns += [Column(name, kind, missing=missing) for name in policy.columns]
    return Preparation("table", "label", {}, tuple(columns))


def parts_of(
    policy: Policy,
    settings: ModelSettings = LINEAR,
    precision: str | None = None,
    num_dense: int = 2,
    kind: str = "multivalent",
    program: bool = True,
) -> tuple[Parts, RecModel]:
    """The parts of a package, and the model, whose weights are those that are served.

    Without ``program`` the backbone's steps are left out, which cost a second.
    """
    model = trained(policy, settings, num_dense)
    preparation = preparation_for(policy, num_dense, kind)
    if settings != LINEAR and program:
        return package_parts(model, preparation, precision, ABOUT), model
    written = linear_program if settings == LINEAR else lambda *_: (None, {})
    with mock.patch("seo_rec.export.package.program_of", written):
        return package_parts(model, preparation, precision, ABOUT), model


def linear_program(backbone: torch.nn.Module, num_dense: int, width: int):
    """The program of the backbone without hidden layers, written by hand to save a second."""
    (layer,) = backbone.layers
    steps = (
        Step("concatenate", ("dense", "embeddings"), "z", {"axis": 1}),
        Step("linear", ("z", "w", "b"), "y", {}),
        Step("squeeze", ("y",), "logits", {"axis": 1}),
    )
    weights = {"w": layer.weight.detach().numpy(), "b": layer.bias.detach().numpy()}
    return Program(num_dense, width, steps, "logits"), weights


def written(
    folder: Path,
    policy: Policy,
    settings: ModelSettings = LINEAR,
    precision: str | None = None,
    num_dense: int = 2,
    kind: str = "multivalent",
) -> RecModel:
    """Write a package into a folder; returns the model."""
    parts, model = parts_of(policy, settings, precision, num_dense, kind)
    write_package(folder, parts)
    return model


def as_inputs(
    columns: KeyedJaggedTensor, num_dense: int = 2, single: bool = False
) -> serving.Inputs:
    """A batch of ``cases.py`` as a scorer takes it; the dense columns are made up."""
    found = {}
    for name in columns.keys():
        bag = columns[name]
        weights = bag.weights_or_none()
        found[name] = serving.Bags(
            bag.values().numpy(),
            None if single else bag.lengths().numpy().astype(np.int64),
            None if weights is None else weights.numpy(),
        )
    dense = np.random.default_rng(5).normal(size=(columns.stride(), num_dense))
    return serving.Inputs(dense.astype(np.float32), found)


@torch.no_grad()
def model_logits(model: RecModel, columns: KeyedJaggedTensor, dense_BN: np.ndarray) -> np.ndarray:
    return model.backbone(torch.from_numpy(dense_BN), model.embedding(columns)).numpy()


def floats_of(model: RecModel) -> dict[str, np.ndarray]:
    """The trained floats by name, as the laws want them."""
    return {name: w.detach().clone() for name, w in stored_weights(model.embedding).items()}


def is_single(bags: Bags) -> bool:
    return bags.least == bags.most == 1


# ---- a run of raw clicks ----------------------------------------------------------------------

CLICK_COLUMNS = TableColumns(
    label="clicked",
    categorical=("user", "item", "city"),
    numeric=("price", "age"),
    multivalent=("tags",),
    numeric_transform="standard,age=quantiles",
    buckets=8,
)
CLICK_ROWS = 1500


@dataclass(frozen=True)
class Clicks:
    """A trained run, what it was trained on, and the folder of its package."""

    raw: Path
    data: DataSet
    run: Path
    package: Path


def write_clicks(path: Path, rows: int = CLICK_ROWS) -> None:
    """Made-up clicks with an id, text with quotes, missing cells, bags and numbers."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "clicked", "user", "item", "city", "price", "age", "tags"])
        for i in range(rows):
            user, item = int(rng.integers(0, 60)), int(rng.integers(0, 200))
            city = ["Köln", "Paris, France", "", 'the "Hague"', f"c{rng.integers(0, 30)}"][i % 5]
            tags = "|".join(f"t{t}" for t in rng.integers(0, 20, rng.integers(0, 4)))
            price = "" if i % 11 == 0 else f"{rng.gamma(2.0, 20.0):.2f}"
            clicked = int(rng.random() < (0.85 if user < 30 else 0.15))
            age = str(int(rng.integers(18, 80)))
            writer.writerow([f"r{i}", clicked, user, f"i{item}", city, price, age, tags])
