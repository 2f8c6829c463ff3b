"""Bytes that a rank hands to every exchange of a step: from the plan and the batch, and as sent.

Letters: B rows of one rank's batch, K lookups, W ranks.

    splits     how many numbers follow, one int64 per rank and tensor, and B
    lengths    of every bag, to each rank that holds rows of its table
    values     row numbers, likewise
    vectors    pooled, from the rank of the rows to the rank of the example, in the forward pass
    gradients  of the vectors, the other way, in the backward pass

Tables cut by rows send sums: their vectors go through a reduce-scatter, and the gradients through
an all-gather; both are counted with the others. Replicated parameters (the backbone, data-parallel
tables) are summed over ranks by DDP, which is not counted here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from seo_rec.embed.remap import lookup_key
from seo_rec.plan import Placement
from seo_rec.policy import Policy

PARTS = ("splits", "lengths", "values", "vectors", "gradients")
KINDS = ("table_wise", "column_wise", "table_column_wise", "row_wise", "data_parallel")
INT64 = 8
FLOAT32 = 4


@dataclass
class Bytes:
    """``handed`` to a collective by a rank, of which ``leaving`` are for other ranks."""

    handed: int = 0
    leaving: int = 0

    def add(self, sizes: Sequence[int], rank: int) -> None:
        """Bytes by destination."""
        self.handed += sum(sizes)
        self.leaving += sum(sizes) - sizes[rank]


Traffic = dict[str, Bytes]


def computed(
    policy: Policy,
    placements: tuple[Placement, ...],
    lookups: KeyedJaggedTensor,
    rank: int,
    world_size: int,
) -> Traffic:
    """What ``rank`` hands over in a step in which all ranks have as many rows.

    Args:
        placements: of every table.
        lookups: row numbers of this rank's batch, as ``Remap`` gives them.

    Raises:
        ValueError: a kind of sharding that is not known here.
    """
    traffic = {part: Bytes() for part in PARTS}
    if world_size == 1:
        return traffic
    rows, ranks = lookups.stride(), range(world_size)
    bags = dict(zip(lookups.keys(), lookups.length_per_key(), strict=True))
    ids = lookups.to_dict()
    length_size = rows * lookups.lengths().element_size()
    readers: dict[str, list[str]] = {t.name: [] for t in policy.tables}
    for f in policy.features:
        for j, k in enumerate(f.lookups):
            readers[k.table].append(lookup_key(f, j))
    for kind in sorted({p.kind for p in placements} - {"data_parallel"}):
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r}; the bytes are known of {', '.join(KINDS)}")
        lengths, values, widths = ([0] * world_size for _ in range(3))
        for p in (p for p in placements if p.kind == kind):
            keys, table = readers[p.table], policy.table(p.table)
            if kind == "row_wise":
                block = -(-table.num_rows // world_size)
                for r in ranks:
                    lengths[r] += len(keys) * length_size
                    widths[r] += len(keys) * table.dim
                for key in keys:
                    there = torch.bincount(ids[key].values() // block, minlength=world_size)
                    for r in ranks:
                        values[r] += int(there[r]) * INT64
                continue
            for s in p.shards:
                lengths[s.rank] += len(keys) * length_size
                values[s.rank] += sum(bags[key] for key in keys) * INT64
                widths[s.rank] += len(keys) * s.columns
        to_all = [rows * widths[rank] * FLOAT32] * world_size
        back = [rows * width * FLOAT32 for width in widths]
        if kind == "row_wise":
            back = [back[rank] if r == rank else 0 for r in ranks]  # one copy, for everyone
            traffic["gradients"].leaving += back[rank]
        traffic["splits"].add([3 * INT64] * world_size, rank)
        traffic["lengths"].add(lengths, rank)
        traffic["values"].add(values, rank)
        traffic["vectors"].add(to_all, rank)
        traffic["gradients"].add(back, rank)
    return traffic


class Sent:
    """The exchanges of one step as they are called; ``backward`` is set between the passes."""

    def __init__(self) -> None:
        self.traffic: Traffic = {part: Bytes() for part in PARTS}
        self.backward = False
        self._inputs = 0

    def note(self, tensor: torch.Tensor, splits: Sequence[int] | None, equal: bool) -> None:
        rank, size = dist.get_rank(), tensor.element_size()
        parts = [tensor.numel() // dist.get_world_size()] * dist.get_world_size()
        if splits is not None:
            row = tensor.numel() // max(1, sum(splits)) if sum(splits) else 0
            parts = [row * n for n in splits]
        if tensor.dtype.is_floating_point:
            part = "gradients" if self.backward else "vectors"
        elif equal:
            part = "splits"
        else:  # TorchRec sends the lengths of a kind, then its values
            part = ("lengths", "values")[self._inputs % 2]
            self._inputs += 1
        self.traffic[part].add([n * size for n in parts], rank)

    def note_gathered(self, tensor: torch.Tensor) -> None:
        found = self.traffic["gradients" if self.backward else "vectors"]
        found.handed += tensor.numel() * tensor.element_size()
        found.leaving += tensor.numel() * tensor.element_size()


@contextmanager
def watched() -> Iterator[Sent]:
    """Within the block, every exchange that TorchRec asks for is noted."""
    sent = Sent()
    exchange: Callable[..., Any] = dist.all_to_all_single
    scatter: Callable[..., Any] = dist.reduce_scatter_tensor
    gather: Callable[..., Any] = dist.all_gather_into_tensor

    def all_to_all(
        output: Any,
        input: Any,
        output_split_sizes: Any = None,
        input_split_sizes: Any = None,
        **options: Any,
    ) -> Any:
        sent.note(input, input_split_sizes, input_split_sizes is None)
        return exchange(output, input, output_split_sizes, input_split_sizes, **options)

    def reduce_scatter(output: Any, input: Any, **options: Any) -> Any:
        sent.note(input, None, equal=True)
        return scatter(output, input, **options)

    def all_gather(output: Any, input: Any, **options: Any) -> Any:
        sent.note_gathered(input)
        return gather(output, input, **options)

    with (
        mock.patch.object(dist, "all_to_all_single", all_to_all),
        mock.patch.object(dist, "reduce_scatter_tensor", reduce_scatter),
        mock.patch.object(dist, "all_gather_into_tensor", all_gather),
    ):
        yield sent


def replicated_bytes(
    model: torch.nn.Module, policy: Policy, placements: tuple[Placement, ...]
) -> int:
    """Gradients that DDP sums over ranks in a step: of data-parallel tables and all but tables."""
    repeated = [policy.table(p.table) for p in placements if p.kind == "data_parallel"]
    dense = (p for name, p in model.named_parameters() if ".ebc." not in name)
    return sum(p.numel() * p.element_size() for p in dense if p.requires_grad) + sum(
        t.num_rows * t.dim * FLOAT32 for t in repeated
    )
