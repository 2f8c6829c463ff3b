"""Whether an Arrow stream is compressed, by its messages, before anything is unpacked.

A compressed body of a few bytes may unpack to gigabytes, and pyarrow has no limit for it. The
metadata of a message are a FlatBuffer, of which only one field is needed: ``compression`` of
``RecordBatch`` (Arrow's ``Message.fbs``).
"""

from __future__ import annotations

import struct
from typing import Any

import pyarrow as pa

_VERSION, _HEADER_TYPE, _HEADER = 0, 1, 2  # numbers of fields of Message
_V5 = 4  # of the format; messages of older ones may say elsewhere that they are compressed
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3  # header types
_DATA = 1  # field of DictionaryBatch: a RecordBatch
_COMPRESSION = 3  # field of RecordBatch


def is_compressed(stream: bytes) -> bool:
    """Whether a record batch or a dictionary of this stream has compressed buffers.

    Raises:
        ArrowException: It is no Arrow stream.
        ValueError: The metadata of a message are damaged, or of a version before Arrow 1.0.
    """
    reader = pa.ipc.MessageReader.open_stream(pa.py_buffer(stream))
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return False
        if _has_compression(message.metadata):
            return True


def _has_compression(metadata: Any) -> bool:
    content = bytes(metadata)
    try:
        message = struct.unpack_from("<I", content)[0]
        version_at = _field(content, message, _VERSION)
        if not version_at or struct.unpack_from("<h", content, version_at)[0] < _V5:
            raise ValueError("it is of a version of the format before 1.0; write it anew")
        kind_at = _field(content, message, _HEADER_TYPE)
        kind = content[kind_at] if kind_at else 0
        if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
            return False
        batch = _table(content, message, _HEADER)
        if kind == _DICTIONARY_BATCH:
            batch = _table(content, batch, _DATA)
        return _field(content, batch, _COMPRESSION) != 0
    except (struct.error, IndexError) as error:
        raise ValueError("the metadata of a message are damaged") from error


def _field(content: bytes, table: int, number: int) -> int:
    """Where a field of a FlatBuffer's table is; 0 if the table lacks it."""
    fields = table - struct.unpack_from("<i", content, table)[0]
    size = struct.unpack_from("<H", content, fields)[0]
    place = 4 + 2 * number
    if place + 2 > size:
        return 0
    offset = struct.unpack_from("<H", content, fields + place)[0]
    return table + offset if offset else 0


def _table(content: bytes, table: int, number: int) -> int:
    """Where the table is that a field refers to."""
    at = _field(content, table, number)
    if not at:
        raise ValueError("the metadata of a message are damaged")
    return at + int(struct.unpack_from("<I", content, at)[0])
