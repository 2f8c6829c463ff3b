"""What a person is told: decisions, trainings that end too early, and stops."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seo_rec.data import prepare
from seo_rec.metrics import Metrics
from seo_rec.recipes import comparing
from seo_rec.recipes.outcome import still_improving
from seo_rec.runs.decision import decided
from seo_rec.runs.stops import kept
from seo_rec.schema import read_schema
from seo_rec.search.seo import search as attention
from seo_rec.settings import FitSettings
from seo_rec.train import FitResult
from small_commands import QUICK, Command


@pytest.mark.parametrize(
    "decision, says",
    [
        (
            ("seo", "trivial-2x8", "plain", 0.0012, 0.0004, "seo-8-min1-exact"),
            "attention lost: the plain policy 2x8 was better by 0.0012 (standard error 0.0004) on "
            "validation rows; the searched policy is kept in OUT/searched.json",
        ),
        (
            ("seo", "trivial-2x8", "plain", -0.0003, 0.0004, "seo-8-min1-exact"),
            "attention did not win: the policy seo-8-min1-exact was better than the plain policy "
            "2x8 by 0.0003 (standard error 0.0004) on validation rows, too little to be sure of "
            "it; the searched policy is kept in OUT/searched.json",
        ),
        (
            ("seo", "trivial-2x8", "plain", None, None, None),
            "attention lost: the plain policy 2x8 was the best on validation rows; the searched "
            "policy is kept in OUT/searched.json",
        ),
        (
            ("seo", "seo-8-by-id", "attention", 0.002, 0.0005, "trivial-4x4"),
            "attention won: the policy seo-8-by-id was better than the plain policy 4x4 by 0.0020 "
            "(standard error 0.0005) on validation rows",
        ),
        (
            ("seo", "seo", "attention", None, None, None),
            "attention decided; no run-off compared its policy with a plain one",
        ),
        (
            ("dimgrow", "dimgrow", None, None, None, None),
            "dimgrow decided; no run-off compared its policy with a plain one",
        ),
        (
            ("no-search", "no-search", "plain", None, None),
            "the rule of no-search decided from the columns; nothing was trained to decide",
        ),
    ],
)
def test_a_decision_in_plain_words(decision: tuple[Any, ...], says: str) -> None:
    keys = ("method", "winner", "kind", "gain", "standard_error", "against")
    told = dict(zip(keys, decision, strict=False))
    assert decided(told, Path("OUT")) == says
    assert decided({**told, "searched": False}, Path("OUT")) == (
        f"the rule of {told['method']} decided from the columns; nothing was trained to decide"
    )


@pytest.mark.parametrize(
    "best_epoch, epochs, limit, max_steps, rising",
    [
        (2, 3, 3, 0, True),
        (1, 3, 3, 0, False),
        (2, 3, 4, 0, False),  # patience ended it
        (0, 1, 1, 0, False),  # one epoch says nothing
        (2, 3, 3, 50, False),  # the steps ended it
    ],
)
def test_whether_a_training_still_rose(
    best_epoch: int, epochs: int, limit: int, max_steps: int, rising: bool
) -> None:
    val = Metrics(*(0.5 for _ in fields(Metrics)))
    result = FitResult(val, best_epoch, epochs, 10 * epochs, 1.0, 1.0)
    assert still_improving(result, FitSettings(epochs=limit, max_steps=max_steps)) is rising


def test_a_training_that_ends_too_early_says_so(
    seo_rec: Command, tiny: Path, tmp_path: Path
) -> None:
    slow = ["--hidden", "8", "--lr", "0.003", "--epochs", "2", "--batch-size", "200"]
    words = ["--method", "separate", "--params", "1600", *slow]
    done = seo_rec("train", tiny, "--out", tmp_path / "t", *words)
    assert done.code == 0
    note = "the validation AUC of separate, seed 0, still rose in the last of 2 epochs; try"
    result = json.loads((tmp_path / "t/result.json").read_text())
    assert (note in done.err) is result["still_improving"]
    assert result["still_improving"], "choose a learning rate at which it does"


def test_a_training_that_is_worse_than_the_label_rate_says_so(
    seo_rec: Command, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Against the entropy of the validation labels, computed from the schema."""
    words = ["--method", "separate", "--params", "1600", "--hidden", "8", "--epochs", "6"]
    words += ["--batch-size", "100"]
    rate = read_schema(tiny).label_rate["val"]
    entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
    note = f"is worse than the {entropy:.5g} of a model that gives every row the label rate"
    for lr, worse in (("9", True), ("0.02", False)):
        done = seo_rec("train", tiny, "--out", tmp_path / lr, "--lr", lr, *words)
        result = json.loads((tmp_path / lr / "result.json").read_text())
        assert done.code == 0 and (result["val_logloss"] > entropy) is worse
        assert (note in caplog.text) is worse
        assert ("lower --lr" in caplog.text) is worse
        caplog.clear()


def test_what_a_stop_keeps_is_read_from_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "o"
    assert kept(out) == f"nothing was written yet to {out}; the same command starts again"
    out.mkdir()
    (out / "run.json").write_text('{"kind": "train"}')
    assert kept(out).startswith("no checkpoint was written yet, so nothing of the run is kept")
    for step in (5, 12):
        (out / f"checkpoints/step-{step:09d}").mkdir(parents=True)
    goes_on = "the same command with --resume goes on"
    assert kept(out) == f"the checkpoint of step 12 is kept in {out}; {goes_on}"
    (out / "run.json").write_text('{"kind": "search"}')
    scores = out / "work/scores/0a1b2c3d"
    scores.mkdir(parents=True)
    for i in range(3):
        (scores / f"{i}.json").write_text("{}")
    assert kept(out) == f"3 trainings of candidates are kept in {out}; {goes_on}"
    (out / "run.json").write_text('{"kind": "compare"}')
    (out / "results.jsonl").write_text("{}\n{}\n")
    assert kept(out) == f"2 finished trainings are kept in {out}; the same command goes on"


STOPS = {"SIGTERM": (signal.SIGTERM, 143), "Ctrl-C": (signal.SIGINT, 130)}
NOTHING_KEPT = "nothing of this command is kept; the same command starts again\n"


@pytest.fixture(autouse=True)
def handlers_of_python() -> Iterator[None]:
    """TorchX, where an earlier test ran a job in this process, leaves handlers of its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def stop_by(name: str) -> Callable[..., Any]:
    """A function that lets this process be stopped, and never returns."""

    def stop(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), STOPS[name][0])
        raise AssertionError("the signal was ignored")

    return stop


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize(
    "words, module, function",
    [
        (["report", "RUN", "--out", "NEW"], "report.page", "write_page"),
        (["apply", "RUN/policy.json", "--strategy", "exact", "--out", "NEW"], "policy", "Policy"),
        (["plan", "RUN/policy.json", "--topology", "2xcpu", "--out", "NEW"], "plan", "plan_policy"),
        (["eval", "RUN", "DATA"], "recipes", "evaluate_served"),
        (["analyze", "collisions", "DATA", "--out", "NEW"], "analysis", "compare_encodings"),
        (["train", "DATA", "--method", "separate", "--out", "NEW"], "recipes", "method_policy"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_every_command_says_that_it_was_stopped(
    monkeypatch: pytest.MonkeyPatch,
    seo_rec: Command,
    chain: Path,
    tiny: Path,
    tmp_path: Path,
    stop: str,
    words: list[str],
    module: str,
    function: str,
) -> None:
    """Where no run folder is at work: nothing is left, and the sentence says so."""
    places = {"RUN": chain / "s", "DATA": tiny, "NEW": tmp_path / "new"}
    typed = [re.sub("RUN|DATA|NEW", lambda m: str(places[m[0]]), word) for word in words]
    place = importlib.import_module(f"seo_rec.{module}")
    monkeypatch.setattr(place, function, SimpleNamespace(load=stop_by(stop)))
    if function != "Policy":
        monkeypatch.setattr(place, function, stop_by(stop))
    done = seo_rec(*typed)
    assert done.code == STOPS[stop][1]
    assert f"stopped by {stop}: {NOTHING_KEPT}" in done.err and "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("stop", STOPS)
def test_a_stopped_preparation_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, seo_rec: Command, tmp_path: Path, stop: str
) -> None:
    monkeypatch.setattr(prepare, "write_vocabulary", stop_by(stop))
    done = seo_rec("prepare", "synthetic", "--rows", "500", "--out", tmp_path / "d")
    assert done.code == STOPS[stop][1]
    left = f"nothing is kept in {tmp_path / 'd'}; the same command starts again\n"
    assert f"stopped by {stop}: {left}" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", STOPS)
def test_a_stopped_demo_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, seo_rec: Command, tmp_path: Path, stop: str
) -> None:
    """While data are made, and between two trainings; it has no --resume, and does not name it."""
    out, demo = tmp_path / "d", ["demo", "--quick", "--threads", "1", "--out", tmp_path / "d"]
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_vocabulary", stop_by(stop))
        done = seo_rec(*demo)
    left = f"nothing was written yet to {out / 'compare'}; the same command starts again\n"
    assert (done.code, done.err.endswith(f"stopped by {stop}: {left}")) == (STOPS[stop][1], True)
    original, calls = comparing.train, list[str]()

    def second_one_stops(*given: Any, **named: Any) -> Any:
        calls.append(named["method"])
        return stop_by(stop)() if len(calls) == 2 else original(*given, **named)

    monkeypatch.setattr(comparing, "train", second_one_stops)
    done = seo_rec(*demo)
    left = f"1 finished training is kept in {out / 'compare'}; the same command goes on\n"
    assert (done.code, done.err.endswith(f"stopped by {stop}: {left}")) == (STOPS[stop][1], True)
    monkeypatch.setattr(comparing, "train", stop_by(stop))
    assert seo_rec(*demo).err.endswith(left)  # the one that is finished is not trained again
    options = json.loads((out / "compare/settings.json").read_text())
    assert options == {"command": "demo", "options": {"quick": True, "seed": 0, "threads": 1}}


def test_a_stopped_job_ends_with_the_status_of_its_command(
    monkeypatch: pytest.MonkeyPatch, seo_rec: Command, tiny: Path, tmp_path: Path
) -> None:
    """And does not go on with its next part."""
    monkeypatch.setattr(attention, "search_attention", stop_by("SIGTERM"))
    words = ["--data", tiny, "--search", tmp_path / "s", "--out", tmp_path / "t"]
    done = seo_rec("job-applier", *words)
    assert done.code == 143 and not (tmp_path / "t").exists()


@pytest.mark.parametrize("stop", ["SIGTERM", "Ctrl-C"])
def test_a_stop_says_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, seo_rec: Command, tiny: Path, tmp_path: Path, stop: str
) -> None:
    """And the status is that of a process ended by the signal; the run goes on afterwards."""
    from seo_rec import recipes
    from seo_rec.train import Preempted

    original, out = recipes.train, tmp_path / "t"
    errors = {"SIGTERM": Preempted("told to stop"), "Ctrl-C": KeyboardInterrupt()}

    def stopped(*given: Any, **named: Any) -> Any:
        original(*given, **named)
        raise errors[stop]

    monkeypatch.setattr(recipes, "train", stopped)
    words = ["--method", "separate", "--params", "1600", *QUICK]
    done = seo_rec("train", tiny, "--out", out, *words)
    assert done.code == {"SIGTERM": 143, "Ctrl-C": 130}[stop]
    assert re.search(
        rf"stopped by {stop}: the checkpoint of step \d+ is kept in {out}; the same command with "
        "--resume goes on\n",
        done.err,
    )
    monkeypatch.setattr(recipes, "train", original)
    assert seo_rec("train", tiny, "--out", out, *words, "--resume").code == 0
