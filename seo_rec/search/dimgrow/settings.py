"""The settings of DimGrow, and the checks of what cannot go with them."""

from __future__ import annotations

from dataclasses import dataclass

from seo_rec.backbones import having, traits_of
from seo_rec.search.held_out import SPLITS
from seo_rec.search.space import SpaceSettings, require
from seo_rec.settings import settled
from seo_rec.train import FitSettings

ADAPTS = ("joint", "per-feature")
GATES_OF = ("last", "best")


@dataclass(frozen=True)
class DimGrowSettings(SpaceSettings):
    """Settings of DimGrow: features start at one column and grow while their gates stay open.

    Args:
        alpha: Weight of the penalty on the gates; a larger weight keeps fewer columns.
        tau: Steepness of the gates.
        t_up: A feature gets a column more when all its gates are above this number.
        t_down: A feature loses a column when one of its gates falls below this number.
        total_dims: The largest number of columns over all features; 0 sets no limit.
        adapt_dim: Width of the adaptation layer.
        adapt: One vector for all features (joint, as in the paper) or one for each (per-feature).
        gate_lr: Learning rate of the gates.
        gate_split: Rows that train the gates: held-out (validation rows) or train.
        gates_of: The epoch whose gates are the answer: the last, or the best by validation AUC.
        fill: Whether the widths found are widened in proportion until the budget is used up.
    """

    alpha: float = 1e-4
    tau: float = 5.0
    t_up: float = 0.6
    t_down: float = 0.01
    total_dims: int = 0
    adapt_dim: int = 64
    adapt: str = "joint"
    gate_lr: float = 5e-3
    gate_split: str = "held-out"
    gates_of: str = "last"
    fill: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.alpha >= 0, "alpha", self.alpha, "0 or more")
        require(self.tau > 0, "tau", self.tau, "above 0")
        require(0 < self.t_up < 1, "t_up", self.t_up, "between 0 and 1")
        require(0 <= self.t_down < 0.5, "t_down", self.t_down, "0 to below 0.5, where gates start")
        require(self.total_dims >= 0, "total_dims", self.total_dims, "0 (no limit) or more")
        require(self.adapt_dim >= 1, "adapt_dim", self.adapt_dim, "1 or more")
        require(self.adapt in ADAPTS, "adapt", self.adapt, ", ".join(ADAPTS))
        require(self.gate_lr > 0, "gate_lr", self.gate_lr, "above 0")
        require(self.gate_split in SPLITS, "gate_split", self.gate_split, ", ".join(SPLITS))
        require(self.gates_of in GATES_OF, "gates_of", self.gates_of, ", ".join(GATES_OF))


def adapt_of(backbone: str) -> str:
    """The ``adapt`` that goes with a backbone, by its name."""
    return "per-feature" if traits_of(backbone).pairs_features else "joint"


def check_fit(fit: FitSettings) -> None:
    """ValueError for what new parameters cannot join: rates by step, state made in advance."""
    for name in ("row_optimizer", "dense_optimizer"):
        value = getattr(settled(fit, 0), name)
        require(value in ("adam", "sgd"), name, value, "adam, sgd with dimgrow")
    require(fit.warmup_steps == 0, "warmup_steps", fit.warmup_steps, "0 with dimgrow")
    require(fit.schedule == "constant", "schedule", fit.schedule, "constant with dimgrow")


def check_adapt(adapt: str, backbone: str) -> None:
    """ValueError for ``joint`` with a backbone that would see one vector in place of several."""
    if adapt == "joint" and adapt_of(backbone) != "joint":
        side_by_side = having(lambda traits: not traits.pairs_features)
        raise ValueError(
            f"adapt 'joint' with backbone {backbone!r}, which pairs the vectors of features and "
            "would see one; allowed: adapt 'per-feature' (--set adapt=per-feature), or a backbone "
            f"that reads vectors side by side: {', '.join(side_by_side)}"
        )
