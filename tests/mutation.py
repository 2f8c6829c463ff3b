"""Makes the faults of ``mutants.py`` in a copy of the project, and runs the tests against each.

``python -m tests.mutants [NAME ...]``, from the root of the project; exit status 1 if a fault is
not noticed. The project itself is never changed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.mutants import Mutant

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("seo_rec", "kernels", "components", "benchmarks", "docs", "tests")
COPIED_FILES = ("pyproject.toml", "setup.py", "README.md")
PASSED, FAILED = 0, 1  # exit statuses of pytest; others mean that it could not run the tests
NOT_THE_COPY = 90  # an exit status of our own: the code under test came from somewhere else
TIMEOUT = "--timeout=60"  # seconds of one test: a fault may never end, and that is noticed, too


def main(mutants: Sequence[Mutant]) -> None:
    """Run the mutants that the command line names, or all, print a table and exit."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants to run; all if none")
    names = parser.parse_args().names
    if unknown := sorted(set(names) - {m.name for m in mutants}):
        parser.error(f"unknown mutants {unknown}; there are {', '.join(m.name for m in mutants)}")
    chosen = [m for m in mutants if not names or m.name in names]
    _import_libraries()
    with TemporaryDirectory(prefix="mutants-") as scratch:
        copy = Path(scratch) / "project"
        _copy_project(copy)
        sys.exit(_run_all(chosen, copy))


def _run_all(mutants: Sequence[Mutant], copy: Path) -> int:
    """The exit status: 0 if every mutant is caught, 1 if one survives, 2 if tests cannot run."""
    tests = dict.fromkeys(test for m in mutants for test in m.tests)
    status, seconds, output = _pytest(copy, tests)
    if status != PASSED:
        print(f"{output}\nthe tests must pass before a fault is made (pytest exits with {status})")
        return 2
    print(f"{len(tests)} tests pass in {seconds:.0f} s\n")
    width, wrong = max(len(m.name) for m in mutants), 0
    for m in mutants:
        status, seconds, output = _with_fault(m, copy)
        result = {FAILED: "caught", PASSED: "SURVIVED"}.get(status, f"BROKEN ({status})")
        by = re.search("^(?:FAILED|ERROR) (\\S+)", output, re.MULTILINE)
        by_test = by[1] if by else ""
        print(f"{m.name:<{width}}  {result:<8}  {seconds:5.1f} s  {by_test}", flush=True)
        if status not in (FAILED, PASSED):
            print(output)
        wrong += status != FAILED
    print(f"\n{len(mutants) - wrong} of {len(mutants)} mutants caught")
    return min(wrong, 1)


def _with_fault(mutant: Mutant, copy: Path) -> tuple[int, float, str]:
    """What pytest says while the copy has the fault."""
    path = copy / mutant.file
    code = path.read_text()
    path.write_text(with_fault(mutant, code))
    try:
        return _pytest(copy, mutant.tests)
    finally:
        path.write_text(code)


def with_fault(mutant: Mutant, code: str) -> str:
    """``code`` with the fault in it.

    Raises:
        ValueError: The text that is replaced does not occur exactly once.
    """
    count = code.count(mutant.before)
    if count != 1:
        raise ValueError(
            f"mutant {mutant.name!r}: {mutant.before!r} occurs {count} times in {mutant.file}; it "
            "must occur once, so bring tests/mutants.py up to date"
        )
    return code.replace(mutant.before, mutant.after)


def _copy_project(copy: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    for name in COPIED:
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for name in COPIED_FILES:
        shutil.copy(ROOT / name, copy / name)


def _import_libraries() -> None:
    """Import what all tests need and no fault changes, once, before the processes are forked."""
    import pytest  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch
    import torchrec.distributed  # noqa: F401

    torch.set_num_threads(1)


def _pytest(copy: Path, tests: Iterable[str]) -> tuple[int, float, str]:
    """Exit status, seconds and output of pytest in ``copy``, in a process of its own."""
    started = time.perf_counter()
    log = copy.parent / "output"
    process = multiprocessing.get_context("fork").Process(target=_child, args=(copy, [*tests], log))
    process.start()
    process.join()
    return process.exitcode or 0, time.perf_counter() - started, log.read_text(errors="replace")


def _child(copy: Path, tests: Sequence[str], log: Path) -> None:
    import pytest
    from hypothesis import Phase, settings

    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.chdir(copy)
    paths = [str(copy), str(copy / "kernels"), str(copy / "tests")]
    sys.path[:] = paths + [p for p in sys.path if p and not Path(p).is_relative_to(ROOT / "tests")]
    sys.dont_write_bytecode = True  # compiled code of the same second and size would be reused
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths[:2]), "PYTHONDONTWRITEBYTECODE": "1"}
    settings.register_profile("first-failure", phases=(Phase.explicit, Phase.generate))
    settings.load_profile("first-failure")  # to make a failing example small takes minutes
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", TIMEOUT]
    status = int(pytest.main([*options, *tests]))
    sys.stdout.flush()
    module = sys.modules.get("seo_rec")
    there = module is not None and Path(str(module.__file__)).is_relative_to(copy)
    os._exit(status if there else NOT_THE_COPY)
