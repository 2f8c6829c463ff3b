"""The stack check, on made-up site-packages folders: no library is imported or installed."""

import shlex
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from seo_rec import stack

RIGHT_CPU = {
    "torch": "2.13.0+cpu",
    "torchrec": "1.8.0",
    "fbgemm-gpu": "1.8.0+cpu",  # the shim: it holds no module
    "fbgemm-gpu-cpu": "1.8.0",
}
RIGHT_CUDA = {"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm-gpu": "1.8.0"}
NEWEST = {
    "torch": "2.14.1+cpu",
    "torchrec": "1.9.2",
    "fbgemm-gpu": "1.9.0+cpu",
    "fbgemm-gpu-cpu": "1.9.0",
}


def site_packages(
    folder: Path, versions: dict[str, str], cuda_torch: bool = False, shim: bool = True
) -> list[str]:
    """Write the metadata of ``versions``; ``shim`` makes fbgemm-gpu a package of no module."""
    for name, version in versions.items():
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        is_library = name == "fbgemm-gpu-cpu" or (name == "fbgemm-gpu" and not shim)
        module = "fbgemm_gpu/__init__.py,,\n" if is_library else ""
        if is_library:  # importlib.metadata lists only files that exist
            (folder / "fbgemm_gpu").mkdir(exist_ok=True)
            (folder / "fbgemm_gpu" / "__init__.py").touch()
        (info / "RECORD").write_text(f"{module}{info.name}/METADATA,,\n")
    if cuda_torch:
        library = folder / "torch" / "lib" / "libtorch_cuda.so"
        library.parent.mkdir(parents=True)
        library.touch()
    return [str(folder)]


@pytest.mark.parametrize(
    "versions, cuda_torch, shim",
    [
        pytest.param(RIGHT_CPU, False, True, id="cpu with the shim"),
        pytest.param(NEWEST, False, True, id="the newest triple"),
        pytest.param({**RIGHT_CPU, "torch": "2.13.0"}, True, True, id="cpu fbgemm, cuda torch"),
        pytest.param(
            {name: RIGHT_CPU[name] for name in ("torch", "torchrec", "fbgemm-gpu-cpu")},
            False,
            True,
            id="cpu without the shim",
        ),
        pytest.param(
            {"torch": "2.13.0+cpu", "torchrec": "1.8.0+cpu", "fbgemm-gpu": "1.8.0+cpu"},
            False,
            False,
            id="cpu from the PyTorch index, under the CUDA name",
        ),
        pytest.param(RIGHT_CUDA, True, False, id="cuda"),
        pytest.param(
            {name: f"{version}+cu130" for name, version in RIGHT_CUDA.items()},
            True,
            False,
            id="cuda with local versions",
        ),
    ],
)
def test_right_stacks_pass(tmp_path, versions, cuda_torch, shim):
    stack.check(site_packages(tmp_path, versions, cuda_torch, shim))


WRONG = [
    pytest.param(
        {**RIGHT_CPU, "torch": "2.12.1+cpu"},
        {},
        ["torch 2.12.1+cpu", "torch 2.13.0", "install torch==2.13.0"],
        id="torch too old",
    ),
    pytest.param(
        {**RIGHT_CPU, "torchrec": "1.7.0"},
        {},
        ["torchrec 1.7.0", "torchrec 1.8.0", "install --no-deps torchrec==1.8.0"],
        id="torchrec too old",
    ),
    pytest.param(
        {**RIGHT_CPU, "fbgemm-gpu-cpu": "1.7.0"},
        {},
        ["fbgemm-gpu-cpu 1.7.0", "install --no-deps fbgemm-gpu-cpu==1.8.0"],
        id="fbgemm-gpu-cpu too old",
    ),
    pytest.param(
        {**RIGHT_CUDA, "fbgemm-gpu": "1.9.0"},
        {"cuda_torch": True, "shim": False},
        ["fbgemm-gpu 1.9.0", "install --no-deps fbgemm-gpu==1.8.0"],
        id="fbgemm-gpu too new",
    ),
    pytest.param(
        {**RIGHT_CUDA, "torch": "2.13.0+cpu"},
        {"shim": False},
        ["libtorch_cuda.so", "uninstall -y fbgemm-gpu &&", "--no-deps fbgemm-gpu-cpu==1.8.0"],
        id="cuda fbgemm, cpu torch",
    ),
    pytest.param(
        {**RIGHT_CUDA, "torch": "2.13.0"},
        {"shim": False},
        ["libtorch_cuda.so", "uninstall -y fbgemm-gpu &&"],
        id="cuda fbgemm, cpu torch without a local version",
    ),
    pytest.param(
        {**RIGHT_CUDA, "fbgemm-gpu-cpu": "1.8.0"},
        {"cuda_torch": True, "shim": False},
        [
            "both fbgemm-gpu 1.8.0 and fbgemm-gpu-cpu 1.8.0",
            "uninstall -y fbgemm-gpu fbgemm-gpu-cpu &&",
            "--no-deps fbgemm-gpu==1.8.0",
        ],
        id="both fbgemm wheels",
    ),
    pytest.param(
        {"torch": "2.13.0+cpu", "torchrec": "1.8.0"},
        {},
        ["neither fbgemm-gpu nor fbgemm-gpu-cpu", "--no-deps fbgemm-gpu-cpu==1.8.0"],
        id="no fbgemm",
    ),
    pytest.param(
        {"torch": "2.13.0+cpu", "torchrec": "1.8.0", "fbgemm-gpu": "1.8.0+cpu"},
        {},
        ["neither fbgemm-gpu nor fbgemm-gpu-cpu"],
        id="the shim alone",
    ),
    pytest.param(
        {**NEWEST, "torch": "2.15.0+cpu"},
        {},
        ["found torch 2.15.0+cpu. It needs torch 2.14.1, torchrec 1.9.2", "torch==2.14.1"],
        id="torch too new for the newest FBGEMM",
    ),
    pytest.param(
        {**NEWEST, "torch": "2.13.0+cpu"},
        {},
        ["found torch 2.13.0+cpu. It needs torch 2.14.1", ", or 2.13.0, 1.8.0 and 1.8.0"],
        id="two of one triple and one of another",
    ),
    pytest.param(
        {},
        {},
        ["no torch;", "no torchrec;", "install torch==2.14.1", "tensordict"],
        id="nothing",
    ),
]


@pytest.mark.parametrize("versions, build, parts", WRONG)
def test_wrong_stacks_are_one_sentence_with_a_repair(tmp_path, versions, build, parts):
    with pytest.raises(stack.StackError) as caught:
        stack.check(site_packages(tmp_path, versions, **build))
    message = str(caught.value)
    assert "\n" not in message
    for part in [*parts, "It needs torch 2.1", "2.13.0", "Repair: "]:
        assert part in message
    command = shlex.split(message.partition("Repair: ")[2])
    assert command[0] == sys.executable
    # pip must never be asked to resolve torchrec on its own: it would bring the CUDA build.
    for step in message.partition("Repair: ")[2].split(" && "):
        if "torchrec==" in step:
            assert "--no-deps" in step


def test_a_stack_error_is_an_import_error():
    assert issubclass(stack.StackError, ImportError)


def run_with(path: list[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` where ``path`` shadows the installed libraries' metadata."""
    root = str(Path(stack.__file__).parent.parent)
    prelude = f"import sys; sys.path[:0] = {[*path, root]!r}\n"
    return subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code)], capture_output=True, text=True
    )


def command_line(*args: str) -> str:
    return f"""
        sys.argv = {["seo-rec", *args]!r}
        from seo_rec.cli.main import main
        main()
        """


@pytest.mark.parametrize("library", stack.GUARDED)
def test_a_wrong_stack_fails_where_a_library_is_first_needed(tmp_path, library):
    path = site_packages(tmp_path, {**RIGHT_CPU, "torchrec": "1.7.0"})
    done = run_with(
        path,
        f"""
        import seo_rec, seo_rec.policy  # what needs no torchrec still works
        import {library}
        """,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "StackError" in last
    assert "torchrec 1.7.0" in last
    assert "undefined symbol" not in done.stderr


def test_doctor_says_so_and_exits_with_1(tmp_path):
    path = site_packages(tmp_path, {**RIGHT_CPU, "torchrec": "1.7.0"})
    done = run_with(path, command_line("doctor"))
    assert done.returncode == 1, done.stderr
    assert "found torchrec 1.7.0" in done.stdout
    assert "install --no-deps torchrec==1.8.0" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_command_on_a_wrong_stack_prints_the_sentence_and_no_trace(tmp_path):
    path = site_packages(tmp_path, {**RIGHT_CPU, "torchrec": "1.7.0"})
    done = run_with(path, command_line("search", "DATA", "--out", "RUN"))
    assert done.returncode != 0
    assert "found torchrec 1.7.0" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_does_not_wait_for_torch():
    done = run_with(
        [],
        """
        import atexit
        atexit.register(lambda: print("torch" in sys.modules))
        """
        + command_line("--help"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"


def test_doctor_on_this_machine():
    from seo_rec.cli.doctor import findings

    found = {(line.section, line.name): line for line in findings()}
    assert [line for line in found.values() if line.status == "wrong"] == []
    assert found["stack", "verdict"].status == "ok"
    assert found["optimizers", "cpu: dense adam"].status == "ok"
    assert found["optimizers", "cpu: fused adam"].status == "absent"
    for name in ("sgd", "adagrad", "rowwise_adagrad"):
        assert found["optimizers", f"cpu: fused {name}"].status == "ok"
    assert "local_cwd" in found["torchx", "schedulers"].value


def test_importing_seo_rec_is_cheap():
    done = run_with(
        [],
        """
        import time
        start = time.process_time()
        import seo_rec
        print(time.process_time() - start)
        heavy = {"torch", "torchrec", "fbgemm_gpu", "numpy", "pyarrow"} & set(sys.modules)
        assert not heavy, heavy
        """,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2  # 0.05 s on a quiet machine


def test_the_check_itself_takes_milliseconds():
    stack.check()
    best = min(_seconds_of_one_check() for _ in range(5))
    assert best < 0.2


def _seconds_of_one_check() -> float:
    start = time.process_time()
    stack.check()
    return time.process_time() - start
