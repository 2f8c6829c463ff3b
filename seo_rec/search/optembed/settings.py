"""The settings of OptEmbed."""

from __future__ import annotations

from dataclasses import dataclass

from seo_rec.search.space import SpaceSettings, require

VARIANTS = ("full", "rows", "dims")
PRUNED = ("zero", "shared")
WEIGHTS = ("none", "initial", "trained")


@dataclass(frozen=True)
class OptEmbedSettings(SpaceSettings):
    """Settings of OptEmbed: prune rows by thresholds, then choose widths by evolution.

    With ``trained`` weights the policy's model computes what the masked supernet does. With
    ``fill`` and variant ``dims``, hashed tables also take the rows that are left over, unless
    ``weights`` are asked for; rows that were pruned do not come back.

    Args:
        variant: Whether rows and widths are searched (full), only rows (rows) or widths (dims).
        alpha: Weight of sum_f exp(-t_f) over the thresholds t_f; a larger weight prunes more rows.
        threshold_lr: Learning rate (SGD) of the thresholds.
        pruned: What a pruned id reads while searching: zero, or the shared row of unknown ids.
        generations: Generations of the evolution of widths.
        mutations: Mutants in each generation.
        crossovers: Crossovers in each generation.
        mutation_rate: Probability that a mutant changes the width of a feature.
        parents: The best candidates, of which the next generation is made.
        sparsity: Instead of a budget, the share of the floats at max_dim to save; 0 saves none.
        fill: Whether the widths found are widened in proportion until the budget is used up.
        weights: Weights that training may start from: none, the supernet's initial or trained ones.
    """

    address: str = "id"
    variant: str = "full"
    alpha: float = 2e-3
    threshold_lr: float = 0.1
    pruned: str = "zero"
    generations: int = 30
    mutations: int = 10
    crossovers: int = 10
    mutation_rate: float = 0.1
    parents: int = 15
    sparsity: float = 0.0
    fill: bool = True
    weights: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.variant in VARIANTS, "variant", self.variant, ", ".join(VARIANTS))
        require(self.alpha >= 0, "alpha", self.alpha, "0 or more")
        require(self.threshold_lr > 0, "threshold_lr", self.threshold_lr, "above 0")
        require(self.pruned in PRUNED, "pruned", self.pruned, ", ".join(PRUNED))
        for name in ("generations", "parents"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("mutations", "crossovers"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        if not self.mutations + self.crossovers:
            raise ValueError("mutations 0 and crossovers 0; allowed: one of them above 0")
        rate = self.mutation_rate
        require(0 < rate <= 1, "mutation_rate", rate, "above 0, to 1")
        require(0 <= self.sparsity < 1, "sparsity", self.sparsity, "0 (no target) to below 1")
        if self.sparsity and self.amount:
            budget = "num_bytes" if self.num_bytes else "params"
            raise ValueError(
                f"sparsity {self.sparsity} with {budget} {self.amount}; allowed: one of the two"
            )
        require(self.weights in WEIGHTS, "weights", self.weights, ", ".join(WEIGHTS))
        for name in _UNUSED.get(self.variant, ()):
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} with variant {self.variant!r}, which does not "
                    f"read it; allowed: the default, or variant 'full'"
                )

    @property
    def prunes(self) -> bool:
        return self.variant != "dims"

    @property
    def zeros(self) -> bool:
        """Whether row 0 of every table is one of zeros."""
        return self.prunes and self.pruned == "zero"

    @property
    def narrows(self) -> bool:
        return self.variant != "rows"


_UNUSED = {
    "rows": ("generations", "mutations", "crossovers", "mutation_rate", "parents", "fill"),
    "dims": ("alpha", "threshold_lr", "pruned"),
}
