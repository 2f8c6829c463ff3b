"""``pip install '.[serve]'`` scores packages, and brings no library of the training.

First with the libraries of this environment, where all that the extra does not ask for is blocked;
then, in a slow test, with the wheel in an environment of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from test_no_torch import BLOCKER, ROOT, SCORE

from seo_rec import stack
from seo_rec.cli import doctor
from wheels import not_required, required

HEAVY = {"torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "torchx", "scipy", "scikit-learn",
         "matplotlib", "jinja2", "tensorboard", "tqdm", "onnx", "pandas", "polars"}  # fmt: skip
# Runs commands in one process and prints the exit status and what each wrote.
COMMANDS = """
import contextlib, io, json, sys
from seo_rec.cli.main import main

def run(words):
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["seo-rec", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    return code, out.getvalue(), err.getvalue()

print(json.dumps([run(words) for words in json.loads(sys.argv[1])]))
"""


def outcomes(
    code: str, commands: list[list[str]], python: str = sys.executable, path: str = str(ROOT)
) -> list[tuple[int, str, str]]:
    """Exit status, output and messages of each command."""
    done = subprocess.run(
        [python, "-c", code, json.dumps(commands)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(outcome) for outcome in json.loads(done.stdout.splitlines()[-1])]


def scoring(clicks, folder: Path) -> list[list[str]]:
    """Commands of a machine that serves; all of them succeed."""
    scores, copy = str(folder / "scores.parquet"), str(folder / "copy")
    return [
        ["--help"],
        ["predict", "--help"],
        ["serve", "--help"],
        ["apply-delta", "--help"],
        ["export", "--help"],
        ["predict", str(clicks.package), "--raw", str(clicks.raw), "--out", scores],
        ["predict", str(clicks.package), "--raw", str(clicks.data.path), "--out", copy],
    ]


def training(clicks, folder: Path) -> list[list[str]]:
    """Commands that need the extra `train`."""
    data, run, out = str(clicks.data.path), str(clicks.run), str(folder / "out")
    return [
        ["train", data, "--method", "separate", "--params", "2000", "--out", out],
        ["search", data, "--params", "2000", "--out", out],
        ["compare", data, "--methods", "separate", "--params", "2000", "--out", out],
        ["eval", run, data],
        ["export", run, "--out", out],
        ["plan", str(clicks.run / "policy.json"), "--topology", "2xcpu", "--out", out],
        ["report", run, "--out", out],
    ]


def check(found: list[tuple[int, str, str]], commands: list[list[str]], scored: int) -> None:
    """The first commands succeed, and each of the others ends with a line that helps."""
    for (code, _, err), words in zip(found[:scored], commands, strict=False):
        assert (code, err) == (0, ""), (words, err)
    for (code, _, err), words in zip(found[scored:], commands[scored:], strict=True):
        assert code == 1, (words, err)
        last = err.splitlines()[-1]
        assert last.startswith("error: ") and "Traceback" not in err, (words, err)
        assert last.endswith(
            "not installed, and this command needs it: pip install '.[train]' in the folder of "
            "the repository"
        )


@pytest.mark.parametrize("extras", [(), ("serve",), ("server",)])
def test_no_library_of_training_is_asked_for(extras):
    found = required(*extras)
    assert found >= {"numpy", "pyarrow", "safetensors", "typer"} and not found & HEAVY


def test_training_and_the_tests_ask_for_everything():
    assert required("train") >= {"torch", "torchrec", "fbgemm-gpu", "scipy", "matplotlib", "tqdm"}
    assert required("dev") >= HEAVY - {"fbgemm-gpu-cpu"} | {"onnxruntime", "fastapi", "ruff"}


def test_commands_where_only_the_extra_serve_is_there(clicks, tmp_path):
    blocked = not_required("serve")
    assert blocked >= {"torch", "torchrec", "fbgemm_gpu", "sklearn", "matplotlib", "jinja2"}
    scored = scoring(clicks, tmp_path)
    commands = scored + training(clicks, tmp_path)
    found = outcomes(BLOCKER.format(blocked=blocked) + COMMANDS, commands)
    check(found, commands, len(scored))
    assert sorted(os.listdir(tmp_path)) == ["copy", "scores.parquet"]


def test_a_mistake_is_one_line_where_torch_is_absent(tmp_path):
    """Also one whose class is not ValueError: a folder that holds no run."""
    commands = [["report", str(tmp_path), "--out", str(tmp_path / "r.html")]]
    code = BLOCKER.format(blocked=not_required("train") | {"torch"}) + COMMANDS
    ((status, _, err),) = outcomes(code, commands)
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1


def test_doctor_of_a_machine_that_serves(monkeypatch):
    monkeypatch.setattr(stack, "read", lambda: stack.Stack(None, False, None, None, None, None))
    found = {(line.section, line.name): line for line in doctor.findings()}
    assert [line for line in found.values() if line.status == "wrong"] == []
    assert found["versions", "torch"].status == "absent"
    assert (
        "pip install '.[train]' in the folder of the repository" in found["stack", "verdict"].value
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_with_the_extra_serve_in_a_clean_environment(clicks, wheel, tmp_path):
    """Skipped where no package index answers."""
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", f"{wheel}[serve]"]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no package index is in reach: {done.stderr.splitlines()[-1:]}")
    environment = {**os.environ, "PYTHONPATH": ""}

    def run(code: str, *arguments: object) -> str:
        command = [python, "-c", code, *map(str, arguments)]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = run("from importlib.metadata import distributions as d; print(*[x.name for x in d()])")
    assert not {name.lower() for name in listed.split()} & HEAVY
    scores = tmp_path / "scores.parquet"
    score = SCORE.format(blocked={"torch"})
    arguments = clicks.package, clicks.raw, scores, "onnxruntime"
    assert run(score, *arguments).split() == ["OnnxScorer", "1500"]
    out = tmp_path / "out"
    out.mkdir()
    scored = [["doctor"], *scoring(clicks, out)]
    commands = scored + training(clicks, out)
    check(outcomes(COMMANDS, commands, python, ""), commands, len(scored))
