"""What would other forms of a package's graph cost in ONNX Runtime, and what do its options?

    python -m benchmarks.speed.serving_forms [--rounds 9] [--parts operators hash int8]

The models are those of ``benchmarks.speed.serving``, and the forms are written in
``benchmarks/speed/graph_forms.py``. On one thread all forms of a model take turns, a block of calls
each, in rounds; each call reads other rows. A round has the 0.3 quantile of a block's calls, and
what is printed is the median over rounds of a round's own ratio. Every form's logits are compared
with those of the graph as it is before it is timed.

    operators   what one step costs on 26 numbers: 45 of them in a row less 5 of them, by 40
    hash        by the graph without the hash, which is given row numbers
    int8        by the graph as it is; tables that take 166 MB as float32
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, chdir
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.command import set_up
from benchmarks.speed import graph_forms as forms
from benchmarks.speed.serving import HIDDEN, LARGE_ROWS, MODELS, separate, without_hash
from benchmarks.speed.serving_ways import hashed
from seo_rec.export import package_parts
from seo_rec.export.onnx_graph import onnx_bytes
from seo_rec.export.twin import Twin
from seo_rec.model import ModelSettings, build_model
from seo_rec.policy import Policy
from seo_rec.serve.layout import ONNX_FILE
from seo_rec.serve.package import read_package
from seo_rec.serve.preparation import Preparation
from seo_rec.serve.preparation_rules import Column
from seo_rec.serve.signature import signature_of
from seo_rec.serve.writing import write_package

CALLS = {1: 200, 64: 100, 512: 30}  # rows of a call: calls of a block
SPREAD = 64 * 512  # rows that the calls read in turn
PARTS = ("operators", "hash", "int8")
AS_IT_IS, BEFORE, FLOATS = "as it is", "hashed before", "float32"

Ids = npt.NDArray[Any]
Times = dict[int, dict[str, list[float]]]


@dataclass(frozen=True)
class Form:
    """A graph in memory and the matrix that it is given, rows of which are one call's."""

    session: Any
    matrix: Ids

    def logits(self, at: slice) -> npt.NDArray[np.float32]:
        (given,) = self.session.get_inputs()
        (found,) = self.session.run(["logits"], {given.name: self.matrix[at]})
        return np.asarray(found, np.float32)


def opened(graph: Path | bytes, options: Mapping[str, Any] | None = None) -> Any:
    """A session of one thread; ``options`` are attributes of its options, or entries by name."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 4
    for name, value in (options or {}).items():
        if hasattr(settings, name):
            setattr(settings, name, value)
        else:
            settings.add_session_config_entry(name, value)
    path = str(graph) if isinstance(graph, Path) else graph
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


class Model:
    """A package in a folder, and other graphs beside its files."""

    def __init__(self, policy: Policy, precision: str, folder: Path) -> None:
        columns = tuple(Column(name, "categorical") for name in policy.columns)
        preparation = Preparation("table", "label", {}, columns)
        about: dict[str, Any] = {key: {} for key in ("data", "metrics", "versions", "model")}
        self.model = build_model(policy, 0, ModelSettings(hidden=HIDDEN, init_scale=0.1), 0).eval()
        self.parts = package_parts(self.model, preparation, precision, about, ("onnx",))
        folder.mkdir(parents=True)
        write_package(folder, self.parts)
        self.folder = folder
        self.files = {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}

    def twin(self) -> Twin:
        signature = signature_of(self.parts.policy, self.parts.preparation)
        return Twin(self.parts.policy, self.parts.embeddings, self.model.backbone, signature)

    def graph(
        self,
        name: str,
        twin: Twin | None = None,
        *,
        within: Sequence[forms.Patch] = (),
        after: Sequence[Callable[[Any], None]] = (),
    ) -> Path:
        """Write a graph, with parts of the exporter replaced, or changed afterwards."""
        import onnx

        with ExitStack() as stack:
            stack.enter_context(chdir(self.folder))  # a form may read weights from the files
            for patch in within:
                stack.enter_context(patch())
            content = onnx_bytes(twin or self.twin(), self.files)
        proto = onnx.load_model_from_string(content)
        for change in after:
            change(proto)
        path = self.folder / f"{name}.onnx"
        path.write_bytes(proto.SerializeToString())
        return path


def in_turns(ways: Mapping[str, Form], rounds: int) -> Times:
    """Microseconds of a call in every round, by rows of a call and by form."""
    times: Times = {rows: {name: [] for name in ways} for rows in CALLS}
    names = list(ways)
    for rows, calls in CALLS.items():
        given = cycle(range(0, SPREAD, rows))
        for round_ in range(rounds):
            for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
                taken = []
                for call in range(calls + calls // 4):
                    start = next(given)
                    at = slice(start, start + rows)
                    begin = time.perf_counter_ns()
                    ways[name].logits(at)
                    if call >= calls // 4:
                        taken.append(time.perf_counter_ns() - begin)
                times[rows][name].append(float(np.quantile(taken, 0.3)) / 1e3)
    return times


def table(title: str, times: Times, by: str) -> str:
    """Ratios to one form, in Markdown; of that form itself the microseconds."""
    lines = [f"**{title}**", "", "| form |" + "".join(f" {rows} rows |" for rows in times)]
    lines.append("|---|" + "---:|" * len(times))
    for name in next(iter(times.values())):
        cells = []
        for taken in times.values():
            ratio = np.median(np.array(taken[name]) / np.array(taken[by]))
            cells.append(f"{np.median(taken[by]):.1f} µs" if name == by else f"{ratio:.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def require_equal(ways: Mapping[str, Form], atol: float) -> None:
    """AssertionError if a form's logits are others than those of the graph as it is."""
    wanted = ways[AS_IT_IS].logits(slice(0, 64))
    for name, form in ways.items():
        allowed = 0.05 if name == FLOATS else atol
        np.testing.assert_allclose(form.logits(slice(0, 64)), wanted, atol=allowed, err_msg=name)


def operators(rounds: int) -> str:
    """What a step costs, in Markdown."""
    found: dict[str, list[float]] = {}
    sessions = {
        (name, steps): opened(forms.chain(name, steps), forms.unchanged())
        for name in forms.STEPS
        for steps in (5, 45)
    }
    numbers = np.ones((1, 26), np.uint64)
    for _ in range(rounds):
        taken: dict[tuple[str, int], float] = {}
        for key, session in sessions.items():
            calls = []
            for _ in range(300):
                begin = time.perf_counter_ns()
                session.run(["y"], {"x": numbers})
                calls.append(time.perf_counter_ns() - begin)
            taken[key] = float(np.quantile(calls, 0.3)) / 1e3
        for name in forms.STEPS:
            found.setdefault(name, []).append((taken[name, 45] - taken[name, 5]) / 40)
    lines = ["| step | µs |", "|---|---:|"]
    lines += [f"| {name} | {np.median(values):.2f} |" for name, values in found.items()]
    return "\n".join([*lines, ""])


def hash_forms(policy: Policy, folder: Path) -> dict[str, Form]:
    """Graphs with and without the hash."""
    model = Model(policy, "float32", folder)
    package = read_package(folder)
    ids = np.random.default_rng(1).integers(0, 1 << 40, (SPREAD, len(policy.columns)))
    before = model.graph(BEFORE, without_hash(model.twin(), policy))
    ways = {
        BEFORE: Form(opened(before), hashed(package, ids)),
        AS_IT_IS: Form(opened(folder / ONNX_FILE), ids),
    }
    gathered = (forms.one_gather,) if any(len(f.lookups) > 1 for f in policy.features) else ()
    paths = {
        "one `Gather`": model.graph("gather", within=gathered) if gathered else None,
        "`BatchNormalization`": model.graph("shift", after=[forms.shifted_by_normalization]),
        "ids as uint64": model.graph("unsigned", after=[forms.unsigned_ids]),
        "all of these": model.graph(
            "all",
            within=gathered,
            after=[forms.shifted_by_normalization, forms.unsigned_ids],
        ),
    }
    for name, path in paths.items():
        if path is not None:
            session = opened(path)
            unsigned = session.get_inputs()[0].type == "tensor(uint64)"
            ways[name] = Form(session, ids.view(np.uint64) if unsigned else ids)
    for name, options in forms.OPTIONS.items():
        ways[f"{name}, {BEFORE}"] = Form(opened(before, options), ways[BEFORE].matrix)
        ways[name] = Form(opened(folder / ONNX_FILE, options), ids)
    return ways


def int8_forms(policy: Policy, folder: Path) -> dict[str, Form]:
    """Graphs that read int8 row by row, and the one with float32."""
    ids = np.random.default_rng(1).integers(0, 1 << 40, (SPREAD, len(policy.columns)))
    floats = Model(policy, "float32", folder / "float32")
    found = {FLOATS: Form(opened(floats.folder / ONNX_FILE), ids)}
    del floats
    model = Model(policy, "int8", folder / "int8")
    found[AS_IT_IS] = Form(opened(model.folder / ONNX_FILE), ids)
    for name, form in forms.ROWS.items():
        path = model.graph(form.__name__, within=[forms.rows_by(form)])
        found[name] = Form(opened(path), ids)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="how often each form is run")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is timed")
    options = parser.parse_args()
    set_up(1)
    folder = Path(tempfile.mkdtemp(prefix="serving-forms-"))
    try:
        if "operators" in options.parts:
            print(operators(options.rounds), flush=True)
        for i, (name, policy) in enumerate(MODELS.items() if "hash" in options.parts else ()):
            ways = hash_forms(policy(), folder / str(i))
            require_equal(ways, 1e-6)
            print(table(f"{name}: the hash", in_turns(ways, options.rounds), BEFORE), flush=True)
        if "int8" in options.parts:
            ways = int8_forms(separate(LARGE_ROWS), folder / "large")
            require_equal(ways, 1e-6)
            print(table("int8 row by row", in_turns(ways, options.rounds), AS_IT_IS), flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
