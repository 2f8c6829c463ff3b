"""What several test files share: one small prepared data set, and the command line in-process."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported, so that the processes that tests start have one thread too: they share
# the cores with the other processes of the run, and behave alike however the run was started.
os.environ["OMP_NUM_THREADS"] = "1"

import torch

from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.synthetic import synthetic


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``gpu`` are skipped where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared synthetic data set, about 970 / 110 / 120 rows; read-only for every test."""
    out = tmp_path_factory.mktemp("data") / "tiny"
    synthetic(
        out,
        rows=1200,
        strong=2,
        weak=2,
        noise=2,
        numeric=1,
        multivalent=1,
        strong_vocab=30,
        weak_vocab=12,
        noise_vocab=100,
        missing_rate=0.05,
        signal=3.0,
    )
    return out


@pytest.fixture(scope="session")
def tiny_data(tiny: Path) -> DataSet:
    """``tiny``, opened."""
    return open_data(tiny)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Bits are promised for a fixed number of threads, and more than one slow small tests down."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_fsync() -> Iterator[None]:
    """Tests end processes and never the power: to wait for the disk would test nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@dataclass(frozen=True)
class Finished:
    """A command's exit status and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def seo_rec() -> Callable[..., Finished]:
    """``seo_rec("train", data, "--out", out)`` runs the command line's ``main`` in this process."""
    from seo_rec.cli.main import main

    def run(*arguments: object) -> Finished:
        before, code = sys.argv, 0
        sys.argv = ["seo-rec", *map(str, arguments)]
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            sys.argv = before
        return Finished(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``command(module, "--seeds", 0)`` runs a benchmark's ``main`` in this process."""

    def run(module: Any, *arguments: Any) -> None:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        module.main()

    return run


@pytest.fixture(scope="session")
def chain(
    seo_rec: Callable[..., Finished], tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a raw search, its applied policy and its training; read-only."""
    from small_commands import QUICK, RAW

    place = tmp_path_factory.mktemp("chain")
    for arguments in (
        ["search", tiny, "--out", place / "s", "--params", "1600", *RAW, *QUICK],
        ["apply", place / "s/policy.json", "--strategy", "exact", "--out", place / "a.json"],
        ["train", tiny, "--policy", place / "a.json", "--out", place / "t", *QUICK],
    ):
        done = seo_rec(*arguments)
        assert done.code == 0, done.err
        assert str(place) in done.out.splitlines()[-1]
    return place


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The titles of the models that are trained from now on."""
    from seo_rec.search.seo import searched
    from seo_rec.train import policy_fit

    titles: list[str] = []
    fit = policy_fit.fit

    def watched(*arguments: Any, title: str, **more: Any) -> Any:
        titles.append(title)
        return fit(*arguments, title=title, **more)

    for module in (policy_fit, searched):
        monkeypatch.setattr(module, "fit", watched)
    return titles


@pytest.fixture(scope="session")
def forked_python() -> Iterator[str]:
    """A ``python`` whose processes are forks of one that has loaded the libraries."""
    import fork_server

    with (
        tempfile.TemporaryDirectory(prefix="fork-") as folder,
        fork_server.forked_python(Path(folder)) as program,
    ):
        yield program


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built once for all processes of a test run."""
    from wheels import build_wheel

    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    with (place / "wheel.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = [*(place / "wheel").glob("*.whl")]
        return built[0] if built else build_wheel(place / "wheel")
