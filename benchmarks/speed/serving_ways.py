"""One way of scoring, in a process of its own: times, memory and logits as a line of JSON.

    python -m benchmarks.speed.serving_ways WAY PACKAGES PROGRAM

``benchmarks.speed.serving`` starts it. Nothing is imported that the way does not need.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seo_rec.policy.addresses import lookup_rows
from seo_rec.serve.bags import Bags, Inputs
from seo_rec.serve.layout import AOTI_FILE, ONNX_FILE
from seo_rec.serve.package import Package, read_package
from seo_rec.serve.predictor import Predictor

BATCHES = {1: 2_000, 64: 500, 512: 200}  # rows of a call: calls that are timed
WAYS = [
    "onnxruntime",
    "onnxruntime, ids in a matrix",
    "onnxruntime, hashed before",
    "onnxruntime, int8",
    "onnxruntime, int8, row by row",
    "numpy",
    "AOTI, C++",
    "AOTI, C++, hashed before",
    "AOTI, C++, int8",
    "PyTorch",
    "TorchRec",
    "TorchRec, int8",
]

# of a model with large tables
LARGE_WAYS = ["onnxruntime", "onnxruntime, int8", "AOTI, C++", "AOTI, C++, int8"]
LARGE = 64 << 20  # bytes of floats above which the graph reads int8 row by row
SPREAD = 64  # times the rows of the largest batch take turns, where tables are larger than caches

Ids = npt.NDArray[np.int64]
Call = Callable[[], Any]


def ids_of(package: Package, rows: int) -> Ids:
    """int64 (rows, C): the same ids for every way."""
    return np.random.default_rng(1).integers(0, 1 << 40, (rows, len(package.policy.columns)))


def matrix_given(packages: Path, way: str) -> Callable[[int], Call]:
    """A graph alone, given a matrix of ids or of row numbers."""
    from seo_rec.serve.fast import open_session

    before = "hashed" in way
    session = open_session(packages / ("hashed" if before else "float32") / ONNX_FILE, 1)
    package = read_package(packages / "float32")
    ids = ids_of(package, max(BATCHES))
    matrix = hashed(package, ids) if before else ids

    def call(rows: int) -> Call:
        batch = matrix[:rows]
        return lambda: session.run(["logits"], {"ids": batch})[0]

    return call


def folder_of(way: str) -> str:
    """The package of a way that hashes."""
    if "row by row" in way:
        return "row by row"
    return "int8" if "int8" in way else "float32"


def ours(packages: Path, way: str) -> Callable[[int], Call]:
    folder = packages / folder_of(way)
    predictor = Predictor.load(folder, way.partition(",")[0], 1)
    policy = predictor.package.policy
    ids = ids_of(predictor.package, max(BATCHES) * spread_of(predictor.package))

    def call(rows: int) -> Call:
        batches = []
        # no call reads the rows of an earlier one, as long as there are others
        turns = len(ids) // rows if len(ids) > max(BATCHES) else 1
        for start in range(0, min(turns, 2 * BATCHES[rows]) * rows, rows):
            part = ids[start : start + rows]
            columns = {n: Bags(part[:, i].copy()) for i, n in enumerate(policy.columns)}
            batches.append(Inputs(np.zeros((rows, 0), np.float32), columns))
        given = cycle(batches)
        return lambda: predictor.scorer.logits(next(given))

    return call


def spread_of(package: Package) -> int:
    """How many times the rows of the largest batch the calls read."""
    floats = sum(t.num_rows * t.dim * 4 for t in package.policy.tables)
    return SPREAD if floats > LARGE else 1


def hashed(package: Package, ids: Ids) -> Ids:
    """int64 (B, K): the row of every lookup."""
    policy = package.policy
    places = {name: i for i, name in enumerate(policy.columns)}
    rows = [
        lookup_rows(policy, f, k, ids[:, places[f.columns[0]]])
        for f in policy.features
        for k in f.lookups
    ]
    return np.stack(rows, axis=1)


def theirs(packages: Path, way: str) -> Callable[[int], Call]:
    import torch

    from benchmarks.speed.serving_torch import Eager, collection

    torch.set_num_threads(1)
    package = read_package(packages / "float32")
    model = Eager(package) if way == "PyTorch" else collection(package, "int8" in way)
    rows_BK = torch.from_numpy(hashed(package, ids_of(package, max(BATCHES))))

    def call(rows: int) -> Call:
        batch = rows_BK[:rows].contiguous()

        def run() -> Any:
            with torch.inference_mode():
                return model(batch).numpy()

        return run

    return call


def compiled(packages: Path, program: Path, way: str) -> dict[str, Any]:
    """What the program in C++ says."""
    package = read_package(packages / folder_of(way))
    folder, ids = package.path, ids_of(package, max(BATCHES) * spread_of(package))
    if "hashed" in way:
        folder, ids = packages / "hashed", hashed(package, ids)
    path = packages / "ids.bin"
    path.write_bytes(ids.tobytes())
    command = [str(program), str(folder / AOTI_FILE), str(path), str(ids.shape[1])]
    command += [f"{batch}:{calls}" for batch, calls in BATCHES.items()]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def way_of(packages: Path, way: str) -> Callable[[int], Call]:
    """What makes the call of a way in Python, by the number of rows."""
    if way in ("onnxruntime, hashed before", "onnxruntime, ids in a matrix"):
        return matrix_given(packages, way)
    if way.startswith(("onnxruntime", "numpy")):
        return ours(packages, way)
    return theirs(packages, way)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def timed(make: Callable[[int], Call]) -> dict[str, Any]:
    nanoseconds: dict[str, list[int]] = {}
    for batch, calls in BATCHES.items():
        call, found = make(batch), []
        for i in range(2 * calls):
            started = time.perf_counter_ns()
            call()
            if i >= calls:
                found.append(time.perf_counter_ns() - started)
        nanoseconds[str(batch)] = found
    logits = np.asarray(make(max(BATCHES))()).tolist()
    return {"nanoseconds": nanoseconds, "resident_bytes": resident_bytes(), "logits": logits}


def main() -> None:
    way, packages, program = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if way.startswith("AOTI"):
        said = compiled(packages, program, way)
    else:
        said = timed(way_of(packages, way))
    print(json.dumps(said))


if __name__ == "__main__":
    main()
