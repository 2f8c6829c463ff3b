"""The list of mutants fits the code: every fault can be made, and its tests are there and quick.

Whether the tests notice the faults takes minutes: ``make mutants``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mutants import MUTANTS
from mutation import ROOT, with_fault
from tests.mutant import Mutant

each = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)


def test_names_are_unique() -> None:
    names = [m.name for m in MUTANTS]
    assert len(set(names)) == len(names) >= 30


def test_the_guide_says_how_many() -> None:
    (said,) = re.findall(r"each of (\d+) likely faults", (ROOT / "CONTRIBUTING.md").read_text())
    assert int(said) == len(MUTANTS)


@each
def test_the_fault_can_be_made(mutant: Mutant) -> None:
    """The text is there once, what comes of it is Python, and it says something else."""
    code = (ROOT / mutant.file).read_text()
    wrong = with_fault(mutant, code)
    assert ast.dump(ast.parse(wrong)) != ast.dump(ast.parse(code))


@each
def test_its_tests_are_there_and_not_slow(mutant: Mutant) -> None:
    assert mutant.tests
    for test in mutant.tests:
        path, _, function = test.partition("::")
        found = dict(slow_by_name(ROOT / path))
        assert found, f"{path} has no tests"
        if function:
            name = function.partition("[")[0]
            assert name in found, f"{path} has no {name}"
            assert not found[name], f"{test} is marked slow, and `make test` leaves it out"


def slow_by_name(path: Path) -> Iterator[tuple[str, bool]]:
    """The tests of a file, and whether each is marked slow as a whole."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            marks = [ast.unparse(d) for d in node.decorator_list]
            yield node.name, "pytest.mark.slow" in marks


def test_a_fault_that_cannot_be_made_is_named() -> None:
    mutant = Mutant("a", "x.py", "b", "c", ())
    assert with_fault(mutant, "a b\n") == "a c\n"
    for code in ("a\n", "b b\n"):
        with pytest.raises(ValueError, match=f"mutant 'a': 'b' occurs {code.count('b')} times"):
            with_fault(mutant, code)
