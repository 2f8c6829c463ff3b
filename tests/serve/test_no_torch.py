"""Scoring needs NumPy, Arrow and safetensors, and nothing else of the stack."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = (
    "torch", "torchrec", "fbgemm_gpu", "seo_kernels", "torchx", "scipy", "sklearn", "matplotlib",
    "pandas", "polars", "onnx", "rich", "typer", "jinja2",
)  # fmt: skip
BLOCKER = """
import sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError("blocked: " + name, name=name)

sys.meta_path.insert(0, Blocker())
"""
SCORE = """
import sys
from pathlib import Path
from seo_rec.serve import Predictor
from seo_rec.serve.delta import apply_delta
from seo_rec.serve.predict import predict_files
predictor = Predictor.load(sys.argv[1], sys.argv[4])
done = predict_files(predictor, [Path(sys.argv[2])], Path(sys.argv[3]))
assert not any(name in sys.modules for name in {blocked!r})
print(type(predictor.scorer).__name__, done.rows)
status = dict(line.split(":") for line in open("/proc/self/status") if ":" in line)
megabytes = int(status["VmHWM"].split()[0]) / 1024
assert megabytes < 250, megabytes
"""


def run(code: str, *arguments: object):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("engine", ["numpy", "onnxruntime"])
def test_scores_where_nothing_else_can_be_imported(engine, clicks, tmp_path):
    """With an import blocker, and within 250 MB of memory."""
    blocked = set(BLOCKED)
    code = BLOCKER.format(blocked=blocked) + SCORE.format(blocked=blocked)
    done = run(code, clicks.package, clicks.raw, tmp_path / "scores.parquet", engine)
    assert done.returncode == 0, done.stderr
    scorer = {"numpy": "NumpyScorer", "onnxruntime": "OnnxScorer"}[engine]
    assert done.stdout.split() == [scorer, "1500"]


def test_the_blocker_blocks():
    done = run(BLOCKER.format(blocked={"torch"}) + "import torch")
    assert done.returncode == 1 and "blocked: torch" in done.stderr
