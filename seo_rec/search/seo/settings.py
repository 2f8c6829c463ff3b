"""What SEO searches and how; see :mod:`seo_rec.search.seo` for the readings of the paper."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from seo_rec.policy import Allowance
from seo_rec.policy.allowance import allowance_from, without_unset
from seo_rec.policy.entries import FULL_BITS
from seo_rec.search.run_off import RunOff

APPLY = ("none", "exact", "round-robin", "divide")
# the precision that a run-off decides, and the type of most of its candidates
AUTO, MOSTLY = "auto", "int8"


@dataclass(frozen=True)
class SeoSettings:
    """The search space of SEO and how it is searched; :mod:`seo_rec.search.seo` has the choices.

    Args:
        budget_rows: Rows of the budget: it is budget_rows x dim parameters.
        dim: Width of the embedding of one feature, in floats.
        chunk_dim: Width of a chunk, in floats.
        search_dim: Width of the table that is searched, in floats.
        total_chunks: Chunks that are chosen over all features; none takes F x dim / chunk_dim.
        min_chunks: Chunks that every feature keeps; 0 allows that a feature loses all.
        use_down_projection: Whether the pool of chunks is projected to total_chunks vectors.
        adjust_hash_buckets: Whether the search model has the size of the budget instead of more.
        chunk_hashing: A hash function for each chunk (independent) or one for all chunks (shared).
        temperature: Temperature of the softmax of the attention at the start.
        temperature_end: Temperature at the end, reached geometrically; none keeps it constant.
        attention_scale: Whether attentions have a mean of one (mean-one) or a sum of one (paper).
        search_split: Rows that train the attention: train, or held-out for validation rows.
        warmup_epochs: Epochs before the steps on held-out rows begin.
        logit_lr: Learning rate of the logits of the attention.
        num_bytes: Budget in bytes to serve; budget_rows then sizes the search alone. 0: no bytes.
        precision: The type of stored rows; auto, with num_bytes and run_off.cost: int8 and others.
        id_bits: Bits of an id in a vocabulary: 64, or 32 for its digest.
    """

    budget_rows: int = 6000
    dim: int = 16
    chunk_dim: int = 8
    search_dim: int = 32
    total_chunks: int | None = None
    min_chunks: int = 1
    use_down_projection: bool = False
    adjust_hash_buckets: bool = False
    chunk_hashing: str = "independent"
    temperature: float = 1.0
    temperature_end: float | None = None
    attention_scale: str = "mean-one"
    search_split: str = "train"
    warmup_epochs: int = 1
    logit_lr: float = 5e-3
    num_bytes: int = field(default=0, kw_only=True)
    precision: str = field(default="float32", kw_only=True)
    id_bits: int = field(default=FULL_BITS, kw_only=True)

    @property
    def search_bytes(self) -> int:
        """The search table's parameters, their gradients and Adam's two moments."""
        return 4 * 4 * self.budget_rows * self.search_dim

    def __post_init__(self) -> None:
        for name in ("budget_rows", "dim", "chunk_dim", "search_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 1 or more")
        if self.dim % self.chunk_dim or self.search_dim % self.chunk_dim:
            raise ValueError(
                f"dim {self.dim} and search_dim {self.search_dim} must be multiples of "
                f"chunk_dim {self.chunk_dim}"
            )
        for name, allowed in (
            ("chunk_hashing", ("shared", "independent")),
            ("attention_scale", ("mean-one", "paper")),
            ("search_split", ("train", "held-out")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {allowed}")
        if not 0 <= self.min_chunks <= self.num_chunks:
            raise ValueError(
                f"min_chunks is {self.min_chunks}; allowed: 0 to {self.num_chunks}, the chunks of "
                "the search table"
            )
        end = 1.0 if self.temperature_end is None else self.temperature_end
        if not (0 < self.temperature < math.inf and 0 < end < math.inf):
            raise ValueError(
                f"temperature {self.temperature} and temperature_end {end}; allowed: above 0"
            )
        if self.total_chunks is not None and self.total_chunks < 1:
            raise ValueError(f"total_chunks is {self.total_chunks}; allowed: 1 or more, or None")
        if self.warmup_epochs < 0:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}; allowed: 0 or more")
        if self.search_split == "train" and self.warmup_epochs != SeoSettings.warmup_epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} with search_split 'train' would be ignored; "
                "allowed with search_split 'held-out'"
            )
        allowance_from(0, self.num_bytes, self.stored, self.id_bits)
        if not self.logit_lr > 0:
            raise ValueError(f"logit_lr is {self.logit_lr}; allowed: above 0")

    @property
    def num_chunks(self) -> int:
        """C = search_dim / chunk_dim."""
        return self.search_dim // self.chunk_dim

    @property
    def params(self) -> int:
        """P = B_base * D, the floats of the final model's tables."""
        return self.budget_rows * self.dim

    @property
    def decides_precision(self) -> bool:
        """Whether the search decides in which type rows are stored."""
        return self.precision == AUTO

    @property
    def stored(self) -> str:
        """The type in which rows are stored, of most candidates where the search decides it."""
        return MOSTLY if self.decides_precision else self.precision

    @property
    def allowance(self) -> Allowance:
        """The budget of the final model, in floats or in bytes, and the precision."""
        params = 0 if self.num_bytes else self.params
        return allowance_from(params, self.num_bytes, self.stored, self.id_bits)

    def chosen(self, num_features: int) -> int:
        """M: chunks that ``select`` takes in all."""
        return self.total_chunks or num_features * self.dim // self.chunk_dim


@dataclass(frozen=True)
class SeoSearch(SeoSettings):
    """All settings of the search ``seo``: its attention, and how its policy is chosen.

    Args:
        run_off: The run-off between candidates; none takes the chunks of highest attention.
        apply: Without a run-off the strategy for the budget: exact, round-robin, divide or none.
    """

    run_off: RunOff | None = field(default_factory=RunOff)
    apply: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decides_precision and not (self.num_bytes and self.limited):
            raise ValueError(
                f"precision {AUTO!r} with num_bytes {self.num_bytes} and run_off "
                f"{'none' if self.run_off is None else f'of cost {self.run_off.cost:g}'}; allowed: "
                "a budget in bytes, and a run-off with a limit, run_off.cost 1 or more"
            )
        if self.apply not in APPLY:
            raise ValueError(f"apply is {self.apply!r}; allowed: {', '.join(APPLY)}")
        if self.run_off is not None and self.apply != "none":
            raise ValueError(
                f"apply {self.apply!r} with a run-off, whose candidates are applied already; "
                "allowed: run_off=none"
            )
        if self.run_off is not None and self.total_chunks is not None:
            raise ValueError(
                f"total_chunks {self.total_chunks} with a run-off, which has its own; allowed: "
                "run_off=none"
            )

        if self.apply == "divide":
            for name in ("total_chunks", "min_chunks"):
                if getattr(self, name) != getattr(SeoSettings, name):
                    raise ValueError(
                        f"{name} {getattr(self, name)} with apply 'divide', which chooses no "
                        f"chunks; allowed: {getattr(SeoSettings, name)}"
                    )

    @property
    def limited(self) -> bool:
        """Whether a run-off with a limit decides, in which crosses of columns may take part."""
        return self.run_off is not None and self.run_off.cost > 0

    @property
    def attention(self) -> SeoSettings:
        """The settings of the attention alone."""
        return SeoSettings(**{f.name: getattr(self, f.name) for f in fields(SeoSettings)})

    def to_json(self) -> dict[str, Any]:
        """JSON values, the rule of the run-off included: a change of it is another search."""
        values = without_unset(asdict(self))
        if self.run_off is not None:
            values["run_off"] = self.run_off.to_json()
        return values
