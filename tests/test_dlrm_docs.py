"""``docs/dlrm.md``: its chain of commands runs as printed, and three lines are what it takes."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import os
import re
import runpy
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from seo_rec.policy import Policy
from spawn import run_ranks
from test_readme import ROOT, blocks, commands

EXAMPLES = ROOT / "docs" / "examples"
PLAIN, OURS = EXAMPLES / "dlrm_plain.py", EXAMPLES / "dlrm_seo.py"
QUICKER = {
    "clicks.py": ["3000"],
    "search": ["--epochs", "1", "--set", "run_off.epochs=1", "--batch-size", "256"],
}


def changes() -> list[str]:
    """Lines that differ between the scripts, as in a diff; docstrings and empty lines aside."""
    texts = [p.read_text().partition('"""\n\n')[2].splitlines() for p in (PLAIN, OURS)]
    found = [line for line in difflib.ndiff(*texts) if line[0] in "+-" and line[2:]]
    return sorted(line[0] + line[2:] for line in found)


def test_the_scripts_differ_in_three_lines_and_the_document_shows_them():
    found = changes()
    assert len([c for c in found if c[0] == "-"]) == len([c for c in found if c[0] == "+"]) == 3
    (shown,) = [b for b in blocks() if b.document == "docs/dlrm.md" and b.language == "diff"]
    assert sorted(shown.code.splitlines()) == found


def run_script(script: str, *arguments: str) -> str:
    """Run a script as ``python script arguments`` does, in this process; what it prints."""
    argv, path, printed = sys.argv, list(sys.path), io.StringIO()
    sys.argv, sys.path[:0] = [script, *arguments], [str(EXAMPLES)]
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_path(script, run_name="__main__")
    finally:
        sys.argv, sys.path[:] = argv, path
        sys.modules.pop("clicks", None)
    return printed.getvalue()


def run_rank(script: str, port: int) -> str:
    """A rank of ``torchrun script``: the script makes the process group itself."""
    dist.destroy_process_group()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    return run_script(script)


def run_torchrun(script: Path, ranks: int) -> tuple[float, float]:
    """The losses that the script prints: of its first and of its last steps."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    printed, *rest = run_ranks(run_rank, ranks, str(script), port)
    assert rest == [""] * (ranks - 1)
    match = re.fullmatch(r"loss (\S+) in the first 30 steps, (\S+) in the last\n", printed)
    assert match, printed
    return float(match[1]), float(match[2])


@pytest.mark.slow
def test_the_plain_script_runs():
    first, last = run_torchrun(PLAIN, 2)
    assert last < first - 0.05


@pytest.mark.slow
def test_the_chain_runs(
    seo_rec: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clicks, budget, prepare, search and the script, as printed but for a shorter search."""
    (chain,) = [b for b in blocks() if b.document == "docs/dlrm.md" and b.language == "bash"]
    monkeypatch.chdir(tmp_path)
    kinds = []
    for program, *words in commands(chain):
        kinds.append(program)
        if program == "python":
            run_script(str(ROOT / words[0]), *words[1:], *QUICKER.get(Path(words[0]).name, []))
        elif program == "seo-rec":
            done = seo_rec(*words, *QUICKER.get(words[0], []))
            assert done.code == 0, done.err
        elif program == "cp":
            shutil.copy(*words)
        elif program == "torchrun":
            assert words[:3] == ["--standalone", "--nproc-per-node", "2"]
            first, last = run_torchrun(ROOT / words[3], 2)
            assert last < first - 0.05
        else:
            pytest.fail(f"the test does not know {program}")
    assert kinds == ["python", "python", "seo-rec", "seo-rec", "cp", "torchrun"]
    asked = json.loads((tmp_path / "runs/clicks/run.json").read_text())
    assert asked["settings"]["budget_rows"] * 16 == Policy.load("mine.json").num_params == 97_024
    assert Policy.load("policy.json").num_params <= 97_024


# ---- the budget of a policy file, on the command line ------------------------------------------


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A policy of 16 * 201 + 5 parameters."""
    from types import SimpleNamespace as Config

    tables = [
        Config(name="a", num_embeddings=201, embedding_dim=16, feature_names=["f"]),
        Config(name="b", num_embeddings=5, embedding_dim=1, feature_names=["g"]),
    ]
    Policy.from_embedding_bag_configs(tables).save(tmp_path / "mine.json")
    return tmp_path / "mine.json"


def test_search_takes_the_budget_rounded_down_to_rows(seo_rec, tiny, mine, tmp_path):
    done = seo_rec(
        *("search", tiny, "--out", tmp_path / "s", "--budget-of", mine, "--set", "run_off=none"),
        *("--epochs", "1"),
    )
    assert done.code == 0, done.err
    assert f"budget of {mine}: 3221 parameters, 201 rows of 16" in done.err
    assert json.loads((tmp_path / "s/run.json").read_text())["settings"]["budget_rows"] == 201


def test_compare_takes_the_budget(seo_rec, tiny, mine, tmp_path):
    done = seo_rec(
        *("compare", tiny, "--out", tmp_path / "c", "--budget-of", mine, "--seeds", "1"),
        *("--methods", "monolithic", "--epochs", "1"),
    )
    assert done.code == 0, done.err
    (result,) = (tmp_path / "c").glob("**/result.json")
    assert json.loads(result.read_text())["budget"] == 201 * 16


@pytest.mark.parametrize("command", ["search", "compare"])
def test_two_budgets_are_refused(seo_rec, tiny, mine, tmp_path, command):
    out = tmp_path / "run"
    done = seo_rec(command, tiny, "--out", out, "--budget-of", mine, "--params", "3200")
    assert done.code == 2
    assert "--budget-of and --params both set the budget; give one of them" in done.err
    assert not out.exists()


def test_a_budget_below_one_row_is_refused(seo_rec, tiny, mine, tmp_path):
    done = seo_rec("search", tiny, "--out", tmp_path / "s", "--budget-of", mine, "--dim", "4096")
    assert done.code == 2
    assert "3221 parameters; a row of --dim 4096 needs 4096" in done.err
