"""``make gpu`` up to the launch: its parts on a CPU, faults that they notice, its time boxes."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchrec.distributed import comm

from benchmarks.gpu import __main__ as driver
from benchmarks.gpu import fused, parity, part, rows, speed
from benchmarks.gpu.cause import cause
from benchmarks.gpu.lines import Run, check, measure
from benchmarks.pages import gpu as page
from patience import PATIENCE
from seo_kernels.row_bag import Reads, RowLayout, RowUpdate, reference
from seo_rec.train import distributed, ranks, steps
from spawn import run_ranks

Line = dict[str, Any]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """One process on the CPU, with a process group as the parts have it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    for name in ("_INTRA_PG", "_CROSS_PG"):  # TorchRec keeps groups beyond the one they are of
        monkeypatch.setattr(comm, name, None)
    with part.joined("cpu") as here:
        yield Run(here, small=True)


def failed(lines: list[Line]) -> list[str]:
    return [x["name"] for x in lines if x.get("passed") is False]


# ---- the parts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["versions", "unsharded", "plans", "pipelines", "fused", "rows"])
def test_the_checks_pass_on_a_cpu(run: Run, name: str) -> None:
    lines = list(part.PARTS[name](run))
    assert failed(lines) == []
    checks = [x for x in lines if x["kind"] == "check"]
    assert len(checks) >= {"versions": 0, "fused": 3}.get(name, 8)
    assert not [x for x in lines if x["kind"] == "forbidden" and name != "versions"]


@pytest.mark.parametrize("name", ["against-torchrec", "sizes", "methods", "tiles", "fetch"])
def test_the_measurements_run_on_a_cpu(run: Run, name: str) -> None:
    lines = list(part.PARTS[name](run))
    kinds = {x["kind"] for x in lines}
    assert kinds == ({"forbidden"} if name in ("tiles", "fetch") else {"measurement"})
    assert all(x["value"] > 0 for x in lines if x["kind"] == "measurement")


@pytest.mark.slow
def test_the_kernels_are_measured_on_a_cpu(run: Run) -> None:
    lines = list(speed.every_op(run))
    assert {"copy", "remap: ours", "chunk_bag both: ours"} <= {x["name"] for x in lines}
    assert not [x for x in lines if "goal" in x], "goals are of GPUs"


def test_several_ranks_pass_the_checks() -> None:
    def on_rank() -> list[Line]:
        case = parity.Case(ranks())
        return [
            line
            for kind, way in (("mixed", "pipelined"), ("grid_shard", "plain"))
            for line in parity.guarded(case, kind, "adagrad", way)
        ]

    first, second = run_ranks(on_rank, 2)
    assert [x.get("text") for x in first if x.get("passed") is False] == []
    assert first == second and len(first) == 12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plans", "methods"])
def test_several_ranks_come_to_the_end(name: str) -> None:
    """Of the parts that ``make gpu`` runs on several GPUs; pipelines are in the rehearsal."""
    first, second = run_ranks(lambda: list(part.PARTS[name](Run(ranks(), small=True))), 2)
    assert failed(first) == [] and len(first) == len(second) > 2
    assert {x["kind"] for x in first} == {"check" if name == "plans" else "measurement"}


def test_every_kind_of_plan_covers_its_tables() -> None:
    policy = parity.small_policy(["a", "b", "c", "d"])
    for kind in (*parity.KINDS, parity.MIXED):
        for world in (1, 2, 3, 8):
            distributed.check_placements(policy, parity.placed(policy, kind, world), world)


# ---- faults are noticed ------------------------------------------------------------------------


def test_weights_that_do_not_arrive_are_noticed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_fill", lambda sharded, full, embedding: None)
    case = parity.Case(run.ranks)
    assert "weights before training: table_wise, sgd, plain" in failed(
        list(parity.compare(case, "table_wise", "sgd", "plain"))
    )


def test_wrappers_of_a_pipeline_are_noticed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What once happened: the rows of another batch after the steps."""
    from distributed.test_pipelines import detach_of_torchrec_1_7

    detach_of_torchrec_1_7(monkeypatch)
    case = parity.Case(run.ranks)
    assert failed(list(parity.compare(case, "mixed", "sgd", "pipelined"))) == []
    monkeypatch.setattr(steps, "_put_back", lambda model: None)
    lines = list(parity.compare(case, "mixed", "sgd", "pipelined"))
    found = failed(lines)
    (line,) = [x for x in lines if x["name"] == "vectors after training: mixed, sgd, pipelined"]
    assert line["name"] in found
    assert re.search(
        r"batch 0: 6\d of 64 rows, in .*; there they are the vectors of batch \d", line["text"]
    )
    assert "the model is as it was: mixed, sgd, pipelined" in found


def test_what_wrong_vectors_are_is_said() -> None:
    """The causes that wrong vectors of a sharded model had, or may have."""
    draw, widths = torch.Generator().manual_seed(0), [4, 8, 4]
    right, other, start = (torch.rand(6, 16, generator=draw) for _ in range(3))
    others = {"batch 2": other, "the initial weights": start}

    def said(found: torch.Tensor) -> str:
        return cause(found, right, others, widths, 1e-6)

    assert said(right + 5e-7) == ""
    assert (
        said(other)
        == "6 of 6 rows, in 3 of 3 lookups (0 first); there they are the vectors of batch 2"
    )
    mixed = torch.cat([right[:, :4], start[:, 4:12], right[:, 12:]], 1)
    assert said(mixed).startswith("6 of 6 rows, in 1 of 3 lookups (1 first); there they are ")
    assert said(mixed).endswith("the vectors of the initial weights")
    swapped = torch.cat([right[:, 12:], right[:, 4:12], right[:, :4]], 1)
    assert said(swapped).endswith("are the vectors of other lookups: 0 has 2, 2 has 0")
    turned = right[[0, 2, 1, 3, 4, 5]]
    assert said(turned).startswith("2 of 6 rows")
    assert said(turned).endswith("are the vectors of other rows of the batch: row 1 has 2")
    nothing = right.clone()
    nothing[3, 4:12] = 0
    assert said(nothing) == "1 of 6 rows, in 1 of 3 lookups (1 first); there they are zero"
    nothing[3, 5] = float("nan")
    assert said(nothing).endswith("some are not finite")
    assert "none of: batch 2, the initial weights, zero, another lookup" in said(right + 0.02)


def test_what_raises_is_a_failed_check(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("misaligned address\nand more")

    monkeypatch.setattr(parity.Case, "sharded", broken)
    (line,) = parity.guarded(parity.Case(run.ranks), "mixed", "sgd", "plain")
    assert line["passed"] is False and line["text"] == "RuntimeError: misaligned address"


def test_what_versions_do_not_allow_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_torchrec(*_: Any, **__: Any) -> Any:
        raise AttributeError("'SharderData' object has no attribute 'x'")

    assert speed.no_plans(run) == ""
    monkeypatch.setattr(speed, "plan_policy", other_torchrec)
    said = [x["name"] for x in part.versions(run) if x["kind"] == "forbidden"]
    assert "planning" in said
    (line,) = speed.against_torchrec(run)
    assert line["kind"] == "forbidden" and "SharderData" in line["text"]


def test_another_update_is_noticed(run: Run) -> None:
    def without_square_root(weight: Any, gradient: Any, state: Any) -> None:
        state += gradient.square()
        weight -= fused.LR * gradient / (state + fused.EPS)

    tables = fused.make_tables("EXACT_ADAGRAD", [(fused.V, fused.D)] * fused.T, run.device)
    assert fused.apart(tables, without_square_root, run.device) > 100 * fused.LIMIT


def test_the_adam_to_compare_with_is_ours() -> None:
    """FBGEMM's, which needs a GPU, is compared with this definition of ``lazy_adam``."""
    draw, adam = torch.Generator().manual_seed(0), fused._lazy_adam()
    table = rows.make_table("lazy_adam", torch.float64, draw)
    table = replace(table, mean=None, mean_at=None)
    assert table.first is not None and table.second is not None
    table = replace(table, first=table.first.double(), second=table.second.double())
    weight_VD, layout = table.weight.clone(), RowLayout([0], [rows.D])
    for step in range(1, 6):
        read = torch.randint(0, rows.V, (40,), generator=draw)
        gradient = torch.randn(40, rows.D, generator=draw, dtype=torch.float64)
        update = RowUpdate("lazy_adam", fused.LR, step, eps=fused.EPS)
        reference.update_rows([table], layout, [Reads(read, None, None, 40)], [gradient], update)
        sums = torch.zeros_like(weight_VD).index_add(0, read, gradient)
        adam(weight_VD, sums, weight_VD)
    torch.testing.assert_close(weight_VD, table.weight, rtol=1e-9, atol=1e-9)


def test_other_random_numbers_are_noticed(run: Run) -> None:
    """Of tables of 16 bits, which every device must round alike."""
    _, alike = rows.apart("adagrad", torch.bfloat16, run.device)
    _, other = rows.apart("adagrad", torch.bfloat16, run.device, key=8)
    assert alike <= rows.MOST_APART < other / 5


def test_no_number_is_no_pass() -> None:
    assert check("a", float("nan"), 1.0)["passed"] is False
    assert check("a", float("inf"), 1.0)["passed"] is False
    assert check("a", 1.0, 1.0)["passed"] is True
    assert json.loads(json.dumps(check("a", float("nan"), 1.0), allow_nan=False))["value"] is None
    assert measure("a", 0.6, "of copy", 0.7)["reached"] is False


# ---- the driver --------------------------------------------------------------------------------


def script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


@pytest.mark.slow
def test_a_part_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    file, beat = tmp_path / "part.jsonl", tmp_path / "beat"
    child = f"import time\nwhile True: open({str(beat)!r}, 'a').write('x'); time.sleep(0.05)"
    text = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        f'open({str(file)!r}, "w").write(\'{{"kind": "note", "name": "early", "text": "x"}}\\n\')\n'
        "time.sleep(3600)\n"
    )
    for seconds in (2.0, 16.0, 128.0):  # a busy machine may need more to start the processes
        assert driver.run_part(script(text), 2, seconds, file) == "out of time"
        if beat.exists() and file.exists() and file.read_text():
            break
    assert driver.read(file)[0]["name"] == "early"
    before = beat.stat().st_size
    time.sleep(0.3)
    assert beat.stat().st_size == before > 0


def test_a_part_that_fails_ends_the_other_processes(tmp_path: Path) -> None:
    text = "import os, sys, time\nif os.environ['RANK'] == '1': sys.exit(3)\ntime.sleep(3600)"
    started = time.monotonic()
    assert driver.run_part(script(text), 2, 3600.0, tmp_path / "a.jsonl") == "ended with 3"
    assert time.monotonic() - started < PATIENCE


def test_every_part_has_its_lines_and_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(part: driver.Part, device: str, file: Path) -> list[str]:
        lines = [check("good", 0.0, 1.0), check("bad", 2.0, 1.0)]
        text = "".join(json.dumps(x) + "\n" for x in lines if part.name == "plans")
        code = f"open({str(file)!r}, 'w').write({text!r}); print('a trace')"
        return script(code + ("; 1 / 0" if part.name == "fused" else ""))

    monkeypatch.setattr(driver, "command_of", command)
    parts = [driver.Part(name, PATIENCE) for name in ("plans", "fused", "sizes")]
    lines = driver.run_all(parts[:2], "cpu", 2 * PATIENCE, tmp_path, {"gpu": None})
    assert [(x["part"], x["name"], x["passed"]) for x in lines] == [
        ("plans", "good", True),
        ("plans", "bad", False),
        ("plans", "plans", True),
        ("fused", "fused", False),
    ]
    out = capsys.readouterr().out
    assert "FAILED: bad 2 " in out and "ZeroDivisionError" in out and "checks that passed: 1" in out
    for stop, name in ((True, "plans"), (False, "versions")):  # of parts that have not passed
        both = [driver.Part(name, PATIENCE), parts[2]]
        monkeypatch.setattr(driver, "run_part", lambda *_: "ended with 1")
        (tmp_path / name).mkdir()
        (tmp_path / name / f"0-{name}.log").write_text("a trace")
        stopped = driver.run_all(both, "cpu", 2 * PATIENCE, tmp_path / name, {"gpu": None}, stop)
        assert {x["part"] for x in stopped} == {name}
        assert f"stopped at {name} ({name}); 1 parts were not run" in capsys.readouterr().out
    monkeypatch.undo()
    (late,) = driver.run_all(parts[2:], "cpu", 0.5, tmp_path, {"gpu": None})
    assert late["passed"] is False and late["text"].startswith("no time left")


def test_checks_come_before_measurements_and_the_largest_world_first() -> None:
    found = [(p.name, p.ranks) for p in driver.planned(4, ())]
    assert [n for name, n in found if name == "plans"] == [1, 4, 2, 3]
    names = [name for name, _ in found]
    assert names[0] == "versions" and names.index("kernels") > len(names) - 1 - names[::-1].index(
        "pipelines"
    )
    assert found[-1] == ("methods", 4)
    assert {p.ranks for p in driver.planned(1, ())} == {1}
    assert {p.name for p in driver.planned(1, ())} == set(part.PARTS)
    assert [p.name for p in driver.planned(1, ["tests"])] == ["tests"]
    assert sum(p.seconds for p in driver.planned(1, ())) <= 600


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(driver, "machine", lambda: (0, {}))
    with pytest.raises(SystemExit):
        driver.main(["--device", "cuda"])
    assert "no GPU here; --device cpu" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_rehearsal_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forked_python: str
) -> None:
    """Parts in processes (forks), with one rank and with two; their times are those of a GPU."""
    planned = driver.planned
    chosen = {("tests", 1), ("pipelines", 2)}

    def few(*asked: Any) -> list[driver.Part]:
        parts = [p for p in planned(*asked) if (p.name, p.ranks) in chosen]
        return [replace(p, seconds=3600.0) for p in parts]

    monkeypatch.setattr(driver, "planned", few)
    monkeypatch.setattr(sys, "executable", forked_python)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert driver.main(["--device", "cpu", "--minutes", "60", "--out", str(tmp_path)]) == 0
    done = [path.stem.partition("-")[2] for path in tmp_path.glob("*.jsonl")]
    assert sorted(done) == sorted(name for name, _ in chosen)


# ---- the page ----------------------------------------------------------------------------------


def test_the_page_shows_the_newest_run_of_each_gpu() -> None:
    def stamped(gpu: str | None, date: str, *lines: Line) -> list[Line]:
        environment = {"gpu": gpu, "date": date, "torch": "2.13.0", "torchrec": "1.8.0"}
        environment |= {"fbgemm": "1.8.0", "git_sha": "0123456789", "git_dirty": False}
        common = {"device": "cuda" if gpu else "cpu", "environment": environment}
        return [{**common, "part": "plans", "world_size": 1, **x} for x in lines]

    end = {"kind": "part", "name": "plans", "text": "done, 9 s", "passed": True}
    lines = [
        *stamped("H100", "2026-01-01", check("old", 2.0, 1.0), end),
        *stamped("H100", "2026-01-02", check("a", 0.0, 1.0), check("b", 2.0, 1.0), end),
        *stamped(None, "2026-01-03", check("of a CPU", 2.0, 1.0), end),
    ]
    lines += stamped("L4", "2026-01-01", measure("remap: ours", 0.81, "of copy", 0.7), end)
    text = "\n".join(page.region(lines))
    assert "| plans | 1 | 2 | b | done, 9 s |" in text and "2026-01-02" in text
    assert "| plans | remap: ours | 0.81 | of copy | 0.7 |" in text
    assert "old" not in text and "of a CPU" not in text
    assert page.region([]) == ["Nothing is recorded yet."]
