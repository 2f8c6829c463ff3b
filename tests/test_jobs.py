"""The jobs' defaults, what a second run does, and that further options arrive."""

import json
import os

import pytest

from seo_rec.cli.jobs import ROOT, _suited
from seo_rec.cli.main import app

SMALL = ["--rows", "4000"]
SEARCH = ["--epochs", "1", "--set", "run_off.epochs=1", "--params", "4800", "--batch-size", "512"]
TRAIN = ["--epochs", "1", "--batch-size", "512"]


def run(*arguments):
    app(list(arguments), standalone_mode=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which both jobs ran."""
    place = tmp_path_factory.mktemp("jobs")
    before = os.getcwd()
    os.chdir(place)
    try:
        run("job-search", *SMALL, *SEARCH)
        run("job-applier", *TRAIN)
        yield place
    finally:
        os.chdir(before)


def test_the_applier_uses_the_search_and_its_data(folder):
    asked = json.loads((folder / ROOT / "applier/run.json").read_text())
    assert asked["data"] == str(folder / ROOT / "planted-4000")
    assert json.loads((folder / ROOT / "applier/result.json").read_text())["embedding_params"] == (
        300 * 16
    )


def test_further_options_arrive(folder):
    assert (
        json.loads((folder / ROOT / "search/run.json").read_text())["settings"]["budget_rows"]
        == 300
    )


def test_options_that_suit_the_made_up_data_give_way():
    """Each to the same option, the budget to any budget, and all of them to a file of settings."""
    plain = ["--params", "4800", "--batch-size", "512", "--lr", "0.004", "--l2", "0.003"]
    assert _suited([], search=True) == [*plain, "--epochs", "12", "--threads", "1"]
    assert _suited(["--bytes", "9k", "--lr=1e-3"], search=True) == [
        *("--batch-size", "512", "--l2", "0.003", "--epochs", "12", "--threads", "1")
    ]
    assert _suited(["--epochs", "1"], search=False) == [*plain[2:], "--threads", "1"]
    assert _suited(["--config", "mine.json"], search=True) == []


def test_the_applier_is_trained_as_the_search_was(folder):
    searched, applied = (
        json.loads((folder / ROOT / job / "run.json").read_text())["fit"]
        for job in ("search", "applier")
    )
    names = ("row_lr", "dense_lr", "row_l2", "batch_size", "epochs")
    assert [applied[n] for n in names] == [searched[n] for n in names] == [4e-3, 4e-3, 3e-3, 512, 1]


def test_a_second_run_does_nothing(folder):
    def state():
        return {p: p.stat().st_mtime_ns for p in folder.rglob("*.distcp")}

    before = state()
    run("job-search", *SMALL, *SEARCH)
    run("job-applier", *TRAIN)
    assert state() == before


def test_another_request_in_a_used_folder_is_refused(folder):
    with pytest.raises(RuntimeError, match="holds another run"):
        run("job-search", *SMALL, "--epochs", "2")


def test_an_unknown_strategy_is_refused(folder):
    with pytest.raises(ValueError, match="allowed: exact, round-robin"):
        run("job-applier", "--strategy", "best")


def test_many_processes_are_refused_where_one_does_the_work(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were started and doctor runs in one"):
        run("doctor")
