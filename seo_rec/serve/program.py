"""The backbone of a package: a list of steps on arrays, checked and run by NumPy.

``docs/package-format.md`` defines the steps. ``backbone.json`` holds the list and
``backbone.safetensors`` the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seo_rec.policy.strict_json import integer, items, json_object, string

FORMAT = "seo-rec-backbone"
VERSION = 1
DENSE, EMBEDDINGS = "dense", "embeddings"  # the names of the inputs

Array = npt.NDArray[Any]


def _linear(inputs: Sequence[Array]) -> Array:
    x, weight, *bias = inputs
    y = np.matmul(x, weight.T)
    return y + bias[0] if bias else y


def _attention(inputs: Sequence[Array], scale: float) -> Array:
    query, key, value = inputs
    scores = np.matmul(query, np.swapaxes(key, -2, -1)) * np.float32(scale)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.matmul(scores / scores.sum(axis=-1, keepdims=True), value)


def _sigmoid(inputs: Sequence[Array]) -> Array:
    x = inputs[0]
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype, copy=False)


def _softmax(inputs: Sequence[Array], axis: int) -> Array:
    x = inputs[0]
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    found: Array = e / e.sum(axis=axis, keepdims=True)
    return found


def _part(inputs: Sequence[Array], axis: int, start: int, size: int) -> Array:
    x = inputs[0]
    if not 0 <= start < start + size <= x.shape[axis]:
        raise ValueError(f"a part from {start} of {size} in {x.shape[axis]}")
    return x[(slice(None),) * (axis % x.ndim) + (slice(start, start + size),)]


def _reshape(inputs: Sequence[Array], shape: Sequence[int]) -> Array:
    x = inputs[0]
    return x.reshape([len(x) if i == 0 and size < 0 else size for i, size in enumerate(shape)])


# Of each operation: how many inputs it has at least and at most, its settings, and what it does.
_INT, _FLOAT, _INTS, _SHAPE = "integer", "number", "integers", "shape"
_MANY = 10_000
OPERATIONS: Mapping[str, tuple[int, int, Mapping[str, str], Callable[..., Array]]] = {
    "linear": (2, 3, {}, _linear),
    "matmul": (2, 2, {}, lambda x: np.matmul(*x)),
    "add": (2, 2, {}, lambda x: x[0] + x[1]),
    "subtract": (2, 2, {}, lambda x: x[0] - x[1]),
    "multiply": (2, 2, {}, lambda x: x[0] * x[1]),
    "scale": (1, 1, {"by": _FLOAT}, lambda x, by: x[0] * np.float32(by)),
    "square": (1, 1, {}, lambda x: x[0] * x[0]),
    "relu": (1, 1, {}, lambda x: np.maximum(x[0], 0)),
    "tanh": (1, 1, {}, lambda x: np.tanh(x[0])),
    "sigmoid": (1, 1, {}, _sigmoid),
    "softmax": (1, 1, {"axis": _INT}, _softmax),
    "sum": (1, 1, {"axis": _INT}, lambda x, axis: x[0].sum(axis=axis)),
    "concatenate": (1, _MANY, {"axis": _INT}, lambda x, axis: np.concatenate(x, axis=axis)),
    "stack": (1, _MANY, {"axis": _INT}, lambda x, axis: np.stack(x, axis=axis)),
    "part": (1, 1, {"axis": _INT, "start": _INT, "size": _INT}, _part),
    "take": (2, 2, {"axis": _INT}, lambda x, axis: np.take(x[0], x[1], axis=axis)),
    "squeeze": (1, 1, {"axis": _INT}, lambda x, axis: np.squeeze(x[0], axis=axis)),
    "expand": (1, 1, {"axis": _INT}, lambda x, axis: np.expand_dims(x[0], axis)),
    "transpose": (1, 1, {"order": _INTS}, lambda x, order: np.transpose(x[0], order)),
    "reshape": (1, 1, {"shape": _SHAPE}, _reshape),
    "attention": (3, 3, {"scale": _FLOAT}, _attention),
}


@dataclass(frozen=True)
class Step:
    """One operation: the names of its inputs, the name of its result, and its settings."""

    op: str
    inputs: tuple[str, ...]
    output: str
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"op": self.op, "in": list(self.inputs), "out": self.output, **self.settings}


@dataclass(frozen=True)
class Program:
    """``(dense_BN, embeddings_BE, weights) -> logits_B``, or ``logits_BT`` of several labels.

    Args:
        num_dense: N, number of dense columns.
        width: E, width of the embeddings.
        steps: In the order in which they run; each reads the inputs ``dense`` and ``embeddings``,
            weights and results of steps before it.
        output: The result that is the logits.
    """

    num_dense: int
    width: int
    steps: tuple[Step, ...]
    output: str

    def run(
        self, dense_BN: Array, embeddings_BE: Array, weights: Mapping[str, Array]
    ) -> npt.NDArray[np.float32]:
        """The logits, float32 (B,), or (B, T) of a model of T labels.

        Raises:
            ValueError: A step does not fit the shapes of its inputs.
        """
        values: dict[str, Array] = {**weights, DENSE: dense_BN, EMBEDDINGS: embeddings_BE}
        last = {name: i for i, step in enumerate(self.steps) for name in step.inputs}
        for i, step in enumerate(self.steps):
            function = OPERATIONS[step.op][3]
            inputs = [values[name] for name in step.inputs]
            try:
                with np.errstate(all="ignore"):  # what is not finite shows in the score
                    values[step.output] = function(inputs, **step.settings)
            except (ValueError, IndexError, TypeError, MemoryError) as error:
                raise ValueError(f"step {i} ({step.op}) of the backbone: {error}") from error
            for name in step.inputs:
                if last[name] == i and name != self.output:
                    values.pop(name, None)
        logits = values[self.output]
        if logits.shape[:1] != (len(dense_BN),) or logits.ndim > 2:
            raise ValueError(
                f"the backbone gives numbers of shape {logits.shape}, not one per row and label"
            )
        return logits.astype(np.float32, copy=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "num_dense": self.num_dense,
            "width": self.width,
            "steps": [step.to_json() for step in self.steps],
            "output": self.output,
        }

    @classmethod
    def from_json(cls, document: Any, weights: Sequence[str], where: str) -> Program:
        """Read a program strictly.

        Args:
            document: The JSON value.
            weights: The names of the weights there are.
            where: What messages call the document.

        Raises:
            PolicyError: The document is none of this format; the message says where.
            ValueError: A name is not defined, or defined twice, or a weight is not used.
        """
        keys = {"format", "version", "num_dense", "width", "steps", "output"}
        doc = json_object(document, keys, where)
        if (doc["format"], doc["version"]) != (FORMAT, VERSION) or doc["version"] is True:
            raise ValueError(
                f"{where}: format {doc['format']!r} version {doc['version']!r}; this release reads "
                f"{FORMAT!r} version {VERSION}"
            )
        known = {DENSE, EMBEDDINGS, *weights}
        unused = set(weights)
        steps = []
        for at, entry in items(doc, "steps", where):
            step = _step(entry, at)
            if missing := [name for name in step.inputs if name not in known]:
                raise ValueError(f"{at}: in names {missing}, which no step before it makes")
            if step.output in known:
                raise ValueError(f"{at}: out is {step.output!r}, which is there already")
            known.add(step.output)
            unused -= set(step.inputs)
            steps.append(step)
        output = string(doc["output"], f"{where}: output")
        if output not in {step.output for step in steps}:
            raise ValueError(f"{where}: output is {output!r}, which no step makes")
        if unused:
            raise ValueError(f"{where}: no step reads the weights {sorted(unused)}")
        num_dense = integer(doc["num_dense"], f"{where}: num_dense")
        width = integer(doc["width"], f"{where}: width")
        if num_dense < 0 or width < 1:
            raise ValueError(f"{where}: num_dense {num_dense} and width {width}; allowed: 0, 1")
        return cls(num_dense, width, tuple(steps), output)


def _step(entry: Any, at: str) -> Step:
    if not isinstance(entry, dict) or not isinstance(entry.get("op"), str):
        raise ValueError(f"{at}: must be an object with an op")
    op = entry["op"]
    if op not in OPERATIONS:
        raise ValueError(f"{at}: op {op!r}; allowed: {', '.join(OPERATIONS)}")
    least, most, settings, _ = OPERATIONS[op]
    step = json_object(entry, {"op", "in", "out", *settings}, at)
    inputs = tuple(string(name, place) for place, name in items(step, "in", at, "."))
    if not least <= len(inputs) <= most:
        raise ValueError(f"{at}: {op} has {len(inputs)} inputs; allowed: {least} to {most}")
    checked = {name: _setting(step[name], kind, f"{at}.{name}") for name, kind in settings.items()}
    return Step(op, inputs, string(step["out"], f"{at}.out"), checked)


def _setting(value: Any, kind: str, at: str) -> Any:
    if kind == _INT:
        return _index(value, at)
    if kind == _FLOAT:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{at}: must be a number, got {value!r}")
        return float(value)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{at}: must be a list of numbers, got {value!r}")
    if kind == _SHAPE and value[0] == -1 and value[0] is not True:
        return [-1, *(_index(x, f"{at}[{i}]") for i, x in enumerate(value[1:], start=1))]
    return [_index(x, f"{at}[{i}]") for i, x in enumerate(value)]


def _index(value: Any, at: str) -> int:
    if not 0 <= integer(value, at) < 2**31:
        raise ValueError(f"{at}: {value}; allowed: 0 to 2^31 - 1")
    return int(value)
