"""Install the pinned stack and this project into the interpreter that runs this file.

    .venv/bin/python packaging/install.py [auto|cpu|cuda]

Needs the standard library only. ``auto`` is ``cuda`` where ``nvidia-smi -L`` lists a GPU.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WHEELS = {
    "cpu": "https://download.pytorch.org/whl/cpu",
    "cuda": "https://download.pytorch.org/whl/cu130",
}
# TorchX 0.7.0 needs urllib3 1, which pip learns late, after it has tried old versions of others.
BOUNDS = ("urllib3<2", "docker>=7", "requests-oauthlib>=2", "boto3>=1.40")


def detect() -> str:
    """``cuda`` where an NVIDIA GPU answers, else ``cpu``."""
    if shutil.which("nvidia-smi") is None:
        return "cpu"
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return "cuda" if listing.returncode == 0 and "GPU" in listing.stdout else "cpu"


def reachable(url: str) -> bool:
    """Whether the wheel index answers within five seconds."""
    request = urllib.request.Request(f"{url}/torch/", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=5):
            return True
    except OSError:
        return False


def known() -> ModuleType:
    """``seo_rec/stack.py``, which needs the standard library only and says what fits together."""
    spec = importlib.util.spec_from_file_location("stack", ROOT / "seo_rec" / "stack.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def offered() -> str:
    """The versions of torch that pip's own index has, in one text."""
    command = [sys.executable, "-m", "pip", "index", "versions", "torch"]
    return subprocess.run(command, capture_output=True, text=True).stdout


def choose(stack: str, has_index: bool, triples: Sequence[Any]) -> Any:
    """The newest known triple; without PyTorch's index, the newest of which pip has a CPU build."""
    if stack == "cpu" and not has_index:
        words = offered().replace(",", " ").split()
        for triple in triples:
            if f"{triple.torch}+cpu" in words:
                return triple
    return triples[0]


def installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def misfits(stack: str) -> list[str]:
    """What an earlier set-up for the other kind of machine left behind. The two FBGEMM wheels
    own the same files, and pip takes any build of torch for the wanted one."""
    fbgemm = {name: installed(name) for name in ("fbgemm-gpu", "fbgemm-gpu-cpu")}
    torch = installed("torch") or ""
    if stack == "cpu":
        wrong = fbgemm["fbgemm-gpu"] is not None and not fbgemm["fbgemm-gpu"].endswith("+cpu")
    else:
        wrong = fbgemm["fbgemm-gpu-cpu"] is not None
    names = [name for name, found in fbgemm.items() if wrong and found]
    if stack == "cuda" and torch.endswith("+cpu"):
        names.append("torch")
    return names


def install(*args: str) -> None:
    """Python compiles a file when it is first imported; pip would compile all 20,000 of them."""
    pip("install", "--no-compile", *args)


def pip(*args: str) -> None:
    command = [sys.executable, "-m", "pip", *args]
    print("+", *command, flush=True)
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PIP_NO_INPUT": "1"})
    if done.returncode:
        sys.exit(f"pip failed with exit status {done.returncode}; its message is above")


@contextmanager
def installed_beside(*args: str) -> Iterator[None]:
    """A ``pip install`` that runs beside the body; its output comes after it.

    Raises:
        SystemExit: It failed.
    """
    command = [sys.executable, "-m", "pip", "install", "--no-compile", *args]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield
        except BaseException:
            process.kill()
            process.wait()
            raise
        ended = process.wait()
        log.seek(0)
        print("+", *command, log.read(), sep=" ", flush=True)
    if ended:
        sys.exit(f"pip failed with exit status {ended}; its message is above")


def requirements(*extras: str) -> list[str]:
    """What ``pip install -e .[EXTRAS]`` installs beside this project.

    Args:
        extras: Names in ``optional-dependencies`` of ``pyproject.toml``.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found, waiting = list[str](project["dependencies"]), [*extras]
    for extra in waiting:  # grows
        for text in project["optional-dependencies"][extra]:
            if own := re.fullmatch(r"seo-rec\[(.*)\]", text):
                waiting += [name for name in own[1].split(",") if name not in waiting]
            else:
                found.append(text)
    return found


def main() -> None:
    wish = sys.argv[1] if len(sys.argv) > 1 else "auto"
    if wish not in ("auto", *WHEELS):
        sys.exit(f"the stack is {wish!r}; allowed: auto, cpu, cuda")
    stack = detect() if wish == "auto" else wish
    print(f"installing the {stack} build of the stack", flush=True)

    # Older versions of pip try combinations for minutes; setuptools builds this project.
    install("--upgrade", "pip>=25", "setuptools>=77.0.3")
    # Its kernels are compiled on one core while the libraries are installed on another.
    with installed_beside("--no-build-isolation", "--no-deps", "-e", "."):
        install_libraries(stack)

    # Read the versions first: a wrong triple then ends in a sentence, not in a trace.
    code = "from seo_rec import stack; stack.check(); import torchrec"
    if subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode:
        sys.exit("the stack was installed but does not load; its message is above")


def install_libraries(stack: str) -> None:
    """The triple of the stack, and what this project and its tools need."""
    if remove := misfits(stack):
        pip("uninstall", "-y", *remove)
    index = WHEELS[stack]
    has_index = reachable(index)
    if not has_index:
        print(f"{index} is out of reach, taking torch from pip's own index", flush=True)
    triple = choose(stack, has_index, known().TRIPLES)
    install(f"torch=={triple.torch}", *(["--extra-index-url", index] * has_index))
    shim = ["./packaging/fbgemm-gpu-cpu-shim"] if stack == "cpu" else []
    library = "fbgemm-gpu-cpu" if stack == "cpu" else "fbgemm-gpu"
    pins = {"torch": triple.torch, "torchrec": triple.torchrec, library: triple.fbgemm}
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        lines = [*(f"{name}=={v}" for name, v in pins.items()), *BOUNDS]
        constraints.write_text("".join(f"{line}\n" for line in lines))
        install("--constraint", str(constraints), *shim, *requirements("dev"))


if __name__ == "__main__":
    main()
