"""What several test files share: one small prepared data set, and the command line in-process."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
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
