"""A training step in stages: a clock, and where its marks sit in a model.

The stages run one after the other in the order of :data:`STAGES`. They make an ordinary
forward and backward pass, with one exception: where TorchRec's sharded collection looks up the
tables of one kind of sharding while it sends the vectors of another, here all are looked up before
any is sent (``input_dist``, ``compute`` and ``output_dist`` of ``ShardedEmbeddingBagCollection``).
Ranks that are early wait for the others in the next stage that talks to them.

    hash            Remap: ids to row numbers
    input dist      row numbers to the ranks that hold the rows
    lookup          rows read and pooled
    output dist     pooled vectors to the ranks of their examples
    regroup         vectors in the policy's order; gate and Combine
    dense forward   backbone and loss
    dense backward  down to the embedding's output
    regroup backward
    gradient dist   gradients of the vectors to the ranks of their rows
    table backward  gradients of the tables; with a fused optimizer their update, too
    all-reduce      the rest of the mean over ranks of the replicated gradients
    table update    the optimizer of the tables, if it is not fused
    dense update    all other optimizers, and gradients reset
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection

from seo_rec.train.optimizers import inner_model

STAGES = (
    "hash",
    "input dist",
    "lookup",
    "output dist",
    "regroup",
    "dense forward",
    "dense backward",
    "regroup backward",
    "gradient dist",
    "table backward",
    "all-reduce",
    "table update",
    "dense update",
)
# The phases of a plan's estimate, and the stages that are theirs.
PHASES = {
    "input_dist": ("input dist",),
    "lookup": ("lookup",),
    "output_dist": ("output dist",),
    "gradient_dist": ("gradient dist",),
    "update": ("table backward", "table update"),
}


class Clock:
    """Names the stretches of time between marks; on CUDA by events in the current stream."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []

    def start(self) -> None:
        self._marks = [("", self._now())]

    def mark(self, stage: str) -> None:
        """All since the last mark was ``stage``."""
        self._marks.append((stage, self._now()))

    def passed(self, stage: str) -> bool:
        """Whether ``stage`` has a mark."""
        return any(name == stage for name, _ in self._marks)

    def read(self) -> dict[str, float]:
        """Seconds of every stage since the start."""
        if self.cuda:
            torch.cuda.synchronize()
        seconds: dict[str, float] = {}
        for (_, before), (stage, after) in zip(self._marks, self._marks[1:], strict=False):
            passed = before.elapsed_time(after) / 1e3 if self.cuda else after - before
            seconds[stage] = seconds.get(stage, 0.0) + passed
        return seconds

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


@contextmanager
def staged(model: nn.Module, clock: Clock) -> Iterator[None]:
    """Within the block every forward and backward pass of ``model`` sets the clock's marks.

    Args:
        model: a RecModel, or what ``seo_rec.train.distribute`` made of one. The caller marks
            ``dense forward`` after the forward pass and what follows the backward pass.
        clock: started by the caller before the forward pass.
    """
    whole = inner_model(model)
    embedding: Any = whole.embedding
    looked_up: list[torch.Tensor] = []
    handles: list[Any] = []

    def after(module: nn.Module, act: Callable[[Any], None]) -> None:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            act(output)  # a hook that returns something would replace the output

        handles.append(module.register_forward_hook(hook))

    def found(values: torch.Tensor, *before: torch.Tensor) -> None:
        looked_up[:] = [values, *before]

    def regrouped(_module: nn.Module, inputs: Any) -> None:
        clock.mark("regroup")
        stages = ("dense backward", "regroup backward", *["gradient dist"] * len(looked_up))
        seen: set[int] = set()
        for tensor, stage in zip((inputs[1], *looked_up), stages, strict=False):
            if tensor.requires_grad and id(tensor) not in seen:  # else there is nothing between
                tensor.register_hook(functools.partial(passed, stage))
            seen.add(id(tensor))

    def passed(stage: str, _gradient: torch.Tensor) -> None:
        clock.mark(stage)

    if hasattr(embedding, "remap"):
        after(embedding.remap, lambda _lookups: clock.mark("hash"))
    handles.append(whole.backbone.register_forward_pre_hook(regrouped))
    collection = embedding.ebc
    sharded = isinstance(collection, ShardedEmbeddingBagCollection)
    if sharded:
        collection.forward = _in_stages(collection, clock, found)
        for parameter in _dense_tables(collection):
            handles.append(
                parameter.register_post_accumulate_grad_hook(
                    lambda _parameter: clock.mark("table backward")
                )
            )
    else:
        # in one pass one call hashes, looks up and scales: all of that counts as the lookup
        for lookup in filter(None, (embedding.batched, embedding.chunks)):
            after(lookup, lambda _values: clock.mark("lookup"))
            after(lookup, found)
    try:
        yield
    finally:
        if sharded:
            del collection.forward
        for handle in handles:
            handle.remove()


def _in_stages(collection: Any, clock: Clock, found: Callable[..., None]) -> Callable[[Any], Any]:
    def forward(features: Any) -> Any:
        context = collection.create_context()
        inputs = collection.input_dist(context, features).wait().wait()
        clock.mark("input dist")
        outputs = collection.compute(context, inputs)
        clock.mark("lookup")
        pooled = collection.output_dist(context, outputs).wait()
        clock.mark("output dist")
        found(pooled.values(), *outputs)
        return pooled

    return forward


def _dense_tables(collection: Any) -> list[nn.Parameter]:
    """Parameters that get the gradients of tables which no fused optimizer updates."""
    found = []
    for lookup in collection._lookups:
        for module in lookup.modules():
            weights = getattr(module, "weights", None)
            if isinstance(weights, nn.Parameter) and weights.requires_grad:
                found.append(weights)
    return found
