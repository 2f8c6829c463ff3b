"""The parts of a training that its steps change, as the tensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from seo_rec.data.stream import Stream
from seo_rec.train.after_step import AfterStep
from seo_rec.train.average import WeightAverage
from seo_rec.train.checkpoint import load_tensors, rng_states, set_rng_states
from seo_rec.train.ranks import Ranks
from seo_rec.train.run_state import Progress, named, named_in
from seo_rec.train.saved import Saved
from seo_rec.train.sparse_rows import sparse_rows
from seo_rec.train.state import State, drop_caches, make_room, optimizer_state, weights_of


@dataclass(frozen=True)
class Parts:
    """What a step changes: a training goes on to the bit from these and from where it stood.

    Args:
        model: That is trained.
        optimizers: By the names that a checkpoint has for them.
        mean: The running mean of the weights.
        after_step: What a search adds.
        train: Over the training rows.
        ranks: The processes that train.
    """

    model: nn.Module
    optimizers: Mapping[str, torch.optim.Optimizer]
    mean: WeightAverage
    after_step: AfterStep
    train: Stream
    ranks: Ranks

    def tensors(self) -> State:
        """The tensors, by the names that a checkpoint has for them."""
        return {
            **named("model", weights_of(self.model)),
            **named("optimizer", optimizer_state(self.model, self.optimizers)),
            **named("average", self.mean.state),
            **named("after_step", self.after_step.tensors()),
            **rng_states(self.ranks),
        }

    def load(self, saved: Saved) -> None:
        """Go on from a checkpoint, also from one that another number of ranks has written.

        Raises:
            CheckpointError: The checkpoint is damaged, or of another training.
        """
        self.after_step.before_load(saved.values["after_step"])
        state_sizes = named_in(saved, "optimizer")
        after = {
            name: torch.zeros(size, dtype=dtype)
            for name, (size, dtype) in saved.sizes.items()
            if name.startswith("after_step.")
        }
        # fewer ranks may have written it, or ranks without a GPU
        rng = {n: state for n, state in rng_states(self.ranks).items() if n in saved.sizes}
        into = {
            **named("model", weights_of(self.model)),
            **named("optimizer", make_room(self.model, self.optimizers, state_sizes)),
            **(means := named("average", self.mean.room(named_in(saved, "average")))),
            **after,
            **rng,
        }
        load_tensors(saved, into, self.ranks)
        drop_caches(self.model)
        set_rng_states(rng, self.ranks)
        self.train.load_state_dict(saved.values["stream"])
        tensors = {n.removeprefix("after_step."): t for n, t in after.items()}
        self.after_step.load(tensors, saved.values["after_step"])
        steps = earlier_steps_of(saved) + saved.record(Progress, "progress").step
        for optimizer in sparse_rows(self.optimizers):
            optimizer.steps = steps
        read = {n.removeprefix("average."): t for n, t in means.items()}
        self.mean.loaded(read, steps)


def earlier_steps_of(saved: Saved) -> int:
    """The steps of the run that the saved training goes on from; 0 if it goes on from none."""
    return int(saved.values.get("earlier_steps", 0))
