"""The contest of a run-off: gains of one candidate over another, from scores that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from seo_rec import methods
from seo_rec.data.dataset import DataSet
from seo_rec.metrics import auc_gain
from seo_rec.model import ModelSettings
from seo_rec.search.run_off import Candidate, RunOff, Shape, by_chunks, plain_candidates, run_off
from seo_rec.search.run_off.contest import Contest
from seo_rec.search.seo import SeoSearch
from seo_rec.train import FitSettings, Training

TRAINING = Training(ModelSettings(hidden=(8,)), FitSettings(epochs=1, batch_size=200))


@pytest.fixture
def contest(tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Contest:
    """Two candidates, the second with the better scores; their second trainings are worse."""
    candidates = [
        Candidate(name, methods.multi_size(tiny_data.schema, 800, 8, lookups=2, seed=seed))
        for seed, name in enumerate(("first", "second"))
    ]
    made = Contest(tiny_data, candidates, RunOff(cost=0), TRAINING, tmp_path)
    noise = {("first", 0): 2.0, ("second", 0): 0.5, ("first", 1): 3.0, ("second", 1): 2.5}

    def score(name: str, training: Training) -> tuple[dict[str, Any], np.ndarray]:
        again = int(training.fit.seed != made.once.fit.seed)
        rng = np.random.default_rng([len(name), again])
        return {}, made.labels + noise[name, again] * rng.standard_normal(made.labels.size)

    monkeypatch.setattr(made, "_score", score)
    return made


def test_the_gain_is_that_of_the_candidate(contest: Contest) -> None:
    """Over the incumbent: above zero for the better one, with the other sign the other way."""
    gain, error = contest.gain("second", "first", twice=False)
    assert gain > 2 * error > 0
    assert contest.gain("first", "second", twice=False) == pytest.approx((-gain, error))
    assert contest.gain("first", "first", twice=False) == (0.0, 0.0)


def test_the_gain_of_two_trainings_is_that_of_both(contest: Contest) -> None:
    """Each training of one is paired with that of the other of the same seed."""
    scores = {
        name: [contest._score(name, t)[1] for t in (contest.once, contest.again)]
        for name in ("first", "second")
    }
    found = contest.gain("second", "first", twice=True)
    wanted = auc_gain(np.stack(scores["second"]), np.stack(scores["first"]), contest.labels)
    assert found == wanted
    assert found != contest.gain("second", "first", twice=False)


@pytest.mark.parametrize("params", [1600, 20_000])
def test_one_table_is_a_candidate_by_default(tiny_data: DataSet, params: int) -> None:
    """SEO's Corollary 1 compares with ``monolithic``: the same rows, width and hash functions."""
    settings = SeoSearch(budget_rows=params // 16)
    assert settings.run_off is not None
    found = plain_candidates(tiny_data, Shape(params, 16, 8, 32, 5), settings.run_off)
    assert found[0].name == "trivial-2x8" and not any(c.searched for c in found)
    (one,) = (c.policy for c in found if c.name == "trivial-1x16")
    wanted = methods.hashing_trick(
        tiny_data.schema, params, 16, sharing=methods.MULTIPLEXED, seed=5
    )
    assert [(t.num_rows, t.dim) for t in one.tables] == [(params // 16, 16)]
    assert [(t.num_rows, t.dim) for t in wanted.tables] == [(params // 16, 16)]
    read = [
        [(f.name, f.combine, [k.seed for k in f.lookups]) for f in p.features]
        for p in (one, wanted)
    ]
    assert read[0] == read[1]
    check = dict.fromkeys(settings.run_off.trivial_lookups)
    assert {f"trivial-{k}x{16 // k}" for k in check} <= {c.name for c in found}


def test_one_table_wins_where_it_is_clearly_better(
    tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = by_chunks(tiny_data.schema, Shape(1600, 16, 8, 32, 0), RunOff().trivial_lookups)
    noise = {c.name: 3.0 for c in candidates} | {"trivial-1x16": 0.5}
    labels = tiny_data.labels("val")

    def score(_: Contest, name: str, training: Training) -> tuple[dict[str, Any], np.ndarray]:
        rng = np.random.default_rng([len(name), training.fit.seed])
        z = labels + noise[name] * rng.standard_normal(labels.size)
        return {"val_auc": float(roc_auc_score(labels, z)), "params": 1600}, z

    monkeypatch.setattr(Contest, "_score", score)
    outcome = run_off(tiny_data, candidates, RunOff(cost=0), TRAINING, tmp_path)
    assert outcome.winner.name == "trivial-1x16" and outcome.decision["kind"] == "plain"
