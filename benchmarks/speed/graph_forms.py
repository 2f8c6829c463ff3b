"""Other forms of a package's graph, which :mod:`benchmarks.speed.serving_forms` times.

They compute what the graph of a package computes, by other steps. Of a hash they need not be what
a package may hold: one takes ids of another type.

Letters: n rows that are read, N rows of a table, D a width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import numpy as np
import torch

from seo_rec.export import addresses, dequantized
from seo_rec.export.hashes import hash_rows
from seo_rec.policy.dtypes import SCALE_BYTES

Patch = Callable[[], AbstractContextManager[Any]]
RowReader = Callable[[Any], Any]

STEPS: Mapping[str, Any] = {
    "Identity": None,
    "Cast": None,
    "BitShift": np.uint64(3),
    "BitwiseXor": np.arange(26, dtype=np.uint64),
    "Mul": np.uint64(5),
    "Add": np.uint64(5),
}
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "no memory pattern": {"enable_mem_pattern": False},
    "no arena": {"enable_cpu_mem_arena": False},
    "no reuse of memory": {"enable_mem_reuse": False},
    "no spinning": {"session.intra_op.allow_spinning": "0"},
    "no prepacked weights": {"session.disable_prepacking": "1"},
}


def unchanged() -> Mapping[str, Any]:
    """The option by which a session runs every step of its graph."""
    import onnxruntime

    return {"graph_optimization_level": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL}


def chain(step: str, times: int) -> bytes:
    """A graph of one step ``times`` times in a row, on uint64 (B, 26)."""
    from onnx import TensorProto, helper, numpy_helper

    constant = STEPS[step]
    attributes: dict[str, Any] = {"direction": "RIGHT"} if step == "BitShift" else {}
    nodes = []
    for i in range(times):
        if step == "Cast":
            attributes = {"to": TensorProto.UINT64 if i % 2 else TensorProto.INT64}
        inputs = [f"v{i}" if i else "x", *(["constant"] if constant is not None else [])]
        output = "y" if i == times - 1 else f"v{i + 1}"
        nodes.append(helper.make_node(step, inputs, [output], **attributes))
    last = TensorProto.INT64 if step == "Cast" and times % 2 else TensorProto.UINT64
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.UINT64, ["B", 26])],
        [helper.make_tensor_value_info("y", last, ["B", 26])],
        [] if constant is None else [numpy_helper.from_array(np.asarray(constant), "constant")],
    )
    opset = helper.make_opsetid("", 20)
    content: bytes = helper.make_model(
        graph, opset_imports=[opset], ir_version=10
    ).SerializeToString()
    return content


# ---- the hash -------------------------------------------------------------------------------


def one_gather() -> AbstractContextManager[Any]:
    """Ids are repeated for their lookups by one ``Gather``."""

    def hash_each(
        ids_RC: torch.Tensor, seeds: torch.Tensor, num_rows: torch.Tensor | int
    ) -> torch.Tensor:
        columns, times = seeds.shape
        repeated = ids_RC.index_select(1, torch.arange(columns).repeat_interleave(times))
        into = num_rows if isinstance(num_rows, int) else num_rows.flatten()
        return hash_rows(repeated, seeds.flatten(), into)

    return mock.patch.object(addresses, "hash_each", hash_each)


def shifted_by_normalization(model: Any) -> None:
    """The product and the sum of float64 become one ``BatchNormalization``, in place."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    constants = {x.name: x for x in graph.initializer}
    multiply = next(
        n
        for n in graph.node
        if n.op_type == "Mul" and constants[n.input[1]].data_type == TensorProto.DOUBLE
    )
    add = next(n for n in graph.node if n.op_type == "Add" and n.input[0] == multiply.output[0])
    first = numpy_helper.to_array(constants[add.input[1]])
    factor = np.broadcast_to(numpy_helper.to_array(constants[multiply.input[1]]), first.shape)
    parts = {"factor": factor, "zeros": np.zeros(first.shape), "ones": np.ones(first.shape)}
    graph.initializer.extend(numpy_helper.from_array(x.copy(), name) for name, x in parts.items())
    inputs = [multiply.input[0], "factor", add.input[1], "zeros", "ones"]
    step = helper.make_node("BatchNormalization", inputs, list(add.output), epsilon=0.0)
    at = list(graph.node).index(multiply)
    graph.node.insert(at, step)
    graph.node.remove(multiply)
    graph.node.remove(add)


def unsigned_ids(model: Any) -> None:
    """The graph takes ids as uint64, without the first conversion, in place."""
    from onnx import TensorProto

    graph = model.graph
    cast = graph.node[0]
    for node in graph.node:
        node.input[:] = ["ids" if name == cast.output[0] else name for name in node.input]
    graph.node.remove(cast)
    graph.input[0].type.tensor_type.elem_type = TensorProto.UINT64
    del graph.value_info[:]


# ---- rows of int8, float32 (n, D) of a writer of seo_rec.export.dequantized ------------------


def rows_by(form: RowReader) -> Patch:
    """Within what it returns, graphs read rows of int8 by this form."""
    return lambda: mock.patch.object(dequantized._Writer, "row_by_row", form)


def _read(writer: Any) -> Any:
    """uint8 (n, D + 4): the stored rows."""
    flat = writer.add("Reshape", [writer.rows, writer.constant([-1, 1])])
    return writer.add("GatherND", [writer.stored, flat])


def _split(writer: Any) -> list[Any]:
    """uint8 (n, D) and (n, 4): the numbers and the last bytes of rows."""
    sizes = writer.constant([writer.dim, SCALE_BYTES])
    split: list[Any] = writer.add("Split", [_read(writer), sizes], 2, axis=1)
    return split


def _scaled(writer: Any, numbers: Any, scale: Any) -> Any:
    scale = writer.add("Reshape", [scale, writer.constant([-1])])
    return writer.add("DequantizeLinear", [numbers, scale], axis=0)


def _moved(writer: Any, scaled: Any, offset: Any) -> Any:
    """``scaled`` and the offset of each row, (1, n)."""
    ones = writer.constant(np.ones((1, writer.dim), np.float32))
    return writer.add("Gemm", [offset, ones, scaled], transA=1)


def _halves() -> Any:
    """float32 (65536): all float16 numbers by their bits."""
    return np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16).astype(np.float32)


def whole(writer: Any) -> Any:
    """Whole rows are multiplied by their scales; the ``Gemm`` leaves the last bytes out."""
    row = _read(writer)
    ends = [writer.constant([n]) for n in (writer.dim, writer.dim + SCALE_BYTES, 1)]
    scale, offset = writer._halves(writer.add("Slice", [row, *ends]))
    chosen = np.eye(writer.dim + SCALE_BYTES, writer.dim, dtype=np.float32)
    offset = writer.add("Reshape", [offset, writer.constant([-1, 1])])
    return writer.add("Gemm", [_scaled(writer, row, scale), writer.constant(chosen), offset])


def normalization(writer: Any) -> Any:
    """A ``BatchNormalization`` has a channel for each row."""
    numbers, last = _split(writer)
    place = np.array([[1, 256, 0, 0], [0, 0, 1, 256], [0] * 4, [0] * 4], np.float32)
    one = np.array([[0], [0], [0], [0x3C00]], np.float32)  # the bits of 0 and of 1
    places = writer.add(
        "Gemm",
        [writer.constant(place), writer._floats(last), writer.constant(one)],
        transB=1,
    )
    places = writer.add("Cast", [places], to=6)
    places = writer.add("Reshape", [places, writer.constant([-1])])
    found = writer.add("GatherElements", [writer.constant(_halves()), places], axis=0)
    parts = writer.add("Split", [found], 4, axis=0, num_outputs=4)
    shape = writer.constant([1, -1, writer.dim])
    numbers = writer.add("Reshape", [writer._floats(numbers), shape])
    return writer.add("BatchNormalization", [numbers, *parts], epsilon=0.0)


def view(writer: Any) -> Any:
    """Both halves by ``GatherElements`` from a view of the rows as float16."""
    pairs = writer.stored.const_value.numpy().view(np.float16)
    width = pairs.shape[1]
    rows = writer.add("Reshape", [writer.rows, writer.constant([1, -1])])
    start = writer.add("Mul", [rows, writer.constant(np.array(width))])
    places = writer.add("Add", [start, writer.constant(np.array([[width - 2], [width - 1]]))])
    places = writer.add("Reshape", [places, writer.constant([-1])])
    found = writer.add("GatherElements", [writer.constant(pairs.reshape(-1)), places], axis=0)
    scale, offset = writer.add("Split", [writer._floats(found)], 2, axis=0, num_outputs=2)
    numbers, _ = _split(writer)
    offset = writer.add("Reshape", [offset, writer.constant([1, -1])])
    return _moved(writer, _scaled(writer, numbers, scale), offset)


def integers(writer: Any) -> Any:
    """One ``MatMulInteger`` finds the places of both halves.

    Its factors have 8 bits, so the place is 255 * low + high, which no two numbers share: an upper
    byte of 255 is no number.
    """
    numbers, last = _split(writer)
    low, high = np.meshgrid(np.arange(256), np.arange(255), indexing="ij")
    known = np.zeros(255 * 256, np.float32)
    known[(255 * low + high).ravel()] = _halves()[(low + 256 * high).ravel()]
    factors = np.array([[255, 0], [1, 0], [0, 255], [0, 1]], np.uint8)
    places = writer.add("MatMulInteger", [last, writer.constant(factors)])
    both = writer.constant(np.stack([known, known], axis=1))
    found = writer.add("GatherElements", [both, places], axis=0)
    scale = writer.add("Slice", [found, *(writer.constant([n]) for n in (0, 1, 1))])
    second = np.zeros((2, writer.dim), np.float32)
    second[1] = 1
    scaled = _scaled(writer, numbers, scale)
    return writer.add("Gemm", [found, writer.constant(second), scaled])


def apart(writer: Any) -> Any:
    """Numbers, scales and offsets lie in tensors of their own, the last two as float32."""
    stored = writer.stored.const_value.numpy()
    numbers = np.ascontiguousarray(stored[:, : writer.dim])
    halves = np.ascontiguousarray(stored[:, writer.dim :]).view(np.float16).astype(np.float32)
    rows = writer.add("Reshape", [writer.rows, writer.constant([-1])])
    scale, offset = (
        writer.add("GatherElements", [writer.constant(part.copy()), rows], axis=0)
        for part in halves.T
    )
    places = writer.add("Reshape", [writer.rows, writer.constant([-1, 1])])
    read = writer.add("GatherND", [writer.constant(numbers), places])
    scaled = writer.add("DequantizeLinear", [read, scale], axis=0)
    return _moved(writer, scaled, writer.add("Reshape", [offset, writer.constant([1, -1])]))


def folded(writer: Any) -> Any:
    """The first layer adds the offsets, by the sums of its weights for each row."""
    numbers, last = _split(writer)
    scale, offset = writer._halves(last)
    ((flatten, _),) = writer.node.outputs[0].uses()
    ((layer, _),) = flatten.outputs[0].uses()
    _, weight, bias = layer.inputs
    columns = int(writer.rows.shape[1])
    sums = weight.const_value.numpy().reshape(-1, columns, writer.dim).sum(axis=2).T
    offset = writer.add("Reshape", [offset, writer.constant([-1, columns])])
    moved = writer.add("Gemm", [offset, writer.constant(np.ascontiguousarray(sums)), bias])
    layer.replace_input_with(2, moved)
    return _scaled(writer, numbers, scale)


ROWS: Mapping[str, RowReader] = {
    "whole rows in `DequantizeLinear`": whole,
    "scale and offset in a `BatchNormalization`": normalization,
    "scale and offset from a view as float16": view,
    "places of the halves by `MatMulInteger`": integers,
    "numbers, scales and offsets apart": apart,
    "offsets added by the first layer": folded,
}
