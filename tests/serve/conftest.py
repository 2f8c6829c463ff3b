"""What the tests of serving share: one small trained run of raw clicks, and its package."""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from seo_rec import recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.data.vocabulary import Pruning
from seo_rec.model import ModelSettings
from seo_rec.train import FitSettings, Training

COLUMNS = TableColumns(
    label="clicked",
    categorical=("user", "item", "city"),
    numeric=("price", "age"),
    multivalent=("tags",),
    numeric_transform="log",
)
ROWS = 1500


@dataclass(frozen=True)
class Clicks:
    """A trained run, what it was trained on, and the folder of its package."""

    raw: Path
    data: DataSet
    run: Path
    package: Path


def write_clicks(path: Path, rows: int = ROWS) -> None:
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


@pytest.fixture(scope="session")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Clicks:
    """Prepared, trained and exported once; read-only for every test."""
    from seo_rec.export import export_run

    folder = tmp_path_factory.mktemp("clicks")
    write_clicks(folder / "raw.csv")
    prepare_table(
        folder / "raw.csv", folder / "data", columns=COLUMNS, pruning=Pruning(sizes={"item": 100})
    )
    data = open_data(folder / "data")
    policy = recipes.method_policy("multi-size-2", data, 2_000, 4)
    training = Training(
        ModelSettings(hidden=(16,)), FitSettings(epochs=4, batch_size=64, row_lr=0.02)
    )
    recipes.train(data, policy, folder / "run", training)
    export_run(folder / "run", folder / "package")
    return Clicks(folder / "raw.csv", data, folder / "run", folder / "package")
