"""Plans that are given to a run on several ranks, or made for the machines that are there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distributed.test_fit import FIT, SMALL, TOLERANCE, TRAINING
from patience import PATIENCE
from seo_rec import recipes
from seo_rec.data.dataset import DataSet
from seo_rec.plan import PRESETS, PlanError, plan_policy, rates_of, read_topology
from seo_rec.train import (
    LaunchError,
    Ranks,
    Start,
    Training,
    launched,
    ranks,
    said_by_first,
    sharding,
)
from spawn import run_ranks, told

# ---- plans that do not fit --------------------------------------------------------------------


def refusals(data: DataSet, out: Path, plan: Path | None) -> list[tuple[str, str, float]]:
    policy = recipes.method_policy("multi-size", data, 1600)
    return run_ranks(
        lambda: told(lambda: recipes.train(data, policy, out, TRAINING, start=Start(plan))), 2
    )


def test_a_plan_for_another_world_is_refused(tiny_data: DataSet, tmp_path: Path) -> None:
    policy = recipes.method_policy("multi-size", tiny_data, 1600)
    plan = plan_policy(policy, read_topology("4xcpu"), batch_size=50, row_optimizer="adam")
    plan.save(tmp_path / "plan.json")
    first, second = refusals(tiny_data, tmp_path / "run", tmp_path / "plan.json")
    assert (first[0], second[0]) == ("PlanError", "OtherRankError")
    for _, text, seconds in (first, second):
        assert f"{tmp_path / 'plan.json'} is for 4 ranks on cpu; there are 2 on cpu" in text
        assert seconds < PATIENCE / 2


@pytest.mark.parametrize(
    "change, message",
    [
        ({"row_optimizer": "sgd"}, "is for row optimizer sgd, .*; this run has adam"),
        ({"local_size": 1}, "is for machines of 1 ranks; here a machine has 2 of 2"),
    ],
)
def test_a_plan_for_another_run_is_refused(
    tiny_data: DataSet, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    policy = recipes.method_policy("multi-size", tiny_data, 1600)
    plan = plan_policy(policy, read_topology("2xcpu"), batch_size=100, default=False)
    replace(plan, **change).save(tmp_path / "plan.json")
    here = Ranks(0, 2, 2)
    with pytest.raises(PlanError, match=message):
        sharding.check_plan(tmp_path / "plan.json", policy, FIT, here)
    first, second = refusals(tiny_data, tmp_path / "run", tmp_path / "plan.json")
    assert (first[0], second[0]) == ("PlanError", "OtherRankError")
    assert re.search(message, first[1]) and not (tmp_path / "run").exists()


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What sharding warned of."""
    said: list[str] = []
    monkeypatch.setattr(sharding.log, "warning", lambda text, *of: said.append(text % of))
    return said


def test_a_plan_for_another_batch_is_taken_with_a_warning(
    tiny_data: DataSet, tmp_path: Path, warned: list[str]
) -> None:
    policy = recipes.method_policy("multi-size", tiny_data, 1600)
    for rows, count in ((FIT.batch_size // 2, 0), (77, 1)):
        plan = plan_policy(policy, read_topology("2xcpu"), batch_size=rows, default=False)
        plan.save(tmp_path / "plan.json")
        arguments = policy, FIT, tmp_path / "plan.json", None, Ranks(0, 2, 2)
        assert sharding._placements(*arguments) == plan.placements
        assert len(warned) == count
    assert "made for batches of 77 rows a rank; this run has 100" in warned[0]


def test_a_plan_that_is_made_knows_the_run(
    tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optimizer, L2, rows of a rank and the data's ids per bag reach the planner."""
    policy = recipes.method_policy("multi-size", tiny_data, 1600)
    asked: list[dict[str, Any]] = []

    def noted(*_: Any, **options: Any) -> Any:
        asked.append(options)
        return plan_policy(*_, **options)

    monkeypatch.setattr(sharding, "plan_policy", noted)
    wanted = replace(FIT, epochs=1, row_optimizer="adagrad", row_l2=0.1)

    def on_rank() -> list[dict[str, Any]]:
        recipes.train(tiny_data, policy, tmp_path / "run", Training(SMALL, wanted))
        return asked

    (options,), _ = run_ranks(on_rank, 2)
    assert options == {
        "batch_size": FIT.batch_size // 2,
        "row_optimizer": "adagrad",
        "rates": rates_of(tiny_data.schema),
        "row_l2": 0.1,
        "copyable": True,
        "default": False,
        "compute_kernels": ("fused",),
        "storage": "float32",
    }
    assert len(set(options["rates"].values())) > 1


# ---- the machines that are there --------------------------------------------------------------


@pytest.mark.parametrize(
    "gpu, memory, expected",
    [
        ("NVIDIA L4", 24e9, "L4-24GB"),
        ("NVIDIA H100 80GB HBM3", 85e9, "H100-80GB"),
        ("NVIDIA A100-SXM4-40GB", 42e9, "A100-40GB"),
        ("NVIDIA A100-SXM4-80GB", 85e9, "A100-80GB"),
        ("Tesla V100-SXM2-16GB", 17e9, "V100-32GB"),
        ("NVIDIA L40S", 48e9, ""),
        ("NVIDIA GeForce RTX 4090", 25e9, ""),
    ],
)
def test_a_gpu_is_planned_for_as_what_it_is(
    gpu: str,
    memory: float,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    warned: list[str],
) -> None:
    found = SimpleNamespace(name=gpu, total_memory=int(memory))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: found)
    here = Ranks(0, 8, 4, torch.device("cuda", 0))
    topology = sharding.topology_here(here)
    preset = PRESETS[expected or sharding.UNKNOWN_GPU]
    assert topology.lookup_bandwidth == preset.lookup_bandwidth
    assert (topology.memory_bytes, topology.local_size, topology.nodes) == (int(memory), 4, 2)
    assert [f"GPU '{gpu}' is no preset" in text for text in warned] == [True] * (not expected)


def test_processes_share_the_memory_of_their_machine() -> None:
    one, four = (sharding.topology_here(Ranks(0, n, n)) for n in (1, 4))
    assert one.memory_bytes // 4 == four.memory_bytes > 0


def test_processes_that_share_a_core_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = {"few": {0, 1}, "enough": set(range(8))}
    ms = {}
    for name, found in cores.items():
        monkeypatch.setattr("os.sched_getaffinity", lambda _, found=found: found)
        ms[name] = [sharding.topology_here(Ranks(0, n, n)).exchange_ms for n in (1, 2, 4)]
    once = PRESETS["cpu"].exchange_ms
    assert ms == {"few": [once, once, 4 * once], "enough": [once] * 3}


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "2")
    for name, value in (("RANK", "2"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    message = "process 2 of this machine finds 2 GPUs; allowed: one"
    with pytest.raises(LaunchError, match=message), launched():
        pass


def test_a_plan_for_this_world_is_taken(tiny_data: DataSet, tmp_path: Path) -> None:
    policy = recipes.method_policy("multi-size", tiny_data, 1600)
    plan = plan_policy(policy, read_topology("2xcpu"), batch_size=100, row_optimizer="adam")
    plan.save(tmp_path / "plan.json")
    plans = (None, tmp_path / "plan.json")

    def on_rank() -> list[float]:
        wanted = Training(SMALL, replace(FIT, epochs=1))
        outs = (tmp_path / str(i) for i in range(2))
        return [
            recipes.train(tiny_data, policy, out, wanted, start=Start(plan)).test_auc
            for out, plan in zip(outs, plans, strict=True)
        ]

    (own, given), _ = run_ranks(on_rank, 2)
    assert own == pytest.approx(given, abs=TOLERANCE)


def test_a_failing_planner_ends_all_ranks_with_its_message(
    tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planner runs on the first rank alone; the others must not wait for a plan for ever."""

    def failing(*_: Any, **__: Any) -> Any:
        raise PlanError("table 'chunk0' is short by 12 bytes on rank 1")

    monkeypatch.setattr(sharding, "plan_policy", failing)
    first, second = refusals(tiny_data, tmp_path / "run", None)
    assert (first[0], second[0]) == ("PlanError", "OtherRankError")
    for _, text, seconds in (first, second):
        assert "table 'chunk0' is short by 12 bytes on rank 1" in text
        assert seconds < PATIENCE / 2


@pytest.mark.parametrize(
    "ending, silent",
    [
        (("alike", "alike"), [False, True]),
        (("mine", "another"), [False, False]),
        ((None, "mine"), [None, False]),
    ],
)
def test_the_first_rank_says_what_all_ranks_say(
    ending: tuple[str | None, ...], silent: list[bool | None]
) -> None:
    """And what it does not say, because it goes on or says something else, the other one does."""

    def on_rank() -> bool | None:
        here = ranks()
        message = ending[here.rank]
        return None if message is None else said_by_first(here, message, 0.5)

    assert run_ranks(on_rank, 2) == silent
