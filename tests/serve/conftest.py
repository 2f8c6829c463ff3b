"""What the tests of serving share: one small trained run of raw clicks, and its package."""

from __future__ import annotations

import pytest
from served import CLICK_COLUMNS, Clicks, write_clicks

from seo_rec import recipes
from seo_rec.data.dataset import open_data
from seo_rec.data.table import prepare_table
from seo_rec.data.vocabulary import Pruning
from seo_rec.model import ModelSettings
from seo_rec.train import FitSettings, Training


@pytest.fixture(scope="session")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Clicks:
    """Prepared, trained and exported once; read-only for every test."""
    from seo_rec.export import export_run

    folder = tmp_path_factory.mktemp("clicks")
    write_clicks(folder / "raw.csv")
    prepare_table(
        folder / "raw.csv",
        folder / "data",
        columns=CLICK_COLUMNS,
        pruning=Pruning(sizes={"item": 100}),
    )
    data = open_data(folder / "data")
    policy = recipes.method_policy("multi-size-2", data, 2_000, 4)
    training = Training(
        ModelSettings(hidden=(16,)), FitSettings(epochs=4, batch_size=64, row_lr=0.02)
    )
    recipes.train(data, policy, folder / "run", training)
    export_run(folder / "run", folder / "package")
    return Clicks(folder / "raw.csv", data, folder / "run", folder / "package")
