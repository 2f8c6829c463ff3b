"""A model of several labels, as a person states it; needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

SHARINGS = ("bottom", "mmoe")
EXPERT = (256,)  # widths of an expert, unless others are given


@dataclass(frozen=True)
class MultiTask:
    """What the labels of a model share above the embeddings, and what each of them counts.

    ``bottom`` gives every label a tower. The towers read the embeddings, or the layers ``shared``
    above them, if there are any (Caruana, Multitask Learning, 1997). ``mmoe`` is the multi-gate
    mixture of experts (Ma et al., Modeling Task Relationships in Multi-task Learning, 2018).

    Args:
        labels: Their names, in the order of the data; empty until these are known.
        weights: Factors of the losses of labels, as click=1,buy=5; 1 where none is named.
        sharing: What labels share: bottom, or mmoe.
        shared: Widths of the shared layers, or of each expert of mmoe.
        experts: Number of experts of mmoe.
        kept: The label whose quality says which epoch is best; empty for the first.
    """

    labels: tuple[str, ...] = ()
    weights: tuple[tuple[str, float], ...] = ()
    sharing: str = "bottom"
    shared: tuple[int, ...] = ()
    experts: int = 4
    kept: str = ""

    def __post_init__(self) -> None:
        if self.sharing not in SHARINGS:
            raise ValueError(f"sharing {self.sharing!r}; allowed: {', '.join(SHARINGS)}")
        if any(units < 1 for units in self.shared):
            raise ValueError(f"shared {self.shared}; allowed: widths of 1 or more")
        if self.experts < 1:
            raise ValueError(f"experts {self.experts}; allowed: 1 or more")
        if self.experts != MultiTask.experts and self.sharing != "mmoe":
            raise ValueError(
                f"experts {self.experts} with sharing {self.sharing} would be ignored; allowed "
                "with sharing mmoe (--sharing mmoe)"
            )
        names = [name for name, _ in self.weights]
        if len(set(names)) < len(names):
            raise ValueError(f"label weights name {names}; allowed: each label once")
        for name, weight in self.weights:
            if not 0 <= weight < math.inf:
                raise ValueError(f"the weight of label {name!r} is {weight}; allowed: 0 or more")
        if self.labels:
            self._check_names()

    def _check_names(self) -> None:
        for name in (*(n for n, _ in self.weights), self.kept):
            if name not in self.labels:
                raise ValueError(f"label {name!r}; allowed: {', '.join(self.labels)}")
        if not any(self.factors):
            raise ValueError("all labels have the weight 0; allowed: one above 0 at least")

    @property
    def factors(self) -> tuple[float, ...]:
        """The factor of the loss of each label, in their order."""
        given = dict(self.weights)
        return tuple(given.get(name, 1.0) for name in self.labels)

    @property
    def number_kept(self) -> int:
        """The place among the labels of the one that decides."""
        return self.labels.index(self.kept)

    def of(self, labels: Sequence[str]) -> MultiTask:
        """The settings for data with these labels.

        Raises:
            ValueError: A label is named that the data lack, or all weights are 0.
        """
        shared = self.shared or (EXPERT if self.sharing == "mmoe" else ())
        return replace(self, labels=tuple(labels), shared=shared, kept=self.kept or labels[0])

    def as_json(self) -> dict[str, Any]:
        """JSON values; :meth:`from_json` reads them."""
        return {**asdict(self), "weights": dict(self.weights)}

    @classmethod
    def from_json(cls, read: Mapping[str, Any]) -> MultiTask:
        """The settings that :meth:`as_json` gave; ValueError if they are none."""
        weights, kinds = read["weights"], {"labels": str, "shared": int}
        for name, kind in kinds.items():
            value = read[name]
            if not isinstance(value, list | tuple) or {type(x) for x in value} - {kind}:
                what = "names" if kind is str else "whole numbers"
                raise ValueError(f"{name} of several labels are {value!r:.60}; allowed: {what}")
        if type(weights) is not dict or {type(w) for w in weights.values()} - {int, float}:
            raise ValueError(f"weights of labels are {weights!r:.60}; allowed: numbers by label")
        lists = {name: tuple(read[name]) for name in kinds}
        weights = tuple((name, float(w)) for name, w in weights.items())
        return cls(**{**read, **lists, "weights": weights})
