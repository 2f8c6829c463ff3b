"""``seo-rec doctor``: what is installed, what this machine can run, and what is wrong."""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import typer
from rich.console import Console
from rich.table import Table

from seo_rec import __version__, stack
from seo_rec.extras import installing

Status = Literal["ok", "absent", "wrong"]
MARKS: dict[Status, str] = {"ok": "[green]ok[/]", "absent": "[dim]-[/]", "wrong": "[red]WRONG[/]"}


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``absent`` is a thing this machine does without; ``wrong`` is a
    thing that will break and makes the command exit with 1."""

    section: str
    name: str
    value: str
    status: Status = "ok"


def _versions() -> Iterator[Finding]:
    yield Finding("versions", "python", platform.python_version())
    yield Finding("versions", "seo-rec", __version__)
    found = stack.read()
    lacking: Status = "absent" if found.is_absent else "wrong"  # where packages are only scored
    triple = {
        "torch": found.torch,
        "torchrec": found.torchrec,
        "fbgemm-gpu": found.fbgemm_gpu,
        "fbgemm-gpu-cpu": found.fbgemm_gpu_cpu,
    }
    for name, number in triple.items():
        either = name.startswith("fbgemm") and (found.fbgemm_gpu or found.fbgemm_gpu_cpu)
        if number:
            yield Finding("versions", name, number)
        else:
            yield Finding("versions", name, "not installed", "absent" if either else lacking)
    others: dict[str, tuple[str, Status]] = {
        "torchx": ("not installed", lacking),
        "numpy": ("not installed", "wrong"),
        "pyarrow": ("not installed", "wrong"),
        "onnxruntime": ("not installed; packages are scored by NumPy", "absent"),
        "triton": ("not installed; kernels use references", "absent"),
    }
    for name, (otherwise, status) in others.items():
        try:
            yield Finding("versions", name, version(name))
        except PackageNotFoundError:
            yield Finding("versions", name, otherwise, status)


def _imports() -> Finding:
    """Whether the three libraries do load, after their versions said that they should."""
    try:
        import fbgemm_gpu  # noqa: F401
        import torch  # noqa: F401
        import torchrec  # noqa: F401
    except Exception as error:
        return Finding("stack", "import", f"{type(error).__name__}: {error}", "wrong")
    return Finding("stack", "import", "torch, torchrec and fbgemm_gpu load")


def _devices() -> Iterator[Finding]:
    import torch

    threads = f"{torch.get_num_threads()} torch threads, {os.cpu_count()} cores"
    limit = os.environ.get("OMP_NUM_THREADS")
    yield Finding("devices", "cpu", f"{threads}, OMP_NUM_THREADS {limit or 'not set'}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            memory = f"{properties.total_memory / 2**30:.0f} GiB"
            yield Finding("devices", f"cuda:{index}", f"{properties.name}, {memory}")
    elif torch.version.cuda and Path("/dev/nvidiactl").exists():
        text = f"torch is built for CUDA {torch.version.cuda} but the driver cannot run it"
        yield Finding("devices", "cuda", text, "wrong")
    else:
        yield Finding("devices", "cuda", "none", "absent")


def _optimizers() -> Iterator[Finding]:
    """Builds a 4 x 4 table with each optimizer, the only reliable answer FBGEMM gives."""
    import torch
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    fused = {
        "sgd": EmbOptimType.EXACT_SGD,
        "adagrad": EmbOptimType.EXACT_ADAGRAD,
        "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        "adam": EmbOptimType.ADAM,
    }
    places = {"cpu": (EmbeddingLocation.HOST, ComputeDevice.CPU)}
    if torch.cuda.is_available():
        places["cuda"] = (EmbeddingLocation.DEVICE, ComputeDevice.CUDA)
    for device, (location, compute) in places.items():
        yield Finding("optimizers", f"{device}: dense adam", "torch.optim.Adam")
        for name, kind in fused.items():
            label = f"{device}: fused {name}"
            try:
                SplitTableBatchedEmbeddingBagsCodegen([(4, 4, location, compute)], optimizer=kind)
            except Exception as error:
                expected = device == "cpu" and name == "adam"
                text = "does not exist in FBGEMM; dense adam does" if expected else str(error)
                yield Finding("optimizers", label, text, "absent" if expected else "wrong")
            else:
                yield Finding("optimizers", label, "FBGEMM")


def _kernels() -> Iterator[Finding]:
    """The ops of ``seo_kernels``, and what runs them here."""
    import torch

    import seo_kernels
    from seo_kernels import native

    has_triton = importlib.util.find_spec("triton") is not None
    runs = has_triton and (torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1")
    why = native.missing()
    on_cpu = "C on CPU" if why is None else f"PyTorch on CPU ({why})"
    for module in pkgutil.iter_modules(seo_kernels.__path__):
        if module.ispkg and module.name != "native":
            yield Finding("kernels", module.name, on_cpu + (", triton" if runs else ""))


def _schedulers() -> Finding:
    try:
        from torchx.schedulers import get_scheduler_factories

        names = ", ".join(get_scheduler_factories())
    except ImportError as error:
        return Finding("torchx", "schedulers", str(error), "wrong")
    return Finding("torchx", "schedulers", names)


def findings() -> list[Finding]:
    """All lines of the report. Probing stops at a wrong stack, which cannot be loaded."""
    lines = list(_versions())
    if stack.read().is_absent:
        text = f"this installation scores packages; to train: {installing('train')}"
        return [*lines, Finding("stack", "verdict", text, "absent")]
    verdict = stack.problem(stack.read())
    if verdict:
        return [*lines, Finding("stack", "verdict", verdict, "wrong")]
    lines.append(Finding("stack", "verdict", "the versions fit together"))
    loaded = _imports()
    lines.append(loaded)
    if loaded.status == "ok":
        lines += [*_devices(), *_optimizers(), *_kernels()]
    return [*lines, _schedulers()]


def doctor() -> None:
    """Print versions, devices, optimizers and kernels; exit 1 when something is wrong."""
    lines = findings()
    table = Table("", "", "", "", box=None, show_header=False, pad_edge=False)
    section = ""
    for line in lines:
        if section and line.section != section:
            table.add_row()
        shown = line.section if line.section != section else ""
        table.add_row(f"[bold]{shown}[/]", line.name, MARKS[line.status], line.value)
        section = line.section
    console = Console()
    console.print(table)
    wrong = [line for line in lines if line.status == "wrong"]
    for line in wrong:
        # In full and unwrapped: a repair command has to survive being copied.
        console.print(f"\n{line.name}: {line.value}", soft_wrap=True, markup=False, highlight=False)
    if wrong:
        raise typer.Exit(1)
