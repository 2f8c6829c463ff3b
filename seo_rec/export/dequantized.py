"""Rows of int8 and int4 in a graph of ONNX, written so that ONNX Runtime reads them fast.

ONNX Runtime has no operator that reads a row and its scale and is fast on a processor. Its steps
over (R, K, D) numbers with a factor for each row call a function for each row, which costs more
than the rest. So there are two ways:

* Small tables become floats once, when the graph is loaded: all steps in front of the ``Gather``
  have constant inputs, which ONNX Runtime computes at that time. A score then costs what it costs
  with float32. The file keeps its size, and the memory of the process grows by the floats.
* Large tables stay as they are. ``DequantizeLinear`` multiplies each row by its scale, and ``Gemm``
  adds the offset of each row: both run over all rows in one piece.

Letters: R rows or ids, K lookups, N rows of a table, D a width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from seo_rec.export.stored import PLACEHOLDER

FLOAT_BYTES = 64 << 20  # that small tables may take together, once they are floats


def write_out_rows(model: Any, float_bytes: int) -> None:
    """Replace each placeholder of :mod:`seo_rec.export.stored` by standard operators, in place.

    Args:
        model: Of ``onnx_ir``.
        float_bytes: Tables become floats at loading, the smallest first, while their floats take
            no more bytes than this in all.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    domain, name = PLACEHOLDER.split("::")
    found = [node for node in model.graph if (node.domain, node.op_type) == (domain, name)]
    sizes = {node.inputs[1].name: _float_bytes(node) for node in found}
    small, left = set(), float_bytes
    for table, size in sorted(sizes.items(), key=lambda item: item[1]):
        if size > left:
            break
        small.add(table)
        left -= size
    tables: dict[str, Any] = {}
    for node in found:
        writer = _Writer(model.graph, node)
        rows, stored = node.inputs[0], node.inputs[1].name
        if stored not in small:
            writer.finish_flat(writer.row_by_row())
            continue
        if stored not in tables:
            tables[stored] = writer.all_floats()
        writer.finish(writer.add("Gather", [tables[stored], rows], axis=0))
    model.opset_imports.pop(domain, None)
    RemoveUnusedNodesPass()(model)


def _float_bytes(node: Any) -> int:
    num_rows = int(node.inputs[1].const_value.shape[0])
    return num_rows * int(node.attributes["dim"].as_int()) * 4


class _Writer:
    """Writes nodes in front of a placeholder."""

    def __init__(self, graph: Any, node: Any) -> None:
        self.graph, self.node = graph, node
        self.rows, self.stored, self.pairs = node.inputs
        self.dim = int(node.attributes["dim"].as_int())
        self.bits = int(node.attributes["bits"].as_int())
        self.result = node.outputs[0]

    def finish(self, result: Any) -> None:
        import onnx_ir as ir

        result.shape, result.dtype = self.result.shape, self.result.dtype
        ir.convenience.replace_all_uses_with(self.result, result)
        self.graph.remove(self.node, safe=True)

    def finish_flat(self, flat: Any) -> None:
        """Take float32 (R * K, D) for the result, in another shape where that matters."""
        for step, i in tuple(self.result.uses()):
            if step.op_type == "Reshape" and i == 0:
                step.replace_input_with(0, flat)
        if self.result.uses():
            shape = self.constant(-1, int(self.rows.shape[1]), self.dim)
            self.finish(self.add("Reshape", [flat, shape]))
        else:
            self.graph.remove(self.node, safe=True)

    def add(self, op: str, inputs: Sequence[Any], outputs: int = 1, **attributes: Any) -> Any:
        """A node's output, or a list of them."""
        import onnx_ir as ir

        converted = ir.convenience.convert_attributes(attributes)
        name = f"{self.result.name}_{op.lower()}_{len(self.graph)}"
        step = ir.Node("", op, inputs, converted, num_outputs=outputs, name=name)
        for i, output in enumerate(step.outputs):
            output.name = f"{name}_{i}"
        self.graph.insert_before(self.node, step)
        return step.outputs[0] if outputs == 1 else list(step.outputs)

    def constant(self, *numbers: Any) -> Any:
        """An int64 vector, or the array that is there in place of numbers."""
        import onnx_ir as ir

        array = numbers[0] if isinstance(numbers[0], np.ndarray) else np.array(numbers, np.int64)
        name = f"constant_{array.dtype.name}_{'x'.join(map(str, array.shape))}_"
        name += "_".join(map(str, dict.fromkeys(array.flatten().tolist())))
        if name not in self.graph.initializers:
            tensor = ir.tensor(array, name=name)
            self.graph.register_initializer(ir.Value(name=name, const_value=tensor))
        return self.graph.initializers[name]

    def all_floats(self) -> Any:
        """float32 (N, D): the whole table, of constants."""
        pairs = self._columns(self.pairs, -2, 1 << 60)
        scale, offset = self.add("Split", [self._floats(pairs)], 2, axis=1, num_outputs=2)
        product = self.add("Mul", [scale, self._floats(self._numbers(self.stored))])
        return self.add("Add", [offset, product])

    def row_by_row(self) -> Any:
        """float32 (R * K, D)."""
        flat = self.add("Reshape", [self.rows, self.constant(-1)])
        numbers = self._numbers(self.add("Gather", [self.stored, flat], axis=0))
        pairs = self._floats(self._pairs(flat))
        scale, offset = self.add("Split", [pairs], 2, axis=1, num_outputs=2)
        scale = self.add("Reshape", [scale, self.constant(-1)])
        scaled = self.add("DequantizeLinear", [numbers, scale], axis=0)
        ones = self.constant(np.ones((1, self.dim), np.float32))
        return self.add("Gemm", [offset, ones, scaled])

    def _pairs(self, flat: Any) -> Any:
        """float16 (R * K, 2): scale and offset of each row."""
        import onnx_ir as ir

        num_rows, size = self.pairs.const_value.shape
        if size % 2:
            return self._columns(self.add("Gather", [self.pairs, flat], axis=0), -2, 1 << 60)
        # Each row is size / 2 pairs of float16 numbers, of which the last is wanted.
        name = f"{self.pairs.name}_alone"
        if name not in self.graph.initializers:
            tensor, shape = self.pairs.const_value, [num_rows * size // 2, 2]
            alone: Any
            if isinstance(tensor, ir.ExternalTensor):
                place = tensor.location, tensor.offset, tensor.length, tensor.dtype
                alone = ir.ExternalTensor(*place, shape=ir.Shape(shape), name=name)
            else:
                alone = ir.tensor(tensor.numpy().reshape(shape), name=name)
            self.graph.register_initializer(ir.Value(name=name, const_value=alone))
        each = self.constant(np.array(size // 2))
        first = self.add("Mul", [flat, each])
        last = self.add("Add", [first, self.constant(np.array(size // 2 - 1))])
        return self.add("Gather", [self.graph.initializers[name], last], axis=0)

    def _numbers(self, stored: Any) -> Any:
        """uint8 (N, D): the numbers of stored rows (N, bytes)."""
        if self.bits == 8:
            return self._columns(stored, 0, self.dim)
        packed = self._columns(stored, 0, (self.dim + 1) // 2)
        four = self.constant(np.array(4, np.uint8))
        high = self.add("BitShift", [packed, four], direction="RIGHT")
        low = self.add("BitwiseAnd", [packed, self.constant(np.array(15, np.uint8))])
        apart = self.constant(-1, (self.dim + 1) // 2, 1)
        both = self.add("Concat", [self.add("Reshape", [x, apart]) for x in (low, high)], axis=2)
        even = self.dim + self.dim % 2
        numbers = self.add("Reshape", [both, self.constant(-1, even)])
        return numbers if even == self.dim else self._columns(numbers, 0, self.dim)

    def _columns(self, matrix: Any, start: int, end: int) -> Any:
        at = [self.constant(x) for x in (start, end, 1)]
        return self.add("Slice", [matrix, *at])

    def _floats(self, value: Any) -> Any:
        import onnx_ir as ir

        return self.add("Cast", [value], to=ir.DataType.FLOAT.value)
