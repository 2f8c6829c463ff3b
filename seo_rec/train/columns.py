"""Which parts of an earlier backbone's parameters continue in a backbone of other columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from seo_rec.backbones import build_backbone
from seo_rec.settings import ModelSettings

PROJECTION = re.compile(r"(.*projections\.)(\d+)(\..*)")  # a linear map for each feature


@dataclass(frozen=True)
class Columns:
    """What a backbone reads, in order.

    Args:
        numeric: Names of the dense columns.
        features: Names of the features.
        widths: Of each feature's embedding.
    """

    numeric: tuple[str, ...]
    features: tuple[str, ...]
    widths: tuple[int, ...]

    @property
    def places(self) -> list[tuple[str, str, int]]:
        """What each input of ``[dense, x]`` is: the kind, the name, the number within a feature."""
        dense = [("numeric", name, 0) for name in self.numeric]
        parts = zip(self.features, self.widths, strict=True)
        return dense + [("feature", name, i) for name, width in parts for i in range(width)]

    def part(self, kind: str) -> list[tuple[str, str, int]]:
        """The inputs that an axis of this kind runs over."""
        places = self.places
        return {
            "inputs": places,
            "embeddings": places[len(self.numeric) :],
            "dense": places[: len(self.numeric)],
        }[kind]


@dataclass(frozen=True)
class ParameterMove:
    """Where the numbers of a parameter come from.

    Args:
        name: Of the earlier parameter.
        axes: By axis, for every place the place in the earlier parameter, or -1; None for axes
            that are as they were.
    """

    name: str
    axes: tuple[tuple[int, ...] | None, ...]

    def moved(self, old: torch.Tensor, into: torch.Tensor) -> bool:
        """Write into ``into`` what continues; whether the shapes fit each other."""
        if old.dim() == 0 and into.dim() == 0:
            into.copy_(old)
            return True
        if old.dim() != len(self.axes) or into.dim() != len(self.axes):
            return False
        places, sources = [], []
        for axis, (before, after) in enumerate(zip(old.shape, into.shape, strict=True)):
            sources_of = self.axes[axis]
            if sources_of is None:
                if before != after:
                    return False
                sources_of = tuple(range(after))
            kept = [(i, j) for i, j in enumerate(sources_of) if j >= 0]
            places.append(torch.tensor([i for i, _ in kept], dtype=torch.int64))
            sources.append(torch.tensor([j for _, j in kept], dtype=torch.int64))
        into[torch.meshgrid(*places, indexing="ij")] = old[torch.meshgrid(*sources, indexing="ij")]
        return True


def backbone_moves(
    settings: ModelSettings, old: Columns, new: Columns
) -> dict[str, ParameterMove | None]:
    """By name of the new backbone's parameters, where its numbers come from; None starts anew.

    The axes of a parameter that run over inputs are found by building backbones with one more
    dense column and one more feature, without memory. What runs over pairs of features, or over
    anything else that changes with the columns, starts anew where the columns are others.
    """
    shapes = {c: _shapes(settings, c) for c in (old, new)}
    if old == new:
        return {n: ParameterMove(n, (None,) * len(s)) for n, s in shapes[new].items()}
    moves: dict[str, ParameterMove | None] = {}
    kinds = _axis_kinds(settings, old, new, shapes[new])
    for name, shape in shapes[new].items():
        source = _renamed(name, old, new)
        before = shapes[old].get(source or "")
        if source is None or before is None or len(before) != len(shape):
            moves[name] = None
            continue
        axes = [
            _axis(kinds[name][axis], old, new, before[axis], size)
            for axis, size in enumerate(shape)
        ]
        fits = [axis for axis in axes if axis != ()]
        moves[name] = ParameterMove(source, tuple(fits)) if len(fits) == len(axes) else None
    return moves


def _axis(
    kinds: list[str], old: Columns, new: Columns, before: int, size: int
) -> tuple[int, ...] | None:
    """Of every place of an axis the earlier place; None: all are as they were; (): unknown."""
    for kind in kinds:
        if kind == "fixed" and before == size:
            return None
        if kind != "fixed" and (before, size) == (len(old.part(kind)), len(new.part(kind))):
            places = {place: i for i, place in enumerate(old.part(kind))}
            return tuple(places.get(place, -1) for place in new.part(kind))
    return ()


def _axis_kinds(
    settings: ModelSettings, old: Columns, new: Columns, shapes: Mapping[str, Sequence[int]]
) -> dict[str, list[list[str]]]:
    """What each axis of each parameter may run over: inputs, embeddings, dense, or fixed."""
    width, some = max(new.widths), int(bool(new.numeric))
    more = Columns(new.numeric, (*new.features, "one more feature"), (*new.widths, width))
    by_feature = _shapes(settings, more)
    by_dense = dict(shapes)
    if new.numeric:  # from none to one, a backbone may have other parts
        more = Columns((*new.numeric, "one more column"), new.features, new.widths)
        by_dense = {n: tuple(s) for n, s in _shapes(settings, more).items()}
    growths = {"inputs": (width, some), "embeddings": (width, 0), "dense": (0, some)}
    same_features = (old.features, old.widths) == (new.features, new.widths)
    same_numeric = old.numeric == new.numeric
    kinds: dict[str, list[list[str]]] = {}
    for name, shape in shapes.items():
        kinds[name] = []
        for axis, size in enumerate(shape):
            growth = by_feature[name][axis] - size, by_dense[name][axis] - size
            fits = [kind for kind, wanted in growths.items() if wanted == growth]
            fixed = (same_features or not growth[0]) and (same_numeric or not growth[1])
            kinds[name].append(["fixed"] if fixed else fits)
    return kinds


def _renamed(name: str, old: Columns, new: Columns) -> str | None:
    """The earlier name of a parameter: maps of single features are numbered."""
    match = PROJECTION.fullmatch(name)
    if match is None:
        return name
    feature = new.features[int(match[2])]
    if feature not in old.features:
        return None
    return f"{match[1]}{old.features.index(feature)}{match[3]}"


def _shapes(settings: ModelSettings, columns: Columns) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        backbone = build_backbone(
            settings.backbone,
            len(columns.numeric),
            columns.widths,
            settings.hidden,
            settings.dropout,
            settings.interaction,
            settings.multi_task,
        )
    inside = "backbone." if settings.regression else ""  # of what scales its numbers
    return {f"{inside}{name}": tuple(p.shape) for name, p in backbone.named_parameters()}
