"""Batches and blocks that every kernel is tried on, and the laws that it keeps on them.

Letters: B bags of one feature, F features, V ids, K blocks, N floats.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seo_kernels import Blocks, chunk_blocks, robe_blocks
from seo_kernels.chunk_bag import reference as chunk_reference
from seo_kernels.robe_bag import reference as robe_reference

F = 3
EDGES = (0, 1, 2**31, 2**32 - 1, 2**62 - 1, 2**62, 2**63 - 1)
Op = Callable[..., Tensor]


@dataclass(frozen=True)
class Bags:
    """The ids of F features, feature after feature, and the lengths of their bags."""

    ids: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def ids_V(self) -> Tensor:
        return torch.tensor(self.ids, dtype=torch.int64)

    @property
    def offsets(self) -> Tensor:
        lengths = torch.tensor(self.lengths, dtype=torch.int64)
        return torch.nn.functional.pad(lengths.cumsum(0), (1, 0))


def bags(lengths: Sequence[int], ids: Sequence[int] = range(2**62 - 9, 2**62 + 9)) -> Bags:
    draw = random.Random(len(lengths))
    return Bags(tuple(draw.choice(ids) for _ in range(sum(lengths))), tuple(lengths))


BAGS = {
    "one": bags([1] * F),
    "one-empty": bags([0] * F),
    "no-bags": bags([]),
    "single": bags([1] * 5 * F, range(1000)),
    "single-many": bags([1] * 700 * F, range(2**40)),
    "all-empty": bags([0] * 4 * F),
    "mixed": bags([2, 0, 1, 5, 0, 3, 1, 1, 0, 0, 4, 2, 1, 7, 0]),
    "single-then-mixed": bags([1, 1, 1, 1, 1, 1, 0, 2, 3]),
    "repeats": bags([3, 1, 0, 2, 2, 2, 6, 0, 1], [7]),
    "edges": Bags(EDGES * F, tuple([3, 0, 1, 3] * F)),
    "long": bags([600, 0, 5, 300, 1, 257], range(50)),
}


@dataclass(frozen=True)
class Case:
    """What is looked up, as the op takes it (``blocks``) and as its paper defines it."""

    size: int  # N
    blocks: Blocks
    reference: Op  # (flat, ids, offsets, scales, weights)
    scaled: bool


def chunks(rows: Sequence[int], dims: Sequence[int], chosen: Sequence[tuple[int, int]]) -> Case:
    """Chunk tables; ``chosen`` are (feature, table), features rising."""
    lookups = [(table, f, random.Random(i).getrandbits(63)) for i, (f, table) in enumerate(chosen)]
    sizes = [r * d for r, d in zip(rows, dims, strict=True)]

    def reference(flat, ids, offsets, scales, weights):
        parts = zip(flat.split(sizes), rows, dims, strict=True)
        tables = [part.view(r, d) for part, r, d in parts]
        return chunk_reference.chunk_bag(tables, ids, offsets, F, lookups, scales, weights)

    return Case(sum(sizes), chunk_blocks(rows, dims, lookups, F), reference, True)


def robe(dims: Sequence[int], block: int, starts: Sequence[int], sizes: Sequence[int]) -> Case:
    """One array, or a part of it for each feature."""
    draw = random.Random(block)
    seeds = [[draw.getrandbits(63) for _ in range(-(-dim // block))] for dim in dims]

    def reference(flat, ids, offsets, scales, weights):
        return robe_reference.robe_bag(
            flat, ids, offsets, seeds, starts, sizes, dims, block, weights
        )

    N = max(start + size for start, size in zip(starts, sizes, strict=True))
    return Case(N, robe_blocks(seeds, starts, sizes, dims, block), reference, False)


CASES = {
    "chunks": chunks([11, 11], [8, 8], [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]),
    "chunks-mixed": chunks([5, 9, 1], [3, 16, 1], [(0, 1), (0, 0), (1, 2), (2, 1), (2, 2)]),
    "chunks-wide": chunks([4], [70], [(0, 0), (2, 0)]),
    "chunks-one-feature": chunks([3, 4], [2, 4], [(1, 0), (1, 1), (1, 1)]),
    "robe": robe([8, 4, 6], 4, [0, 0, 0], [41, 41, 41]),
    "robe-odd": robe([7, 1, 5], 3, [0, 0, 0], [10, 10, 10]),
    "robe-parts": robe([4, 6, 2], 2, [0, 9, 30], [9, 21, 5]),
    "robe-tight": robe([4, 4, 4], 4, [0, 0, 0], [4, 4, 4]),
    "hashed-net": robe([5, 3, 4], 1, [0, 0, 0], [17, 17, 17]),
}


@dataclass(frozen=True)
class Inputs:
    """Leaves of one call, in float64."""

    flat_N: Tensor
    scales_K: Tensor | None
    weights_V: Tensor | None

    def leaves(self, dtype: torch.dtype, device: str) -> list[Tensor | None]:
        tensors = (self.flat_N, self.scales_K, self.weights_V)
        return [
            None if t is None else t.to(device, dtype).detach().clone().requires_grad_()
            for t in tensors
        ]


def inputs(case: Case, batch: Bags, weighted: bool) -> Inputs:
    draw = torch.Generator().manual_seed(3)
    K, V = case.blocks.table.shape[1], len(batch.ids)
    flat = torch.randn(case.size, generator=draw, dtype=torch.float64)
    scales = torch.randn(K, generator=draw, dtype=torch.float64) if case.scaled else None
    if scales is not None:
        scales[-1] = 0.0  # the gradient of a scale does not vanish with it
    weights = torch.randn(V, generator=draw, dtype=torch.float64) if weighted else None
    return Inputs(flat, scales, weights)


def grad_for(x: Tensor) -> Tensor:
    draw = torch.Generator().manual_seed(4)
    return torch.randn(x.shape, generator=draw, dtype=torch.float64)


def expected(case: Case, batch: Bags, given: Inputs) -> tuple[Tensor, list[Tensor | None]]:
    """Output and gradients of the definition, in float64."""
    flat, scales, weights = leaves = given.leaves(torch.float64, "cpu")
    x = case.reference(flat, batch.ids_V, batch.offsets, scales, weights)
    wanted = [t for t in leaves if t is not None]
    found = iter(torch.autograd.grad(x, wanted, grad_for(x), materialize_grads=True))
    return x.detach(), [None if t is None else next(found) for t in leaves]


def close(found: Tensor | None, wanted: Tensor | None) -> None:
    if found is None or wanted is None:
        assert found is wanted
        return
    assert found.shape == wanted.shape
    scale = float(wanted.abs().max()) if wanted.numel() else 1.0
    wanted = wanted.to(found.dtype)
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-12}[found.dtype]
    torch.testing.assert_close(found.cpu(), wanted, rtol=10 * tolerance, atol=tolerance * scale)


def equals_the_definition(
    op: Op, case: Case, batch: Bags, weighted: bool, dtype: torch.dtype, device: str = "cpu"
) -> None:
    """Output and every gradient of ``op(flat, ids, offsets, blocks, scales, weights)``."""
    given = inputs(case, batch, weighted)
    x_wanted, grads_wanted = expected(case, batch, given)
    flat, scales, weights = leaves = given.leaves(dtype, device)
    ids, offsets = batch.ids_V.to(device), batch.offsets.to(device)
    x = op(flat, ids, offsets, case.blocks.to(device), scales, weights)
    close(x.detach(), x_wanted)
    wanted = [t for t in leaves if t is not None]
    grads = iter(torch.autograd.grad(x, wanted, grad_for(x).to(device, dtype)))
    for leaf, grad in zip(leaves, grads_wanted, strict=True):
        close(None if leaf is None else next(grads), grad)
