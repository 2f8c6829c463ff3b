"""Rows of int8 and int4 in a graph of ONNX, written so that ONNX Runtime reads them fast.

ONNX Runtime has no operator that reads a row and its scale and is fast on a processor. Its steps
over (R, K, D) numbers with a factor for each row call a function for each row, which costs more
than the rest. So there are two ways:

* Small tables become floats once, when the graph is loaded: all steps in front of the ``Gather``
  have constant inputs, which ONNX Runtime computes at that time. A score then costs what it costs
  with float32. The file keeps its size, and the memory of the process grows by the floats.
* Large tables stay as they are, and each row is read once, by ``GatherND``: most of the time of a
  large table is waiting for the memory. ``DequantizeLinear`` multiplies each row by its scale, and
  ``Gemm`` adds the offset of each row: both run over all rows in one piece.

The last four bytes of a row are two float16 numbers. No operator takes bytes for a float16 number,
so a list of the 65,536 numbers is computed at loading, and ``GatherElements`` looks them up.

Letters: R rows or ids, K lookups, N rows of a table, n rows that are read or all, D a width.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from seo_rec.export.steps import constant, insert
from seo_rec.export.stored import PLACEHOLDER, half_parts
from seo_rec.policy.dtypes import SCALE_BYTES

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
        stored = node.inputs[1].name
        if stored not in small:
            writer.finish_flat(writer.row_by_row())
            continue
        if stored not in tables:
            tables[stored] = writer.all_floats()
        writer.finish(writer.add("Gather", [tables[stored], node.inputs[0]], axis=0))
    model.opset_imports.pop(domain, None)
    RemoveUnusedNodesPass()(model)


def _float_bytes(node: Any) -> int:
    num_rows = int(node.inputs[1].const_value.shape[0])
    return num_rows * int(node.attributes["dim"].as_int()) * 4


class _Writer:
    """Writes nodes in front of a placeholder."""

    def __init__(self, graph: Any, node: Any) -> None:
        self.graph, self.node = graph, node
        self.rows, self.stored = node.inputs
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
            shape = self.constant([-1, int(self.rows.shape[1]), self.dim])
            self.finish(self.add("Reshape", [flat, shape]))
        else:
            self.graph.remove(self.node, safe=True)

    def add(self, op: str, inputs: list[Any], outputs: int = 1, **attributes: Any) -> Any:
        return insert(self.graph, self.node, op, inputs, attributes, outputs)

    def constant(self, numbers: Any) -> Any:
        return constant(self.graph, numbers)

    def all_floats(self) -> Any:
        """float32 (N, D): the whole table, of constants."""
        import onnx_ir as ir

        numbers, scale, offset = self._parts(self.stored)
        each = self._floats(numbers)
        if self.bits == 4:
            each = self.add("MatMul", [each, self.constant(self._order())])
        apart = self.constant([-1, 1])
        scale, offset = (self.add("Reshape", [x, apart]) for x in (scale, offset))
        table = self.add("Add", [offset, self.add("Mul", [scale, each])])
        table.shape = ir.Shape([int(self.stored.shape[0]), self.dim])
        table.dtype = ir.DataType.FLOAT
        return table

    def row_by_row(self) -> Any:
        """float32 (R * K, D)."""
        flat = self.add("Reshape", [self.rows, self.constant([-1, 1])])
        numbers, scale, offset = self._parts(self.add("GatherND", [self.stored, flat]))
        scaled = self.add("DequantizeLinear", [numbers, scale], axis=0)
        if self.bits == 8:
            ones = self.constant(np.ones((1, self.dim), np.float32))
            return self.add("Gemm", [offset, ones, scaled], transA=1)
        offset = self.add("Reshape", [offset, self.constant([-1, 1])])
        return self.add("Gemm", [scaled, self.constant(self._order()), offset])

    def _parts(self, stored: Any) -> tuple[Any, Any, Any]:
        """uint8 numbers of n rows, and float32 scales (n) and offsets (1, n), of stored rows.

        The numbers of int4 are (n, 2 * bytes), the lower halves of all bytes before the upper ones.
        """
        sizes = self.constant([int(self.stored.shape[1]) - SCALE_BYTES, SCALE_BYTES])
        numbers, last = self.add("Split", [stored, sizes], 2, axis=1)
        if self.bits == 4:
            low = self.add("BitwiseAnd", [numbers, self.constant(np.array(15, np.uint8))])
            four = self.constant(np.array(4, np.uint8))
            high = self.add("BitShift", [numbers, four], direction="RIGHT")
            numbers = self.add("Concat", [low, high], axis=1)
        scale, offset = self._halves(last)
        return numbers, self.add("Reshape", [scale, self.constant([-1])]), offset

    def _halves(self, last: Any) -> list[Any]:
        """float32 (1, n) twice, of uint8 (n, 4): two float16 numbers of each row."""
        import onnx_ir as ir

        place = np.array([[1, 256, 0, 0], [0, 0, 1, 256]], np.float32)
        places = self.add("Gemm", [self.constant(place), self._floats(last)], transB=1)
        places = self.add("Cast", [places], to=ir.DataType.INT32.value)
        start, step = (self.constant(part) for part in np.split(half_parts(), 2, axis=1))
        low = self.constant(np.arange(256, dtype=np.float32)[None])
        known = self.add("Gemm", [step, low, start])
        known = self.add("Reshape", [known, self.constant([1, -1])])
        both = self.add("Concat", [known, known], axis=0)
        found = self.add("GatherElements", [both, places], axis=1)
        split: list[Any] = self.add("Split", [found], 2, axis=0, num_outputs=2)
        return split

    def _order(self) -> Any:
        """float32 (2 * bytes, D): 1 where a number of :meth:`_parts` is a number of the row."""
        size = -(-self.dim // 2)
        at = np.arange(self.dim)
        order = np.zeros((2 * size, self.dim), np.float32)
        order[at // 2 + size * (at % 2), at] = 1
        return order

    def _floats(self, value: Any) -> Any:
        import onnx_ir as ir

        return self.add("Cast", [value], to=ir.DataType.FLOAT.value)
