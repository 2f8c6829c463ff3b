"""Products of small tables: the decomposition that is computed, and what it takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import laws
from cases import BAGS, SCHEMAS, batch
from seo_rec import methods
from seo_rec.policy import Allowance, PolicyError
from seo_rec.policy.addresses import lookup_rows

OF = SCHEMAS["three"]


@pytest.mark.parametrize("sharing", [methods.PER_FEATURE, methods.MULTIPLEXED])
def test_a_row_is_an_entry_of_the_tensor(sharing: methods.Sharing) -> None:
    """``E[i_1, ..., i_k, d] = sum_r G_1[i_1, r] ... G_k[i_k, r] W[d, r]``, made whole by numpy."""
    policy = methods.tensor(OF, 2_000, 3, components=3, rank=5, sharing=sharing, seed=1)
    module = laws.built(policy)
    features = batch(tuple(f.name for f in policy.features), BAGS["single"], rows=50)
    x_BE = module(features).detach().split(list(policy.widths), 1)
    for feature, got in zip(policy.features, x_BE, strict=True):
        tables = [
            module.ebc.embedding_bags[k.table].weight.detach().double().numpy()
            for k in feature.lookups
        ]
        w_DR = module.project.linear[feature.name].weight.detach().double().numpy()
        whole = np.einsum("ar,br,cr,dr->abcd", *tables, w_DR)
        ids = features[feature.name].values().numpy()
        at = tuple(lookup_rows(policy, feature, k, ids) for k in feature.lookups)
        torch.testing.assert_close(got.double(), torch.from_numpy(whole[at]), atol=1e-7, rtol=1e-5)
    assert set(policy.widths) == {3} and not policy.vocabularies
    seeds = [k.seed for f in policy.features for k in f.lookups]
    assert len(set(seeds)) == 9  # ids that agree in one hash need not agree in another


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_maps_are_paid_for_in_float32(precision: str) -> None:
    """By every feature, also where the tables are shared; the smallest budget says so."""
    for sharing, tables in ((methods.PER_FEATURE, 6), (methods.MULTIPLEXED, 2)):
        budget = Allowance(4_000, "bytes", precision)
        policy = methods.tensor(OF, budget, 8, components=2, rank=6, sharing=sharing)
        row = laws.bytes_of_a_row(6, precision)
        maps, rows = 4 * 3 * 6 * 8, sum(t.num_rows for t in policy.tables)
        assert len(policy.tables) == tables and policy.num_bytes == maps + rows * row
        assert 0 <= 4_000 - policy.num_bytes < row
        least = maps + tables * row
        with pytest.raises(PolicyError, match=f"smallest feasible budget is {least}$"):
            small = budget.with_amount(least - 1)
            methods.tensor(OF, small, 8, components=2, rank=6, sharing=sharing)


@pytest.mark.parametrize("wrong", [{"components": 1}, {"rank": -1}])
def test_what_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(PolicyError, match="allowed: "):
        methods.tensor(OF, 4_000, 8, **wrong)
