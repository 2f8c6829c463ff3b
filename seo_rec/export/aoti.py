"""A package's graph as machine code (AOTInductor), for programs without Python.

A ``.pt2`` file is code that runs when it is loaded. So nothing loads one unless the caller says
that its source is trusted.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from seo_rec.export.twin import Twin, example_inputs
from seo_rec.files import first_line
from seo_rec.serve.bags import Floats, Inputs
from seo_rec.serve.layout import AOTI_FILE, PackageError
from seo_rec.serve.package import Package, read_package
from seo_rec.serve.predictor import Predictor
from seo_rec.serve.signature import signature_of


class CompileError(ValueError):
    """The graph cannot be compiled; the message says why."""


def aoti_bytes(twin: Twin) -> bytes:
    """The compiled graph of a twin, its numbers included.

    Args:
        twin: What is compiled, for the processor of this machine.

    Raises:
        CompileError: There is no C++ compiler, or it fails.
    """
    import torch._inductor

    example, shapes = example_inputs(twin.signature)
    with TemporaryDirectory(prefix="seo-rec-aoti-") as scratch:
        path = Path(scratch) / AOTI_FILE
        try:
            program = torch.export.export(
                twin, example, dynamic_shapes=(tuple(shapes),), strict=False
            )
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
        except Exception as error:  # of torch, of the compiler, or of the system
            raise CompileError(
                f"--format aoti: the graph cannot be compiled here ({first_line(error)}); it needs "
                "a C++ compiler"
            ) from error
        return path.read_bytes()


class CompiledScorer:
    """Scores rows by the machine code of a package.

    Args:
        package: What is served; it holds ``model.pt2``.
    """

    def __init__(self, package: Package) -> None:
        import torch._inductor

        path = package.path / AOTI_FILE
        try:
            self._run: Any = torch._inductor.aoti_load_package(str(path))
        except Exception as error:
            raise PackageError(f"{path}: cannot be loaded ({first_line(error)})") from error
        self.package = package
        self.signature = signature_of(package.policy, package.preparation)

    def logits(self, inputs: Inputs) -> Floats:
        """float32 (B,), or (B, T) of T labels."""
        if not len(inputs):
            labels = self.package.labels
            return np.zeros((0, len(labels)) if labels else 0, np.float32)
        if any(bags.weights is not None for bags in inputs.columns.values()):
            raise ValueError("the compiled graph takes no weights of ids; use another engine")
        feed = self.signature.feed(self.package.policy, inputs)
        arrays = [np.require(feed[name], requirements="W") for name in self.signature.names]
        logits: torch.Tensor = self._run(*map(torch.from_numpy, arrays))
        found: Floats = logits.numpy()
        return found


def load_compiled(path: Path | str, *, trust_code: bool = False) -> Predictor:
    """Open a package, check its files, run its machine code, and verify its golden rows.

    Args:
        path: The folder of a package with ``model.pt2``.
        trust_code: That the package comes from a source whose code may run here.

    Raises:
        PackageError: The code is not trusted; there is none; or the package is damaged.
    """
    package = read_package(path)
    if AOTI_FILE not in package.files:
        raise PackageError(f"{path}: holds no {AOTI_FILE}; export it with --format aoti")
    if not trust_code:
        raise PackageError(
            f"{Path(path) / AOTI_FILE} is machine code, which does whatever its author wants; if "
            "you trust its source, say so by trust_code=True"
        )
    predictor = Predictor(package, CompiledScorer(package))
    predictor.verify()
    return predictor
