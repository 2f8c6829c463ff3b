"""The tensors of an earlier checkpoint, read as they are needed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from seo_rec.train.checkpoint import load_tensors
from seo_rec.train.saved import Saved

KINDS = ("model.", "optimizer.", "average.")
SMALL = 2**20  # numbers of a tensor that is read together with others


class Tensors:
    """The tensors of a checkpoint: small ones are read at once, each large one when it is asked."""

    def __init__(self, saved: Saved) -> None:
        self.saved = saved
        self.small = {
            name: torch.zeros(size, dtype=dtype)
            for name, (size, dtype) in saved.sizes.items()
            if size.numel() <= SMALL and name.startswith(KINDS)
        }
        load_tensors(saved, dict(self.small))

    def read(self, name: str) -> torch.Tensor | None:
        """The tensor, or None if there is none."""
        if name not in self.saved.sizes:
            return None
        if name in self.small:
            return self.small[name]
        size, dtype = self.saved.sizes[name]
        tensor = torch.zeros(size, dtype=dtype)
        load_tensors(self.saved, {name: tensor})
        return tensor


@dataclass(frozen=True)
class Source:
    """Tensors of one kind in an earlier checkpoint: ``<prefix><parameter><suffix>``."""

    tensors: Tensors
    prefix: str
    suffix: str

    def has(self, parameter: str) -> bool:
        return f"{self.prefix}{parameter}{self.suffix}" in self.tensors.saved.sizes

    def read(self, parameter: str) -> torch.Tensor | None:
        """The tensor, or None if there is none."""
        return self.tensors.read(f"{self.prefix}{parameter}{self.suffix}")
