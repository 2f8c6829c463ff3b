"""Successive halving: what a schedule costs, who stays, and that the answer is as without it."""

from __future__ import annotations

import html
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from seo_rec import methods, recipes, report
from seo_rec.data.dataset import DataSet
from seo_rec.metrics import binary_metrics
from seo_rec.model import ModelSettings
from seo_rec.policy import Policy
from seo_rec.runs import reading
from seo_rec.runs.decision import as_options
from seo_rec.runs.halving import story
from seo_rec.search.run_off import (
    PROPOSALS,
    Candidate,
    RunOff,
    Shape,
    attention_epochs,
    plain_candidates,
    proposed,
    run_off,
    whole_length,
)
from seo_rec.search.run_off.halving import survivors
from seo_rec.search.run_off.schedule import FINALISTS, Length, haste, rounds
from seo_rec.search.seo import SeoSearch
from seo_rec.train import FitSettings, Trained, Training

TRAINING = Training(ModelSettings(hidden=(8,)), FitSettings(epochs=4, batch_size=50))
SEARCH = SeoSearch(budget_rows=400, logit_lr=0.05)


def rows_one_by_one(length: Length, steps: int) -> int:
    """Rows that so many steps read, by walking through the batches of every epoch."""
    batches = [length.batch_size] * (length.steps_per_epoch - 1)
    batches.append(length.rows_per_epoch - sum(batches))
    return sum(itertools.islice(itertools.cycle(batches), steps))


@pytest.mark.parametrize("N, batch", [(1000, 50), (1001, 50), (49, 50), (803_000, 2048)])
@pytest.mark.parametrize("epochs", [1, 3, 20])
def test_the_rows_of_steps_are_counted_exactly(N: int, batch: int, epochs: int) -> None:
    length = Length(epochs, -(-N // batch), N, batch)
    assert length.whole == epochs * N == rows_one_by_one(length, length.steps)
    some = {1, 2, length.steps_per_epoch, length.steps_per_epoch + 1, length.steps - 1}
    for steps in (s for s in some if 0 < s <= length.steps):
        rows = rows_one_by_one(length, steps)
        assert length.rows(steps) == rows
        assert length.steps_within(rows) == steps
        assert length.steps_within(rows - 1) == max(1, steps - 1)
    assert Length(epochs, -(-N // batch), N, batch, max_steps=1).steps == 1


@pytest.mark.parametrize("cost", [2.0, 4.0, 8.0])
@pytest.mark.parametrize("epochs, widths", [(4, 1), (8, 2), (20, 2), (20, 3), (7, 5)])
@pytest.mark.parametrize("candidates", [1, 2, 3, 4, 9, 10, 31, 64])
def test_a_search_reads_at_most_its_limit(
    candidates: int, epochs: int, widths: int, cost: float
) -> None:
    """All rounds, two trainings of each finalist, and the attentions, training by training.

    The limit holds as long as a candidate can have more than its one step.
    """
    for N, batch in ((20_001, 256), (803_000, 2048), (4_000, 512)):
        length = Length(epochs, -(-N // batch), N, batch)
        spent = widths * attention_epochs(epochs, widths, cost) * N
        schedule = rounds(candidates, length, cost, spent)
        trainings = [s.steps for s in schedule for _ in range(s.candidates * s.trainings)]
        read = spent + sum(rows_one_by_one(length, steps) for steps in trainings)
        if min(trainings) > 1:
            assert read <= cost * epochs * N
        assert schedule[0].candidates == candidates and schedule[-1].trainings == 2
        sizes = [s.candidates for s in schedule]
        assert sizes == sorted(set(sizes), reverse=True)  # every round is smaller
        steps = [s.steps for s in schedule]
        assert steps == sorted(steps) and steps[-1] <= length.steps
        if N > 10_000 and epochs >= 8 and widths <= 2 and cost >= 4:
            assert min(steps) > 1
            assert read >= 0.5 * min(cost, 2 * candidates) * epochs * N  # and is spent


def test_who_stays() -> None:
    auc = {"first": 0.1, "b": 0.9, "c": 0.8, "s": 0.2, "d": 0.7, "t": 0.3, "e": 0.7}
    one = dict.fromkeys(auc, "hashed")
    assert survivors(auc, {"s", "t"}, 3, one) == ["first", "b", "t"]
    five = ["first", "b", "c", "d", "t"]  # ties: the earlier one
    assert survivors(auc, {"s", "t"}, 5, one) == five
    assert survivors(auc, set(), 3, one) == ["first", "b", "c"]
    assert survivors(dict(reversed(auc.items())), {"s", "t"}, 3, one) == ["e", "t", "b"]


def test_the_best_of_a_family_stays_although_it_learns_more_slowly() -> None:
    """Searched ones first, then plain ones, as far as there are places."""
    auc = {"first": 0.5, "a": 0.9, "b": 0.8, "i": 0.3, "j": 0.2, "s": 0.7, "t": 0.6, "u": 0.1}
    family = {n: "by-id" if n in "iju" else "hashed" for n in auc}
    searched = {"s", "t", "u"}
    assert survivors(auc, searched, 3, family) == ["first", "a", "s"]
    assert survivors(auc, searched, 4, family) == ["first", "a", "s", "u"]
    assert survivors(auc, searched, 5, family) == ["first", "a", "i", "s", "u"]
    assert survivors(auc, searched, 6, family) == ["first", "a", "b", "i", "s", "u"]
    assert survivors(auc, searched, 4, family, {"t"}) == ["first", "a", "s", "t"]
    assert survivors(auc, searched, 4, family, {"s", "t"}) == ["first", "a", "s", "u"]
    assert survivors(auc, searched, 5, family, {"t"}) == ["first", "a", "s", "t", "u"]


def test_short_trainings_have_higher_rates() -> None:
    """Steps times rate is 0.7 at least, as far as three times the rate goes."""
    fit = FitSettings(row_lr=4e-3, dense_lr=2e-3)
    factors = {n: haste(replace(fit, max_steps=n)) for n in (1, 58, 100, 174, 175, 1000, 0)}
    assert factors[1] == factors[58] == 3
    assert factors[100] * 100 * 4e-3 == pytest.approx(0.7)
    assert factors[174] * 174 * 4e-3 == pytest.approx(0.7)
    assert factors[175] == factors[1000] == factors[0] == 1  # 0: no limit
    for other in ({"row_optimizer": "adagrad"}, {"dense_optimizer": "sgd"}):
        assert haste(replace(fit, max_steps=1, **other)) == 1


def test_candidates_of_short_rounds_are_trained_at_these_rates(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet, tmp_path: Path
) -> None:
    """On top of the rates that were chosen for a family; without a limit nothing changes."""
    trained = sys.modules["seo_rec.search.run_off.contest"]
    fits = list[FitSettings]()

    def fit_policy(data: DataSet, policy: Policy, training: Training, title: str) -> Trained:
        fits.append(training.fit)
        raise KeyboardInterrupt

    monkeypatch.setattr(trained, "fit_policy", fit_policy)
    candidate = Candidate("a", methods.monolithic(tiny_data.schema, 64, 16))
    fit = FitSettings(max_steps=10, row_lr=1e-2, dense_lr=1e-3)
    for cost in (4.0, 0.0):
        for changes in ({}, {"a": {"row_lr": 5e-2}}):
            contest = trained.Contest(
                tiny_data, [candidate], RunOff(cost=cost), Training(fit=fit), tmp_path, changes
            )
            with pytest.raises(KeyboardInterrupt):
                contest.train("a")
    rates = [(f.row_lr, f.dense_lr) for f in fits]
    assert rates == [(3e-2, 3e-3), pytest.approx((7e-2, 1.4e-3)), (1e-2, 1e-3), (5e-2, 1e-3)]


def scripted(
    monkeypatch: pytest.MonkeyPatch, data: DataSet, quality: dict[str, float], halfway: float
) -> list[tuple[str, int]]:
    """Made-up trainings, noted by name and steps; a candidate reaches its quality gradually."""
    contest = sys.modules["seo_rec.search.run_off.contest"]
    labels, trained = data.labels("val"), list[tuple[str, int]]()
    rows_noise = np.random.default_rng(0).normal(size=labels.size)
    monkeypatch.setattr(contest, "eval_stream", lambda *_: None)

    def fit_policy(data: DataSet, policy: Policy, training: Training, title: str) -> Trained:
        name, fit = title.removesuffix(", second seed"), training.fit
        steps = fit.max_steps or fit.epochs * -(-data.schema.num_rows["train"] // fit.batch_size)
        trained.append((name, steps))
        return Trained((name, steps, fit.seed), SimpleNamespace(seconds=1.0, steps=steps))

    def evaluate(model: tuple[str, int, int], stream: Any) -> tuple[Any, Any, Any]:
        name, steps, seed = model
        noise = np.random.default_rng([*map(ord, name), seed]).normal(size=labels.size)
        z = quality[name] * steps / (steps + halfway) * labels + 0.05 * noise + rows_noise
        return binary_metrics(z, labels), z, labels

    monkeypatch.setattr(contest, "fit_policy", fit_policy)
    monkeypatch.setattr(contest, "evaluate", evaluate)
    return trained


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
def test_the_winner_is_as_good_as_without_a_limit(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet, tmp_path: Path, seed: int
) -> None:
    """Within 0.0005 of validation AUC after a whole training, at a fraction of the rows."""
    rng = np.random.default_rng(seed)
    names = [f"trivial-{i}" for i in range(12)] + [f"seo-{i}" for i in range(8)]
    quality = dict(zip(names, rng.uniform(0.5, 1.0, len(names)), strict=True))
    candidates = [
        Candidate(n, methods.monolithic(tiny_data.schema, 16 * (i + 1), 16), n.startswith("seo"))
        for i, n in enumerate(names)
    ]
    trained = scripted(monkeypatch, tiny_data, quality, halfway=5.0)
    training = Training(TRAINING.model, FitSettings(epochs=8, batch_size=20))
    length = whole_length(tiny_data, training)
    found, read = {}, {}
    for cost in (0.0, 4.0):
        trained.clear()
        outcome = run_off(
            tiny_data, candidates, RunOff(cost=cost), training, tmp_path / f"scores-{cost}"
        )
        found[cost] = outcome
        read[cost] = sum(length.rows(steps) for _, steps in trained)
    whole = {n: s["val_auc"] for n, s in found[0.0].scores.items()}
    winners = [found[cost].winner.name for cost in (0.0, 4.0)]
    assert whole[winners[1]] >= whole[winners[0]] - 0.0005
    assert read[4.0] <= 4 * length.whole < 20 * length.whole <= read[0.0]
    assert found[4.0].rounds is not None and found[4.0].rounds["rows"] == read[4.0]
    assert winners[1] in found[4.0].last and len(found[4.0].last) == FINALISTS


def test_settings_are_chosen_for_each_family_within_the_limit(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet, tmp_path: Path
) -> None:
    """Planted optima of two families are found, and their candidates are trained with them."""
    contest = sys.modules["seo_rec.search.run_off.contest"]
    shape = Shape(6400, 16, 8, 32, 0)
    plain = plain_candidates(tiny_data, shape, RunOff(trivial_lookups=()))
    candidates = [*plain, Candidate("seo-x", proposed_policy(tiny_data, shape), True)]
    best = {"hashed": (1e-3, 2e-3), "by-id": (3e-3, 5e-3)}
    labels, trained = tiny_data.labels("val"), list[tuple[str, FitSettings]]()
    monkeypatch.setattr(contest, "eval_stream", lambda *_: None)

    def fit_policy(data: DataSet, policy: Policy, training: Training, title: str) -> Trained:
        fit = training.fit
        family = "by-id" if policy.vocabularies else "hashed"
        trained.append((family, fit))
        l2, rate = best[family]
        off = abs(np.log10((fit.row_l2 + 1e-5) / (l2 + 1e-5))) + abs(np.log10(fit.row_lr / rate))
        model = (1.0 - 0.2 * off, fit.seed)
        return Trained(model, SimpleNamespace(seconds=1.0, steps=fit.max_steps))

    def evaluate(model: tuple[float, int], stream: Any) -> tuple[Any, Any, Any]:
        z = model[0] * labels + np.random.default_rng(model[1]).normal(size=labels.size)
        return binary_metrics(z, labels), z, labels

    monkeypatch.setattr(contest, "haste", lambda fit: 1.0)  # has a test of its own
    monkeypatch.setattr(contest, "fit_policy", fit_policy)
    monkeypatch.setattr(contest, "evaluate", evaluate)
    training = Training(TRAINING.model, FitSettings(epochs=20, batch_size=20))
    length = whole_length(tiny_data, training)
    rules = RunOff(cost=4.0, tune=True)
    outcome = run_off(tiny_data, candidates, rules, training, tmp_path, spent=length.whole)
    assert outcome.rounds is not None
    chosen = outcome.rounds["tuned"]
    assert {f: (c["row_l2"], c["row_lr"]) for f, c in chosen.items()} == best
    assert all(c["dense_lr"] == c["row_lr"] for c in chosen.values())
    family = "by-id" if outcome.winner.policy.vocabularies else "hashed"
    assert outcome.decision["settings"] == chosen[family]
    of_tuning = 2 * (4 * 2 + 2)  # four strengths, two rates, two of these longer; two families
    assert len({(f.row_l2, f.row_lr) for _, f in trained[:of_tuning]}) == 8
    rest = trained[of_tuning:]
    assert rest and {(n, f.row_l2, f.row_lr) for n, f in rest} == {(n, *b) for n, b in best.items()}
    read = sum(length.rows(fit.max_steps) for _, fit in trained)
    assert read == outcome.rounds["rows"] + outcome.rounds["elsewhere"] - length.whole
    assert read <= 3 * length.whole
    assert "--l2" in as_options(outcome.decision["settings"])


def proposed_policy(data: DataSet, shape: Shape) -> Policy:
    return proposed(data, shape, by_id=True, frequent=True)[0].policy


def test_tuning_without_a_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="tune and cost 0; allowed: tune with a cost of 1 or more"):
        RunOff(cost=0, tune=True)
    with pytest.raises(ValueError, match=r"cost 0\.5; allowed: 0"):
        RunOff(cost=0.5)


def test_a_limited_search_keeps_to_it_and_tells_who_left(
    tiny_data: DataSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Counted from the steps of all trainings that it keeps."""
    caplog.set_level("INFO", "seo_rec.progress")
    out = tmp_path / "out"
    found = recipes.search("seo", tiny_data, out, SEARCH, TRAINING)
    record = json.loads((out / "search.json").read_text())["record"]
    halving, scores = record["halving"], record["run_off"]
    length = whole_length(tiny_data, TRAINING)
    kept = [json.loads(p.read_text())["steps"] for p in (out / "work").rglob("*-seed*.json")]
    attentions = list((out / "work/attentions").glob("*/metrics.jsonl"))
    epochs = [json.loads(x) for p in attentions for x in p.read_text().splitlines()]
    steps = sum(1 for x in epochs if x["event"] == "epoch") * length.steps_per_epoch
    assert halving["rows"] == sum(map(length.rows, kept))
    assert length.rows(steps) <= halving["elsewhere"]
    assert halving["elsewhere"] + halving["rows"] <= 4 * length.whole
    assert halving["one_training"] == length.whole == 4 * tiny_data.schema.num_rows["train"]
    real = {n: s for n, s in scores.items() if "same_as" not in s}
    assert len(real) == halving["rounds"][0]["candidates"] >= 15
    for number, stage in enumerate(halving["rounds"], 1):
        here = [n for n, s in real.items() if s.get("round", 99) >= number]
        assert len(here) == stage["candidates"]
        assert all(len(real[n]["curve"]) >= number for n in here)
    said = caplog.text
    for name, score in real.items():
        assert score["val_auc"] == score["curve"][-1][1]
        assert (score.get("behind", 0) >= 0) and (name in said)
    assert "out after round 1: " in said and " left" in said
    last = {n for n, s in real.items() if "round" not in s}
    assert {p.stem for p in (out / "candidates").glob("*.json")} == last
    assert found.winner in last
    (read,) = reading.read([out]).searches
    assert {c.name for c in read.candidates} == set(real)
    tells_the_story(read, tmp_path)
    del record["run_off"][found.winner]["curve"]
    damaged = {**json.loads((out / "search.json").read_text()), "record": record}
    (out / "search.json").write_text(json.dumps(damaged))
    with pytest.raises(reading.ReportError, match=r"search\.json: halving holds no rounds"):
        reading.read([out])


def tells_the_story(search: reading.SearchRun, folder: Path) -> None:
    """In five lines at most, with the figures of the record, and in a picture."""
    halving = search.halving
    assert halving is not None
    lines = story(halving, search.decision)
    assert len(lines) == len(halving.stages) + 2 <= 5
    shares = f"{halving.rows / halving.one_training:.1f} times the {halving.one_training:,} rows"
    assert shares in lines[0] and "the limit was 4 times" in lines[0]
    for number, stage in enumerate(halving.stages[:-1], 1):
        auc = {c.name: c.curve[number - 1][1] for c in halving.courses if len(c.curve) >= number}
        out = [c for c in halving.courses if c.left == number]
        best = max(auc, key=lambda name: auc[name])
        assert f"trained {len(auc)} of them on {stage.rows:,} rows; {best} was" in lines[number]
        lower = [max(auc.values()) - auc[c.name] for c in out]
        assert f"{len(out)} left" in lines[number]
        assert f"{min(lower):.4f} to {max(lower):.4f} lower" in lines[number]
    report.build([search.folder], folder / "page.html")
    page = (folder / "page.html").read_text()
    assert all(f"<li>{html.escape(line)}</li>" in page for line in lines)
    picture = page[page.index("rows of the training (log") :]
    assert "<svg" in page and all(c.name in page for c in halving.courses) and picture


def test_proposals_have_the_budget_and_store_what_they_say(tiny_data: DataSet) -> None:
    shape = Shape(6400, 16, 8, 32, 0)
    found = {c.name: c.policy for c in proposed(tiny_data, shape, by_id=True, frequent=True)}
    assert set(found) == {f"trivial-{p.name}" for p in PROPOSALS}
    for proposal in PROPOSALS:
        policy = found[f"trivial-{proposal.name}"]
        assert policy.num_params <= 6400
        assert bool(policy.vocabularies) == proposal.stores_ids
    hashed = proposed(tiny_data, shape, by_id=False, frequent=True)
    assert hashed and not any(c.policy.vocabularies for c in hashed)
    without = {c.name for c in proposed(tiny_data, shape, by_id=True, frequent=False)}
    assert not any("frequent" in name for name in without)
    plain = {c.name for c in plain_candidates(tiny_data, shape, RunOff())}
    assert not plain & set(found)
    assert proposed(tiny_data, Shape(16, 16, 8, 32, 0), by_id=True, frequent=True) == []
