"""Successive halving: what a schedule costs, who stays, and that the answer is as without it."""

from __future__ import annotations

import functools
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
from seo_rec.runs import RunError, reading
from seo_rec.runs.decision import as_options
from seo_rec.runs.halving import story
from seo_rec.search.registry import SEARCHES
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
from seo_rec.search.run_off.halving import halve
from seo_rec.search.run_off.schedule import Length, early_steps, has_few_steps, haste, rounds
from seo_rec.search.seo import SeoSearch
from seo_rec.train import FitSettings, Trained, Training, eval_stream, evaluate, fit_policy

TRAINING = Training(ModelSettings(hidden=(8,)), FitSettings(epochs=4, batch_size=50))
SEARCH = SeoSearch(budget_rows=400, logit_lr=0.05, run_off=RunOff(in_full=False))


@functools.cache
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


@pytest.mark.parametrize("cost", [1.0, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("epochs, widths", [(4, 1), (8, 2), (20, 2), (20, 3), (7, 5), (1, 2)])
@pytest.mark.parametrize("candidates", [1, 2, 3, 4, 9, 10, 31, 64])
def test_a_search_reads_at_most_its_limit(
    candidates: int, epochs: int, widths: int, cost: float
) -> None:
    """All rounds, each beginning where the one before ended, and the attentions.

    The limit holds as long as a candidate can have more than its one step.
    """
    for N, batch in ((20_001, 256), (803_000, 2048), (4_000, 512)):
        length = Length(epochs, -(-N // batch), N, batch)
        spent = widths * attention_epochs(epochs, widths, cost) * N
        for goes_on in (True, False):
            schedule = rounds(candidates, length, cost, spent, goes_on=goes_on)
            first, finals = schedule.screening, schedule.finals
            read, begun = first.candidates * rows_one_by_one(length, first.steps) if first else 0, 0
            for stage in finals:
                end = rows_one_by_one(length, stage.steps)
                read, begun = read + stage.candidates * (end - begun), end
            assert schedule.rows + spent <= max(spent, cost * epochs * N)
            if all(stage.steps > 1 for stage in schedule.rounds):
                assert read <= schedule.rows
            assert schedule.rounds[0].candidates == candidates
            sizes = [s.candidates for s in schedule.rounds]
            assert sizes == sorted(sizes, reverse=True) and (not first or sizes[1] < candidates)
            steps = [s.steps for s in finals]
            assert steps == sorted(set(steps)) and steps[-1] <= length.steps
            assert all(n % length.steps_per_epoch == 0 for n in steps[:-1])  # where it can go on
            assert goes_on or len(finals) == 1
            if epochs * cost / 8 >= widths and cost >= 4:  # no attention is longer than its share
                assert steps[-1] == length.steps  # to the end
            if N > 10_000 and epochs >= 8 and widths <= 2 and cost >= 4:
                assert not first or first.steps > 1
                assert read + spent >= 0.6 * min(cost, candidates) * epochs * N  # and is spent


def test_the_finalists_of_the_default_limit() -> None:
    """Eight begin, and six, three and two go on after a tenth, a fifth and half of a training.

    What is left screens.
    """
    length = Length(20, 100, 100_000, 1000)
    schedule = rounds(33, length, 4.0, 2 * attention_epochs(20, 2, 4.0) * 100_000)
    finals = [(8, 200), (6, 400), (3, 1000), (2, 2000)]
    assert [(r.candidates, r.steps) for r in schedule.finals] == finals
    assert schedule.screening is not None and schedule.screening.candidates == 33
    assert 33 * schedule.screening.steps == pytest.approx((4 - 0.3 - 3.3) * 2000, rel=0.03)
    alone = rounds(31, length, 4.0, 0, goes_on=False)
    assert [(r.candidates, r.steps) for r in alone.finals] == [(2, 2000)]
    assert [r.candidates for r in rounds(31, length, 8.0, 0).finals] == [16, 12, 6, 4]
    assert rounds(3, length, 4.0, 0).rounds == rounds(3, length, 4.0, 0).finals
    assert rounds(3, length, 4.0, 0).finals[0].steps == length.steps


@pytest.mark.parametrize(
    "epochs, finals",
    [
        (12, [(8, 1), (6, 2), (3, 6), (2, 12)]),
        (10, [(7, 1), (6, 2), (3, 5), (2, 10)]),
        (8, [(8, 1), (3, 4), (2, 8)]),  # a tenth and a fifth of 8 epochs are one epoch
        (6, [(7, 1), (3, 3), (2, 6)]),  # eight would be one training too many
        (5, [(7, 1), (3, 2), (2, 5)]),
        (3, [(5, 1), (2, 3)]),
    ],
)
def test_finalists_are_as_many_as_whole_epochs_have_room_for(
    epochs: int, finals: list[tuple[int, int]]
) -> None:
    length = Length(epochs, 100, 100_000, 1000)
    found = rounds(31, length, 4.0, 2 * attention_epochs(epochs, 2, 4.0) * 100_000).finals
    assert [(r.candidates, r.steps // 100) for r in found] == finals


def test_an_attention_has_two_epochs_where_they_are_an_eighth_of_the_limit() -> None:
    """One where they are more, and more where they are a twelfth."""
    found = {n: attention_epochs(n, 2, 4.0) for n in (1, 3, 7, 8, 12, 17, 18, 20, 24)}
    assert found == {1: 1, 3: 1, 7: 1, 8: 2, 12: 2, 17: 2, 18: 3, 20: 3, 24: 4}
    assert attention_epochs(3, 1, 100.0) == 3


def test_a_training_of_few_steps_is_told_before_it_starts() -> None:
    """A fifth of it is below 0.2 of steps times rate, and it reads 200,000 rows at most."""
    rates = FitSettings(row_lr=4e-3)  # rows have grown after 50 steps
    for steps_per_epoch, few in ((24, True), (25, False)):  # of 10 epochs two are a fifth
        length = Length(10, steps_per_epoch, 512 * steps_per_epoch, 512)
        assert has_few_steps(length, rates) is few
    assert not has_few_steps(Length(10, 24, 512 * 24, 512), FitSettings(row_optimizer="adagrad"))
    assert has_few_steps(Length(10, 20, 20_000, 1000), rates)
    assert not has_few_steps(Length(10, 20, 20_001, 1001), rates)


def test_with_few_steps_every_candidate_is_trained_in_full(
    tiny_data: DataSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The search says so in one line, and so does its story; its attentions are whole, too."""
    caplog.set_level("INFO", "seo_rec.progress")
    off = RunOff(epochs=2, chunk_dims=(), trivial_lookups=(), frequent=False)
    search, out = replace(SEARCH, run_off=off), tmp_path / "out"
    recipes.search("seo", tiny_data, out, search, TRAINING)
    halving = json.loads((out / "search.json").read_text())["record"]["halving"]
    length = whole_length(tiny_data, off.shortened(TRAINING))
    assert halving["elsewhere"] == length.whole
    count = halving["rounds"][0]["candidates"]
    assert [r["steps"] for r in halving["rounds"]] == [length.steps]
    assert halving["rows"] == count * length.whole > 4 * length.whole
    few = [m for m in caplog.messages if "too few for rounds" in m]
    assert len(few) == 1 and f"a training has {length.steps} steps" in few[0]
    assert f"{count} candidates, each trained in full: " in caplog.text
    (read,) = reading.read([out]).searches
    assert read.halving is not None
    lines = story(read.halving, read.decision)
    assert len(lines) <= 5 and "attentions included; each was trained in full." in lines[0]
    assert "in_full" not in off.to_json() | RunOff(cost=0, in_full=False).to_json()
    assert RunOff(in_full=False).to_json()["in_full"] is False


def test_a_short_search_by_an_earlier_rule_is_not_resumed(
    tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would go on with other claims. Nothing changed for long ones, whole ones and no limit."""

    def stops(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setitem(SEARCHES, "seo", replace(SEARCHES["seo"], decide=stops))
    quick = replace(TRAINING, fit=replace(TRAINING.fit, row_lr=0.02))
    cases = {
        "short": (SEARCH, TRAINING),
        "long": (SEARCH, quick),
        "whole": (replace(SEARCH, run_off=RunOff()), TRAINING),
        "unlimited": (replace(SEARCH, run_off=RunOff(cost=0)), TRAINING),
        "alone": (replace(SEARCH, run_off=None), TRAINING),
    }
    for name, (search, training) in cases.items():
        out = tmp_path / name
        with pytest.raises(KeyboardInterrupt):
            recipes.search("seo", tiny_data, out, search, training)
        asked = json.loads((out / "run.json").read_text())
        assert ("short_rule" in asked) is (name == "short")
        asked.pop("short_rule", None)  # as the release before wrote it
        (out / "run.json").write_text(json.dumps(asked))
        refused = pytest.raises(RunError, match=r"earlier release, whose run.json lacks short_rule")
        with refused if name == "short" else pytest.raises(KeyboardInterrupt):
            recipes.search("seo", tiny_data, out, search, training, resume=True)
    (tmp_path / "short/run.json").write_text(json.dumps(asked | {"short_rule": 1}))
    with pytest.raises(RunError, match=r"holds another run \(it differs in .*short_rule"):
        recipes.search("seo", tiny_data, tmp_path / "short", *cases["short"], resume=True)


def test_finalists_do_not_leave_before_rows_have_grown() -> None:
    """Where a tenth of the training is too short, seven begin and three go on after a fifth."""
    assert [early_steps(FitSettings(row_lr=lr)) for lr in (2e-3, 4e-3, 1.0)] == [100, 50, 1]
    assert early_steps(FitSettings(row_lr=1e-3, row_optimizer="sgd")) == 1
    for steps, finals in ((50, [(8, 1), (6, 2)]), (49, [(7, 2)])):
        length = Length(12, steps, 512 * steps, 512)
        spent = length.whole // 3
        found = rounds(31, length, 4.0, spent, early=early_steps(FitSettings(row_lr=4e-3)))
        stages = [(r.candidates, r.steps // steps) for r in found.finals]
        assert stages == [*finals, (3, 6), (2, 12)]
        assert found.few_steps is (steps == 49)


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
    """On top of the rates that were chosen for a family; whole trainings have their own rates."""
    trained = sys.modules["seo_rec.search.run_off.contest"]
    fits = list[FitSettings]()

    def fit_policy(data: DataSet, policy: Policy, training: Training, **more: Any) -> Trained:
        fits.append(training.fit)
        raise KeyboardInterrupt

    monkeypatch.setattr(trained, "fit_policy", fit_policy)
    candidate = Candidate("a", methods.monolithic(tiny_data.schema, 64, 16))
    fit = FitSettings(max_steps=10, row_lr=1e-2, dense_lr=1e-3)
    for short in (True, False):
        for changes in ({}, {"a": {"row_lr": 5e-2}}):
            contest = trained.Contest(
                tiny_data, [candidate], RunOff(), Training(fit=fit), tmp_path, changes
            )
            contest.set_length(contest.once, short=short)
            with pytest.raises(KeyboardInterrupt):
                contest.train("a")
    rates = [(f.row_lr, f.dense_lr) for f in fits]
    assert rates == [(3e-2, 3e-3), pytest.approx((7e-2, 1.4e-3)), (1e-2, 1e-3), (5e-2, 1e-3)]


def test_large_tables_of_auto_are_not_taken_for_adams(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet, tmp_path: Path
) -> None:
    """Neither in the rates of short trainings nor in the steps after which finalists may leave."""
    trained = sys.modules["seo_rec.search.run_off.contest"]
    policy = methods.monolithic(tiny_data.schema, 64, 16)
    found = []

    def fit_policy(data: DataSet, policy: Policy, training: Training, **more: Any) -> Trained:
        found.append(training.fit.row_lr)
        raise KeyboardInterrupt

    def rounds(*of: Any, early: int, **more: Any) -> None:
        found.append(early)
        raise KeyboardInterrupt

    monkeypatch.setattr(trained, "fit_policy", fit_policy)
    monkeypatch.setattr("seo_rec.search.run_off.halving.rounds", rounds)
    training = Training(fit=FitSettings(max_steps=10, row_lr=1e-2))
    for large in (False, True):
        largest = policy.num_params - large
        monkeypatch.setattr("seo_rec.settings.LARGEST_DENSE", largest)
        contest = trained.Contest(tiny_data, [Candidate("a", policy)], RunOff(), training, tmp_path)
        contest.set_length(contest.once, short=True)
        with pytest.raises(KeyboardInterrupt):
            contest.train("a")
        with pytest.raises(KeyboardInterrupt):
            halve(contest, 0)
    assert found == [3e-2, 20, 1e-2, 1]


def test_a_short_training_is_not_taken_for_one_at_the_given_rates(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet, tmp_path: Path
) -> None:
    """On very small data both may have one step."""
    contest = sys.modules["seo_rec.search.run_off.contest"]
    trained = scripted(monkeypatch, tiny_data, {"a": 1.0}, {"a": 0.0})
    candidates = [Candidate("a", methods.monolithic(tiny_data.schema, 64, 16))]
    training = Training(fit=FitSettings(max_steps=1))
    made = contest.Contest(tiny_data, candidates, RunOff(), training, tmp_path)
    for short in (True, False, True, False):
        made.set_length(made.once, short=short)
        made.train("a")
    assert trained == [("a", 0, 1)] * 2


def scripted(
    monkeypatch: pytest.MonkeyPatch,
    data: DataSet,
    quality: dict[str, float],
    halfway: dict[str, float],
    stops: float = 1.0,
) -> list[tuple[str, int, int]]:
    """Made-up trainings, noted by name and steps, from and to; candidates improve gradually.

    A training goes on in its folder, as real ones do. ``halfway`` has the steps after which a
    candidate has half of it; a training stops early after the part ``stops`` of its epochs.
    """
    contest = sys.modules["seo_rec.search.run_off.contest"]
    labels, trained = data.labels("val"), list[tuple[str, int, int]]()
    rows_noise = np.random.default_rng(0).normal(size=labels.size)
    monkeypatch.setattr(contest, "eval_stream", lambda *_: None)

    def fit_policy(
        data: DataSet, policy: Policy, training: Training, out: Path | None, title: str
    ) -> Trained:
        name, fit = title.removesuffix(", second seed"), training.fit
        kept = out / "steps" if out else None
        begun = int(kept.read_text()) if kept and kept.exists() else 0
        steps = int(stops * fit.epochs) * -(-data.schema.num_rows["train"] // fit.batch_size)
        steps = min(steps, fit.max_steps or steps)
        if out and kept:
            out.mkdir(exist_ok=True)
            kept.write_text(str(steps))
        trained.append((name, begun, steps))
        return Trained((name, steps, fit.seed), SimpleNamespace(seconds=1.0, steps=steps))

    def evaluate(model: tuple[str, int, int], stream: Any) -> tuple[Any, Any, Any]:
        name, steps, seed = model
        noise = np.random.default_rng([*map(ord, name), seed]).normal(size=labels.size)
        z = quality[name] * steps / (steps + halfway[name]) * labels + 0.05 * noise + rows_noise
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
    candidates = policies(tiny_data, names, shared=1)
    trained = scripted(monkeypatch, tiny_data, quality, dict.fromkeys(names, 5.0))
    training = Training(TRAINING.model, FitSettings(epochs=8, batch_size=20))
    length = whole_length(tiny_data, training)
    found, read = {}, {}
    for cost in (0.0, 4.0):
        trained.clear()
        outcome = run_off(
            tiny_data, candidates, RunOff(cost=cost), training, tmp_path / f"scores-{cost}"
        )
        found[cost] = outcome
        read[cost] = sum(length.rows(end) - length.rows(begun) for _, begun, end in trained)
    whole = {n: s["val_auc"] for n, s in found[0.0].scores.items()}
    winners = [found[cost].winner.name for cost in (0.0, 4.0)]
    assert whole[winners[1]] >= whole[winners[0]] - 0.0005
    assert read[4.0] <= 4 * length.whole < 20 * length.whole <= read[0.0]
    assert found[4.0].rounds is not None and found[4.0].rounds["rows"] == read[4.0]
    assert winners[1] in found[4.0].last and len(found[4.0].last) == 2


def policies(data: DataSet, names: list[str], shared: int) -> list[Candidate]:
    """Candidates of different sizes, of which the first ones share chunks."""
    return [
        Candidate(
            n, methods.monolithic(data.schema, 16 * (i + 1), 16), "seo" in n, shared=i < shared
        )
        for i, n in enumerate(names)
    ]


@pytest.mark.parametrize("stops, finalists", [(1.0, 2), (0.75, 3)])
def test_a_leader_of_short_rounds_does_not_win_by_them(
    monkeypatch: pytest.MonkeyPatch,
    tiny_data: DataSet,
    tmp_path: Path,
    stops: float,
    finalists: int,
) -> None:
    """It is the fastest and ends below the best policy of shared chunks, which is the answer.

    Finalists go on with one training each, and where trainings stop early, more of them do.
    """
    names = [f"trivial-{i}" for i in range(10)] + [f"seo-{i}" for i in range(6)]
    quality = dict.fromkeys(names, 0.4) | {"trivial-0": 0.9, "trivial-1": 1.9, "trivial-7": 1.2}
    halfway = dict.fromkeys(names, 20.0) | {"trivial-7": 0.0}
    trained = scripted(monkeypatch, tiny_data, quality, halfway, stops)
    training = Training(TRAINING.model, FitSettings(epochs=8, batch_size=20))
    length = whole_length(tiny_data, training)
    candidates = policies(tiny_data, names, shared=3)
    outcome = run_off(tiny_data, candidates, RunOff(), training, tmp_path, length.whole // 2)
    assert outcome.rounds is not None
    first = outcome.rounds["rounds"][0]["steps"]
    assert max(names, key=lambda n: quality[n] * first / (first + halfway[n])) == "trivial-7"
    assert outcome.winner.name == "trivial-1" and outcome.last[:2] == ("trivial-1", "trivial-7")
    scores = outcome.scores
    second = {n: s["curve"][1][1] for n, s in scores.items() if len(s["curve"]) > 1}
    others = sorted(set(second) - {"trivial-1"}, key=lambda n: -second[n])
    third = {n for n, s in scores.items() if len(s["curve"]) > 2}
    assert len(second) == 7 and third == {"trivial-1", *others[: max(2, finalists - 1)]}
    last = int(stops * length.steps)
    whole = [(name, begun) for name, begun, end in trained if end == last]
    assert {name for name, _ in whole} == set(outcome.last) and len(whole) == finalists
    assert {begun for _, begun in whole} == {length.steps // 2}
    assert [n for n, begun, _ in trained].count("trivial-1") == 4 == len(outcome.rounds["rounds"])
    read = sum(length.rows(end) - length.rows(begun) for _, begun, end in trained)
    assert read == outcome.rounds["rows"] <= 3.5 * length.whole
    assert not list(tmp_path.glob("*-training"))  # checkpoints are not kept
    kept = {p.name for p in tmp_path.glob("*.json")}
    assert {f"{name}-seed{training.fit.seed}.json" for name in outcome.last} <= kept


@pytest.mark.parametrize(
    ("stops", "back", "end"), [(0.5, ["trivial-1", "trivial-0"], 4), (0.75, ["trivial-1"], 5)]
)
def test_who_left_comes_back_where_trainings_stopped_early(
    monkeypatch: pytest.MonkeyPatch,
    tiny_data: DataSet,
    tmp_path: Path,
    stops: float,
    back: list[str],
    end: int,
) -> None:
    """Shapes of shared chunks first, through all rounds that they missed, inside the limit.

    The second training that comes back has rows for five of the six epochs that others have.
    Stopped anywhere, the run-off goes on to the same outcome, and trains nothing again.
    """
    names = [f"trivial-{i}" for i in range(10)] + [f"seo-{i}" for i in range(6)]
    quality = {n: 0.3 + 0.1 * (i % 7) for i, n in enumerate(names)}
    training = Training(TRAINING.model, FitSettings(epochs=8, batch_size=20))
    length = whole_length(tiny_data, training)
    trained = scripted(monkeypatch, tiny_data, quality, dict.fromkeys(names, 5.0), stops)
    candidates = policies(tiny_data, names, shared=3)
    wanted = run_off(tiny_data, candidates, RunOff(), training, tmp_path / "a", length.whole // 4)
    scores, stages = wanted.scores, wanted.rounds
    assert stages is not None and {n for n, s in scores.items() if "round" not in s} == set(
        wanted.last
    )
    assert set(back) <= set(wanted.last) and wanted.last[0] == "trivial-2"
    half = length.steps // 2
    for name in back:
        assert [at for n, at, _ in trained if n == name] == [0, 0, length.steps_per_epoch, half]
    assert [at for n, _, at in trained if n in back][-1] == end * length.steps_per_epoch
    others = {at for n, begun, at in trained if begun == half and n not in back}
    assert others == {stops * length.steps}
    whole = list(trained)
    read = sum(length.rows(end) - length.rows(begun) for _, begun, end in whole)
    assert read == stages["rows"] and read + length.whole // 4 <= 4 * length.whole

    contest = sys.modules["seo_rec.search.run_off.contest"]
    fit_policy, places = contest.fit_policy, [0, len(whole) - 1, len(whole) - 2, len(whole) - 4]
    for place in places:
        trained.clear()

        def stops(*args: Any, place: int = place, **more: Any) -> Trained:
            if len(trained) == place:
                raise KeyboardInterrupt
            return fit_policy(*args, **more)

        again = (tiny_data, candidates, RunOff(), training, tmp_path / str(place))
        monkeypatch.setattr(contest, "fit_policy", stops)
        with pytest.raises(KeyboardInterrupt):
            run_off(*again, length.whole // 4)
        monkeypatch.setattr(contest, "fit_policy", fit_policy)
        found = run_off(*again, length.whole // 4)
        assert trained == whole and found.last == wanted.last
        assert (found.winner, found.rounds, found.scores) == (
            wanted.winner,
            wanted.rounds,
            wanted.scores,
        )


def test_slow_kinds_are_among_the_finalists(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet, tmp_path: Path
) -> None:
    """The best division by worth is last in the short round, and wins after whole trainings.

    One with crosses, which learns fast, does not take its place.
    """
    names = [f"trivial-{i}" for i in range(10)] + [f"seo-{i}" for i in range(6)]
    quality = dict.fromkeys(names, 0.8) | {"seo-3": 2.0, "seo-4": 1.9}
    quality["seo-5"] = 1.0
    halfway = dict.fromkeys(names, 1.0) | {"seo-3": 60.0, "seo-4": 90.0}
    scripted(monkeypatch, tiny_data, quality, halfway)
    contest = sys.modules["seo_rec.search.run_off.contest"]
    monkeypatch.setattr(contest.Contest, "_worth", lambda *_: {})
    training = Training(TRAINING.model, FitSettings(epochs=8, batch_size=20))
    spent = whole_length(tiny_data, training).whole // 2
    marked = ("seo-3", "seo-4")
    last = {}
    for kind in ({"by_worth": True}, {}):
        candidates = [
            replace(c, **kind) if c.name in marked else c
            for c in policies(tiny_data, names, shared=3)
        ]
        candidates[-1] = replace(candidates[-1], by_worth=True, origin={"crosses": ["a*b"]})
        outcome = run_off(
            tiny_data, candidates, RunOff(), training, tmp_path / str(len(kind)), spent
        )
        last[len(kind)] = outcome
    curve = {n: s["curve"] for n, s in last[1].scores.items()}
    assert min(names, key=lambda n: curve[n][0][1]) in marked
    assert last[1].winner.name == "seo-3" and len(curve["seo-4"]) == 1  # one of a kind stays
    assert last[0].winner.name not in marked
    assert all(len(found.scores["seo-5"]["curve"]) > 1 for found in last.values())


def test_with_few_steps_stored_ids_begin_in_place_of_the_last_shape(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet, tmp_path: Path
) -> None:
    """A searched policy that stores ids is last in the short round, and wins."""
    names = [f"trivial-{i}" for i in range(10)] + [f"seo-{i}" for i in range(6)]
    quality = dict.fromkeys(names, 0.8) | {"seo-3": 2.0}
    scripted(monkeypatch, tiny_data, quality, dict.fromkeys(names, 1.0) | {"seo-3": 60.0})
    contest = sys.modules["seo_rec.search.run_off.contest"]
    monkeypatch.setattr(contest.Contest, "_worth", lambda *_: {})
    training = Training(TRAINING.model, FitSettings(epochs=8, batch_size=20))
    spent = whole_length(tiny_data, training).whole // 2
    known = plain_candidates(tiny_data, Shape(1600, 16, 8, 16, 0), RunOff())
    marks: dict[str, dict[str, Any]] = {
        "seo-3": {"policy": next(c.policy for c in known if c.family == "by-id")},
        "seo-4": {"by_worth": True},
        "seo-5": {"origin": {"crosses": ["a*b"]}},
    }
    candidates = [replace(c, **marks.get(c.name, {})) for c in policies(tiny_data, names, shared=4)]
    outcome = run_off(tiny_data, candidates, RunOff(), training, tmp_path, spent)
    curve = {name: score["curve"] for name, score in outcome.scores.items()}
    assert min(names, key=lambda name: curve[name][0][1]) == "seo-3"
    assert outcome.winner.name == "seo-3"
    assert all(len(curve[name]) > 1 for name in ("seo-4", "seo-5"))


def test_in_one_round_the_best_of_shared_chunks_is_the_one_to_beat(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet, tmp_path: Path
) -> None:
    """Also where it is the second candidate, and not clearly better than the first one."""
    names = ["trivial-0", "trivial-1", "trivial-2", "seo-0"]
    quality = dict.fromkeys(names, 0.4) | {"trivial-0": 0.9, "trivial-1": 0.95}
    scripted(monkeypatch, tiny_data, quality, dict.fromkeys(names, 0.0))
    training = Training(TRAINING.model, FitSettings(epochs=2, batch_size=20))
    candidates = policies(tiny_data, names, shared=2)
    outcome = run_off(tiny_data, candidates, RunOff(cost=8), training, tmp_path)
    assert outcome.rounds is not None and len(outcome.rounds["rounds"]) == 1
    first, best = (outcome.scores[name]["val_auc"] for name in names[:2])
    assert first < best and outcome.last[0] == "trivial-1" == outcome.winner.name


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
    done, read = dict[Path | None, int](), list[int]()
    monkeypatch.setattr(contest, "eval_stream", lambda *_: None)

    def fit_policy(
        data: DataSet, policy: Policy, training: Training, out: Path | None, title: str
    ) -> Trained:
        fit = training.fit
        family = "by-id" if policy.vocabularies else "hashed"
        trained.append((family, fit))
        steps = fit.max_steps or length.steps
        read.append(length.rows(steps) - length.rows(done.get(out, 0)))
        if out:
            done[out] = steps
        l2, rate = best[family]
        off = abs(np.log10((fit.row_l2 + 1e-5) / (l2 + 1e-5))) + abs(np.log10(fit.row_lr / rate))
        model = (1.0 - 0.2 * off, fit.seed)
        return Trained(model, SimpleNamespace(seconds=1.0, steps=steps))

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
    of_tuning = 2 * (5 * 2 + 2)  # five strengths, two rates, two of these longer; two families
    assert len({(f.row_l2, f.row_lr) for _, f in trained[:of_tuning]}) == 10
    rest = trained[of_tuning:]
    assert rest and {(n, f.row_l2, f.row_lr) for n, f in rest} == {(n, *b) for n, b in best.items()}
    assert sum(read) == outcome.rounds["rows"] + outcome.rounds["elsewhere"] - length.whole
    assert sum(read) <= 3 * length.whole
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
    kept = [json.loads(p.read_text()) for p in (out / "work").rglob("*-seed*.json")]
    attentions = list((out / "work/attentions").glob("*/metrics.jsonl"))
    epochs = [json.loads(x) for p in attentions for x in p.read_text().splitlines()]
    steps = sum(1 for x in epochs if x["event"] == "epoch") * length.steps_per_epoch
    ends = sum(length.rows(score["steps"]) for score in kept)
    assert halving["rows"] == ends - sum(length.rows(score.get("begun", 0)) for score in kept)
    assert any(score.get("begun") for score in kept)  # some went on
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
    for name in last:  # trained with breaks, to the bits of a training without
        (kept_z,) = (out / "work").rglob(f"{name}-seed{TRAINING.fit.seed}.npy")
        policy = Policy.load(out / "candidates" / f"{name}.json")
        model = fit_policy(tiny_data, policy, TRAINING).model
        _, z, _ = evaluate(model, eval_stream(tiny_data, "val", policy.columns))
        assert np.array_equal(np.load(kept_z), z)
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
    assert len(lines) <= 5
    shares = f"{halving.rows / halving.one_training:.1f} times the {halving.one_training:,} rows"
    assert shares in lines[0] and "the limit was 4 times" in lines[0]
    told = " ".join(lines)
    for number, stage in enumerate(halving.stages[:-1], 1):
        auc = {c.name: c.curve[number - 1][1] for c in halving.courses if len(c.curve) >= number}
        out = [c for c in halving.courses if c.left == number]
        best = max(auc, key=lambda name: auc[name])
        assert f"trained {len(auc)} of them on {stage.rows:,} rows; {best} was" in told
        assert f"{best} was the best, and {len(out)} left" in told
        if lower := [max(auc.values()) - auc[c.name] for c in out]:
            assert f"{len(out)} left, {min(lower):.4f} to {max(lower):.4f} lower" in told
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
