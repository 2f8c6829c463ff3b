"""Stored rows and arrays in plain aten: gathered in their types, then made floats.

Letters: R rows or ids, K lookups, D a width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from seo_rec.export.hashes import not_negative
from seo_rec.policy.dtypes import BITS, Floats
from seo_rec.serve.package import Array

PLACEHOLDER = "seo_rec::StoredRows"  # inputs: rows, bytes


@dataclass(frozen=True)
class Group:
    """Lookups of one tensor of rows, by their numbers among all lookups."""

    tensor: str
    lookups: tuple[int, ...]
    dim: int
    dtype: str


def half_parts() -> Floats:
    """float32 (256, 2): the float16 of the bytes (low, high) is p[high, 0] + low * p[high, 1].

    It is exact; numbers of the same upper byte lie at equal distances.
    """
    bits = np.arange(256, dtype=np.uint16) << 8
    start = bits.view(np.float16).astype(np.float32)
    second = (bits + np.uint16(1)).view(np.float16).astype(np.float32)
    with np.errstate(invalid="ignore"):
        return np.stack([start, second - start], axis=1)


class Stored(nn.Module):
    """The stored tensors as buffers, and the floats of their rows.

    The bytes of rows of int8 and int4 are seen as float16 numbers too, of which the last two are
    the scale and the offset of the row. The graph has that view, not another buffer, because
    compiled code holds each buffer by itself. Rows of an odd number of bytes have no such view;
    their scales are put together from bytes.
    """

    def __init__(self, stored: Mapping[str, Array]) -> None:
        super().__init__()
        self.keys: dict[str, str] = {}
        for name, value in stored.items():
            if not name.startswith("project."):
                self.keys[name] = key = name.replace(".", "_")
                self.register_buffer(key, _tensor(value))
        self.register_buffer("halves", torch.from_numpy(half_parts()))
        self.as_placeholders = False

    @contextmanager
    def placeholders(self) -> Iterator[None]:
        """Within the block rows of int8 and int4 are nodes that the graph of ONNX writes out."""
        self.as_placeholders = True
        try:
            yield
        finally:
            self.as_placeholders = False

    def tensor(self, name: str) -> torch.Tensor:
        return self.get_buffer(self.keys[name])

    def read(self, rows: torch.Tensor, group: Group) -> torch.Tensor:
        """float32 (R, K, D) of the rows (R, K)."""
        if self.as_placeholders and group.dtype in BITS:
            return self._placeholder(rows, group)
        found = nn.functional.embedding(rows, self.tensor(group.tensor))
        if group.dtype == "float32":
            return found
        if group.dtype not in BITS:
            return found.float()
        numbers = found[..., :-4]
        if BITS[group.dtype] == 4:
            numbers = numbers.int()
            pairs = torch.stack([numbers & 15, not_negative(numbers, 4)], dim=-1)
            numbers = pairs.flatten(-2)[..., : group.dim]
        if found.shape[-1] % 2 == 0:
            pairs = nn.functional.embedding(rows, self.tensor(group.tensor).view(torch.float16))
            scale, offset = pairs[..., -2:].float().split(1, dim=-1)
        else:
            scale, offset = self._scale_and_offset(found)
        return offset + scale * numbers.float()

    def _placeholder(self, rows: torch.Tensor, group: Group) -> torch.Tensor:
        """A node for :mod:`seo_rec.export.dequantized` to write out; it computes nothing."""
        inputs = rows, self.tensor(group.tensor)
        return torch.onnx.ops.symbolic(
            PLACEHOLDER,
            inputs,
            {"dim": group.dim, "bits": BITS[group.dtype]},
            dtype=torch.float32,
            shape=(*rows.shape, group.dim),
            version=1,
        )

    def _scale_and_offset(self, stored: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 (..., 1) each, of the last four bytes."""
        pairs = stored[..., -4:].unflatten(-1, (2, 2))
        low, high = pairs[..., 0].float(), pairs[..., 1].int()
        parts = nn.functional.embedding(high, self.get_buffer("halves"))
        halves = parts[..., 0] + low * parts[..., 1]
        return halves[..., :1], halves[..., 1:]

    def floats(self, places: torch.Tensor, name: str, dtype: str) -> torch.Tensor:
        """float32 of the numbers of a flat array at these places."""
        stored = self.tensor(name)
        if dtype not in BITS:
            return stored[places].float()
        if BITS[dtype] == 8:
            numbers = stored[places]
        else:
            pairs = stored[not_negative(places, 1)].int()
            numbers = torch.where((places & 1) == 1, not_negative(pairs, 4), pairs & 15)
        scale, offset = self._scale_and_offset(stored)
        return offset + scale * numbers.float()


def _tensor(value: Array) -> torch.Tensor:
    """A stored tensor, bfloat16 as such; whole numbers of 32 bits all have a sign."""
    if value.dtype == np.uint16:
        return torch.from_numpy(value.view(np.int16).copy()).view(torch.bfloat16)
    if value.dtype == np.uint32:  # torch computes with few of them
        value = value.view(np.int32)
    return torch.from_numpy(value.copy())
