"""``fit``, searches and comparisons on several ranks are those of one process, and never hang."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distributed.interrupted import Terminated, build, on_ranks, run, settings, share, stop, train
from distributed.sharded import MODEL, Trained, policy_of
from patience import PATIENCE
from seo_rec import recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.stream import Stream
from seo_rec.metrics import binary_metrics
from seo_rec.model import ModelSettings, build_model
from seo_rec.plan import PRESETS, PlanError, plan_policy, rates_of, read_topology
from seo_rec.search.run_off import RunOff
from seo_rec.search.seo import SeoSearch, search_attention
from seo_rec.train import (
    FitSettings,
    LaunchError,
    Preempted,
    Ranks,
    Start,
    Training,
    evaluate,
    launched,
    loop,
    ranks,
    said_by_first,
    sharding,
    steps,
)
from spawn import run_ranks

TOLERANCE = 1e-6


def assert_close(found: Trained, expected: Trained) -> None:
    assert len(found.losses) == len(expected.losses) > 0
    assert found.losses == pytest.approx(expected.losses, abs=TOLERANCE)
    for name, weight in expected.weights.items():
        torch.testing.assert_close(found.weights[name], weight, atol=TOLERANCE, rtol=0)
    for key in ("auc", "log_loss", "num_rows"):
        assert found.val[key] == pytest.approx(expected.val[key], abs=TOLERANCE)


def assert_equal(found: Trained, expected: Trained) -> None:
    assert (found.losses, found.val) == (expected.losses, expected.val)
    assert all(torch.equal(found.weights[n], w) for n, w in expected.weights.items())


# ---- metrics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("world, batch_size", [(2, 20), (3, 99), (4, 100)])
def test_metrics_are_those_of_the_merged_scores(
    tiny_data: DataSet, world: int, batch_size: int
) -> None:
    """Also where the last batch has fewer rows than ranks: 102 rows in batches of 100."""
    model = build_model(policy_of(tiny_data), tiny_data.num_numeric, MODEL, 0)
    expected, z, y = evaluate(model, Stream(tiny_data, "val", batch_size=batch_size))

    def on_rank() -> Any:
        return evaluate(model, share(tiny_data, "val", batch_size))

    for metrics, scores, labels in run_ranks(on_rank, world):
        assert np.array_equal(labels, y)  # in the order of the stream
        np.testing.assert_allclose(scores, z, atol=TOLERANCE)
        assert metrics == binary_metrics(scores, labels)  # exact: no mean of the ranks' metrics
        assert metrics.num_rows == expected.num_rows == 102
        assert metrics.auc == pytest.approx(expected.auc, abs=1e-12)
        assert metrics.log_loss == pytest.approx(expected.log_loss, abs=TOLERANCE)


# ---- batches that do not share out evenly -----------------------------------------------------


def batch_size_with_rest(data: DataSet, world: int, rest: int) -> int:
    """A batch size that ``world`` ranks can share and that leaves ``rest`` rows to the last."""
    rows = data.schema.num_rows["train"]
    return next(b for b in range(60, rows) if b % world == 0 and rows % b == rest)


@pytest.mark.parametrize(
    "optimizer, world, rest",
    [
        ("adam", 2, 3),
        ("adagrad", 3, 1),
        pytest.param("adam", 4, 7, marks=pytest.mark.slow),
    ],
)
def test_uneven_last_batches(
    tiny_data: DataSet, tmp_path: Path, optimizer: str, world: int, rest: int
) -> None:
    """Some ranks have a row less than others, or none at all; the loss is the mean over rows."""
    size = batch_size_with_rest(tiny_data, world, rest)
    wanted = settings(optimizer, batch_size=size, epochs=1, max_steps=0)
    expected = train(tiny_data, wanted, "", 1, tmp_path / "one")
    assert_close(train(tiny_data, wanted, "mixed", world, tmp_path / "many"), expected)


@pytest.fixture(scope="module")
def gaps(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """As ``tiny``, but three rows alone have ids in their bag, so that most batches have none."""
    out = tmp_path_factory.mktemp("gaps") / "data"
    shutil.copytree(tiny, out)
    for split in ("train", "val"):
        (path,) = (out / split).iterdir()
        table = pq.read_table(path)
        at = table.column_names.index("bag_0")
        bags = table.column("bag_0").to_pylist()
        filled = [bag * 2 if i in (5, 40, 77) else [] for i, bag in enumerate(bags)]
        column = pa.array(filled, table.schema.field(at).type)
        pq.write_table(table.set_column(at, table.schema.field(at), column), path)
    schema = json.loads((out / "schema.json").read_text())
    del schema["sha256"], schema["files"]  # an edit, not damage
    (out / "schema.json").write_text(json.dumps(schema))
    return open_data(out)


@pytest.mark.parametrize("kind", ["mixed", "row_wise", "one_rank"])
def test_empty_bags_and_a_feature_empty_in_whole_batches(
    gaps: DataSet, tmp_path: Path, kind: str
) -> None:
    batches = [b.sparse["bag_0"].values().numel() for b in Stream(gaps, "train", batch_size=60)]
    assert batches.count(0) > len(batches) / 2 and any(batches)
    wanted = settings("adagrad", batch_size=60)
    expected = train(gaps, wanted, "", 1, tmp_path / "one")
    assert_close(train(gaps, wanted, kind, 2, tmp_path / "two"), expected)


@pytest.fixture(scope="module")
def few(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """As ``tiny``, but three rows to train on and two, of both labels, to score."""
    out = tmp_path_factory.mktemp("few") / "data"
    shutil.copytree(tiny, out)
    schema = json.loads((out / "schema.json").read_text())
    del schema["sha256"], schema["files"]  # an edit, not damage
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        (path,) = (out / split).iterdir()
        table = pq.read_table(path)
        labels = table.column(schema["label"]).to_numpy()
        first_of_each = [int((labels == label).argmax()) for label in (0, 1)]
        pq.write_table(table.take([*first_of_each, len(table) - 1][:count]), path)
        schema["num_rows"][split] = count
    (out / "schema.json").write_text(json.dumps(schema))
    return open_data(out)


@pytest.mark.parametrize("kind", ["mixed", "row_wise", "one_rank"])
def test_a_rank_without_any_row_takes_part(few: DataSet, tmp_path: Path, kind: str) -> None:
    """Of four ranks one never trains on a row, and two never score one."""
    shares = [
        [
            sum(b.num_rows for b in Stream(few, s, batch_size=3, rank=r, world_size=4))
            for r in range(4)
        ]
        for s in ("train", "val")
    ]
    assert [sorted(share) for share in shares] == [[0, 1, 1, 1], [0, 0, 1, 1]]
    wanted = settings("adagrad", batch_size=12, epochs=3, patience=3)
    expected = train(few, wanted, "", 1, tmp_path / "one")
    assert len(set(expected.losses)) == 3  # it learns
    assert_close(train(few, wanted, kind, 4, tmp_path / "four"), expected)


def test_a_recipe_ends_where_a_rank_has_no_row(few: DataSet, tmp_path: Path) -> None:
    policy = recipes.method_policy("multi-size", few, 1600)
    training = Training(SMALL, replace(FIT, batch_size=12))
    one = recipes.train(few, policy, tmp_path / "one", training)
    for four in run_ranks(lambda: recipes.train(few, policy, tmp_path / "four", training), 4):
        assert (four.test_auc, four.val_auc) == (one.test_auc, one.val_auc)
        assert four.test_logloss == pytest.approx(one.test_logloss, abs=TOLERANCE)


def test_a_batch_that_ranks_cannot_share_is_refused(tiny_data: DataSet) -> None:
    with pytest.raises(Exception, match=r"batch_size is 121.*multiples of 2"):
        run_ranks(lambda: run(tiny_data, settings(batch_size=121), "mixed", None), 2)


def test_many_runs_in_one_launch_leave_nothing_open(tiny_data: DataSet, tmp_path: Path) -> None:
    """A comparison trains hundreds of models in the same processes."""

    def on_rank() -> list[int]:
        counts = []
        for i in range(4):
            run(tiny_data, settings(max_steps=2), "mixed", tmp_path / str(i))
            counts.append(len(os.listdir("/proc/self/fd")) + threading.active_count())
        return counts

    for counts in run_ranks(on_rank, 2):
        assert len(set(counts[1:])) == 1, counts


# ---- searches ---------------------------------------------------------------------------------

SMALL = ModelSettings(hidden=(8,))
FIT = FitSettings(epochs=2, batch_size=200, row_lr=0.02, dense_lr=0.02, log_every=1)
TRAINING = Training(SMALL, FIT)
OFF = RunOff(epochs=1, chunk_dims=(8,), trivial_lookups=(2, 4), cost=0)
SEO = SeoSearch(budget_rows=100, logit_lr=0.05, run_off=OFF)


@pytest.mark.parametrize(
    "options",
    [
        {"search_split": "train", "temperature_end": 0.5},
        {"search_split": "held-out", "use_down_projection": True},
    ],
    ids=["train", "held-out-projected"],
)
def test_a_search_on_ranks_is_that_of_one_process(
    tiny_data: DataSet, tmp_path: Path, options: dict[str, Any]
) -> None:
    wanted = replace(SEO.attention, **options)

    def found(world: int) -> list[Any]:
        out = tmp_path / str(world)
        return on_ranks(
            lambda: search_attention(tiny_data, wanted, TRAINING, out, reads_test_rows=True), world
        )

    (one,) = found(1)
    assert float(one.alpha.max()) > 1.05 / one.alpha.numel()  # the logits have moved
    for on_rank in found(2):
        torch.testing.assert_close(on_rank.alpha, one.alpha, atol=TOLERANCE, rtol=0)
        assert on_rank.val_auc == pytest.approx(one.val_auc, abs=TOLERANCE)
        assert on_rank.test_auc == pytest.approx(one.test_auc, abs=TOLERANCE)
    again = found(2)  # from its files
    assert [float(s.val_auc) for s in again] == [float(again[0].val_auc)] * 2


@pytest.mark.slow
def test_a_run_off_on_ranks_chooses_what_one_process_chooses(
    tiny_data: DataSet, tmp_path: Path
) -> None:
    def policies(world: int) -> list[Any]:
        out = tmp_path / str(world)
        search = recipes.search
        return on_ranks(lambda: search("seo", tiny_data, out, SEO, TRAINING).policy, world)

    (one,) = policies(1)
    assert policies(2) == [one, one]
    records = [json.loads((tmp_path / w / "search.json").read_text()) for w in ("1", "2")]
    assert records[0]["winner"] == records[1]["winner"]
    one_process, two = (r["record"]["run_off"] for r in records)
    assert one_process.keys() == two.keys()
    for name, scores in one_process.items():
        for key, value in scores.items():
            if key != "seconds":
                assert two[name][key] == pytest.approx(value, abs=TOLERANCE)


def test_a_comparison_on_ranks_agrees_with_one_process(tiny_data: DataSet, tmp_path: Path) -> None:
    asked = recipes.Comparison(
        data=(tiny_data,),
        methods=("separate", "seo-rr"),
        params=1600,
        seeds=1,
        training=Training(SMALL, replace(FIT, epochs=1)),
        settings={"seo": {"logit_lr": 0.05}},
    )

    def runs(world: int) -> list[Any]:
        return on_ranks(lambda: recipes.compare(asked, tmp_path / str(world)), world)

    (one,) = runs(1)
    two = runs(2)
    assert two[0] == two[1]
    assert len((tmp_path / "2/results.jsonl").read_text().splitlines()) == 2  # rank 0 alone writes
    for a, b in zip(one, two[0], strict=True):
        assert (a.method, a.seed, a.embedding_params, a.policy, a.steps) == (
            b.method,
            b.seed,
            b.embedding_params,
            b.policy,
            b.steps,
        )
        for key in ("val_auc", "val_logloss", "test_auc", "test_logloss", "test_calibration"):
            assert getattr(b, key) == pytest.approx(getattr(a, key), abs=TOLERANCE), key
    assert runs(2)[0] == two[0]  # done once


# ---- TorchRec's pipelines ---------------------------------------------------------------------


@pytest.fixture
def overlapping(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CUDA gets: batches worked ahead, and losses looked at every few steps."""

    def make_steps(model: Any, optimizers: Any, here: Any, alone: bool, clip_norm: float) -> Any:
        assert alone and not clip_norm
        return steps.PipelinedSteps(model, optimizers, here, overlap=True)

    class Fit(loop._Fit):
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            self.sync_every = 4

    monkeypatch.setattr(loop, "make_steps", make_steps)
    monkeypatch.setattr(loop, "_Fit", Fit)


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_overlapping_steps_are_the_plain_steps(tiny_data: DataSet, optimizer: str) -> None:
    """TrainPipelineSparseDist sends the next batch while this one is trained on, on CPU too."""

    def on_rank() -> tuple[list[list[tuple[float, int]]], set[str]]:
        pipelined: set[str] = set()
        progress = steps.TrainPipelineSparseDist.progress

        def watched(self: Any, source: Any) -> Any:
            done = progress(self, source)
            pipelined.update(type(m).__name__ for m in self._pipelined_modules)
            pipelined.update(type(m).__name__ for m in self._pipelined_postprocs)
            return done

        steps.TrainPipelineSparseDist.progress = watched
        found = []
        for overlap in (False, True):
            model, optimizers = build(tiny_data, settings(optimizer), "mixed")
            stepping = steps.PipelinedSteps(model, optimizers, ranks(), overlap)
            stream = share(tiny_data, "train", 120)
            taken = [s for _ in range(2) for s in stepping(stream)]  # two epochs
            found.append([(float(s.loss), s.rows) for s in taken])
        return found, pipelined

    for (plain, overlapped), pipelined in run_ranks(on_rank, 2):
        assert plain == overlapped and len(plain) == 18
        assert pipelined == {"ShardedEmbeddingBagCollection", "PipelinedPostproc"}


def test_a_run_of_overlapping_steps_is_the_plain_run(
    tiny_data: DataSet, tmp_path: Path, overlapping: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With checkpoints and the end within an epoch, evaluation between, SIGTERM and resume.

    The pipeline has taken batches from the stream that it has not trained on.
    """
    wanted = settings("adagrad", checkpoint_every=5)
    overlapped = train(tiny_data, wanted, "mixed", 2, tmp_path / "overlapped")
    stop(tiny_data, wanted, "mixed", 2, tmp_path / "stopped", 3, seen=4)
    resumed = train(tiny_data, wanted, "mixed", 2, tmp_path / "stopped")
    monkeypatch.undo()
    plain = train(tiny_data, wanted, "mixed", 2, tmp_path / "plain")
    assert_equal(overlapped, plain)
    assert_equal(resumed, plain)


# ---- SIGTERM ----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 11])
def test_sigterm_saves_first_and_the_resume_goes_on_to_the_bit(
    tiny_data: DataSet, tmp_path: Path, step: int
) -> None:
    wanted = settings("adam", average=0.0)
    stop(tiny_data, wanted, "column_wise", 2, tmp_path / "run", step)
    assert [int(p.name[5:]) for p in (tmp_path / "run/checkpoints").iterdir()][-1:] == [step]
    undisturbed = train(tiny_data, wanted, "column_wise", 2, tmp_path / "whole")
    assert_equal(train(tiny_data, wanted, "column_wise", 2, tmp_path / "run"), undisturbed)


def test_sigterm_at_the_end_of_an_epoch_waits_for_its_evaluation(
    tiny_data: DataSet, tmp_path: Path
) -> None:
    def on_rank() -> str:
        with pytest.raises(Preempted) as stopped:
            run(tiny_data, settings("adam"), "mixed", tmp_path, Terminated(9))
        return str(stopped.value)

    for said in run_ranks(on_rank, 2):
        assert said == "SIGTERM at step 10; a checkpoint was written, --resume goes on"
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "epoch"] == [9]


def test_sigterm_without_a_folder_saves_nothing(tiny_data: DataSet) -> None:
    def on_rank() -> str:
        with pytest.raises(Preempted) as stopped:
            run(tiny_data, settings("adam"), "mixed", None, Terminated(2))
        return str(stopped.value)

    assert run_ranks(on_rank, 2) == ["SIGTERM at step 2; nothing of this training was saved"] * 2


# ---- plans that do not fit --------------------------------------------------------------------


def told(action: Callable[[], Any]) -> tuple[str, str, float]:
    """Type and text of what ``action`` raised, and after how many seconds."""
    started = time.monotonic()
    try:
        action()
    except Exception as error:
        return type(error).__name__, str(error), time.monotonic() - started
    return "", "", time.monotonic() - started


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
