"""Quick settings of the searches for widths and rows that others published."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from seo_rec import search
from seo_rec.data.dataset import DataSet
from seo_rec.model import ModelSettings
from seo_rec.schema import Column, Schema
from seo_rec.search.space import Space
from seo_rec.train import FitSettings, Training

SMALL = ModelSettings(hidden=(8,), init_scale=0.1)
FIT = FitSettings(epochs=2, batch_size=200, row_lr=0.05, dense_lr=0.05)
ONE = replace(FIT, epochs=1)
# every search of widths, with settings small enough for the tiny_data data set
SEARCHES: dict[str, dict[str, Any]] = {
    "dimgrow": {"max_dim": 8, "adapt_dim": 4, "gate_lr": 0.05, "alpha": 1e-5},
    "autodim": {"max_dim": 8},
    "sseds": {"max_dim": 8},
    "optembed": {"max_dim": 8, "variant": "dims", "generations": 2},
    "mixed-dimension": {"max_dim": 8},
    "no-search": {"max_dim": 8},
}
# and every search that gives all features one width, and decides about rows
OF_ROWS: dict[str, dict[str, Any]] = {
    "cce": {"params": 900, "dim": 8, "clusterings": 1},
    "magnitude": {"params": 900, "dim": 8},
    "pep": {"params": 900, "dim": 8, "blocks": 2},
}
every_search = pytest.mark.parametrize("name", SEARCHES)
of_widths_or_rows = pytest.mark.parametrize("name", [*SEARCHES, *OF_ROWS])


def run(name: str, data: DataSet, fit: FitSettings = FIT, **given: Any) -> search.Found:
    method = search.find(name)
    settings = method.settings(**{**(SEARCHES | OF_ROWS)[name], **given})
    return method.decide(data, settings, Training(SMALL, fit))


def space_of(*rows: int) -> Space:
    columns = tuple(Column(f"f{i}", "categorical", r - 1) for i, r in enumerate(rows))
    schema = Schema("s", columns, "y", {"train": 1, "val": 1, "test": 1}, {"train": 0.5})
    vocabularies = {c.name: np.arange(r - 1) for c, r in zip(columns, rows, strict=True)}
    return Space(schema, rows, vocabularies, 0)
