"""Scores by ONNX Runtime, from the graph of a package."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from seo_rec.files import first_line
from seo_rec.serve.bags import Floats, Inputs
from seo_rec.serve.layout import ONNX_FILE, PackageError
from seo_rec.serve.package import Package
from seo_rec.serve.scorer import NumpyScorer
from seo_rec.serve.signature import signature_of


def is_installed() -> bool:
    """Whether ONNX Runtime can be imported."""
    return importlib.util.find_spec("onnxruntime") is not None


def open_session(path: Path, threads: int) -> Any:
    """A graph, loaded by ONNX Runtime for the processor.

    Args:
        path: Of the graph.
        threads: That one call uses; 0 takes one for each core that the process may run on.

    Raises:
        PackageError: It cannot be loaded.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors become exceptions, and warnings are of no use here
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        raise PackageError(f"{path}: cannot be loaded ({first_line(error)})") from error


class OnnxScorer:
    """Scores rows of a package by ONNX Runtime; several threads may use it at once.

    Rows with weights of ids are scored by NumPy: the graph has no input for them.

    Args:
        package: A package that holds ``model.onnx``.
        threads: That one call uses; 0 takes one for each core that the process may run on.

    Raises:
        PackageError: The package holds no graph, or one that does not fit the package.
    """

    def __init__(self, package: Package, threads: int = 0) -> None:
        path = package.path / ONNX_FILE
        if ONNX_FILE not in package.files:
            raise PackageError(
                f"{package.path}: holds no {ONNX_FILE}; export it with --format onnx"
            )
        self._session = open_session(path, threads)
        self.package = package
        self.signature = signature_of(package.policy, package.preparation)
        self._plain = NumpyScorer(package)
        found = {x.name: (x.type, len(x.shape)) for x in self._session.get_inputs()}
        wanted = {
            name: (
                "tensor(float)" if name == "dense" else "tensor(int64)",
                1 + (name in ("dense", "ids")),
            )
            for name in self.signature.names
        }
        if found != wanted or [x.name for x in self._session.get_outputs()] != ["logits"]:
            raise PackageError(f"{path}: has the inputs {found}; the package needs {wanted}")

    def logits(self, inputs: Inputs) -> Floats:
        """float32 (B,).

        Raises:
            ValueError: A row has more combinations than a cross may have, or the graph fails.
        """
        if any(bags.weights is not None for bags in inputs.columns.values()):
            return self._plain.logits(inputs)
        feed: dict[str, Any] = self.signature.feed(self.package.policy, inputs)
        try:
            (logits,) = self._session.run(["logits"], feed)
        except Exception as error:
            raise ValueError(f"{ONNX_FILE} failed ({first_line(error)})") from error
        found: Floats = logits
        return found
