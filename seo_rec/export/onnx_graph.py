"""A package's graph in ONNX: the twin, whose numbers stay in the package's own files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from seo_rec.export import dequantized
from seo_rec.export.gathers import use_fast_gathers
from seo_rec.export.hashes import unsigned_shifts
from seo_rec.export.indices import use_doubles
from seo_rec.export.program import quietly
from seo_rec.export.twin import Twin, example_inputs
from seo_rec.export.unsigned import use_unsigned
from seo_rec.extras import installing
from seo_rec.serve.tensors import tensor_places

OPSET = 20
_LEAST_BYTES = 256  # a smaller tensor stays in the graph


class OnnxError(ValueError):
    """The graph cannot be written; the message says why."""


def onnx_bytes(twin: Twin, files: Mapping[str, bytes]) -> bytes:
    """The graph of a twin, whose large tensors are references into the files of the package.

    Args:
        twin: The served function.
        files: ``embeddings.safetensors`` and ``backbone.safetensors``, by name.

    Raises:
        OnnxError: onnx or onnxscript is not installed, or the graph is not of plain operators.
    """
    model = exported(twin).model
    import onnx_ir as ir

    for name, (file, tensor) in twin.sources().items():
        value = model.graph.initializers.get(name)
        place = tensor_places(files[file]).get(tensor)
        if value is None or place is None or place[1] < _LEAST_BYTES:
            continue
        start, size = place
        if start % value.dtype.itemsize:
            continue  # a library may not read numbers from an odd place
        if value.const_value.tobytes() != files[file][start : start + size]:
            raise OnnxError(f"the graph holds other numbers than {file} has as {tensor!r}")
        value.const_value = ir.ExternalTensor(
            file, start, size, value.dtype, shape=value.const_value.shape, name=name
        )
    use_unsigned(model)
    dequantized.write_out_rows(model, dequantized.FLOAT_BYTES)
    use_fast_gathers(model)
    use_doubles(model)
    _require_plain(model)
    _without_traces(model)
    proto = ir.serde.serialize_model(model)
    written: bytes = proto.SerializeToString(deterministic=True)
    return written


def _require_plain(model: Any) -> None:
    """OnnxError unless all nodes are standard operators without inner graphs."""
    for node in model.graph:
        if node.domain not in ("", "ai.onnx") or node.op_type in ("Loop", "Scan", "If"):
            raise OnnxError(f"the graph has a node {node.domain}::{node.op_type}, which is slow")
    if model.functions:
        raise OnnxError(f"the graph has functions {list(model.functions)}")


def _without_traces(model: Any) -> None:
    """Take out what the exporter notes of the source code: paths, lines, names of classes."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.producer_version = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for output in node.outputs:
            output.metadata_props.clear()


def exported(twin: Twin) -> Any:
    """The ONNX program of a twin."""
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise OnnxError(
            f"the graph needs onnx and onnxscript: {installing('onnx')}, or export "
            "without it by --format none"
        ) from error
    example, shapes = example_inputs(twin.signature)
    with quietly(), twin.rows.placeholders(), unsigned_shifts():
        return torch.onnx.export(
            twin,
            example,
            dynamo=True,
            dynamic_shapes=(tuple(shapes),),
            input_names=list(twin.signature.names),
            output_names=["logits"],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
            custom_translation_table=_translations(),
        )


def _translations() -> dict[Any, Any]:
    """How both shifts of the twin are written (:func:`seo_rec.export.hashes.not_negative`)."""
    from onnxscript import opset20

    op: Any = opset20

    def logical(x: Any, by: int) -> Any:
        unsigned = op.Cast(x, to=13)  # uint64
        return op.CastLike(op.BitShift(unsigned, op.Cast(by, to=13), direction="RIGHT"), x)

    def arithmetic(x: Any, by: int) -> Any:
        sign = 1 << (63 - by)  # where the sign bit comes to be; above it are zeros, so far
        return op.Sub(op.BitwiseXor(logical(x, by), sign), sign)

    aten = torch.ops.aten
    return {
        aten.__rshift__.Scalar: arithmetic,
        aten.bitwise_right_shift.Tensor_Scalar: logical,
    }
