"""Settings of small trainings and searches, for the tests of recipes."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from seo_rec import recipes
from seo_rec.data.dataset import DataSet
from seo_rec.data.synthetic import synthetic
from seo_rec.model import ModelSettings
from seo_rec.policy import Policy
from seo_rec.runs import Run
from seo_rec.runs.records import REGRESSION_METRICS
from seo_rec.search.run_off import RunOff
from seo_rec.search.seo import SeoSearch
from seo_rec.train import FitSettings

SMALL = ModelSettings(hidden=(8,))
FIT = FitSettings(epochs=2, batch_size=200, row_lr=0.02, dense_lr=0.02)
SEO = SeoSearch(budget_rows=100, logit_lr=0.05, run_off=None)
OFF = RunOff(epochs=1, chunk_dims=(8,), trivial_lookups=(2, 4), cost=0)
NAMES_OF_CLICKS = {f.name for f in fields(Run)} - {"task", "labels", *REGRESSION_METRICS}


def planted(data: Path, rows: int) -> None:
    """Prepared data of five columns that tell something and three of noise with many ids."""
    synthetic(
        data,
        rows=rows,
        strong=3,
        weak=2,
        noise=3,
        numeric=0,
        strong_vocab=30,
        weak_vocab=20,
        noise_vocab=1000,
        signal=3.0,
    )


def policy_of(data: DataSet, params: int = 1600) -> Policy:
    return recipes.method_policy("multi-size", data, params, 16)
