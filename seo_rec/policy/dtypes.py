"""How rows are stored to be served: bytes per row, and the reference of writing and reading them.

``docs/policy-format.md`` states the formats to the bit. This is the definition in plain NumPy,
made to be read, and the reference for faster kernels.

Letters: n rows, d floats of a row, r bytes of a stored row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FLOAT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
BITS = {"int8": 8, "int4": 4}  # of a number; a row has a scale and an offset besides
SCALE_BYTES = 4  # of these two, float16 each
DTYPES = (*FLOAT_BYTES, *BITS)

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


def row_bytes(dim: int, dtype: str) -> int:
    """Bytes of one stored row.

    ``4 d`` for float32, ``2 d`` for float16 and bfloat16, ``d + 4`` for int8 and
    ``ceil(d / 2) + 4`` for int4, whose rows have a scale and an offset.

    Args:
        dim: floats of the row, d. A flat array is stored as one row.
        dtype: one of :data:`DTYPES`.

    Raises:
        ValueError: the dtype is unknown.
    """
    _check(dtype)
    if dtype in FLOAT_BYTES:
        return FLOAT_BYTES[dtype] * dim
    return -(-BITS[dtype] * dim // 8) + SCALE_BYTES


def quantize_rows(weight_nd: npt.ArrayLike, dtype: str) -> Bytes:
    """The stored bytes of every row.

    ``int8`` (Q = 255) and ``int4`` (Q = 15): ``o = floor16(min(w))``, ``s = ceil16((max(w) - o) /
    Q)`` and ``q_i = round((w_i - o) / s)``, halves to even, where floor16 and ceil16 are the
    nearest float16 numbers that are not above and not below. So every number comes back within
    half a scale, up to the rounding of float32. The other types round to nearest, halves to even.

    Args:
        weight_nd: float32 (n, d).
        dtype: one of :data:`DTYPES`.

    Returns:
        uint8 (n, r), r = :func:`row_bytes`.

    Raises:
        ValueError: the dtype is unknown, the shape is another one, or a number is not finite or
            too large for the type.
    """
    _check(dtype)
    w_nd = np.ascontiguousarray(weight_nd, dtype=np.float32)
    if w_nd.ndim != 2 or not w_nd.shape[1]:
        raise ValueError(f"weights of shape {w_nd.shape}; allowed: rows of 1 float or more")
    if not np.isfinite(w_nd).all():
        raise ValueError(f"weights that are not finite cannot be stored as {dtype}")
    if dtype == "float32":
        return _as_bytes(w_nd.astype("<f4"))
    if dtype == "bfloat16":
        return _as_bytes(_bfloat16(w_nd))
    return _integers(w_nd, dtype) if dtype in BITS else _as_bytes(_halves(w_nd))


def dequantize_rows(stored_nr: Bytes, dim: int, dtype: str) -> Floats:
    """The rows that are served: ``w_i = o + s q_i``, rounded once to float32.

    Args:
        stored_nr: uint8 (n, r), what :func:`quantize_rows` gave.
        dim: floats of a row, d.
        dtype: one of :data:`DTYPES`.

    Returns:
        float32 (n, d).

    Raises:
        ValueError: the dtype is unknown, or rows of d floats have another number of bytes.
    """
    wanted = row_bytes(dim, dtype)
    stored_nr = np.ascontiguousarray(stored_nr, dtype=np.uint8)
    if stored_nr.ndim != 2 or stored_nr.shape[1] != wanted:
        raise ValueError(
            f"stored rows of shape {stored_nr.shape}; a row of {dim} floats as {dtype} has "
            f"{wanted} bytes"
        )
    if dtype == "float32":
        return stored_nr.view("<f4").astype(np.float32)
    if dtype == "float16":
        return stored_nr.view("<f2").astype(np.float32)
    if dtype == "bfloat16":
        return (stored_nr.view("<u2").astype(np.uint32) << 16).view(np.float32)
    numbers, tail = stored_nr[:, :-SCALE_BYTES], stored_nr[:, -SCALE_BYTES:]
    if dtype == "int4":
        pairs = np.stack([numbers & np.uint8(15), numbers >> np.uint8(4)], axis=2)
        numbers = pairs.reshape(len(stored_nr), numbers.shape[1] * 2)[:, :dim]
    scales = np.ascontiguousarray(tail).view("<f2").astype(np.float32)
    rows = scales[:, :1] * numbers  # exact: 11 bits times 8, and no smaller than a float32 can be
    rows += scales[:, 1:]
    return rows


def _integers(w_nd: Floats, dtype: str) -> Bytes:
    """Numbers of 8 or 4 bits, then the scale and the offset of the row."""
    most = 2 ** BITS[dtype] - 1
    low, high = (x.astype(np.float64)[:, None] for x in (w_nd.min(axis=1), w_nd.max(axis=1)))
    offset = _float16(low, down=True)
    scale = _float16((high - offset) / most, down=False)
    if not (np.isfinite(offset).all() and np.isfinite(scale).all()):
        raise ValueError(
            f"rows from {low.min():g} to {high.max():g} cannot be stored as {dtype}: offset or "
            f"scale is beyond float16, which reaches {np.finfo(np.float16).max:g}; store them as "
            "bfloat16 or float32"
        )
    steps = np.divide(w_nd - offset, scale, out=np.zeros(w_nd.shape), where=scale > 0)
    numbers = np.clip(np.rint(steps), 0, most).astype(np.uint8)
    if dtype == "int4":
        numbers = np.pad(numbers, ((0, 0), (0, numbers.shape[1] % 2)))
        numbers = numbers[:, 0::2] | (numbers[:, 1::2] << np.uint8(4))
    tail = np.concatenate([scale, offset], axis=1).astype("<f2")
    return np.concatenate([numbers, _as_bytes(tail)], axis=1)


def _float16(x: npt.NDArray[np.float64], down: bool) -> npt.NDArray[np.float64]:
    """The nearest float16 number that is not above x, or not below it."""
    with np.errstate(over="ignore"):
        near = x.astype(np.float16)
    beyond = near.astype(np.float64) > x if down else near.astype(np.float64) < x
    next_one = np.nextafter(near, np.float16(-np.inf if down else np.inf))
    return np.where(beyond, next_one, near).astype(np.float64)


def _halves(w_nd: Floats) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        halves = w_nd.astype("<f2")
    if not np.isfinite(halves).all():
        raise ValueError(
            f"a weight of size {np.abs(w_nd).max():g} cannot be stored as float16, which reaches "
            f"{np.finfo(np.float16).max:g}; store it as bfloat16 or float32"
        )
    return halves


def _bfloat16(w_nd: Floats) -> npt.NDArray[np.uint16]:
    """The upper half of the bits of each float32, rounded to nearest, halves to even."""
    bits = w_nd.view(np.uint32).astype(np.uint64)
    upper = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    if ((upper & np.uint64(0x7F80)) == 0x7F80).any():
        raise ValueError("a weight is too large for bfloat16; store it as float32")
    return upper.astype("<u2")


def _as_bytes(numbers: npt.NDArray[Any]) -> Bytes:
    return np.ascontiguousarray(numbers).view(np.uint8)


def _check(dtype: str) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
