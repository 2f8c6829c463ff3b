"""Whole numbers of a graph as unsigned ones, where it shifts their bits.

ONNX shifts unsigned numbers only, and torch computes with signed ones, so an exported hash converts
its numbers to and fro at every shift. Modulo 2^64 both kinds are added, subtracted, multiplied and
compared bit by bit alike. So the conversions are moved behind these steps until they meet, and two
that undo each other are left out; every step that is left costs a pass over the numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_ALIKE = ("Add", "Sub", "Mul", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Concat")


def use_unsigned(model: Any) -> None:
    """Change a graph in place; what it computes is the same to the bit.

    Args:
        model: Of ``onnx_ir``, its nodes in the order in which they run.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    graph = model.graph
    made: dict[Any, Any] = {}
    for node in list(graph):
        if node.op_type == "Cast":
            _undo(node, made)
        elif any(_unsigned_of(node.inputs[i]) is not None for i in _numbers(node)):
            _move_behind(node, graph, made)
    for node in list(graph):
        if node.op_type == "BitwiseAnd":
            _leave_out(node)
    RemoveUnusedNodesPass()(model)


def _numbers(node: Any) -> range:
    """Which inputs of a step are numbers that it treats alike in both types."""
    if node.op_type in ("Gather", "Reshape", "Unsqueeze"):
        return range(1)
    return range(len(node.inputs) if node.op_type in _ALIKE else 0)


def _unsigned_of(value: Any) -> Any:
    """The uint64 value that ``value`` is converted from to int64; None if it is none such."""
    import onnx_ir as ir

    made = value.producer()
    if made is None or made.op_type != "Cast" or value.dtype != ir.DataType.INT64:
        return None
    source = made.inputs[0]
    return source if source.dtype == ir.DataType.UINT64 else None


def _undo(node: Any, made: dict[Any, Any]) -> None:
    """Take out a conversion to uint64 of what was uint64 before, and note any other one."""
    import onnx_ir as ir

    (value,) = node.outputs
    if value.dtype != ir.DataType.UINT64:
        return
    if (source := _unsigned_of(node.inputs[0])) is not None:
        ir.convenience.replace_all_uses_with(value, source)
    elif node.inputs[0].dtype == ir.DataType.INT64:
        made.setdefault(node.inputs[0], value)


def _move_behind(node: Any, graph: Any, made: dict[Any, Any]) -> None:
    """Compute a step in uint64, and convert its result.

    Args:
        node: The step.
        graph: Its graph.
        made: By int64 value, the uint64 value that an earlier step has made of it.
    """
    import onnx_ir as ir

    inputs = list(node.inputs)
    for i in _numbers(node):
        inputs[i] = _as_unsigned(inputs[i], node, graph, made)
    (result,) = node.outputs
    attributes = list(node.attributes.values())
    step = ir.Node("", node.op_type, inputs, attributes, name=f"{node.name}_unsigned")
    step.outputs[0].name = f"{result.name}_unsigned"
    step.outputs[0].dtype, step.outputs[0].shape = ir.DataType.UINT64, result.shape
    back = _cast(step.outputs[0], ir.DataType.INT64, f"{result.name}_signed")
    graph.insert_before(node, [step, back])
    ir.convenience.replace_all_uses_with(result, back.outputs[0])


def _leave_out(node: Any) -> None:
    """Take out a mask of the bits that a shift has left, which changes nothing."""
    import onnx_ir as ir

    value, mask = node.inputs
    shift = value.producer()
    if shift is None or shift.op_type != "BitShift" or value.dtype != ir.DataType.UINT64:
        return
    by = ir.convenience.get_const_tensor(shift.inputs[1])
    bits = ir.convenience.get_const_tensor(mask)
    if by is None or bits is None or shift.attributes["direction"].as_string() != "RIGHT":
        return
    left = (1 << 64 - int(by.numpy())) - 1
    if int(bits.numpy()) & left == left:
        ir.convenience.replace_all_uses_with(node.outputs[0], value)


def _as_unsigned(value: Any, node: Any, graph: Any, made: dict[Any, Any]) -> Any:
    """``value`` as uint64 for a node: what it was before, a constant, or a conversion."""
    import onnx_ir as ir

    if (source := _unsigned_of(value)) is not None:
        return source
    name = f"{value.name}_unsigned"
    if value.is_initializer():
        if name not in graph.initializers:
            numbers = value.const_value.numpy().view(np.uint64)
            graph.register_initializer(
                ir.Value(name=name, const_value=ir.tensor(numbers, name=name))
            )
        return graph.initializers[name]
    if value not in made:
        step = _cast(value, ir.DataType.UINT64, name)
        graph.insert_before(node, [step])
        made[value] = step.outputs[0]
    return made[value]


def _cast(value: Any, kind: Any, name: str) -> Any:
    import onnx_ir as ir

    node = ir.Node("", "Cast", [value], attributes=[ir.AttrInt64("to", kind.value)], name=name)
    node.outputs[0].name, node.outputs[0].dtype = name, kind
    node.outputs[0].shape = value.shape
    return node
