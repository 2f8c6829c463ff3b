"""Compile the Triton kernels for a Hopper GPU, which needs no GPU; ``test_triton.py`` runs this.

The interpreter does not check types and shapes as the compiler does, and it does not say how many
numbers a thread moves at a time. The compiled code does.
"""

from __future__ import annotations

import itertools
import re

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from seo_kernels.block_bag import kernel
from seo_kernels.remap import kernel as remap_kernel

FLOATS = ("flat", "scales", "weights", "grad", "x", "out", "grad_flat", "grad_scales", "factor")
TYPES = {f"{name}_ptr": "*fp32" for name in (*FLOATS, "grad_weights")}
TYPES |= {"B": "i32", "K": "i32", "E": "i32"}  # all other arguments are int64 tensors


def compile_for_hopper(function, types: dict[str, str], **constants) -> str:
    """The PTX; memory begins at multiples of 16 bytes, as PyTorch's does."""
    names = function.arg_names
    signature = {n: "constexpr" if n in constants else types.get(n, "*i64") for n in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    aligned = {(names.index(n),): [["tt.divisibility", 16]] for n in names if n.endswith("_ptr")}
    source = ASTSource(function, signature, values, aligned)
    options = {"num_warps": kernel.WARPS} if "SIZE" in constants else {}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


def vectors(ptx: str, what: str) -> set[int]:
    """Numbers that one instruction ``what`` (``ld``, ``st``, ``atom``) moves of global memory."""
    found = re.findall(rf"\b{what}\.(?:[\w:]+\.)*?global(?:[.:]\w+)*", ptx)
    return {int(m[1]) if (m := re.search(r"\.v(\d)", text)) else 1 for text in found}


def main() -> None:
    booleans = (False, True)
    for shifts, unit in itertools.product(booleans, (1, 2)):
        constants = {"HAS_SHIFTS": shifts, "BLOCK": remap_kernel.BLOCK, "UNIT": unit}
        ptx = compile_for_hopper(remap_kernel._remap, {"K": "i32"}, **constants)
        assert max(vectors(ptx, "ld")) == max(vectors(ptx, "st")) == unit, (constants, ptx)
    shapes = ((1, 1), (8, 1), (8, 8), (16, 2), (70, 4))
    for (i, (block, unit)), scales in itertools.product(enumerate(shapes), booleans):
        weights = (i + scales) % 2 == 1  # any two of shape, scales and weights come together
        shape = kernel._shape(block, unit)
        assert shape["UNIT"] == min(unit, 4)
        has = {"HAS_SCALES": scales, "HAS_WEIGHTS": weights}
        ptx = compile_for_hopper(kernel._forward, TYPES, **has, **shape)
        assert max(vectors(ptx, "ld")) == max(vectors(ptx, "st")) == shape["UNIT"], (shape, ptx)
        for x, scatter in itertools.product((False, scales), booleans):
            to = {"HAS_X": x, "TO_FLAT": scatter, "TO_SCALES": scales}
            ptx = compile_for_hopper(kernel._backward, TYPES, **has, **to, **shape)
            if scatter or scales:  # else the kernel has nothing to do
                assert max(vectors(ptx, "ld")) == shape["UNIT"], (shape, to, ptx)
            if scatter:
                assert max(vectors(ptx, "atom")) == shape["UNIT"], (shape, to, ptx)
        ptx = compile_for_hopper(kernel._backward_weights, TYPES, HAS_SCALES=scales, **shape)
        assert max(vectors(ptx, "ld")) == shape["UNIT"], (shape, ptx)
        compile_for_hopper(kernel._sum_runs, TYPES, SIZE=shape["SIZE"])


if __name__ == "__main__":
    main()
