"""The throughput benchmark: equal sizes, stages that add up, bytes that are really sent."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from benchmarks.pages import throughput as throughput_page
from benchmarks.ranks import throughput
from benchmarks.ranks.traffic import PARTS, computed, watched
from benchmarks.ranks.trainees import Recipe
from benchmarks.ranks.workload import METHODS, make_policy, zipf_batches, zipf_schema
from benchmarks.speed.stages import STAGES, Clock, staged
from distributed.sharded import PLANS, plan, policy_of
from seo_kernels import native
from seo_rec.data.dataset import open_data
from seo_rec.model import ModelSettings, build_model
from seo_rec.train import Ranks, distribute, ranks
from seo_rec.train.optimizers import inner_model
from spawn import run_ranks

TINY = (
    *("--features", "6", "--vocabulary", "500", "--dense", "2", "--params", "9600"),
    *("--hidden", "8", "--batch", "24", "--batches", "2", "--steps", "1", "--repeats", "2"),
    *("--warmup", "1"),
)


def lines_of(*options: str) -> list[dict[str, Any]]:
    return throughput.run(throughput.parse([*TINY, *options]), ranks())


def of(lines: list[dict[str, Any]], kind: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(x["policy"], x.get("way", x.get("what"))): x for x in lines if x["kind"] == kind}


def test_methods_have_equal_parameters():
    schema = zipf_schema(26, 1_000_000, 13)
    policies = {name: make_policy(name, schema, 1_664_000, 16) for name in METHODS}
    assert {p.num_params for p in policies.values()} == {1_664_000}
    widths = {name: sum(p.widths) for name, p in policies.items()}
    assert widths.pop("search") == 2 * 26 * 16
    assert set(widths.values()) == {26 * 16}
    assert len({len(f.lookups) for f in policies["exact"].features}) > 1


def test_zipf_ids_are_skewed_and_the_same_again():
    schema = zipf_schema(3, 100, 1)
    (batch,) = zipf_batches(schema, 1.2, 4000, 1, seed=1)
    (again,) = zipf_batches(schema, 1.2, 4000, 1, seed=1)
    assert torch.equal(batch.sparse.values(), again.sparse.values())
    counts = batch.sparse["f2"].values().bincount(minlength=100)
    assert counts[0] > 1.8 * counts[1] > 0
    assert batch.sparse["f0"].values().max() < 4


def test_one_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert throughput.main([*TINY, "--out", str(tmp_path)]) == 0
    lines = [json.loads(x) for x in (tmp_path / "throughput.jsonl").read_text().splitlines()]
    found = of(lines, "measurement")
    assert set(found) == {(m, "alone") for m in METHODS}
    for line in found.values():
        assert line["embedding_params"] == 9600
        assert set(line["stages_ms"]) < set(STAGES)
        rate = line["examples_per_s"]
        assert (
            rate["global"]
            == rate["per_rank"]
            == pytest.approx(24e3 / line["ms_per_step"]["median"], rel=0.02)
        )
        assert set(line["estimate_ms"]) == {"step", "imbalance", *line["measured_ms"]}
    assert (tmp_path / "throughput.png").stat().st_size > 10_000
    assert "monolithic" in capsys.readouterr().out


def test_data_take_the_place_of_made_up_ids(tiny: Path):
    line = lines_of("--data", str(tiny), "--methods", "exact")[0]
    assert line["features"] == len(open_data(tiny).schema.features)
    assert line["data"] == str(tiny)
    with pytest.raises(SystemExit, match="smaller --batch"):
        lines_of("--data", str(tiny), "--batch", "600", "--batches", "9")


def test_wrong_questions_are_refused():
    with pytest.raises(SystemExit, match="several ranks"):
        lines_of("--plans")
    with pytest.raises(SystemExit, match="gate"):
        lines_of("--against-torchrec", "--methods", "search")
    with pytest.raises(SystemExit):
        throughput.parse(["--repeats", "0"])
    with pytest.raises(SystemExit):
        throughput.parse(["--warmup", "-1"])


def backbone_bytes(line: dict[str, Any]) -> int:
    """Of 8 hidden units on 6 features of 16 floats (32 in a search) and 2 numbers."""
    inputs, gate = (6 * 32 + 2, 6 * 4) if line["policy"] == "search" else (6 * 16 + 2, 0)
    return 4 * (inputs * 8 + 8 + 8 + 1 + gate)


@pytest.mark.slow
def test_two_ranks_methods():
    """``run`` itself refuses to report bytes that were not sent."""
    both = run_ranks(lambda: lines_of(), 2, timeout=200)
    assert both[0] == both[1]
    found = of(both[0], "measurement")
    assert set(found) == {(m, way) for m in METHODS for way in ("alone", "apart", "ours")}
    for (_, way), line in found.items():
        assert line["ranks"] == (1 if way == "alone" else 2)
        assert len(line["peak_mb"]) == line["ranks"]
        assert ("bytes" in line) == (way == "ours")
        if way == "ours":
            tables = 4 * 9600 if line["sharding"].get("data_parallel") else 0
            assert {b["all_reduce"] - tables for b in line["bytes"]} == {backbone_bytes(line)}
    ratios = of(both[0], "ratio")
    for m in METHODS:
        product = ratios[m, "kept by the machine"], ratios[m, "kept by the exchange"]
        assert all(0 < r["low"] <= r["median"] <= r["high"] for r in product)
        assert (m, "scaling efficiency") in ratios


@pytest.mark.slow
def test_two_ranks_plans():
    both = run_ranks(lambda: lines_of("--plans", "--features", "24"), 2, timeout=200)
    found = of(both[0], "measurement")
    assert ("skewed", "default") in found
    assert found["skewed", "ours"]["estimate_ms"]["imbalance"] < 1.1
    assert not of(both[0], "ratio")["skewed", "default plan / ours"]["equal_plans"]


@pytest.mark.parametrize("optimizer", ["adam", "rowwise_adagrad"])
def test_two_ranks_against_torchrec(optimizer: str):
    """``run`` itself refuses to compare embeddings that give different vectors."""
    options = ("--against-torchrec", "--methods", "exact", "--row-optimizer", optimizer)
    both = run_ranks(lambda: lines_of(*options), 2)
    found = [x for x in both[0] if x["kind"] == "ratio"]
    assert len({(x["part"], x["ours"], x["beside"], x["time"]) for x in found}) == len(found) == 12
    pairs = {(x["ours"], x["beside"]) for x in found if "goal" in x}
    assert pairs == {("ours, pre-hashed", "torchrec")}  # the same row numbers for both
    assert "the same row numbers" in "".join(throughput_page.ratios(both[0]))


def test_torchrecs_collection_is_updated_by_fbgemm():
    """Not by our rows: the collection beside which we are measured is TorchRec's own, fused."""
    schema = zipf_schema(6, 500, 2)
    batches = zipf_batches(schema, 1.1, 32, 2, seed=0)
    policy = make_policy("exact", schema, 9600, 16)
    recipe = Recipe(2, (8,), "rowwise_adagrad", batches, 32, 9600, 16)

    def names() -> list[set[str]]:
        here = ranks()
        placed = recipe.place(policy, "ours", throughput.topology_here(here))
        assert not isinstance(placed, str)
        made = [recipe.sharded("exact", policy, w, placed, here) for w in ("ours", "torchrec")]
        ours, theirs = (inner_model(t.model).embedding for t in made)
        assert type(ours.ebc) is EmbeddingBagCollection  # one rank is trained as it is
        assert ours.sparse and type(theirs.ebc) is ShardedEmbeddingBagCollection
        throughput.check_equal(*made)
        return [set(t.optimizers) for t in made]

    (found,) = run_ranks(names, 1)
    assert found == [{"rows", "dense"}, {"fused", "dense"}]


def test_the_default_optimizer_is_what_training_takes():
    for floats, expected in ((9600, "adam"), (166_400_000, "rowwise_adagrad")):
        words = ["--params", str(floats), "--row-optimizer", "auto"]
        assert throughput.parse(words).row_optimizer == expected
    assert throughput.parse([]).row_optimizer == "rowwise_adagrad"


def test_a_goal_is_missed_if_the_whole_interval_is_beyond_it():
    """As `benchmarks.ranks.planner`, the command exits with 1 if one is."""
    line = {"policy": "p", "what": "w", "low": 1.1, "high": 1.3}
    for goal, equal, expected in (
        ("<= 1.15", False, False),
        ("<= 1.05", False, True),
        (">= 1.35", False, True),
        (">= 1.35", True, False),
        (">= 1.2", False, False),
    ):
        assert bool(throughput.missed([{**line, "goal": goal, "equal_plans": equal}])) == expected
    assert not throughput.missed([line])


@pytest.mark.parametrize("warmup", [0, 1])
def test_repeats_are_those_asked_for(warmup: int):
    """The steps of setting up count for no one, and no two trainees share a list."""
    schema = zipf_schema(6, 500, 2)
    recipe = Recipe(2, (8,), "adam", zipf_batches(schema, 1.1, 32, 2, seed=0), 32, 9600, 16)
    policy = make_policy("exact", schema, 9600, 16)
    made = recipe.whole("exact", policy, "alone", Ranks())
    assert (made.seconds, made.cpu, made.stages) == ([], [], [])
    (line, *_) = lines_of("--methods", "exact", "--warmup", str(warmup))
    assert line["repeats"] == 2 and line["environment"]["nice"] == os.nice(0)


def test_batches_are_where_the_model_is():
    """Stages and embedding alone take batches to the device, as the training loop does."""
    schema = zipf_schema(6, 500, 2)
    recipe = Recipe(2, (8,), "adam", zipf_batches(schema, 1.1, 32, 2, seed=0), 32, 9600, 16)
    trainee = recipe.whole("exact", make_policy("exact", schema, 9600, 16), "alone", Ranks())
    (batch,) = trainee._next(1, torch.device("meta"))
    tensors = (batch.dense_BN, batch.labels_B, batch.sparse.values(), batch.sparse.lengths())
    assert {t.device.type for t in tensors} == {"meta"}


def traffic_of(path: Path, kind: str) -> tuple[Any, Any, Any]:
    here = ranks()
    data = open_data(path)
    policy = policy_of(data)
    placements = plan(policy, kind, here.world_size)
    model = distribute(
        build_model(policy, data.num_numeric, ModelSettings(hidden=(8,)), 0),
        placements,
        here,
        row_optimizer="adagrad",
        row_lr=0.1,
    )
    share = {"rank": here.rank, "world_size": here.world_size}
    batch = next(iter(data.stream("train", batch_size=20, **share)))
    with watched() as sent:
        loss, _ = model(batch)
        sent.backward = True
        loss.backward()
    lookups = inner_model(model).embedding.remap(batch.sparse)
    size = here.world_size
    wrong = computed(policy, plan(policy, "one_rank", size), lookups, here.rank, size)
    right = computed(policy, placements, lookups, here.rank, size)
    return tuple({p: asdict(t[p]) for p in PARTS} for t in (sent.traffic, right, wrong))


@pytest.mark.parametrize("kind", PLANS)
def test_computed_bytes_are_those_sent(tiny: Path, kind: str):
    """With bags of any length, for every kind of plan; and a wrong plan gives other bytes."""
    for sent, right, wrong in run_ranks(traffic_of, 2, tiny, kind):
        assert sent == right
        assert (wrong == right) == (kind == "one_rank")
        assert (kind == "data_parallel") == (not any(t["handed"] for t in sent.values()))


@pytest.mark.parametrize("one_pass", [False, True], ids=["hash, then look up", "in one pass"])
@pytest.mark.parametrize("name", ["monolithic", "exact", "search"])
def test_stages_are_the_whole_step_and_change_nothing(
    name: str, one_pass: bool, monkeypatch: pytest.MonkeyPatch
):
    """The marks leave no gap, and gradients and weights stay those of an ordinary step."""
    if one_pass and native.missing():
        pytest.skip(f"no pass on a CPU without the C kernels: {native.missing()}")
    monkeypatch.setattr("seo_rec.embed.rows.IN_ONE_PASS", ("cpu",) if one_pass else ())
    schema = zipf_schema(6, 500, 2)
    batches = zipf_batches(schema, 1.1, 512, 2, seed=0)
    recipe = Recipe(2, (8,), "adam", batches, 512, 9600, 16)
    trainee = recipe.whole(name, make_policy(name, schema, 9600, 16), "alone", Ranks())
    trainee.model.zero_grad()
    plain = copy.deepcopy(trainee.model)
    with staged(trainee.model, clock := Clock(torch.device("cpu"))):
        clock.start()
        loss, _ = trainee.model(batches[0])
        clock.mark("dense forward")
        loss.backward()
        clock.mark("table backward")
    seconds = clock.read()
    assert ("hash" in seconds) == (not one_pass)
    assert ("regroup backward" in seconds) == (name == "search" and not one_pass)
    start, *_, end = (at for _, at in clock._marks)
    assert sum(seconds.values()) == pytest.approx(end - start)
    assert min(seconds.values()) > 0
    plain(batches[0])[0].backward()
    for p, q in zip(plain.parameters(), trainee.model.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
    trainee.train_staged(1)
    clock.start()
    trainee.model(batches[0])
    assert clock.read() == {}  # no mark is left in the model
