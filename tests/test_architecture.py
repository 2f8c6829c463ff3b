"""Rules of the house that a tool can check.

``python tests/test_architecture.py --write`` regenerates ``tests/golden/cli.txt``.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import typer

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "cli.txt"
PACKAGES = ("seo_rec", "kernels/seo_kernels", "components")
FORBIDDEN_NAMES = {"util", "utils", "common", "helper", "helpers", "manager", "managers", "base"}
TORCH_FREE = ("stack", "files", "schema", "policy", "methods", "settings", "apply", "runs")
MAX_BYTES = 1_000_000
# Spelled so that this line does not match itself.
MACHINE_PATH = re.compile(r"(?<![\w.~$}])/(?:work|root|opt|home)/[\w.]")


@cache
def tracked() -> tuple[Path, ...]:
    """Files that are or would be committed; outside a clone, all but the usual leftovers."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0 and done.stdout:
        paths = [ROOT / name for name in done.stdout.split("\0") if name]
    else:
        skip = re.compile(r"(^|/)(\.venv|\.git|\.\w+_cache|__pycache__|build|[^/]+\.egg-info)/")
        skip_top = ("runs/", "data/")
        paths = [
            path
            for path in ROOT.rglob("*")
            if not skip.search(name := path.relative_to(ROOT).as_posix())
            and not name.startswith(skip_top)
        ]
    return tuple(sorted(path for path in paths if path.is_file()))


@cache
def modules() -> dict[str, ast.Module]:
    """Path in the clone -> syntax tree, of every module of the packages."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def test_imports_point_down_only():
    """In a process of its own: import-linter disables every logger that exists when it starts."""
    code = "from importlinter.cli import lint_imports; "
    code += "raise SystemExit(lint_imports(config_filename='.importlinter', no_cache=True))"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_decisions_need_no_torch():
    """Not only no import statement: nothing they import brings torch along."""
    present = [
        name
        for name in TORCH_FREE
        if (ROOT / f"seo_rec/{name}.py").exists() or (ROOT / f"seo_rec/{name}").is_dir()
    ]
    imports = ", ".join(f"seo_rec.{name}" for name in present)
    code = f"import sys, {imports}; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_modules_are_named_for_what_they_hold():
    found = [name for name in modules() if set(Path(name).with_suffix("").parts) & FORBIDDEN_NAMES]
    assert found == []


def test_every_package_says_where_to_begin():
    """What it is, what comes in, what goes out, and the modules to read first, which exist."""
    for path in (ROOT / "seo_rec").rglob("__init__.py"):
        if path.parent == ROOT / "seo_rec":
            continue
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        place = path.parent.relative_to(ROOT).as_posix()
        assert {"In:", "Out:", "Begin"} <= set(doc.split()), place
        for name in re.findall(r":(?:mod|class|func|meth):`~?(seo_rec[\w.]*)`", doc):
            assert names_something(name), f"{place}: {name}"


def names_something(name: str) -> bool:
    """Whether there is a module, or a definition in a module, of this dotted name."""
    *parents, last = name.split(".")
    folder = ROOT.joinpath(*parents)
    if (folder / last).is_dir() or (folder / f"{last}.py").is_file():
        return True
    for module in (folder / "__init__.py", folder.with_suffix(".py")):
        if module.is_file() and re.search(rf"\b{last}\b", module.read_text()):
            return True
    return len(parents) > 2 and names_something(".".join(parents))  # a method of a class


def passes_kwargs_through(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    if function.args.kwarg is None:
        return False
    name = function.args.kwarg.arg
    return any(
        isinstance(node, ast.keyword)
        and node.arg is None
        and isinstance(node.value, ast.Name)
        and node.value.id == name
        for node in ast.walk(function)
    )


def test_no_function_passes_kwargs_through():
    found = [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and passes_kwargs_through(node)
    ]
    assert found == []


def test_inheritance_stops_at_depth_2():
    """Among our own classes; what a library's class inherits from is its own affair."""
    parents = {
        node.name: [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]
        for tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }

    def depth(name: str) -> int:
        return 1 + max((depth(base) for base in parents[name] if base in parents), default=0)

    assert [name for name in parents if depth(name) > 2] == []


def test_no_file_names_a_place_on_one_machine():
    found = []
    for path in tracked():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        name = path.relative_to(ROOT).as_posix()
        found += [
            f"{name}:{number}: {line.strip()[:100]}"
            for number, line in enumerate(lines, 1)
            if MACHINE_PATH.search(line)
        ]
    assert found == []


def test_the_machine_path_pattern_works():
    for text in ("/wo" + "rk/data", 'x = "/ro' + 'ot/.cache"', "file:///o" + "pt/wheels"):
        assert MACHINE_PATH.search(text)
    for text in ("data/work/x", "./work/x", "https://x.org/opt/y", "/usr/bin/env"):
        assert not MACHINE_PATH.search(text)


def test_no_file_is_larger_than_a_megabyte():
    large = {path.name: path.stat().st_size for path in tracked()}
    assert {name: size for name, size in large.items() if size > MAX_BYTES} == {}


def cli_lines() -> Iterator[str]:
    """One line per command and parameter of the command line, sorted."""
    from seo_rec.cli.main import app

    def walk(prefix: str, command: object) -> Iterator[str]:
        for name, child in sorted(getattr(command, "commands", {}).items()):
            yield from walk(f"{prefix} {name}", child)
        if not hasattr(command, "commands"):
            yield prefix
        for parameter in sorted(command.params, key=lambda parameter: parameter.name):
            if parameter.name == "help":
                continue
            if parameter.param_type_name == "argument":
                yield f"{prefix} {parameter.name.upper()}"
            else:
                yield f"{prefix} {' '.join([*parameter.opts, *parameter.secondary_opts])}"

    yield from walk("seo-rec", typer.main.get_command(app))


def test_command_line_is_frozen():
    """A new option needs a reason: prefer a Python function. Then regenerate the golden file."""
    assert GOLDEN.exists(), "run: python tests/test_architecture.py --write"
    assert list(cli_lines()) == GOLDEN.read_text().splitlines()


def test_scripts_are_executable():
    scripts = [path for path in tracked() if path.read_bytes()[:2] == b"#!"]
    assert [path.name for path in scripts if not os.access(path, os.X_OK)] == []


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/test_architecture.py --write")
    sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    GOLDEN.write_text("\n".join(cli_lines()) + "\n")
    print(f"wrote {GOLDEN.relative_to(ROOT)}")
