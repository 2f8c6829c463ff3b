"""The index of a checkpoint as JSON: which tensors it holds, and where their chunks lie.

``torch.distributed.checkpoint`` writes its index as a pickle, which can run code when it is read.
This one says the same and is the only one that seo_rec reads::

    {"version": 1, "tensors": {"model.w": {"dtype": "float32", "shape": [4, 2], "chunks": [
      {"offsets": [0, 0], "shape": [4, 2], "file": "__0_0.distcp", "offset": 0, "length": 961}
    ]}}}

``offsets`` say where a chunk begins in its tensor; ``offset`` and ``length`` are bytes of the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from seo_rec.files import read_json, write_json

INDEX = "index.json"
INDEX_VERSION = 1
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.bfloat16,
        torch.float16,
        torch.int64,
        torch.int32,
        torch.uint8,
        torch.bool,
    )
}
CHUNK_KEYS = {"offsets", "shape", "file", "offset", "length"}


def write_index(folder: Path, metadata: Metadata) -> None:
    """Write ``FOLDER/index.json`` from what torch has gathered about its files.

    Args:
        folder: The checkpoint.
        metadata: Of tensors only, with ``storage_data``.
    """
    tensors = {}
    for name, entry in metadata.state_dict_metadata.items():
        assert isinstance(entry, TensorStorageMetadata)
        chunks = []
        for chunk in entry.chunks:
            place = metadata.storage_data[MetadataIndex(name, chunk.offsets)]
            chunks.append(
                {
                    "offsets": list(chunk.offsets),
                    "shape": list(chunk.sizes),
                    "file": place.relative_path,
                    "offset": place.offset,
                    "length": place.length,
                }
            )
        dtype = str(entry.properties.dtype).removeprefix("torch.")
        tensors[name] = {"dtype": dtype, "shape": list(entry.size), "chunks": chunks}
    write_json(folder / INDEX, {"version": INDEX_VERSION, "tensors": tensors})


def read_index(folder: Path) -> Metadata:
    """What :func:`write_index` wrote, as torch's reader takes it.

    Raises:
        ValueError: The file is no such index; the message says what is wrong.
        OSError: The file cannot be read.
    """
    document = read_json(folder / INDEX)
    if not isinstance(document, dict) or set(document) != {"version", "tensors"}:
        raise ValueError(f"{INDEX} is not an object of a version and tensors")
    if not _is_whole(document["version"]) or document["version"] != INDEX_VERSION:
        raise ValueError(f"{INDEX} has version {document['version']!r:.20}, not {INDEX_VERSION}")
    if not isinstance(document["tensors"], dict):
        raise ValueError(f"tensors of {INDEX} are not an object")
    entries: dict[str, Any] = {}
    storage: dict[MetadataIndex, _StorageInfo] = {}
    for name, tensor in document["tensors"].items():
        entries[name] = entry = _tensor(name, tensor)
        for chunk, place in zip(entry.chunks, _places(name, tensor), strict=True):
            storage[MetadataIndex(name, chunk.offsets)] = place
    return Metadata(entries, storage_data=storage)


def _tensor(name: str, tensor: Any) -> TensorStorageMetadata:
    """The entry of one tensor, whose chunks lie within it and have as many numbers as it has."""
    _need(isinstance(tensor, dict) and set(tensor) == {"dtype", "shape", "chunks"}, name, tensor)
    _need(isinstance(tensor["dtype"], str) and tensor["dtype"] in DTYPES, name, tensor["dtype"])
    size = _shape(name, tensor["shape"])
    _need(isinstance(tensor["chunks"], list), name, tensor["chunks"])
    chunks = []
    for chunk in tensor["chunks"]:
        _need(isinstance(chunk, dict) and set(chunk) == CHUNK_KEYS, name, chunk)
        offsets, sizes = _shape(name, chunk["offsets"]), _shape(name, chunk["shape"])
        _need(len(offsets) == len(sizes) == len(size), name, chunk)
        inside = all(o + s <= n for o, s, n in zip(offsets, sizes, size, strict=True))
        _need(inside, name, chunk)
        chunks.append(ChunkStorageMetadata(offsets, sizes))
    whole = sum(math.prod(c.sizes) for c in chunks) == math.prod(size)
    _need(whole and len({c.offsets for c in chunks}) == len(chunks), name, tensor["shape"])
    return TensorStorageMetadata(TensorProperties(DTYPES[tensor["dtype"]]), size, chunks)


def _places(name: str, tensor: Mapping[str, Any]) -> Iterator[_StorageInfo]:
    """Where the chunks of a tensor lie."""
    for chunk in tensor["chunks"]:
        file, offset, length = chunk["file"], chunk["offset"], chunk["length"]
        _need(isinstance(file, str) and _is_whole(offset) and _is_whole(length), name, chunk)
        yield _StorageInfo(file, offset, length)


def _shape(name: str, value: Any) -> torch.Size:
    _need(isinstance(value, list) and all(_is_whole(n) for n in value), name, value)
    return torch.Size(value)


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _need(good: bool, name: str, value: Any) -> None:
    if not good:
        raise ValueError(f"{INDEX} says {value!r:.80} of {name!r:.80}, which is no tensor's place")
