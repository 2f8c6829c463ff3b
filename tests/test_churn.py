"""The churn benchmark: a day is scored before it is known, budgets are equal, runs resume."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.accuracy import churn
from benchmarks.pages import churn as churn_page
from benchmarks.record import read
from seo_rec.data.dataset import DataSet
from seo_rec.embed.remap import Remap
from seo_rec.metrics import binary_metrics
from seo_rec.model import build_model
from seo_rec.policy import Policy

SMALL = churn.Protocol(days=6, rows_per_day=512, params=3_200, search_epochs=1)


def asked(method: str, days: int = 6, seed: int = 0) -> dict[str, Any]:
    return {
        "scenario": "own",
        "enter": [0.3],
        "vanish": [0.3],
        "method": method,
        "seed": seed,
        "protocol": asdict(replace(SMALL, days=days)),
        "world": churn.WORLD,
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataSet, DataSet]:
    return churn.worlds(asked("separate"), tmp_path_factory.mktemp("churn"))


@pytest.fixture(scope="module")
def policies(
    made: tuple[DataSet, DataSet], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Policy]:
    folder = tmp_path_factory.mktemp("searches")
    return {m: churn.policy_of(asked(m), *made, folder) for m in churn.METHODS}


def test_a_day_is_scored_before_it_is_trained_on(
    made: tuple[DataSet, DataSet], policies: dict[str, Policy], tmp_path: Path
) -> None:
    """The first day's scores are those of the untrained model; later days move no earlier score."""
    policy = policies["monolithic"]
    long = churn.online(made[1], policy, SMALL, seed=3)
    assert len(long["auc"]) == 6
    untrained = build_model(policy, 0, churn.MODEL, 3)
    batch = next(iter(made[1].stream("train", batch_size=512)))
    labels = batch.labels_B.numpy()
    first = binary_metrics(churn.score(untrained, [batch]), labels)
    assert (long["auc"][0], long["log_loss"][0]) == (first.auc, first.log_loss)
    _, short = churn.worlds(asked("monolithic", days=5), tmp_path)
    assert churn.online(short, policy, SMALL, seed=3)["log_loss"] == long["log_loss"][:5]


def test_every_hashed_method_has_the_budget(policies: dict[str, Policy]) -> None:
    for method, policy in policies.items():
        if method.startswith("collisionless"):
            assert policy.num_params > SMALL.params
        else:
            assert policy.num_params == SMALL.params, method
        assert not policy.dropped


def test_collisionless_knows_the_first_days_only(
    made: tuple[DataSet, DataSet], policies: dict[str, Policy]
) -> None:
    """Ids that entered later share row 0; in the tables of the whole stream none does."""
    *_, last = made[1].stream("train", batch_size=512)
    unknown = {
        method: float((Remap(policies[method])(last.sparse).values() == 0).float().mean())
        for method in ("collisionless-first", "collisionless-all")
    }
    assert unknown["collisionless-first"] > 0.2
    assert unknown["collisionless-all"] == 0


def test_runs_are_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also from the record alone; a line cut short is run again; the page holds the numbers."""
    monkeypatch.setattr(churn, "RECORD", tmp_path / "record.jsonl")
    ran: list[str] = []
    original = churn.one

    def counting(what: dict[str, Any], out: Path) -> dict[str, Any]:
        ran.append(what["method"])
        return original(what, out)

    monkeypatch.setattr(churn, "one", counting)
    given = ["--days", "5", "--rows-per-day", "512", "--params", "3200", "--seeds", "1"]
    given += ["--scenarios", "still", "steady", "--methods", "separate", "monolithic"]
    churn.main([*given, "--out", str(tmp_path / "a"), "--record"])
    assert ran == ["separate", "monolithic"] * 2
    churn.main([*given, "--out", str(tmp_path / "a")])
    churn.main([*given, "--out", str(tmp_path / "b")])
    assert len(ran) == 4
    text = churn.RECORD.read_text()
    churn.RECORD.write_text(text[:-40])
    churn.main([*given, "--out", str(tmp_path / "b"), "--record"])
    assert ran[4:] == ["monolithic"]
    lines = [json.loads(line) for line in text.splitlines()]
    assert {json.dumps(x["what"]) for x in read(churn.RECORD)} == {
        json.dumps(x["what"]) for x in lines
    }
    assert "record.jsonl:4: not a whole line, left out" in capsys.readouterr().err
    page = "\n".join(churn_page.region(lines))
    for line in lines:
        assert f"{np.mean(line['auc'][4:]):.4f}" in page
    assert "the true probabilities" in page
    assert len(churn_page.plot(lines)) > 5_000


def test_the_page_has_the_planned_runs_only() -> None:
    planned = {"scenario": "still", "protocol": asdict(churn.Protocol())}
    lines = [
        {"what": planned},
        {"what": {**planned, "scenario": "own"}},
        {"what": {**planned, "protocol": asdict(SMALL)}},
    ]
    assert churn_page.planned(lines) == lines[:1]


def test_differences_are_paired_by_seed() -> None:
    def line(seed: int, auc: float) -> dict[str, Any]:
        return {"what": {**asked("x", seed=seed)}, "auc": [0.0] * 4 + [auc, auc]}

    runs = {s: line(s, a) for s, a in enumerate([0.72, 0.83, 0.61])}
    others = {s: line(s, a) for s, a in enumerate([0.70, 0.80, 0.60])}
    assert churn_page.against(runs, others, "auc") == "+0.0200 ± 0.0058"  # sd 0.01 / sqrt(3)
    assert churn_page.against(runs, runs, "auc") is None


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"first_days": 16}, "allowed: 2 to 15"),
        ({"rows_per_day": 700}, "multiples of 512"),
        ({"params": 3000}, "multiples of 16"),
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        churn.Protocol(**wrong)
