"""The jobs' defaults and what a second run does; searching itself is a stand-in here."""

import pytest
import typer

from seo_rec import recipes
from seo_rec.cli import jobs
from seo_rec.data import synthetic
from seo_rec.policy import Feature, Lookup, Policy, Table

POLICY = Policy(
    tables=(Table("chunk0", 50, 8),),
    features=(Feature("f", (Lookup("chunk0", "hash", 7),), "concat"),),
)


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Records the work that is really done; an attempt that finds its result does none."""
    done = []

    def make(data, *, rows):
        done.append(("synthetic", str(data), rows))
        data.mkdir(parents=True)
        (data / "schema.json").touch()

    def search(data, out, settings, model_settings, fit_settings, run_off=None, *, resume=False):
        asked = {"data": str(data), "seo": vars(settings), "seed": fit_settings.seed}
        recipes.open_run(out, asked, resume)
        if (out / recipes.SEARCH_FILE).exists():
            return POLICY
        done.append(("search", str(data), str(out), fit_settings.seed))
        if fit_settings.seed == 13 and len(done) < 3:
            raise KeyboardInterrupt
        POLICY.save(out / recipes.POLICY_FILE)
        (out / recipes.SEARCH_FILE).touch()
        return POLICY

    monkeypatch.setattr(synthetic, "synthetic", make)
    monkeypatch.setattr(recipes, "search", search)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.chdir(tmp_path)
    return done


MADE = ("synthetic", "runs/torchx/data", 200_000)
SEARCHED = ("search", "runs/torchx/data", "runs/torchx/search", 0)


def test_without_arguments_everything_needed_is_made(calls, tmp_path):
    jobs.job_applier()
    assert calls == [MADE, SEARCHED]
    applied = Policy.load(tmp_path / "runs/torchx/applied/policy.json")
    assert applied.num_params > POLICY.num_params  # the budget of the search, no longer 50 rows


def test_a_second_run_does_nothing_and_says_so(calls, capsys):
    for _ in range(2):
        jobs.job_search()
        jobs.job_applier()
    assert calls == [MADE, SEARCHED]
    out = capsys.readouterr().out
    assert "the search in runs/torchx/search is complete" in out
    assert "runs/torchx/applied/policy.json is already there" in out


def test_the_applier_takes_a_complete_search_as_it_is(calls):
    jobs.job_search(seed=3, rows=5000)
    jobs.job_applier()
    assert calls == [
        ("synthetic", "runs/torchx/data-5000-rows", 5000),
        ("search", "runs/torchx/data-5000-rows", "runs/torchx/search", 3),
    ]


def test_an_interrupted_search_is_resumed(calls):
    with pytest.raises(KeyboardInterrupt):
        jobs.job_search(seed=13)
    jobs.job_search(seed=13)
    assert [call[0] for call in calls] == ["synthetic", "search", "search"]


def test_given_data_is_used(calls, tmp_path):
    jobs.job_search(data=tmp_path / "mine")
    assert calls == [("search", str(tmp_path / "mine"), "runs/torchx/search", 0)]


@pytest.mark.parametrize("job", [jobs.job_search, jobs.job_applier])
def test_another_search_in_the_same_folder_is_refused(calls, tmp_path, job):
    jobs.job_search()
    for other in ({"seed": 1}, {"data": tmp_path / "mine"}):
        with pytest.raises(recipes.RunError, match="another run"):
            job(**other)
    assert calls == [MADE, SEARCHED]


def test_another_policy_in_the_same_folder_is_refused(calls):
    jobs.job_applier()
    with pytest.raises(typer.BadParameter, match="choose another --out"):
        jobs.job_applier(strategy="round-robin")


def test_an_unknown_strategy_is_refused_before_any_work(calls):
    with pytest.raises(typer.BadParameter, match="allowed: exact, round-robin"):
        jobs.job_applier(strategy="robin")
    assert calls == []


def test_rows_of_a_given_data_set_are_refused(calls, tmp_path):
    with pytest.raises(typer.BadParameter, match="--rows"):
        jobs.job_search(data=tmp_path, rows=5)


def test_two_processes_are_refused(calls, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(typer.BadParameter, match="-j 1x1"):
        jobs.job_search()
    assert calls == []
