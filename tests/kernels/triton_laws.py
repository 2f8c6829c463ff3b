"""Laws of the Triton kernels; ``test_triton.py`` runs this file in Triton's interpreter mode.

The interpreter takes CPU tensors, so here the kernels are called past the ops' dispatch.
"""

from __future__ import annotations

import os

import pytest
import torch
from kernel_laws import BAGS, CASES, equals_the_definition, inputs
from test_remap_op import FEATURES, IDS, ROWS, SEEDS, STARTS

from seo_kernels import Blocks
from seo_kernels.remap import reference as remap_reference

assert os.environ.get("TRITON_INTERPRET") == "1"

from seo_kernels.block_bag import kernel  # noqa: E402
from seo_kernels.remap import kernel as remap_kernel  # noqa: E402

SMALL = [name for name, batch in BAGS.items() if len(batch.ids) < 60]


class Kernel(torch.autograd.Function):
    """The kernels of ``block_bag`` with autograd; memory that they do not write is NaN."""

    @staticmethod
    def forward(ctx, flat, ids, offsets, blocks: Blocks, scales, weights, sort, keep):
        F, table = blocks.num_features, blocks.table
        x = poisoned(
            kernel.forward,
            *(
                flat,
                scales,
                ids,
                offsets,
                table,
                F,
                blocks.width,
                blocks.block,
                blocks.unit,
                weights,
            ),
        )
        ctx.save_for_backward(x if keep else None, flat, scales, ids, offsets, table, weights)
        ctx.settings = F, blocks.block, blocks.unit, sort
        return x

    @staticmethod
    def backward(ctx, grad):
        *tensors, weights = ctx.saved_tensors
        *sizes, sort = ctx.settings
        needs = tuple(ctx.needs_input_grad[i] for i in (0, 4, 5))
        of_N, of_K, of_V = poisoned(kernel.backward, grad, *tensors, *sizes, weights, sort, needs)
        scales = of_K if needs[1] else None
        return of_N, None, None, None, scales, of_V if needs[2] else None, None, None


def poisoned(run, *arguments):
    torch.use_deterministic_algorithms(True)
    try:
        return run(*arguments)
    finally:
        torch.use_deterministic_algorithms(False)


# Every case with every batch, and each of them with gradients of both kinds in turn.
PAIRS = [(c, b, (i + j) % 2) for i, c in enumerate(CASES) for j, b in enumerate(SMALL)]


@pytest.mark.parametrize("case, batch, sort", PAIRS)
def test_output_and_gradients_are_those_of_the_definition(case, batch, sort):
    def op(flat, ids, offsets, blocks, scales, weights):
        keep = scales is not None and sort
        return Kernel.apply(flat, ids, offsets, blocks, scales, weights, sort, keep)

    weighted = batch != "single"
    equals_the_definition(op, CASES[case], BAGS[batch], weighted, torch.float32)


def test_more_bags_and_blocks_than_a_program_takes(monkeypatch):
    monkeypatch.setattr(kernel, "TILE", 16)
    monkeypatch.setattr(kernel, "SINGLES", 16)
    monkeypatch.setattr(kernel, "LINE", 4)
    for name in ("chunks-mixed", "robe-odd", "hashed-net"):
        test_output_and_gradients_are_those_of_the_definition(name, "mixed", False)
        test_output_and_gradients_are_those_of_the_definition(name, "single", False)


@pytest.mark.parametrize("needs", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_only_what_is_needed_is_made(needs):
    case, batch = CASES["chunks"], BAGS["mixed"]
    flat, scales, weights = inputs(case, batch, True).leaves(torch.float32, "cpu")
    needed = [
        None if t is None else t.detach().requires_grad_(bool(n))
        for t, n in zip((flat, scales, weights), needs, strict=True)
    ]
    x = Kernel.apply(
        needed[0], batch.ids_V, batch.offsets, case.blocks, needed[1], needed[2], False, False
    )
    x.sum().backward()
    assert [t.grad is not None for t in needed] == [bool(n) for n in needs]


@pytest.mark.parametrize("starts", STARTS)
def test_remap_is_the_reference_to_the_bit(starts, monkeypatch):
    monkeypatch.setattr(remap_kernel, "BLOCK", 4)
    for shifts in (None, torch.arange(6) * 2**40):
        arguments = (IDS, STARTS[starts], FEATURES, SEEDS, ROWS, shifts)
        assert torch.equal(remap_kernel.remap(*arguments), remap_reference.remap(*arguments))
