"""Steps and constants that are put into a graph of ONNX."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def insert(
    graph: Any,
    before: Any,
    op: str,
    inputs: Sequence[Any],
    attributes: Mapping[str, Any] | None = None,
    outputs: int = 1,
) -> Any:
    """A new step of standard operators in front of another one.

    Args:
        graph: Of ``onnx_ir``.
        before: A node of it.
        op: The operator.
        inputs: Values of the graph.
        attributes: Its settings.
        outputs: How many results the step has.

    Returns:
        Its result, or a list of several.
    """
    import onnx_ir as ir

    converted = ir.convenience.convert_attributes(attributes or {})
    name = f"{before.outputs[0].name}_{op.lower()}_{len(graph)}"
    step = ir.Node("", op, inputs, converted, num_outputs=outputs, name=name)
    for i, output in enumerate(step.outputs):
        output.name = f"{name}_{i}"
    graph.insert_before(before, step)
    return step.outputs[0] if outputs == 1 else list(step.outputs)


def constant(graph: Any, numbers: npt.ArrayLike) -> Any:
    """An array, or a list as int64, as a value of a graph, which holds equal ones once."""
    import onnx_ir as ir

    array = np.array(numbers, np.int64) if isinstance(numbers, list) else np.asarray(numbers)
    digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
    shape = "x".join(map(str, array.shape))
    name = f"constant_{array.dtype.name}_{shape}_{digest}"
    if name not in graph.initializers:
        tensor = ir.tensor(array, name=name)
        graph.register_initializer(ir.Value(name=name, const_value=tensor))
    return graph.initializers[name]
