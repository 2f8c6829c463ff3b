"""Where the random number generators of a process stand."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from seo_rec.train.ranks import Ranks


def rng_states(ranks: Ranks) -> dict[str, torch.Tensor]:
    """Where this rank's generators stand, that of its GPU included: dropout draws from it."""
    states = {f"rng.{ranks.rank}": torch.get_rng_state()}
    if ranks.device.type == "cuda":
        states[f"rng.cuda.{ranks.rank}"] = torch.cuda.get_rng_state(ranks.device)
    return states


def set_rng_states(states: Mapping[str, torch.Tensor], ranks: Ranks) -> None:
    """Put the generators back to where :func:`rng_states` found them."""
    for name, state in states.items():
        if name.startswith("rng.cuda."):
            torch.cuda.set_rng_state(state, ranks.device)
        else:
            torch.set_rng_state(state)
