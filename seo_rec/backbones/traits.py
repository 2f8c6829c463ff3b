"""What searches of widths may assume about a backbone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Traits:
    """How a backbone reads the embeddings; the class attribute ``traits`` of every backbone.

    Args:
        readers: The layers that read the embeddings, by their names in the module, where all of
            them are linear; empty where the embeddings are also multiplied with each other. A
            linear map in front of the backbone can then be folded into these layers.
        pairs_features: Whether the backbone reads every feature's vector on its own, so that it
            cannot be given one vector of all features.
        columns_removable: Whether columns of zeros can be cut out of a trained model: ``exactly``
            (the logits stay what they are), ``initially`` (the logits of the initial weights stay
            what they are; a cross layer adds its bias to columns of zeros too) or ``no``.
        widens_numeric: Whether dense columns get vectors as wide as the widest feature.
    """

    readers: tuple[str, ...] = ()
    pairs_features: bool = False
    columns_removable: str = "no"
    widens_numeric: bool = False
