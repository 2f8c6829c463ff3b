"""The wheel of this tree, and which distributions its extras ask for."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def build_wheel(folder: Path) -> Path:
    """The wheel, built in a copy so that no build/ folder appears in the tree."""
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in ("seo_rec", "kernels", "components"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "setup.py", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(source)], check=True)
    return next(folder.glob("*.whl"))


def required(*extras: str) -> set[str]:
    """Names of the distributions that ``pip install 'seo-rec[EXTRAS]'`` brings to this machine.

    The first step is read from ``pyproject.toml``, the further ones from what is installed here.
    """
    own = PROJECT["optional-dependencies"]
    waiting = [(text, "") for text in PROJECT["dependencies"]]
    waiting += [(text, "") for extra in extras for text in own[extra]]
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    while waiting:
        text, wanted = waiting.pop()
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": wanted}):
            continue
        if name == "seo-rec":
            waiting += [(more, "") for extra in requirement.extras for more in own[extra]]
            continue
        found.add(name)
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            needs = []
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += [(more, extra) for more in needs]
    return found


def not_required(*extras: str) -> set[str]:
    """Importable packages of this environment that ``seo-rec[EXTRAS]`` does not ask for."""
    allowed = required(*extras)
    return {
        package
        for package, owners in packages_distributions().items()
        if not allowed & {canonicalize_name(owner) for owner in owners}
    } - {"seo_rec", "seo_kernels", "seo_rec_components", "__pycache__"}
