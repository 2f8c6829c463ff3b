"""The recipe of a comparison: methods by name, done once, and grown later."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seo_rec import apply, recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.synthetic import synthetic
from seo_rec.model import ModelSettings
from seo_rec.policy import Policy
from seo_rec.recipes import Comparison, comparing
from seo_rec.runs import Run, RunError, read_runs
from seo_rec.schema import DataError
from seo_rec.train import Training
from small_recipes import FIT, NAMES_OF_CLICKS, OFF, SEO, SMALL

# ---- methods by name ---------------------------------------------------------------------


def test_methods_by_name(tiny_data: DataSet) -> None:
    lookups = {"separate": 1, "separate-cardinality": 1, "monolithic": 1, "multi-size": 2}
    lookups |= {"multi-size-1": 1, "multi-size-4": 4, "multi-size-16": 16}
    for name, k in lookups.items():
        policy = recipes.method_policy(name, tiny_data, 1600, 16)
        assert {len(f.lookups) for f in policy.features} == {k}, name
        assert 1600 - 16 < policy.num_params <= 1600
        assert set(policy.widths) == {16}
    published = {"hashing-trick": 1, "hash-embedding": 2, "hash-embedding-3": 3, "hashednet": 1}
    published |= {"robe-4": 1, "pq": 2, "pq-3": 3, "qr": 2, "qr-3": 3, "hash-embedding-2-p0.2": 2}
    published |= {"tensor": 3, "tensor-2": 2}
    for name, k in published.items():
        for whole in (name, f"multiplexed-{name}"):
            policy = recipes.method_policy(whole, tiny_data, 4000, 16)
            assert {len(f.lookups) for f in policy.features} == {k}, whole
            assert 4000 - 16 < policy.num_params <= 4000
            assert set(policy.widths) == {16}
            assert len(policy.tables) + len(policy.arrays) >= (1 if whole != name else 7)
    weighted = recipes.method_policy("multiplexed-hash-embedding-2-p0.2", tiny_data, 4000, 16)
    shares = {t.dim: t.num_rows * t.dim / 4000 for t in weighted.tables}
    assert shares[2] == pytest.approx(0.2, abs=0.005)
    free = recipes.method_policy("collisionless", tiny_data, 1600, 16)
    sizes = {c.name: c.vocab_size for c in tiny_data.schema.features}
    assert {t.name: t.num_rows for t in free.tables} == {n: v + 1 for n, v in sizes.items()}
    narrow = recipes.method_policy("monolithic", tiny_data, 1600, 12)  # has no chunks to divide
    assert set(narrow.widths) == {12}
    for name in (
        "",
        "SEO",
        "multi-size-",
        "multi-size-x",
        "pq-",
        "pq-0",
        "hashednet-2",
        "pq-2-p0.1",
    ):
        with pytest.raises(ValueError, match="allowed: separate, "):
            recipes.method_policy(name, tiny_data, 1600, 16)
    with pytest.raises(ValueError, match="'seo' needs a search; run `seo-rec search --method seo`"):
        recipes.method_policy("seo", tiny_data, 1600, 16)


# ---- comparison --------------------------------------------------------------------------


SHORT = Training(SMALL, replace(FIT, epochs=1))
OF_SEO = {"seo": {"logit_lr": SEO.logit_lr, "run_off": OFF}}


def comparison(data: DataSet, **other: Any) -> Comparison:
    given = {"methods": ("separate", "monolithic"), "params": 1600, "seeds": 2, "training": SHORT}
    return Comparison(data=(data,), **{**given, **other})


SPECIFIED = {"data", "method", "embedding_params", "seed", "val_auc", "test_auc", "test_logloss"}
SPECIFIED |= {"seconds_per_epoch", "command", "environment"}


def test_a_comparison_is_done_once_and_can_grow(
    tiny_data: DataSet, tmp_path: Path, trainings: list[str]
) -> None:
    first = recipes.compare(comparison(tiny_data), tmp_path / "c")
    assert trainings == ["separate", "monolithic"] * 2
    lines = (tmp_path / "c/results.jsonl").read_text().splitlines()
    assert len(lines) == 4
    for line, run in zip(map(json.loads, lines), first, strict=True):
        assert set(line) >= SPECIFIED and set(line) == NAMES_OF_CLICKS
        assert line["test_auc"] == run.test_auc and line["embedding_params"] <= 1600
        assert line["data"] == "synthetic" and line["environment"]["threads"] >= 1
    assert [(r.method, r.seed) for r in first] == [
        (m, s) for s in (0, 1) for m in ("separate", "monolithic")
    ]
    trainings.clear()
    assert recipes.compare(comparison(tiny_data), tmp_path / "c") == first
    assert trainings == []
    more = comparison(tiny_data, methods=("monolithic", "multi-size-4"), seeds=1)
    runs = recipes.compare(more, tmp_path / "c")
    assert trainings == ["multi-size-4"]
    assert [r.method for r in runs] == ["monolithic", "multi-size-4"]
    assert len((tmp_path / "c/results.jsonl").read_text().splitlines()) == 5


def test_a_killed_comparison_goes_on(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet, tmp_path: Path, trainings: list[str]
) -> None:
    train, calls = comparing.train, 0

    def dies(*arguments: Any, **more: Any) -> Run:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return train(*arguments, **more)

    monkeypatch.setattr(comparing, "train", dies)
    with pytest.raises(KeyboardInterrupt):
        recipes.compare(comparison(tiny_data), tmp_path / "c")
    with (tmp_path / "c/results.jsonl").open("a") as stream:
        stream.write('{"method": "separate", "seed": 1, "val')  # a line cut short
    runs = recipes.compare(comparison(tiny_data), tmp_path / "c")
    assert len(trainings) == 4
    whole = recipes.compare(comparison(tiny_data), tmp_path / "whole")
    assert [(r.method, r.seed, r.val_auc, r.test_auc) for r in runs] == [
        (r.method, r.seed, r.val_auc, r.test_auc) for r in whole
    ]
    again = read_runs(tmp_path / "c/results.jsonl")
    assert sorted((r.method, r.seed) for r in again) == sorted((r.method, r.seed) for r in runs)


@pytest.mark.parametrize(
    "change, differs",
    [
        ({"params": 800}, "params"),
        ({"dim": 8}, "dim"),
        ({"training": replace(SHORT, model=ModelSettings(hidden=(9,)))}, "model"),
        ({"training": Training(SMALL, replace(FIT, epochs=3))}, "fit"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_comparison_with_other_settings_is_refused(
    tiny_data: DataSet, tmp_path: Path, trainings: list[str], change: dict[str, Any], differs: str
) -> None:
    asked = comparison(tiny_data, seeds=1, methods=("monolithic",))
    recipes.compare(asked, tmp_path / "c")
    trainings.clear()
    with pytest.raises(RunError, match=f"differs in {differs}"):
        recipes.compare(replace(asked, **change), tmp_path / "c")
    assert trainings == []


def test_a_setting_that_one_member_of_the_family_reads_is_no_mistake(tiny_data: DataSet) -> None:
    change = {"seo": {"run_off.epochs": 1}}
    comparing.check_comparison(comparison(tiny_data, methods=("seo", "seo-rr"), settings=change))


def test_an_unknown_method_stops_before_the_first_training(
    tiny_data: DataSet, tmp_path: Path, trainings: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"method 'magic'; allowed: separate,.*seo-exact"):
        recipes.compare(comparison(tiny_data, methods=("separate", "magic")), tmp_path / "c")
    assert trainings == [] and not (tmp_path / "c").exists()


def test_every_seo_method_compares_at_the_budget(
    tiny_data: DataSet, tmp_path: Path, trainings: list[str]
) -> None:
    asked = comparison(tiny_data, methods=("seo-exact", "seo-rr", "seo"), seeds=1, settings=OF_SEO)
    runs = recipes.compare(asked, tmp_path / "c")
    assert trainings.count("attention over chunks of 8") == 1  # one attention serves all three
    for run in runs:
        assert 1600 - 16 < run.embedding_params <= run.budget == 1600
        assert run.search_seconds > 0
        assert run.search_peak_bytes == SEO.search_bytes > 0
    work = tmp_path / "c/work/seo-seed0"  # holds the attention: nothing is trained here
    searched = recipes.search("seo", tiny_data, tmp_path / "raw", SEO, SHORT, work=work).policy
    assert trainings.count("attention over chunks of 8") == 1
    for run, strategy in zip(runs, ("exact", "round-robin"), strict=False):
        trained_policy = Policy.load(tmp_path / "c/runs" / f"{run.method}-seed0" / "policy.json")
        assert trained_policy == apply.STRATEGIES[strategy](searched, 1600)
    kept = Policy.load(tmp_path / "c/searches/seo-seed0/searched.json")
    assert kept == apply.exact(searched, 1600)  # the paper's policy, whatever won the run-off


def test_data_sets_of_other_columns_are_refused(tiny_data: DataSet, tmp_path: Path) -> None:
    synthetic(tmp_path / "other", rows=300)
    unlike = replace(comparison(tiny_data), data=(tiny_data, open_data(tmp_path / "other")))
    with pytest.raises(DataError, match=r"other and .* differ in the columns .*splits of one tab"):
        recipes.compare(unlike, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_data_sets_take_turns_with_the_seeds(tiny_data: DataSet, tmp_path: Path) -> None:
    like = {"strong": 2, "weak": 2, "noise": 2, "numeric": 1, "multivalent": 1}
    synthetic(tmp_path / "other", rows=400, seed=9, **like)
    asked = comparison(tiny_data, methods=("monolithic",), seeds=3, first_seed=5)
    other = open_data(tmp_path / "other")
    runs = recipes.compare(replace(asked, data=(tiny_data, other)), tmp_path / "c")
    prints = [d.fingerprint for d in (other, tiny_data, other)]
    assert [(r.seed, r.data_fingerprint) for r in runs] == list(zip((5, 6, 7), prints, strict=True))
