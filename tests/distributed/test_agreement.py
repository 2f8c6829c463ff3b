"""Processes that were told different things all end with the same sentence, and write nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seo_rec import recipes
from seo_rec.cli.main import app
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.model import ModelSettings
from seo_rec.plan import plan_policy, read_topology
from seo_rec.schema import SCHEMA_FILE
from seo_rec.search import find
from seo_rec.train import DisagreementError, FitSettings, Start, Training, agreement, ranks
from spawn import run_ranks
from typed import typed

SMALL = ModelSettings(hidden=(8,))
FIT = FitSettings(epochs=1, batch_size=200, row_lr=0.02, dense_lr=0.02)
SAME_OPTIONS = "; start all ranks with the same options"


def refused(fn: Callable[[bool], Any], world: int = 2) -> str:
    """The sentence that all ranks end with; ``fn`` is told whether it runs on the last rank."""

    def on_rank() -> str:
        here = ranks()
        try:
            fn(here.rank == here.world_size - 1)
        except DisagreementError as error:
            return str(error)
        return "agreed"

    (message,) = set(run_ranks(on_rank, world))
    return message


def trained(data: DataSet, out: Path, params: int = 1600, **changes: Any) -> Any:
    policy = recipes.method_policy("multi-size", data, params)
    return recipes.train(data, policy, out, Training(SMALL, replace(FIT, **changes)))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"row_lr": 0.5}, "rank 1 has fit.row_lr 0.5 and rank 0 has 0.02"),
        ({"batch_size": 100}, "rank 1 has fit.batch_size 100 and rank 0 has 200"),
        ({"batch_size": 101}, "rank 1 has fit.batch_size 101 and rank 0 has 200"),
        ({"epochs": 3}, "rank 1 has fit.epochs 3 and rank 0 has 1"),
        ({"seed": 3}, "rank 1 has fit.seed 3 and rank 0 has 0"),
    ],
)
def test_other_settings_of_a_training(
    tiny_data: DataSet, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    out = tmp_path / "run"
    assert refused(lambda last: trained(tiny_data, out, **changes if last else {})) == (
        message + SAME_OPTIONS
    )
    assert not out.exists()


def test_another_budget_is_named_before_the_policy_that_follows(
    tiny_data: DataSet, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    message = refused(lambda last: trained(tiny_data, out, 3200 if last else 1600))
    assert message.startswith("rank 1 has params 3200 and rank 0 has 1600, rank 1 has policy.")
    assert message.endswith(SAME_OPTIONS) and not out.exists()


def test_another_plan_and_another_folder(tiny_data: DataSet, tmp_path: Path) -> None:
    policy = recipes.method_policy("multi-size", tiny_data, 1600)
    plans = tmp_path / "0.json", tmp_path / "1.json"
    for path, rows in zip(plans, (100, 50), strict=True):
        plan_policy(policy, read_topology("2xcpu"), batch_size=rows, row_optimizer="adam").save(
            path
        )

    def with_plan(last: bool) -> Any:
        start = Start(plans[last])
        return recipes.train(tiny_data, policy, tmp_path / "run", Training(SMALL, FIT), start=start)

    assert refused(with_plan).startswith("rank 1 has plan (SHA-256 ")
    message = refused(lambda last: trained(tiny_data, tmp_path / ("b" if last else "a")))
    assert message == f"rank 1 has out {tmp_path / 'b'} and rank 0 has {tmp_path / 'a'}" + (
        SAME_OPTIONS
    )
    assert {p.name for p in tmp_path.iterdir()} == {"0.json", "1.json"}


def test_other_data(tiny_data: DataSet, tmp_path: Path) -> None:
    """Prepared from other files under the same columns; the folder may have another name."""
    policy = recipes.method_policy("multi-size", tiny_data, 1600)
    copy, other = tmp_path / "copy", tmp_path / "other"
    for folder in (copy, other):
        shutil.copytree(tiny_data.path, folder)
    document = json.loads((other / SCHEMA_FILE).read_text())
    document.pop("sha256")  # of the content that is now edited
    (other / SCHEMA_FILE).write_text(json.dumps({**document, "dataset": "other"}))
    prints = [open_data(folder).fingerprint for folder in (tiny_data.path, copy, other)]
    assert prints[0] == prints[1] != prints[2]

    def with_data(last: bool, folder: Path) -> Any:
        data = open_data(folder) if last else tiny_data
        return recipes.train(data, policy, tmp_path / "run", Training(SMALL, FIT))

    message = refused(lambda last: with_data(last, other))
    assert f'rank 1 has data_fingerprint "{prints[2]}" and rank 0 has "{prints[0]}"' in message
    assert message.endswith(SAME_OPTIONS) and not (tmp_path / "run").exists()
    assert refused(lambda last: with_data(last, copy)) == "agreed"


@pytest.mark.parametrize("name", ["seo_rec", "torch", "torchrec", "fbgemm", "seo_rec's code"])
def test_another_version(tiny_data: DataSet, tmp_path: Path, name: str) -> None:
    there = agreement._versions()
    key = f"version of {name}"
    assert there[key] not in ("", "nothing")

    def with_another(last: bool) -> Any:
        if last:
            agreement._versions = lambda: {**there, key: "9.9"}
        return trained(tiny_data, tmp_path / "run")

    assert refused(with_another, world=3) == (
        f"rank 2 has {key} 9.9 and rank 0 has {there[key]}; install the same on all machines"
    )
    assert not (tmp_path / "run").exists()


def test_searches_comparisons_and_evaluations_agree_first(
    tiny_data: DataSet, tmp_path: Path
) -> None:
    training = Training(SMALL, FIT)

    def searched(last: bool) -> Any:
        settings = find("optembed").settings_at(3200 if last else 1600, 16, training)
        return recipes.search("optembed", tiny_data, tmp_path / "s", settings, training)

    def compared(last: bool) -> Any:
        seeds = 2 if last else 1
        wanted = recipes.Comparison((tiny_data,), ("monolithic",), 1600, 16, seeds)
        return recipes.compare(replace(wanted, training=training), tmp_path / "c")

    def plotted(last: bool) -> Any:
        wanted = recipes.Comparison((tiny_data,), ("monolithic",), 1600, 16, 1, training=training)
        return recipes.frontier(wanted, (3200, 1600) if last else (3200,), tmp_path / "f")

    def evaluated(last: bool) -> Any:
        return recipes.evaluate_served(tmp_path / "e", tiny_data, "val" if last else "test").metrics

    def otherwise(last: bool) -> Any:
        return searched(last) if last else compared(last)

    assert "settings.params 3200 and rank 0 has 1600" in refused(searched)
    assert refused(compared) == "rank 1 has seeds 2 and rank 0 has 1" + SAME_OPTIONS
    assert "rank 1 has budgets [3200, 1600] and rank 0 has [3200]" in refused(plotted)
    assert refused(evaluated) == 'rank 1 has split "val" and rank 0 has "test"' + SAME_OPTIONS
    assert "kind" in refused(otherwise) or "more" in refused(otherwise)
    assert not list(tmp_path.iterdir())


def test_another_command(tiny_data: DataSet, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    out, data = str(tmp_path / "run"), str(tiny_data.path)
    commands = ["demo", "--out", out], ["search", data, "--out", out]
    assert refused(lambda last: app(commands[last], standalone_mode=False)) == (
        'rank 1 has command "search" and rank 0 has "demo"' + SAME_OPTIONS
    )
    assert not list(tmp_path.iterdir())


def test_the_message_groups_ranks_and_counts_what_it_does_not_name() -> None:
    same = dict.fromkeys("abcde", "1")
    odd = dict.fromkeys("abcde", "2")
    assert agreement.disagreement([same, same]) == ""
    assert agreement.disagreement([same, odd, same, odd]) == (
        "ranks 1, 3 have a 2 and rank 0 has 1, ranks 1, 3 have b 2 and rank 0 has 1, "
        "ranks 1, 3 have c 2 and rank 0 has 1 and 2 more" + SAME_OPTIONS
    )
    assert agreement.disagreement([{}, {"x": "1"}]) == (
        "rank 1 has x 1 and rank 0 has nothing" + SAME_OPTIONS
    )


def test_every_rank_says_it_and_ends_with_2(tiny_data: DataSet, tmp_path: Path) -> None:
    """They may be on several machines, each with a terminal of its own."""
    out = tmp_path / "run"
    command = ["train", str(tiny_data.path), "--method", "monolithic", "--params", "1600"]
    command += ["--batch-size", "32", "--l2", "0", "--out", str(out), "--lr"]
    with typed([[*command, "0.001"], [*command, "0.002"]], tmp_path) as launch:
        assert launch.ended() == [2, 2]
    (line,), (same,) = launch.said(0), launch.said(1)
    assert line == same and line.endswith(SAME_OPTIONS) and not out.exists()
    assert line.startswith("error: rank 1 has fit.") and "0.002 and rank 0 has 0.001" in line


@pytest.mark.parametrize("here", ["1", "2"])
def test_a_mistake_of_all_is_said_on_every_machine(
    tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str
) -> None:
    """Each of two ranks on a machine of its own, or both on one."""
    command = ["train", str(tiny_data.path), "--out", str(tmp_path / "run"), "--l2", "-1"]

    def on_machines() -> None:
        if here == "1":
            monkeypatch.setenv("LOCAL_RANK", "0")
        app(command, standalone_mode=False)

    monkeypatch.setattr("seo_rec.cli.main._run", on_machines)
    with typed([command] * 2, tmp_path, LOCAL_WORLD_SIZE=here) as launch:
        assert launch.ended() == [2, 2]
    (line,) = launch.said(0)
    assert line.startswith("error: ") and "-1" in line
    elsewhere = [f"error: rank 0 says: {line.removeprefix('error: ')}"]
    assert launch.said(1) == (elsewhere if here == "1" else [])
