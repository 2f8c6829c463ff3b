"""``CONTRIBUTING.md``: its lists of files are true, and following its examples works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from test_readme import ROOT, Block, blocks

PAGE = "CONTRIBUTING.md"
# The cost of a change in files, tests not counted; a recipe that needs more needs a better house.
MOST = {"method": 2, "backbone": 3, "search": 3, "data set": 4, "kernel": 5}
COPIED = ("seo_rec", "kernels", "tests", "components")


class Recipe(NamedTuple):
    """A list of files: what they make, how many the page allows, (verb, path) of each."""

    kind: str
    most: int
    files: tuple[tuple[str, str], ...]


def recipes() -> list[Recipe]:
    found = []
    for block in blocks():
        first, *rest = block.code.splitlines()
        head = re.fullmatch(r"([\w ]+): at most (\d+) files", first)
        if block.document == PAGE and head:
            files = tuple((line.split()[0], line.split()[1]) for line in rest)
            found.append(Recipe(head[1], int(head[2]), files))
    return found


def examples() -> list[Block]:
    """The blocks that write or change a file, which their first line names."""
    named = re.compile(r"^ ?# [\w./]+\n")
    page = [b for b in blocks() if b.document == PAGE and b.language in ("python", "diff", "ini")]
    return [b for b in page if named.match(b.code)]


def target(block: Block) -> str:
    return block.code.splitlines()[0].strip("# ")


def changed(text: str, code: str) -> str:
    """``text`` without the lines after ``-``, and with those after ``+`` behind the line before.

    Raises:
        ValueError: a line that is to go or to stand before others is not there, or not once.
    """
    lines, place = text.splitlines(), -1
    for line in code.splitlines()[1:]:
        if line.startswith("+"):
            place += 1
            lines.insert(place, line[1:])
        elif line != " ...":
            if lines.count(line[1:]) != 1:
                raise ValueError(f"{line[1:]!r} is there {lines.count(line[1:])} times, not once")
            place = lines.index(line[1:])
            if line.startswith("-"):
                del lines[place]
                place -= 1
    return "\n".join(lines) + "\n"


def test_the_way_of_a_value_is_there() -> None:
    """Every file that the page names with a definition has it."""
    page = (ROOT / PAGE).read_text()
    named = re.findall(r"`(seo_rec/[\w/]+\.py)`: `(\w+)`", page)
    assert len(named) >= 17
    for path, name in named:
        assert re.search(rf"^(def|class) {name}\b", (ROOT / path).read_text(), re.MULTILINE), name


@pytest.mark.parametrize("recipe", recipes(), ids=lambda r: r.kind)
def test_the_files_of_a_recipe(recipe: Recipe) -> None:
    written = [target(b) for b in examples() if b.language == "python"]
    for verb, path in recipe.files:
        assert verb in ("new", "like", "edit")
        if verb != "new":
            assert (ROOT / path).is_file(), path
        else:
            assert not (ROOT / path).exists() and (ROOT / path).parent.is_dir(), path
            assert path in written, f"no example of {path}"
    counted = [path for _, path in recipe.files if not path.startswith("tests/")]
    assert recipe.most == MOST[recipe.kind]
    assert 0 < len(counted) <= recipe.most
    assert len(counted) < len(recipe.files), "no test is named"


def test_every_kind_has_a_recipe() -> None:
    assert [r.kind for r in recipes()] == list(MOST)


def test_changed_puts_lines_behind_their_anchors() -> None:
    assert changed("a\nb\n", " # x\n b\n+c\n+d\n ...\n a\n+e\n") == "a\ne\nb\nc\nd\n"
    assert changed("a\nb\nc\n", " # x\n-b\n+d\n") == "a\nd\nc\n"
    for text in ("a\n", "b\nb\n"):
        with pytest.raises(ValueError, match="times, not once"):
            changed(text, " # x\n b\n+c\n")


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which somebody followed the examples."""
    copy = tmp_path_factory.mktemp("followed")
    skip = shutil.ignore_patterns("__pycache__", ".*_cache")
    for name in COPIED:
        shutil.copytree(ROOT / name, copy / name, ignore=skip)
    for name in ("pyproject.toml", ".importlinter"):
        shutil.copy(ROOT / name, copy / name)
    for block in examples():
        path = copy / target(block)
        if block.language == "python":
            assert not path.exists()
            path.write_text(block.code.split("\n", 1)[1])
        else:
            path.write_text(changed(path.read_text(), block.code))
    return copy


def run(copy: Path, *command: str) -> str:
    """Run a Python command in the copy, with the copy's code."""
    paths = os.pathsep.join((str(copy), str(copy / "kernels")))
    done = subprocess.run(
        [sys.executable, *command],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


LAWS = [f"tests/test_{name}.py" for name in ("methods", "embed", "model", "fourth_root")]
LOOKED_UP = """
import sys
import pytest
from seo_rec.backbones import BACKBONES
from seo_rec.search import registry
assert registry.find("own-and-shared").family == "own-and-shared"
assert registry.find("fourth-root").family == "fourth-root"
assert "gate-net" in BACKBONES
sys.exit(pytest.main({words}))
"""


@pytest.mark.slow
def test_the_new_things_obey_the_laws(followed: Path) -> None:
    """Every law about methods, about embeddings and about backbones, and the search's own test.

    The new things are looked up by name first.
    """
    run(followed, "tests/test_model.py", "--write")
    words = [*LAWS, "-q", "-p", "no:cacheprovider", "-k", "own-and-shared or gate-net or fourth"]
    printed = run(followed, "-c", LOOKED_UP.format(words=words))
    passed = re.search(r"(\d+) passed", printed)
    assert passed and int(passed[1]) > 30, printed


@pytest.mark.slow
def test_imports_still_point_down(followed: Path) -> None:
    run(
        followed,
        "-c",
        "from importlinter.cli import lint_imports; import sys; "
        "sys.exit(lint_imports(config_filename='.importlinter', no_cache=True))",
    )
