"""Features whose ids all have rows, while methods share what is left of the budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seo_rec import recipes
from seo_rec.data.dataset import DataSet
from seo_rec.policy import Policy
from test_frontier import comparison

PLAIN = ("separate", "separate-cardinality", "monolithic", "multi-size", "multi-size-4")


@pytest.mark.parametrize("method", [*PLAIN, "pq-3", "multiplexed-hashednet", "robe-4"])
def test_small_features_stay_exact_at_the_budget(tiny_data: DataSet, method: str) -> None:
    schema = tiny_data.schema
    small = {c.name for c in schema.features if (c.vocab_size or 0) <= 12}
    assert 0 < len(small) < len(schema.features)
    policy = recipes.method_policy(method, tiny_data, 3200, 16, changes={"exact_below": 12})
    assert {f.name for f in policy.features if f.lookups[0].address == "id"} == small
    assert 3200 - 16 < policy.num_params <= 3200


@pytest.mark.parametrize("method", PLAIN)
def test_where_no_feature_is_small_the_method_is_the_same(tiny_data: DataSet, method: str) -> None:
    """The tables and the seeds of every feature; only names of tables may differ."""

    def shape(policy: Policy) -> Any:
        size = {t.name: (t.num_rows, t.dim) for t in policy.tables}
        return [[(size[k.table], k.address, k.seed) for k in f.lookups] for f in policy.features]

    plain = recipes.method_policy(method, tiny_data, 3200, 16, seed=5)
    twin = recipes.method_policy(method, tiny_data, 3200, 16, seed=5, changes={"exact_below": 1})
    assert shape(twin) == shape(plain)


def test_groups_of_features_hash_alike(tiny_data: DataSet) -> None:
    a, b, *_ = (c.name for c in tiny_data.schema.features)
    policy = recipes.method_policy(
        "multi-size", tiny_data, 1600, 16, changes={"same_hash": ((a, b),)}
    )
    seeds = {f.name: [k.seed for k in f.lookups] for f in policy.features}
    assert seeds[a] == seeds[b] and len({tuple(s) for s in seeds.values()}) == len(seeds) - 1


def test_exact_features_are_refused_where_they_would_be_ignored(
    tiny_data: DataSet, tmp_path: Path
) -> None:
    for method in ("seo", "seo-rr", "dimgrow", "no-search"):
        with pytest.raises(ValueError, match=f"exact_below or same_hash with method '{method}'"):
            recipes.compare(comparison(tiny_data, method, exact_below=9), tmp_path / "c")
    with pytest.raises(ValueError, match="exact_below is -1; allowed: 0 or more"):
        recipes.method_policy("monolithic", tiny_data, 1600, 16, changes={"exact_below": -1})
    with pytest.raises(ValueError, match=r"same_hash names \['x', 'y'\]; allowed: "):
        recipes.compare(
            comparison(tiny_data, "monolithic", same_hash=(("x", "y"),)), tmp_path / "c"
        )
    a = tiny_data.schema.features[0].name
    for groups, wrong in (
        ((("x", "y"),), r"names \['x', 'y'\]; allowed"),
        (((a, a),), r"names \[.*\] twice; allowed: each"),
    ):
        for method in ("monolithic", "collisionless"):
            with pytest.raises(ValueError, match=f"same_hash {wrong}"):
                recipes.method_policy(method, tiny_data, 1600, 16, changes={"same_hash": groups})
    with pytest.raises(ValueError, match="exact_below is -1; allowed: 0 or more"):
        recipes.method_policy("collisionless", tiny_data, 1600, 16, changes={"exact_below": -1})


def test_exact_features_are_refused_on_the_command_line(
    tiny: Path, tiny_data: DataSet, tmp_path: Path, seo_rec: Callable[..., Any]
) -> None:
    for option, value in (("--same-hash", "a,b"), ("--exact-below", 9), ("--params", 1600)):
        asked = ("train", tiny, "--method", "collisionless", "--out", tmp_path / "r")
        done = seo_rec(*asked, option, value)
        assert done.code == 2
        assert f"{option} with --method collisionless would be ignored" in done.err
    recipes.method_policy("monolithic", tiny_data, 1600, 16).save(tmp_path / "p.json")
    done = seo_rec(
        "train",
        tiny,
        "--policy",
        tmp_path / "p.json",
        "--out",
        tmp_path / "r",
        "--exact-below",
        9,
    )
    assert done.code == 2 and "--exact-below with --policy would be ignored" in done.err
    done = seo_rec(
        "train", tiny, "--method", "monolithic", "--out", tmp_path / "r", "--same-hash", "a"
    )
    assert done.code == 2 and "two names or more" in done.err
