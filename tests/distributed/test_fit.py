"""``fit``, searches and comparisons on several ranks are those of one process, and never hang."""

from __future__ import annotations

import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from at_length import at_length
from distributed.interrupted import Terminated, build, on_ranks, run, settings, share, stop, train
from distributed.sharded import MODEL, Trained, policy_of
from seo_rec import recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.stream import Stream
from seo_rec.metrics import binary_metrics
from seo_rec.model import ModelSettings, build_model
from seo_rec.search.run_off import RunOff
from seo_rec.search.seo import SeoSearch, search_attention
from seo_rec.train import (
    FitSettings,
    Preempted,
    Training,
    evaluate,
    loop,
    ranks,
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


@pytest.mark.parametrize("kind", at_length(["mixed", "row_wise", "one_rank"], ["mixed"]))
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


@pytest.mark.slow
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


def test_sigterm_saves_first_and_the_resume_goes_on_to_the_bit(
    tiny_data: DataSet, tmp_path: Path
) -> None:
    wanted = settings("adam", average=0.0)
    undisturbed = train(tiny_data, wanted, "column_wise", 2, tmp_path / "whole")
    for step in (1, 11):
        out = tmp_path / str(step)
        stop(tiny_data, wanted, "column_wise", 2, out, step)
        assert [int(p.name[5:]) for p in (out / "checkpoints").iterdir()][-1:] == [step]
        assert_equal(train(tiny_data, wanted, "column_wise", 2, out), undisturbed)


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
