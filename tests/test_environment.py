"""The stamp of a result."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from seo_rec import environment


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, from whose ``seo_rec`` folder the stamp is taken."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    for name in ("seo_rec/environment.py", "benchmarks/results/step.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("{}\n")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for command in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "one")):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "seo_rec" / "environment.py"))
    return tmp_path


def test_records_that_wait_for_their_commit_are_not_uncommitted_code(clone: Path) -> None:
    (clone / "benchmarks" / "results" / "step.jsonl").write_text("{}\n{}\n")
    (clone / "benchmarks" / "results" / "epoch.jsonl").write_text("{}\n")
    assert environment.stamp()["git_dirty"] is False


@pytest.mark.parametrize("name", ["seo_rec/environment.py", "benchmarks/record.py", "new.py"])
def test_changed_and_new_files_are(clone: Path, name: str) -> None:
    (clone / name).write_text("changed\n")
    assert environment.stamp()["git_dirty"] is True


def test_unknown_outside_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "environment.py"))
    found = environment.stamp()
    assert found["git_sha"] is None
    assert found["git_dirty"] is None
