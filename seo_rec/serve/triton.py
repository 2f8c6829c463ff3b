"""The configuration of a model of Triton's ONNX Runtime backend, from a package.

A model's folder of a Triton repository is ``config.pbtxt`` and ``1/model.onnx/``, and the latter is
the package itself: a folder of that name may hold the graph and the files it refers to.
"""

from __future__ import annotations

import json
from pathlib import Path

from seo_rec.serve.layout import ONNX_FILE, PackageError
from seo_rec.serve.package import Package, read_package
from seo_rec.serve.signature import Signature, signature_of

CONFIG_FILE = "config.pbtxt"
PACKAGE_FOLDER = Path("1") / ONNX_FILE  # of version 1, named as Triton looks for it
MAX_BATCH = 4096  # rows that Triton joins at most


def triton_config(package: Package) -> str:
    """The text of ``config.pbtxt``.

    Where every column has one id in a row at most, Triton joins the requests that wait (dynamic
    batching). Bags of other columns come as one list of ids for all rows, which Triton cannot join;
    then each request is computed as it is.

    Args:
        package: With its graph.

    Raises:
        PackageError: The package holds no graph.
    """
    if ONNX_FILE not in package.files:
        raise PackageError(f"{package.path}: holds no {ONNX_FILE}; export it with --format triton")
    signature = signature_of(package.policy, package.preparation)
    batched = not signature.ragged
    rows = [] if batched else [-1]
    labels = [len(package.labels)] if package.labels else []
    inputs = [_input(name, signature, rows) for name in signature.names]
    shape = f"dims: [ {', '.join(map(str, [*rows, *labels]))} ]"
    if batched and not labels:  # the graph gives (B,), and Triton wants a number for each row
        shape = "dims: [ 1 ]\n    reshape { shape: [ ] }"
    output = f'  {{\n    name: "logits"\n    data_type: TYPE_FP32\n    {shape}\n  }}'
    lines = [
        'backend: "onnxruntime"',
        f"max_batch_size: {MAX_BATCH if batched else 0}",
        "input [",
        ",\n".join(inputs),
        "]",
        "output [",
        output,
        "]",
        *(["dynamic_batching { }"] if batched else []),
        "instance_group [ { count: 1 kind: KIND_CPU } ]",
    ]
    return "\n".join(lines) + "\n"


def _input(name: str, signature: Signature, rows: list[int]) -> str:
    widths = {"dense": [signature.num_dense], "ids": [len(signature.columns)]}
    kind = "TYPE_FP32" if name == "dense" else "TYPE_INT64"
    dims = ", ".join(str(size) for size in [*rows, *widths.get(name, [])])
    return f"  {{\n    name: {json.dumps(name)}\n    data_type: {kind}\n    dims: [ {dims} ]\n  }}"


def write_config(model: Path) -> None:
    """Write ``config.pbtxt`` into a model's folder, whose package is there.

    Raises:
        PackageError: There is no package with a graph in it.
    """
    text = triton_config(read_package(model / PACKAGE_FOLDER))
    (model / CONFIG_FILE).write_text(text)
