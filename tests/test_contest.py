"""The contest of a run-off: gains of one candidate over another, from scores that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seo_rec import methods
from seo_rec.data.dataset import DataSet
from seo_rec.metrics import auc_gain
from seo_rec.model import ModelSettings
from seo_rec.search.run_off import Candidate, RunOff
from seo_rec.search.run_off.contest import Contest
from seo_rec.train import FitSettings, Training

TRAINING = Training(ModelSettings(hidden=(8,)), FitSettings(epochs=1, batch_size=200))


@pytest.fixture
def contest(tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Contest:
    """Two candidates, the second with the better scores; their second trainings are worse."""
    candidates = [
        Candidate(name, methods.multi_size(tiny_data.schema, 800, 8, lookups=2, seed=seed))
        for seed, name in enumerate(("first", "second"))
    ]
    made = Contest(tiny_data, candidates, RunOff(), TRAINING, tmp_path)
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
