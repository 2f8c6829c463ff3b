"""How long do 1, 64 and 512 rows take to score: ours, PyTorch's and TorchRec's ways?

    python -m benchmarks.speed.serving [--rounds 2] [--record]

Two models with hidden layers of 256 and 64: six columns with four lookups each in four shared
tables, as a policy for MovieLens has, and 26 columns with a table of 10,000 rows of 16 floats each.
Every way runs in a process of its own on one thread, and the ways take turns in rounds; p50 and
p99 are of all calls of all rounds, after as many calls that are not counted. Memory is resident
after the last call, and Python and its libraries are part of it.

    onnxruntime         the package's graph; hashing is inside, and so is making the graph's inputs
    ..., in a matrix    the same graph alone, given a matrix of ids
    ..., hashed before  the same without the hash, given a matrix of row numbers
    ..., int8           the package's graph with tables of int8, which become floats at loading
    ..., row by row     the same as tables too large for that are read, but small
    numpy               the reference scorer, from ids too
    AOTI, C++           ``model.pt2`` in ``serving_aoti.cpp``; hashing is inside
    AOTI, C++, int8     the same with tables of int8
    PyTorch             a lookup by ``embedding`` for each table and a ``Sequential``, eager
    TorchRec            an ``EmbeddingBagCollection`` instead, with its ``KeyedJaggedTensor`` made
                        in the call
    TorchRec, int8      the same collection by ``torchrec.quant``, fx-traced and scripted

A third model has tables too large for caches, and for int8 to become floats: 26 of 100,000 rows.
Each call then reads other rows, and the graph and the compiled code are timed, with float32 and
with int8.

PyTorch and TorchRec get row numbers that were hashed beforehand. Every way's logits are compared
with the first way's before it is timed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.command import make_parser, set_up
from benchmarks.pages import serving as page
from benchmarks.record import Line, append, path_of
from benchmarks.speed.serving_ways import BATCHES, LARGE_WAYS, WAYS
from seo_rec.export import FORMATS, dequantized, package_parts
from seo_rec.export.aoti import aoti_bytes
from seo_rec.export.onnx_graph import onnx_bytes
from seo_rec.export.twin import Twin
from seo_rec.files import write_bytes
from seo_rec.model import ModelSettings, RecModel, build_model
from seo_rec.policy import Feature, Lookup, Policy, Table
from seo_rec.serve.layout import AOTI_FILE, BACKBONE_WEIGHTS_FILE, EMBEDDINGS_FILE, ONNX_FILE
from seo_rec.serve.preparation import Preparation
from seo_rec.serve.preparation_rules import Column
from seo_rec.serve.signature import signature_of
from seo_rec.serve.writing import Parts, write_package

RECORD = path_of("serving")
HIDDEN = (256, 64)
SOURCE = Path(__file__).with_name("serving_aoti.cpp")


def shared() -> Policy:
    """Six features that read four shared tables, 96,000 floats."""
    tables = tuple(Table(f"chunk_{j}", 6_000, 4) for j in range(4))
    return Policy(
        tables,
        tuple(
            Feature(
                f"c{i}", tuple(Lookup(t.name, seed=4 * i + j + 1) for j, t in enumerate(tables))
            )
            for i in range(6)
        ),
    )


def separate(rows: int = 10_000) -> Policy:
    """26 features with a table each."""
    return Policy(
        tuple(Table(f"t{i}", rows, 16) for i in range(26)),
        tuple(Feature(f"c{i}", (Lookup(f"t{i}", seed=i + 1),)) for i in range(26)),
    )


MODELS = {"6 columns, 4 shared tables": shared, "26 columns of width 16": separate}
LARGE_ROWS = 100_000  # of each table of the third model
LARGE_MODEL = "26 columns of width 16, 166 MB of floats"


def write_packages(policy: Policy, folder: Path, *, large: bool = False) -> None:
    """Packages of one model in float32 and in int8, and if small its graph without the hash."""
    columns = tuple(Column(name, "categorical") for name in policy.columns)
    preparation = Preparation("table", "label", {}, columns)
    about: dict[str, Mapping[str, str]] = {
        key: {} for key in ("data", "metrics", "versions", "model")
    }
    for precision in ("float32", "int8"):
        model = build_model(policy, 0, ModelSettings(hidden=HIDDEN, init_scale=0.1), 0).eval()
        parts = package_parts(model, preparation, precision, about, FORMATS)
        (folder / precision).mkdir()
        write_package(folder / precision, parts)
        if precision == "float32" and not large:
            write_without_hash(model, parts, folder)
    if large:
        return
    with mock.patch.object(dequantized, "FLOAT_BYTES", 0):
        model = build_model(policy, 0, ModelSettings(hidden=HIDDEN, init_scale=0.1), 0).eval()
        parts = package_parts(model, preparation, "int8", about, ("onnx",))
        (folder / "row by row").mkdir()
        write_package(folder / "row by row", parts)


def write_without_hash(model: RecModel, parts: Parts, folder: Path) -> None:
    """The graphs of a package without the hash, in ``hashed``; they take row numbers."""
    signature = signature_of(parts.policy, parts.preparation)
    twin = without_hash(
        Twin(parts.policy, parts.embeddings, model.backbone, signature), parts.policy
    )
    files = {
        name: (folder / "float32" / name).read_bytes()
        for name in (EMBEDDINGS_FILE, BACKBONE_WEIGHTS_FILE)
    }
    graphs = {ONNX_FILE: onnx_bytes(twin, files)}
    if "aoti" in FORMATS:
        graphs[AOTI_FILE] = aoti_bytes(twin)
    for name, content in {**files, **graphs}.items():
        write_bytes(folder / "hashed" / name, content)


def without_hash(twin: Twin, policy: Policy) -> Twin:
    """The twin, changed: its matrix holds the row of every lookup in place of ids."""
    block: Any = twin.single
    block.addresses.forward = lambda rows_BK: rows_BK
    lookups = tuple(f"{f.name} {j}" for f in policy.features for j in range(len(f.lookups)))
    twin.signature = replace(twin.signature, columns=lookups)
    return twin


def build(folder: Path) -> Path:
    """The program in C++ that times the compiled graph."""
    libraries = Path(torch.__file__).parent
    program = folder / "serving_aoti"
    include, lib = libraries / "include", libraries / "lib"
    command = ["g++", "-std=c++20", "-O2", str(SOURCE), "-o", str(program), f"-I{include}"]
    command += [f"-I{include}/torch/csrc/api/include", f"-L{lib}", f"-Wl,-rpath,{lib}"]
    subprocess.run([*command, "-ltorch_cpu", "-lc10"], check=True)
    return program


def timed(way: str, packages: Path, program: Path) -> Line:
    """What a process says of one way: nanoseconds of its calls by batch, memory, some logits."""
    command = [sys.executable, "-m", "benchmarks.speed.serving_ways", way, str(packages)]
    done = subprocess.run([*command, str(program)], check=True, stdout=subprocess.PIPE, text=True)
    found: Line = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(name: str, rounds: int, program: Path) -> Line:
    """All ways of one model."""
    large = name == LARGE_MODEL
    ways = LARGE_WAYS if large else WAYS
    times: dict[str, dict[int, list[int]]] = {w: {b: [] for b in BATCHES} for w in ways}
    memory: dict[str, int] = {}
    wanted: list[float] = []
    folder = Path(tempfile.mkdtemp(prefix="serving-"))
    try:
        policy = separate(LARGE_ROWS) if large else MODELS[name]()
        write_packages(policy, folder, large=large)
        for round_ in range(rounds):
            for way in ways[round_ % len(ways) :] + ways[: round_ % len(ways)]:
                said = timed(way, folder, program)
                wanted = wanted or said["logits"]
                tolerance = 0.05 if "int8" in way else 1e-4
                np.testing.assert_allclose(said["logits"], wanted, atol=tolerance, err_msg=way)
                memory[way] = max(said["resident_bytes"], memory.get(way, 0))
                for batch in BATCHES:
                    times[way][batch] += said["nanoseconds"][str(batch)]
    finally:
        shutil.rmtree(folder)
    return {
        "model": name,
        "rounds": rounds,
        "ways": {
            way: {
                "resident_mb": round(memory[way] / 1e6),
                "ms": {
                    str(b): [round(float(q), 4) for q in np.quantile(ns, (0.5, 0.99)) / 1e6]
                    for b, ns in times[way].items()
                },
            }
            for way in ways
        },
    }


def main() -> None:
    parser = make_parser(__doc__, RECORD)
    parser.add_argument("--rounds", type=int, default=2, help="how often each way is run")
    options = parser.parse_args()
    environment = set_up(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        for name in (*MODELS, LARGE_MODEL):
            line = {**measure(name, options.rounds, program), "environment": environment}
            print("\n".join(page.region([line])), flush=True)
            if options.record:
                append(RECORD, line)


if __name__ == "__main__":
    main()
