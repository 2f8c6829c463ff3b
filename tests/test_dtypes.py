"""Laws of the stored rows: how far a float may move, what is refused, and who else reads them."""

from __future__ import annotations

import math

import fbgemm_gpu  # noqa: F401  (its operators)
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from seo_rec.policy.dtypes import BITS, DTYPES, dequantize_rows, quantize_rows, row_bytes

dtypes = pytest.mark.parametrize("dtype", DTYPES)
integers = pytest.mark.parametrize("dtype", BITS)
LARGEST = 60_000.0  # within float16, and so is the scale of a row
floats = st.floats(-LARGEST, LARGEST, width=32) | st.floats(-1, 1, width=32)
weights = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=floats)


def scales(stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset of every row, as columns of float64."""
    pairs = np.ascontiguousarray(stored[:, -4:]).view("<f2").astype(np.float64)
    return pairs[:, :1], pairs[:, 1:]


@integers
@given(weights)
@example(np.zeros((2, 3), np.float32))
@example(np.full((1, 4), 0.1, np.float32))
@example(np.array([[-LARGEST, LARGEST]], np.float32))
@example(np.array([[1e-7, 2e-7, 5e-8], [0, 1e-30, 2e-8]], np.float32))
@example(np.array([[0.1, np.nextafter(np.float32(0.1), np.float32(1))]], np.float32))
@example(np.array([[-0.9375, 1e-35]], np.float32))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_every_float_comes_back_within_half_a_scale(dtype, w):
    """The only other losses are of rounding: float64 in between, float32 at the end."""
    stored = quantize_rows(w, dtype)
    assert stored.shape == (len(w), row_bytes(w.shape[1], dtype))
    scale, offset = scales(stored)
    served = dequantize_rows(stored, w.shape[1], dtype)
    rounding = 2.0**-24 * np.abs(served).astype(np.float64) + 2.0**-150
    error = np.abs(w.astype(np.float64) - served)
    assert (error <= scale / 2 * (1 + 1e-12) + rounding).all()
    assert (offset <= w).all()
    largest = np.maximum(np.abs(w), np.abs(offset))
    assert (offset + scale * (2 ** BITS[dtype] - 1) >= w - 1e-15 * largest).all()


@integers
@given(weights)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_scales_are_no_larger_than_they_must_be(dtype, w):
    """One float16 less, and the largest float would be cut off or the smallest one missed."""
    scale, offset = scales(quantize_rows(w, dtype))
    low, high = w.min(1, keepdims=True).astype(np.float64), w.max(1, keepdims=True)
    above = np.nextafter(offset.astype(np.float16), np.float16(np.inf)).astype(np.float64)
    assert (above > low).all()
    below = np.nextafter(scale.astype(np.float16), np.float16(-np.inf)).astype(np.float64)
    wanted = (high.astype(np.float64) - offset) / (2 ** BITS[dtype] - 1)
    assert ((scale == 0) == (wanted == 0)).all()
    assert ((below < wanted) | (scale == 0)).all()


@integers
@given(weights)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_what_was_served_is_stored_exactly(dtype, w):
    """Rows whose extremes are float16 numbers and whose floats lie on the steps lose nothing."""
    stored = quantize_rows(w, dtype)
    scale, offset = scales(stored)
    served = dequantize_rows(stored, w.shape[1], dtype)
    again = dequantize_rows(quantize_rows(served, dtype), w.shape[1], dtype)
    assert (np.abs(again - served) <= scale / 2 + np.abs(offset) * 2.0**-10).all()


@dtypes
def test_numbers_that_the_type_has_lose_nothing(dtype):
    w = np.array([[0, 1, -2, 0.5], [4, 4, 4, 4], [0, 0, 0, 0], [15, 0, 7, 1]], np.float32)
    if dtype in BITS:
        w = w[1:]
        w[2] *= (2 ** BITS[dtype] - 1) // 15
    np.testing.assert_array_equal(dequantize_rows(quantize_rows(w, dtype), 4, dtype), w)


@given(arrays(np.float32, (3, 5), elements=st.floats(-65504, 65504, width=32)))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_half_precision_is_that_of_torch(w):
    for dtype, kind in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        halves = torch.from_numpy(w).to(kind)
        stored = quantize_rows(w, dtype)
        assert stored.tobytes() == halves.view(torch.int16).numpy().astype("<i2").tobytes()
        np.testing.assert_array_equal(dequantize_rows(stored, 5, dtype), halves.float().numpy())


@integers
@pytest.mark.parametrize("dim", [2, 8, 30])
def test_fbgemm_reads_the_rows(dtype, dim):
    """Whose layout they have; it takes even widths of four bits only."""
    w = np.random.default_rng(dim).normal(size=(50, dim)).astype(np.float32)
    stored = quantize_rows(w, dtype)
    served = torch.ops.fbgemm.FusedNBitRowwiseQuantizedSBHalfToFloat(
        torch.from_numpy(stored), BITS[dtype]
    )
    np.testing.assert_array_equal(served.numpy(), dequantize_rows(stored, dim, dtype))


@integers
def test_served_numbers_are_rounded_once(dtype):
    """Whatever the scale and the offset are, subnormal numbers of float16 included."""
    halves = np.arange(2**15, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    offsets = np.random.default_rng(0).permutation(np.concatenate([halves, -halves]))[: len(halves)]
    most = 2 ** BITS[dtype] - 1
    numbers = np.random.default_rng(1).integers(0, most + 1, (len(halves), 6))
    packed = numbers if BITS[dtype] == 8 else numbers[:, ::2] + 16 * numbers[:, 1::2]
    pairs = np.stack([halves, offsets], axis=1).astype("<f2")
    stored = np.concatenate([packed.astype(np.uint8), pairs.view(np.uint8)], axis=1)
    scale, offset = pairs.astype(np.float64).T[..., None]
    wanted = (offset + scale * numbers).astype(np.float32)
    np.testing.assert_array_equal(dequantize_rows(stored, 6, dtype), wanted)


def test_four_bits_fill_bytes_from_below():
    """The last half byte of an odd width is zero, and a row of one float is its offset."""
    w = np.array([[0, 15, 1, 2, 3], [15, 0, 15, 0, 9]], np.float32)
    one, zero = b"\x00\x3c", b"\x00\x00"
    assert quantize_rows(w, "int4").tobytes() == (
        b"\xf0\x21\x03" + one + zero + b"\x0f\x0f\x09" + one + zero
    )
    assert quantize_rows([[0.5]], "int4").tobytes() == b"\x00" + zero + b"\x00\x38"


@dtypes
@pytest.mark.parametrize("dim", [1, 2, 3, 64, 65])
def test_bytes_of_a_row_are_those_that_are_written(dtype, dim):
    for n in (0, 1, 3):
        assert quantize_rows(np.ones((n, dim)), dtype).shape == (n, row_bytes(dim, dtype))
    by_hand = {
        "float32": 4 * dim,
        "float16": 2 * dim,
        "bfloat16": 2 * dim,
        "int8": dim + 4,
        "int4": math.ceil(dim / 2) + 4,
    }
    assert row_bytes(dim, dtype) == by_hand[dtype]


@pytest.mark.parametrize(
    "w, dtype, message",
    [
        ([[1.0]], "int2", "dtype 'int2'; allowed: float32, float16, bfloat16, int8, int4"),
        ([1.0], "int8", r"weights of shape \(1,\); allowed: rows of 1 float or more"),
        (np.ones((3, 0)), "int8", r"weights of shape \(3, 0\)"),
        ([[1.0, np.nan]], "float32", "weights that are not finite cannot be stored as float32"),
        ([[1.0, -np.inf]], "int4", "weights that are not finite"),
        ([[65520.0]], "float16", "a weight of size 65520 cannot be stored as float16"),
        ([[-65520.0, 0]], "int8", "rows from -65520 to 0 cannot be stored as int8"),
        ([[0, 2e6]], "int4", "rows from 0 to 2e.06 cannot be stored as int4"),
        ([[3.4e38]], "bfloat16", "too large for bfloat16"),
    ],
)
def test_what_a_type_cannot_hold_is_refused(w, dtype, message):
    with pytest.raises(ValueError, match=message):
        quantize_rows(w, dtype)


@dtypes
def test_rows_of_another_length_are_refused(dtype):
    stored = quantize_rows(np.ones((2, 4)), dtype)
    for bad in (stored[:, :-1], stored[0]):
        with pytest.raises(ValueError, match=f"a row of 4 floats as {dtype} has"):
            dequantize_rows(bad, 4, dtype)
