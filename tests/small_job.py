"""A training of a second or two, as a TorchX component, for tests that start real processes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torchx.specs as specs

from components import seo
from seo_rec import recipes
from seo_rec.data.dataset import open_data

OPTIONS = ["--epochs", "4", "--patience", "4", "--batch-size", "32", "--checkpoint-every", "5"]
OPTIONS += ["--l2", "0"]
CLOCKS = {"seconds", "seconds_per_epoch", "search_seconds", "examples_per_s", "command"}
CLOCKS |= {"environment"}


def write_policy(data: Path, path: Path) -> Path:
    """A policy that shares two tables among all features."""
    changes = {"chunk_dim": 4}
    recipes.method_policy("multi-size", open_data(data), 1600, dim=8, changes=changes).save(path)
    return path


def train(data: Path, policy: Path, out: Path, *options: str, **launch: Any) -> specs.Role:
    """The role of the component ``train`` for this job; ``launch``: j, max_restarts, ..."""
    given: dict[str, Any] = {"data": str(data), "policy": str(policy), "out": str(out)}
    env = {"OMP_NUM_THREADS": "1", **launch.pop("env", {})}
    (role,) = seo.train(*OPTIONS, *options, **given, env=env, **launch).roles
    return role


def run(role: specs.Role) -> None:
    """Run a role of one node to its end.

    Raises:
        AssertionError: it failed; the message is what it said.
    """
    command = [role.entrypoint, *role.args]
    done = subprocess.run(command, env=environment(role), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def environment(role: specs.Role) -> dict[str, str]:
    return {**os.environ, **role.env}


def outcome(out: Path) -> dict[str, Any]:
    """What a run left that must not depend on how often it was interrupted, weights as sums."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    result = json.loads((out / "result.json").read_text())
    weights = {}
    for marker in sorted((out / "best").glob("*/complete.json")):
        files = json.loads(marker.read_text())["files"]
        tensors = {name: entry for name, entry in files.items() if name.endswith(".distcp")}
        weights[marker.parent.name] = tensors
    assert weights, f"{out} holds no weights"
    metrics = [_timeless(json.loads(line)) for line in lines]
    return {"result": _timeless(result), "metrics": metrics, "weights": weights}


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Two runs whose tables were cut differently agree in all they measured."""
    assert found["result"] == pytest.approx(expected["result"], abs=1e-6)
    assert len(found["metrics"]) == len(expected["metrics"])
    for one, other in zip(found["metrics"], expected["metrics"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in CLOCKS}
    return [_timeless(v) for v in value] if isinstance(value, list) else value
