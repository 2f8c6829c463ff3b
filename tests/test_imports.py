"""Which heavy libraries a command has loaded when it says its first words, and at its end.

What is counted is modules and not seconds, which depend on the machine. Importing torch takes more
than a second, and TorchRec as long again.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HEAVY = "torch torchrec fbgemm_gpu scipy scipy.stats sklearn matplotlib pyarrow jinja2 tensorboard"
TORCH = {"torch", "torchrec", "fbgemm_gpu"}
OPTIMIZERS = "torch.distributed.optim"  # compiles TorchScript when it is imported

# Prints the heavy modules that are loaded when a command prints its first line, and at its end.
WATCH = """
import sys
import typer

def loaded(when):
    print(when, *[name for name in {names!r}.split() if name in sys.modules], file=sys.__stdout__)

echo, sys.argv = typer.echo, ["seo-rec", *{words!r}]

def first(*given, **named):
    typer.echo = echo
    loaded("first:")
    echo(*given, **named)

typer.echo = first
from seo_rec.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
loaded("end:")
"""


def modules_of(*words: object) -> dict[str, set[str]]:
    """Heavy modules by the time: ``first`` line and ``end``."""
    code = WATCH.format(names=f"{HEAVY} {OPTIMIZERS}", words=[str(word) for word in words])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.partition(":") for line in done.stdout.splitlines()]
    return {when: set(names.split()) for when, _, names in lines if when in ("first", "end")}


@pytest.fixture(scope="module")
def run(seo_rec: Callable[..., Any], tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training; read-only."""
    out = tmp_path_factory.mktemp("imports") / "t"
    words = ["--method", "multi-size", "--params", "1600", "--epochs", "1", "--batch-size", "200"]
    assert seo_rec("train", tiny, "--out", out, *words, "--threads", "1").code == 0
    return out


@pytest.mark.slow
def test_a_report_needs_no_torch(run: Path, tmp_path: Path) -> None:
    """It says what it read before it loads what draws; collisions are counted without torch."""
    found = modules_of("report", run, "--out", tmp_path / "r.html")
    assert found == {"first": set(), "end": {"matplotlib", "pyarrow", "jinja2"}}
    assert "Not counted" not in (tmp_path / "r.html").read_text()


def test_apply_loads_nothing_heavy(run: Path, tmp_path: Path) -> None:
    policy, out = run / "policy.json", tmp_path / "a.json"
    found = modules_of("apply", policy, "--strategy", "exact", "--out", out)
    assert found == {"first": set(), "end": set()}


@pytest.mark.slow
def test_a_plan_says_what_it_plans_before_it_loads_torch(run: Path, tmp_path: Path) -> None:
    found = modules_of("plan", run / "policy.json", "--topology", "2xcpu", "--out", tmp_path / "p")
    assert found["first"] == set() and found["end"] >= TORCH


@pytest.mark.slow
def test_a_training_loads_what_it_trains_with_and_no_more(tiny: Path, tmp_path: Path) -> None:
    """Its first line is the last one; TensorBoard and scikit-learn come after the first epoch."""
    words = ["--method", "separate", "--params", "1600", "--epochs", "1", "--batch-size", "200"]
    found = modules_of("train", tiny, "--out", tmp_path / "t", *words)
    assert found["first"] >= TORCH
    assert not found["first"] & {"matplotlib", "jinja2", OPTIMIZERS}
    code = "import sys, seo_rec.recipes; print(*[n for n in sys.argv[1:] if n in sys.modules])"
    names = [*HEAVY.split(), OPTIMIZERS]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True)
    assert set(done.stdout.split()) == {*TORCH, "pyarrow"}
