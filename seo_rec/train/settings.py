"""How a model is trained: its optimizers, how long, and what is kept."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from seo_rec.model import ModelSettings
from seo_rec.train.optimizers import ROW_OPTIMIZERS


@dataclass(frozen=True)
class FitSettings:
    """How a model is trained.

    ``epochs``: at most this many; ``patience``: stop after so many epochs without a better
    validation AUC; ``batch_size``: rows; ``row_lr``/``dense_lr``: learning rates;
    ``row_l2``: weight of ``|T|^2 / 2`` of the tables in the loss;
    ``warmup_steps``: the learning rates rise linearly over so many steps;
    ``checkpoint_every``: steps between checkpoints (0: at epoch ends only); ``keep``: checkpoints
    kept; ``log_every``: steps between lines of ``metrics.jsonl``; ``max_steps``: end after so many
    steps, whatever the epoch (0: no limit); ``average``: decay of the running mean of the weights
    that is evaluated and kept, ``a_t = min(average, (1 + t) / (10 + t))`` at step t (0: the weights
    themselves, and no second copy of them in memory).
    """

    epochs: int = 20
    patience: int = 2
    batch_size: int = 2048
    row_optimizer: str = "adam"
    row_lr: float = 2e-3
    dense_lr: float = 2e-3
    row_l2: float = 0.0
    warmup_steps: int = 0
    checkpoint_every: int = 0
    keep: int = 2
    log_every: int = 100
    max_steps: int = 0
    average: float = 0.998
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch_size", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 1 or more")
        for name in ("row_lr", "dense_lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: above 0")
        if not 0 <= self.average < 1:
            raise ValueError(f"average is {self.average}; allowed: 0 <= average < 1")
        if self.row_optimizer not in ROW_OPTIMIZERS:
            raise ValueError(
                f"row_optimizer is {self.row_optimizer!r}; allowed: {', '.join(ROW_OPTIMIZERS)}"
            )
        if self.row_l2 < 0:
            raise ValueError(f"row_l2 is {self.row_l2}; allowed: 0 or more")
        for name in ("warmup_steps", "checkpoint_every", "max_steps", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 or more")


@dataclass(frozen=True)
class Training:
    """Which model is trained and how; the two always travel together.

    Args:
        model: The backbone and how the tables start.
        fit: Optimizers, batches and length.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    fit: FitSettings = field(default_factory=FitSettings)

    def with_seed(self, seed: int) -> Training:
        """The same training with another seed of weights, order and hash functions."""
        return replace(self, fit=replace(self.fit, seed=seed))
