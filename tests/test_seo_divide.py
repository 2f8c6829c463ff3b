"""SEO's attention as rows and widths: `seo-divide`, and its candidate of the run-off."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seo_rec import recipes
from seo_rec.data.dataset import DataSet
from seo_rec.methods import frequent, water_filled
from seo_rec.methods.frequent import FrequentSettings
from seo_rec.model import ModelSettings
from seo_rec.policy import Allowance, Policy, PolicyError
from seo_rec.search.registry import find
from seo_rec.search.run_off import RunOff
from seo_rec.search.seo import SeoSearch, SeoSettings, divided
from seo_rec.train import FitSettings, Training

SHORT = Training(
    ModelSettings(hidden=(8,)), FitSettings(epochs=1, batch_size=200, row_lr=0.02, dense_lr=0.02)
)
OFF = RunOff(epochs=1, chunk_dims=(), trivial_lookups=(2,), by_id=False, divide=True, cost=0)


def settings(num_bytes: int = 3_000, dim: int = 16, **changes: Any) -> SeoSettings:
    return SeoSettings(dim=dim, num_bytes=num_bytes, precision="int8", **changes)


def known(data: DataSet) -> dict[str, Any]:
    return {c.name: data.counts(c.name) for c in data.schema.features}


def test_the_attention_is_the_worth_of_a_read(tiny_data: DataSet) -> None:
    """Summed over the chunks, 1 on average; the widths are dim and its half and quarter."""
    names = [c.name for c in tiny_data.schema.features]
    alpha = torch.rand(len(names), 4, generator=torch.Generator().manual_seed(0))
    alpha /= alpha.sum()
    policy = divided(tiny_data, alpha, settings())
    worth = {n: len(names) * float(a.sum()) for n, a in zip(names, alpha, strict=True)}
    budget = Allowance(3_000, "bytes", "int8")
    wanted = water_filled(tiny_data.schema, known(tiny_data), budget, (4, 8, 16), worth)
    assert (policy.tables, policy.features) == (wanted.tables, wanted.features)
    assert policy.provenance["method"] == "seo-divide"
    assert policy.provenance["arguments"]["worth"] == pytest.approx(worth)
    assert set(policy.widths) <= {4, 8, 16} and policy.num_bytes <= 3_000


def test_equal_attention_and_one_width_is_frequent(tiny_data: DataSet) -> None:
    """A width of 1 has no half."""
    F = len(tiny_data.schema.features)
    equal = torch.full((F, 4), 1 / (4 * F))
    policy = divided(tiny_data, equal, settings(1_500, 1, chunk_dim=1))
    wanted = frequent(
        tiny_data.schema,
        known(tiny_data),
        FrequentSettings(num_bytes=1_500, precision="int8", dim=1),
    )
    assert (policy.tables, policy.features) == (wanted.tables, wanted.features)
    for name, ids in policy.vocabularies.items():
        assert ids.tolist() == wanted.vocabularies[name].tolist()


def test_it_is_a_search_with_an_answer_in_the_budget(tiny_data: DataSet, tmp_path: Path) -> None:
    method = find("seo-divide")
    budget = Allowance(3_000, "bytes", "int8")
    asked = method.settings_at(budget, 16, SHORT)
    found = recipes.search("seo-divide", tiny_data, tmp_path / "s", asked, SHORT)
    policy = Policy.load(tmp_path / "s" / "policy.json")
    assert found.policy == policy
    assert policy.provenance["method"] == "seo-divide"
    assert 3_000 - 28 < policy.num_bytes <= 3_000
    attention = json.loads((tmp_path / "s/search.json").read_text())["record"]["searches"]["8"]
    alpha = torch.tensor(attention["attention"])
    assert divided(tiny_data, alpha, asked).tables == policy.tables


def test_the_run_off_may_have_it_as_a_candidate(tiny_data: DataSet, tmp_path: Path) -> None:
    asked = SeoSearch(num_bytes=3_000, precision="int8", budget_rows=100, run_off=OFF)
    found = find("seo").decide(tiny_data, asked, SHORT, tmp_path)
    assert "seo-8-divide" in found.record["run_off"]
    assert found.candidates["seo-8-divide"].provenance["method"] == "seo-divide"
    assert "divide" in OFF.to_json() and "divide" not in RunOff().to_json()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"total_chunks": 9}, "total_chunks 9 with apply 'divide', which chooses no chunks"),
        (
            {"min_chunks": 0},
            "min_chunks 0 with apply 'divide', which chooses no chunks; allowed: 1",
        ),
    ],
)
def test_settings_of_chunks_would_be_ignored(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SeoSearch(run_off=None, apply="divide", **changes)


@pytest.mark.parametrize("name", ["seo-divide", "seo"])
def test_a_small_budget_is_known_before_the_search(name: str, tiny_data: DataSet) -> None:
    """A row of four floats for each of seven features, 8 bytes as int8."""
    method = find(name)
    changes = (
        {} if name == "seo-divide" else {"run_off.divide": True, "run_off.trivial_lookups": ()}
    )
    asked = method.settings_at(Allowance(60, "bytes", "int8"), 16, SHORT, changes)
    method.require_feasible(tiny_data, asked, SHORT)
    with pytest.raises(PolicyError, match="smallest feasible budget is 56"):
        method.require_feasible(tiny_data, replace(asked, num_bytes=55), SHORT)
