"""The C kernels: built where there is a compiler, missed without harm where there is none."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from seo_kernels import native

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "kernels" / "seo_kernels"
LIBRARY = f"library{sysconfig.get_config_var('EXT_SUFFIX')}"


def test_a_machine_without_a_compiler_installs_without_the_library(tmp_path):
    """With one, ``test_packaging.py`` builds the wheel."""
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    folders = ["--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp")]
    no_compiler = {**os.environ, "CC": "/bin/false"}
    done = subprocess.run(
        [*command, *folders], cwd=ROOT, env=no_compiler, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("library*"))


@pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))
def test_a_library_of_another_abi_is_not_used(monkeypatch):
    monkeypatch.setattr(native, "ABI", native.ABI + 1)
    library, missing = native._load.__wrapped__()
    assert library is None
    assert "install the package again" in missing


def test_a_broken_library_is_a_reason_and_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    assert "install a C compiler" in native._load.__wrapped__()[1]
    (tmp_path / LIBRARY).write_text("not a library")
    library, missing = native._load.__wrapped__()
    assert library is None
    assert missing.startswith(f"{LIBRARY} does not load")


@pytest.mark.slow
def test_without_the_library_the_tests_that_need_it_are_skipped():
    code = (
        "import sys, pytest; from seo_kernels import native; "
        "native._load = lambda: (None, 'hidden by a test'); "
        "sys.exit(pytest.main(sys.argv[1:]))"
    )
    files = ["tests/test_embed.py", "tests/test_throughput.py", "tests/kernels/test_remap_op.py"]
    command = [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", "-k", "one_pass", *files]
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    environment = {**os.environ, **paths}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    reasons = re.findall(r"^SKIPPED \[(\d+)\] .*hidden by a test$", done.stdout, re.MULTILINE)
    assert sum(map(int, reasons)) >= 20, done.stdout


def test_only_kernel_files_import_triton():
    for path in KERNELS.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
        names += [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
        triton = any(name.split(".")[0] == "triton" for name in names)
        assert triton == (path.name == "kernel.py"), path
