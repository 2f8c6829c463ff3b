"""Kernels of seo_rec: one folder per op, with a readable reference beside each fast kernel.

This package knows nothing of seo_rec and imports Triton only inside ``kernel.py`` files, so
that the references work where Triton is absent.

* :func:`remap`: ids to row numbers, all lookups of all features in one pass.
* :func:`chunk_bag`: the lookup of SEO: rows of chunk tables, scaled and side by side.
* :func:`robe_bag`: blocks of one flat array (ROBE-Z; HashedNet with blocks of one float).
* :func:`block_bag`: what both of these run on.

A CPU runs the C of ``native``, where it was built; :func:`native.missing` says why not. The
results of :func:`remap` are the same to the bit on every path.
"""

from seo_kernels.block_bag import Blocks, block_bag
from seo_kernels.chunk_bag import chunk_bag, chunk_blocks
from seo_kernels.remap import hash_rows, remap
from seo_kernels.robe_bag import robe_bag, robe_blocks

__all__ = [
    "Blocks",
    "block_bag",
    "chunk_bag",
    "chunk_blocks",
    "hash_rows",
    "remap",
    "robe_bag",
    "robe_blocks",
]
