"""Row numbers of hashes by float64, where these are exact, in a graph of ONNX.

The last steps of a hash are ``row = first + ((h * n) >> 32)`` of a whole number h below 2^32, the
n rows of a table and its first row. In float64 ``first + h * n / 2^32`` is exact while the sum of
``first`` and n is at most 2^21. ONNX Runtime computes several of these numbers at a time, which
it does not do with products of 64 bits, and writes them as int32, which are half as large.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from seo_rec.export.steps import constant, insert
from seo_rec.policy.addresses import LOW_32

MOST_ROWS = 2**21  # of 53 bits, 32 are behind the point


def use_doubles(model: Any) -> None:
    """Change a graph in place; the row numbers are the same.

    Args:
        model: Of ``onnx_ir``, after all other changes.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    for node in list(model.graph):
        if node.op_type == "Cast" and _are_rows(node.outputs[0]):
            _write_doubles(node, model.graph)
    RemoveUnusedNodesPass()(model)


def _are_rows(value: Any) -> bool:
    """Whether a value is read for nothing else than to read rows, maybe in another shape."""
    uses = value.uses()
    return bool(uses) and all(
        _are_rows(step.outputs[0])
        if step.op_type in ("Reshape", "Unsqueeze") and at == 0
        else step.op_type in ("Gather", "GatherND") and at == 1
        for step, at in uses
    )


def _write_doubles(cast: Any, graph: Any) -> None:
    """Compute what ``cast`` makes int64 by float64, if it is the row of a hash of a small table."""
    import onnx_ir as ir

    value = cast.inputs[0]
    add, first = _step(value, "Add")
    shift, by = _step(value if add is None else add.inputs[0], "BitShift")
    multiply, rows = _step(None if shift is None else shift.inputs[0], "Mul")
    mask, bits = _step(None if multiply is None else multiply.inputs[0], "BitwiseAnd")
    if mask is None or by.tolist() != 32 or bits.tolist() != LOW_32:
        return
    if shift.attributes["direction"].as_string() != "RIGHT":
        return
    if int((rows + (0 if first is None else first)).max()) > MOST_ROWS:
        return

    gathers = all(step.op_type == "Gather" for step, _ in cast.outputs[0].uses())
    kind = ir.DataType.INT32 if gathers else ir.DataType.INT64
    # uint32 keeps the low 32 bits
    found = insert(graph, cast, "Cast", [mask.inputs[0]], {"to": ir.DataType.UINT32.value})
    found = insert(graph, cast, "Cast", [found], {"to": ir.DataType.DOUBLE.value})
    found = insert(graph, cast, "Mul", [found, constant(graph, np.asarray(rows / 2.0**32))])
    if first is not None:
        found = insert(graph, cast, "Add", [found, constant(graph, first.astype(np.float64))])
    found = insert(graph, cast, "Cast", [found], {"to": kind.value})
    ir.convenience.replace_all_uses_with(cast.outputs[0], found)


def _step(value: Any, op: str) -> tuple[Any, Any]:
    """The step that makes ``value``, if it is ``op`` with a constant, and the constant."""
    import onnx_ir as ir

    made = None if value is None else value.producer()
    if made is None or made.op_type != op:
        return None, None
    number = ir.convenience.get_const_tensor(made.inputs[1])
    return (None, None) if number is None else (made, number.numpy())
