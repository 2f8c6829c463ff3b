"""Tuning: the first trial is the settings as given, nothing is lost by a stop, test rows wait."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seo_rec.data.dataset import DataSet
from seo_rec.metrics import Metrics
from seo_rec.recipes import method_policy
from seo_rec.runs import RunError
from seo_rec.settings import LARGEST_DENSE, FitSettings, ModelSettings, Training, settled

optuna = pytest.importorskip("optuna")

from seo_rec.recipes import tuning as module  # noqa: E402
from seo_rec.recipes.trials import Pruned, Trials, best_of, values_of  # noqa: E402
from seo_rec.recipes.tuning import Tuning, tune  # noqa: E402
from seo_rec.recipes.tuning_space import (  # noqa: E402
    TUNED_NAMES,
    Subject,
    as_parameters,
    as_values,
    check_names,
    space,
)

FIT = FitSettings(epochs=3, patience=3, batch_size=64, row_lr=0.01, dense_lr=0.02)
TRAINING = Training(ModelSettings(hidden=(8,)), FIT)
SETTINGS = [
    FIT,
    replace(FIT, row_l2=0.3, l2_on="frequency"),
    replace(FIT, row_optimizer="adam"),
    replace(FIT, row_optimizer="lazy_adam", batch_size=100),
    replace(FIT, row_optimizer="sgd", row_lr=0.5, storage="float16"),
]
CLOCKS = {"seconds", "command", "environment"}


def wanted(data: DataSet, **changes: Any) -> Tuning:
    def policy(dim: int) -> Any:
        return method_policy("multi-size", data, 800, dim)

    values = {"training": TRAINING, "dim": 8, "method": "multi-size", "trials": 4, **changes}
    return Tuning(data, policy, **values)


# ---- what is tuned -------------------------------------------------------------------------


@pytest.mark.parametrize("fit", SETTINGS)
@pytest.mark.parametrize("floats", [1_000, 2 * LARGEST_DENSE])
def test_the_settings_as_given_are_a_point_of_the_ranges(fit: FitSettings, floats: int) -> None:
    subject = Subject(Training(ModelSettings(dropout=0.7), fit), 12, floats)
    ranges = space(subject, TUNED_NAMES, 100_000, (4, 8))
    point = as_parameters(subject.values, ranges)
    for name, distribution in ranges.items():
        value = distribution.to_internal_repr(point[name])
        assert distribution._contains(value), (name, point[name])
    again = subject.with_values(as_values(point))
    assert again.dim == 12 and again.training.model == subject.training.model
    assert settled(again.training.fit, floats) == settled(fit, floats)


@pytest.mark.parametrize("fit", SETTINGS)
@pytest.mark.parametrize("floats", [1_000, 2 * LARGEST_DENSE])
def test_every_point_of_the_ranges_can_be_trained(fit: FitSettings, floats: int) -> None:
    subject = Subject(Training(ModelSettings(), fit), 8, floats)
    ranges = space(subject, TUNED_NAMES, 100_000, (4, 8))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(40):
        drawn = study.ask(ranges).params
        settled(subject.with_values(as_values(drawn)).training.fit, floats)  # raises if it cannot


def test_batches_follow_the_rows() -> None:
    subject = Subject(TRAINING, 8, 1_000)
    for rows, batches in ((3_000, (64, 128, 256)), (10**8, (64, 2048, 4096, 8192))):
        assert space(subject, ("batch-size",), rows, ())["batch-size"].choices == batches


def test_names_are_checked() -> None:
    for names in ((), ("lr", "lr"), ("lr", "momentum")):
        with pytest.raises(ValueError, match="allowed, each once: l2, l2-on, lr"):
            check_names(names)


# ---- who trains which trial ----------------------------------------------------------------


def trials_in(out: Path) -> Trials:
    subject = Subject(TRAINING, 8, 1_000)
    ranges = space(subject, TUNED_NAMES, 10_000, (4, 8))
    return Trials(out, ranges, subject.values, seed=5)


def test_two_processes_never_have_the_same_trial_and_draw_different_values(tmp_path: Path) -> None:
    one, two = trials_in(tmp_path), trials_in(tmp_path)
    with one.next(3) as a, two.next(3) as b, one.next(3) as c, two.next(3) as d:
        assert a is not None and b is not None and c is not None
        assert [a.number, b.number, c.number] == [0, 1, 2] and d is None
        assert a.values == Subject(TRAINING, 8, 1_000).values
        assert b.values != c.values


def test_what_a_process_left_behind_is_taken_up_with_its_values(tmp_path: Path) -> None:
    one, two = trials_in(tmp_path), trials_in(tmp_path)
    with one.next(2) as first:
        assert first is not None
        one.tell(first, 0.5, {})
    with one.next(2) as lost:
        assert lost is not None and lost.number == 1
    with two.next(2) as again:
        assert again is not None
        assert (again.number, again.values) == (1, lost.values)
        two.tell(again, 0.7, {"seconds": 1.0})
    with one.next(2) as nothing:
        assert nothing is None
    best = best_of(one.all)
    assert best is not None and best.number == 1 and values_of(best) == lost.values


def test_a_trial_far_below_the_others_is_given_up(tmp_path: Path) -> None:
    trials = trials_in(tmp_path)
    for level in (0.7, 0.71, 0.72, 0.73, 0.74):
        with trials.next(9) as asked:
            assert asked is not None
            for epoch in range(4):
                trials.report(asked, level, epoch)
            trials.tell(asked, level, {})
    with trials.next(9) as good:
        assert good is not None
        for epoch in range(4):
            trials.report(good, 0.75, epoch)
        trials.tell(good, 0.75, {})
    with trials.next(9) as bad:
        assert bad is not None
        trials.report(bad, 0.5, 0)
        trials.report(bad, 0.5, 1)
        with pytest.raises(Pruned):
            trials.report(bad, 0.5, 2)


def test_epochs_are_reported_from_0_and_go_on_after_a_resume() -> None:
    reported: list[tuple[float, int]] = []
    trials = SimpleNamespace(report=lambda asked, score, epoch: reported.append((score, epoch)))
    for given in ({"epochs": 0}, {"epochs": 2}):
        watch = module._Watch(trials, SimpleNamespace(), "auc")
        watch.load({}, given)
        for auc in (0.6, 0.7):
            assert not watch.after_epoch(Metrics(auc, 0.5, 1.0, 1.0, 100))
    assert reported == [(0.6, 0), (0.7, 1), (0.6, 2), (0.7, 3)]
    assert watch.values() == {"epochs": 4}


# ---- the whole -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tiny_data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "whole"
    tune(wanted(tiny_data), out)
    return out


def outcome(out: Path) -> dict[str, Any]:
    record = json.loads((out / "tune.json").read_text())
    trials = [{k: v for k, v in t.items() if k not in CLOCKS} for t in record["trials"]]
    return {**{k: v for k, v in record.items() if k not in CLOCKS}, "trials": trials}


def test_the_first_trial_is_the_settings_as_given_and_the_best_is_not_below_it(
    whole: Path, tiny_data: DataSet
) -> None:
    record = outcome(whole)
    trials = record["trials"]
    given = wanted(tiny_data).subject.values
    del given["batch-size"]  # the data have too few rows for another one
    assert len(trials) == 4 and trials[0]["values"] == given
    scores = [t["score"] for t in trials if t["state"] == "complete"]
    assert trials[record["best"]]["score"] == max(scores) >= trials[0]["score"]
    assert set(record["importance"]) <= set(TUNED_NAMES)
    best = whole / "trials" / str(record["best"])
    run = json.loads((best / "result.json").read_text())
    assert run["val_auc"] == max(scores) and run["test_auc"] == record["test_quality"]
    assert (best / "best").is_dir()
    others = [p for p in (whole / "trials").iterdir() if p != best]
    assert len(others) == 3
    assert not any((p / "best").exists() or (p / "result.json").exists() for p in others)


def test_a_stopped_tuning_goes_on_to_the_same_end(
    whole: Path, tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, plain = tmp_path / "out", module._Watch.after_epoch

    def stop(self: Any, metrics: Any) -> bool:
        if self.asked.number == 2 and self.epochs == 1 and not stopped:
            stopped.append(2)
            raise KeyboardInterrupt
        return plain(self, metrics)

    stopped: list[int] = []
    monkeypatch.setattr(module._Watch, "after_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        tune(wanted(tiny_data), out)
    assert stopped and not (out / "tune.json").exists()
    with pytest.raises(RunError, match="already holds this run"):
        tune(wanted(tiny_data), out)
    tune(wanted(tiny_data), out, resume=True)
    assert outcome(out) == outcome(whole)


def test_more_trials_may_be_asked_for(whole: Path, tiny_data: DataSet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tune(wanted(tiny_data, trials=2), out)
    found = tune(wanted(tiny_data), out, resume=True)
    assert found is not None and outcome(out) == outcome(whole)


def test_test_rows_are_read_once_after_all_trials(
    tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    plain = DataSet.stream

    def stream(self: DataSet, split: str, *args: Any, **options: Any) -> Any:
        read.append(split)
        return plain(self, split, *args, **options)

    monkeypatch.setattr(DataSet, "stream", stream)
    found = tune(wanted(tiny_data, trials=2), tmp_path / "out", test=False)
    assert found is not None and found.run is None
    assert "test" not in read and read.count("train") == 2
    tune(wanted(tiny_data, trials=2), tmp_path / "out", resume=True)
    assert read.count("test") == 1 and read[-1] == "test"
    tune(wanted(tiny_data, trials=2), tmp_path / "out", resume=True)
    assert read.count("test") == 1


def test_a_trial_that_cannot_be_trained_is_told_and_the_others_go_on(
    tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = module.fit_policy

    def fit(*args: Any, title: str, **options: Any) -> Any:
        if title in broken:
            raise FloatingPointError("the training loss became nan")
        return plain(*args, title=title, **options)

    monkeypatch.setattr(module, "fit_policy", fit)
    broken = {"trial 1"}
    found = tune(wanted(tiny_data, trials=3), tmp_path / "some")
    states = [(t["state"], t["why"]) for t in outcome(tmp_path / "some")["trials"]]
    assert found is not None and states[1] == ("fail", "the training loss became nan")
    assert [s for s, _ in states].count("complete") == 2
    broken = {"trial 0", "trial 1"}
    with pytest.raises(RunError, match="none of 2 trials could be trained: the training loss"):
        tune(wanted(tiny_data, trials=2), tmp_path / "none")


def test_a_width_without_a_policy_is_no_choice(tiny_data: DataSet, tmp_path: Path) -> None:
    tuning = wanted(tiny_data)
    odd = replace(tuning, policy_of=lambda dim: method_policy("multi-size", tiny_data, 20, dim))
    assert 32 in tuning.widths() and 32 not in odd.widths()


def test_another_tuning_in_the_folder_is_refused(whole: Path, tiny_data: DataSet) -> None:
    other = wanted(tiny_data, training=replace(TRAINING, fit=replace(FIT, epochs=5)))
    with pytest.raises(RunError, match=r"it differs in fit\.epochs"):
        tune(other, whole, resume=True)


# ---- the command ---------------------------------------------------------------------------

QUICK = ["--method", "multi-size", "--params", "800", "--threads", "1"]
TUNE = [*QUICK, "--dim", "8", "--hidden", "8", "--epochs", "2", "--batch-size", "64"]


@pytest.fixture(scope="module")
def command(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from seo_rec.cli.main import app

    out = tmp_path_factory.mktemp("command") / "tuned"
    app(["tune", str(tiny), "--out", str(out), *TUNE, "--trials", "3"], standalone_mode=False)
    return out


def test_the_best_settings_are_for_other_commands(
    command: Path, tiny: Path, tmp_path: Path
) -> None:
    from seo_rec.cli.main import app

    record = outcome(command)
    tuned = str(command / "tuned.json")
    words = ["train", str(tiny), "--out", str(tmp_path / "run"), *QUICK, "--config", tuned]
    app(words, standalone_mode=False)
    run = json.loads((tmp_path / "run" / "result.json").read_text())
    assert run["val_auc"] == record["trials"][record["best"]]["score"]
    assert run["test_auc"] == record["test_quality"]
    words = ["compare", str(tiny), "--out", str(tmp_path / "cmp"), "--config", tuned]
    words += ["--methods", "monolithic", "--seeds", "1", "--params", "3200", "--dim", "8"]
    app(words, standalone_mode=False)
    asked = json.loads((tmp_path / "cmp" / "run.json").read_text())
    best = record["trials"][record["best"]]["values"]
    assert asked["fit"]["batch_size"] == 64
    assert asked["fit"]["row_lr"] == best["lr"] and asked["fit"]["dense_lr"] == best["dense-lr"]
    assert asked["model"]["hidden"] == [8] and asked["fit"]["epochs"] == 2


def test_the_settings_of_the_command_itself_are_for_tune_alone(command: Path, tiny: Path) -> None:
    from seo_rec.cli.main import app

    words = ["train", str(tiny), "--out", "x", "--config", str(command / "settings.json")]
    with pytest.raises(ValueError, match="has the settings of `seo-rec tune`"):
        app(words, standalone_mode=False)


def test_the_width_of_a_policy_file_is_fixed(command: Path, tiny: Path, tmp_path: Path) -> None:
    from seo_rec.cli.main import app

    words = ["tune", str(tiny), "--out", str(tmp_path / "x"), "--tune", "dim"]
    with pytest.raises(ValueError, match="widths are fixed"):
        app([*words, "--policy", str(command / "policy.json")], standalone_mode=False)


@pytest.mark.slow
def test_two_processes_share_the_trials(
    tiny: Path, tmp_path: Path, whole: Path, forked_python: str
) -> None:
    """Together they train each trial once, and one of them ends the tuning."""
    words = [forked_python, "-m", "seo_rec", "tune", str(tiny), "--out", str(tmp_path / "out")]
    words += [*TUNE, "--trials", "6", "--resume"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        for _ in range(2)
    ]
    said = [p.communicate() for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    trials = outcome(tmp_path / "out")["trials"]
    assert [t["number"] for t in trials] == list(range(6))
    assert all(t["state"] in ("complete", "pruned") for t in trials)
    trained = [line for _, err in said for line in err.splitlines() if line.startswith("trial ")]
    assert len(trained) == 6
    assert "best of 6 trials" in "".join(out for out, _ in said)


# ---- reports, and comparisons of tuned methods ---------------------------------------------


def test_the_report_tells_how_the_tuning_went(command: Path, tmp_path: Path) -> None:
    from seo_rec.report import build

    build([command], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    record = outcome(command)
    best = record["trials"][record["best"]]
    assert page.count('id="tuning"') == 1
    assert f"The settings as given reach validation AUC {record['trials'][0]['score']:.5f}" in page
    assert f"the best {best['score']:.5f}" in page
    assert f"read once at the end: {record['test_quality']:.5f}" in page
    build([command], tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == page


def test_a_damaged_record_is_named(command: Path, tmp_path: Path) -> None:
    from seo_rec.runs.tunings import read_tuning

    document = json.loads((command / "tune.json").read_text())
    for change in ({"best": 17}, {"trials": [{}]}, {"importance": {"lr": "much"}}):
        (tmp_path / "tune.json").write_text(json.dumps({**document, **change}))
        with pytest.raises(ValueError, match=r"tune\.json: not the record of a tuning"):
            read_tuning(tmp_path)


@pytest.fixture(scope="module")
def compared(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from seo_rec.cli.main import app

    out = tmp_path_factory.mktemp("compared") / "out"
    words = ["compare", str(tiny), "--out", str(out), "--methods", "monolithic,seo-rr+mlet"]
    words += ["--tuned", "--trials", "4", "--seeds", "2", "--params", "1600", "--dim", "8"]
    words += ["--set", "seo.chunk_dim=4", "--set", "seo.search_dim=8", "--mlet-dim", "12"]
    words += ["--hidden", "8", "--epochs", "1", "--batch-size", "64", "--threads", "1"]
    app(words, standalone_mode=False)
    return out


def test_every_method_has_the_same_number_of_trials(compared: Path) -> None:
    tunings = {p.name: outcome(p) for p in (compared / "tunings").iterdir()}
    counts = {name: len(t["trials"]) for name, t in tunings.items()}
    assert counts == {"monolithic-seed0": 4, "before-searches-seed0": 2, "seo-rr+mlet-seed0": 2}
    assert all(t["test_quality"] is None for t in tunings.values())
    for method in ("monolithic", "seo-rr+mlet"):
        tuned = tunings[f"{method}-seed0"]
        best = tuned["trials"][tuned["best"]]["values"]
        for seed in (0, 1):
            folder = compared / "runs" / f"{method}-seed{seed}"
            run = json.loads((folder / "run.json").read_text())
            assert run["fit"]["row_lr"] == best["lr"] and run["fit"]["row_l2"] == best["l2"]
            assert ("mlet" in run["model"]) == ("mlet" in method)
    before = tunings["before-searches-seed0"]
    searched = json.loads((compared / "searches" / "seo-rr-seed1" / "run.json").read_text())
    values = before["trials"][before["best"]]["values"]
    assert searched["fit"]["row_lr"] == values["lr"] and searched["fit"]["seed"] == 1
    first = tunings["seo-rr+mlet-seed0"]["trials"][0]["values"]
    assert first["lr"] == values["lr"]


def test_tuned_methods_stand_in_one_table_that_says_so(compared: Path, tmp_path: Path) -> None:
    from seo_rec.report import build
    from seo_rec.report.comparison import group
    from seo_rec.runs import reading

    (found,) = group(reading.read([compared]))
    assert {row.method for row in found.rows} == {"monolithic", "seo-rr+mlet"}
    assert found.tuned.startswith("Every method was tuned first, with 4 trials each")
    build([compared], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert (
        page.count("tuned first, with 4 trials each") == 1
        and page.count("<summary>every trial") == 3
    )


def test_trials_without_tuned_are_refused(tiny: Path, tmp_path: Path) -> None:
    from seo_rec.cli.main import app

    words = ["compare", str(tiny), "--out", str(tmp_path / "x"), "--trials", "7", "--params", "800"]
    with pytest.raises(ValueError, match="--trials with a comparison that is not tuned"):
        app(words, standalone_mode=False)
