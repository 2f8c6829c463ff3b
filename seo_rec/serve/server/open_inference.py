"""Requests and answers of the Open Inference Protocol, version 2, of which KServe and Triton speak.

An input is a raw column by its name, with the shape (B,) or (B, 1); a multivalent column may have
(B, n), n ids in each row. An output is a column of scores. Tensors are in JSON, or behind it in
binary form, as Triton's extension for binary tensors says.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from seo_rec.serve.bags import Floats
from seo_rec.serve.few_rows import MAX_ROWS
from seo_rec.serve.package import Package
from seo_rec.serve.predict import score_columns, score_names
from seo_rec.serve.preparation import Preparation
from seo_rec.serve.preparation_rules import Column
from seo_rec.serve.server.bodies import (
    Body,
    RequestError,
    parsed,
    require_few_rows,
    rows_of,
)

HEADER_LENGTH = "inference-header-content-length"
BINARY = "application/octet-stream"
_NUMBERS = {
    "BOOL": "?", "FP32": "<f4", "FP64": "<f8",
    **{f"INT{n}": f"<i{n // 8}" for n in (8, 16, 32, 64)},
    **{f"UINT{n}": f"<u{n // 8}" for n in (8, 16, 32, 64)},
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What a request asks for besides scores.

    Args:
        id: Of the request, which the answer repeats; None for none.
        outputs: Names of outputs, and whether each is wanted in binary form.
    """

    id: str | None
    outputs: dict[str, bool]


def model_metadata(name: str, package: Package, preparation: Preparation) -> dict[str, Any]:
    """The JSON value that describes a model: its inputs and outputs, with -1 for any number."""
    inputs = [
        {"name": c.name, "datatype": "FP64" if c.kind == "numeric" else "BYTES", "shape": [-1]}
        for c in preparation.columns
    ]
    outputs = [{"name": n, "datatype": "FP32", "shape": [-1]} for n in score_names(package.labels)]
    about = {"name": name, "versions": [package.version], "platform": "seo_rec"}
    return {**about, "inputs": inputs, "outputs": outputs}


def read_request(
    content: bytes,
    header_length: str | None,
    preparation: Preparation,
    labels: Sequence[str],
    max_rows: int,
) -> tuple[Body, Asked]:
    """The rows of a request, and what it asks for.

    Args:
        content: The body: JSON, and behind it the binary tensors.
        header_length: The header of the bytes of JSON; None if the body is JSON alone.
        preparation: Which columns are read; others are left out.
        labels: The labels of the package.
        max_rows: How many rows a request may have.

    Raises:
        RequestError: With status 400 if the body has another form, 413 if it has too many rows,
            and 422 if its columns cannot be scored.
    """
    document, tail = _apart(content, header_length)
    columns = {c.name: c for c in preparation.columns}
    cells: dict[str, Any] = {}
    for i, tensor in enumerate(_objects(document, "inputs")):
        name = tensor.get("name")
        where = f"inputs[{i}]"
        if not isinstance(name, str) or name in cells:
            raise RequestError(400, f"{where} has no name, or one that is there twice")
        values, shape, tail = _values(tensor, f"{where} {name[:80]!r}", tail)
        require_few_rows(shape[0], max_rows)
        cells[name] = _cells(values, shape, columns[name]) if name in columns else None
    if tail:
        raise RequestError(400, f"{len(tail)} bytes are left behind the last binary input")
    if missing := [name for name in columns if name not in cells]:
        raise RequestError(422, f"the inputs lack the columns {missing}")
    rows = rows_of({name: cells[name] for name in columns}, preparation)
    return Body(rows, {}), _asked(document, score_names(labels))


def write_answer(
    asked: Asked, scores: Floats, model: str, package: Package
) -> tuple[bytes, dict[str, str]]:
    """The body of an answer, and its headers.

    Args:
        asked: What the request asks for.
        scores: float32 (B,), or (B, T) of T labels.
        model: The name of the model.
        package: The package that gave the scores.
    """
    columns = score_columns(scores, package.labels)
    outputs, tail = [], b""
    for name, binary in asked.outputs.items():
        numbers = columns[name].to_numpy()
        output = {"name": name, "datatype": "FP32", "shape": [len(numbers)]}
        if binary:
            content = numbers.astype("<f4").tobytes()
            outputs.append({**output, "parameters": {"binary_data_size": len(content)}})
            tail += content
        else:
            outputs.append({**output, "data": numbers.tolist()})
    named = {} if asked.id is None else {"id": asked.id}
    about = {"model_name": model, "model_version": package.version, **named}
    head = json.dumps({**about, "outputs": outputs}).encode()
    if not any(asked.outputs.values()):
        return head, {"Content-Type": "application/json"}
    return head + tail, {"Content-Type": BINARY, HEADER_LENGTH: str(len(head))}


def _apart(content: bytes, header_length: str | None) -> tuple[dict[str, Any], bytes]:
    """The JSON object of a body, and the binary tensors behind it."""
    tail = b""
    if header_length is not None:
        if not header_length.isascii() or not header_length.isdigit():
            raise RequestError(400, f"{HEADER_LENGTH} is {header_length[:80]!r}; allowed: bytes")
        size = int(header_length[:19])
        if size > len(content):
            raise RequestError(400, f"{HEADER_LENGTH} is {size}; the body has {len(content)} bytes")
        content, tail = content[:size], content[size:]
    document = parsed(content)
    if not isinstance(document, dict):
        raise RequestError(400, 'the body must be {"inputs": [...]}')
    if unknown := sorted(set(document) - {"id", "parameters", "inputs", "outputs"}):
        raise RequestError(400, f"the body has the keys {[name[:80] for name in unknown[:5]]}")
    if not isinstance(document.get("id", ""), str):
        raise RequestError(400, "id must be text")
    return document, tail


def _objects(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = document.get(key, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise RequestError(400, f"{key} must be a list of objects")
    return found


def _parameters(entry: dict[str, Any], allowed: str, where: str) -> Any:
    """The one parameter that an entry may have; None if it has none."""
    found = entry.get("parameters", {})
    if not isinstance(found, dict) or set(found) - {allowed}:
        raise RequestError(400, f"{where} has parameters; allowed: {allowed} alone")
    return found.get(allowed)


def _asked(document: dict[str, Any], names: Sequence[str]) -> Asked:
    usual = _parameters(document, "binary_data_output", "the body") is True
    outputs: dict[str, bool] = {}
    for i, output in enumerate(_objects(document, "outputs")):
        name = output.get("name")
        if not isinstance(name, str) or name not in names:
            raise RequestError(400, f"outputs[{i}]: {str(name)[:80]!r}; allowed: {list(names)}")
        binary = _parameters(output, "binary_data", f"outputs[{i}]")
        outputs[name] = usual if binary is None else binary is True
    return Asked(document.get("id"), outputs or dict.fromkeys(names, usual))


def _values(
    tensor: dict[str, Any], where: str, tail: bytes
) -> tuple[list[Any] | Any, list[int], bytes]:
    """The numbers or texts of an input in row-major order, its shape, and what is left behind."""
    datatype, shape = tensor.get("datatype"), tensor.get("shape")
    if datatype not in ("BYTES", *_NUMBERS):
        known = ", ".join(["BYTES", *_NUMBERS])
        raise RequestError(400, f"{where}: datatype {str(datatype)[:80]!r}; allowed: {known}")
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= 2
        or not all(type(n) is int and 0 <= n < 2**31 for n in shape)
    ):
        raise RequestError(400, f"{where}: shape {str(shape)[:80]}; allowed: [rows] or [rows, n]")
    size = _parameters(tensor, "binary_data_size", where)
    if (size is None) == ("data" not in tensor):
        raise RequestError(400, f"{where} must have either data or binary_data_size")
    values: Any
    if size is None:
        values = _from_json(tensor["data"], datatype, where)
    else:
        if type(size) is not int or not 0 <= size <= len(tail):
            raise RequestError(
                400, f"{where}: binary_data_size {str(size)[:80]}; {len(tail)} bytes are there"
            )
        values, tail = _from_bytes(tail[:size], datatype, where), tail[size:]
    if len(values) != math.prod(shape):
        raise RequestError(400, f"{where}: {len(values)} values; its shape is {shape}")
    return values, shape, tail


def _from_json(data: Any, datatype: str, where: str) -> list[Any]:
    """A list of values, or of lists of them; null stands for a missing one."""
    if not isinstance(data, list):
        raise RequestError(400, f"{where}: data must be a list")
    nested = [part if isinstance(part, list) else [part] for part in data]
    values = [value for part in nested for value in part]
    number = (int, float) if datatype.startswith("FP") else (int,)
    kinds = {"BYTES": (str,), "BOOL": (bool,)}.get(datatype, number)
    for value in values:
        if value is not None and type(value) not in kinds:
            raise RequestError(400, f"{where}: {str(value)[:80]!r} is not of datatype {datatype}")
    return values


def _from_bytes(content: bytes, datatype: str, where: str) -> Any:
    """A tensor in binary form: numbers, or texts with the length of each before it."""
    if datatype != "BYTES":
        dtype = np.dtype(_NUMBERS[datatype])
        if len(content) % dtype.itemsize:
            raise RequestError(400, f"{where}: {len(content)} bytes are no {datatype} numbers")
        return np.frombuffer(content, dtype)
    texts, at = [], 0
    while at < len(content):
        size = struct.unpack_from("<I", content, at)[0] if at + 4 <= len(content) else 2**32
        if size > len(content) - at - 4:
            raise RequestError(400, f"{where}: the text at byte {at} is cut short")
        try:
            texts.append(content[at + 4 : at + 4 + size].decode("utf-8"))
        except UnicodeDecodeError as error:
            raise RequestError(400, f"{where}: the text at byte {at} is no UTF-8") from error
        at += 4 + size
    return texts


def _cells(values: Any, shape: list[int], column: Column) -> Any:
    """The cells of a column: one for each row, or for a multivalent column a list for each row."""
    if len(shape) == 1 or (shape[1] == 1 and column.kind != "multivalent"):
        few = isinstance(values, np.ndarray) and len(values) <= MAX_ROWS
        return values.tolist() if few else values
    if column.kind != "multivalent":
        raise RequestError(422, f"column {column.name!r}: shape {shape}; allowed: [rows]")
    try:
        flat = pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise RequestError(422, f"column {column.name!r}: {error}") from error
    ends = np.arange(0, shape[0] * shape[1] + 1, shape[1] or 1, dtype=np.int32)
    ends = ends if shape[1] else np.zeros(shape[0] + 1, np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), flat)
