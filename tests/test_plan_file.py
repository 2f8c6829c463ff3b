"""The plan's file and command: round trip, strict reading, hostile files, one line per mistake."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ranks.planner import criteo_policy
from cases import BUILDABLE
from policy_documents import put
from seo_rec.plan import Plan, PlanError, plan_policy, read_topology
from seo_rec.policy.allowance import with_precision
from seo_rec.settings import FitSettings, Training
from seo_rec.train import storage_for
from topology_documents import document_of

SPEC = Path(__file__).resolve().parent.parent / "docs" / "plan-format.md"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_policy(BUILDABLE["multi-size-2"], read_topology("2xcpu"), batch_size=64)


def refused(path: Path, content: bytes | str, message: str) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PlanError, match=message) as caught:
        Plan.load(path)
    assert str(caught.value).startswith(str(path))


def test_round_trip(plan, tmp_path):
    plan.save(tmp_path / "a.json")
    loaded = Plan.load(tmp_path / "a.json")
    assert loaded == plan
    loaded.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    loaded.check(BUILDABLE["multi-size-2"])
    with pytest.raises(PlanError, match="the plan belongs to another policy"):
        loaded.check(BUILDABLE["sum"])


def test_version_1_is_read(plan, tmp_path):
    """It had no kernels: they follow from the optimizer, and from whether a table has shards."""
    for optimizer, kernel in (("adam", "dense"), ("sgd", "fused")):
        document = json.loads(json.dumps(plan.to_json()))
        document |= {"version": 1, "row_optimizer": optimizer}
        for placement in document["placements"]:
            del placement["compute_kernel"], placement["cache_load_factor"]
        whole = {"rank": 0, "row": 0, "column": 0, "rows": 9, "columns": 8}
        document["placements"][0] |= {"kind": "table_wise", "shards": [whole]}
        document["placements"][1] |= {"kind": "data_parallel", "shards": []}
        for rank in [*document["estimate"]["ranks"], *document["default"]["ranks"]]:
            del rank["host_memory_bytes"]
        (tmp_path / "old.json").write_text(json.dumps(document))
        read = Plan.load(tmp_path / "old.json")
        assert [p.compute_kernel for p in read.placements] == [kernel, "dense"]
        assert read.estimate == plan.estimate
        assert read.to_json()["version"] == 2
    document["placements"] = [3, *document["placements"]]
    refused(tmp_path / "bad.json", json.dumps(document), r"placements\[0\]: must be an object")


@pytest.mark.slow
def test_same_bytes_in_every_process(tmp_path):
    """The order of Python's sets and hashes never reaches the file."""
    code = (
        "import sys; from benchmarks.ranks.planner import criteo_policy\n"
        "from seo_rec.plan import plan_policy, read_topology\n"
        "of = read_topology('4xH100-80GB')\n"
        "plan_policy(criteo_policy(), of, row_optimizer='sgd', default=False).save(sys.argv[1])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(SPEC.parent.parent)}
    command = [sys.executable, "-c", code, str(tmp_path / "other")]
    subprocess.run(command, check=True, env=environment)
    of = read_topology("4xH100-80GB")
    here = plan_policy(criteo_policy(), of, row_optimizer="sgd", default=False)
    here.save(tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == (tmp_path / "other").read_bytes()


BAD_VALUES: list[tuple[tuple[str | int, ...], Any, str]] = [
    (("version",), 3, "version 3; this release reads 'seo-rec-plan' versions 1 and 2"),
    (("placements", 0, "compute_kernel"), 1, r"placements\[0\]: compute_kernel: must be a str"),
    (("placements", 0, "cache_load_factor"), "x", "cache_load_factor: must be a float, got 'x'"),
    (("version",), 1, "version 1 has no key 'compute_kernel'"),
    (("version",), True, "version True"),
    (("format",), "seo-rec-policy", "format 'seo-rec-policy'"),
    (("colour",), 1, r"unknown keys \['colour'\], missing keys \[\]"),
    (("world_size",), 3, "allowed: whole machines|estimates 2 ranks and has 3"),
    (("world_size",), "2", "world_size: must be a int, got '2'"),
    (("world_size",), 2.0, "world_size: must be a int, got 2.0"),
    (("local_size",), 0, "whole machines of 1 or more"),
    (("device",), "tpu", "device 'tpu'; allowed: cpu, cuda"),
    (("placements",), {}, "placements: must be a list, got dict"),
    (("placements", 0), 3, r"placements\[0\]: must be an object, got int"),
    (("placements", 0, "shards"), None, r"placements\[0\]: shards: must be a list"),
    (("placements", 0, "kind"), 1, r"placements\[0\]: kind: must be a str"),
    (("estimate", "ranks", 0, "ms"), -1.0, r"ranks\[0\]: ms: -1.0; allowed: 0 or more"),
    (("estimate", "ranks", 0, "tables"), 2**63, r"ranks\[0\]: tables: .*below 2\^63"),
    (("estimate", "step_ms"), True, "step_ms: must be a float, got True"),
    (("estimate", "phases_ms"), [], "phases_ms: must be an object, got list"),
    (("estimate", "rank"), 1, r"estimate: unknown keys \['rank'\]"),
    (("default",), 3, "default: must be an object, got int"),
    (("notes",), "x", "notes: must be a list, got str"),
]


@pytest.mark.parametrize("at, value, message", BAD_VALUES)
def test_hostile_values(plan, tmp_path, at, value, message):
    document = json.loads(json.dumps(plan.to_json()))
    refused(tmp_path / "p.json", json.dumps(put(document, at, value)), message)


def test_hostile_files(plan, tmp_path):
    path = tmp_path / "p.json"
    text = json.dumps(plan.to_json())
    refused(path, "{", "not valid JSON")
    refused(path, "[]", "must be an object, got list")
    refused(path, b"\xff\xfe", "not a JSON file")
    refused(path, "[" * 100_000, "not a JSON file")
    refused(path, text.replace('"version": 2', '"version": 2, "version": 2'), "appears twice")
    refused(path, re.sub(r'"step_ms": [\d.]+', '"step_ms": NaN', text), "NaN is not allowed")
    too_large = re.sub(r'"step_ms": [\d.]+', '"step_ms": 1e999', text)
    refused(path, too_large, "the number 1e999 is not allowed")
    document = json.loads(text)
    del document["notes"]
    refused(path, json.dumps(document), r"missing keys \['notes'\]")
    with pytest.raises(PlanError, match="no such plan file; `seo-rec plan` writes one"):
        Plan.load(tmp_path / "none.json")


def test_the_example_of_the_specification(tmp_path):
    example = SPEC.read_text().split("```json")[1].split("```")[0]
    path = tmp_path / "p.json"
    path.write_text(example.lstrip("\n"))
    plan = Plan.load(path)
    assert {p.kind for p in plan.placements} == {"column_wise", "table_wise"}
    plan.save(tmp_path / "q.json")
    assert (tmp_path / "q.json").read_text() == example.lstrip("\n")


# ---- the command ------------------------------------------------------------------------------


def test_command(seo_rec, tmp_path):
    BUILDABLE["multi-size-2"].save(tmp_path / "policy.json")
    out = tmp_path / "plan.json"
    arguments = ["plan", tmp_path / "policy.json", "--topology", "2xcpu", "--out", out]
    done = seo_rec(*arguments)
    assert done.code == 0, done.err
    assert "imbalance" in done.out and "TorchRec's own" in done.out
    assert done.out.replace("\n", "").endswith(str(out))
    plan = Plan.load(out)
    assert (plan.world_size, plan.row_optimizer, plan.batch_size) == (2, "adam", 8192)
    assert "…" not in done.out  # no heading is cut off in 80 columns
    rows = [line.replace("│", " ").split() for line in done.out.splitlines()]
    for rank in range(2):  # tables, memory, lookups and ms of our plan, then of TorchRec's
        shown = [row[1:] for row in rows if row[:1] == [str(rank)]]
        loads = [e.ranks[rank] for e in (plan.estimate, plan.default)]
        assert shown == [
            [
                str(load.tables),
                f"{load.memory_bytes / 1e9:.3f}",
                f"{load.lookups_per_sample:.2f}",
                f"{load.ms:.3f}",
            ]
            for load in loads
        ]
    before = out.read_bytes()
    again = seo_rec(*arguments)
    assert again.code == 2 and f"{out} exists; choose another --out" in again.err
    assert out.read_bytes() == before
    out.rename(tmp_path / "first.json")
    assert seo_rec(*arguments).code == 0 and out.read_bytes() == before


def test_command_says_what_is_outside_the_gpus(seo_rec, tmp_path):
    """A policy that eight GPUs cannot hold: kernels, memory there, and what it costs."""
    from benchmarks.ranks.scaling import applier_policy

    applier_policy(10**11).save(tmp_path / "policy.json")
    arguments = ["plan", tmp_path / "policy.json", "--topology", "8xA100-40GB", "--batch", "512"]
    arguments += ["--row-optimizer", "rowwise_adagrad", "--cache-load-factor", "0.1"]
    kept = seo_rec(*arguments[:-2], "--compute-kernels", "fused", "--out", tmp_path / "no.json")
    assert kept.code == 2 and "is short by" in kept.err and not (tmp_path / "no.json").exists()
    done = seo_rec(*arguments, "--out", tmp_path / "plan.json")
    assert done.code == 0, done.err
    plan = Plan.load(tmp_path / "plan.json")
    outside = [p for p in plan.placements if p.compute_kernel == "fused_uvm_caching"]
    text = " ".join(done.out.split())
    assert f"{len(outside)} fused_uvm_caching (cache load factor 0.1)" in text
    assert f"fused_uvm_caching: {len(outside)} of 32 tables" in text and "ms longer than" in text
    assert "outside, GB" in text and "10.0 to 10.0 % of the rows that are read" in text
    wrong = seo_rec(*arguments, "--compute-kernels", "uvm", "--out", tmp_path / "no.json")
    assert wrong.code == 2 and "allowed: fused, fused_uvm_caching, key_value" in wrong.err


def test_command_takes_hit_rates_from_the_data(seo_rec, tmp_path, tiny):
    """GPUs of 3 MB for 8 MB of tables, and a data set that says how often each id occurs."""
    from seo_rec.methods import separate
    from seo_rec.schema import read_schema

    separate(read_schema(tiny), 2_000_000, 16).save(tmp_path / "policy.json")
    gpus = document_of(read_topology("2xH100-80GB")) | {"memory_bytes": 3_000_000}
    (tmp_path / "gpus.json").write_text(json.dumps(gpus))
    arguments = ["plan", tmp_path / "policy.json", "--topology", tmp_path / "gpus.json"]
    arguments += ["--batch", "64", "--row-optimizer", "sgd"]
    for name, rates, said in (
        ("data", ["--rates", tiny], "by the id counts of the data"),
        ("none", [], "as if rows were read evenly (no counts)"),
    ):
        done = seo_rec(*arguments, *rates, "--out", tmp_path / f"{name}.json")
        assert done.code == 0, done.err
        assert said in " ".join(done.out.split())


def test_command_sees_at_the_start_that_it_can_write(seo_rec, tmp_path, monkeypatch):
    BUILDABLE["multi-size-2"].save(tmp_path / "policy.json")
    monkeypatch.setattr("seo_rec.plan.plan_policy", lambda *_, **__: pytest.fail("too late"))
    for out, message in [
        (tmp_path, "exists; choose another --out"),
        (tmp_path / "policy.json/plan.json", "policy.json: File exists; a file is there"),
        (tmp_path / "policy.json/deeper/plan.json", "a part of the path is a file"),
    ]:
        done = seo_rec("plan", tmp_path / "policy.json", "--topology", "2xcpu", "--out", out)
        assert done.code == 2 and message in done.err, done.err


def test_command_on_many_ranks_shows_a_few(seo_rec, tmp_path):
    BUILDABLE["multi-size-2"].save(tmp_path / "policy.json")
    arguments = ["--topology", "8xH100-80GB", "--nodes", "8", "--batch", "64"]
    done = seo_rec("plan", tmp_path / "policy.json", *arguments, "--out", tmp_path / "plan.json")
    assert done.code == 0, done.err
    assert "(slowest)" in done.out and "(fastest)" in done.out and "none" in done.out
    assert len(done.out.splitlines()) < 30
    assert Plan.load(tmp_path / "plan.json").local_size == 8


def test_command_reads_rates(seo_rec, tmp_path, tiny):
    from seo_rec.methods import separate
    from seo_rec.schema import read_schema

    separate(read_schema(tiny), 8000, 8).save(tmp_path / "policy.json")
    plans = []
    for i, rates in enumerate(([], ["--rates", tiny])):
        out = tmp_path / f"plan-{i}.json"
        arguments = ["--topology", "2xcpu", "--out", out, *rates]
        done = seo_rec("plan", tmp_path / "policy.json", *arguments)
        assert done.code == 0, done.err
        plans.append(Plan.load(out))
    assert plans[0].estimate != plans[1].estimate


@pytest.mark.parametrize("l2", [[], ["--l2", "1e-4"], ["--l2-on", "all"], ["--l2-on", "read"]])
def test_command_plans_the_type_that_train_takes(seo_rec, tmp_path, l2):
    """L2 on all rows moves them in every step, so that ``auto`` keeps them in float32."""
    policy = with_precision(BUILDABLE["multi-size-2"], "float16")
    policy.save(tmp_path / "policy.json")
    given = ["--row-optimizer", "rowwise_adagrad", *l2]
    arguments = ["--topology", "2xcpu", "--out", tmp_path / "plan.json", *given]
    done = seo_rec("plan", tmp_path / "policy.json", *arguments)
    assert done.code == 0, done.err
    options = dict(zip(given[::2], given[1::2], strict=True))
    fit = FitSettings(
        row_optimizer="rowwise_adagrad",
        row_l2=float(options.get("--l2", 0)),
        l2_on=options.get("--l2-on", "auto"),
    )
    taken = storage_for(policy, Training(fit=fit))
    assert (taken.dtype == "float32") == (l2 in (["--l2", "1e-4"], ["--l2-on", "all"]))
    assert f"trained in {taken.dtype}, {taken.why}" in done.out
    plain = {"row_optimizer": "rowwise_adagrad", "storage": taken.dtype}
    expected = plan_policy(policy, read_topology("2xcpu"), batch_size=8192, **plain)
    assert Plan.load(tmp_path / "plan.json").estimate == expected.estimate


@pytest.mark.parametrize(
    "options, message",
    [
        (["--topology", "8xH999"], "topology '8xH999' is not known; allowed: NxNAME"),
        (["--topology", "2xcpu", "--batch", "0"], "batch 0; allowed: 1 to"),
        (["--topology", "2xcpu", "--nodes", "0"], "nodes 0; allowed: 1 to"),
        (["--topology", "2xcpu", "--row-optimizer", "lamb"], "row_optimizer is 'lamb'; allowed"),
        (
            ["--topology", "2xcpu", "--storage", "float16", "--row-optimizer", "adam"],
            "--storage float16 with --optimizer adam",
        ),
        (["--topology", "2xcpu", "--rates", "nowhere"], "nowhere: no schema.json here"),
    ],
)
def test_command_says_what_is_wrong(seo_rec, tmp_path, options, message):
    BUILDABLE["multi-size-2"].save(tmp_path / "policy.json")
    done = seo_rec("plan", tmp_path / "policy.json", *options, "--out", tmp_path / "plan.json")
    assert done.code == 2 and done.err.startswith("error: ") and message in done.err
    assert not (tmp_path / "plan.json").exists()
