"""A small package with a column of every kind, for the tests of the server."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from served import ABOUT, LINEAR, linear_program, trained

from cases import POLICIES
from seo_rec import recipes
from seo_rec.data.dataset import open_data
from seo_rec.data.synthetic import synthetic
from seo_rec.export import package_parts
from seo_rec.model import ModelSettings
from seo_rec.serve.preparation import Preparation
from seo_rec.serve.preparation_rules import Column
from seo_rec.serve.writing import write_package
from seo_rec.train import FitSettings, Training

POLICY = POLICIES["mixed-dims"]  # reads user and item
PREPARATION = Preparation(
    "table",
    "label",
    {},
    (
        Column("price", "numeric", "log"),
        Column("stock", "numeric", "none"),
        Column("user", "categorical"),
        Column("item", "multivalent"),
    ),
)
ROWS = {
    "price": [1.5, None, -3.0, 0.0],
    "stock": [1, 2, None, 4],
    "user": ["ann", "17", None, "bob"],
    "item": [["a", "b"], [], ["7"], None],
}


def small_package(folder: Path, seed: int = 3, formats: tuple[str, ...] = ()) -> Path:
    """Write a package whose weights follow from the seed."""
    model = trained(POLICY, LINEAR, seed=seed)
    with mock.patch("seo_rec.export.package.program_of", linear_program):
        parts = package_parts(model, PREPARATION, None, ABOUT, formats)
    folder.mkdir(parents=True)
    write_package(folder, parts)
    return folder


def small_run(folder: Path) -> Path:
    """Train a small model on synthetic clicks; returns the folder of the run."""
    synthetic(folder / "data", rows=1_000)
    data = open_data(folder / "data")
    policy = recipes.method_policy("multi-size-2", data, 2_000, 4)
    training = Training(ModelSettings(hidden=(16,)), FitSettings(epochs=1, batch_size=64))
    recipes.train(data, policy, folder / "run", training)
    return folder / "run"
