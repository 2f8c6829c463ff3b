"""The benchmark of running means in 16 bits keeps the means that the product keeps."""

from __future__ import annotations

import torch

from benchmarks.accuracy.half_means import KINDS, Means
from seo_rec.embed.sparse import SparseTables
from seo_rec.train import SparseRows

ROWS, STEPS = 50, 40


def kept(decay: float) -> tuple[Means, list[torch.Tensor]]:
    """Means of the benchmark after some steps, and those of :class:`SparseRows`."""
    draw = torch.Generator().manual_seed(0)
    tables = [torch.nn.Parameter(torch.rand(ROWS, d, generator=draw)) for d in (8, 4)]
    source = SparseTables(tables, [0, 1, 0])
    updates = SparseRows([source], tables, optimizer="rowwise_adagrad", lr=0.1)
    updates.keep_mean(decay)
    means = Means(source, decay, seed=1)
    for _ in range(STEPS):
        updates.zero_grad()
        reads = torch.randint(ROWS // 2, (3 * 6,), generator=draw)  # half of the rows never
        x_BE = source.look_up(reads, None, None, 6)
        (x_BE * torch.rand(x_BE.shape, generator=draw)).sum().backward()
        rows = means.rows_read()
        before = means.weights(rows)
        updates.step()
        means.take_in(rows, before)
    found = {kind: means.now(kind) for kind in KINDS}
    updates.swap_means(back=False)
    expected = [t.detach().clone() for t in tables]
    updates.swap_means(back=True)
    for mean, exact in zip(found["float32"], expected, strict=True):
        torch.testing.assert_close(mean, exact, rtol=0, atol=1e-6)
    return means, expected


def test_means_in_float32_are_those_of_the_product() -> None:
    means, expected = kept(0.9)
    assert all(
        not torch.equal(e, w.detach()) for e, w in zip(expected, means.source.weights, strict=True)
    )


def test_means_in_16_bits_are_near_and_hold_16_bits() -> None:
    means, expected = kept(0.95)
    for kind in KINDS[1:]:
        dtype = getattr(torch, kind.split()[0])
        for stored, now, exact in zip(means.of[kind], means.now(kind), expected, strict=True):
            read = stored[: ROWS // 2]
            assert torch.equal(read.to(dtype).float(), read)
            assert 0 < float((now - exact).abs().max()) < 0.1
