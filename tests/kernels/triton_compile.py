"""Compile the Triton kernels for a Hopper GPU, which needs no GPU; ``test_triton.py`` runs this.

The interpreter does not check types and shapes as the compiler does.
"""

from __future__ import annotations

import itertools

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from seo_kernels.block_bag import kernel
from seo_kernels.remap import kernel as remap_kernel

FLOATS = ("flat", "scales", "weights", "grad", "x", "out", "grad_flat", "grad_scales", "factor")
TYPES = {f"{name}_ptr": "*fp32" for name in (*FLOATS, "grad_weights")}
TYPES |= {"B": "i32", "K": "i32", "E": "i32"}  # all other arguments are int64 tensors


def compile_for_hopper(function, types: dict[str, str], **constants) -> None:
    names = function.arg_names
    signature = {n: "constexpr" if n in constants else types.get(n, "*i64") for n in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    triton.compile(ASTSource(function, signature, values), target=GPUTarget("cuda", 90, 32))


def main() -> None:
    booleans = (False, True)
    for shifts in booleans:
        compile_for_hopper(remap_kernel._remap, {"K": "i32"}, HAS_SHIFTS=shifts, BLOCK=1024)
    for block, scales, weights in itertools.product((1, 8), booleans, booleans):
        shape = kernel._shape(block)
        has = {"HAS_SCALES": scales, "HAS_WEIGHTS": weights}
        compile_for_hopper(kernel._forward, TYPES, **has, **shape)
        for x, scatter in itertools.product((False, scales), booleans):
            to = {"HAS_X": x, "TO_FLAT": scatter, "TO_SCALES": scales}
            compile_for_hopper(kernel._backward, TYPES, **has, **to, **shape)
        compile_for_hopper(kernel._backward_weights, TYPES, HAS_SCALES=scales, **shape)
        compile_for_hopper(kernel._sum_runs, TYPES, SIZE=shape["SIZE"])


if __name__ == "__main__":
    main()
