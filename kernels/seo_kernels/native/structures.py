"""The structures that the C kernels read, field by field as in ``native.c`` and ``rows.c``."""

from __future__ import annotations

import ctypes

from torch import Tensor

i64 = ctypes.c_int64
pointer = ctypes.c_void_p


class LookupArguments(ctypes.Structure):
    """``Lookup`` of native.c."""

    _fields_ = (
        ("parts", pointer),
        ("ends", pointer),
        ("num_parts", i64),
        ("ids", pointer),
        ("offsets", pointer),
        ("id_weights", pointer),
        ("num_bags", i64),
        ("num_blocks", i64),
        ("blocks", pointer),
        ("scales", pointer),
        ("row_floats", i64),
        ("tile", i64),
    )


class TableArguments(ctypes.Structure):
    """``Table`` of rows.c."""

    _fields_ = (
        *((name, pointer) for name in ("weight", "first", "second", "updates", "reads")),
        *((name, pointer) for name in ("mean", "mean_at")),
        ("rows", i64),
        ("dim", i64),
        ("type", i64),
        ("key", ctypes.c_uint64),
        ("first_row", i64),
        ("first_column", i64),
    )


class ReadsArguments(ctypes.Structure):
    """``Reads`` of rows.c."""

    _fields_ = (
        ("tables", ctypes.POINTER(TableArguments)),
        ("num_tables", i64),
        *((name, pointer) for name in ("table_of", "columns", "rows", "offsets", "id_weights")),
        *((name, i64) for name in ("num_lookups", "num_bags", "row_floats")),
    )


class UpdateArguments(ctypes.Structure):
    """``Update`` of rows.c."""

    _fields_ = (
        ("optimizer", i64),
        ("l2_on", i64),
        *((name, ctypes.c_double) for name in ("lr", "l2", "eps", "beta1", "beta2")),
        ("corrections", pointer),
        ("num_corrections", i64),
        ("decay", ctypes.c_double),
        ("settled", i64),
        ("step", i64),
    )


def address(tensor: Tensor | None) -> int | None:
    """Where the numbers of a tensor begin."""
    return None if tensor is None else tensor.data_ptr()
