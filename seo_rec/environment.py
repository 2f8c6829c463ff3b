"""Where a number was measured: a stamp for every result."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

RECORDS = "benchmarks/results"
PACKAGES = {
    "torch": ("torch",),
    "torchrec": ("torchrec",),
    "fbgemm": ("fbgemm-gpu-cpu", "fbgemm-gpu"),
    "numpy": ("numpy",),
    "pyarrow": ("pyarrow",),
}


def stamp() -> dict[str, Any]:
    """Git sha and dirty flag, machine, versions, threads, UTC date; None where unknown.

    Records that are waiting for their commit do not make the code that wrote them dirty.
    """
    status = _git("status", "--porcelain", "--", ":/", f":(top,exclude){RECORDS}")
    return {
        "git_sha": _git("rev-parse", "HEAD"),
        "git_dirty": None if status is None else bool(status),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "ram_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: _version(wheels) for name, wheels in PACKAGES.items()},
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def library_versions() -> dict[str, str | None]:
    """The versions of the libraries that decide what a training computes; None if absent."""
    return {name: _version(PACKAGES[name]) for name in ("torch", "torchrec", "fbgemm")}


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).resolve().parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or None


def _version(wheels: tuple[str, ...]) -> str | None:
    for wheel in wheels:
        try:
            return importlib.metadata.version(wheel)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
