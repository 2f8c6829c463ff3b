"""Do the installed torch, torchrec and FBGEMM fit together?

They share one binary interface without declaring it: a wrong triple shows itself as an
undefined symbol or a missing ``libtorch_cuda.so`` deep inside an import. This module compares
the installed versions with the triples that are known to work and says so in one sentence. It reads
package metadata only and imports none of them, so it costs milliseconds.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution
from types import ModuleType


@dataclass(frozen=True)
class Triple:
    """Versions of the three libraries that share one binary interface."""

    torch: str
    torchrec: str
    fbgemm: str

    def matches(self, stack: Stack) -> int:
        """How many of the installed libraries have these versions."""
        library = stack.fbgemm_gpu or stack.fbgemm_gpu_cpu
        pairs = [
            (stack.torch, self.torch),
            (stack.torchrec, self.torchrec),
            (library, self.fbgemm),
        ]
        return sum(found is not None and _public(found) == version for found, version in pairs)


# Those with which all tests pass, the newest first (docs/stack.md).
TRIPLES = (Triple("2.14.1", "1.9.2", "1.9.0"), Triple("2.13.0", "1.8.0", "1.8.0"))

# What torchrec requires besides fbgemm-gpu, for a repair that has to pass `--no-deps`.
TORCHREC_REQUIRES = ("tensordict", "torchmetrics==1.0.3", "tqdm", "pyre-extensions")

GUARDED = ("torchrec", "fbgemm_gpu")

# Modules that the extra `train` brings; scoring a package needs none of them.
TRAINING = (
    "torch", "torchrec", "fbgemm_gpu", "torchx", "scipy", "sklearn", "matplotlib", "jinja2",
    "tensorboard", "tqdm", "optuna",
)  # fmt: skip


class StackError(ImportError):
    """The installed libraries do not fit together; the message says how to repair that."""


@dataclass(frozen=True)
class Stack:
    """The installed versions.

    Versions are ``None`` where the distribution is absent. ``fbgemm_gpu`` is the library under
    its own name, ``fbgemm_gpu_cpu`` the CPU build; the packaging shim, a distribution named
    ``fbgemm-gpu`` without a single module, is neither and is only noted.
    """

    torch: str | None
    torch_is_cuda: bool
    torchrec: str | None
    fbgemm_gpu: str | None
    fbgemm_gpu_cpu: str | None
    shim: str | None

    @property
    def is_absent(self) -> bool:
        """Whether torch, torchrec and FBGEMM are all absent, as where packages are only scored."""
        found = self.torch, self.torchrec, self.fbgemm_gpu, self.fbgemm_gpu_cpu, self.shim
        return not any(found)


def _public(version: str) -> str:
    """The version without its local part: ``2.13.0+cpu`` is ``2.13.0``."""
    return version.partition("+")[0]


def _find(name: str, path: Sequence[str] | None) -> Distribution | None:
    query = {"name": name} if path is None else {"name": name, "path": list(path)}
    return next(iter(Distribution.discover(**query)), None)  # type: ignore[arg-type]


def _holds_modules(distribution: Distribution, package: str) -> bool:
    return any(str(file).startswith(f"{package}/") for file in distribution.files or ())


def read(path: Sequence[str] | None = None) -> Stack:
    """Read the installed versions on ``path`` (default: ``sys.path``)."""
    torch, torchrec = _find("torch", path), _find("torchrec", path)
    gpu, cpu = _find("fbgemm-gpu", path), _find("fbgemm-gpu-cpu", path)
    is_library = gpu is not None and _holds_modules(gpu, "fbgemm_gpu")
    # The metadata of a torch wheel does not say what it was built for; its files do. A local
    # part, where there is one, is the wheel's own word and goes first.
    torch_is_cuda = (
        torch is not None
        and not torch.version.endswith("+cpu")
        and torch.locate_file("torch/lib/libtorch_cuda.so").exists()  # type: ignore[attr-defined]
    )
    return Stack(
        torch=torch.version if torch else None,
        torch_is_cuda=torch_is_cuda,
        torchrec=torchrec.version if torchrec else None,
        fbgemm_gpu=gpu.version if gpu and is_library else None,
        fbgemm_gpu_cpu=cpu.version if cpu else None,
        shim=gpu.version if gpu and not is_library else None,
    )


def problem(stack: Stack) -> str | None:
    """One sentence on what is wrong with ``stack`` (found, expected, repair), or ``None``.

    Of the known triples the one is expected that most of the installed versions belong to.
    """
    triple = max(TRIPLES, key=lambda t: t.matches(stack))  # the first one of equals
    faults: list[str] = []
    install: list[str] = []
    uninstall: list[str] = []

    def expect(name: str, found: str | None, version: str) -> None:
        if found is None or _public(found) != version:
            faults.append(f"{name} {found}" if found else f"no {name}")
            install.append(f"{name}=={version}")

    expect("torch", stack.torch, triple.torch)
    expect("torchrec", stack.torchrec, triple.torchrec)
    if stack.torchrec is None:
        install += TORCHREC_REQUIRES

    wanted = "fbgemm-gpu" if stack.torch_is_cuda else "fbgemm-gpu-cpu"
    library, cpu_build = stack.fbgemm_gpu, stack.fbgemm_gpu_cpu
    if library and cpu_build:
        faults.append(
            f"both fbgemm-gpu {library} and fbgemm-gpu-cpu {cpu_build}, which overwrite each "
            "other's files"
        )
        uninstall += ["fbgemm-gpu", "fbgemm-gpu-cpu"]
        install.append(f"{wanted}=={triple.fbgemm}")
    elif library and not library.endswith("+cpu") and stack.torch and not stack.torch_is_cuda:
        faults.append(
            f"fbgemm-gpu {library}, a CUDA build that needs libtorch_cuda.so, beside "
            f"torch {stack.torch}, a CPU build that has none"
        )
        uninstall.append("fbgemm-gpu")
        install.append(f"fbgemm-gpu-cpu=={triple.fbgemm}")
    elif library:
        expect("fbgemm-gpu", library, triple.fbgemm)
    elif cpu_build:
        expect("fbgemm-gpu-cpu", cpu_build, triple.fbgemm)
    else:
        faults.append("neither fbgemm-gpu nor fbgemm-gpu-cpu")
        if stack.shim:  # pip would take the shim for the library
            uninstall.append("fbgemm-gpu")
        install.append(f"{wanted}=={triple.fbgemm}")

    if not faults:
        return None
    others = "".join(
        f", or {t.torch}, {t.torchrec} and {t.fbgemm}" for t in TRIPLES if t is not triple
    )
    return (
        f"seo_rec found {'; '.join(faults)}. "
        f"It needs torch {triple.torch}, torchrec {triple.torchrec} and fbgemm-gpu (GPU) or "
        f"fbgemm-gpu-cpu (CPU) {triple.fbgemm}{others}. Repair: {_repair(uninstall, install)}"
    )


def _repair(uninstall: list[str], install: list[str]) -> str:
    """The shell command that removes, then installs. ``--no-deps`` where a requirement would
    bring back the wrong build: torchrec asks for fbgemm-gpu by its CUDA name."""
    pip = f"{shlex.quote(sys.executable)} -m pip"
    torch = [name for name in install if name.startswith("torch==")]
    others = [name for name in install if not name.startswith("torch==")]
    steps = [f"{pip} uninstall -y {' '.join(uninstall)}"] if uninstall else []
    if torch:
        steps.append(f"{pip} install {torch[0]}")
    if others:
        steps.append(f"{pip} install --no-deps {' '.join(others)}")
    return " && ".join(steps)


def check(path: Sequence[str] | None = None) -> None:
    """Raise unless the installed triple is a known one.

    Raises:
        StackError: The message names the installed versions, the expected ones and the repair.
    """
    message = problem(read(path))
    if message:
        raise StackError(message)


def without_training(error: ModuleNotFoundError) -> str | None:
    """What a user needs to know of a failed import, if it is of the extra ``train``, else None."""
    name = (error.name or "").partition(".")[0]
    if name not in TRAINING:
        return None
    from seo_rec.extras import installing  # here, since the set-up reads this file alone

    return f"{name} is not installed, and this command needs it: {installing('train')}"


class _Refuse(MetaPathFinder):
    """Answers the first import of a guarded library with the verdict."""

    def __init__(self, message: str) -> None:
        self.message = message

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in GUARDED:
            raise StackError(self.message)
        return None


def guard() -> None:
    """Make a wrong stack fail where it would break, with the verdict and not with a trace.

    With a right stack this does nothing. With a wrong one everything that needs no torchrec
    (policies, ``seo-rec doctor``, ``--help``) still works, and ``import torchrec`` raises
    :class:`StackError`. Where none of the libraries is installed, their imports fail as usual.
    """
    installed = read()
    message = None if installed.is_absent else problem(installed)
    if message and not any(isinstance(finder, _Refuse) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Refuse(message))
