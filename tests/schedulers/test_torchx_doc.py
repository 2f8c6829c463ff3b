"""Every ``torchx`` command of docs/torchx.md is run, in the order of the document.

Jobs are made short by further options. Those of Slurm run on a cluster of two nodes.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import slurm
import two_hosts
from torchx_jobs import APPLIER, CLI, ROOT, SEARCH, TORCHX, make_clone

DOCUMENT = ROOT / "docs" / "torchx.md"
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
FIT = ["--epochs", "1", "--batch-size", "512"]
SHORT = {"search": SEARCH, "applier": APPLIER, "train": FIT}
SHORT["compare"] = [*FIT, "--set", "seo.run_off.epochs=1"]
LIBRARIES = {"kubernetes": "kubernetes", "local_docker": "docker"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def commands() -> list[list[str]]:
    """The words of each command of the document that begins with ``torchx``."""
    text = "\n".join(BLOCK.findall(DOCUMENT.read_text())).replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("torchx ")]


def shortened(words: list[str]) -> list[str]:
    """With the options that make the job short and that the command does not give itself."""
    component = next((w.split(":")[1] for w in words if ".py:" in w), "")
    further = list(SHORT.get(component, []))
    if component == "search" and "--data" in words:
        further = further[2:]  # no --rows
    for name in [w for w in words if w.startswith("--") and w in further]:
        at = further.index(name)
        del further[at : at + 2]
    return [*words, *([] if "--" in words else ["--"]), *further] if further else words


def renumbered(word: str, jobs: list[str]) -> str:
    """A handle of the document with the number of the job that was submitted as that one."""
    return re.sub(r"(?<=slurm://torchx/)\d+", lambda number: jobs[int(number[0]) - 1], word)


LOCAL = [c for c in commands() if "--dryrun" not in c and "slurm" not in " ".join(c)]
SLURM = [c for c in commands() if "slurm" in " ".join(c)]
DRY = [c for c in commands() if "--dryrun" in c]


@pytest.fixture(scope="module")
def clone(forked_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the jobs of this machine have run, as forks."""
    folder = make_clone(tmp_path_factory.mktemp("doc") / "clone")
    for words in LOCAL:
        done = subprocess.run(
            [forked_python, *CLI, *shortened(words)],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
    return folder


def test_the_jobs_of_this_machine(clone: Path) -> None:
    results = {str(p.parent.relative_to(clone)) for p in clone.glob("runs/**/result.json")}
    assert {"runs/torchx/applier", "runs/two/applier", "runs/jobs/train"} <= results
    assert "runs/jobs/nodes" in results
    assert (clone / "runs/jobs/plan.json").exists()


@pytest.mark.skipif(bool(slurm.why_not()), reason=str(slurm.why_not()))
@pytest.mark.skipif(bool(two_hosts.why_not()), reason=str(two_hosts.why_not()))
def test_the_jobs_of_slurm(clone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "slurm"
    folder.mkdir()
    with two_hosts.two_hosts() as hosts, slurm.slurm(folder, hosts) as cluster:
        jobs: list[str] = []  # the document numbers them from 1
        for typed in SLURM:
            words = [renumbered(word, jobs) for word in typed]
            done = cluster.run(*TORCHX, *shortened(words), cwd=clone)
            assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
            if words[0] == "run":
                jobs += re.findall(r"^slurm://torchx/(\d+)$", done.stdout, re.MULTILINE)
                assert set(cluster.wait(jobs[-1], 900)) == {"COMPLETED"}, shlex.join(words)
    assert (clone / "runs/jobs/slurm/result.json").exists()


@pytest.mark.parametrize("words", DRY, ids=lambda words: words[words.index("-s") + 1])
def test_the_dry_runs(words: list[str], tmp_path: Path) -> None:
    library = LIBRARIES.get(words[words.index("-s") + 1])
    if library:
        pytest.importorskip(library)
    done = subprocess.run(
        [*TORCHX, *words], cwd=make_clone(tmp_path / "clone"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "registry.example.com/seo:1" in done.stdout.split("=== SCHEDULER REQUEST ===")[1]


def test_every_component_is_shown() -> None:
    table = DOCUMENT.read_text().split("\n## ")[0]
    shown = {w.split(":")[1] for words in commands() for w in words if ".py:" in w}
    assert shown | {"benchmark"} == set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
