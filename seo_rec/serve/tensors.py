"""Files of tensors (safetensors): written by the library, read by mapping them into memory."""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
from safetensors.numpy import save

Array = npt.NDArray[Any]

TYPES: Mapping[str, str] = {
    "F32": "<f4",
    "F16": "<f2",
    "U16": "<u2",
    "U8": "u1",
    "I64": "<i8",
    "I32": "<i4",
    "U32": "<u4",
}


def tensor_bytes(tensors: Mapping[str, Array]) -> bytes:
    """The file that holds these tensors; equal tensors give equal bytes."""
    return save({name: np.ascontiguousarray(value) for name, value in tensors.items()})


def read_tensors(path: Path) -> dict[str, Array]:
    """The tensors of a file by name, read-only and mapped: pages are read when they are used.

    Raises:
        ValueError: The file is no safetensors file, or holds a type that packages do not use.
    """
    try:
        with safetensors.safe_open(path, framework="numpy"):  # its reader checks all offsets
            pass
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path.name}: not a safetensors file ({error})") from error
    with path.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    size = int.from_bytes(mapped[:8], "little")
    header = json.loads(mapped[8 : 8 + size])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in TYPES:
            raise ValueError(f"{path.name}: tensor {name!r} has the type {entry['dtype']}")
        dtype, shape = np.dtype(TYPES[entry["dtype"]]), entry["shape"]
        count = int(np.prod(shape, dtype=object))
        start = 8 + size + entry["data_offsets"][0]
        flat = np.frombuffer(mapped, dtype, count, start) if count else np.empty(0, dtype)
        tensors[name] = flat.reshape(shape)
    return tensors


def fits(tensor: Array, dtype: str, *shape: int | None) -> bool:
    """Whether a tensor has a type and a shape; None stands for any size."""
    return (
        tensor.dtype == np.dtype(dtype)
        and tensor.ndim == len(shape)
        and all(want in (None, size) for want, size in zip(shape, tensor.shape, strict=True))
    )


def tensor_places(content: bytes) -> dict[str, tuple[int, int]]:
    """Of each tensor of a file with this content, its first byte and how many bytes it has."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header.pop("__metadata__", None)
    places = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        places[name] = (8 + size + start, end - start)
    return places
