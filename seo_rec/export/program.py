"""A trained backbone as the steps of :mod:`seo_rec.serve.program`, by way of ``torch.export``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import Node

from seo_rec.serve.package import Array
from seo_rec.serve.program import DENSE, EMBEDDINGS, Program, Step

Settings = Mapping[str, Any]
_ROWS = 4  # of the example; 0 and 1 would be taken for constants


class UnknownOperationError(ValueError):
    """A backbone does something that packages have no step for."""


def program_of(backbone: nn.Module, num_dense: int, width: int) -> tuple[Program, dict[str, Array]]:
    """The steps of a backbone and its weights.

    Args:
        backbone: ``forward(dense_BN, x_BE) -> logits_B``.
        num_dense: N.
        width: E.

    Raises:
        UnknownOperationError: It uses an operation that packages do not have.
    """
    backbone = backbone.eval()
    example = torch.zeros(_ROWS, num_dense), torch.zeros(_ROWS, width)
    rows = torch.export.Dim("rows", min=2)
    with quietly():
        exported = torch.export.export(
            backbone, example, dynamic_shapes=({0: rows}, {0: rows}), strict=False
        ).run_decompositions({})
    return _Writer(exported, backbone).program(num_dense, width)


@contextmanager
def quietly() -> Iterator[None]:
    """Within the block torch does not warn of itself, which a user cannot help."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


class _Writer:
    """Turns the nodes of a graph into steps, in order."""

    def __init__(self, exported: Any, backbone: nn.Module) -> None:
        self.exported, self.backbone = exported, backbone
        self.names: dict[Any, Any] = {}  # of a node, its value's name; of unbind, names of parts
        self.steps: list[Step] = []
        self.weights: dict[str, Array] = {}

    def program(self, num_dense: int, width: int) -> tuple[Program, dict[str, Array]]:
        signature = self.exported.graph_signature
        parameters = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        constants = {**self.backbone.state_dict(), **self.exported.constants}
        constants |= dict(self.backbone.named_buffers())
        inputs = [DENSE, EMBEDDINGS]
        output = ""
        for node in self.exported.graph.nodes:
            if node.op == "placeholder":
                if node.name in parameters:
                    name = parameters[node.name]
                    self.names[node] = name
                    self.weights[name] = _numbers(constants[name])
                else:
                    self.names[node] = inputs.pop(0)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                output = self.names[node.args[0][0]]
        read = {name for step in self.steps for name in step.inputs}
        weights = {name: value for name, value in self.weights.items() if name in read}
        return Program(num_dense, width, tuple(self.steps), output), weights

    def _call(self, node: Any) -> None:
        name = str(node.target)
        if name == "aten.sym_size.int":
            return
        if "getitem" in name:
            self.names[node] = self.names[node.args[0]][node.args[1]]
            return
        if name not in _TRANSLATED:
            raise UnknownOperationError(
                f"the backbone {type(self.backbone).__name__} uses {name}, for which packages have "
                "no step; add one to seo_rec/serve/program.py and seo_rec/export/program.py"
            )
        _TRANSLATED[name](self, node)

    def step(self, op: str, inputs: Sequence[Any], settings: Settings | None = None) -> str:
        """Add a step and return the name of its result."""
        name = f"v{len(self.steps)}"
        read = tuple(self.names[x] if isinstance(x, Node) else x for x in inputs)
        self.steps.append(Step(op, read, name, settings or {}))
        return name

    def one(
        self, node: Any, op: str, inputs: Sequence[Any], settings: Settings | None = None
    ) -> None:
        self.names[node] = self.step(op, inputs, settings)


def _numbers(tensor: torch.Tensor) -> Array:
    found = tensor.detach().cpu().numpy()
    wanted = np.int64 if found.dtype.kind == "i" else np.float32
    return np.ascontiguousarray(found, wanted)


def _shape(node: Any) -> list[Any]:
    return list(node.meta["val"].shape)


def _axis(node: Any, axis: int) -> int:
    """``axis`` of the first input, counted from the front."""
    return axis % len(_shape(node.args[0]))


def _same(writer: _Writer, node: Any) -> None:
    writer.names[node] = writer.names[node.args[0]]


def _plain(op: str) -> Callable[[_Writer, Any], None]:
    return lambda writer, node: writer.one(node, op, node.args)


def _product(writer: _Writer, node: Any) -> None:
    x, y = node.args[:2]
    if isinstance(y, int | float):
        writer.one(node, "scale", [x], {"by": float(y)})
    elif isinstance(x, int | float):
        writer.one(node, "scale", [y], {"by": float(x)})
    else:
        writer.one(node, "multiply", [x, y])


def _sum(op: str) -> Callable[[_Writer, Any], None]:
    def write(writer: _Writer, node: Any) -> None:
        if node.kwargs.get("alpha", 1) != 1 or not all(isinstance(x, Node) for x in node.args[:2]):
            raise UnknownOperationError(f"{node.target} with a number or a factor")
        writer.one(node, op, node.args[:2])

    return write


def _linear(writer: _Writer, node: Any) -> None:
    writer.one(node, "linear", [x for x in node.args if x is not None])


def _reduced(writer: _Writer, node: Any) -> None:
    axes = node.args[1]
    if len(axes) != 1 or len(node.args) > 2:
        raise UnknownOperationError(f"{node.target} over {axes} axes at once, or kept ones")
    writer.one(node, "sum", node.args[:1], {"axis": _axis(node, axes[0])})


def _joined(op: str) -> Callable[[_Writer, Any], None]:
    def write(writer: _Writer, node: Any) -> None:
        axis = node.args[1] if len(node.args) > 1 else 0
        writer.one(node, op, node.args[0], {"axis": axis % len(_shape(node))})

    return write


def _span(axis: int, start: int, size: int) -> Settings:
    return {"axis": axis, "start": start, "size": size}


def _split(writer: _Writer, node: Any) -> None:
    axis = _axis(node, node.args[2] if len(node.args) > 2 else 0)
    start, parts = 0, []
    for size in node.args[1]:
        parts.append(writer.step("part", node.args[:1], _span(axis, start, size)))
        start += size
    writer.names[node] = parts


def _unbind(writer: _Writer, node: Any) -> None:
    axis = _axis(node, node.args[1] if len(node.args) > 1 else 0)
    size = _shape(node.args[0])[axis]
    parts = []
    for start in range(size):
        part = writer.step("part", node.args[:1], _span(axis, start, 1))
        parts.append(writer.step("squeeze", [part], {"axis": axis}))
    writer.names[node] = parts


def _slice(writer: _Writer, node: Any) -> None:
    if _shape(node) != _shape(node.args[0]):
        raise UnknownOperationError(f"{node.target} that leaves something out")
    _same(writer, node)


def _squeeze(writer: _Writer, node: Any) -> None:
    writer.one(node, "squeeze", node.args[:1], {"axis": _axis(node, node.args[1])})


def _expand(writer: _Writer, node: Any) -> None:
    axis = node.args[1] % len(_shape(node))
    writer.one(node, "expand", node.args[:1], {"axis": axis})


def _take(writer: _Writer, node: Any) -> None:
    x, axis, index = node.args
    writer.one(node, "take", [x, index], {"axis": _axis(node, axis)})


def _transposed(writer: _Writer, node: Any) -> None:
    x, a, b = node.args
    order = list(range(len(_shape(node))))
    order[a], order[b] = order[b], order[a]
    writer.one(node, "transpose", [x], {"order": order})


def _permuted(writer: _Writer, node: Any) -> None:
    x, order = node.args
    writer.one(node, "transpose", [x], {"order": [i % len(order) for i in order]})


def _reshaped(writer: _Writer, node: Any) -> None:
    shape = [size if isinstance(size, int) else -1 for size in _shape(node)]
    if -1 in shape[1:]:
        raise UnknownOperationError(f"{node.target} that moves the rows")
    writer.one(node, "reshape", node.args[:1], {"shape": shape})


def _softmax(writer: _Writer, node: Any) -> None:
    x, axis = node.args[:2]
    writer.one(node, "softmax", [x], {"axis": _axis(node, axis)})


def _attention(writer: _Writer, node: Any) -> None:
    if len(node.args) > 3 or set(node.kwargs) - {"scale"} or node.kwargs.get("scale") is None:
        raise UnknownOperationError(f"{node.target} with a mask, dropout or no scale")
    writer.one(node, "attention", node.args, {"scale": float(node.kwargs["scale"])})


_TRANSLATED: dict[str, Callable[[_Writer, Any], None]] = {
    "aten.linear.default": _linear,
    "aten.matmul.default": _plain("matmul"),
    "aten.relu.default": _plain("relu"),
    "aten.tanh.default": _plain("tanh"),
    "aten.sigmoid.default": _plain("sigmoid"),
    "aten._softmax.default": _softmax,
    "aten.softmax.int": _softmax,
    "aten.square.default": _plain("square"),
    "aten.add.Tensor": _sum("add"),
    "aten.sub.Tensor": _sum("subtract"),
    "aten.mul.Tensor": _product,
    "aten.sum.dim_IntList": _reduced,
    "aten.cat.default": _joined("concatenate"),
    "aten.stack.default": _joined("stack"),
    "aten.split_with_sizes.default": _split,
    "aten.unbind.int": _unbind,
    "aten.slice.Tensor": _slice,
    "aten.squeeze.dim": _squeeze,
    "aten.unsqueeze.default": _expand,
    "aten.index_select.default": _take,
    "aten.transpose.int": _transposed,
    "aten.permute.default": _permuted,
    "aten.view.default": _reshaped,
    "aten.reshape.default": _reshaped,
    "aten.scaled_dot_product_attention.default": _attention,
    "aten.clone.default": _same,
    "aten.alias.default": _same,
    "aten.dropout.default": _same,
}
