"""Reads that a graph of ONNX is written with: equal to NumPy's, by the operators that are fast."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnxruntime
import pytest

from seo_rec.export.dequantized import write_out_rows
from seo_rec.export.gathers import LARGE_BYTES, use_fast_gathers
from seo_rec.export.stored import PLACEHOLDER
from seo_rec.policy.dtypes import dequantize_rows, quantize_rows

ir = pytest.importorskip("onnx_ir")
WIDTH = 16
LARGE = LARGE_BYTES // (4 * WIDTH)  # the least number of rows of a large table


def graph_of(op, table, shape, domain="", **attributes):
    """A graph that reads ``table`` at the places of its input ``places``, whose first size is any.

    A placeholder gives float32 of the shape of the places and a last axis for a row.
    """
    held = ir.tensor(table, name="table")
    types = ir.TensorType(held.dtype), ir.TensorType(ir.DataType.FLOAT if domain else held.dtype)
    given = ir.Value(name="table", shape=held.shape, type=types[0], const_value=held)
    places = ir.Value(
        name="places", shape=ir.Shape(["n", *shape]), type=ir.TensorType(ir.DataType.INT64)
    )
    converted = ir.convenience.convert_attributes(attributes)
    node = ir.Node(domain, op, [places, given] if domain else [given, places], converted)
    last = ir.Node("", "Identity", node.outputs)
    for step in (node, last):
        step.outputs[0].name, step.outputs[0].type = step.op_type.lower(), types[1]
    opsets = {"": 20} | ({domain: 1} if domain else {})
    graph = ir.Graph(
        [places], last.outputs, nodes=[node, last], initializers=[given], opset_imports=opsets
    )
    return ir.Model(graph, ir_version=10)


def read(model, places):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        ir.serde.serialize_model(model).SerializeToString(), options
    )
    return session.run(None, {"places": places})[0]


def operators(model):
    return Counter(node.op_type for node in model.graph if node.op_type != "Identity")


@pytest.mark.parametrize("places", [0, 1, 7])
@pytest.mark.parametrize("rows, op", [(LARGE, "GatherND"), (LARGE - 1, "Gather")])
def test_rows_of_large_tables_are_read_by_gather_nd(rows, op, places):
    table = np.random.default_rng(0).normal(size=(rows, WIDTH)).astype(np.float32)
    model = graph_of("Gather", table, (3,), axis=0)
    use_fast_gathers(model)
    assert operators(model)[op] == 1 and operators(model)["Unsqueeze"] == (op == "GatherND")
    at = np.random.default_rng(1).integers(0, rows, (places, 3))
    at[:1] = [0, rows - 1, rows // 2]
    assert np.array_equal(read(model, at), table[at])


@pytest.mark.parametrize("places", [0, 1, 7])
@pytest.mark.parametrize("shape", [(), (3,), (2, 15)])
def test_single_numbers_are_read_by_gather_elements(shape, places):
    numbers = np.random.default_rng(0).integers(0, 1 << 62, 90)
    model = graph_of("GatherND", numbers, (*shape, 1))
    use_fast_gathers(model)
    assert operators(model)["GatherElements"] == 1 and not operators(model)["GatherND"]
    at = np.random.default_rng(1).integers(0, 90, (places, *shape))
    assert np.array_equal(read(model, at[..., None]), numbers[at])


def test_other_reads_stay():
    """Columns of a matrix, and parts of a row, are no reads of whole rows."""
    table = np.zeros((2, LARGE_BYTES), np.float32)
    for op, shape, attributes in (("Gather", (3,), {"axis": 1}), ("GatherND", (2,), {})):
        model = graph_of(op, table, shape, **attributes)
        use_fast_gathers(model)
        assert operators(model) == {op: 1}


@pytest.mark.parametrize("float_bytes", [0, 1 << 20])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 7, 16, 33])
def test_stored_rows_are_floats_by_their_definition(dim, bits, float_bytes):
    """Rows of all sizes of numbers: scales below 2^-14 too, whose float16 has fewer bits."""
    rng = np.random.default_rng(dim)
    size = np.float32(10.0) ** rng.uniform(-6, 4.5, (300, 1)).astype(np.float32)
    rows = (rng.normal(size=(300, dim)).astype(np.float32) * size).clip(-6e4, 6e4)
    rows[0], rows[1], rows[2] = 0, 6e4, -6e4
    dtype = f"int{bits}"
    stored = quantize_rows(rows, dtype)
    domain, name = PLACEHOLDER.split("::")
    model = graph_of(name, stored, (2,), domain, dim=dim, bits=bits)
    write_out_rows(model, float_bytes)
    assert operators(model)["GatherND"] == (not float_bytes)
    at = rng.permutation(300).reshape(-1, 2)
    wanted = dequantize_rows(stored, dim, dtype)[at]
    assert np.array_equal(read(model, at), wanted)
