"""What a wheel holds, that it works away from the clone, and that the version pins agree."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from seo_rec import __version__, stack

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_ranges_hold_the_triples_of_the_stack_check():
    """The newest triple has the newest versions of the ranges, which pip takes."""
    ranges = {
        r.name: r.specifier for r in map(Requirement, PROJECT["optional-dependencies"]["train"])
    }
    shim = tomllib.loads((ROOT / "packaging/fbgemm-gpu-cpu-shim/pyproject.toml").read_text())
    (library,) = map(Requirement, shim["project"]["dependencies"])
    assert library.specifier == ranges["fbgemm-gpu"]
    assert ranges["fbgemm-gpu"].contains(shim["project"]["version"])
    for triple in stack.TRIPLES:
        assert ranges["torch"].contains(triple.torch)
        assert ranges["torchrec"].contains(triple.torchrec)
        assert ranges["fbgemm-gpu"].contains(triple.fbgemm)
    newest = stack.TRIPLES[0]
    for name, version in (("torch", newest.torch), ("torchrec", newest.torchrec)):
        major, minor, _ = version.split(".")
        assert not ranges[name].contains(f"{major}.{int(minor) + 1}.0")


@pytest.mark.parametrize(
    "kind, has_index, offered, taken",
    [
        ("cpu", True, "", 0),
        ("cuda", False, "Available versions: 2.15.0, 2.13.0+cpu", 0),
        ("cpu", False, "Available versions: 2.15.0, 2.14.1, 2.13.0+cpu, 2.13.0", 1),
        ("cpu", False, "Available versions: 2.14.1+cpu, 2.13.0+cpu", 0),
        ("cpu", False, "Available versions: 2.14.1, 2.13.0", 0),
    ],
)
def test_the_newest_triple_is_installed_that_has_a_build_for_the_machine(
    kind, has_index, offered, taken
):
    installer = load_installer()
    installer.offered = lambda: offered
    assert installer.choose(kind, has_index, stack.TRIPLES) is stack.TRIPLES[taken]
    assert installer.known().TRIPLES[0].torch == stack.TRIPLES[0].torch


def test_the_version_is_written_once_more_and_agrees():
    assert PROJECT["version"] == __version__


def load_installer():
    spec = importlib.util.spec_from_file_location("installer", ROOT / "packaging/install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "kind, versions, removed",
    [
        ("cpu", {}, []),
        ("cpu", {"fbgemm-gpu": "1.8.0+cpu", "fbgemm-gpu-cpu": "1.8.0"}, []),
        ("cpu", {"fbgemm-gpu": "1.8.0"}, ["fbgemm-gpu"]),
        ("cpu", {"fbgemm-gpu": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}, "both"),
        ("cuda", {}, []),
        ("cuda", {"fbgemm-gpu": "1.8.0", "torch": "2.13.0"}, []),
        ("cuda", {"fbgemm-gpu": "1.8.0+cpu", "fbgemm-gpu-cpu": "1.8.0"}, "both"),
        ("cuda", {"torch": "2.13.0+cpu"}, ["torch"]),
    ],
)
def test_a_set_up_for_the_other_kind_of_machine_is_removed_first(kind, versions, removed):
    installer = load_installer()
    installer.installed = versions.get
    both = ["fbgemm-gpu", "fbgemm-gpu-cpu"]
    assert installer.misfits(kind) == (both if removed == "both" else removed)


def test_the_set_up_installs_what_the_extra_for_developers_asks_for():
    """All extras lead to it but one, which CI installs elsewhere; the project is no library."""
    extras = PROJECT["optional-dependencies"]
    texts = {
        *PROJECT["dependencies"],
        *(t for n, ts in extras.items() if n != "triton" for t in ts),
    }
    other = {*extras["hdfs"]} - {*extras["s3"]}
    wanted = {t for t in texts - other if Requirement(t).name != "seo-rec"}
    found = load_installer().requirements("dev")
    assert set(found) == wanted and len(found) == len(wanted)


def test_what_is_installed_beside_fails_the_set_up_and_ends_with_it(monkeypatch, capfd):
    installer = load_installer()
    with installer.installed_beside("--help"):
        pass
    assert "pip install [options]" in capfd.readouterr().out
    with (
        pytest.raises(SystemExit, match="exit status"),
        installer.installed_beside("--no-such-option"),
    ):
        pass
    assert "no such option" in capfd.readouterr().out
    started = []
    popen = installer.subprocess.Popen

    def sleeping(command, **more):
        started.append(popen(["sleep", "3600"], **more))
        return started[0]

    monkeypatch.setattr(installer.subprocess, "Popen", sleeping)
    with pytest.raises(KeyboardInterrupt), installer.installed_beside():
        raise KeyboardInterrupt
    assert started[0].returncode == -9


def test_the_set_up_reads_what_fits_together_before_anything_is_installed(tmp_path):
    """``packaging/install.py`` reads a file of the package, which cannot be imported then."""
    code = "import runpy, sys; print(len(runpy.run_path(sys.argv[1])['TRIPLES']))"
    file = ROOT / "seo_rec" / "stack.py"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, file],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) == len(stack.TRIPLES)


def test_make_keeps_bytecode_where_the_surroundings_ask_it_not_to():
    """Else each of the processes that tests start compiles all libraries anew."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    rule = "told:; @echo [$$PYTHONDONTWRITEBYTECODE]"
    surroundings = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    told = subprocess.run(
        ["make", "--silent", "--no-print-directory", f"--eval={rule}", "told"],
        cwd=ROOT,
        env=surroundings,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "[]\n"


def test_folders_named_like_well_known_packages_do_not_hide_them():
    for name in ("packaging", "kernels"):
        assert not (ROOT / name / "__init__.py").exists()


@pytest.mark.slow
def test_the_wheel_holds_every_module_under_a_name_of_its_own(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packages = {name.split("/")[0] for name in names if not name.startswith("seo_rec-")}
    assert packages == {"seo_rec", "seo_kernels", "seo_rec_components"}
    for path in (ROOT / "seo_rec").rglob("*.py"):
        assert path.relative_to(ROOT).as_posix() in names
    for path in (ROOT / "kernels/seo_kernels").rglob("*.py"):
        assert path.relative_to(ROOT / "kernels").as_posix() in names
    assert {"seo_rec_components/seo.py", "seo_rec/py.typed", "seo_kernels/py.typed"} <= names
    assert any(re.fullmatch(r"seo_rec-.*\.dist-info/licenses/LICENSE", name) for name in names)
    assert not any("test" in name.split("/")[0] for name in names)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_works_away_from_the_clone(wheel, tmp_path):
    """In an environment of its own, which sees this one's libraries but not the clone."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = tmp_path / "env/bin/python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed", str(wheel)]
    subprocess.run([python, *pip], check=True, cwd=tmp_path)

    def run(*command: str) -> str:
        done = subprocess.run(
            [tmp_path / "env/bin" / command[0], *command[1:]],
            cwd=tmp_path,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    modules = "seo_rec, seo_kernels, seo_rec_components"
    where = run("python", "-c", f"import {modules}\nfor m in ({modules}): print(m.__file__)")
    assert [Path(line).is_relative_to(tmp_path) for line in where.split()] == [True] * 3
    assert "doctor" in run("seo-rec", "--help")
    run("seo-rec", "doctor")
    assert "doctor" in run("python", "-m", "seo_rec", "--help")
    builtins = run("python", "-m", "torchx.cli.main", "builtins")
    for name in ("seo.search", "seo.applier", "dist.ddp", "utils.echo"):
        assert name in builtins
    torchx_run = ["python", "-m", "torchx.cli.main", "run", "-s", "local_cwd"]
    assert "job-search" in run(*torchx_run, "--dryrun", "seo.search")
