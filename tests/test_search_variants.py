"""The benchmark of other settings of the search: what it runs, and its table."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy import search_variants as variants
from benchmarks.pages import search_variants as page
from seo_rec.search.found import Found
from seo_rec.search.run_off.schedule import Length, rounds
from seo_rec.train import Training


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> variants.Part:
    """Small planted data, one epoch."""
    out = tmp_path_factory.mktemp("variants")
    args = Namespace(study="planted", first_seed=3, seeds=1, rows=600, epochs=1, out=out)
    (found,) = variants.parts(args)
    return found


def test_every_variant_changes_the_search_or_its_training(part: variants.Part) -> None:
    """Lines of different variants are not taken for each other."""
    assert part.training.fit.seed == 3 and part.training.fit.epochs == 1
    plain = part.settings(variants.DEFAULT)
    in_bytes = variants.Part("criteo", part.data, variants.Allowance(9_000, "bytes", "int8"),
                             Training())  # fmt: skip
    for name, variant in variants.VARIANTS.items():
        asked = (part if name != "precision-auto" else in_bytes).asked(name)
        assert set(variants.IDENTITY) == set(asked) and asked["variant"] == name
        if name == "precision-auto":
            assert in_bytes.settings(name).decides_precision
        elif variant.changes:
            assert part.settings(name) != plain
        assert (asked["model"]["backbone"] == "ipnn") is (name == "ipnn")


def test_the_exhaustive_search_trains_every_candidate_in_full(part: variants.Part) -> None:
    off = part.settings(variants.EXHAUSTIVE).run_off
    assert off is not None
    length = Length(12, 30, 15_000, 512)
    schedule = rounds(60, length, off.cost, 2 * length.whole)
    assert [(r.candidates, r.steps) for r in schedule.rounds] == [(60, length.steps)]


def test_a_line_has_the_whole_trainings(
    part: variants.Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidates that left before the last round, and equal ones, have no figure."""
    scores = {
        "trivial-2x8": {"val_auc": 0.7},
        "seo-8-worth": {"val_auc": 0.8},
        "seo-x": {"same_as": "trivial-2x8"},
        "trivial-1x16": {"val_auc": 0.6, "round": 1},
    }
    halving = {"rows": 300, "elsewhere": 50, "one_training": 100}
    policy = variants.recipes.method_policy("monolithic", part.data, 4_800, 16)
    found = Found(policy, 0.8, 1.0, 0, {"halving": halving, "run_off": scores}, {}, "seo-8-worth")
    monkeypatch.setattr(variants.recipes, "search", lambda *_, **__: found)
    line = part.measured(variants.DEFAULT, tmp_path)
    assert line["rows"] == part.data.schema.num_rows["train"]
    assert line["trainings"] == 3.5 and line["winner"] == "seo-8-worth"
    assert line["candidates"] == {"trivial-2x8": 0.7, "seo-8-worth": 0.8}
    assert not any(name.startswith("test") for name in line)


def line_of(variant: str, seed: int, auc: float, **more: Any) -> dict[str, Any]:
    line = {"study": "planted", "rows": 24_000, "budget": 4800, "unit": "parameters", "rule": 9}
    line |= {"seed": seed, "fit": {"epochs": 12, "seed": seed}, "variant": variant, "val_auc": auc}
    return {**line, "winner": "seo-8-worth", "trainings": 3.5, "candidates": {"a": auc}, **more}


def test_the_table_sets_variants_beside_the_default_of_the_same_seed() -> None:
    assert "not run" in page.region([])[0]
    lines = [line_of("default", seed, 0.84 + 0.01 * seed) for seed in (0, 1)]
    every = {"trainings": 33.0, "candidates": {"a": 0.85, "b": 0.8442}}
    lines += [line_of("exhaustive", 1, 0.8503, **every), line_of("tuned", 0, 0.839)]
    lines.append(line_of("tuned", 0, 0.9, fit={"epochs": 3, "seed": 0}))  # with no default beside
    found = page.region(lines)
    rows = {r.split(" | ")[2]: r for r in found if "12 epochs | 9 |" in r}
    assert rows["default"].endswith("| 3.5 | `seo-8-worth` 2 | 0.84500 | — |")
    assert "| 1 | 33.0 |" in rows["exhaustive"] and "| +0.00030 |" in rows["exhaustive"]
    assert "\N{MINUS SIGN}0.00100" in rows["tuned"]
    (alone,) = (r for r in found if "3 epochs" in r)
    assert alone.endswith("| — |")
    in_bytes = {"unit": "bytes", "fit": {"epochs": 5, "seed": 0}}
    short = line_of("tuned", 0, 0.8, **in_bytes, id_bits=32)
    others = [
        r for r in page.region([line_of("default", 0, 0.7, **in_bytes), short]) if "5 ep" in r
    ]
    assert ["ids of 8 bytes" in r for r in others] == [True, False]  # as lines that do not say it
    assert others[1].endswith("| — |") and "ids of 4 bytes" in others[1]
    (told,) = (r for r in found if r.startswith("*"))
    assert "seed 1: the answer of the limited search is 0.00030 of validation AUC below" in told
    assert "and 0.00000 below the best of 2 candidates, all trained in full" in told
